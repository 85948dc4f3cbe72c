"""Each neuron's mean rate."""

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError

Float64Array = NDArray[np.float64]


def mean_rate(train: SpikeData) -> Float64Array:
    """Return each neuron's mean rate in spikes per bin, (neurons,), padding left out.

    Raises
    ------
    DataError
        A set without trials, or without the counts of its held-out neurons.

    Examples
    --------
    >>> counts_BTN = np.array([[[0, 2], [1, 2]]], np.uint8)
    >>> mean_rate(SpikeData(counts_BTN, bin_ms=20.0, lengths_B=np.array([2])))
    array([0.5, 2. ])
    """
    if not train.hidden_counts_known:
        raise DataError(
            "A mean rate needs the counts of every neuron, and this set lacks those of its "
            "held-out neurons or forward bins.",
            hint="Take the mean rate of the training trials.",
        )
    n_bins = int(np.sum(train.lengths_B))
    if n_bins == 0:
        raise DataError(
            f"A mean rate needs at least one bin; found {train.n_trials} trials with no bin.",
            hint="Look at the file with ndt check-data.",
        )
    totals_N = np.sum(train.spikes_BTN, axis=(0, 1), where=train.inside_BT[:, :, None], dtype=float)
    return np.asarray(totals_N / n_bins)


def starting_rates(train: SpikeData) -> Float64Array:
    """Return each neuron's mean rate, a silent one's as if it had half a spike; all above 0.

    Examples
    --------
    >>> counts_BTN = np.array([[[0, 2], [0, 2]]], np.uint8)
    >>> starting_rates(SpikeData(counts_BTN, bin_ms=20.0, lengths_B=np.array([2])))
    array([0.25, 2.  ])
    """
    n_bins = float(np.sum(train.lengths_B))
    return np.maximum(mean_rate(train), 0.5 / n_bins)


def constant_rates(rates_N: Float64Array, data: SpikeData) -> Float64Array:
    """Return one rate a neuron as a read-only (trials, bins, neurons) array for these trials.

    Examples
    --------
    >>> data = SpikeData(np.zeros((1, 3, 2), np.uint8), bin_ms=20.0, lengths_B=np.array([3]))
    >>> constant_rates(np.array([0.5, 2.0]), data)[0, 0]
    array([0.5, 2. ])
    """
    return np.broadcast_to(rates_N, data.spikes_BTN.shape)
