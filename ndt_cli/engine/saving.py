"""Saving a run while it trains, on a disk that may be full for a while."""

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ndt_cli.engine.checkpoint import Checkpoint, Progress
from ndt_cli.engine.measures import BEST_CHECKPOINTS
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.tensorboard import EventLog
from ndt_cli.errors import RunError, RunWarning, called
from ndt_cli.settings.tree import TrainSettings

History = Sequence[Mapping[str, float]]


class Saver:
    """Writes checkpoints and ``metrics.jsonl``, and keeps what could not be written.

    The last checkpoint is written after the best ones and the log that it counts on, so that
    what is on disk fits together at whatever moment the process is killed.

    Parameters
    ----------
    folder : RunFolder
        The run.
    settings : TrainSettings
        How often to save. Where ``on_save_error`` is "go-on", what cannot be written is kept
        until the next save, with a warning; otherwise an error is raised.

    Attributes
    ----------
    is_behind : bool
        True while something that should be on disk is not.
    """

    def __init__(self, folder: RunFolder, settings: TrainSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._saved_at = time.monotonic()
        self._waiting: dict[str, Checkpoint] = {}  # best ones; a newer last one replaces the last
        self._log_is_whole = True
        self._shows = True
        self.is_behind = False

    def is_due(self) -> bool:
        """Return whether ``save_interval_minutes`` have passed since the last checkpoint."""
        minutes = (time.monotonic() - self._saved_at) / 60
        return minutes >= self._settings.save_interval_minutes

    def record(self, history: History) -> None:
        """Add the last record of a history to the log.

        Raises
        ------
        RunError
            If it cannot be written, and training is not to go on.
        """
        if not self._log_is_whole:  # the next save writes it anew
            return
        self._log_is_whole = False
        try:
            self._folder.append_metrics(history[-1])
            self._log_is_whole = True
        except OSError as error:
            self._failed("metrics.jsonl", error)

    def show(self, events: EventLog, history: History) -> None:
        """Add the last record to the TensorBoard log, until that cannot be written.

        Its writer does not recover, and ``metrics.jsonl`` says the same, so training goes on
        whatever ``on_save_error`` is.
        """
        if not self._shows:
            return
        try:
            events.add(history[-1])
        except OSError as error:
            self._shows = False
            warnings.warn(
                f"{self._folder.tensorboard} cannot be written ({error.strerror or error}): there "
                "will be no more TensorBoard events until the run is resumed",
                RunWarning,
                stacklevel=2,
            )

    @staticmethod
    def close(events: EventLog) -> None:
        """Close the TensorBoard log; what it could not write is in ``metrics.jsonl``."""
        with suppress(OSError):
            events.close()

    def save(
        self, name: str, checkpoint: Checkpoint, history: History, *, must: bool = False
    ) -> None:
        """Write a checkpoint, after those that are waiting.

        Parameters
        ----------
        name : str
            Of `CHECKPOINTS`.
        checkpoint : Checkpoint
            What to write; copied where it has to wait.
        history : sequence of records
            All records so far.
        must : bool
            Raise also where training would go on.

        Raises
        ------
        RunError
            If it cannot be written, and training is not to go on or ``must`` is set.
        """
        writing = name
        if name == "last":
            self._saved_at = time.monotonic()
        else:
            self._waiting[name] = checkpoint
        try:
            for writing in list(self._waiting):
                self._waiting[writing].save(self._folder.checkpoint(writing))
                del self._waiting[writing]
            if name == "last":
                writing = name
                if not self._log_is_whole:  # a line is missing, or stands there in part
                    self._folder.write_metrics(history)
                    self._log_is_whole = True
                self._folder.sync_metrics()
                checkpoint.save(self._folder.checkpoint(name))
                self.is_behind = False
        except OSError as error:
            if name in self._waiting:
                self._waiting[name] = _copied(checkpoint)
            self._failed(f"checkpoints/{writing}.safetensors", error, must=must)

    def _failed(self, name: str, error: OSError, *, must: bool = False) -> None:
        what = f"{self._folder.path / name} cannot be written ({error.strerror or error})"
        if must or self._settings.on_save_error == "stop":
            raise RunError(
                f"{what}; the checkpoints that were saved before are whole",
                f"free some space, then resume: {called('resume', self._folder.path)}",
            ) from error
        if not self.is_behind:
            warnings.warn(
                f"{what}. The checkpoints that were saved before are whole; training goes on and "
                "tries again at the next save",
                RunWarning,
                stacklevel=2,
            )
        self.is_behind = True


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """Copy the weights, which training goes on to change."""
    model = {name: tensor.detach().cpu().clone() for name, tensor in checkpoint.model.items()}
    return replace(checkpoint, model=model)


def take_later_best(folder: RunFolder, progress: Progress) -> None:
    """Count best checkpoints that were saved after the last one, before a kill.

    Going on gives the same again where computing is exact. Where it is not, as on most GPUs, what
    replaces them must be better still.

    Raises
    ------
    CheckpointError
        If a best checkpoint is damaged.
    """
    for name in BEST_CHECKPOINTS:
        path = folder.checkpoint(name)
        if path.is_file():
            saved = Progress.from_json(Checkpoint.load(path).progress)
            if saved.epoch > progress.epoch and name in saved.best:
                progress.best[name] = saved.best[name]
