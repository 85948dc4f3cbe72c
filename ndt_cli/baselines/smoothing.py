"""Mean rates, and spikes smoothed with a Gaussian kernel whose width the training trials choose.

Leave-one-out likelihood chooses the width, and how strongly rates are pulled to the mean rate.

Axes in names: B trials, T bins, N neurons, K any channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from typing_extensions import Self

from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.errors import DataError

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

# From this many taps on, a Fourier transform is faster than the sum.
_FOURIER_TAPS = 129


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


@dataclass(frozen=True, eq=False)
class MeanPrior:
    """Gamma prior on a neuron's rate, around its mean rate.

    Smoothing then returns the posterior mean, (n_spikes + sum k y) / (n_spikes / mean rate +
    sum k), with kernel weights k, 1 at the center, and counts y: a low rate in a stretch without
    spikes instead of zero, under which a spike would be impossible.

    Parameters
    ----------
    mean_rates_N : (..., neurons) float array
        Rates in spikes per bin. A neuron with a mean of 0 has no prior.
    n_spikes : float
        Weight of the prior in spikes, above 0.
    """

    mean_rates_N: Float64Array
    n_spikes: float


def smooth(
    spikes_BTN: IntArray | FloatArray,
    inside_BT: BoolArray,
    width_ms: float,
    bin_ms: float,
    prior: MeanPrior | None = None,
    hidden: BoolArray | None = None,
) -> Float64Array:
    """Smooth spike counts, or rates, along time with a Gaussian kernel, trial by trial.

    The kernel reaches four standard deviations and is renormalized to the visible bins of the
    trial: rates are not pulled towards zero at its edges, and neither padding nor a hidden count
    has an influence on any rate.

    Parameters
    ----------
    spikes_BTN : (trials, bins, neurons) array
        Spike counts, or rates in spikes per bin.
    inside_BT : (trials, bins) bool array
        True for bins of the trial, False for padding.
    width_ms, bin_ms : float
        Standard deviation of the kernel, and bin width, in ms.
    prior : MeanPrior, optional
        Pulls rates towards each neuron's mean; without one, the plain weighted mean, which is 0 far
        from every visible bin.
    hidden : (trials, bins) or (trials, bins, neurons) bool array, optional
        Counts that must not be used.

    Returns
    -------
    (trials, bins, neurons) float array
        Rates in spikes per bin; 0 in padding.

    Raises
    ------
    ValueError
        If the width is not above 0.

    Examples
    --------
    >>> spikes_BTN = np.array([[0, 0, 1, 0, 0]])[:, :, None]
    >>> inside_BT = np.ones((1, 5), dtype=bool)
    >>> smooth(spikes_BTN, inside_BT, width_ms=20, bin_ms=20)[0, :, 0].round(2)
    array([0.08, 0.26, 0.4 , 0.26, 0.08])
    """
    visible = inside = inside_BT[:, :, None]
    if hidden is not None:
        visible = inside & ~(hidden[:, :, None] if hidden.ndim == 2 else hidden)
    weights = gaussian_weights(width_ms / bin_ms, spikes_BTN.shape[1])
    return np.where(inside, posterior_mean(*kernel_sums(spikes_BTN, visible, weights), prior), 0.0)


def gaussian_weights(width_bins: float, n_bins: int) -> Float64Array:
    """Return kernel weights, 1 at the center, not reaching beyond the trial."""
    if not width_bins > 0:
        raise ValueError(f"the kernel's width must be above 0, not {width_bins:g} bins")
    reach = min(max(1, int(np.ceil(4 * width_bins))), max(1, n_bins - 1))
    return np.asarray(np.exp(-0.5 * (np.arange(-reach, reach + 1) / width_bins) ** 2))


def kernel_sums(
    spikes_BTN: IntArray | FloatArray, visible: BoolArray, weights: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the weighted sum of the visible counts around each bin, and the sum of weights."""
    visible_BTN = np.where(visible, spikes_BTN, 0)
    return _along_time(visible_BTN, weights), _along_time(visible, weights)


def posterior_mean(
    counts_BTN: Float64Array, weights: Float64Array, prior: MeanPrior | None
) -> Float64Array:
    """Return rates from the sums of `kernel_sums`; 0 without a prior and a weight."""
    if prior is not None:
        spikes = prior.n_spikes * (prior.mean_rates_N > 0)
        counts_BTN = counts_BTN + spikes
        weights = weights + spikes / np.where(spikes > 0, prior.mean_rates_N, 1.0)
    return np.divide(counts_BTN, weights, out=np.zeros_like(counts_BTN), where=weights > 0)


def _along_time(
    values_BTK: IntArray | FloatArray | BoolArray, weights: Float64Array
) -> Float64Array:
    """Return sums along time under a symmetric kernel, with zeros beyond the array."""
    sums_BTK = np.empty(values_BTK.shape)
    if len(weights) < _FOURIER_TAPS:
        correlate1d(values_BTK, weights, axis=1, output=sums_BTK, mode="constant")
        return sums_BTK
    from scipy.signal import fftconvolve  # takes most of a second to load, for wide kernels alone

    # Trial by trial: the transform of all trials would take several times their memory.
    for trial, values_TK in enumerate(values_BTK):
        sums_BTK[trial] = fftconvolve(values_TK.astype(float), weights[:, None], "same", axes=0)
    # Rounding leaves some empty sums slightly below zero.
    return np.maximum(sums_BTK, 0.0, out=sums_BTK)


# ------------------------------------------------------------------------------------------------
# Choice of kernel and prior by leave-one-out likelihood
# ------------------------------------------------------------------------------------------------


