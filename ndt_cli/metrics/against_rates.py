"""R2 and explained variance of inferred rates, where the true rates are known."""

from dataclasses import dataclass

import numpy as np

from ndt_cli.data.spike_data import FloatArray, trial_blocks
from ndt_cli.metrics.entries import (
    BoolArray,
    Float64Array,
    finite_entries,
    scored_entries,
)


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
    scores_N = 1.0 - part_N / whole_N
    score_N[defined_N] = scores_N
    pooled = 1.0 - part_N.sum() / whole_N.sum()
    return score_N, (float(scores_N.mean()), float(np.median(scores_N)), float(pooled))
