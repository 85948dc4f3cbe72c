"""What is shown while training: a bar on a terminal, lines in a log file."""

import time

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typing_extensions import Self

from ndt_cli.commands.console import log
from ndt_cli.commands.wording import as_typed
from ndt_cli.engine.events import EpochDone, Event, Started, StepDone

# Without a terminal, a line now and then, so that a log file stays readable.
SECONDS_BETWEEN_LINES = 10.0

_MEASURES = {
    "train_loss": "loss",
    "valid_masked_loss": "valid masked",
    "valid_unmasked_loss": "valid unmasked",
    "valid_rate_r2": "R2",
    "valid_co_bps": "co-bps",
}


class TrainingProgress:
    """Shows training events on standard error; use it as a context."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[max_epochs]}"),
            BarColumn(bar_width=12),
            _Measures(),
            TimeRemainingColumn(compact=True),
            console=log,
            disable=not log.is_terminal,
            transient=True,
        )
        self._steps_per_epoch = 1
        self._latest: dict[str, float] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif isinstance(event, StepDone):
            done = event.epoch * self._steps_per_epoch + event.step
            self._bar.update(self._task, completed=done)
        elif isinstance(event, EpochDone):
            self._latest |= event.record
            epoch = int(event.record["epoch"])
            self._bar.update(self._task, epoch=epoch, text=_short_text(self._latest))
            self._line(event.record)

    def _start(self, event: Started) -> None:
        for note in event.notes:
            log.print(as_typed(note), highlight=False)
        log.print(
            f"{event.n_train_trials} training and {event.n_valid_trials} validation trials, "
            f"{event.n_parameters:,} weights, on {event.compute}, CPU threads: {event.n_threads}",
            highlight=False,
        )
        log.print(f"run folder: {event.run}", highlight=False, soft_wrap=True)
        if event.first_epoch:
            log.print(f"going on after epoch {event.first_epoch}", highlight=False)
        self._steps_per_epoch = event.steps_per_epoch
        self._max_epochs = event.max_epochs
        for task in self._bar.task_ids:  # of a model that was trained before this one
            self._bar.remove_task(task)
        self._latest = {}
        self._task = self._bar.add_task(
            "training",
            total=event.max_epochs * event.steps_per_epoch,
            completed=event.first_epoch * event.steps_per_epoch,
            epoch=event.first_epoch,
            max_epochs=event.max_epochs,
            text="",
        )

    def _line(self, record: dict[str, float]) -> None:
        now = time.monotonic()
        if log.is_terminal or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        log.print(
            f"epoch {record['epoch']:.0f}/{self._max_epochs}  {_text(self._latest)}  "
            f"{record['seconds']:.0f} s",
            highlight=False,
        )


class _Measures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["text"], no_wrap=True)


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
