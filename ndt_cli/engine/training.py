"""Computing as a run began: a resumed run stays the same run on its own machine only."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads, deterministic_kernels
from ndt_cli.engine.distributed import Ranks, process_group
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.preflight import check_resumable, check_same_data
from ndt_cli.engine.run_folder import (
    RunFacts,
    RunFolder,
    claim_default_path,
    default_path,
    describe_run,
    hold_run,
    package_version,
)
from ndt_cli.engine.tensorboard import require_tensorboard
from ndt_cli.engine.trainer import Trainer, TrainResult, ignore
from ndt_cli.errors import DeviceError, RunError, RunWarning, SettingsError
from ndt_cli.settings.tree import Settings, TrainSettings


def compute_as_started(
    settings: TrainSettings, facts: RunFacts, run: Path, local_rank: int
) -> tuple[Compute, int]:
    """Return device and precision, and the number of threads, that a run began with.

    What the settings leave to the machine ("auto", 0 threads) is taken as it was, not as this
    machine would choose.

    Raises
    ------
    DeviceError
        When there is no such device here: the random streams of another kind cannot go on.

    Warns
    -----
    RunWarning
        When what follows may differ by rounding: fewer threads are to be had, or torch is another.
    """
    kind = facts.device.partition(":")[0]
    device = kind if settings.device == "auto" else settings.device
    as_before = settings.model_copy(update={"device": device, "precision": facts.precision})
    try:
        compute = choose_compute(as_before, local_rank)
    except DeviceError as error:
        raise DeviceError(
            f"{run} was trained on {facts.device} in {facts.precision}: {error.message}",
            "a run is resumed on the kind of device that it began on; start a new one here",
        ) from error
    n_threads = settings.n_threads or facts.n_threads
    unlike = []
    if compute.device.type == "cpu" and not settings.n_threads:
        n_available = torch.get_num_threads()
        if n_threads > n_available:
            unlike.append(f"{n_threads} CPU threads, and there are {n_available}")
            n_threads = n_available
    # As it was installed: torch's own name of its version may say more.
    before, now = facts.packages.get("torch"), package_version("torch")
    if before not in (None, now):
        unlike.append(f"torch {before}, and this is {now}")
    if unlike:
        warnings.warn(
            f"{run} began with {' and with '.join(unlike)}: from here on its numbers differ by "
            "rounding from those of a run that was never stopped",
            RunWarning,
            stacklevel=3,
        )
    return compute, n_threads


# ------------------------------------------------------------------------------------------------
# Training, from settings to a run folder.
# ------------------------------------------------------------------------------------------------


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
        Data in memory; otherwise what ``settings.data`` names is loaded.
    watch : callable, optional
        Told of the start, each step and each epoch (`ndt_cli.engine.events`).
    should_stop : callable, optional
        Asked after every step; once it is true, training saves and returns.
    until_epoch : int, optional
        Save and return when so many epochs are complete, with the schedule as it is.

    Returns
    -------
    TrainResult

    Raises
    ------
    DataError, DeviceError, RunError
        Before the first step, when the data, the device or the folder will not do.
    RunError
        When the run cannot be saved, and ``train.on_save_error`` says to stop or training ends.
    TrainingError
        When loss or gradient is not finite; the checkpoints hold earlier weights.

    Examples
    --------
    >>> from ndt_cli import load_settings, train
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> result = train(settings, out="runs/new")
    >>> result.stopped, len(result.history)
    ('finished', 5)
    """
    with new_run(settings, out, recording) as (trainer, n_threads):
        return trainer.run(n_threads, watch or ignore, should_stop, until_epoch)


def resume(
    run: Path | str,
    *,
    overrides: Sequence[str] = (),
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    until_epoch: int | None = None,
) -> TrainResult:
    """Go on with a run from its last checkpoint, exactly as if it had never stopped.

    Parameters
    ----------
    run : Path or str
        A run folder.
    overrides : sequence of str
        ``"train.max_epochs=500"`` may change, as may ``train.patience_epochs`` and how the run is
        saved; anything else would be another run.
    recording, watch, should_stop, until_epoch
        As in `train`.

    Raises
    ------
    SettingsError
        When another setting is overridden, or it has trained for more epochs than are asked for.
    RunError
        When it is no run folder, another process trains in it, or the data are not those that the
        run was trained on.
    DeviceError
        When the kind of device that it was trained on is not there.
    CheckpointError
        When the last checkpoint is missing or damaged.

    Warns
    -----
    RunWarning
        When it cannot be resumed to the last bit: fewer threads, or another version of torch.

    Examples
    --------
    >>> from ndt_cli import load_settings, resume, train
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> train(settings, out="runs/new", until_epoch=3).stopped
    'interrupted'
    >>> resume("runs/new").stopped
    'finished'
    """
    with earlier_run(run, overrides, recording) as (trainer, n_threads):
        return trainer.run(n_threads, watch or ignore, should_stop, until_epoch)


