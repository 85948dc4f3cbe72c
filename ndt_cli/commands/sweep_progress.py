"""What is shown while a sweep runs."""

import math
from dataclasses import replace

from typing_extensions import Self

from ndt_cli.commands.console import log
from ndt_cli.commands.progress import TrainingProgress
from ndt_cli.engine.events import Event, Started
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.scoring import MEASURES


class SweepProgress:
    """Shows training events, and a line for each member that has ended; use it as a context."""

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

    def member_ended(self, member: MemberResult, results: SweepResults) -> None:
        """Say how a member did, and how many are left."""
        tell_member(member, results)


def tell_member(member: MemberResult, results: SweepResults) -> None:
    """Say in a line how a member did, and how many are left."""
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
    log.print(f"member {member.index}: {', '.join(parts)}", highlight=False)
