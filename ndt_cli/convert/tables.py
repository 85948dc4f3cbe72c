"""A table of trials or of units: columns with one value a row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.open_file import open_file
from ndt_cli.convert.ticks import Clock, TicksArray
from ndt_cli.convert.where import parse_condition
from ndt_cli.errors import DataError, SettingsError

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
