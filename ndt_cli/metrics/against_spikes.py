"""Poisson likelihood and bits per spike of inferred rates."""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from ndt_cli.data.spike_data import FloatArray, IntArray, trial_blocks
from ndt_cli.metrics.entries import (
    BoolArray,
    Float64Array,
    finite_entries,
    scored_entries,
)

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
        clipped_BTN = _clip_zero(
            finite_entries(rates_BTN, scored_BTN, "inferred rates", lowest=0.0)
        )
        loss_BTN = clipped_BTN - xlogy(counts_BTN, clipped_BTN)

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
    scored_BTN = scored_entries(scored, rates_BTN, spikes_BTN)
    sums = SpikeScoreSums(rates_BTN.shape[2])
    for trials in trial_blocks(len(rates_BTN), rates_BTN[:1].size):
        sums.add(rates_BTN[trials], spikes_BTN[trials], scored_BTN[trials])
    return sums.result()


def poisson_nll(
    rates_BTN: FloatArray,
    spikes_BTN: IntArray | FloatArray,
    scored: BoolArray | None = None,
) -> float:
    """Poisson negative log-likelihood, log y! included, in nats per scored entry.

    See `SpikeScoreSums.add` for the arguments; NaN if nothing is scored.

    Examples
    --------
    >>> counts_BTN = np.array([[0, 1, 0, 1]])[:, :, None]
    >>> round(poisson_nll(np.full((1, 4, 1), 0.5), counts_BTN), 3)
    0.847
    """
    return bits_per_spike(rates_BTN, spikes_BTN, scored).nll


def _clip_zero(rates: Float64Array) -> Float64Array:
    return np.where(rates == 0.0, ZERO_RATE, rates)
