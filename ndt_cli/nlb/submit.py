"""What a submission comes to: its file, and for each data set runs and scores."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ndt_cli.atomic import write_text_atomic
from ndt_cli.engine.events import Watcher
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.nlb.benchmark_scores import Scores, score_beside
from ndt_cli.nlb.catalog import (
    Phase,
    Progress,
    dataset_settings,
    find_dataset,
    no_progress,
    submission_key,
)
from ndt_cli.nlb.check import check_submission
from ndt_cli.nlb.findings import Expected, Finding
from ndt_cli.nlb.members import (
    Interrupted,
    StopRequest,
    SweepChoice,
    best_of_sweep,
    check_trained_on,
    chosen_epochs,
    member_rates,
    retrain_members,
    train_members,
    with_members,
)
from ndt_cli.nlb.recordings import scored_inputs, to_recording
from ndt_cli.nlb.submission import SubmissionRates, write_submission
from ndt_cli.nlb.tensors import Arrays, NlbTensors, make_tensors
from ndt_cli.search.folder import SweepFolder


@dataclass(frozen=True, eq=False)
class DatasetResult:
    """One data set of a submission.

    Attributes
    ----------
    key : str
        Its group in the file.
    phase : {"val", "test"}
    rates : SubmissionRates
        Mean over the members.
    runs : list of Path
        Run folders of the members.
    epochs : list of int
        Epochs that each member's weights were trained for.
    scores : dict of str to dict of str to float
        By estimate (``"NDT"``, ``"spike smoothing"``, ``"mean rate"``), then by metric; empty
        without labels.
    choice : SweepChoice or None
        How the members were chosen, where they are a sweep's.
    """

    key: str
    phase: Phase
    rates: SubmissionRates
    runs: list[Path]
    epochs: list[int]
    scores: Scores
    choice: SweepChoice | None = None


@dataclass(frozen=True, eq=False)
class SubmitResult:
    """What `ndt_cli.nlb.submit.submit` returns.

    Attributes
    ----------
    file : Path
        The submission.
    datasets : list of DatasetResult
    findings : list of Finding
        Of the check of the file as written.
    """

    file: Path
    datasets: list[DatasetResult]
    findings: list[Finding]


def summary(result: SubmitResult) -> dict[str, Any]:
    """Return the scores as plain values; one that is not defined is None."""
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
                "sweep": None if made.choice is None else _choice(made.choice),
                "scores": {
                    estimate: {k: v if math.isfinite(v) else None for k, v in metrics.items()}
                    for estimate, metrics in made.scores.items()
                },
            }
            for made in result.datasets
        },
    }


def _choice(choice: SweepChoice) -> dict[str, Any]:
    return {
        "folder": str(choice.sweep),
        "choose_by": choice.choose_by,
        "n_ranked": choice.n_ranked,
        "number_chosen": "on validation" if choice.curve else "given",
        "validation_curve": choice.curve,
    }


# ------------------------------------------------------------------------------------------------
# ``nlb-submit`` without the printing: tensors, training, rates, file, check, scores.
#
# What each phase may see: the validation phase trains on the train split and chooses by the
# validation split, which it is scored on. The test phase repeats that to learn after how many
# epochs
# to stop, then trains anew on train and validation trials together for so many epochs, and infers
# the test trials. No choice is made by a test label.
# ------------------------------------------------------------------------------------------------


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
    """Make a submission for some data sets.

    Parameters
    ----------
    names : sequence of str
        Data sets, such as ``"mc_maze"``.
    out : Path
        New folder: ``submission.h5``, ``scores.json``, and a folder of runs for each data set.
    data_dir : Path
        Folder of the NWB files.
    bin_ms : {5, 20}
        Bin width.
    phase : {"val", "test"}
        Which trials are inferred.
    config, overrides
        Settings; default: `ndt_cli.nlb.catalog.DEFAULT_CONFIG`.
    members : int, optional
        Models whose rates are averaged. They are trained with seeds from ``train.seed`` on;
        default: one. With ``sweep``, its best so many; default: as many as validate best together.
    runs : sequence of Path, optional
        Runs of the validation phase, or ensembles of such, to use instead of training any.
    sweep : Path, optional
        A sweep over the trials of the validation phase (`ndt_cli.nlb.recordings`) whose best
        members are used instead.
    labels : mapping of str to dict of arrays, optional
        Targets of the test phase by group. Without them that phase is not scored.
    watch, should_stop, progress
        Told of training; asked to stop; told of the rest.

    Raises
    ------
    NdtError
        When settings, files, packages or given runs will not do.
    Interrupted
        When ``should_stop`` said so.

    Examples
    --------
    >>> result = submit(  # doctest: +SKIP
    ...     ["mc_maze_small"], out=Path("runs/maze"), data_dir=Path("nlb-data"), members=5
    ... )
    >>> result.datasets[0].scores["NDT"]["co-bps"]  # doctest: +SKIP
    """
    _refuse_mixtures(names, members, runs, sweep)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is already there, and nothing is overwritten", "give another --out")
    for name in names:
        submission_key(find_dataset(name).name, bin_ms)
    runs = with_members(runs)
    if sweep is not None:
        SweepFolder.open(sweep)
    # All of them before hours of training for the first one.
    settings = [dataset_settings(name, bin_ms, config, overrides) for name in names]
    ending, progress = progress, _unless_stopped(progress, should_stop)
    given = [_read(name, bin_ms, phase, data_dir, labels or {}, progress) for name in names]
    results = []
    for dataset, chosen in zip(given, settings, strict=True):
        folder = out / dataset.key
        choice = None
        if sweep is not None:
            progress(f"{dataset.key}: choosing members", 0, 1)
            chosen_runs, choice = best_of_sweep(sweep, members, dataset.val)
        elif runs:
            chosen_runs = runs
            check_trained_on(runs, dataset.val)
        else:
            chosen_runs = train_members(
                chosen,
                to_recording(dataset.val),
                folder,
                members or 1,
                watch=watch,
                should_stop=should_stop,
            )
        epochs = [chosen_epochs(run) for run in chosen_runs]
        final_runs, checkpoint = chosen_runs, None
        if phase == "test":
            # Watched on the validation trials, though it trains on them too: test counts are
            # not known.
            both = replace(to_recording(dataset.scored), valid=to_recording(dataset.val).valid)
            final_runs, checkpoint = (
                retrain_members(
                    chosen_runs, both, folder / "both", watch=watch, should_stop=should_stop
                ),
                "last",
            )
        device = chosen.train.device
        made = _infer(dataset, final_runs, checkpoint, epochs, device, progress)
        results.append(replace(made, choice=choice))
    out.mkdir(parents=True, exist_ok=True)
    file = out / "submission.h5"
    ending("writing and checking the submission", 0, 1)
    write_submission(file, {result.key: result.rates for result in results})
    expected = {dataset.key: dataset.expected for dataset in given}
    result = SubmitResult(file, results, check_submission(file, expected))
    write_text_atomic(
        out / "scores.json", json.dumps(summary(result), indent=2) + "\n", overwrite=True
    )
    ending("writing and checking the submission", 1, 1)
    return result


def _unless_stopped(progress: Progress, should_stop: StopRequest) -> Progress:
    """Tell of progress; raise `Interrupted` where somebody has asked to stop."""

    def said(what: str, done: int, total: int) -> None:
        if should_stop():
            raise Interrupted
        progress(what, done, total)

    return said


def _refuse_mixtures(
    names: Sequence[str], members: int | None, runs: Sequence[Path], sweep: Path | None
) -> None:
    if runs and sweep is not None:
        raise SettingsError("--run and --sweep both bring trained models", "leave out one of them")
    if runs and members is not None:
        raise SettingsError("--run brings a trained model", "leave out --members")
    if (runs or sweep is not None) and len(names) > 1:
        raise SettingsError(
            f"--{'run' if runs else 'sweep'} brings models of one data set; found {len(names)}: "
            + ", ".join(names),
            "submit them one by one",
        )


@dataclass(frozen=True, eq=False)
class _Given:
    """What is known of a data set before a model is trained.

    Attributes
    ----------
    val : NlbTensors
        Of the validation phase.
    scored : NlbTensors
        Of the phase that is submitted.
    target : dict of str to array, or None
        What those trials held, where it is known.
    """

    val: NlbTensors
    scored: NlbTensors
    target: Arrays | None

    @property
    def key(self) -> str:
        return self.scored.key

    @property
    def expected(self) -> Expected:
        return Expected.of(self.scored.train, self.scored.eval, self.target or {})


def _read(
    name: str,
    bin_ms: int,
    phase: Phase,
    data_dir: Path,
    labels: Mapping[str, Arrays],
    progress: Progress,
) -> _Given:
    said = _of(submission_key(name, bin_ms), progress)
    val = make_tensors(name, bin_ms, "val", data_dir, progress=said)
    scored = val
    if phase == "test":
        scored = make_tensors(name, bin_ms, "test", data_dir, progress=said)
    target = scored.target if phase == "val" else labels.get(scored.key)
    return _Given(val, scored, target)


def _infer(
    given: _Given,
    runs: list[Path],
    checkpoint: str | None,
    epochs: list[int],
    device: str,
    progress: Progress,
) -> DatasetResult:
    """Average the rates of these models, and score them where that can be done."""
    said = _of(given.key, progress)
    inputs = scored_inputs(given.scored)
    train = to_recording(given.scored).train
    rates = member_rates(runs, checkpoint, train, inputs, device, said)
    scores = {}
    if given.target is not None:
        scores = score_beside(rates, given.scored, given.target, said)
    return DatasetResult(given.key, given.scored.phase, rates, runs, epochs, scores)


def _of(key: str, progress: Progress) -> Progress:
    """Say first which data set it is about."""
    return lambda what, done, total: progress(f"{key}: {what}", done, total)
