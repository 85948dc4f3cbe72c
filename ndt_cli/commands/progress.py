"""Progress of training, sweeps and submissions: bars on a terminal, lines in a log."""

import math
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from typing_extensions import Self

from ndt_cli.commands.console import log, note
from ndt_cli.commands.wording import as_typed
from ndt_cli.engine.events import EpochDone, Event, Started, StepDone
from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import count
from ndt_cli.search.results import MemberResult, SweepResults

if TYPE_CHECKING:
    from ndt_cli.search.pbt import Move


# Without a terminal, a line now and then, so that a log file stays readable.
SECONDS_BETWEEN_LINES = 10.0

_MEASURES = {
    "train_loss": "loss",
    "valid_masked_loss": "valid masked",
    "valid_unmasked_loss": "valid unmasked",
    "valid_rate_r2": "R2",
    "valid_co_bps": "co-bps",
}


def _can_draw_bars() -> bool:
    """Return whether bars can be drawn: on a terminal, or in a notebook that has widgets."""
    return log.is_terminal or (log.is_jupyter and find_spec("ipywidgets") is not None)


class TrainingProgress(Progress):
    """Shows training events on standard error or in a notebook; use it as a context.

    ``notes_once``: the notes of the first training are those of all, which have the same data.
    """

    def __init__(self, *, notes_once: bool = False) -> None:
        self._notes_once = notes_once
        super().__init__(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[max_epochs]}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=log,
            disable=not _can_draw_bars(),
            transient=True,
        )
        self._steps_per_epoch = 1
        self._latest: dict[str, float] = {}
        self._last_line = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, StepDone):
            done = event.epoch * self._steps_per_epoch + event.step
            self.update(self._task, completed=done)
        elif isinstance(event, EpochDone):
            self._latest |= event.record
            epoch = int(event.record["epoch"])
            self.update(self._task, epoch=epoch, text=_short_text(self._latest))
            self._line(event.record)

    def _start(self, event: Started) -> None:
        if not (self._notes_once and self.task_ids):  # of a model trained before
            for text in event.notes:
                note(as_typed(text))
        log.print(  # wrapped between words
            f"{event.n_train_trials} training and {event.n_valid_trials} validation trials, "
            f"{event.n_parameters:,} weights, on {event.compute}, CPU threads: {event.n_threads}"
        )
        note(f"run folder: {event.run}")
        if event.first_epoch:
            note(f"resuming after epoch {event.first_epoch}")
        self._steps_per_epoch = event.steps_per_epoch
        self._max_epochs = event.max_epochs
        for task in self.task_ids:
            self.remove_task(task)
        self._latest = {}
        self._task = self.add_task(
            "training",
            total=event.max_epochs * event.steps_per_epoch,
            completed=event.first_epoch * event.steps_per_epoch,
            epoch=event.first_epoch,
            max_epochs=event.max_epochs,
            text="",
        )

    def _line(self, record: dict[str, float]) -> None:
        now = time.monotonic()
        if not self.disable or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        note(
            f"epoch {record['epoch']:.0f}/{self._max_epochs}  {_text(self._latest)}  "
            f"{record['seconds']:.0f} s"
        )


def _short_text(record: dict[str, float]) -> str:
    """Say the same in half the width: validation losses as masked/unmasked."""
    parts = [f"loss {record['train_loss']:.4f}"]
    if "valid_masked_loss" in record:
        masked, unmasked = record["valid_masked_loss"], record["valid_unmasked_loss"]
        parts.append(f"valid {masked:.4f}/{unmasked:.4f}")
    if "valid_rate_r2" in record:
        parts.append(f"R2 {record['valid_rate_r2']:.3f}")
    if "valid_co_bps" in record:
        parts.append(f"co-bps {record['valid_co_bps']:.3f}")
    return " ".join(parts)


def _text(record: dict[str, float]) -> str:
    parts = [f"{label} {record[key]:.4f}" for key, label in _MEASURES.items() if key in record]
    return "  ".join(parts)


# What is shown while a sweep runs -----------------------------------------------------------------


class MembersProgress(Progress):
    """A bar for each member that trains elsewhere, or a line now and then; use as a context."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            console=log,
            disable=not log.is_terminal,
            transient=True,
        )
        self._task_of: dict[int, TaskID] = {}
        self._last_line = 0.0

    def __call__(self, epochs: Mapping[int, int], max_epochs: int) -> None:
        for index in self._task_of.keys() - epochs.keys():
            self.remove_task(self._task_of.pop(index))
        for index, epoch in epochs.items():
            if index not in self._task_of:
                self._task_of[index] = self.add_task(_name(index), total=max_epochs)
            self.update(self._task_of[index], completed=epoch)
        now = time.monotonic()
        if self.disable and epochs and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            members = ", ".join(f"{_name(index)} {epoch}" for index, epoch in epochs.items())
            note(f"epochs of {max_epochs}: {members}")


def _name(index: int) -> str:
    return f"member {index}" if index >= 0 else "default run"


def tell_member(member: MemberResult, results: SweepResults) -> None:
    """Print one line on how a member did, and how many are left."""
    ranked = results.ranked
    score = results.score(member)
    parts = [f"{count(member.epochs, 'epoch')} in {member.seconds:.0f} s"]
    if member.status == "diverged":
        parts.insert(0, "diverged")
    elif math.isfinite(score):
        rank = next(i for i, other in enumerate(ranked, 1) if other.index == member.index)
        label = MEASURES[results.choose_by].label
        parts.insert(0, f"{label} {score:.4f}, rank {rank} of {len(ranked)}")
    if member.status == "stopped":
        parts.insert(0, "stopped")
    parts.append(f"{len(results.to_do)} to go")
    note(f"member {member.index}: {', '.join(parts)}")


def tell_moves(epoch: int, moves: "Sequence[Move]") -> None:
    """Print which members a ranking replaced."""
    who = ", ".join(f"{move.member} is replaced by a copy of {move.source}" for move in moves)
    note(f"ranked after {count(epoch, 'epoch')}: {who or 'no member is replaced'}")


# Progress of a submission: its stages, and training in between ------------------------------------


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
            log.print(what, end="", soft_wrap=True)
        self._bar.start()

    def show(self, done: int, total: int) -> None:
        self._bar.update(self._task, count=f" {done}/{total}" if 1 < total > done else "")

    def end(self, done: bool) -> None:
        self._bar.stop()
        seconds = f"{time.monotonic() - self._began:.1f} s"
        shown = self.what if log.is_terminal else ""
        note(f"{shown}  {seconds}" if done else f"{shown}  stopped after {seconds}")
