"""Scores of inferred rates against true rates (R2) and against spike counts (bits per spike)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData, TrialValues, trial_blocks

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]


def as_array(values: Any) -> NDArray[Any]:
    """Return values as an array; what a masked array masks is NaN, since it has no value."""
    if np.ma.is_masked(values):
        return np.asarray(values.astype(np.float64).filled(np.nan))
    return np.asarray(values)


def check_rates(values_BTK: TrialValues, data: SpikeData, n_channels: int | None = None) -> None:
    """Check that these are values of all bins of these trials: NumPy would repeat or cut them."""
    expected = (data.n_trials, data.n_bins, n_channels or values_BTK.shape[-1])
    if values_BTK.shape != expected:
        raise ValueError(f"found rates of shape {values_BTK.shape}; expected {expected}")


def scored_entries(
    scored: BoolArray | None, first_BTN: FloatArray, second_BTN: IntArray | FloatArray
) -> BoolArray:
    """Return the mask of scored entries as (trials, bins, neurons), without copying it."""
    shape = first_BTN.shape
    if len(shape) != 3 or second_BTN.shape != shape:
        raise ValueError(
            "expected two arrays of the same (trials, bins, neurons); found "
            f"{shape} and {second_BTN.shape}"
        )
    scored = np.ones(shape[:2], dtype=bool) if scored is None else np.asarray(scored)
    if scored.dtype != bool:
        raise ValueError(f"expected a mask of True and False; found values of type {scored.dtype}")
    if scored.shape == shape[:2]:
        scored = scored[:, :, None]
    elif scored.shape != shape:
        raise ValueError(f"expected a mask of shape {shape[:2]} or {shape}; found {scored.shape}")
    return np.broadcast_to(scored, shape)


def finite_entries(
    values_BTN: IntArray | FloatArray,
    scored_BTN: BoolArray,
    name: str,
    lowest: float = -np.inf,
) -> Float64Array:
    """Return the values as float64, zero where not scored; check that scored ones are finite."""
    kept_BTN = np.where(scored_BTN, as_array(values_BTN), 0).astype(np.float64)
    bad_BTN = ~np.isfinite(kept_BTN) | (kept_BTN < lowest)
    if bad_BTN.any():
        where = tuple(int(i) for i in np.argwhere(bad_BTN)[0])
        or_below = "" if lowest == -np.inf else f" or below {lowest:g}"
        raise ValueError(
            f"{name}: {int(bad_BTN.sum())} scored values are not finite{or_below}; the first is "
            f"{kept_BTN[where]} at (trial, bin, neuron) {where}"
        )
    return kept_BTN


# ------------------------------------------------------------------------------------------------
# R2 and explained variance, where the true rates are known.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RateScores:
    """How well inferred rates match true rates.

    Parameters
    ----------
    r2_N : (neurons,) float array
        1 - SSE / SST over the scored trials x bins. NaN (undefined) for a neuron whose true rate
        never changes, or of which nothing is scored.
    explained_variance_N : (neurons,) float array
        1 - Var(residual) / Var(truth): R2 that ignores a constant offset of each neuron. NaN
        where ``r2_N`` is.
    r2_mean, explained_variance_mean : float
        Unweighted mean over the defined neurons (the R2 of Ye & Pandarinath 2021). This and the
        next four are NaN if no neuron is defined.
    r2_median, explained_variance_median : float
        Median over the defined neurons.
    r2_pooled, explained_variance_pooled : float
        Weighted by each neuron's variance: 1 - sum SSE / sum SST over the defined neurons.
    n_undefined : int
        Number of undefined neurons.
    """

    r2_N: Float64Array
    explained_variance_N: Float64Array
    r2_mean: float
    r2_median: float
    r2_pooled: float
    explained_variance_mean: float
    explained_variance_median: float
    explained_variance_pooled: float
    n_undefined: int


class RateScoreSums:
    """Sums from which `RateScores` are computed; batches of trials are added to them.

    Squared deviations are merged around the running mean of each neuron (Chan, Golub &
    LeVeque 1983): plain sums of squares lose the variance of a nearly constant rate.

    Examples
    --------
    >>> sums = RateScoreSums(n_neurons=1)
    >>> true_BTN = np.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None]
    >>> for trial in (slice(0, 1), slice(1, 2)):
    ...     sums.add(true_BTN[trial] + 0.5, true_BTN[trial])
    >>> round(sums.result().r2_mean, 3)
    0.8
    """

    def __init__(self, n_neurons: int) -> None:
        self._n_N = np.zeros(n_neurons)
        self._squared_error_N = np.zeros(n_neurons)
        self._mean_2N = np.zeros((2, n_neurons))  # of truth and of residual
        self._deviation_2N = np.zeros((2, n_neurons))
        self._lowest_N = np.full(n_neurons, np.inf)
        self._highest_N = np.full(n_neurons, -np.inf)

    def add(
        self,
        rates_BTN: FloatArray,
        true_rates_BTN: FloatArray,
        inside: BoolArray | None = None,
    ) -> None:
        """Add a batch of trials.

        Parameters
        ----------
        rates_BTN, true_rates_BTN : (trials, bins, neurons) float array
            Inferred and true rates in the same unit.
        inside : (trials, bins) or (trials, bins, neurons) bool array, optional
            Entries to score. Default: all. The others may have any value.

        Raises
        ------
        ValueError
            If shapes differ, or a scored rate is not finite.
        """
        scored_BTN = scored_entries(inside, rates_BTN, true_rates_BTN)
        n_N = scored_BTN.sum(axis=(0, 1))
        truth_BTN = finite_entries(true_rates_BTN, scored_BTN, "true rates")
        residual_BTN = truth_BTN - finite_entries(rates_BTN, scored_BTN, "inferred rates")

        self._squared_error_N += np.square(residual_BTN).sum(axis=(0, 1))
        self._lowest_N = np.minimum(
            self._lowest_N, truth_BTN.min(axis=(0, 1), initial=np.inf, where=scored_BTN)
        )
        self._highest_N = np.maximum(
            self._highest_N, truth_BTN.max(axis=(0, 1), initial=-np.inf, where=scored_BTN)
        )
        total_N = self._n_N + n_N
        for row, values_BTN in enumerate((truth_BTN, residual_BTN)):
            mean_N = values_BTN.sum(axis=(0, 1)) / np.maximum(n_N, 1)
            centered_BTN = np.where(scored_BTN, values_BTN - mean_N, 0.0)
            shift_N = mean_N - self._mean_2N[row]
            share_N = n_N / np.maximum(total_N, 1)
            self._deviation_2N[row] += np.square(centered_BTN).sum(axis=(0, 1))
            self._deviation_2N[row] += np.square(shift_N) * self._n_N * share_N
            self._mean_2N[row] += shift_N * share_N
        self._n_N = total_N

    def result(self) -> RateScores:
        """Return the scores of all trials added so far."""
        truth_N, residual_N = self._deviation_2N
        # By the values, because rounding gives a constant a tiny variance.
        defined_N = (self._highest_N > self._lowest_N) & (truth_N > 0)
        r2_N, r2 = _one_minus_share(self._squared_error_N, truth_N, defined_N)
        explained_N, explained = _one_minus_share(residual_N, truth_N, defined_N)
        return RateScores(
            r2_N=r2_N,
            explained_variance_N=explained_N,
            r2_mean=r2[0],
            r2_median=r2[1],
            r2_pooled=r2[2],
            explained_variance_mean=explained[0],
            explained_variance_median=explained[1],
            explained_variance_pooled=explained[2],
            n_undefined=int((~defined_N).sum()),
        )


def rate_scores(
    rates_BTN: FloatArray, true_rates_BTN: FloatArray, inside: BoolArray | None = None
) -> RateScores:
    """Score inferred rates against true rates; see `RateScoreSums.add` for the arguments.

    Examples
    --------
    >>> true_BTN = np.array([[1.0, 2.0, 3.0, 4.0]])[:, :, None]
    >>> scores = rate_scores(true_BTN + 0.5, true_BTN)
    >>> round(scores.r2_mean, 3), scores.explained_variance_mean
    (0.8, 1.0)
    """
    rates_BTN, true_rates_BTN = as_array(rates_BTN), as_array(true_rates_BTN)
    scored_BTN = scored_entries(inside, rates_BTN, true_rates_BTN)
    sums = RateScoreSums(rates_BTN.shape[2])
    for trials in trial_blocks(len(rates_BTN), rates_BTN[:1].size):
        sums.add(rates_BTN[trials], true_rates_BTN[trials], scored_BTN[trials])
    return sums.result()


def _one_minus_share(
    part_N: Float64Array, whole_N: Float64Array, defined_N: BoolArray
) -> tuple[Float64Array, tuple[float, float, float]]:
    """Return 1 - part / whole for each neuron, then its mean, median and pooled value."""
    score_N = np.full(len(part_N), np.nan)
    if not defined_N.any():
        return score_N, (np.nan, np.nan, np.nan)
    part_N, whole_N = part_N[defined_N], whole_N[defined_N]
    score_N[defined_N] = scores_N = 1.0 - part_N / whole_N
    pooled = 1.0 - part_N.sum() / whole_N.sum()
    return score_N, (float(scores_N.mean()), float(np.median(scores_N)), float(pooled))


# ------------------------------------------------------------------------------------------------
# Poisson likelihood and bits per spike.
# ------------------------------------------------------------------------------------------------


# Replaces a rate of zero, as in nlb_tools, so that scores agree with the benchmark's.
ZERO_RATE = 1e-9


@dataclass(frozen=True, eq=False)
class SpikeScores:
    """How well inferred rates predict spike counts.

    Parameters
    ----------
    bits_per_spike : float
        Log-likelihood gained over each neuron's mean count, in bits per spike of the whole
        population. NaN if ``n_spikes`` is 0.
    bits_per_spike_N : (neurons,) float array
        The same for each neuron alone; NaN for the ``n_silent`` neurons without a scored spike.
    bits_per_spike_mean, bits_per_spike_median : float
        Mean and median over the neurons that spiked; NaN if none did.
    nll : float
        Poisson negative log-likelihood in nats per scored entry, log y! included. NaN if
        ``n_scored`` is 0.
    poisson_loss : float
        The same without log y!, as minimized in training: rate - y log rate.
    n_spikes, n_scored, n_silent : int
        Scored spikes, scored entries, and neurons without a scored spike.
    """

    bits_per_spike: float
    bits_per_spike_N: Float64Array
    bits_per_spike_mean: float
    bits_per_spike_median: float
    nll: float
    poisson_loss: float
    n_spikes: int
    n_scored: int
    n_silent: int


class SpikeScoreSums:
    """Sums from which `SpikeScores` are computed; batches of trials are added to them.

    Examples
    --------
    >>> sums = SpikeScoreSums(n_neurons=1)
    >>> for counts in ([0, 0, 1, 1], [1, 0, 0, 1]):
    ...     counts_BTN = np.array(counts)[None, :, None]
    ...     sums.add(np.full((1, 4, 1), 0.5), counts_BTN)
    >>> sums.result().n_spikes, sums.result().bits_per_spike
    (4, 0.0)
    """

    def __init__(self, n_neurons: int) -> None:
        self._n_N = np.zeros(n_neurons)
        self._spikes_N = np.zeros(n_neurons)
        self._loss_N = np.zeros(n_neurons)
        self._log_factorial_N = np.zeros(n_neurons)

    def add(
        self,
        rates_BTN: FloatArray,
        spikes_BTN: IntArray | FloatArray,
        scored: BoolArray | None = None,
    ) -> None:
        """Add a batch of trials.

        Parameters
        ----------
        rates_BTN : (trials, bins, neurons) float array
            Inferred rates in expected spikes per bin. A rate of exactly 0 is replaced by 1e-9, as
            in nlb_tools: a spike there costs 20.7 nats instead of infinitely many.
        spikes_BTN : (trials, bins, neurons) array
            Spike counts.
        scored : (trials, bins) or (trials, bins, neurons) bool array, optional
            Entries to score. Default: all. The others may have any value.

        Raises
        ------
        ValueError
            If shapes differ, or a scored value is not finite or below zero.
        """
        scored_BTN = scored_entries(scored, rates_BTN, spikes_BTN)
        counts_BTN = finite_entries(spikes_BTN, scored_BTN, "spike counts", lowest=0.0)
        kept_BTN = _clip_zero(finite_entries(rates_BTN, scored_BTN, "inferred rates", lowest=0.0))
        loss_BTN = kept_BTN - xlogy(counts_BTN, kept_BTN)

        self._n_N += scored_BTN.sum(axis=(0, 1))
        self._spikes_N += counts_BTN.sum(axis=(0, 1))
        self._loss_N += loss_BTN.sum(axis=(0, 1), where=scored_BTN)
        self._log_factorial_N += gammaln(counts_BTN + 1.0).sum(axis=(0, 1))

    def result(self) -> SpikeScores:
        """Return the scores of all trials added so far."""
        null_rate_N = _clip_zero(self._spikes_N / np.maximum(self._n_N, 1))
        null_loss_N = self._n_N * null_rate_N - xlogy(self._spikes_N, null_rate_N)
        # log y! is the same for both and cancels in the gain.
        gain_bits_N = (null_loss_N - self._loss_N) / np.log(2)
        spiked_N = self._spikes_N > 0
        bits_N = np.full(len(gain_bits_N), np.nan)
        bits_N[spiked_N] = gain_bits_N[spiked_N] / self._spikes_N[spiked_N]
        n_spikes, n_scored = float(self._spikes_N.sum()), float(self._n_N.sum())
        loss, log_factorial = float(self._loss_N.sum()), float(self._log_factorial_N.sum())
        return SpikeScores(
            bits_per_spike=float(gain_bits_N.sum()) / n_spikes if n_spikes else np.nan,
            bits_per_spike_N=bits_N,
            bits_per_spike_mean=float(bits_N[spiked_N].mean()) if n_spikes else np.nan,
            bits_per_spike_median=float(np.median(bits_N[spiked_N])) if n_spikes else np.nan,
            nll=(loss + log_factorial) / n_scored if n_scored else np.nan,
            poisson_loss=loss / n_scored if n_scored else np.nan,
            n_spikes=int(n_spikes),
            n_scored=int(n_scored),
            n_silent=int((~spiked_N).sum()),
        )


def bits_per_spike(
    rates_BTN: FloatArray,
    spikes_BTN: IntArray | FloatArray,
    scored: BoolArray | None = None,
) -> SpikeScores:
    """Score inferred rates against spike counts; see `SpikeScoreSums.add` for the arguments.

    (L_model - L_null) / (n_spikes ln 2), the benchmark's score for held-out neurons and forward
    bins (Neural Latents Benchmark '21, arXiv 2109.04463, section on co-smoothing). The null
    model is each neuron's mean count over the scored entries.

    Examples
    --------
    >>> counts_BTN = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])[:, :, None]
    >>> right_BTN = np.where(counts_BTN > 0, 0.9, 0.1)
    >>> mean_BTN = np.full(counts_BTN.shape, 0.5)
    >>> scores = bits_per_spike(right_BTN, counts_BTN)
    >>> round(scores.bits_per_spike, 3), scores.n_spikes
    (0.848, 4)
    >>> bits_per_spike(mean_BTN, counts_BTN).bits_per_spike
    0.0
    """
    rates_BTN, spikes_BTN = as_array(rates_BTN), as_array(spikes_BTN)
    scored_BTN = scored_entries(scored, rates_BTN, spikes_BTN)
    sums = SpikeScoreSums(rates_BTN.shape[2])
    for trials in trial_blocks(len(rates_BTN), rates_BTN[:1].size):
        sums.add(rates_BTN[trials], spikes_BTN[trials], scored_BTN[trials])
    return sums.result()


def _clip_zero(rates: Float64Array) -> Float64Array:
    return np.where(rates == 0.0, ZERO_RATE, rates)
