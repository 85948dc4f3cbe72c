"""A conversion at work: the open file, a journal, and the tables of trials and of units.

Axes in names: B trials, R rows of a table, N units.
"""

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import Clock, TicksArray
from ndt_cli.convert.contents import Contents, guess, listed
from ndt_cli.convert.options import ConvertOptions
from ndt_cli.convert.reading import open_file
from ndt_cli.data.arrays import MISSING, as_whole, look_alikes
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError, SettingsError

_COMPARISON = re.compile(r"\s*([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*([^=!<>]+?)\s*")
_MEMBERSHIP = re.compile(r"\s*([^=!<>]+?)\s+(in)\s+(.+?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_BOOLEANS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_TRUTHS = {*_BOOLEANS, "0", "1"}
_N_MISSING = 5

TRIAL_IDS = ("trial", "trial_id", "trial_ids", "id", "trial_number")
"""Columns that may hold the numbers of the trials."""
# Columns of the units' names, the first that has one for each.
UNIT_IDS = (
    "name", "unit_name", "id", "unit_id", "cluster_id", "unit", "neuron_id", "neuron", "cluster",
    "label",
)  # fmt: skip


@dataclass(frozen=True)
class RowFilter:
    """A condition on the rows of a table, such as ``success == 1``; read and never executed."""

    text: str  # as the user wrote it
    option: str  # for which it was given
    column: str
    operator: str  # one of those in _COMPARE, or "in"
    values: tuple[str, ...]  # several for "in"

    def holds(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each row whether it meets the condition; a missing number never does."""
        column = self.without_words(column)
        is_text = column.dtype.kind not in "buif"
        if is_text and self.operator in ("<", "<=", ">", ">="):
            raise self._wrong(f"column {self.column!r} is text, which has no order")
        rows = column.astype(str) if is_text else column.astype(np.float64)
        wanted = [value if is_text else self._number(value) for value in self.values]
        if column.dtype.kind == "f":
            # 0.3 in single precision is another number than 0.3, and so is 0.1 + 0.2.
            rtol = 4 * float(np.finfo(column.dtype).eps)
            for value in [value for value in wanted if value % 1]:
                rows = np.where(np.isclose(rows, value, rtol=rtol, atol=0), value, rows)
        if self.operator == "in":
            return np.isin(rows, np.array(wanted))
        met = np.asarray(_COMPARE[self.operator](rows, wanted[0]), dtype=bool)
        return met if is_text else met & ~np.isnan(rows)

    def absent(self, column: NDArray[Any]) -> list[str]:
        """Return the values of != or in that no row has: a misspelled one changes what is kept."""
        if self.operator not in ("in", "!="):
            return []
        each = [replace(self, operator="==", values=(value,)) for value in self.values]
        return [rule.values[0] for rule in each if not rule.holds(column).any()]

    def without_words(self, column: NDArray[Any]) -> NDArray[Any]:
        """Return a column of True and False, as pandas and R write it, as numbers."""
        words = [str(value).lower() for value in column.tolist()]
        is_boolean = column.dtype.kind in "UO" and {""} < {"", *words} <= {"", *_BOOLEANS}
        if not is_boolean or any(value.lower() not in _TRUTHS for value in self.values):
            return column
        return np.array([_BOOLEANS.get(word, np.nan) for word in words])

    def _number(self, value: str) -> float:
        if value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        try:
            return float(value)
        except ValueError:
            raise self._wrong(
                f"column {self.column!r} is numeric; cannot compare it with {value!r}"
            ) from None

    def _wrong(self, why: str) -> SettingsError:
        return SettingsError(
            f"`{self.option}={self.text!r}`: {why}",
            hint="`list_contents(FILE)` shows the first values of each column.",
        )


def parse_filter(text: str, option: str) -> RowFilter:
    """Read one condition, such as ``success == 1``, ``quality = good`` or ``block in 1, 3``.

    Examples
    --------
    >>> import numpy as np
    >>> parse_filter("duration_ms >= 500", "where").holds(np.array([499, 500]))
    array([False,  True])
    """
    match = _COMPARISON.fullmatch(text) or _MEMBERSHIP.fullmatch(text)
    if match is not None:
        column, sign, value = match.groups()
        if sign == "in":
            value = _without_brackets(value)
        values = value.split(",") if sign == "in" else [value]
        return RowFilter(text, option, column, sign, tuple(_bare(v) for v in values))
    raise SettingsError(
        f"`{option}`: found {text!r}; expected a column, one of == != < <= > >= in, and a value",
        hint=f"Such as `{option}='success == 1'`.",
    )


def _without_brackets(value: str) -> str:
    """Return a list of values without the brackets that Python and SQL write around it."""
    return value[1:-1] if value[:1] + value[-1:] in ("[]", "()", "{}") else value


def _bare(value: str) -> str:
    """Return a value without the quotes around it."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, somewhere in a file."""

    contents: Contents
    name: str  # group of the columns; empty for the top of the file
    n_rows: int
    option: str  # that chose it, for messages
    clock: Clock
    added: dict[str, NDArray[Any]] = field(default_factory=dict)  # columns not in the file
    zero_us_R: TicksArray | None = None  # that times in a row count from, if not the recording's
    zero: str = "the start of each trial"  # what that time is
    span: tuple[str, str] | None = None  # columns, from that time, between which was recorded
    shape: tuple[int, ...] | None = None  # of columns in the file, if not one value per row
    rows_R: IntArray | None = None  # in the file, where rows have another order there

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without that of the group."""
        below = (n for n in self.contents.children(self.name) if self._is_column(n))
        return [*self.added, *(n[len(self.name) :].lstrip("/") for n in below)]

    def _is_column(self, full_name: str) -> bool:
        return self.contents.has_array(full_name, self.shape or (self.n_rows,))

    def column(self, name: str, option: str) -> NDArray[Any]:
        """Read a column, which has one value per row."""
        if name in self.added:
            return self.added[name]
        values = self._column(name, option)
        return values if self.rows_R is None else values[self.rows_R]

    def _column(self, name: str, option: str) -> NDArray[Any]:
        """Read a column in the order of the file."""
        front = f"{self.name}/" if self.name else ""
        for full in (name, f"{front}{name}", f"{front}{name}".replace(".", "/")):
            if self._is_column(self.contents.resolve(full) or full):
                return self.contents.array(full, option).reshape(-1)
        for spelling in (f"{front}{name}", name):
            full = self.contents.resolve(spelling) or spelling
            self.contents.check_readable(full, option)
            item = self.contents.items.get(full)
            if item is not None and item.kind == "lists" and item.shape == (self.n_rows,):
                raise self.contents.wrong(
                    option,
                    full,
                    "a list of values in each row",
                    "one value per row",
                    "Write the one that is meant as a column of its own.",
                )
        where = f"{self.contents.path}" + (f", {self.name}" if self.name else "")
        row = "unit" if self.option == "units" else "trial"
        raise SettingsError(
            f"{where}: `{option}={name!r}`: found no such column of {self.n_rows} values, one per "
            f"{row}; there are {listed(self.columns)}",
            hint=self.contents.unknown(option, name, self.columns).hint,
        )

    def times_us(self, name: str, option: str) -> tuple[TicksArray, NDArray[np.bool_]]:
        """Read a column of times; return microseconds, and which are known (not NaN)."""
        values = self.column(name, option)
        if values.dtype.kind not in "uif":
            raise self.contents.wrong(option, name, f"values of type {values.dtype}", "times")
        self.clock.check_name(name, self.contents.path)
        known_R = np.isfinite(values)
        times_us_R = self.clock.to_us(np.where(known_R, values, 0))
        return times_us_R if self.zero_us_R is None else times_us_R + self.zero_us_R, known_R

    def ids(self, rows: IntArray) -> IntArray:
        """Return the number of some trials: that of a column of numbers, else the row."""
        for name in TRIAL_IDS:
            if name in self.columns:
                numbers = as_whole(self.column(name, self.option))
                if numbers is not None and len(np.unique(numbers)) == len(numbers):
                    return numbers[rows]
        return rows

    def at(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """Return the columns that hold numbers or text, at some rows."""
        found: dict[str, NDArray[Any]] = {}
        for name in self.columns:
            try:
                values = self.column(name, self.option)[rows]
            except DataError:  # listed, but nothing that can be kept
                continue
            is_text = values.dtype.kind not in "buif"
            found[name] = np.array([plain_label(v) for v in values.tolist()]) if is_text else values
        return found

    def meeting(
        self, rules: Sequence[str], option: str, notes: list[str]
    ) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return each condition, and which rows meet it; note values that no row has."""
        met = []
        for rule in (parse_filter(rule, option) for rule in rules):
            column = self.column(rule.column, option)
            met.append((rule.text, rule.holds(column)))
            words = rule.without_words(column)
            if words.dtype.kind == "U":
                notes += look_alikes([*words.tolist(), *rule.values], f"Values of {rule.column}")
            absent = rule.absent(column)
            if absent:
                notes.append(
                    f"`{option}={rule.text!r}`: no row has the {rule.column} {', '.join(absent)}."
                )
        return met


def match_rows(
    table: Table, labels: NDArray[Any], id_columns: Sequence[str], notes: list[str]
) -> IntArray:
    """Return the row of each unit or trial in the spikes.

    Rows are matched by the first of the columns that holds all of the labels, else in order,
    which is noted; without columns to look for, in order.
    """
    wanted = [plain_label(v) for v in labels.tolist()]
    partial: tuple[str, list[str]] | None = None
    for name in id_columns:
        if name not in table.columns:
            continue
        ids = [plain_label(v) for v in table.column(name, table.option).tolist()]
        rows = {label: row for row, label in enumerate(ids)}
        missing = [label for label in wanted if label not in rows]
        if len(rows) < len(ids):
            continue  # a name twice: not a column of names
        if not missing:
            return np.array([rows[label] for label in wanted], dtype=np.int64)
        if len(missing) < len(wanted) and partial is None:
            partial = (name, missing)
    what = f"`{table.option}`" + (f", {table.name}" if table.name else "")
    if partial is not None:
        name, missing = partial
        shown = ", ".join(missing[:_N_MISSING]) + (", ..." if len(missing) > _N_MISSING else "")
        raise DataError(
            f"{table.contents.path}: {what}: found no row for {shown} in its column {name!r}, "
            f"which holds {len(wanted) - len(missing)} of the {len(wanted)} names in the spikes",
            hint=f"Complete the column, or rename it if it is not the {name!r} of the spikes.",
        )
    if table.n_rows != len(labels):
        hint = f"Such a column is looked for under the names {listed(id_columns)}."
        raise DataError(
            f"{table.contents.path}: {what}: found {table.n_rows} rows for {len(labels)} names in "
            "the spikes; expected one row each, or a column with their names",
            hint=hint if id_columns else "The spikes do not name their units.",
        )
    why = "no column holds the names in the spikes" if id_columns else "the spikes have no names"
    notes.append(f"Rows of {what} were matched in order: {why}.")
    return np.arange(len(labels))


def short_name(column: str) -> str:
    """Return the name of a column without that of its table: ``go`` for ``trials.go``."""
    return re.split(r"[/.]", column)[-1] or column


def plain_label(label: Any) -> str:
    """Return the name of a unit or trial; a whole number has no decimals, whatever its type."""
    return f"{label:.15g}" if isinstance(label, float) else str(label)


def read_conditions(
    table: Table, columns: Sequence[str], rows_B: IntArray, notes: list[str]
) -> tuple[IntArray | None, dict[int, str]]:
    """Number the conditions of some rows; return numbers, and the name of each condition.

    A single column of whole numbers keeps its numbers; any other is numbered in sorted order.
    Several columns together name one condition. Trials without one are noted.
    """
    if not columns:
        return None, {}
    values = [table.column(name, "condition")[rows_B] for name in columns]
    whole_B = as_whole(values[0]) if len(values) == 1 else None
    if whole_B is not None:
        return whole_B, {int(n): str(n) for n in np.unique(whole_B)}
    for name, v in zip(columns, values, strict=True):
        unknown = np.isnan(v) if v.dtype.kind == "f" else np.isin(v.astype(str), MISSING)
        n_unknown = int(unknown.sum())
        if n_unknown:
            notes.append(
                f"{n_unknown} trials have no {name}, and are a condition of their own; `where` "
                "leaves them out."
            )
    parts = [np.unique(v, return_inverse=True) for v in values]
    levels = np.stack([inverse for _, inverse in parts], axis=1)
    rows, row_B = np.unique(levels, axis=0, return_inverse=True)
    labels = [_labels(level) for level, _ in parts]
    keys = [tuple(label[j] for label, j in zip(labels, row, strict=True)) for row in rows]
    # Fractions that differ by rounding alone, such as 0.1 + 0.2 and 0.3, are one condition.
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    numbers_B = np.array([number_of[key] for key in keys], dtype=np.int64)[row_B.reshape(-1)]
    names = ["/".join(key) for key in number_of]
    if len(set(names)) < len(names):  # values with slashes, a/b with c and a with b/c
        names = [" / ".join(map(repr, key)) for key in number_of]
    notes += look_alikes(names)
    return numbers_B, dict(enumerate(names))


def _labels(levels: NDArray[Any]) -> list[str]:
    """Return the values of a column as text: numbers with 6 digits, or more to tell them apart."""
    short = [f"{v:g}" if isinstance(v, float) else str(v) for v in levels]
    return short if len(set(short)) == len(short) else [plain_label(v) for v in levels]


# The journal, and where tables are found ----------------------------------------------------------


@dataclass(frozen=True)
class Dropped:
    """So many of all trials, units, spikes or samples were left out."""

    what: str
    n: int
    n_all: int
    why: str  # the end of a sentence


@dataclass
class ConvertJob:
    """The open file, the options, and the journal that the user is shown in the end."""

    contents: Contents
    options: ConvertOptions
    taken: dict[str, str] = field(default_factory=dict)  # name in the file, by what it was used as
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # assumptions, one sentence each
    units_are_places: bool = False  # units have no names, and are numbered in order from 0
    units_group: str = ""  # of the file, that the lists of their times are in

    def drop(self, what: str, n: int, n_all: int, why: str) -> None:
        """Note that some were left out, if any."""
        if n:
            self.dropped.append(Dropped(what, n, n_all, why))

    def keep(self, what: str, kept: NDArray[np.bool_], among: NDArray[np.bool_], why: str) -> None:
        """Remove from ``among``, in place, all that are not ``kept``, for the reason given."""
        n_all = int(among.sum())
        among &= kept
        self.drop(what, n_all - int(among.sum()), n_all, why)

    def nothing_left(self, what: str, left: str = "no") -> DataError:
        """Return the error that everything was left out, with the reasons."""
        reasons = "; ".join(f"{d.n} of {d.n_all} {d.what} {d.why}" for d in self.dropped)
        return DataError(
            f"{self.contents.path}: {left} {what} is left: {reasons or 'no spikes'}",
            " ".join([*self.notes, self.contents.look]),
        )

    def find_table(self, name: str, option: str) -> Table:
        """Return a table by name: a group of this file, or another file."""
        # A group comes first: its name may be the file's own, and must not lead to another file.
        contents, found, path = self.contents, self.contents.resolve_table(name), Path(name)
        if found is None and (path.is_file() or path.suffix):
            contents = contents.on_close.enter_context(open_file(path))
            found = ""
        if found is None:
            contents.check_readable(name, option)
            raise contents.unknown(option, name, contents.groups)
        n_rows = contents.n_rows(found)
        if n_rows == 0:
            raise contents.wrong(option, name, "no rows", "at least one")
        return Table(contents, found, n_rows, option, self.options.trials_clock)

    def columns_of(self, n_rows: int, option: str = "trials", **more: Any) -> Table:
        """Return the table of all arrays at the top of the file that have this many rows."""
        return Table(self.contents, "", n_rows, option, self.options.trials_clock, **more)

    def trials_beside(self, n_trials: int, what: str, beside: str = "") -> Table:
        """Return the chosen table of trials, one row for each of ``what``, else the columns.

        They are those at the top of the file, or of the array of structs that ``beside`` is from.
        """
        contents, name = self.contents, self.options.trials
        if name in (None, "none"):
            item, group = contents.items.get(beside), beside
            shape = (n_trials,) if item is None or item.kind == "array" else item.shape
            shape = shape if math.prod(shape) == n_trials else (n_trials,)
            while group:  # a column beside, or beside the structs that hold it
                group = group.rpartition("/")[0]
                beside_it = [contents.items[n] for n in contents.children(group)]
                if any(i.kind == "array" and i.shape[: len(shape)] == shape for i in beside_it):
                    break
            clock = self.options.trials_clock
            return Table(contents, group, n_trials, "trials", clock, shape=shape)
        table, front = self.find_table(str(name), "trials"), beside.rpartition("/")[0]
        for label in TRIAL_IDS:  # which say the row of each trial, if the table has them too
            full = f"{front}/{label}" if front else label
            is_other = (table.contents, table.name) != (contents, front)
            if is_other and contents.has_array(full, (n_trials,)):
                rows_R = match_rows(table, contents.array(full, None), TRIAL_IDS, self.notes)
                return replace(table, n_rows=n_trials, shape=(table.n_rows,), rows_R=rows_R)
        if table.n_rows != n_trials:
            expected = f"{n_trials}, one per trial of {what}"
            raise contents.wrong("trials", str(name), f"{table.n_rows} rows", expected)
        return table

    def find_trials(self) -> Table | None:
        """Return the table of trials: the chosen one, a usual one, or columns at the top."""
        contents, options = self.contents, self.options
        if options.trials == "none":
            return None
        name = options.trials or guess(contents, "trials", contents.groups)
        if name is not None:
            self.taken["trials"] = name
            return self.find_table(name, "trials")
        chosen = options.align or options.start
        item = contents.items.get(contents.resolve(chosen or guess(contents, "start") or "") or "")
        if item is not None and item.kind == "array" and len(item.shape) == 1:
            return self.columns_of(item.shape[0])
        if chosen:
            option = "align" if options.align else "start"
            raise contents.unknown(option, chosen, contents.items)
        if options.chop_ms is None:  # a table of MATLAB is listed by its name alone
            contents.check_readable(guess(contents, "trials") or "", "trials")
        return None

    def kept_rows(self, table: Table) -> NDArray[np.bool_]:
        """Return which trials of a table meet the conditions of ``where``."""
        kept_R = np.ones(table.n_rows, dtype=bool)
        for rule, holds_R in table.meeting(self.options.where, "where", self.notes):
            self.keep("trials", holds_R, kept_R, f"do not meet {rule!r}")
        return kept_R

    def valid_rows(self, table: Table | None, rows_B: IntArray) -> NDArray[np.bool_] | None:
        """Return which of these rows of a table validate by ``valid_where``; None without it."""
        rule = self.options.valid_where
        if rule is None or table is None:
            return None
        return table.meeting([rule], "valid_where", self.notes)[0][1][rows_B]

    def kept_units(self, unit_ids: NDArray[Any]) -> IntArray:
        """Return the positions of the units that meet the conditions of ``units_where``.

        Rows of the table are matched by a column of the units' names, else in order: a unit
        without a name is not the one whose ``id`` is its place.
        """
        kept_N, rules = np.ones(len(unit_ids), dtype=bool), self.options.units_where
        if rules:
            name = self.options.units or guess(self.contents, "units", self.contents.groups)
            if name is None:
                beside = replace(self.columns_of(len(unit_ids), "units"), name=self.units_group)
                table = beside if beside.columns else replace(beside, name="")
            else:
                table = self.find_table(name, "units")
            id_columns = () if self.units_are_places else UNIT_IDS
            rows_N = match_rows(table, unit_ids, id_columns, self.notes)
            for rule, holds_R in table.meeting(rules, "units_where", self.notes):
                self.keep("units", holds_R[rows_N], kept_N, f"do not meet {rule!r}")
            if not kept_N.any():
                raise self.nothing_left("unit")
        return np.flatnonzero(kept_N)
