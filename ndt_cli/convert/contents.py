"""What a file of any format holds, under one set of names.

A name is the path inside the file: ``spike_times``, ``units/quality``, ``session/trials/go``.
MATLAB's dots (``session.trials.go``) are read as slashes, and ``NAME:1`` is column 1 (from 0) of an
array with two axes. In messages, names in the file are in quotes, and the options that chose them
in backticks.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.convert.clock import Clock
from ndt_cli.errors import DataError, SettingsError, called, nearest

_N_NAMES = 12

PLAIN_KINDS = "buifU"
"""Kinds of numpy's types that are numbers or text."""


@dataclass(frozen=True)
class Item:
    """Something in a file that ``read`` loads.

    It is an ``array`` of numbers or text; ``lists``, arrays of unequal length in C order of
    ``shape``, such as cells or a ragged column; ``matrices``, lists of two axes each, such as the
    counts of one trial; or a ``series``: times in seconds, and samples x channels. ``unread`` is
    what is found instead, and the next step, where it is listed but cannot be read.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Any]
    kind: Literal["array", "lists", "matrices", "series"] = "array"
    unread: tuple[str, str] | None = None


def array_item(shape: tuple[int, ...], dtype: str, read: Callable[[], NDArray[Any]]) -> Item:
    """Return an array, bytes in it as text; a column (n, 1) or a row (1, n) becomes a vector."""
    if len(shape) == 2 and 1 in shape:
        shape = tuple(n for n in shape if n != 1) or (1,)

    def values() -> NDArray[Any]:
        found = read()
        if found.dtype.kind == "S":
            found = np.char.decode(found, "utf-8", "backslashreplace")
        return found.reshape(shape)

    return Item(shape, dtype, values)


def fields_of(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[], NDArray[Any]]
) -> dict[str, Item]:
    """Return each column of an array of rows."""

    def column(field: str) -> Item:
        base, own_shape = dtype[field].base, dtype[field].shape
        return array_item((*shape, *own_shape), str(base), lambda: np.asarray(read()[field]))

    return {f"{name}/{field}": column(field) for field in dtype.names or ()}


def held(values: NDArray[Any]) -> Item:
    """Return an array that is in memory already."""
    dtype = "text" if values.dtype.kind == "U" else str(values.dtype)
    return Item(values.shape, dtype, lambda: np.asarray(values))


@dataclass
class Contents:
    """An open file, to be closed, or used in a ``with``."""

    path: Path
    layout: str = ""  # "npz", "HDF5", "NWB", "MATLAB", "CSV", "parquet" or "phy"
    items: dict[str, Item] = field(default_factory=dict)  # by name, in the file's order
    spike_clock: Clock | None = None  # of the spike times, where the format says so
    on_close: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.on_close.close()

    def has_array(self, name: str | None, shape: tuple[int, ...] | None = None) -> bool:
        """Tell whether there is an array of this name, and of this shape if one is given."""
        item = None if name is None else self.items.get(name)
        return item is not None and item.kind == "array" and shape in (None, item.shape)

    @property
    def groups(self) -> list[str]:
        """Names of all groups, sorted; the top of the file is not among them."""
        return sorted({n.rpartition("/")[0] for n in self.items if "/" in n})

    def resolve(self, name: str) -> str | None:
        """Return the name as the file spells it, or None; a ``NAME:1`` becomes an item."""
        for spelling in (name, name.strip("/"), name.replace(".", "/").strip("/")):
            if spelling in self.items:
                return spelling
            whole, _, number = spelling.rpartition(":")
            if not self.has_array(whole) or not number.isdecimal():
                continue
            item, column = self.items[whole], int(number)
            if len(item.shape) == 2 and column < item.shape[1]:
                self.items[spelling] = _column_of(item, column)
                return spelling
        short = self._series_called(name)
        return short[0] if len(short) == 1 else None

    def _series_called(self, name: str) -> list[str]:
        """Return the time series whose own name this is, in any group."""
        series = [n for n, item in self.items.items() if item.kind == "series"]
        return [n for n in series if n.rpartition("/")[2] == name]

    def children(self, table: str) -> list[str]:
        """Names right below a group, or at the top for an empty name."""
        front = f"{table}/" if table else ""
        below = (n for n in self.items if n.startswith(front))
        return [n for n in below if "/" not in n[len(front) :]]

    def resolve_table(self, name: str) -> str | None:
        """Return the name of a group as the file spells it, or None."""
        for spelling in (name.strip("/"), name.replace(".", "/").strip("/")):
            if self.children(spelling):
                return spelling
        return None

    def column_lengths(self, table: str) -> "Counter[int]":
        """How many columns of a group have each length."""
        items = [self.items[n] for n in self.children(table)]
        return Counter(i.shape[0] for i in items if i.kind != "series" and i.shape)

    def n_rows(self, table: str) -> int:
        """Rows of a table: the most frequent length of its columns."""
        return next((length for length, _ in self.column_lengths(table).most_common(1)), 0)

    def tables(self) -> dict[str, int]:
        """Groups with several columns of equal length, and the number of their rows."""
        tables = {}
        for group in dict.fromkeys(n.rpartition("/")[0] for n in self.items):
            n_rows = self.n_rows(group)
            n_columns = self.column_lengths(group)[n_rows]
            if n_columns > 1 and n_rows > 1 and (group or self.layout in ("CSV", "parquet")):
                tables[group] = n_rows
        return tables

    def find(self, name: str, option: str) -> tuple[str, Item]:
        """Return the name as the file spells it, and its item."""
        found = self.resolve(name) or self._matrices(name) or self._columns(name)
        if found is None:
            same = self._series_called(name)
            if same:
                found_twice = f"{len(same)} time series of that name, {listed(same)}"
                raise self.wrong(option, name, found_twice, "one", "Give the whole name.")
            raise self.unknown(option, name, self.items)
        self.check_readable(found, option)
        return found, self.items[found]

    def _matrices(self, name: str) -> str | None:
        """Make one item of a group with a matrix per trial, such as trial_1 to trial_24."""
        group = self.resolve_table(name)
        members = self.children(group) if group else []
        parts = [self.items[n] for n in members]
        if group is None or len({part.dtype for part in parts}) != 1:
            return None
        if not all(part.kind == "array" and len(part.shape) == 2 for part in parts):
            return None
        reads = [self.items[n].read for n in sorted(members, key=by_number)]
        kind = f"matrices of {parts[0].dtype}"
        self.items[group] = Item((len(parts),), kind, lambda: [r() for r in reads], "matrices")
        return group

    def matching(self, pattern: str) -> list[str]:
        """Return the names of all items that a pattern such as ``unit*`` fits, by their numbers."""
        return sorted(
            (n for n in self.items if fnmatchcase(n, pattern) and n != pattern), key=by_number
        )

    def column_names(self, pattern: str) -> tuple[str, ...]:
        """Return the names of the columns that a pattern fits, without that of their group."""
        return tuple(name.rpartition("/")[2] for name in self.matching(pattern))

    def _columns(self, pattern: str) -> str | None:
        """Make one item, rows x columns, of the columns of numbers whose names fit a pattern."""
        parts = [self.items[n] for n in self.matching(pattern)] if "*" in pattern else []
        if not parts or not all(part.kind == "array" for part in parts):
            return None
        shapes = {part.shape for part in parts}
        if len(shapes) > 1 or len(parts[0].shape) != 1 or any(p.dtype == "text" for p in parts):
            return None
        shape, reads = (*parts[0].shape, len(parts)), [part.read for part in parts]

        def read() -> NDArray[Any]:
            return np.stack([read() for read in reads], axis=1)

        self.items[pattern] = Item(shape, parts[0].dtype, read)
        return pattern

    def check_readable(self, name: str, option: str | None) -> None:
        """Refuse an item that is listed but cannot be read; a name that is not there passes."""
        item = self.items.get(name)
        if item is not None and item.unread is not None:
            found, hint = item.unread
            raise self.wrong(option, name, found, "numbers or text", hint)

    def array(self, name: str, option: str | None) -> NDArray[Any]:
        """Read an array of numbers or text."""
        found, item = self.find(name, option or "name")
        if item.kind != "array":
            raise self.wrong(option, found, item.dtype, "one array")
        values: NDArray[Any] = item.read()
        if values.dtype.kind not in PLAIN_KINDS:  # references, lists
            raise self.wrong(option, found, f"values of type {values.dtype}", "numbers or text")
        return values

    def numbers(self, name: str, option: str | None) -> NDArray[Any]:
        """Read an array of numbers."""
        values = self.array(name, option)
        if values.dtype.kind not in "buif":
            raise self.wrong(option, name, f"text, such as {_no_number(values)!r}", "numbers")
        return values

    def unknown(self, option: str, name: str, known: Iterable[str]) -> SettingsError:
        """Return the error for a name that is not in the file; the hint has the nearest one."""
        known = list(known)
        last = {n.rpartition("/")[2]: n for n in known}  # `trials/go_cue` for `go_cue`
        like = nearest(name, known) or last.get(nearest(name.rpartition("/")[2], last) or "")
        return SettingsError(
            f"{self.path}: `{option}={name!r}`: found no such name; there are {listed(known)}",
            hint=f"Did you mean {like}?" if like else f"See all of them: {self.called_list}",
        )

    def wrong(
        self, option: str | None, name: str, found: str, expected: str, hint: str | None = None
    ) -> DataError:
        """Return the error for an item that is not what is needed, by an option or always."""
        what = f"`{option}={name!r}`" if option else repr(name)
        return DataError(f"{self.path}: {what}: found {found}; expected {expected}", hint)

    @property
    def called_list(self) -> str:
        """The call that lists the file, for a hint."""
        return called("list_contents", self.path)

    @property
    def look(self) -> str:
        """The hint to look at the columns of the file."""
        return f"{self.called_list} shows the first values of each column."


def is_number(text: str) -> bool:
    """Return whether a text is a number; 1_2, which Python reads as 12, is a name."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _no_number(texts: NDArray[Any]) -> str:
    """Return the first text that is no number, by which a column is text; else the first."""
    words: list[str] = texts.reshape(-1).tolist()
    return next((word for word in words if not is_number(word)), words[0] if words else "")


