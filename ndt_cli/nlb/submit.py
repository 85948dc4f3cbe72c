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

from ndt_cli.atomic import write_text_atomic
from ndt_cli.engine.events import Watcher
from ndt_cli.errors import ExistingFileError, SettingsError
from ndt_cli.jsonable import json_text
from ndt_cli.nlb.benchmark_scores import Scores, score_with_baselines
from ndt_cli.nlb.catalog import (
    Phase,
    Progress,
    StopRequest,
    dataset_settings,
    find_dataset,
    no_progress,
    stop_if_asked,
    submission_key,
)
from ndt_cli.nlb.check import Expected, Finding, check_submission
from ndt_cli.nlb.members import (
    best_of_sweep,
    check_trained_on,
    chosen_epochs,
    expand_ensembles,
    member_rates,
    retrain_members,
    train_members,
)
from ndt_cli.nlb.submission import SubmissionRates, write_submission
from ndt_cli.nlb.tensors import Arrays, NlbTensors, make_tensors, scored_inputs, to_recording
from ndt_cli.search.folder import EnsembleChoice, SweepFolder


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
        New folder: ``submission.h5``, ``scores.json``, and one folder of runs per dataset.
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
        As in `ndt_cli.engine.training.train`. ``should_stop`` is also asked before each step:
        reading, inferring with a member, scoring an estimate.
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
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExistingFileError(out, "Choose another folder.")
    for name in names:
        submission_key(find_dataset(name).name, bin_ms)
    runs = expand_ensembles(runs)
    if sweep is not None:
        SweepFolder.open(sweep)
    # Settings and tensors of all datasets before hours of training for the first one.
    settings = [dataset_settings(name, bin_ms, config, overrides) for name in names]
    given = []
    for name in names:
        stop_if_asked(should_stop)
        told = _prefixed(submission_key(name, bin_ms), progress)
        val = scored = make_tensors(name, bin_ms, "val", data_dir, progress=told)
        if phase == "test":
            stop_if_asked(should_stop)
            scored = make_tensors(name, bin_ms, "test", data_dir, progress=told)
        target = scored.target if phase == "val" else (labels or {}).get(scored.key)
        given.append(_Given(val, scored, target))
    results = []
    for dataset, chosen in zip(given, settings, strict=True):
        folder, told = out / dataset.key, _prefixed(dataset.key, progress)
        stop_if_asked(should_stop)
        choice = None
        if sweep is not None:
            told("choosing members", 0, 1)
            choice = best_of_sweep(sweep, members, dataset.val)
            chosen_runs = choice.runs
        elif runs:
            chosen_runs = list(runs)
            check_trained_on(runs, dataset.val)
        else:
            recording = to_recording(dataset.val)
            chosen_runs = train_members(
                chosen, recording, folder, members or 1, watch=watch, should_stop=should_stop
            )
        epochs = [chosen_epochs(run) for run in chosen_runs]
        final_runs, checkpoint = chosen_runs, None
        if phase == "test":
            # Monitored on the validation trials, although it trains on them: test counts are
            # unknown.
            both = replace(to_recording(dataset.scored), valid=to_recording(dataset.val).valid)
            final_runs, checkpoint = (
                retrain_members(
                    chosen_runs, both, folder / "both", watch=watch, should_stop=should_stop
                ),
                "last",
            )
        trials, inputs = to_recording(dataset.scored).train, scored_inputs(dataset.scored)
        device = chosen.train.device
        rates = member_rates(final_runs, checkpoint, trials, inputs, device, told, should_stop)
        scores: Scores = {}
        if dataset.target is not None:
            scores = score_with_baselines(rates, dataset.scored, dataset.target, told, should_stop)
        results.append(DatasetResult(dataset.key, phase, rates, final_runs, epochs, scores, choice))
    stop_if_asked(should_stop)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "submission.h5"
    progress("writing and checking the submission", 0, 1)
    write_submission(file, {result.key: result.rates for result in results})
    expected = {dataset.key: dataset.expected for dataset in given}
    result = SubmitResult(file, results, check_submission(file, expected))
    write_text_atomic(out / "scores.json", json_text(summary(result)) + "\n", overwrite=False)
    progress("writing and checking the submission", 1, 1)
    return result


def _check_sources(
    names: Sequence[str], members: int | None, runs: Sequence[Path], sweep: Path | None
) -> None:
    """Check that at most one source of trained models is given, for one dataset."""
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


@dataclass(frozen=True, eq=False)
class _Given:
    """Tensors of a dataset, and the targets of the scored trials if known."""

    val: NlbTensors
    scored: NlbTensors
    target: Arrays | None

    @property
    def key(self) -> str:
        return self.scored.key

    @property
    def expected(self) -> Expected:
        return Expected.of(self.scored.train, self.scored.eval, self.target or {})


def _prefixed(key: str, progress: Progress) -> Progress:
    """Put the dataset's key before what is reported."""
    return lambda what, done, total: progress(f"{key}: {what}", done, total)
