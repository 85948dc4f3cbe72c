"""Who goes on from whom in population-based training: ``pbt.json`` of a sweep."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ndt_cli.atomic import write_text_atomic
from ndt_cli.errors import RunError
from ndt_cli.search.draws import Value


@dataclass(frozen=True)
class Move:
    """A member that goes on from another.

    Parameters
    ----------
    epoch : int
        Epochs that were complete.
    member, source : int
        Who is replaced, and from whom.
    drawn : dict of str to value
        The settings that it goes on with, by dotted name.
    """

    epoch: int
    member: int
    source: int
    drawn: dict[str, Value]


# Told after each ranking how many epochs were complete, and what was decided.
MovesWatcher = Callable[[int, Sequence[Move]], None]


@dataclass(frozen=True)
class Lineage:
    """Every move of a sweep.

    Parameters
    ----------
    interval_epochs : int
        Epochs between two rankings.
    last_epoch : int
        Epochs that were complete at the last ranking; 0 before the first.
    moves : tuple of Move
        In their order.
    """

    interval_epochs: int
    last_epoch: int = 0
    moves: tuple[Move, ...] = ()

    @classmethod
    def read(cls, sweep: Path) -> "Lineage | None":
        """Read ``pbt.json``; None where the sweep is not population-based.

        Raises
        ------
        RunError
            When it is damaged.
        """
        file = sweep / "pbt.json"
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            fields = {key: content[key] for key in ("interval_epochs", "last_epoch", "moves")}
            return TypeAdapter(cls).validate_python(fields)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(
                f"{file}: not whole ({error!r})",
                "it says who goes on from whom; take it from a copy",
            ) from error

    def after(self, epoch: int, moves: Sequence[Move]) -> "Lineage":
        """Return the lineage with a further ranking."""
        return replace(self, last_epoch=epoch, moves=(*self.moves, *moves))

    def write(self, sweep: Path) -> None:
        """Write ``pbt.json``, before any of its moves is made."""
        content: dict[str, Any] = {
            "interval_epochs": self.interval_epochs,
            "last_epoch": self.last_epoch,
            "moves": [asdict(move) for move in self.moves],
        }
        write_text_atomic(sweep / "pbt.json", json.dumps(content, indent=2) + "\n", overwrite=True)
