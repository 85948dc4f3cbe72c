"""Runs side by side: their scores on the same trials, with bootstrap intervals over trials.

Axes in names: R resamples, B trials, T bins, N neurons.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import (
    FloatArray,
    Recording,
    SpikeData,
    Split,
    TrialValues,
    trial_blocks,
)
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError, count
from ndt_cli.evaluation import Evaluation, evaluate, scored_parts
from ndt_cli.jsonable import jsonable
from ndt_cli.metrics.scores import ZERO_RATE
from ndt_cli.settings.tree import DataSettings
from ndt_cli.verdict import COMPARED, MODEL, SMOOTHED, ComparedScore

Float64Array = NDArray[np.float64]

N_RESAMPLES = 1000
INTERVAL = 0.95
"""Share of the resamples that an interval holds."""


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap interval over trials; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class ComparedRun:
    """The scores of one run.

    Attributes
    ----------
    run : str
        The run folder, or ``"smoothed spikes"``.
    scores, differences : dict of str to Interval
        By label: each score, and the score less that of the first run. Resamples are the same
        trials for all runs, so that an interval of a difference tells more than two of scores.
    n_training_trials : int
        Training trials of these neurons; 0 for smoothed spikes.
    trained : {"alone", "adapted", "jointly", ""}
        Whether the run began with random weights, started from another run, or was trained
        together with other sessions.
    is_ensemble : bool
        Whether the rates are the mean of several runs.
    """

    run: str
    scores: dict[str, Interval]
    differences: dict[str, Interval]
    n_training_trials: int = 0
    trained: str = ""
    is_ensemble: bool = False


@dataclass(frozen=True)
class RunComparison:
    """What `compare_runs` returns.

    Attributes
    ----------
    runs : list of ComparedRun
        In the order given; smoothed spikes, as fitted for the first run, are last.
    units : dict of str to str
        Unit of each score, by label.
    split, source : str
        The trials.
    n_trials, n_resamples, seed : int
        Trials scored, resamples, and the seed of their draw.
    notes : tuple of str
        What a reader must know about the comparison.
    """

    runs: list[ComparedRun]
    units: dict[str, str]
    split: str
    source: str
    n_trials: int
    n_resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {**jsonable(self), "interval": INTERVAL}

    def to_csv(self) -> str:
        """Return one row per run and score; a number that is not defined is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        head = ["value", "low", "high"]
        columns = ["run", "score", "unit", *head, *(f"difference_{name}" for name in head)]
        writer.writerow(columns)
        for run in self.runs:
            for label, unit in self.units.items():
                both = (run.scores[label], run.differences[label])
                numbers = [number for i in both for number in (i.value, i.low, i.high)]
                cells = [repr(number) if math.isfinite(number) else "" for number in numbers]
                writer.writerow([run.run, label, unit, *cells])
        return text.getvalue()


