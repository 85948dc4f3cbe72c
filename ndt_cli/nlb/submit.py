"""``nlb-submit`` without the printing: tensors, training, rates, file, check, scores.

What each phase may see: the validation phase trains on the train split and chooses by the
validation split, which it is scored on. The test phase repeats that to learn after how many epochs
to stop, then trains anew on train and validation trials together for so many epochs, and infers
the test trials. No choice is made by a test label.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ndt_cli.atomic import write_text_atomic
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.nlb.catalogue import Phase, find_dataset, submission_key
from ndt_cli.nlb.check import check_submission
from ndt_cli.nlb.expected import Expected
from ndt_cli.nlb.findings import Finding
from ndt_cli.nlb.mean_rate import mean_rate_submission
from ndt_cli.nlb.members import StopRequest, chosen_epochs, member_rates, train_member
from ndt_cli.nlb.progress import Progress, no_progress
from ndt_cli.nlb.recordings import scored_inputs, to_recording
from ndt_cli.nlb.scores import score
from ndt_cli.nlb.smoothing import BENCHMARK_SMOOTHING, smoothing_submission
from ndt_cli.nlb.submission import SubmissionRates, write_submission
from ndt_cli.nlb.tensors import Arrays, NlbTensors, make_tensors
from ndt_cli.settings.load import load_settings
from ndt_cli.settings.tree import Settings

Scores = dict[str, dict[str, float]]


class Interrupted(Exception):  # noqa: N818  (a request, not an error)
    """The caller asked to stop; what was trained so far is in the run folders."""


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
        where there are no labels.
    """

    key: str
    phase: Phase
    rates: SubmissionRates
    runs: list[Path]
    epochs: list[int]
    scores: Scores


@dataclass(frozen=True, eq=False)
class SubmitResult:
    """What `submit` returns.

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


def submit(
    names: Sequence[str],
    *,
    out: Path,
    data_dir: Path,
    bin_ms: int = 5,
    phase: Phase = "val",
    config: str | None = None,
    overrides: Sequence[str] = (),
    members: int = 1,
    run: Path | None = None,
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
        Settings; default: the preset of each data set.
    members : int
        Models to train, with seeds from ``train.seed`` on; their rates are averaged.
    run : Path, optional
        A run of the validation phase to use instead of training one.
    labels : mapping of str to dict of arrays, optional
        Targets of the test phase by group. Without them that phase is not scored.
    watch, should_stop, progress
        Told of training; asked to stop; told of the rest.

    Raises
    ------
    NdtError
        When settings, files or packages will not do.
    Interrupted
        When ``should_stop`` said so.
    """
    if run is not None and (members > 1 or len(names) > 1):
        raise SettingsError("a given run is one member of one data set: leave out --members")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is already there, and nothing is overwritten", "give another --out")
    for name in names:  # before hours of training for the first one
        submission_key(find_dataset(name).name, bin_ms)
    results, expected = [], {}
    for name in names:
        made = make_tensors(name, bin_ms, "val", data_dir, progress=progress)
        settings = dataset_settings(name, bin_ms, config, overrides)
        runs = [run] if run is not None else []
        folder = out / made.key
        if not runs:
            trials = to_recording(made)
            runs = [
                _member(settings, trials, folder / f"val-{m}", m, None, watch, should_stop)
                for m in range(members)
            ]
        epochs = [chosen_epochs(path) for path in runs]
        checkpoint = None
        if phase == "test":
            valid = to_recording(made).valid
            made = make_tensors(name, bin_ms, "test", data_dir, progress=progress)
            everything = replace(to_recording(made), valid=valid)
            (folder / "both").mkdir(parents=True, exist_ok=True)
            if run is not None:
                settings = RunFolder.open(run).settings()
            runs = [
                _member(
                    settings, everything, folder / "both" / f"test-{m}", m, n, watch, should_stop
                )
                for m, n in enumerate(epochs)
            ]
            checkpoint = "last"
        rates = member_rates(
            runs, checkpoint, to_recording(made).train, scored_inputs(made), settings.train.device
        )
        target = made.target if phase == "val" else (labels or {}).get(made.key)
        scores = {} if target is None else _score_beside(name, made, target, rates, progress)
        results.append(DatasetResult(made.key, phase, rates, runs, epochs, scores))
        expected[made.key] = Expected.of(made.train, made.eval, target or {})
    out.mkdir(parents=True, exist_ok=True)
    file = out / "submission.h5"
    write_submission(file, {result.key: result.rates for result in results})
    result = SubmitResult(file, results, check_submission(file, expected))
    write_text_atomic(out / "scores.json", json.dumps(summary(result), indent=2) + "\n")
    return result


def dataset_settings(
    name: str, bin_ms: int, config: str | None, overrides: Sequence[str]
) -> Settings:
    """Return the settings for a data set.

    A config counts its context window in bins of its ``data.file_bin_ms`` (5 in the presets). For
    other bins the window is scaled, so that it stays the same in time; an override still wins.
    """
    source = config or find_dataset(name).name
    base = load_settings(source)
    scale = (base.data.file_bin_ms or bin_ms) / bin_ms
    windows = {
        "context_back": base.model.context_back,
        "context_forward": base.model.context_forward,
    }
    scaled = [
        f"model.{field}={max(1, round(bins * scale))}"
        for field, bins in windows.items()
        if bins > 0 and scale != 1
    ]
    return load_settings(source, [*scaled, "train.choose_by=co-bps", *overrides])


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
                "scores": {
                    estimate: {k: v if math.isfinite(v) else None for k, v in metrics.items()}
                    for estimate, metrics in made.scores.items()
                },
            }
            for made in result.datasets
        },
    }


def _member(
    settings: Settings,
    recording: Recording,
    out: Path,
    number: int,
    n_epochs: int | None,
    watch: Watcher | None,
    should_stop: StopRequest,
) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    result = train_member(
        settings,
        recording,
        out,
        seed=settings.train.seed + number,
        n_epochs=n_epochs,
        watch=watch,
        should_stop=should_stop,
    )
    if should_stop():
        raise Interrupted
    return result.run


def _score_beside(
    name: str, tensors: NlbTensors, target: Arrays, rates: SubmissionRates, progress: Progress
) -> Scores:
    train = to_recording(tensors).train
    window = slice(0, train.n_bins - train.n_forward)
    heldin = slice(0, train.n_neurons - train.n_heldout)
    heldout = slice(train.n_neurons - train.n_heldout, None)
    counts = (
        train.spikes_BTN[:, window, heldin],
        train.spikes_BTN[:, window, heldout],
        train.spikes_BTN[:, window.stop :],
    )
    inputs = scored_inputs(tensors).spikes_BTN[:, window, heldin]
    smoothing = BENCHMARK_SMOOTHING[find_dataset(name).name]
    estimates = {
        "NDT": rates,
        "spike smoothing": smoothing_submission(
            *counts, inputs, tensors.bin_ms, smoothing, progress
        ),
        "mean rate": mean_rate_submission(*counts, len(inputs)),
    }
    key = tensors.key
    return {
        estimate: score({key: target}, {key: given}, progress).by_group[key]
        for estimate, given in estimates.items()
    }
