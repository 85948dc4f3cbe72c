"""What is shown while a sweep trains on Ray: several members at a time."""

import time

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from typing_extensions import Self

from ndt_cli.commands.console import log
from ndt_cli.commands.progress import SECONDS_BETWEEN_LINES
from ndt_cli.commands.sweep_progress import tell_member
from ndt_cli.search.ray_tuning import Standing
from ndt_cli.search.results import MemberResult, SweepResults


class RayProgress:
    """A bar for each member that is training, or a line now and then; use it as a context."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("member {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            console=log,
            disable=not log.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.__exit__(None, None, None)

    def __call__(self, standing: Standing) -> None:
        for members in self._tasks.keys() - standing.epochs.keys():
            self._bars.remove_task(self._tasks.pop(members))
        for members, epoch in standing.epochs.items():
            if members not in self._tasks:
                self._tasks[members] = self._bars.add_task(members, total=standing.max_epochs)
            self._bars.update(self._tasks[members], completed=epoch)
        self._line(standing)

    def member_ended(self, member: MemberResult, results: SweepResults) -> None:
        """Say how a member did, and how many are left."""
        tell_member(member, results)

    def _line(self, standing: Standing) -> None:
        now = time.monotonic()
        if log.is_terminal or now - self._last_line < SECONDS_BETWEEN_LINES or not standing.epochs:
            return
        self._last_line = now
        members = ", ".join(f"{index}: {epoch}" for index, epoch in standing.epochs.items())
        log.print(f"epochs done, of {standing.max_epochs}, by member: {members}", highlight=False)
