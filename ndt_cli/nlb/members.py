"""Models trained before, for a submission: runs that are named, ensembles, the best of a sweep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from ndt_cli.engine.trainer import TrainResult
from ndt_cli.engine.training import train
from ndt_cli.errors import RunError
from ndt_cli.nlb.catalog import Progress, no_progress
from ndt_cli.nlb.recordings import to_recording
from ndt_cli.nlb.submission import SubmissionRates, split_rates
from ndt_cli.nlb.tensors import NlbTensors
from ndt_cli.search.choose import choose_members
from ndt_cli.search.folder import SweepFolder
from ndt_cli.settings.tree import Settings


@dataclass(frozen=True)
class SweepChoice:
    """How members of a sweep were chosen.

    Attributes
    ----------
    sweep : Path
        The sweep's folder.
    choose_by : str
        The measure that ranks, as ``train.choose_by``; always of the validation trials.
    n_members, n_ranked : int
        Members that were chosen, and how many there are to choose from.
    curve : list of float
        Validation score of the mean rates of the best 1, 2, ... members; empty when their number
        was given.
    """

    sweep: Path
    choose_by: str
    n_members: int
    n_ranked: int
    curve: list[float]


def check_trained_on(runs: Sequence[Path], tensors: NlbTensors) -> None:
    """Refuse runs that were not trained on a data set's trials of the validation phase.

    Parameters
    ----------
    runs : sequence of Path
        Run folders.
    tensors : NlbTensors
        Of the validation phase.

    Raises
    ------
    RunError
        When there is no such run, or its train or validation trials were others: in number, bins,
        neurons, bin width or counts.
    """
    _check_trials(runs, to_recording(tensors), tensors)


def with_members(paths: Sequence[Path]) -> list[Path]:
    """Return run folders, with an ensemble's members in place of the ensemble.

    Raises
    ------
    RunError, CheckpointError
        When one is not there, or an ensemble is damaged.
    """
    runs: list[Path] = []
    for path in paths:
        # A member's folder is a run with the one checkpoint that the ensemble uses.
        if Ensemble.is_at(path):
            runs += [member.run.path for member in Ensemble.load(path, device="cpu").members]
        else:
            runs.append(RunFolder.open(path).path)
    return runs


def best_of_sweep(
    sweep: Path, n_members: int | None, tensors: NlbTensors
) -> tuple[list[Path], SweepChoice]:
    """Choose the best members of a sweep over a data set's trials of the validation phase.

    Parameters
    ----------
    sweep : Path
        A sweep's folder. Its data file need not be there any more.
    n_members : int, optional
        How many. Default: as many as score best together on the validation trials.
    tensors : NlbTensors
        Of the validation phase.

    Returns
    -------
    list of Path
        Their run folders, best first.
    SweepChoice

    Raises
    ------
    RunError
        When it is no sweep, none of its members is ranked yet, or they were trained on other
        trials.
    SettingsError
        When more members are asked for than are ranked.
    """
    recording = to_recording(tensors)
    ranked = [member.folder for member in SweepFolder.open(sweep).results().ranked]
    _check_trials(ranked, recording, tensors)
    choice = choose_members(sweep, n_members, recording=recording)
    about = SweepChoice(sweep, choice.choose_by, choice.n_members, len(ranked), choice.curve)
    return choice.runs, about


def _check_trials(runs: Sequence[Path], recording: Recording, tensors: NlbTensors) -> None:
    for run in runs:
        folder = RunFolder.open(run)
        # First, since what to do about a damaged run is another thing.
        folder.facts()
        try:
            check_same_data(folder, recording)
        except RunError as error:
            raise RunError(
                error.message,
                "it must be trained on the file that this writes: ndt nlb-data "
                f"{tensors.dataset.name} --bin-ms {tensors.bin_ms} --spikes FILE",
            ) from error


# ------------------------------------------------------------------------------------------------
# Models for one benchmark data set: trained, averaged, turned into the six rate arrays.
#
# A model is a run folder. Which ones are averaged is the caller's choice: those trained here by
# `train_members`, or any others.
# ------------------------------------------------------------------------------------------------


StopRequest = Callable[[], bool]


class Interrupted(Exception):  # noqa: N818  (a request, not an error)
    """The caller asked to stop; what was trained so far is in the run folders."""


def train_members(
    settings: Settings,
    recording: Recording,
    folder: Path,
    n_members: int,
    *,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> list[Path]:
    """Train models that differ in their seed; return their run folders.

    Parameters
    ----------
    settings : Settings
        Seeds go from ``train.seed`` on.
    recording : Recording
        Trials of the validation phase.
    folder : Path
        Where the runs are made: ``val-0``, ``val-1``, ...
    n_members : int
        How many.
    watch, should_stop
        As in `ndt_cli.engine.training.train`.

    Raises
    ------
    Interrupted
        When ``should_stop`` said so.
    """
    runs = []
    for number in range(n_members):
        member = _with_seed(settings, settings.train.seed + number)
        run = folder / f"val-{number}"
        train_member(member, recording, run, watch=watch, should_stop=should_stop)
        if should_stop():
            raise Interrupted
        runs.append(run)
    return runs


def retrain_members(
    runs: Sequence[Path],
    recording: Recording,
    folder: Path,
    *,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> list[Path]:
    """Train each model anew on more trials, for as many epochs as gave it its best weights.

    Parameters
    ----------
    runs : sequence of Path
        Run folders of the validation phase; settings and seed are theirs.
    recording : Recording
        Trials of the test phase; ``valid`` is only watched.
    folder : Path
        Where the runs are made: ``test-0``, ``test-1``, ...
    watch, should_stop
        As in `ndt_cli.engine.training.train`.

    Returns
    -------
    list of Path
        The new run folders. Their last weights are the ones to use.

    Raises
    ------
    Interrupted
        When ``should_stop`` said so.
    """
    retrained = []
    for number, run in enumerate(runs):
        settings, n_epochs = RunFolder.open(run).settings(), chosen_epochs(run)
        again = folder / f"test-{number}"
        train_member(
            settings, recording, again, n_epochs=n_epochs, watch=watch, should_stop=should_stop
        )
        if should_stop():
            raise Interrupted
        retrained.append(again)
    return retrained


def train_member(
    settings: Settings,
    recording: Recording,
    out: Path,
    *,
    n_epochs: int | None = None,
    watch: Watcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> TrainResult:
    """Train one model; its data lie beside its run, so that the run can be resumed and evaluated.

    Parameters
    ----------
    settings : Settings
        The data file they name is not read: ``recording`` is written beside the run.
    recording : Recording
        Trials of the benchmark.
    out : Path
        New run folder.
    n_epochs : int, optional
        Stop after so many epochs, with the schedule as it is. Default: as the settings say.
    watch, should_stop
        As in `ndt_cli.engine.training.train`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    data_file = out.with_name("spikes.h5")
    if not data_file.exists():
        write_recording(recording, data_file)
    data = settings.data.model_copy(update={"file": data_file.absolute(), "file_bin_ms": None})
    return train(
        settings.model_copy(update={"data": data}),
        out=out,
        recording=replace(recording, source=str(data_file)),
        watch=watch,
        should_stop=should_stop,
        until_epoch=n_epochs,
    )


