"""Models for a submission: trained here, or given as runs, ensembles or a sweep; their mean rates.

A model is a run folder.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.data.write import write_recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.preflight import check_same_data
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import train
from ndt_cli.errors import RunError, called
from ndt_cli.nlb.catalog import Progress, StopRequest, no_progress, stop_if_asked
from ndt_cli.nlb.submission import SubmissionRates, split_rates
from ndt_cli.nlb.tensors import NlbTensors, to_recording
from ndt_cli.search.folder import EnsembleChoice, SweepFolder, choose_members
from ndt_cli.settings.tree import Settings


def expand_ensembles(paths: Sequence[Path]) -> list[Path]:
    """Return run folders, each ensemble replaced by its members."""
    runs: list[Path] = []
    for path in paths:
        # A member's folder is a run with the one checkpoint that the ensemble uses.
        if Ensemble.is_at(path):
            runs += [member.run.path for member in Ensemble.load(path, device="cpu").members]
        else:
            runs.append(RunFolder.open(path).path)
    return runs


def best_of_sweep(sweep: Path, n_members: int | None, tensors: NlbTensors) -> EnsembleChoice:
    """Choose the best members of a sweep, by validation trials alone (`choose_members`)."""
    ranked = [member.folder for member in SweepFolder.open(sweep).results().ranked]
    check_trained_on(ranked, tensors)
    return choose_members(sweep, n_members, recording=to_recording(tensors))


def check_trained_on(runs: Sequence[Path], tensors: NlbTensors) -> None:
    """Check that runs were trained on the trials of these tensors (validation phase)."""
    recording = to_recording(tensors)
    for run in runs:
        folder = RunFolder.open(run)
        folder.facts()  # a damaged run is reported first, with a hint of its own
        try:
            check_same_data(folder, recording)
        except RunError as error:
            file = called(
                "write_spike_file", tensors.dataset.name, bin_ms=tensors.bin_ms, spikes="FILE"
            )
            raise RunError(
                error.message, f"Train it on the file that this writes: {file}"
            ) from error


def train_members(
    settings: Settings,
    recording: Recording,
    folder: Path,
    n_members: int,
    *,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> list[Path]:
    """Train models that differ in their seed, from ``train.seed`` on.

    Returns their run folders, ``val-0``, ``val-1``, ... in ``folder``; raises `Interrupted` if
    ``should_stop`` asks for it.
    """
    runs = []
    for number in range(n_members):
        seed = settings.train.seed + number
        member = settings.model_copy(
            update={"train": settings.train.model_copy(update={"seed": seed})}
        )
        runs.append(folder / f"val-{number}")
        _train(member, recording, runs[-1], None, watch, should_stop)
    return runs


def retrain_members(
    runs: Sequence[Path],
    recording: Recording,
    folder: Path,
    *,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> list[Path]:
    """Train each model again on more trials, for the number of epochs of its best weights.

    The new runs are ``test-0``, ``test-1``, ...; use their last weights. ``recording.valid`` is
    only monitored.
    """
    retrained = []
    for number, run in enumerate(runs):
        retrained.append(folder / f"test-{number}")
        settings = RunFolder.open(run).settings()
        _train(settings, recording, retrained[-1], chosen_epochs(run), watch, should_stop)
    return retrained


def _train(
    settings: Settings,
    recording: Recording,
    out: Path,
    n_epochs: int | None,
    watch: Watcher | None,
    should_stop: StopRequest,
) -> None:
    """Train one model; its spike file lies beside the run, for resuming and evaluation."""
    out.parent.mkdir(parents=True, exist_ok=True)
    data_file = out.with_name("spikes.h5")
    if not data_file.exists():
        write_recording(recording, data_file)
    data = settings.data.model_copy(update={"file": data_file.absolute(), "file_bin_ms": None})
    train(
        settings.model_copy(update={"data": data}),
        out=out,
        recording=replace(recording, source=str(data_file)),
        watch=watch,
        should_stop=should_stop,
        until_epoch=n_epochs,
    )
    stop_if_asked(should_stop)


def chosen_epochs(run: Path) -> int:
    """Return the number of epochs after which a run had its best weights."""
    folder = RunFolder.open(run)
    name = f"best-{folder.settings().train.choose_by}"
    epochs = int(Checkpoint.load(folder.checkpoint(name)).progress["epoch"])
    if epochs < 1:
        raise RunError(f"{run}: it has not reached its first validation")
    return epochs


def member_rates(
    runs: Sequence[Path],
    checkpoint: str | None,
    train_trials: SpikeData,
    eval_trials: SpikeData,
    device: str = "auto",
    progress: Progress = no_progress,
    should_stop: StopRequest = lambda: False,
) -> SubmissionRates:
    """Infer rates with each run's weights (``checkpoint=None``: its best); return their mean."""
    halves = (train_trials, eval_trials)
    totals = [np.zeros(trials.spikes_BTN.shape) for trials in halves]
    for done, run in enumerate(runs):
        stop_if_asked(should_stop)
        progress("inferring rates", done, len(runs))
        trained = load_trained(run, checkpoint, device)
        for trials, total_BTN in zip(halves, totals, strict=True):
            trained.check_fits(trials, str(run))
            total_BTN += trained.rates(trials)
    progress("inferring rates", len(runs), len(runs))
    train_BTN, eval_BTN = (total_BTN / len(runs) for total_BTN in totals)
    return split_rates(train_BTN, eval_BTN, eval_trials.n_heldout, eval_trials.n_forward)
