"""Choosing rows of a table: ``column operator value``, read and never executed."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import Clock, TicksArray
from ndt_cli.convert.contents import ArrayItem, Contents, guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.options import Choices
from ndt_cli.convert.readers import open_file
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


@dataclass(frozen=True)
class Condition:
    """One condition on the rows of a table.

    Attributes
    ----------
    text : str
        As it was typed.
    flag : str
        Where it was typed, for messages.
    column : str
        Name of the column.
    operator : str
        ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``in``.
    values : tuple of str
        What to compare with; several for ``in``.
    """

    text: str
    flag: str
    column: str
    operator: str
    values: tuple[str, ...]

    def holds(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each row whether the condition holds; a missing number never fulfils it.

        Raises
        ------
        SettingsError
            If numbers are compared with a word, or words by size.
        """
        is_text = column.dtype.kind not in "buif"
        if is_text and self.operator in ("<", "<=", ">", ">="):
            raise self._wrong(f"column {self.column!r} holds text, which has no order")
        rows = column.astype(str) if is_text else column.astype(np.float64)
        wanted = [value if is_text else self._number(value) for value in self.values]
        if self.operator == "in":
            return np.isin(rows, np.array(wanted))
        fulfilled = np.asarray(_COMPARE[self.operator](rows, wanted[0]), dtype=bool)
        return fulfilled if is_text else fulfilled & ~np.isnan(rows)

    def _number(self, value: str) -> float:
        if value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        try:
            return float(value)
        except ValueError:
            raise self._wrong(
                f"column {self.column!r} holds numbers, and {value!r} is none"
            ) from None

    def _wrong(self, why: str) -> SettingsError:
        return SettingsError(
            f"{self.flag} {self.text!r}: {why}",
            hint="ndt convert FILE --list  shows the first values of each column.",
        )


def parse_condition(text: str, flag: str) -> Condition:
    """Read one condition, such as ``success == 1``, ``quality = good`` or ``block in 1, 3``.

    Raises
    ------
    SettingsError
        If it is none.

    Examples
    --------
    >>> import numpy as np
    >>> parse_condition("duration_ms >= 500", "--where").holds(np.array([499, 500]))
    array([False,  True])
    """
    compared, member = _COMPARISON.fullmatch(text), _MEMBERSHIP.fullmatch(text)
    if compared is not None:
        column, sign, value = compared.groups()
        return Condition(text, flag, column, "==" if sign == "=" else sign, (_bare(value),))
    if member is not None:
        column, values = member.groups()
        return Condition(text, flag, column, "in", tuple(_bare(v) for v in values.split(",")))
    raise SettingsError(
        f"{flag}: found {text!r}; expected a column, one of == != < <= > >= in, and a value",
        hint=f"Such as: {flag} 'success == 1'. Give {flag} again for a second condition: all must "
        "hold.",
    )