PRIOR_SPIKES = (0.1, 0.3, 1.0, 3.0)

# This many entries (trials x bins x neurons) suffice to compare kernel widths.
_ENTRIES = 1_000_000
_SEED = 0


class KernelChoice(NamedTuple):
    """Standard deviation of the kernel, and weight of the mean rate in spikes."""

    width_ms: float
    prior_spikes: float


def default_widths_ms(bin_ms: float, n_bins: int) -> Float64Array:
    """Return kernel widths from half a bin to half the trial, in steps of a factor sqrt(2).

    Examples
    --------
    >>> default_widths_ms(bin_ms=20, n_bins=4).round(1)
    array([10. , 14.1, 20. , 28.3, 40. ])
    """
    n_widths = 1 + max(0, int(np.floor(2 * np.log2(n_bins))))
    return np.asarray(bin_ms * 0.5 * 2.0 ** (0.5 * np.arange(n_widths)), dtype=np.float64)


def choose_kernel(train: SpikeData, candidates_ms: Sequence[float] | None = None) -> KernelChoice:
    """Choose the smoothing that best predicts each count from the other bins.

    Leave-one-out likelihood cross-validation (Silverman 1986): the rate of each bin is smoothed
    from all other bins of its trial, under a `MeanPrior` from all other bins of the set, and the
    width and prior with the largest Poisson likelihood are chosen, the first of equally good ones.
    True rates are not used. From a set of more than a million entries, trials are drawn with a
    fixed seed.

    Parameters
    ----------
    train : SpikeData
        Training trials; hidden counts must be known.
    candidates_ms : sequence of float, optional
        Widths to try, in ms; `default_widths_ms` by default.

    Raises
    ------
    DataError
        If there are no trials, or the counts of held-out neurons are not known.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=5)
    >>> choose_kernel(recording.train, candidates_ms=[40.0, 5000.0]).width_ms
    40.0
    """
    n_entries = max(1, train.n_bins * train.n_neurons)
    some = some_trials(train, max(1, _ENTRIES // n_entries))
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
            # The bin of a neuron's only spike has a rate of zero, whatever the width.
            log_rates = np.log(np.maximum(rates_BTN[spiked_BTN], 1e-9))
            loss = rates_BTN.sum(where=inside) - spiked_counts @ log_rates
            losses[KernelChoice(width_ms, prior_spikes)] = float(loss)
    return min(losses, key=losses.__getitem__)


def some_trials(train: SpikeData, n_trials: int) -> SpikeData:
    """Return at most this many trials, drawn with a fixed seed, in their order."""
    if train.n_trials <= n_trials:
        return train
    drawn = np.random.default_rng(_SEED).permutation(train.n_trials)[:n_trials]
    return train.take(np.sort(drawn))


# ------------------------------------------------------------------------------------------------
# The baseline: fitted to training trials, then asked for rates
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Smoother:
    """Spike smoothing with a kernel chosen on training trials.

    Parameters
    ----------
    width_ms : float
        Standard deviation of the Gaussian kernel, in ms.
    prior_spikes : float
        Weight of the mean rate in spikes; see `MeanPrior`.
    mean_rates_N : (neurons,) float array
        Mean rate of each neuron in the training trials, in spikes per bin.
    bin_ms : float
        Bin width of the training trials, in ms.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=5)
    >>> smoother = Smoother.fit(recording.train)
    >>> smoother.rates(recording.valid).shape  # spikes per bin
    (2, 50, 29)
    """

    width_ms: float
    prior_spikes: float
    mean_rates_N: Float64Array
    bin_ms: float

    @classmethod
    def fit(cls, train: SpikeData, candidates_ms: Sequence[float] | None = None) -> Self:
        """Choose width and prior by `choose_kernel`, and compute the mean rates.

        Raises
        ------
        DataError
            If there are no trials, or the counts of held-out neurons are not known.
        """
        return cls(*choose_kernel(train, candidates_ms), mean_rate(train), train.bin_ms)

    def rates(self, data: SpikeData) -> Float64Array:
        """Return smoothed rates in spikes per bin, (trials, bins, neurons); 0 in padding.

        Counts of held-out neurons and forward bins are not used, since the model never sees
        them: the rate of a held-out neuron is its mean rate.

        Raises
        ------
        DataError
            If bin width or number of neurons differ from those of the training trials.
        """
        return self.rates_hidden(data, np.zeros(data.inside_BT.shape, dtype=bool))

    def rates_hidden(self, data: SpikeData, hidden: BoolArray) -> Float64Array:
        """Return rates as `rates` does, without the counts that are hidden (see `smooth`)."""
        if data.bin_ms != self.bin_ms or data.n_neurons != len(self.mean_rates_N):
            raise DataError(
                f"Smoothing was fitted to {len(self.mean_rates_N)} neurons in bins of "
                f"{self.bin_ms:g} ms; found {data.n_neurons} in bins of {data.bin_ms:g} ms.",
                hint="Fit it to training trials of the same recording.",
            )
        hidden = hidden.copy()
        hidden[:, data.n_bins - data.n_forward :] = True
        if data.n_heldout:
            heldout_N = np.arange(data.n_neurons) >= data.n_neurons - data.n_heldout
            hidden = (hidden[:, :, None] if hidden.ndim == 2 else hidden) | heldout_N
        prior = MeanPrior(self.mean_rates_N, self.prior_spikes)
        return smooth(data.spikes_BTN, data.inside_BT, self.width_ms, self.bin_ms, prior, hidden)
