"""Tables of trials or of units: choosing rows, matching them by name, conditions of trials.

Axes in names: B trials, R rows of a table.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import Clock, TicksArray
from ndt_cli.convert.contents import ArrayItem, Contents, listed
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError, SettingsError

_COMPARISON = re.compile(r"\s*([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*([^=!<>]+?)\s*")
_MEMBERSHIP = re.compile(r"\s*([^=!<>]+?)\s+in\s+(.+?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_BOOLEANS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_N_MISSING = 5

TRIAL_IDS = ("trial", "trial_id", "id", "trial_number")
"""Columns that may hold the numbers of the trials."""
_LARGEST_WHOLE = 2.0**53  # beyond it a float skips numbers


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
        is_text = column.dtype.kind not in "buif"
        if is_text and self.operator in ("<", "<=", ">", ">="):
            raise self._wrong(f"column {self.column!r} is text, which has no order")
        rows = column.astype(str) if is_text else column.astype(np.float64)
        wanted = [value if is_text else self._number(value) for value in self.values]
        if self.operator == "in":
            return np.isin(rows, np.array(wanted))
        met = np.asarray(_COMPARE[self.operator](rows, wanted[0]), dtype=bool)
        return met if is_text else met & ~np.isnan(rows)

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
    compared, member = _COMPARISON.fullmatch(text), _MEMBERSHIP.fullmatch(text)
    if compared is not None:
        column, sign, value = compared.groups()
        return RowFilter(text, option, column, "==" if sign == "=" else sign, (_bare(value),))
    if member is not None:
        column, values = member.groups()
        return RowFilter(text, option, column, "in", tuple(_bare(v) for v in values.split(",")))
    raise SettingsError(
        f"`{option}`: found {text!r}; expected a column, one of == != < <= > >= in, and a value",
        hint=f"Such as `{option}='success == 1'`.",
    )


def _bare(value: str) -> str:
    """Return a value without the quotes around it."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, somewhere in a file.

    Parameters
    ----------
    contents : Contents
        The file.
    name : str
        Group of the columns; empty for the top of the file.
    n_rows : int
        Rows.
    option : str
        The option that chose it, for messages.
    clock : Clock
        Of its times.
    added : dict of str to array
        Columns that are not in the file.
    zero_us_R : (rows,) int array, optional
        Time that times in each row count from, where it is not the recording's own zero.
    shape : tuple of int, optional
        Of the columns, where they are fields of an n x k array of structs.
    """

    contents: Contents
    name: str
    n_rows: int
    option: str
    clock: Clock
    added: dict[str, NDArray[Any]] = field(default_factory=dict)
    zero_us_R: TicksArray | None = None
    shape: tuple[int, ...] | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without that of the group."""
        front = f"{self.name}/" if self.name else ""
        below = (n for n in self.contents.children(self.name) if self._is_column(n))
        return [*self.added, *(n[len(front) :] for n in below)]

    def _is_column(self, full_name: str) -> bool:
        item = self.contents.items.get(full_name)
        return isinstance(item, ArrayItem) and item.shape == (self.shape or (self.n_rows,))

    def column(self, name: str, option: str) -> NDArray[Any]:
        """Read a column, which has one value per row."""
        if name in self.added:
            return self.added[name]
        front = f"{self.name}/" if self.name else ""
        for full in (name, f"{front}{name}", f"{front}{name}".replace(".", "/")):
            if self._is_column(self.contents.resolve(full) or full):
                return self.contents.array(full, option).reshape(-1)
        for full in (f"{front}{name}", name):
            self.contents.check_readable(full, option)
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
        known_R = np.isfinite(values)
        times_us_R = self.clock.to_us(np.where(known_R, values, 0))
        return times_us_R if self.zero_us_R is None else times_us_R + self.zero_us_R, known_R

    def with_column(self, name: str, values: NDArray[Any]) -> "Table":
        """Return the table with one more column."""
        return replace(self, added={**self.added, name: values})

    def ids(self, rows: IntArray) -> IntArray:
        """Return the number of some trials: that of a column of numbers, else the row."""
        for name in TRIAL_IDS:
            if name in self.columns:
                values = self.column(name, self.option)
                if _is_whole(values) and len(np.unique(values)) == len(values):
                    return np.asarray(values[rows], dtype=np.int64)
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

    def meeting(self, rules: Sequence[str], option: str) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return each condition, and which rows meet it."""
        filters = [parse_filter(rule, option) for rule in rules]
        return [(f.text, f.holds(self.column(f.column, option))) for f in filters]


def match_rows(
    table: Table, labels: NDArray[Any], id_columns: Sequence[str], notes: list[str]
) -> IntArray:
    """Return the row of each unit or trial in the spikes.

    Rows are matched by the first of the columns that holds all of the labels, else in order,
    which is noted.
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
        raise DataError(
            f"{table.contents.path}: {what}: found {table.n_rows} rows for {len(labels)} names in "
            "the spikes; expected one row each, or a column with their names",
            hint=f"Such a column is looked for under the names {listed(id_columns)}.",
        )
    notes.append(f"Rows of {what} were matched in order: no column holds the names in the spikes.")
    return np.arange(len(labels))


def short_name(column: str) -> str:
    """Return the name of a column without that of its table: ``go`` for ``trials.go``."""
    return re.split(r"[/.]", column)[-1] or column


def plain_label(label: Any) -> str:
    """Return the name of a unit or trial; a whole number has no decimals, whatever its type."""
    return f"{label:.15g}" if isinstance(label, float) else str(label)


@dataclass(frozen=True, eq=False)
class Conditions:
    """Condition of each trial.

    Parameters
    ----------
    numbers_B : (trials,) int array
        Number of each trial's condition.
    names : dict of int to str
        Name of each of them in the file.
    """

    numbers_B: IntArray
    names: dict[int, str]

    def sizes(self) -> dict[str, int]:
        """Trials of each condition, by name."""
        return {name: int((self.numbers_B == n).sum()) for n, name in self.names.items()}


def read_conditions(table: Table, columns: Sequence[str], rows_B: IntArray) -> Conditions | None:
    """Number the conditions of some rows; several columns together name one condition.

    A single column of whole numbers keeps its numbers; any other is numbered in sorted order.
    """
    if not columns:
        return None
    values = [table.column(name, "condition")[rows_B] for name in columns]
    if len(values) == 1 and _is_whole(values[0]):
        numbers_B = values[0].astype(np.int64)
        return Conditions(numbers_B, {int(n): str(n) for n in np.unique(numbers_B)})
    parts = [np.unique(v, return_inverse=True) for v in values]
    levels = np.stack([inverse for _, inverse in parts], axis=1)
    rows, numbers_B = np.unique(levels, axis=0, return_inverse=True)
    names = {
        i: "/".join(_label(level[j]) for (level, _), j in zip(parts, row, strict=True))
        for i, row in enumerate(rows)
    }
    return Conditions(numbers_B.reshape(-1).astype(np.int64), names)


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_whole(values: NDArray[np.generic]) -> bool:
    """Tell whether all values are numbers that int64 holds exactly."""
    if values.dtype == np.uint64:
        return int(values.max(initial=0)) <= np.iinfo(np.int64).max
    if values.dtype.kind in "biu":
        return True
    if values.dtype.kind != "f":
        return False
    numbers = values.astype(np.float64)
    whole = np.abs(numbers) < _LARGEST_WHOLE
    return bool(whole.all() and (numbers % 1 == 0).all())
