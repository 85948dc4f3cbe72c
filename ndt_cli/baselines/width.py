"""The kernel width, and the weight of the mean rate, that foretell counts best."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt_cli.baselines.kernel import MeanPrior, gaussian_weights, kernel_sums, posterior_mean
from ndt_cli.baselines.mean import mean_rate
from ndt_cli.data.spike_data import SpikeData

Float64Array = NDArray[np.float64]

PRIOR_SPIKES = (0.1, 0.3, 1.0, 3.0)

# Entries (trials x bins x neurons) that suffice to tell kernel widths apart.
_ENTRIES = 1_000_000
_SEED = 0


class KernelChoice(NamedTuple):
    """Standard deviation of the kernel, and the spikes that the mean rate is worth."""

    width_ms: float
    prior_spikes: float


def default_widths_ms(bin_ms: float, n_bins: int) -> Float64Array:
    """Return kernel widths from half a bin to half the window, each a factor sqrt(2) wider.

    Examples
    --------
    >>> default_widths_ms(bin_ms=20, n_bins=4).round(1)
    array([10. , 14.1, 20. , 28.3, 40. ])
    """
    n_widths = 1 + max(0, int(np.floor(2 * np.log2(n_bins))))
    return np.asarray(bin_ms * 0.5 * 2.0 ** (0.5 * np.arange(n_widths)), dtype=np.float64)


def choose_kernel(train: SpikeData, candidates_ms: Sequence[float] | None = None) -> KernelChoice:
    """Return the smoothing under which each count is best foretold by the other bins.

    Leave-one-out likelihood cross-validation (Silverman 1986): each bin is given the smoothed
    rate of all other bins of its trial, under a `MeanPrior` from all other bins of the set, and
    the width and prior with the largest Poisson likelihood win. True rates are not used. At
    most a million entries are looked at: of a larger set, trials drawn with a fixed seed.

    Parameters
    ----------
    train : SpikeData
        Training trials; hidden counts must be known.
    candidates_ms : sequence of float, optional
        Widths to try, in ms; `default_widths_ms` by default.

    Returns
    -------
    KernelChoice
        The first of several that are equally good.

    Raises
    ------
    DataError
        A set without trials, or without the counts of its held-out neurons.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=5)

    >>> choose_kernel(recording.train, candidates_ms=[40.0, 5000.0]).width_ms
    40.0
    """
    some = _some_trials(train)
    inside = some.inside_BT[:, :, None]
    n_bins = int(some.lengths_B.sum())
    counts_BTN = np.where(inside, some.spikes_BTN, 0)
    spiked_BTN = counts_BTN > 0
    spiked_counts = counts_BTN[spiked_BTN]
    others_BTN = (mean_rate(some) * n_bins - counts_BTN) / max(n_bins - 1, 1)
    if candidates_ms is None:
        candidates_ms = default_widths_ms(some.bin_ms, some.n_bins).tolist()

    losses = {}
    for width_ms in candidates_ms:
        weights = gaussian_weights(width_ms / some.bin_ms, some.n_bins)
        weights[len(weights) // 2] = 0.0
        sums = kernel_sums(counts_BTN, inside, weights)
        for prior_spikes in PRIOR_SPIKES:
            rates_BTN = posterior_mean(*sums, MeanPrior(others_BTN, prior_spikes))
            # A neuron's only spike has a rate of zero there, whatever the width.
            log_rates = np.log(np.maximum(rates_BTN[spiked_BTN], 1e-9))
            loss = rates_BTN.sum(where=inside) - spiked_counts @ log_rates
            losses[KernelChoice(width_ms, prior_spikes)] = float(loss)
    return min(losses, key=losses.__getitem__)


def _some_trials(train: SpikeData) -> SpikeData:
    n_trials = max(1, _ENTRIES // max(1, train.n_bins * train.n_neurons))
    if train.n_trials <= n_trials:
        return train
    drawn = np.random.default_rng(_SEED).permutation(train.n_trials)[:n_trials]
    return train.take(np.sort(drawn))