def _bare(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


# ------------------------------------------------------------------------------------------------
# A table of trials or of units: columns with one value a row.
# ------------------------------------------------------------------------------------------------


# Missing names that a message shows.
_SHOWN = 5


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
    flag : str
        The flag that chose it, for messages.
    clock : Clock
        Of its times.
    added : dict of str to array
        Columns that are not in the file.
    zero_us_R : (rows,) int array, optional
        What times in each row count from, where that is not the recording's own zero.
    """

    contents: Contents
    name: str
    n_rows: int
    flag: str
    clock: Clock = field(default_factory=Clock)
    added: dict[str, NDArray[Any]] = field(default_factory=dict)
    zero_us_R: TicksArray | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns, without the group's."""
        front = f"{self.name}/" if self.name else ""
        return [*self.added, *(n[len(front) :] for n in self._found())]

    def _found(self) -> list[str]:
        items = self.contents.items
        return [
            n
            for n in self.contents.children(self.name)
            if isinstance(items[n], ArrayItem) and items[n].shape == (self.n_rows,)
        ]

    def column(self, name: str, flag: str) -> NDArray[Any]:
        """Read a column.

        Raises
        ------
        SettingsError
            If there is none of that name with one value a row.
        """
        if name in self.added:
            return self.added[name]
        front = f"{self.name}/" if self.name else ""
        for full in (name, f"{front}{name}", f"{front}{name}".replace(".", "/")):
            item = self.contents.items.get(full)
            if isinstance(item, ArrayItem) and item.shape == (self.n_rows,):
                return self.contents.readable(item, full, flag)
        where = f"{self.contents.path}" + (f", {self.name}" if self.name else "")
        known = ", ".join(f"`{c}`" for c in self.columns) or "none"
        error = self.contents.unknown(flag, name, self.columns)
        raise SettingsError(
            f"{where}: {flag} {name}: found no such column of {self.n_rows} values, one a "
            f"{'trial' if 'trial' in self.flag else 'unit'}; there are {known}",
            hint=error.hint,
        )

    def times_us(self, name: str, flag: str) -> tuple[TicksArray, NDArray[np.bool_]]:
        """Read a column of times.

        Returns
        -------
        times_us_R : (rows,) int array
            In microseconds; 0 where there is none.
        known_R : (rows,) bool array
            False where the file has NaN.

        Raises
        ------
        SettingsError, DataError
            If there is no such column, or it holds no numbers.
        """
        values = self.column(name, flag)
        if values.dtype.kind not in "uif":
            raise self.contents.wrong(flag, name, f"values of type {values.dtype}", "times")
        known_R = np.isfinite(values)
        times_us_R = self.clock.to_us(np.where(known_R, values, 0))
        if self.zero_us_R is not None:
            times_us_R = times_us_R + self.zero_us_R
        return times_us_R, known_R

    def fulfilling(self, texts: Sequence[str], flag: str) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return for each condition which rows fulfil it."""
        conditions = [parse_condition(text, flag) for text in texts]
        return [(c.text, c.holds(self.column(c.column, flag))) for c in conditions]


def find_table(contents: Contents, name: str, flag: str, clock: Clock | None = None) -> Table:
    """Return the table of a name: another file, or a group of this one.

    Raises
    ------
    SettingsError, DataError
        If there is no such file or group, or it has no columns.
    """
    # A group comes first: its name may be the file's own, and must not lead to another file.
    found, path = contents.resolve_table(name), Path(name)
    if found is None and (path.is_file() or path.suffix):
        contents = contents.on_close.enter_context(open_file(path))
        found = ""
    if found is None:
        groups = {n.rpartition("/")[0] for n in contents.items if "/" in n}
        raise contents.unknown(flag, name, sorted(groups))
    n_rows = contents.n_rows(found)
    if n_rows == 0:
        raise DataError(f"{contents.path}: {flag} {name}: found no rows; expected at least one")
    return Table(contents, found, n_rows, flag, clock or Clock())


def match_rows(
    table: Table, labels: NDArray[Any], id_columns: Sequence[str], journal: Journal
) -> NDArray[np.int64]:
    """Return the row of each label: by a column of labels, or else in order.

    Parameters
    ----------
    table : Table
        Rows to choose from.
    labels : (units or trials,) array
        What each is called in the spikes.
    id_columns : sequence of str
        Columns that may hold those names, the first that holds all of them is taken.
    journal : Journal
        Told when rows are taken in order.

    Raises
    ------
    DataError
        If no column does, and one holds some of them, or there are more or fewer rows than labels.
    """
    wanted = [_plain(v) for v in labels.tolist()]
    in_part: list[tuple[str, list[str]]] = []
    for name in id_columns:
        if name not in table.columns:
            continue
        ids = [_plain(v) for v in table.column(name, table.flag).tolist()]
        rows = {label: row for row, label in enumerate(ids)}
        missing = [label for label in wanted if label not in rows]
        if len(rows) == len(ids) and not missing:
            return np.array([rows[label] for label in wanted], dtype=np.int64)
        if len(rows) == len(ids) and len(missing) < len(wanted):
            in_part.append((name, missing))
    what = f"{table.flag} {table.name or 'table'}"
    if in_part:
        name, missing = in_part[0]
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(
            f"{table.contents.path}: {what}: found no row for {shown} in its column `{name}`, "
            f"which holds {len(wanted) - len(missing)} of the {len(wanted)} names in the spikes",
            hint=f"Complete the column, or rename it if it holds something else than `{name}`.",
        )
    if table.n_rows == len(labels):
        journal.note(
            f"Rows of {what} are matched in order: no column of it holds the names in the spikes."
        )
        return np.arange(len(labels))
    tried = ", ".join(f"`{n}`" for n in id_columns)
    raise DataError(
        f"{table.contents.path}: {what}: found {table.n_rows} rows "
        f"for {len(labels)} names in the spikes; expected one row each, or a column with their "
        "names",
        hint=f"Columns that are looked for: {tried}.",
    )


def _plain(label: Any) -> str:
    return f"{label:.15g}" if isinstance(label, float) else str(label)


# ------------------------------------------------------------------------------------------------
# Condition labels from the columns of a table.
# ------------------------------------------------------------------------------------------------


_LARGEST_WHOLE = 2.0**53  # beyond it a float skips numbers


@dataclass(frozen=True, eq=False)
class Conditions:
    """Condition of each trial.

    Parameters
    ----------
    numbers_B : (trials,) int array
        Number of each trial's condition.
    names : dict of int to str
        What the file calls each of them.
    """

    numbers_B: IntArray
    names: dict[int, str]

    def sizes(self) -> dict[str, int]:
        """Trials of each condition, by name."""
        return {name: int((self.numbers_B == n).sum()) for n, name in self.names.items()}


def read_conditions(table: Table, columns: Sequence[str], rows_B: IntArray) -> Conditions | None:
    """Number the conditions of some rows; several columns together name one condition.

    A single column of whole numbers keeps its numbers; any other is numbered in sorted order.

    Raises
    ------
    SettingsError
        If a column is not there.
    """
    if not columns:
        return None
    values = [table.column(name, "--condition")[rows_B] for name in columns]
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
    if values.dtype == np.uint64:
        return int(values.max(initial=0)) <= np.iinfo(np.int64).max
    if values.dtype.kind in "biu":
        return True
    if values.dtype.kind != "f":
        return False
    numbers = values.astype(np.float64)
    whole = np.abs(numbers) < _LARGEST_WHOLE
    return bool(whole.all() and (numbers % 1 == 0).all())


# ------------------------------------------------------------------------------------------------
# Which units to keep, by the columns of a table of them.
# ------------------------------------------------------------------------------------------------


_ID_COLUMNS = ("id", "unit_id", "cluster_id", "unit", "neuron_id", "neuron", "cluster")


def kept_units(
    contents: Contents, choices: Choices, unit_ids: NDArray[Any], journal: Journal
) -> IntArray:
    """Return the positions of the units that fulfil ``--units-where``.

    Rows of the table are matched by a column of the units' names where it has one, else in order.

    Raises
    ------
    SettingsError, DataError
        If there is no such table or column, or no unit is left.
    """
    kept_N = np.ones(len(unit_ids), dtype=bool)
    if not choices.units_where:
        return np.flatnonzero(kept_N)
    table = _units_table(contents, choices, len(unit_ids))
    rows_N = match_rows(table, unit_ids, _ID_COLUMNS, journal)
    for text, holds in table.fulfilling(choices.units_where, "--units-where"):
        journal.keep("units", holds[rows_N], kept_N, f"do not fulfil {text!r}")
    if not kept_N.any():
        raise DataError(
            f"{contents.path}: no unit is left: {journal.reasons()}",
            hint="ndt convert FILE --list  shows the first values of each column.",
        )
    return np.flatnonzero(kept_N)


def _units_table(contents: Contents, choices: Choices, n_units: int) -> Table:
    if choices.units is not None:
        return find_table(contents, choices.units, "--units")
    group = guess(contents, "units", sorted({n.rpartition("/")[0] for n in contents.items}))
    if group:
        return find_table(contents, group, "--units")
    return Table(contents, "", n_units, "--units")
