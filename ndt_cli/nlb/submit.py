"""A submission from NWB files to scores: tensors, training, rates, file, check, scores.

What each phase may see: the validation phase trains on the train split, and chooses by and scores
the validation split. The test phase does the same to find the number of epochs, then trains again
for that long on train and validation trials together, and infers the test trials. No choice uses a
test label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.atomic import leftovers, write_text_atomic
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.data.write import write_recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.preflight import check_same_data, check_same_settings
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import for_trials, resume, train
from ndt_cli.errors import ExistingFileError, RunError, SettingsError, called
from ndt_cli.jsonable import json_text
from ndt_cli.nlb.benchmark_scores import Scores, score_with_baselines
from ndt_cli.nlb.catalog import (
    Phase,
    Progress,
    StopRequest,
    dataset_settings,
    no_progress,
    stop_if_asked,
    submission_key,
)
from ndt_cli.nlb.check import Expected, Finding, check_submission
from ndt_cli.nlb.submission import SubmissionRates, split_rates, write_submission
from ndt_cli.nlb.tensors import Arrays, NlbTensors, make_tensors, scored_inputs, to_recording
from ndt_cli.search.folder import EnsembleChoice, SweepFolder, choose_members
from ndt_cli.settings.tree import Settings


@dataclass(frozen=True, eq=False)
class DatasetResult:
    """One dataset of a submission."""

    key: str  # its group in the file
    phase: Phase
    rates: SubmissionRates  # mean over the members
    runs: list[Path]
    epochs: list[int]  # that each member was trained for
    scores: Scores  # by estimate; empty without labels
    choice: EnsembleChoice | None = None


@dataclass(frozen=True, eq=False)
class SubmitResult:
    """Result of `submit`: the file, its datasets, and the findings of its check."""

    file: Path
    datasets: list[DatasetResult]
    findings: list[Finding]


def summary(result: SubmitResult) -> dict[str, Any]:
    """Return the contents of ``scores.json``."""
    return {
        "file": str(result.file),
        "findings": [f"{finding.severity}: {finding}" for finding in result.findings],
        "datasets": {
            made.key: {
                "phase": made.phase,
                "scored_on": "validation split" if made.phase == "val" else "test split",
                "members": len(made.runs),
                "runs": [str(path) for path in made.runs],
                "epochs": made.epochs,
                "sweep": made.choice
                and {
                    "folder": str(made.choice.sweep),
                    "choose_by": made.choice.choose_by,
                    "n_ranked": len(made.choice.ranked),
                    "number_chosen": "on validation" if made.choice.curve else "given",
                    "validation_curve": made.choice.curve,
                },
                "scores": made.scores,
            }
            for made in result.datasets
        },
    }


def submit(
    names: Sequence[str],
    *,
    out: Path,
    data_dir: Path,
    bin_ms: int = 5,
    phase: Phase = "val",
    config: str | None = None,
    overrides: Sequence[str] = (),
    members: int | None = None,
    runs: Sequence[Path] = (),
    sweep: Path | None = None,
    labels: Mapping[str, Arrays] | None = None,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
    progress: Progress = no_progress,
) -> SubmitResult:
    """Make a submission for one or more datasets.

    Parameters
    ----------
    names : sequence of str
        Datasets, such as ``"mc_maze"``.
    out : Path
        New folder, or one that a call with the same arguments was stopped in, which is continued:
        ``submission.h5``, ``scores.json``, and one folder of runs per dataset.
    data_dir : Path
        Folder of the NWB files.
    bin_ms : {5, 20}
        Bin width.
    phase : {"val", "test"}
        Which trials to infer.
    config, overrides
        Settings; default: `ndt_cli.nlb.catalog.DEFAULT_CONFIG`.
    members : int, optional
        Number of models whose rates are averaged: trained with seeds from ``train.seed`` on
        (default: one), or the best of ``sweep`` (default: as many as validate best together).
    runs : sequence of Path, optional
        Runs of the validation phase, or ensembles of such, to use instead of training.
    sweep : Path, optional
        A sweep over the trials of the validation phase (`write_spike_file`) whose best
        members are used.
    labels : mapping of str to dict of arrays, optional
        Targets of the test phase by group. Without them that phase is not scored.
    watch, should_stop
        As in `ndt_cli.engine.training.train`. ``should_stop`` is also asked whenever progress is
        reported.
    progress : callable, optional
        Called as ``progress(what, done, total)`` for all steps but training.

    Raises
    ------
    NdtError
        If settings, files, packages or given runs are not usable.
    Interrupted
        If ``should_stop`` asked for it.

    Examples
    --------
    >>> result = submit(  # doctest: +SKIP
    ...     ["mc_maze_small"], out=Path("runs/maze"), data_dir=Path("nlb-data"), members=5
    ... )
    >>> result.datasets[0].scores["NDT"]["co-bps"]  # doctest: +SKIP
    """
    _check_sources(names, members, runs, sweep)
    keys = [submission_key(name, bin_ms) for name in names]
    _check_unused(out, keys)
    runs = _expanded(runs)
    if sweep is not None:
        SweepFolder.open(sweep)
    # Settings and tensors of all datasets before hours of training for the first one.
    settings = [dataset_settings(name, bin_ms, config, overrides) for name in names]
    given: list[tuple[NlbTensors, NlbTensors, Arrays | None]] = []
    for name, key in zip(names, keys, strict=True):
        told = _telling(key, progress, should_stop)
        val = scored = make_tensors(name, bin_ms, "val", data_dir, progress=told)
        if phase == "test":
            scored = make_tensors(name, bin_ms, "test", data_dir, progress=told)
        target = scored.target if phase == "val" else (labels or {}).get(key)
        given.append((val, scored, target))
    results = []
    for key, (val, scored, target), chosen in zip(keys, given, settings, strict=True):
        folder, told = out / key, _telling(key, progress, should_stop)
        recording = to_recording(val)
        stop_if_asked(should_stop)
        choice = None
        if sweep is not None:
            told("choosing members", 0, 1)
            ranked = SweepFolder.open(sweep).results().ranked
            _check_trained_on([member.folder for member in ranked], val, recording)
            choice = choose_members(sweep, members, recording=recording)
            chosen_runs = choice.runs
        elif runs:
            chosen_runs = runs
            _check_trained_on(runs, val, recording)
        else:
            chosen_runs = train_members(
                chosen, recording, folder, members or 1, watch=watch, should_stop=should_stop
            )
        epochs = [_chosen_epochs(run) for run in chosen_runs]
        final_runs, checkpoint = chosen_runs, None
        if phase == "test":
            # Monitored on the validation trials, although it trains on them: test counts are
            # unknown.
            both = replace(to_recording(scored), valid=recording.valid)
            final_runs, checkpoint = [], "last"
            for number, (run, n_epochs) in enumerate(zip(chosen_runs, epochs, strict=True)):
                final_runs.append(folder / "both" / f"test-{number}")
                own_settings = RunFolder.open(run).settings()
                _train(own_settings, both, final_runs[-1], n_epochs, watch, should_stop)
        trials, inputs = to_recording(scored).train, scored_inputs(scored)
        rates = _member_rates(final_runs, checkpoint, trials, inputs, chosen.train.device, told)
        scores: Scores = {}
        if target is not None:
            scores = score_with_baselines(rates, scored, target, told)
        results.append(DatasetResult(key, phase, rates, final_runs, epochs, scores, choice))
    stop_if_asked(should_stop)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "submission.h5"
    progress("writing and checking the submission", 0, 1)
    write_submission(file, {result.key: result.rates for result in results})
    expected = {
        key: Expected.of(scored.train, scored.eval, target or {})
        for key, (_, scored, target) in zip(keys, given, strict=True)
    }
    result = SubmitResult(file, results, check_submission(file, expected))
    write_text_atomic(out / "scores.json", json_text(summary(result)) + "\n", overwrite=False)
    progress("writing and checking the submission", 1, 1)
    return result


def _check_unused(out: Path, keys: Sequence[str]) -> None:
    """Refuse a folder that is in use, unless it holds only runs of one that was stopped."""
    written = ("submission.h5", "scores.json")
    if not out.exists():
        return
    temporary = leftovers(out, written)
    if not out.is_dir() or not all(
        path in temporary or (path.is_dir() and path.name in keys) for path in out.iterdir()
    ):
        raise ExistingFileError(out, "Choose another folder.")


def _check_sources(
    names: Sequence[str], members: int | None, runs: Sequence[Path], sweep: Path | None
) -> None:
    """Check that each dataset is named once, and at most one source of trained models is given."""
    if len(set(names)) < len(names):
        raise SettingsError(f"a dataset is named twice: {', '.join(names)}")
    if runs and sweep is not None:
        raise SettingsError("`runs` and `sweep` both give trained models", "Leave one of them out.")
    if runs and members is not None:
        raise SettingsError("`runs` gives trained models", "Leave out `members`.")
    if (runs or sweep is not None) and len(names) > 1:
        raise SettingsError(
            f"`{'runs' if runs else 'sweep'}` gives models of one dataset; found {len(names)}: "
            + ", ".join(names),
            "Submit them one by one.",
        )


def _telling(key: str, progress: Progress, should_stop: StopRequest) -> Progress:
    """Report with the dataset's key before it, and stop there if asked to."""

    def tell(what: str, done: int, total: int) -> None:
        stop_if_asked(should_stop)
        progress(f"{key}: {what}", done, total)

    return tell


