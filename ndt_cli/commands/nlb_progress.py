"""What is shown while a submission is made: its stages, and training in between."""

import time
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from typing_extensions import Self

from ndt_cli.commands.console import log
from ndt_cli.commands.progress import TrainingProgress
from ndt_cli.engine.events import Event


class SubmitProgress:
    """Shows stages and training on standard error, one at a time; use it as a context.

    A stage lasts until the next one or a training begins: some work, such as nlb_tools' grid
    search, does not tell how far it is, so the time is what moves. Each leaves a line with its
    seconds. On a terminal a second live display cannot run beside the first one, so training's
    own is opened when training begins and closed when a stage does.
    """

    def __init__(self) -> None:
        self._training: TrainingProgress | None = None
        self._stage: _SpinningStage | _PlainStage | None = None

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
        """Show how far a stage is; the one before it has ended."""
        if self._stage is None or self._stage.what != what:
            self._end()
            self._stage = _SpinningStage(what) if log.is_terminal else _PlainStage(what)
        self._stage.show(done, total)

    def _end(self, *, done: bool = True) -> None:
        if self._training is not None:
            self._training.__exit__(None, None, None)
        if self._stage is not None:
            self._stage.end(done)
        self._training = self._stage = None


class _SpinningStage:
    """A line that moves on a terminal; what stays of it is what was done, in how long."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            console=log,
            transient=True,
        )
        self._task: Any = self._bar.add_task(what, total=None, count="")
        self._bar.start()

    def show(self, done: int, total: int) -> None:
        self._bar.update(self._task, count=f" {done}/{total}" if 1 < total > done else "")

    def end(self, done: bool) -> None:
        self._bar.stop()
        _print(self.what + _after(self._began, done))


class _PlainStage:
    """A line in a log file: first what is done, then, when it is, in how long."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = time.monotonic()
        _print(what, end="")

    def show(self, done: int, total: int) -> None:
        """Say nothing more: a log file is no place for that."""

    def end(self, done: bool) -> None:
        _print(_after(self._began, done))


def _after(began: float, done: bool) -> str:
    seconds = f"{time.monotonic() - began:.1f} s"
    return f"  {seconds}" if done else f"  stopped after {seconds}"


def _print(text: str, end: str = "\n") -> None:
    log.print(text, end=end, highlight=False, soft_wrap=True)
