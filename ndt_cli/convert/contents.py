"""What a file of any format holds, under one set of names.

A name is the path inside the file: ``spike_times``, ``units/quality``, ``session/trials/go``.
MATLAB's dots (``session.trials.go``) are read as slashes.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError, SettingsError, nearest, typed

_SHOWN = 12

PLAIN_KINDS = "buifSU"
"""Kinds of numpy's types that are numbers or text."""


@dataclass(frozen=True)
class ArrayItem:
    """An array of numbers or text; ``read`` takes it from the file."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class ListsItem:
    """Arrays of unequal length: cells, a ragged column, one array a unit.

    ``shape`` is that of the collection; ``read`` gives its arrays in C order. ``labels`` are the
    names of the arrays, where they have some.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], list[NDArray[Any]]]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeriesItem:
    """Samples with a clock; ``read`` gives times in seconds and samples x channels."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], tuple[NDArray[Any], NDArray[Any]]]


Item = ArrayItem | ListsItem | SeriesItem


@dataclass
class Contents:
    """An open file; close it, or use it in a ``with``.

    Attributes
    ----------
    path : Path
    layout : str
        ``"npz"``, ``"HDF5"``, ``"NWB"``, ``"MATLAB"`` or ``"CSV"``.
    items : dict of str to Item
        By name, in the file's order.
    """

    path: Path
    layout: str
    items: dict[str, Item] = field(default_factory=dict)
    on_close: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.on_close.close()

    def resolve(self, name: str) -> str | None:
        """Return the name as the file has it, or None."""
        for spelt in (name, name.strip("/"), name.replace(".", "/").strip("/")):
            if spelt in self.items:
                return spelt
        return None

    def children(self, table: str) -> list[str]:
        """Names right below a group, or at the top for an empty name."""
        front = f"{table}/" if table else ""
        below = (n for n in self.items if n.startswith(front))
        return [n for n in below if "/" not in n[len(front) :]]

    def resolve_table(self, name: str) -> str | None:
        """Return the name of a group as the file has it, or None."""
        for spelt in (name.strip("/"), name.replace(".", "/").strip("/")):
            if self.children(spelt):
                return spelt
        return None

    def n_rows(self, table: str) -> int:
        """Rows of a table: the commonest length of its columns."""
        lengths = Counter(self.items[n].shape[0] for n in self._columns(table))
        return lengths.most_common(1)[0][0] if lengths else 0

    def tables(self) -> dict[str, int]:
        """Groups with columns of equal length, and their rows."""
        groups = dict.fromkeys(n.rpartition("/")[0] for n in self.items)
        tables = {}
        for group in groups:
            n_rows = self.n_rows(group)
            lengths = [self.items[n].shape[0] for n in self._columns(group)]
            if lengths.count(n_rows) > 1 and n_rows > 1 and (group or self.layout == "CSV"):
                tables[group] = n_rows
        return tables

    def _columns(self, table: str) -> list[str]:
        return [
            n
            for n in self.children(table)
            if not isinstance(self.items[n], SeriesItem) and len(self.items[n].shape) >= 1
        ]

    def find(self, name: str, flag: str) -> tuple[str, Item]:
        """Return the item of a name.

        Raises
        ------
        SettingsError
            If there is none; the hint has the nearest one.
        """
        found = self.resolve(name)
        if found is None:
            raise self.unknown(flag, name, self.items)
        return found, self.items[found]

    def array(self, name: str, flag: str) -> NDArray[Any]:
        """Read an array.

        Raises
        ------
        SettingsError
            If there is no such name, or it is no array.
        """
        found, item = self.find(name, flag)
        if not isinstance(item, ArrayItem):
            raise self.wrong(flag, found, f"{item.dtype}", "one array")
        return self.readable(item, found, flag)

    def readable(self, item: ArrayItem, name: str, flag: str) -> NDArray[Any]:
        """Read an item of numbers or text.

        Raises
        ------
        DataError
            If it holds anything else, such as references or lists.
        """
        values = item.read()
        if values.dtype.kind not in PLAIN_KINDS:
            raise self.wrong(flag, name, f"values of type {values.dtype}", "numbers or text")
        return values

    def numbers(self, name: str, flag: str) -> NDArray[Any]:
        """Read an array of numbers."""
        values = self.array(name, flag)
        if values.dtype.kind not in "buif":
            raise self.wrong(flag, name, f"values of type {values.dtype}", "numbers")
        return values

    def unknown(self, flag: str, name: str, known: Iterable[str]) -> SettingsError:
        """Return the error for a name that is not there."""
        known = list(known)
        like = nearest(name, known) or _same_ending(name, known)
        shown = ", ".join(f"`{n}`" for n in known[:_SHOWN]) or "nothing"
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        return SettingsError(
            f"{self.path}: {flag} {name}: found no such name; there are {shown}{more}",
            hint=f"Did you mean {like}?"
            if like
            else f"See them all:  ndt convert {typed(self.path)} --list",
        )

    def wrong(
        self, flag: str, name: str, found: str, expected: str, hint: str | None = None
    ) -> DataError:
        """Return the error for something that is not as it should be."""
        return DataError(
            f"{self.path}: {flag} `{name}`: found {found}; expected {expected}", hint=hint
        )


def _same_ending(name: str, known: list[str]) -> str | None:
    """Return a path whose last part is like the name: `go_cue` for `trials/go_cue`."""
    last = {n.rpartition("/")[2]: n for n in known}
    like = nearest(name.rpartition("/")[2], last)
    return last[like] if like else None


# ------------------------------------------------------------------------------------------------
# Ordinary names of things in recordings, tried where the user gives none.
# ------------------------------------------------------------------------------------------------


_NAMES = {
    "spike_times": ("units/spike_times", "spike_times", "spiketimes", "spike_time", "spikes"),
    "spike_units": (
        "spike_units",
        "spike_unit",
        "spike_clusters",
        "unit",
        "units",
        "neuron",
        "neurons",
        "cluster",
        "cluster_id",
        "unit_id",
        "neuron_id",
    ),
    "counts": ("spikes", "counts", "spike_counts", "binned_spikes"),
    "trials": ("intervals/trials", "trials"),
    "start": ("start_time", "start", "trial_start", "start_times", "start_s", "start_ms"),
    "stop": (
        "stop_time",
        "stop",
        "end",
        "trial_stop",
        "trial_end",
        "end_time",
        "stop_s",
        "stop_ms",
    ),
    "units": ("units",),
    "lengths": ("lengths",),
    "length_ms": ("length_ms",),
}
_COLUMN_TIMES = ("time", "times", "time_s", "t")


def guess(contents: Contents, what: str, known: list[str] | None = None) -> str | None:
    """Return the ordinary name that the file has for something, or None.

    Capitals and underscores do not count: ``spikeTimes`` is ``spike_times``.
    """
    by_plain = {_plain(n): n for n in reversed(known or list(contents.items))}
    return next((by_plain[_plain(n)] for n in _NAMES[what] if _plain(n) in by_plain), None)


def guess_spike_times(contents: Contents) -> str | None:
    """Return the name of what looks like spike times: lists, or a column beside one of units."""
    for name in _NAMES["spike_times"]:
        found = guess_one(contents, name)
        item = None if found is None else contents.items[found]
        n_axes = (1,) if name == "spikes" else (1, 2)  # a matrix of that name holds counts
        if isinstance(item, ListsItem) or (
            isinstance(item, ArrayItem) and len(item.shape) in n_axes
        ):
            return found
    units = guess(contents, "spike_units")
    columns = (guess_one(contents, name) for name in _COLUMN_TIMES if units is not None)
    same = (
        c for c in columns if c and contents.items[c].shape == contents.items[units or ""].shape
    )
    return next(same, None)


def guess_counts(contents: Contents) -> str | None:
    """Return the name of what looks like counts: an ordinary name with two or three axes."""
    found = guess(contents, "counts")
    item = None if found is None else contents.items[found]
    return found if isinstance(item, ArrayItem) and len(item.shape) in (2, 3) else None


def guess_one(contents: Contents, name: str) -> str | None:
    """Return the file's spelling of one name, or None."""
    return next((n for n in contents.items if _plain(n) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
