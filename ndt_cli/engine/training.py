"""Train a run, and resume one: from settings to a run folder."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.checkpoint import Checkpoint, Origin
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads, deterministic_kernels
from ndt_cli.engine.distributed import Ranks, process_group
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.measures import CHECKPOINTS
from ndt_cli.engine.preflight import (
    check_limits,
    check_resumable,
    check_same_data,
    check_trainable,
    load_own_data,
)
from ndt_cli.engine.run_folder import (
    RunFacts,
    RunFolder,
    claim_default_path,
    default_path,
    describe_data,
    describe_run,
    hold_run,
    package_version,
)
from ndt_cli.engine.starting import Start
from ndt_cli.engine.trackers import require_tensorboard
from ndt_cli.engine.trainer import Trainer, TrainResult, ignore
from ndt_cli.errors import DeviceError, NdtError, RunError, RunWarning, SettingsError
from ndt_cli.settings.load import Overrides
from ndt_cli.settings.tree import Settings, TrainSettings

_log = logging.getLogger(__name__)


def train(
    settings: Settings,
    *,
    out: Path | str | None = None,
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    until_epoch: int | None = None,
) -> TrainResult:
    """Train a Neural Data Transformer.

    Parameters
    ----------
    settings : Settings
        See `ndt_cli.load_settings`.
    out : Path or str, optional
        A new run folder. Default: ``runs/<data>-<time>``.
    recording : Recording, optional
        Data in memory. Default: load what ``settings.data`` names.
    watch : callable, optional
        Called at the start, after each step and after each epoch (`ndt_cli.engine.events`).
    should_stop : callable, optional
        Asked after every step; once it returns True, training saves and returns.
    until_epoch : int, optional
        Stop after this many epochs; the schedule still spans ``train.max_epochs``.

    Returns
    -------
    TrainResult

    Raises
    ------
    DataError, DeviceError, RunError
        Before the first step, if the data, the device or the run folder is not usable.
    RunError
        If the run cannot be saved, and ``train.on_save_error`` is "stop" or training has ended.
    TrainingError
        If loss or gradient is not finite; the checkpoints hold earlier weights.

    Examples
    --------
    >>> from ndt_cli import load_settings, train
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> result = train(settings, out="runs/new")
    >>> result.stopped, len(result.history)
    ('finished', 5)
    """
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    settings = for_trials(settings, recording.train)
    ranks = Ranks.from_environment()
    compute = choose_compute(settings.train, ranks.local_rank)
    check_trainable(recording, settings)
    check_limits(recording.train, settings, compute.device, ranks.world_size)
    start_weights = _start(settings)
    if start_weights is not None:
        start_weights.match(settings, recording.train, recording.source)
    with ExitStack() as stack:
        n_threads = stack.enter_context(
            _computing(settings.train, settings.train.n_threads, compute, ranks)
        )
        stem = Path(recording.source).stem
        folder = RunFolder(Path(out) if out is not None else default_path(stem))

        def start() -> None:
            if out is None:
                folder.path = claim_default_path(stem)
            folder.create()
            stack.enter_context(hold_run(folder.path))
            folder.check_unused()  # another process may have been here meanwhile
            folder.remove_leftovers()
            folder.write_json("run.json", describe_run(recording, compute, n_threads))
            if start_weights is not None:
                start_weights.keep_decoder(folder)
            folder.write_settings(settings)  # last: it makes the folder a run

        _in_first_process(start, ranks, compute)
        _log.info(
            "training in %s on %s in %s, CPU threads: %d",
            folder.path,
            compute.device,
            compute.dtype,
            n_threads,
        )
        trainer = Trainer(settings, recording, folder, compute, ranks, start_weights)
        return trainer.run(n_threads, watch or ignore, should_stop, until_epoch)


def resume(
    run: Path | str,
    *,
    overrides: Overrides = (),
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    until_epoch: int | None = None,
    accept_changes: bool = False,
) -> TrainResult:
    """Resume a run from its last checkpoint, exactly as if it had never stopped.

    Parameters
    ----------
    run : Path or str
        A run folder.
    overrides : sequence of str, or mapping
        ``"train.max_epochs=500"`` may change, as may ``train.patience_epochs``, where data and
        processor are and how the run is saved; with any other change it would be another run.
    recording, watch, should_stop, until_epoch
        As in `train`.
    accept_changes : bool
        Warn, instead of refusing, if the settings, data, log or checkpoints of the run were
        changed since it was saved.

    Raises
    ------
    SettingsError
        If another setting is overridden, or the run has trained for more epochs than requested.
    RunError
        If it is not a run folder, another process trains in it, or its settings, data, log or
        checkpoints are not those that it was saved with.
    DeviceError
        If this machine does not have the kind of device that the run was trained on.
    CheckpointError
        If the last checkpoint is missing or damaged.

    Warns
    -----
    RunWarning
        If it cannot be resumed bit for bit: fewer threads, another version of torch, or other
        vector instructions of the processor.

    Examples
    --------
    >>> from ndt_cli import load_settings, resume, train
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> train(settings, out="runs/new", until_epoch=3).stopped
    'interrupted'
    >>> resume("runs/new").stopped
    'finished'
    """
    folder = RunFolder.open(Path(run))
    if Ensemble.is_at(folder.path):
        raise RunError(
            f"{folder.path} is an ensemble, which cannot be trained",
            "Resume one of the runs that it was made of.",
        )
    about = folder.read_json("run.json")
    if "trained_in" in about:
        raise RunError(
            f"{folder.path} is one session of {about['trained_in']}, and was trained there",
            f"Resume that run, or start a new one from this: `train.start_from={folder.path}`.",
        )
    if "imported" in about:
        raise RunError(
            f"{folder.path} was imported, and has no state to resume from",
            f"Train a new run that starts from its weights: `train.start_from={folder.path}`.",
        )
    settings = folder.settings(overrides)
    check_resumable(folder.settings(), settings)
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_own_data(folder.path, settings.data)
    check_same_data(folder, recording, accept_changes=accept_changes)
    check_trainable(recording, settings)
    ranks = Ranks.from_environment()
    compute, n_threads = _compute_as_started(
        settings.train, folder.facts(), folder.path, ranks.local_rank
    )
    check_limits(recording.train, settings, compute.device, ranks.world_size)
    with ExitStack() as stack:
        n_threads = stack.enter_context(_computing(settings.train, n_threads, compute, ranks))

        def hold() -> None:
            stack.enter_context(hold_run(folder.path))
            folder.remove_leftovers()

        _in_first_process(hold, ranks, compute)
        untrained = folder.is_untrained()
        start = _start(settings) if untrained else None
        trainer = Trainer(settings, recording, folder, compute, ranks, start)
        # Killed before its first checkpoint, a run starts over, which gives the same run.
        if not untrained:
            last = Checkpoint.load(folder.checkpoint("last"))
            trainer.restore(last, accept_changes=accept_changes)
        done = trainer.progress.epoch
        if done > settings.train.max_epochs:
            raise SettingsError(
                f"train.max_epochs is {settings.train.max_epochs}, but {folder.path} has trained "
                f"for {done} epochs",
                f"Leave it out, or ask for more: `train.max_epochs={2 * done}`.",
            )
        if ranks.is_first:
            folder.write_settings(settings)
        return trainer.run(n_threads, watch or ignore, should_stop, until_epoch)


def make_session_runs(
    folder: RunFolder, recording: Recording, alone: Sequence[Recording]
) -> list[RunFolder]:
    """Make a run folder of each session, with the encoder and its own read-in and read-out.

    Parameters
    ----------
    folder : RunFolder
        A run of several sessions whose training has ended.
    recording : Recording
        Its data.
    alone : sequence of Recording
        Each session, from `ndt_cli.data.loading.load_sessions`.
    """
    settings, sessions = folder.settings(), recording.train.sessions
    assert sessions is not None
    files = settings.data.files
    folders = [RunFolder(folder.path / "sessions" / name) for name in sessions.names]
    for place, (own, session) in enumerate(zip(folders, alone, strict=True)):
        file = files[place] if files else None
        data = settings.data.model_copy(update={"file": file, "files": ()})
        if place < len(alone) - 1:
            data = data.model_copy(update={"train_trials": None})
        own_settings = settings.model_copy(update={"data": data})
        (own.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        own.figures.mkdir(exist_ok=True)
        # Of an earlier end of the training: the folder is no run until it is whole again.
        (own.path / "settings.toml").unlink(missing_ok=True)
        own.remove_results()
        about = {"data": describe_data(session), "trained_in": str(folder.path.absolute())}
        own.write_json("run.json", {**folder.read_json("run.json"), **about})
        own.write_metrics(folder.read_metrics())
        columns = torch.from_numpy(np.flatnonzero(sessions.of_neuron_N == place))
        origin = Origin.of(own, own_settings)
        for kind in CHECKPOINTS:
            if folder.checkpoint(kind).is_file():
                model = Checkpoint.load(folder.checkpoint(kind)).of_neurons(columns)
                replace(model, origin=origin).save(own.checkpoint(kind))
        own.write_settings(own_settings)  # last: it makes the folder a run
    return folders


def _compute_as_started(
    settings: TrainSettings, facts: RunFacts, run: Path, local_rank: int
) -> tuple[Compute, int]:
    """Restore the device, precision and thread count of the original run; warn if they differ."""
    kind = facts.device.partition(":")[0]
    device = kind if settings.device == "auto" else settings.device
    as_before = settings.model_copy(update={"device": device, "precision": facts.precision})
    try:
        compute = choose_compute(as_before, local_rank)
    except DeviceError as error:
        raise DeviceError(
            f"{run} was trained on {facts.device} in {facts.precision}: {error.message}",
            "A run is resumed on the kind of device that it started on; start a new run here.",
        ) from error
    n_threads = settings.n_threads or facts.n_threads
    unlike = []
    if compute.device.type == "cpu" and not settings.n_threads:
        n_available = torch.get_num_threads()
        if n_threads > n_available:
            unlike.append(f"{n_threads} CPU threads (available now: {n_available})")
            n_threads = n_available
    # As it was installed: torch's own name of its version may say more.
    before, now = facts.packages.get("torch"), package_version("torch")
    if before not in (None, now):
        unlike.append(f"torch {before} (installed now: {now})")
    if facts.cpu_capability not in ("", compute.cpu_capability):
        unlike.append(f"{facts.cpu_capability} instructions (now: {compute.cpu_capability})")
    if unlike:
        warnings.warn(
            f"{run} started with {' and with '.join(unlike)}: from here on its numbers differ by "
            "rounding from those of a run that was never stopped",
            RunWarning,
            stacklevel=3,
        )
    return compute, n_threads


def _start(settings: Settings) -> Start | None:
    run = settings.train.start_from
    return None if run is None else Start.load(run)


def for_trials(settings: Settings, train: SpikeData) -> Settings:
    """Return the settings with what they leave to the size of the training data."""
    n_bins = int(train.lengths_B.sum())
    return settings.for_size(train.n_trials, n_bins, train.n_neurons)


@contextmanager
def _computing(
    settings: TrainSettings, n_threads: int, compute: Compute, ranks: Ranks
) -> Iterator[int]:
    """Set up threads, kernels and processes as a run needs them; give the number of threads."""
    with (
        cpu_threads(n_threads) as n_threads,
        deterministic_kernels(settings.deterministic, compute.device),
        process_group(ranks, compute.device),
    ):
        yield n_threads


def _in_first_process(action: Callable[[], None], ranks: Ranks, compute: Compute) -> None:
    """Do something in the first process; where that fails, every process fails."""
    refusal: NdtError | OSError | None = None
    if ranks.is_first:
        try:
            action()
        except (NdtError, OSError) as error:
            refusal = error
    (failed,) = ranks.from_first([float(refusal is not None)], compute.device)
    if refusal is not None or failed:
        raise refusal or RunError("rank 0 could not start; see its error message")
