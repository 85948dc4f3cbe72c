"""Training, from settings to a run folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ndt_cli.data.load import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.checks import check_resumable, check_same_data
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.engine.distributed import Ranks, process_group
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.provenance import describe_run
from ndt_cli.engine.run_folder import RunFolder, default_path
from ndt_cli.engine.tensorboard import require_tensorboard
from ndt_cli.engine.trainer import Trainer, TrainResult, ignore
from ndt_cli.errors import RunError
from ndt_cli.settings.tree import Settings


def train(
    settings: Settings,
    *,
    out: Path | str | None = None,
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
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

    Returns
    -------
    TrainResult

    Raises
    ------
    DataError, DeviceError, RunError
        Before the first step, when the data, the device or the folder will not do.
    TrainingError
        When loss or gradient is not finite; the checkpoints hold earlier weights.

    Examples
    --------
    >>> from ndt_cli import load_settings, train
    >>> result = train(load_settings("lorenz-quick"))  # doctest: +SKIP
    """
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    ranks = Ranks.from_environment()
    compute = choose_compute(settings.train, ranks.local_rank)
    path = Path(out) if out is not None else default_path(Path(recording.source).stem)
    with cpu_threads(settings.train.n_threads) as n_threads, process_group(ranks, compute.device):
        folder = RunFolder(path)
        trainer = Trainer(settings, recording, folder, compute, ranks)
        _start_folder(folder, settings, ranks, compute, describe_run(recording, compute, n_threads))
        return trainer.run(n_threads, watch or ignore, should_stop)


def resume(
    run: Path | str,
    *,
    overrides: Sequence[str] = (),
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Go on with a run from its last checkpoint, exactly as if it had never stopped.

    Parameters
    ----------
    run : Path or str
        A run folder.
    overrides : sequence of str
        ``"train.max_epochs=500"`` and ``"train.patience_epochs=100"`` may change; anything else
        would be another run.
    recording, watch, should_stop
        As in `train`.

    Raises
    ------
    SettingsError
        When another setting is overridden.
    RunError
        When it is no run folder, or the data are not those that the run was trained on.
    CheckpointError
        When the last checkpoint is missing or damaged.
    """
    folder = RunFolder.open(Path(run))
    settings = folder.settings(overrides)
    check_resumable(folder.settings(), settings)
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    check_same_data(folder, recording)
    ranks = Ranks.from_environment()
    compute = choose_compute(settings.train, ranks.local_rank)
    with cpu_threads(settings.train.n_threads) as n_threads, process_group(ranks, compute.device):
        checkpoint = Checkpoint.load(folder.checkpoint("last"))
        if ranks.is_first:
            folder.write_settings(settings)
        trainer = Trainer(settings, recording, folder, compute, ranks)
        trainer.restore(checkpoint)
        return trainer.run(n_threads, watch or ignore, should_stop)


def _start_folder(
    folder: RunFolder, settings: Settings, ranks: Ranks, compute: Compute, about: dict[str, Any]
) -> None:
    """Let the first process make the run folder, and every process fail if it cannot."""
    refusal: RunError | None = None
    if ranks.is_first:
        try:
            folder.create()
        except RunError as error:
            refusal = error
    (failed,) = ranks.from_first([float(refusal is not None)], compute.device)
    if refusal is not None or failed:
        raise refusal or RunError("the first process could not make the run folder")
    if ranks.is_first:
        folder.write_settings(settings)
        folder.write_json("run.json", about)