def by_number(name: str) -> list[int | str]:
    """Return the key by which trial_2 comes before trial_10, unlike in HDF5."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _column_of(item: Item, column: int) -> Item:
    return Item(item.shape[:1], item.dtype, lambda: item.read()[:, column])


def listed(names: Iterable[str]) -> str:
    """Return names in the file as a message shows them."""
    names = list(names)
    more = f" and {len(names) - _N_NAMES} more" if len(names) > _N_NAMES else ""
    return (", ".join(repr(n) for n in names[:_N_NAMES]) or "none") + more


# Usual names, tried where the user gives none -----------------------------------------------------

_NAMES = {
    "spike_times": ("units/spike_times", "spike_times", "spiketimes", "spike_time", "spikes"),
    "spike_units": (
        "spike_units", "spike_unit", "spike_clusters", "unit", "units", "neuron", "neurons",
        "cluster", "clusters", "cluster_id", "unit_id", "neuron_id", "index",
    ),
    "spike_trials": ("spike_trials", "trial", "trials", "trial_id", "trial_number"),
    "counts": ("spikes", "counts", "spike_counts", "binned_spikes"),
    "trials": ("intervals/trials", "trials"),
    "start": ("start_time", "start", "trial_start", "start_times", "start_s", "start_ms"),
    "stop": (
        "stop_time", "stop", "end", "trial_stop", "trial_end", "end_time", "stop_s", "stop_ms",
    ),
    "units": ("units",),
    "times": ("time", "times", "time_s", "time_ms", "t"),
    "bins": ("bin", "bins", "bin_number", "bin_index", "time_bin", "timebin"),
    "lengths": ("lengths",),
    "length_ms": ("length_ms",),
}  # fmt: skip
_COLUMN_TIMES = ("time", "times", "time_s", "t")


def guess(contents: Contents, what: str, known: Iterable[str] | None = None) -> str | None:
    """Return the usual name that the file has for an option, or None.

    Case and underscores do not matter: ``spikeTimes`` is ``spike_times``.
    """
    return _first_like(_NAMES[what], contents.items if known is None else known)


def guess_beside(contents: Contents, what: str, name: str) -> str | None:
    """Return the usual name of an array of the shape of ``name``, in its group or at the top."""
    shape = contents.items[name].shape
    for group in dict.fromkeys((name.rpartition("/")[0], "")):
        known = {
            n.rpartition("/")[2]: n
            for n in contents.children(group)
            if n != name and contents.items[n].shape == shape
        }
        found = guess(contents, what, known)
        if found is not None:
            return known[found]
    return None


def guess_spikes(contents: Contents) -> tuple[str | None, str | None]:
    """Return the names of what looks like spike times, or else of what looks like counts."""
    items = contents.items
    structs = [g for g in contents.groups if fieldtrip_trials(contents, f"{g}/time")]
    if len(structs) == 1:
        return f"{structs[0]}/time", None
    for name in _NAMES["spike_times"]:
        found = _first_like((name,), items)
        n_axes = (1,) if name == "spikes" else (1, 2, 3)  # a matrix called spikes holds counts
        if found is None or items[found].kind in ("matrices", "series"):
            continue
        if items[found].kind == "lists" or len(items[found].shape) in n_axes:
            return found, None
    units = items.get(guess(contents, "spike_units") or "")
    for name in _COLUMN_TIMES:
        found = _first_like((name,), items)
        if found is not None and units is not None and items[found].shape == units.shape:
            return found, None
    matrices = [n for n, item in items.items() if item.kind == "matrices"]
    matrices = [n for n in matrices if n.lower().endswith(("spikes", "counts"))]
    if len(matrices) == 1:
        return None, matrices[0]
    counts = guess(contents, "counts")
    has_axes = counts is not None and len(items[counts].shape) in (2, 3)
    return None, counts if has_axes and contents.has_array(counts) else None


def fieldtrip_trials(contents: Contents, times: str) -> str | None:
    """Return, of a struct of FieldTrip, the lists of trials beside the lists of spike times.

    There, times are in seconds from a trigger, and ``trialtime`` is the start and the end of each
    trial (trials, 2), on the same clock (FieldTrip's documentation of ``ft_datatype_spike``).
    """
    group, _, last = times.rpartition("/")
    item, trials = contents.items.get(times), contents.items.get(f"{group}/trial")
    is_struct = last == "time" and contents.has_array(f"{group}/trialtime")
    if item is None or trials is None or not is_struct:
        return None
    return f"{group}/trial" if item.kind == trials.kind == "lists" else None


def _first_like(names: Iterable[str], known: Iterable[str]) -> str | None:
    """Return the first of the names that is known, as it is spelled there."""

    def plain(name: str) -> str:
        return name.lower().replace("_", "").replace("-", "")

    by_plain = {plain(n): n for n in reversed(list(known))}
    return next((by_plain[plain(n)] for n in names if plain(n) in by_plain), None)


# A listing of an unknown file, so that its names can be chosen ------------------------------------

_N_VALUES = 4
_MAX_CHARS = 40
_READ_ENTRIES = 10**6  # larger arrays are listed without a look inside


@dataclass(frozen=True)
class Entry:
    """One array, ragged column or time series."""

    name: str  # as the options of `convert` take it
    shape: tuple[int, ...]
    kind: str  # type of its values
    values: str  # the first distinct ones of a vector; empty for anything larger


@dataclass(frozen=True)
class Listing:
    """What a file holds.

    ``tables`` are groups of columns of equal length, with the number of their rows: choices for the
    options ``trials`` and ``units``.
    """

    source: str
    format: str
    entries: tuple[Entry, ...]
    tables: dict[str, int]
    spikes: tuple[str, str] | None = None  # "spike_times" or "counts" that would be used: its name
    trials: str | None = None  # table that would be used; empty for columns at the top of the file

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def make_listing(contents: Contents) -> Listing:
    """List an open file."""
    entries = tuple(
        Entry(name, item.shape, item.dtype, _first_values(item))
        for name, item in contents.items.items()
    )
    times, counts = guess_spikes(contents)
    spikes = ("spike_times", times) if times else ("counts", counts) if counts else None
    trials = guess(contents, "trials", contents.groups) or (
        "" if guess(contents, "start") or fieldtrip_trials(contents, times or "") else None
    )
    source = str(contents.path)
    return Listing(source, contents.layout, entries, contents.tables(), spikes, trials)


def _first_values(item: Item) -> str:
    """Return the first distinct values of a vector or a number as text."""
    if item.kind != "array" or len(item.shape) > 1 or item.unread is not None:
        return ""
    if int(np.prod(item.shape)) > _READ_ENTRIES:
        return ""
    try:
        flat = np.atleast_1d(item.read())
    except DataError as error:
        return error.message
    values = flat.tolist()
    if flat.dtype.kind in "OV":  # rows and lists cannot be compared
        values = [str(value) for value in values[: _N_VALUES + 1]]
    distinct = list(dict.fromkeys(values))
    shown = ", ".join(f"{v:.7g}" if isinstance(v, float) else str(v) for v in distinct[:_N_VALUES])
    if len(shown) > _MAX_CHARS:
        return f"{shown[:_MAX_CHARS]}..."
    return f"{shown}, ..." if len(distinct) > _N_VALUES else shown