def for_trials(settings: Settings, train: SpikeData) -> Settings:
    """Return the settings with what they leave to the size of the training data."""
    n_bins = int(train.lengths_B.sum())
    return settings.for_size(train.n_trials, n_bins, int(train.spikes_BTN.sum()))


@contextmanager
def new_run(
    settings: Settings, out: Path | str | None, recording: Recording | None
) -> Iterator[tuple[Trainer, int]]:
    """Make a run folder and hold it; give what trains in it, and with how many threads.

    Parameters and errors as in `train`.
    """
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    settings = for_trials(settings, recording.train)
    ranks = Ranks.from_environment()
    compute = choose_compute(settings.train, ranks.local_rank)
    stem = Path(recording.source).stem
    folder = RunFolder(Path(out) if out is not None else default_path(stem))
    with computing(settings.train, settings.train.n_threads, compute, ranks) as n_threads:
        trainer = Trainer(settings, recording, folder, compute, ranks)
        about = describe_run(recording, compute, n_threads)

        @contextmanager
        def start() -> Iterator[None]:
            if out is None:
                folder.path = claim_default_path(stem)
            folder.create()
            with hold_run(folder.path):
                folder.check_unused()  # another process may have been here meanwhile
                folder.remove_leftovers()
                folder.write_json("run.json", about)
                folder.write_settings(settings)  # last: it makes the folder a run
                yield

        with _in_first_process(start, ranks, compute):
            yield trainer, n_threads


@contextmanager
def earlier_run(
    run: Path | str, overrides: Sequence[str], recording: Recording | None
) -> Iterator[tuple[Trainer, int]]:
    """Hold an earlier run where its last checkpoint was taken; see `new_run` and `resume`."""
    folder = RunFolder.open(Path(run))
    if Ensemble.is_at(folder.path):
        raise RunError(
            f"{folder.path} is an ensemble, which is not trained",
            "go on with one of the runs that it was made of",
        )
    settings = folder.settings(overrides)
    check_resumable(folder.settings(), settings)
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    check_same_data(folder, recording)
    ranks = Ranks.from_environment()
    facts = folder.facts()
    compute, n_threads = compute_as_started(settings.train, facts, folder.path, ranks.local_rank)
    with (
        computing(settings.train, n_threads, compute, ranks) as n_threads,
        _in_first_process(lambda: hold_run(folder.path), ranks, compute),
    ):
        if ranks.is_first:
            folder.remove_leftovers()
        trainer = Trainer(settings, recording, folder, compute, ranks)
        # Killed before its first checkpoint it begins again, which gives the same run.
        if not folder.is_untrained():
            trainer.restore(Checkpoint.load(folder.checkpoint("last")))
        done = trainer.progress.epoch
        if done > settings.train.max_epochs:
            raise SettingsError(
                f"train.max_epochs is {settings.train.max_epochs}, but {folder.path} has trained "
                f"for {done} epochs",
                f"leave it out, or ask for more: --set train.max_epochs={2 * done}",
            )
        if ranks.is_first:
            folder.write_settings(settings)
        yield trainer, n_threads


@contextmanager
def computing(
    settings: TrainSettings, n_threads: int, compute: Compute, ranks: Ranks
) -> Iterator[int]:
    """Set up threads, kernels and processes as a run needs them; give the number of threads."""
    with (
        cpu_threads(n_threads) as n_threads,
        deterministic_kernels(settings.deterministic, compute.device),
        process_group(ranks, compute.device),
    ):
        yield n_threads


@contextmanager
def _in_first_process(
    enter: Callable[[], AbstractContextManager[None]], ranks: Ranks, compute: Compute
) -> Iterator[None]:
    """Let the first process enter a context, and every process fail if it cannot."""
    refusal: RunError | OSError | None = None
    with ExitStack() as held:
        if ranks.is_first:
            try:
                held.enter_context(enter())
            except (RunError, OSError) as error:
                refusal = error
        (failed,) = ranks.from_first([float(refusal is not None)], compute.device)
        if refusal is not None or failed:
            raise refusal or RunError("the first process could not begin; its message says why")
        yield
