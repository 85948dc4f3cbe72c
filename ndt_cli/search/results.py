"""What a sweep has found so far: a row a member, ranked."""

import csv
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ndt_cli.search.draws import Value
from ndt_cli.search.scoring import Scores, lower_is_better

# "unfinished": its training has begun and can go on; "waiting": not begun.
RANKED = ("finished", "early", "stopped")
ENDED = (*RANKED, "diverged")
STATUSES = (*ENDED, "unfinished", "waiting")


def scores_to_json(scores: Scores) -> dict[str, float | None]:
    """Return scores as JSON can hold them: one that is not finite is None."""
    return {name: score if math.isfinite(score) else None for name, score in scores.items()}


def scores_from_json(scores: dict[str, float | None]) -> Scores:
    """Return what `scores_to_json` made.

    Raises
    ------
    TypeError
        When a score is neither a number nor None.
    """
    for name, score in scores.items():
        if score is not None and type(score) not in (int, float):
            raise TypeError(f"the score {name} is {score!r}")
    return {name: math.nan if score is None else score for name, score in scores.items()}


@dataclass(frozen=True)
class MemberResult:
    """What is known of a member.

    Parameters
    ----------
    index : int
        Its number, from 0.
    folder : Path
        Its run folder.
    drawn : dict of str to value
        What was drawn for it, by dotted name.
    status : str
        ``"finished"``, ``"early"``, ``"stopped"``, ``"diverged"``, ``"unfinished"`` or
        ``"waiting"``.
    scores : dict of str to float
        Of its best checkpoint on the validation trials, by names of ``train.choose_by``; empty
        where there is none.
    best_epoch : int or None
        Epochs that were done when that checkpoint was saved.
    epochs : int
        Epochs that are complete.
    seconds : float
        Time spent training.
    message : str
        Why, for a member that diverged or was stopped.
    """

    index: int
    folder: Path
    drawn: dict[str, Value]
    status: str
    scores: Scores
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a score that is not finite is None."""
        return {
            "member": self.index,
            "folder": f"members/{self.folder.name}",
            "status": self.status,
            "scores": scores_to_json(self.scores),
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "seconds": round(self.seconds, 3),
            "message": self.message,
            "drawn": self.drawn,
        }

    @classmethod
    def from_json(cls, sweep: Path, row: dict[str, Any]) -> "MemberResult":
        """Return what `to_json` made.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError
            When it is no such row, or its folder is not one of the sweep.
        """
        values = {
            "index": row["member"],
            "folder": str(sweep / row["folder"]),
            "drawn": row["drawn"],
            "status": row["status"],
            "scores": {},
            "best_epoch": row["best_epoch"],
            "epochs": row["epochs"],
            "seconds": row["seconds"],
            "message": row["message"],
        }
        # As JSON: the strict check of Python's values takes no dict for a row.
        result = _ROW.validate_json(json.dumps(values, allow_nan=False), strict=True)
        result = replace(result, scores=scores_from_json(row["scores"]))
        # A file from elsewhere must not lead out of the sweep's own folder.
        if result.folder.parent != sweep / "members" or result.folder.name == "..":
            raise ValueError(f"folder {row['folder']!r} is not in members/")
        if result.status not in _STATUSES:
            raise ValueError(f"status {result.status!r}")
        return result


_STATUSES = (*ENDED, "unfinished", "waiting")
_ROW = TypeAdapter(MemberResult)


@dataclass(frozen=True)
class SweepResults:
    """All members of a sweep.

    Parameters
    ----------
    path : Path
        The sweep's folder.
    choose_by : str
        The measure that ranks, as the setting ``train.choose_by``.
    members : tuple of MemberResult
        By number.
    mean_rate : dict of str to float
        What each neuron's mean rate scores on the same trials: a model that is no better has
        learned nothing.
    """

    path: Path
    choose_by: str
    members: tuple[MemberResult, ...]
    mean_rate: Scores

    @property
    def ranked(self) -> list[MemberResult]:
        """Members whose training has ended with a finite score, best first.

        One that was stopped among them: what it had reached by then is a model like any other.
        """
        sign = 1 if lower_is_better(self.choose_by) else -1
        scored = [
            member
            for member in self.members
            if member.status in RANKED and math.isfinite(self.score(member))
        ]
        return sorted(scored, key=lambda member: (sign * self.score(member), member.index))

    @property
    def collapsed(self) -> list[MemberResult]:
        """Ranked members that are no better than the mean rate."""
        sign = 1 if lower_is_better(self.choose_by) else -1
        floor = sign * self.mean_rate.get(self.choose_by, math.nan)
        return [member for member in self.ranked if sign * self.score(member) >= floor]

    @property
    def in_order(self) -> list[MemberResult]:
        """All members: the ranked ones best first, then the others by number."""
        ranked = self.ranked
        return ranked + [member for member in self.members if member not in ranked]

    @property
    def to_do(self) -> list[int]:
        """Numbers of the members that are still to be trained."""
        return [member.index for member in self.members if member.status not in ENDED]

    def score(self, member: MemberResult) -> float:
        """Return the score that a member is ranked by; NaN where it has none."""
        return member.scores.get(self.choose_by, math.nan)

    def count(self, status: str) -> int:
        """Return how many members have this status."""
        return sum(member.status == status for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ranked members first."""
        n_ranked = len(self.ranked)
        return {
            "sweep": str(self.path),
            "choose_by": self.choose_by,
            "lower_is_better": lower_is_better(self.choose_by),
            "mean_rate": scores_to_json(self.mean_rate),
            "members": [
                {"rank": number if number <= n_ranked else None, **member.to_json()}
                for number, member in enumerate(self.in_order, start=1)
            ],
        }

    def to_csv(self) -> str:
        """Return a table with one member a row; what is not defined is an empty cell."""
        rows = []
        for row in self.to_json()["members"]:
            scores, drawn = row.pop("scores"), row.pop("drawn")
            tail = {key: row.pop(key) for key in ("seconds", "folder", "message")}
            rows.append({**row, **scores, **drawn, **tail})
        columns = dict.fromkeys(key for row in rows for key in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
