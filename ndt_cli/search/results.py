"""The members of a sweep, ranked by scores that can be compared.

During training a member validates under its own mask settings. With a smaller mask ratio its
masked loss is lower without its model being better. So the best checkpoint of each member is
measured again, with the bins hidden that the settings of the sweep hide
(`ndt_cli.engine.inference.run_scores`).
"""

import csv
import io
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import FiniteFloat

from ndt_cli.engine.measures import MEASURES, ValidationScores
from ndt_cli.jsonable import jsonable
from ndt_cli.search.space import Value

# "stopped": worse than other members after as many epochs; "early": no improvement for
# `train.patience_epochs`; "unfinished": training has begun and can resume; "waiting": not begun.
Ended = Literal["finished", "early", "stopped", "diverged"]
Status = Literal[Ended, "unfinished", "waiting"]
STATUSES: tuple[Status, ...] = (*get_args(Ended), "unfinished", "waiting")


@dataclass(frozen=True)
class MemberResult:
    """What is known of a member."""

    index: int  # from 0; below 0: the default run
    folder: Path
    drawn: dict[str, Value]  # by dotted name
    status: Status
    scores: ValidationScores = field(default_factory=dict)  # of its best checkpoint
    best_epoch: int | None = None  # of that checkpoint
    epochs: int = 0  # complete ones
    seconds: FiniteFloat = 0.0  # of training, over all resumptions
    message: str = ""  # why it diverged or was stopped

    @property
    def has_ended(self) -> bool:
        """True unless there is something left to train."""
        return self.status in get_args(Ended)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = jsonable(self)
        folder = f"{self.folder.parent.name}/{self.folder.name}"
        return {"member": values.pop("index"), **values, "folder": folder}


@dataclass(frozen=True)
class SettingsResult:
    """Members with the same settings but for the seed, and their mean score."""

    members: tuple[MemberResult, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class SweepResults:
    """All members of a sweep, by number, and what they are compared with."""

    path: Path
    choose_by: str  # the measure that ranks, as `train.choose_by`
    members: tuple[MemberResult, ...]
    # Scores of the "mean rate" of each neuron, of "smoothing" and of the "default run", which has
    # the settings of the sweep without any draw.
    references: dict[str, ValidationScores]
    n_seeds: int = 1  # consecutive members that differ in the seed alone

    @property
    def ranked(self) -> list[MemberResult]:
        """Members that have ended with a finite score, best first.

        This includes those stopped early: what they reached is a model like any other.
        """
        ended = [m for m in self.members if m.has_ended and m.status != "diverged"]
        scored = [m for m in ended if math.isfinite(self.score(m))]
        return sorted(scored, key=lambda m: (self._sign * self.score(m), m.index))

    @property
    def by_settings(self) -> list[SettingsResult]:
        """Groups of members with the same settings whose seeds are all ranked, best first."""
        ranked, found = self.ranked, []
        for draw in range(len(self.members) // self.n_seeds):
            members = tuple(m for m in ranked if m.index // self.n_seeds == draw)
            if len(members) == self.n_seeds:
                scores = np.array([self.score(member) for member in members])
                sd = float(scores.std(ddof=1)) if len(members) > 1 else 0.0
                found.append(SettingsResult(members, float(scores.mean()), sd))
        return sorted(found, key=lambda group: (self._sign * group.mean, group.members[0].index))

    @property
    def best(self) -> MemberResult | None:
        """The best member of the best settings; None before any has ended."""
        return next((group.members[0] for group in self.by_settings), None)

    @property
    def collapsed(self) -> list[MemberResult]:
        """Ranked members that are no better than the mean rate: they have learned nothing."""
        floor = self._sign * self.mean_rate.get(self.choose_by, math.nan)
        return [member for member in self.ranked if self._sign * self.score(member) >= floor]

    @property
    def in_order(self) -> list[MemberResult]:
        """All members: the ranked ones best first, then the others by number."""
        ranked = self.ranked
        return ranked + [member for member in self.members if member not in ranked]

    @property
    def to_do(self) -> list[int]:
        """Numbers of the members that have not ended."""
        return [member.index for member in self.members if not member.has_ended]

    @property
    def mean_rate(self) -> ValidationScores:
        """Scores of each neuron's mean rate."""
        return self.references.get("mean rate", {})

    @property
    def _sign(self) -> int:
        return 1 if MEASURES[self.choose_by].lower_is_better else -1

    def score(self, member: MemberResult) -> float:
        """Return the score that a member is ranked by; NaN if it has none."""
        return member.scores.get(self.choose_by, math.nan)

    def count(self, status: str) -> int:
        """Return the number of members with this status."""
        return sum(member.status == status for member in self.members)

    def with_member(self, known: MemberResult) -> "SweepResults":
        """Return the results with what is now known of a member or of the default run."""
        if known.index < 0:
            return replace(self, references={**self.references, "default run": known.scores})
        before, after = self.members[: known.index], self.members[known.index + 1 :]
        return replace(self, members=(*before, known, *after))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ranked members first."""
        n_ranked = len(self.ranked)
        content = {
            "sweep": str(self.path),
            "choose_by": self.choose_by,
            "lower_is_better": MEASURES[self.choose_by].lower_is_better,
            "references": self.references,
            "members": [
                {"rank": number if number <= n_ranked else None, **member.to_json()}
                for number, member in enumerate(self.in_order, start=1)
            ],
        }
        if self.n_seeds > 1:
            content["settings"] = [
                {"members": [m.index for m in group.members], "mean": group.mean, "sd": group.sd}
                for group in self.by_settings
            ]
        return {key: jsonable(value) for key, value in content.items()}

    def to_csv(self) -> str:
        """Return a table with one row per member; an undefined value is an empty cell."""
        rows = []
        for row in self.to_json()["members"]:
            scores, drawn = row.pop("scores"), row.pop("drawn")
            tail = {key: row.pop(key) for key in ("seconds", "folder", "message")}
            rows.append({**row, **scores, **drawn, **tail})
        text = io.StringIO()
        columns = dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