def compare_runs(
    runs: Sequence[Path | str],
    *,
    split: Split | None = None,
    data: Path | str | None = None,
    device: str = "auto",
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    recording: Recording | None = None,
    accept_changes: bool = False,
) -> RunComparison:
    """Score runs on the same trials, with bootstrap intervals over trials.

    Trials are drawn with replacement; a score of a resample is computed from the sums of its
    trials, with the null model of bits per spike (each neuron's mean count) from the resample
    too. An interval holds the middle 95 % of the resamples. Scores of condition averages and of
    decoded behavior have none, nor have those of a single trial.

    Parameters
    ----------
    runs : sequence of Path or str
        Folders of runs or ensembles, each once.
    split, data, device
        As in `ndt_cli.evaluation.evaluate`; validation trials of a file that one of the runs was
        trained on.
    n_resamples : int
        Number of resamples.
    seed : int
        Seed of their draw.
    recording : Recording, optional
        The data of the runs, if they are in memory already.
    accept_changes : bool
        As in `ndt_cli.evaluation.evaluate`.

    Raises
    ------
    SettingsError
        If a run is given twice, or an argument is not usable.
    RunError
        If the runs are scored on different trials, bins or held-out neurons.
    CheckpointError, DataError, DeviceError
        As `ndt_cli.evaluation.evaluate` does.

    Examples
    --------
    >>> found = compare_runs(["runs/first"], n_resamples=100)
    >>> [run.run for run in found.runs], list(found.units)
    (['runs/first', 'smoothed spikes'], ['hidden bins', 'PSTH'])
    >>> hidden = found.runs[0].scores["hidden bins"]
    >>> hidden.low <= hidden.high
    True
    """
    paths = [Path(run) for run in runs]
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        listed = ", ".join(map(str, paths)) or "none"
        raise SettingsError(f"expected one run or more, each once; found {listed}")
    if n_resamples < 1:
        raise SettingsError(f"`n_resamples={n_resamples}`: expected 1 or more")
    if seed < 0:
        raise SettingsError(f"`seed={seed}`: expected 0 or more")
    loaded: dict[DataSettings, Recording] = {}

    def own(path: Path) -> Recording | None:
        if recording is not None or data is not None:
            return recording
        settings = RunFolder.open(path).settings().data
        if settings not in loaded:
            loaded.clear()
            loaded[settings] = load_recording(settings)
        return loaded[settings]

    samples: list[tuple[str, dict[str, tuple[float, Float64Array]]]] = []
    weights_RB: Float64Array | None = None
    first: Evaluation | None = None
    smoothed: dict[str, tuple[float, Float64Array]] = {}
    notes: list[str] = []
    for path in paths:
        found = evaluate(
            path,
            split=split,
            data=data,
            device=device,
            recording=own(path),
            accept_changes=accept_changes,
        )
        if weights_RB is None or first is None:
            first = found
            rng = np.random.default_rng(seed)
            n_trials = found.data.n_trials
            n_draws = n_resamples if n_trials > 1 else 0  # one trial is its only resample
            draws_RB = rng.multinomial(n_trials, np.full(n_trials, 1 / n_trials), n_draws)
            # The first row is the trials themselves.
            weights_RB = np.vstack([np.ones(n_trials), draws_RB])
            smoothed = _sampled(found, SMOOTHED, weights_RB)
        elif split is None and found.split != first.split:
            # One run was trained on a part of this file: none is scored on that part.
            return compare_runs(
                runs,
                split="valid",
                data=data,
                device=device,
                n_resamples=n_resamples,
                seed=seed,
                recording=recording,
                accept_changes=accept_changes,
            )
        elif found.data.fingerprint != first.data.fingerprint:
            raise _other_trials(path, found, paths[0], first)
        elif found.hiding != first.hiding:
            notes.append(
                f"{path} hides otherwise than {paths[0]} in the score of hidden bins: "
                f"{found.hiding}; {first.hiding}"
            )
        samples.append((str(path), _sampled(found, MODEL, weights_RB)))
    assert first is not None
    samples.append((SMOOTHED, smoothed))
    labels = [s for s in COMPARED if any(s.label in scores for _, scores in samples)]
    if any(score.section in ("psth", "behavior") for score in labels):
        notes.append("PSTH and behavior have no interval")
    if first.data.n_trials == 1:
        notes.append("a single trial has no interval")
    *compared, smoothing = _compared(samples, labels)
    compared = [_described(run) for run in compared]
    if len({run.n_training_trials for run in compared}) > 1:
        notes.append(f"smoothed spikes: fitted to the training trials of {paths[0]}")
    return RunComparison(
        runs=[*compared, smoothing],
        units={score.label: score.unit for score in labels},
        split=first.split,
        source=first.source,
        n_trials=first.data.n_trials,
        n_resamples=n_resamples,
        seed=seed,
        notes=tuple(notes),
    )


def _other_trials(path: Path, found: Evaluation, first_path: Path, first: Evaluation) -> RunError:
    """Return the error that names in what the scored trials of two runs differ."""
    hint = "Compare runs of the same data settings, or score all on one file with `data`."
    if found.data.heldout_ids.tolist() != first.data.heldout_ids.tolist():
        listed = [
            ", ".join(map(str, e.data.heldout_ids.tolist())) or "none" for e in (found, first)
        ]
        what = f"other held-out neurons ({listed[0]}) than {first_path} ({listed[1]})"
        hint = "Only runs that see the same neurons can be compared: train them with the same ones."
    elif found.data.bin_ms != first.data.bin_ms:
        what = f"bins of {found.data.bin_ms:g} ms, {first_path} on bins of {first.data.bin_ms:g} ms"
    else:
        what = (
            f"other trials or bins ({count(found.data.n_trials, 'trial')} of {found.source}) "
            f"than {first_path} ({count(first.data.n_trials, 'trial')} of {first.source})"
        )
    return RunError(f"{path} is scored on {what}", hint)


def _compared(
    samples: Sequence[tuple[str, dict[str, tuple[float, Float64Array]]]],
    labels: Sequence[ComparedScore],
) -> list[ComparedRun]:
    missing = (math.nan, np.full(1, math.nan))
    reference = samples[0][1]
    compared = []
    for name, scores in samples:
        own, differences = {}, {}
        for label in (score.label for score in labels):
            value, values_R = scores.get(label, missing)
            base, base_R = reference.get(label, missing)
            own[label] = _interval(value, values_R)
            differences[label] = _interval(value - base, values_R - base_R)
        compared.append(ComparedRun(name, own, differences))
    return compared


def _described(run: ComparedRun) -> ComparedRun:
    """Add on how many trials it was trained, from where it began, and whether it is an ensemble."""
    folder = RunFolder.open(Path(run.run))
    trained = "alone" if folder.settings().train.start_from is None else "adapted"
    if "trained_in" in folder.read_json("run.json"):
        trained = "jointly"
    return replace(
        run,
        n_training_trials=folder.facts().data.train.n_trials,
        trained=trained,
        is_ensemble=Ensemble.is_at(folder.path),
    )


