"""Match of condition-averaged rates to peri-stimulus time histograms (PSTHs).

Axes in names: B trials, T bins, N neurons, C conditions.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typing_extensions import Self

from ndt_cli.atomic import write_atomic
from ndt_cli.baselines.smoothing import smooth
from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData, TrialValues, trial_blocks
from ndt_cli.errors import RunError
from ndt_cli.metrics.scores import BoolArray, Float64Array, RateScoreSums, check_rates

PSTH_SMOOTHING_MS = 70.0
"""Standard deviation of the kernel that smooths a PSTH, as for mc_maze in the benchmark."""

_SEED = 0


@dataclass(frozen=True, eq=False)
class PsthScores:
    """How well condition-averaged rates match condition-averaged spikes, both smoothed alike.

    Parameters
    ----------
    r2_N : (neurons,) float array
        1 - SSE / SST over conditions x bins; NaN for a neuron whose PSTHs never change. Of
        held-in neurons alone if the counts of the others are not known.
    r2_mean, r2_median, r2_pooled : float
        Over the defined neurons; pooled is weighted by variance. NaN if there are none.
    n_conditions : int
        Number of conditions compared.
    split_half : bool
        True if the PSTHs come from the scored trials themselves: see `psth_scores`.
    """

    r2_N: Float64Array
    r2_mean: float
    r2_median: float
    r2_pooled: float
    n_conditions: int
    split_half: bool


@dataclass(frozen=True, eq=False)
class Psths:
    """The PSTHs of some trials, to be compared with the rates of others."""

    labels: tuple[str, ...]  # names of the conditions that have two trials or more
    means_CTN: FloatArray  # means of smoothed spikes per bin, float32, without forward bins
    n_CT: IntArray  # number of trials that have each bin
    trained_on: str  # fingerprint of the trials

    @classmethod
    def of(cls, data: SpikeData) -> Self | None:
        """Return the PSTHs of trials; None without conditions, or if counts are not known."""
        if data.conditions_B is None or not data.hidden_counts_known:
            return None
        conditions, n_trials = np.unique(data.conditions_B, return_counts=True)
        conditions = conditions[n_trials >= 2]
        names = tuple(data.condition_names.get(n, str(n)) for n in conditions.tolist())
        size = data.n_bins - data.n_forward, data.n_neurons
        everything = np.arange(data.n_trials)
        means_CTN, n_CT = _averages(data.spikes_BTN, data, everything, conditions, *size)
        return cls(names, means_CTN.astype(np.float32), n_CT, data.fingerprint)

    def save(self, path: Path) -> None:
        """Write them to a file; an earlier one is replaced."""
        about = json.dumps({"labels": self.labels, "trained_on": self.trained_on})
        arrays = {"about": np.frombuffer(about.encode(), np.uint8)}
        content = save({**arrays, "means_CTN": self.means_CTN, "n_CT": self.n_CT})
        write_atomic(path, lambda temporary: temporary.write_bytes(content), overwrite=True)

    @classmethod
    def load(cls, path: Path, n_neurons: int, trained_on: str) -> Self:
        """Read a file of `save`, of trials with this fingerprint.

        Raises
        ------
        RunError
            If the file is damaged, or of other trials or neurons.
        """
        try:
            stored = load(path.read_bytes())
            about = json.loads(stored["about"].tobytes())
            labels = tuple(map(str, about["labels"]))
            found = cls(labels, stored["means_CTN"], stored["n_CT"], str(about["trained_on"]))
            n_bins = found.n_CT.shape[1]
            fits = (
                found.n_CT.shape == (len(labels), n_bins)
                and found.n_CT.dtype == np.int64
                and found.means_CTN.shape == (len(labels), n_bins, n_neurons)
                and bool(np.isfinite(found.means_CTN).all())
            )
            if not fits:
                raise ValueError("its arrays do not fit the run")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise RunError(
                f"{path} cannot be read: {error}",
                "The file is damaged; without it, PSTHs come from parts of the scored trials.",
            ) from error
        if found.trained_on != trained_on:
            raise RunError(
                f"{path}: the PSTHs are of other training trials than those of this run",
                "Put back the file of this run; without it, PSTHs come from the scored trials.",
            )
        return found

    def of_conditions(
        self, labels: list[str], n_bins: int, n_neurons: int
    ) -> tuple[Float64Array, IntArray]:
        """Return means and numbers of trials of these conditions, 0 where there are none."""
        n_CT = np.zeros((len(labels), n_bins), dtype=np.int64)
        means_CTN = np.zeros((*n_CT.shape, n_neurons))
        for row, label in enumerate(labels):
            if label in self.labels:
                place, end = self.labels.index(label), min(n_bins, self.n_CT.shape[1])
                means_CTN[row, :end] = self.means_CTN[place, :end, :n_neurons]
                n_CT[row, :end] = self.n_CT[place, :end]
        return means_CTN, n_CT


def psth_scores(
    rates_BTN: TrialValues,
    data: SpikeData,
    train: SpikeData | None = None,
    *,
    psths: Psths | None = None,
) -> PsthScores | None:
    """Score condition-averaged rates against PSTHs, both smoothed with the same kernel.

    The measure of the Neural Latents Benchmark '21 (arXiv 2109.04463, "Match to PSTH"), except
    that a PSTH never contains spikes of the trials whose rates are averaged; in the benchmark it
    contains all trials, and that rates, too, are smoothed with `PSTH_SMOOTHING_MS` before they are
    averaged. (In the benchmark they are not, so that already blurred rates match better than the
    true ones.) A bin of a condition is compared if at least two trials of the PSTH and one of the
    rates reach it; forward bins are not compared.

    With ``train``, PSTHs are computed from the training trials; ``psths`` has them ready, by the
    names of the conditions. Without either, and if the trials have none of those conditions, the
    trials of each condition are divided into two halves at random with a fixed seed, the rates of
    each half are compared with the spikes of the other, and both comparisons are pooled.

    Parameters
    ----------
    rates_BTN : (trials, bins, neurons) float array or ByTrial
        Rates of the scored trials, in spikes per bin.
    data : SpikeData
        The scored trials.
    train : SpikeData, optional
        Other trials of the same conditions, neurons and bins.
    psths : Psths, optional
        Those of other trials.

    Returns
    -------
    PsthScores or None
        None if conditions are not known or none has enough trials.

    Raises
    ------
    ValueError
        If the rates are not of these trials, bins and neurons, or not finite.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=20)
    >>> scores = psth_scores(recording.valid.rates_BTN, recording.valid, recording.train)
    >>> scores.n_conditions, scores.split_half
    (2, False)
    >>> scores.r2_mean < 1  # the PSTH of a few trials is noisy: true rates do not reach 1
    True
    """
    check_rates(rates_BTN, data, data.n_neurons)
    if data.conditions_B is None:
        return None
    everything = np.arange(data.n_trials)
    if psths is not None and not {*(data.condition_labels or ())} & {*psths.labels}:
        psths = None
    # The trials of each comparison, and the other trials whose spikes make its PSTHs.
    pairs: list[tuple[IntArray, SpikeData | None, IntArray]]
    if train is not None and train.conditions_B is not None:
        pairs = [(everything, train, np.arange(train.n_trials))]
    elif psths is not None:
        pairs = [(everything, None, everything)]
    else:
        halves = _halves(data.conditions_B)
        pairs = [(half, data, other) for half, other in (halves, halves[::-1])]
    known = all(spikes is None or spikes.hidden_counts_known for _, spikes, _ in pairs)
    n_neurons = data.n_neurons if known else data.n_neurons - data.n_heldout
    size = data.n_bins - data.n_forward, n_neurons
    compared: set[int] = set()
    sums = RateScoreSums(n_neurons)
    for scored, spikes, others in pairs:
        conditions = _shared_conditions(data, scored, spikes, others)
        for block in trial_blocks(len(conditions), data.n_bins * n_neurons):
            some = conditions[block]
            average_CTN, n_CT = _averages(rates_BTN, data, scored, some, *size)
            if spikes is not None:
                target_CTN, n_target_CT = _averages(spikes.spikes_BTN, spikes, others, some, *size)
            else:
                assert psths is not None
                names = [data.condition_names.get(n, str(n)) for n in some.tolist()]
                target_CTN, n_target_CT = psths.of_conditions(names, *size)
            compared_CT = (n_CT >= 1) & (n_target_CT >= 2)
            sums.add(average_CTN, target_CTN, compared_CT)
            compared.update(some[compared_CT.any(axis=1)].tolist())
    if not compared:
        return None
    scores = sums.result()
    return PsthScores(
        r2_N=scores.r2_N,
        r2_mean=scores.r2_mean,
        r2_median=scores.r2_median,
        r2_pooled=scores.r2_pooled,
        n_conditions=len(compared),
        split_half=len(pairs) == 2,
    )


def _halves(conditions_B: IntArray) -> tuple[IntArray, IntArray]:
    """Divide the trials of each condition into two halves at random."""
    rng = np.random.default_rng(_SEED)
    in_first_B = np.zeros(len(conditions_B), dtype=bool)
    for condition in np.unique(conditions_B):
        trials = rng.permutation(np.flatnonzero(conditions_B == condition))
        in_first_B[trials[: len(trials) // 2]] = True
    return np.flatnonzero(in_first_B), np.flatnonzero(~in_first_B)


def _shared_conditions(
    data: SpikeData, scored: IntArray, spikes: SpikeData | None, others: IntArray
) -> IntArray:
    """Return the conditions with at least one trial to score and two for a PSTH."""
    assert data.conditions_B is not None
    if spikes is None:
        return np.unique(data.conditions_B[scored])
    assert spikes.conditions_B is not None
    labels, n_trials = np.unique(spikes.conditions_B[others], return_counts=True)
    return np.intersect1d(labels[n_trials >= 2], data.conditions_B[scored])


def _averages(
    values_BTN: TrialValues | IntArray,
    data: SpikeData,
    among: IntArray,
    conditions: IntArray,
    n_bins: int,
    n_neurons: int,
) -> tuple[Float64Array, IntArray]:
    """Return the mean of smoothed values of each condition, and the number of trials per bin."""
    assert data.conditions_B is not None
    inside_BT: BoolArray = data.inside_BT[:, :n_bins]
    means_CTN = np.zeros((len(conditions), n_bins, n_neurons))
    n_CT = np.zeros(means_CTN.shape[:2], dtype=np.int64)
    for row, condition in enumerate(conditions):
        trials = among[data.conditions_B[among] == condition]
        n_CT[row] = inside_BT[trials].sum(axis=0)
        for block in trial_blocks(len(trials), n_bins * n_neurons):
            some = trials[block]
            values = values_BTN[some][:, :n_bins, :n_neurons]
            smoothed_BTN = smooth(values, inside_BT[some], PSTH_SMOOTHING_MS, data.bin_ms)
            means_CTN[row] += smoothed_BTN.sum(axis=0)
        means_CTN[row] /= np.maximum(n_CT[row], 1)[:, None]
    return means_CTN, n_CT
