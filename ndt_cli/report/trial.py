"""What of a trial is drawn: its bins without padding, its time axis, and which neurons."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import DataError

# Trials longer than this are drawn in seconds.
_SECONDS_FROM_MS = 3000.0


def choose_neurons(data: SpikeData, inferred_BTN: FloatArray, trial: int, n: int = 4) -> list[int]:
    """Return neurons worth showing: modulated in this trial, from quiet ones to busy ones.

    Modulation is the standard deviation over the trial's bins of the true rate, or of the
    inferred rate where no true one is known, over the square root of its mean: how far the
    rate moves against the Poisson noise of its counts. Of the better half, ranked by mean
    rate, ``n`` evenly spaced ones are taken, both ends included.

    Parameters
    ----------
    data : SpikeData
        Trials.
    inferred_BTN : (trials, bins, neurons) float array
        Inferred rates.
    trial : int
        Position of the trial.
    n : int
        Neurons to return, fewer where the better half has fewer.

    Returns
    -------
    list of int
        Neurons by their place in the file, from the lowest to the highest mean rate.
    """
    n_bins = trial_bins(data, trial)
    source_BTN = inferred_BTN if data.rates_BTN is None else data.rates_BTN
    return modulated_neurons(data, np.asarray(source_BTN[trial, :n_bins], dtype=np.float64), n)


def modulated_neurons(data: SpikeData, rates_TN: NDArray[np.float64], n: int) -> list[int]:
    """Return modulated neurons of any rates, in spikes per bin; see `choose_neurons`."""
    n_neurons = rates_TN.shape[1]
    mean_N = rates_TN.mean(axis=0)
    modulation_N = rates_TN.std(axis=0) / np.sqrt(np.maximum(mean_N, 1e-9))
    n_better = max(n, (n_neurons + 1) // 2)
    better = np.argsort(-modulation_N, kind="stable")[:n_better]
    ranked = better[np.argsort(mean_N[better], kind="stable")]
    spaced = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    columns = ranked[spaced]
    return [int(n) for n in (columns if data.neuron_ids_N is None else data.neuron_ids_N[columns])]


def trial_bins(data: SpikeData, trial: int) -> int:
    """Return how many bins the trial has, padding left out.

    Raises
    ------
    DataError
        A trial that does not exist, or has no bins.
    """
    if not 0 <= trial < data.n_trials:
        raise DataError(
            f"trial {trial} does not exist: the set has {data.n_trials}",
            f"trials are counted from 0 to {data.n_trials - 1}",
        )
    n_bins = int(data.lengths_B[trial])
    if n_bins == 0:
        raise DataError(f"trial {trial} has no bins", "choose another trial")
    return n_bins


def neuron_columns(data: SpikeData, neurons: Sequence[int]) -> list[int]:
    """Return the columns of neurons, which are given by their places in the file.

    Raises
    ------
    DataError
        When one does not.
    """
    for neuron in neurons:
        if not 0 <= neuron < data.n_neurons:
            raise DataError(
                f"neuron {neuron} does not exist: the set has {data.n_neurons}",
                f"neurons are counted from 0 to {data.n_neurons - 1}",
            )
    return [int(column) for column in data.file_order_N[list(neurons)]]


def time_axis(data: SpikeData, n_bins: int) -> tuple[float, str]:
    """Return the bin width in the unit that the time axis has, and that unit."""
    return time_step(data.bin_ms, n_bins)


def time_step(bin_ms: float, n_bins: int) -> tuple[float, str]:
    """Return the bin width in the unit that an axis over so many bins has, and that unit."""
    if n_bins * bin_ms > _SECONDS_FROM_MS:
        return bin_ms / 1000.0, "s"
    return bin_ms, "ms"