def _interval(value: float, values_R: Float64Array) -> Interval:
    if not len(values_R) or not np.isfinite(values_R).all():
        return Interval(value)
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _sampled(
    found: Evaluation, estimate: str, weights_RB: Float64Array
) -> dict[str, tuple[float, Float64Array]]:
    """Return each score of an estimate by label: its value, and its values in the resamples."""
    data, scores = found.data, found.scores[estimate]
    seen_BTN, hidden_BTN = (
        (found.inferred, found.inferred_while_hidden)
        if estimate == MODEL
        else (found.smoothed, found.smoothed_while_hidden)
    )
    parts = scored_parts(data)
    sampled = {}
    for score in COMPARED:
        value = score.of(scores)
        if not math.isfinite(value):
            continue
        values_R = np.full(1, math.nan)
        if score.section in parts:
            rates_BTN = hidden_BTN if score.section == "hidden" else seen_BTN
            values_R = _bits_per_spike(rates_BTN, *parts[score.section], data, weights_RB)[1:]
        elif score.section == "rates":
            values_R = _rate_r2(seen_BTN, data, weights_RB)[1:]
        sampled[score.label] = value, values_R
    return sampled


def _sums(
    rates_BTN: TrialValues,
    data: SpikeData,
    sums_of: Callable[[FloatArray, slice], Sequence[Float64Array]],
) -> list[Float64Array]:
    """Return sums over the bins of each trial, (trials, neurons), computed in blocks of trials."""
    blocks = [
        sums_of(rates_BTN[trials], trials)
        for trials in trial_blocks(data.n_trials, data.n_bins * data.n_neurons)
    ]
    return [np.concatenate(sums) for sums in zip(*blocks, strict=True)]


def _bits_per_spike(
    rates_BTN: TrialValues, bins: slice, neurons: slice, data: SpikeData, weights_RB: Float64Array
) -> Float64Array:
    """Return bits per spike of weighted trials, as `ndt_cli.metrics.bits_per_spike` of them."""

    def sums_of(block_BTN: FloatArray, trials: slice) -> Sequence[Float64Array]:
        inside = data.inside_BT[trials, bins][:, :, None]
        rates = block_BTN[:, bins, neurons].astype(np.float64)
        rates = np.where(rates == 0, ZERO_RATE, rates)
        counts = data.spikes_BTN[trials, bins, neurons].astype(np.float64)
        loss_BN = (rates - xlogy(counts, rates)).sum(axis=1, where=inside)
        return loss_BN, counts.sum(axis=1, where=inside)

    loss_BN, spikes_BN = _sums(rates_BTN, data, sums_of)
    loss_RN, spikes_RN = weights_RB @ loss_BN, weights_RB @ spikes_BN
    n_R1 = weights_RB @ data.inside_BT[:, bins].sum(axis=1, dtype=float)[:, None]
    null_RN = spikes_RN / np.maximum(n_R1, 1)
    null_RN = np.where(null_RN == 0, ZERO_RATE, null_RN)
    null_loss_RN = n_R1 * null_RN - xlogy(spikes_RN, null_RN)
    n_spikes_R = spikes_RN.sum(axis=1)
    bits_R = (null_loss_RN - loss_RN).sum(axis=1) / np.log(2)
    missing_R = np.full(len(bits_R), math.nan)
    return np.asarray(np.divide(bits_R, n_spikes_R, out=missing_R, where=n_spikes_R > 0))


def _rate_r2(rates_BTN: TrialValues, data: SpikeData, weights_RB: Float64Array) -> Float64Array:
    """Return R2 of weighted trials, as `ndt_cli.metrics.rate_scores` of them, mean over neurons."""
    truth_BTN = data.rates_BTN
    assert truth_BTN is not None
    inside_BT1 = data.inside_BT[:, :, None]
    # Around the mean, so that the squares of a nearly constant rate keep their digits.
    mean_N = truth_BTN.mean(axis=(0, 1), where=inside_BT1, dtype=np.float64)

    def sums_of(block_BTN: FloatArray, trials: slice) -> Sequence[Float64Array]:
        inside = inside_BT1[trials]
        truth = truth_BTN[trials].astype(np.float64)
        centered = truth - mean_N
        return (
            np.square(truth - block_BTN).sum(axis=1, where=inside),
            centered.sum(axis=1, where=inside),
            np.square(centered).sum(axis=1, where=inside),
        )

    error_RN, sum_RN, square_RN = (
        weights_RB @ sums_BN for sums_BN in _sums(rates_BTN, data, sums_of)
    )
    n_R1 = weights_RB @ data.inside_BT.sum(axis=1, dtype=float)[:, None]
    total_RN = square_RN - np.square(sum_RN) / np.maximum(n_R1, 1)
    varies_N = total_RN[0] > 1e-12 * np.maximum(np.square(mean_N) * n_R1[0], 1e-300)
    total_RN, error_RN = total_RN[:, varies_N], error_RN[:, varies_N]
    r2_RN = 1 - np.divide(
        error_RN, total_RN, out=np.full(error_RN.shape, math.nan), where=total_RN > 0
    )
    return np.asarray(r2_RN.mean(axis=1)) if varies_N.any() else np.full(len(r2_RN), math.nan)