# ------------------------------------------------------------------------------------------------
# Models: trained here, or given as runs, ensembles or a sweep
# ------------------------------------------------------------------------------------------------


def _expanded(paths: Sequence[Path]) -> list[Path]:
    """Return run folders, each ensemble replaced by its members."""
    runs: list[Path] = []
    for path in paths:
        # A member's folder is a run with the one checkpoint that the ensemble uses.
        if Ensemble.is_at(path):
            runs += [member.run.path for member in Ensemble.load(path, device="cpu").members]
        else:
            runs.append(RunFolder.open(path).path)
    return runs


def _check_trained_on(runs: Sequence[Path], val: NlbTensors, recording: Recording) -> None:
    """Check that runs were trained on these trials (validation phase)."""
    for run in runs:
        folder = RunFolder.open(run)
        folder.facts()  # a damaged run is reported first, with a hint of its own
        try:
            check_same_data(folder, recording)
        except RunError as error:
            file = called("write_spike_file", val.dataset.name, bin_ms=val.bin_ms, spikes="FILE")
            hint = f"Train it on the file that this writes: {file}"
            raise RunError(error.message, hint) from error


def train_members(
    settings: Settings,
    recording: Recording,
    folder: Path,
    n_members: int,
    *,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> list[Path]:
    """Train models with seeds from ``train.seed`` on; return their runs, ``folder/val-0``, ...

    Raises `Interrupted` if ``should_stop`` asks for it.
    """
    runs = [folder / f"val-{number}" for number in range(n_members)]
    for number, run in enumerate(runs):
        seeded = settings.train.model_copy(update={"seed": settings.train.seed + number})
        member = settings.model_copy(update={"train": seeded})
        _train(member, recording, run, None, watch, should_stop)
    return runs


def _train(
    settings: Settings,
    recording: Recording,
    out: Path,
    n_epochs: int | None,
    watch: Watcher | None,
    should_stop: StopRequest,
) -> None:
    """Train one model, or resume it; its spike file lies beside the run, to evaluate it with."""
    out.parent.mkdir(parents=True, exist_ok=True)
    data_file = out.with_name("spikes.h5")
    if not data_file.exists():
        write_recording(recording, data_file)
    data = settings.data.model_copy(update={"file": data_file.absolute(), "file_bin_ms": None})
    settings = settings.model_copy(update={"data": data})
    how: dict[str, Any] = {
        "recording": replace(recording, source=str(data_file)),
        "watch": watch,
        "should_stop": should_stop,
        "until_epoch": n_epochs,
    }
    if (out / "settings.toml").is_file():
        before, now = RunFolder.open(out).settings(), for_trials(settings, recording.train)
        what = f"{out} was begun with other settings"
        check_same_settings(before, now, what, "Repeat them, or choose another `out`.")
        result = resume(out, **how)
    else:
        result = train(settings, out=out, **how)
    stop_if_asked(should_stop)
    if n_epochs is not None and len(result.history) != n_epochs:
        raise RunError(
            f"{out} has trained for {len(result.history)} epochs; expected {n_epochs}, after which "
            "the run of the validation phase was best",
            "Choose another `out`.",
        )


def _chosen_epochs(run: Path) -> int:
    """Return the number of epochs after which a run had its best weights."""
    folder = RunFolder.open(run)
    name = f"best-{folder.settings().train.choose_by}"
    epochs = int(Checkpoint.load(folder.checkpoint(name)).progress["epoch"])
    if epochs < 1:
        raise RunError(f"{run}: it has not reached its first validation")
    return epochs


def _member_rates(
    runs: Sequence[Path],
    checkpoint: str | None,
    train_trials: SpikeData,
    eval_trials: SpikeData,
    device: str,
    progress: Progress,
) -> SubmissionRates:
    """Infer rates with each run's weights (``checkpoint=None``: its best); return their mean."""
    halves = (train_trials, eval_trials)
    totals = [np.zeros(trials.spikes_BTN.shape) for trials in halves]
    for done, run in enumerate(runs):
        progress("inferring rates", done, len(runs))
        trained = load_trained(run, checkpoint, device)
        for trials, total_BTN in zip(halves, totals, strict=True):
            trained.check_fits(trials, str(run))
            total_BTN += trained.rates(trials)
    progress("inferring rates", len(runs), len(runs))
    train_BTN, eval_BTN = (total_BTN / len(runs) for total_BTN in totals)
    return split_rates(train_BTN, eval_BTN, eval_trials.n_heldout, eval_trials.n_forward)
