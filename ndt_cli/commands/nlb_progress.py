"""Progress of a submission: its stages, and training in between."""

import time
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from typing_extensions import Self

from ndt_cli.commands.console import log
from ndt_cli.commands.progress import TrainingProgress
from ndt_cli.engine.events import Event


class SubmitProgress:
    """Shows stages and training on standard error, one at a time; use it as a context.

    A stage lasts until the next stage or training begins, and leaves a line with its duration.
    Two live displays cannot run on one terminal, so training's own is opened when training begins
    and closed when a stage does.
    """

    def __init__(self) -> None:
        self._training: TrainingProgress | None = None
        self._stage: _Stage | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._end(done=kind is None)

    def training(self, event: Event) -> None:
        """Show an event of training."""
        if self._training is None:
            self._end()
            self._training = TrainingProgress().__enter__()
        self._training(event)

    def stage(self, what: str, done: int, total: int) -> None:
        """Show the progress of a stage; a new one ends the one before."""
        if self._stage is None or self._stage.what != what:
            self._end()
            self._stage = _Stage(what)
        self._stage.show(done, total)

    def _end(self, *, done: bool = True) -> None:
        if self._training is not None:
            self._training.__exit__(None, None, None)
        if self._stage is not None:
            self._stage.end(done)
        self._training = self._stage = None


class _Stage:
    """A spinner with the elapsed time; in a log file, a line completed when the stage ends."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=log,
            disable=not log.is_terminal,
            transient=True,
        )
        self._task: Any = self._bar.add_task(what, total=None, count="")
        if not log.is_terminal:
            _print(what, end="")
        self._bar.start()

    def show(self, done: int, total: int) -> None:
        self._bar.update(self._task, count=f" {done}/{total}" if 1 < total > done else "")

    def end(self, done: bool) -> None:
        self._bar.stop()
        seconds = f"{time.monotonic() - self._began:.1f} s"
        shown = self.what if log.is_terminal else ""
        _print(f"{shown}  {seconds}" if done else f"{shown}  stopped after {seconds}")


def _print(text: str, end: str = "\n") -> None:
    log.print(text, end=end, highlight=False, soft_wrap=True)
