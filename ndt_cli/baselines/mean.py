"""Each neuron's mean rate."""

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError

Float64Array = NDArray[np.float64]


def mean_rate(train: SpikeData) -> Float64Array:
    """Return each neuron's mean rate in spikes per bin, (neurons,), without padding.

    Raises
    ------
    DataError
        If there are no trials, or the counts of held-out neurons are not known.

    Examples
    --------
    >>> counts_BTN = np.array([[[0, 2], [1, 2]]], np.uint8)
    >>> mean_rate(SpikeData(counts_BTN, bin_ms=20.0, lengths_B=np.array([2])))
    array([0.5, 2. ])
    """
    if not train.hidden_counts_known:
        raise DataError(
            "A mean rate needs the counts of every neuron, but those of held-out neurons or "
            "forward bins are not known.",
            hint="Use the mean rate of the training trials.",
        )
    n_bins = int(np.sum(train.lengths_B))
    if n_bins == 0:
        raise DataError(
            f"A mean rate needs at least one bin; found {train.n_trials} trials without bins.",
            hint="Check the file: `describe_file(FILE)`",
        )
    totals_N = np.sum(train.spikes_BTN, axis=(0, 1), where=train.inside_BT[:, :, None], dtype=float)
    return np.asarray(totals_N / n_bins)


def starting_rates(train: SpikeData) -> Float64Array:
    """Return each neuron's mean rate, all above 0: a silent neuron counts as half a spike.

    Examples
    --------
    >>> counts_BTN = np.array([[[0, 2], [0, 2]]], np.uint8)
    >>> starting_rates(SpikeData(counts_BTN, bin_ms=20.0, lengths_B=np.array([2])))
    array([0.25, 2.  ])
    """
    n_bins = float(np.sum(train.lengths_B))
    return np.maximum(mean_rate(train), 0.5 / n_bins)


def constant_rates(rates_N: Float64Array, data: SpikeData) -> Float64Array:
    """Return one rate per neuron as a read-only (trials, bins, neurons) array.

    Examples
    --------
    >>> data = SpikeData(np.zeros((1, 3, 2), np.uint8), bin_ms=20.0, lengths_B=np.array([3]))
    >>> constant_rates(np.array([0.5, 2.0]), data)[0, 0]
    array([0.5, 2. ])
    """
    return np.broadcast_to(rates_N, data.spikes_BTN.shape)
