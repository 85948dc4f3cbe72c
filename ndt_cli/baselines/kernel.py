"""Spikes smoothed along time, from all of a trial's counts or from the visible ones alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.signal import fftconvolve

from ndt_cli.data.spike_data import IntArray

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

# Taps from which a Fourier transform is quicker than the sum itself.
_FOURIER_TAPS = 129


@dataclass(frozen=True, eq=False)
class MeanPrior:
    """What is believed of a neuron before its spikes near a bin are seen: its mean rate.

    Smoothing returns the posterior mean under a Gamma prior, (n_spikes + sum k y) /
    (n_spikes / mean rate + sum k), where k are kernel weights, 1 at the centre, and y counts.
    A stretch without spikes then has a low rate, not a rate of zero, under which a spike would
    be impossible; and a bin that sees no count has the mean rate.

    Parameters
    ----------
    mean_rates_N : (..., neurons) float array
        Rates in spikes per bin. A neuron with a mean of 0 has no prior.
    n_spikes : float
        Spikes that the prior is worth, above 0.
    """

    mean_rates_N: Float64Array
    n_spikes: float


def smooth(
    spikes_BTN: IntArray,
    inside_BT: BoolArray,
    width_ms: float,
    bin_ms: float,
    prior: MeanPrior | None = None,
) -> Float64Array:
    """Smooth spike counts along time with a Gaussian kernel, trial by trial.

    The kernel reaches four standard deviations and is renormalised to the bins of the trial,
    so a trial's edges are not pulled towards zero and padding has no part in any estimate.

    Parameters
    ----------
    spikes_BTN : (trials, bins, neurons) int array
        Spike counts.
    inside_BT : (trials, bins) bool array
        Bins of the trial; padding is False.
    width_ms : float
        Standard deviation of the kernel, in ms.
    bin_ms : float
        Bin width, in ms.
    prior : MeanPrior, optional
        Pulls rates towards each neuron's mean; without one, the plain weighted mean.

    Returns
    -------
    (trials, bins, neurons) float array
        Rates in spikes per bin; 0 in padding.

    Raises
    ------
    ValueError
        A width that is not above 0.

    Examples
    --------
    >>> spikes_BTN = np.array([[0, 0, 1, 0, 0]])[:, :, None]
    >>> inside_BT = np.ones((1, 5), dtype=bool)
    >>> smooth(spikes_BTN, inside_BT, width_ms=20, bin_ms=20)[0, :, 0].round(2)
    array([0.08, 0.26, 0.4 , 0.26, 0.08])
    """
    inside = inside_BT[:, :, None]
    weights = gaussian_weights(width_ms / bin_ms, spikes_BTN.shape[1])
    return np.where(inside, posterior_mean(*kernel_sums(spikes_BTN, inside, weights), prior), 0.0)


def smooth_hidden(
    spikes_BTN: IntArray,
    inside_BT: BoolArray,
    hidden: BoolArray,
    width_ms: float,
    bin_ms: float,
    prior: MeanPrior,
) -> Float64Array:
    """Smooth only what is visible: no hidden count has a part in any estimate.

    The kernel is renormalised to the visible bins, of each neuron where ``hidden`` differs
    between neurons. The parameters that are not listed, and what is returned and raised, are
    those of `smooth`.

    Parameters
    ----------
    hidden : (trials, bins) or (trials, bins, neurons) bool array
        Counts that must not be looked at.
    prior : MeanPrior
        What a hidden bin far from every visible one is given.

    Examples
    --------
    >>> spikes_BTN = np.array([[0, 0, 1, 0, 0]])[:, :, None]
    >>> inside_BT = np.ones((1, 5), dtype=bool)
    >>> prior = MeanPrior(np.array([0.2]), n_spikes=1.0)
    >>> hidden_BT = spikes_BTN[:, :, 0] > 0  # the spike itself is not looked at
    >>> smooth_hidden(spikes_BTN, inside_BT, hidden_BT, 20, 20, prior)[0, :, 0].round(2)
    array([0.15, 0.15, 0.15, 0.15, 0.15])
    """
    inside = inside_BT[:, :, None]
    visible = inside & ~(hidden[:, :, None] if hidden.ndim == 2 else hidden)
    weights = gaussian_weights(width_ms / bin_ms, spikes_BTN.shape[1])
    return np.where(inside, posterior_mean(*kernel_sums(spikes_BTN, visible, weights), prior), 0.0)


def gaussian_weights(width_bins: float, n_bins: int) -> Float64Array:
    """Return kernel weights, 1 at the centre, no wider than the trial."""
    if not width_bins > 0:
        raise ValueError(f"the kernel's width must be above 0, not {width_bins:g} bins")
    reach = min(max(1, int(np.ceil(4 * width_bins))), max(1, n_bins - 1))
    return np.asarray(np.exp(-0.5 * (np.arange(-reach, reach + 1) / width_bins) ** 2))


def kernel_sums(
    spikes_BTN: IntArray, visible: BoolArray, weights: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the weighted counts of the visible bins around each bin, and their weights."""
    visible_BTN = np.where(visible, spikes_BTN, 0)
    return _along_time(visible_BTN, weights), _along_time(visible, weights)


def posterior_mean(
    counts_BTN: Float64Array, weights: Float64Array, prior: MeanPrior | None
) -> Float64Array:
    """Return rates from the sums of `kernel_sums`; 0 where there is no prior and no weight."""
    if prior is not None:
        has_prior = prior.mean_rates_N > 0
        prior_bins = prior.n_spikes / np.where(has_prior, prior.mean_rates_N, 1.0)
        counts_BTN = counts_BTN + prior.n_spikes * has_prior
        weights = weights + prior_bins * has_prior
    return np.divide(counts_BTN, weights, out=np.zeros_like(counts_BTN), where=weights > 0)


def _along_time(values_BTK: IntArray | BoolArray, weights: Float64Array) -> Float64Array:
    """Return sums along time under a symmetric kernel; nothing comes from beyond the array."""
    sums_BTK = np.empty(values_BTK.shape)
    if len(weights) < _FOURIER_TAPS:
        correlate1d(values_BTK, weights, axis=1, output=sums_BTK, mode="constant")
        return sums_BTK
    # Trial by trial: the transform of a whole set would take several times its memory.
    for trial, values_TK in enumerate(values_BTK):
        sums_BTK[trial] = fftconvolve(values_TK.astype(float), weights[:, None], "same", axes=0)
    # Rounding leaves some sums of nothing a little below zero.
    return np.maximum(sums_BTK, 0.0, out=sums_BTK)
