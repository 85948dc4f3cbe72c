"""What is shown while a sweep runs."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from typing_extensions import Self

from ndt_cli.commands.console import log, note
from ndt_cli.commands.progress import SECONDS_BETWEEN_LINES, TrainingProgress
from ndt_cli.engine.events import Event, Started
from ndt_cli.engine.measures import MEASURES
from ndt_cli.search.results import MemberResult, SweepResults

if TYPE_CHECKING:
    from ndt_cli.search.pbt import Move


class SweepProgress:
    """Shows training in this process, and one line for each member that ends; use as a context."""

    def __init__(self) -> None:
        self._training = TrainingProgress()
        self._told_notes = False

    def __enter__(self) -> Self:
        self._training.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._training.__exit__(*error)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            if self._told_notes:  # all members have the same data
                event = replace(event, notes=())
            self._told_notes = True
        self._training(event)


class MembersProgress:
    """A bar for each member that trains elsewhere, or a line now and then; use as a context."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            console=log,
            disable=not log.is_terminal,
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.__exit__(None, None, None)

    def __call__(self, epochs: Mapping[int, int], max_epochs: int) -> None:
        for index in self._tasks.keys() - epochs.keys():
            self._bars.remove_task(self._tasks.pop(index))
        for index, epoch in epochs.items():
            if index not in self._tasks:
                self._tasks[index] = self._bars.add_task(_name(index), total=max_epochs)
            self._bars.update(self._tasks[index], completed=epoch)
        now = time.monotonic()
        if not log.is_terminal and epochs and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            members = ", ".join(f"{_name(index)} {epoch}" for index, epoch in epochs.items())
            note(f"epochs of {max_epochs}: {members}")


def _name(index: int) -> str:
    return f"member {index}" if index >= 0 else "default run"


def tell_member(member: MemberResult, results: SweepResults) -> None:
    """Print one line on how a member did, and how many are left."""
    ranked = results.ranked
    score = results.score(member)
    parts = [f"{member.epochs} epochs in {member.seconds:.0f} s"]
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
    note(f"ranked after {epoch} epochs: {who or 'no member is replaced'}")