def chosen_epochs(run: Path) -> int:
    """Return after how many epochs a run had its best weights, by ``train.choose_by``.

    Raises
    ------
    RunError
        When it has not validated yet.
    """
    folder = RunFolder.open(run)
    name = f"best-{folder.settings().train.choose_by}"
    # The checkpoint's own header says when it was taken.
    epochs = int(Checkpoint.load(folder.checkpoint(name)).progress["epoch"])
    if epochs < 1:
        raise RunError(f"{run}: it has not come to its first validation")
    return epochs


def member_rates(
    runs: Sequence[Path],
    checkpoint: str | None,
    train_trials: SpikeData,
    eval_trials: SpikeData,
    device: str = "auto",
    progress: Progress = no_progress,
) -> SubmissionRates:
    """Infer rates with each run's weights and return the mean over runs.

    Parameters
    ----------
    runs : sequence of Path
        Run folders of the members.
    checkpoint : str or None
        Which weights; None: each run's best by ``train.choose_by``.
    train_trials, eval_trials : SpikeData
        What is inferred; counts of held-out neurons and forward bins are never looked at.
    device : str
        As ``train.device``.
    progress : callable, optional
        Told how many runs are done.
    """
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


def _with_seed(settings: Settings, seed: int) -> Settings:
    return settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})})
