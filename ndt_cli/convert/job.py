"""A conversion at work: the open file, the options, and a journal of what was used and dropped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents, ListsItem, guess
from ndt_cli.convert.options import ConvertOptions
from ndt_cli.convert.reading import open_file
from ndt_cli.convert.tables import Table, match_rows
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError

# Columns that may hold the names of the units.
_UNIT_IDS = ("id", "unit_id", "cluster_id", "unit", "neuron_id", "neuron", "cluster")


@dataclass(frozen=True)
class Dropped:
    """Something that was left out.

    Attributes
    ----------
    what : str
        ``"trials"``, ``"units"``, ``"spikes"`` or ``"samples"``.
    n, n_all : int
        How many, of how many.
    why : str
        The reason, as the end of a sentence.
    """

    what: str
    n: int
    n_all: int
    why: str


@dataclass
class ConvertJob:
    """The open file, the options, and the journal that the user is shown in the end.

    Attributes
    ----------
    contents : Contents
        The open file.
    options : ConvertOptions
        What the user asks for.
    taken : dict of str to str
        Which name in the file was used as what.
    dropped : list of Dropped
    notes : list of str
        Assumptions, one sentence each.
    """

    contents: Contents
    options: ConvertOptions
    taken: dict[str, str] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def drop(self, what: str, n: int, n_all: int, why: str) -> None:
        """Note that some were left out, if any."""
        if n:
            self.dropped.append(Dropped(what, n, n_all, why))

    def keep(self, what: str, kept: NDArray[np.bool_], among: NDArray[np.bool_], why: str) -> None:
        """Remove from ``among``, in place, all that are not ``kept``, for the reason given."""
        n_all = int(among.sum())
        among &= kept
        self.drop(what, n_all - int(among.sum()), n_all, why)

    def nothing_left(self, what: str) -> DataError:
        """Return the error that everything was left out, with the reasons."""
        reasons = "; ".join(f"{d.n} of {d.n_all} {d.what} {d.why}" for d in self.dropped)
        return DataError(
            f"{self.contents.path}: no {what} is left: {reasons or 'no spikes'}", self.contents.look
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
        clock = self.options.trials_clock
        return Table(contents, found, n_rows, option, clock)

    def columns_of(self, n_rows: int, option: str = "trials", **more: Any) -> Table:
        """Return the table of all arrays at the top of the file that have this many rows."""
        return Table(self.contents, "", n_rows, option, self.options.trials_clock, **more)

    def trials_beside(self, n_trials: int, what: str, beside: str = "") -> Table:
        """Return the chosen table of trials, one row for each of ``what``, else the columns.

        They are those at the top of the file, or of the array of structs that ``beside`` is from.
        """
        name = self.options.trials
        if name in (None, "none"):
            group, item = beside.rpartition("/")[0], self.contents.items.get(beside)
            shape = item.shape if isinstance(item, ListsItem) else (n_trials,)
            if shape[0] not in self.contents.column_lengths(group):
                group = ""
            clock = self.options.trials_clock
            return Table(self.contents, group, n_trials, "trials", clock, shape=shape)
        table = self.find_table(str(name), "trials")
        if table.n_rows != n_trials:
            found, expected = f"{table.n_rows} rows", f"{n_trials}, one per trial of {what}"
            raise self.contents.wrong("trials", str(name), found, expected)
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
        column = chosen or guess(contents, "start")
        item = contents.items.get(column or "")
        if isinstance(item, ArrayItem) and len(item.shape) == 1:
            return self.columns_of(item.shape[0])
        if chosen:
            option = "align" if options.align else "start"
            raise contents.unknown(option, chosen, contents.items)
        return None

    def kept_units(self, unit_ids: NDArray[Any]) -> IntArray:
        """Return the positions of the units that meet the conditions of ``units_where``.

        Rows of the table are matched by a column of the units' names, else in order.
        """
        kept_N = np.ones(len(unit_ids), dtype=bool)
        rules = self.options.units_where
        if rules:
            name = self.options.units or guess(self.contents, "units", self.contents.groups)
            table = (
                self.columns_of(len(unit_ids), "units")
                if name is None
                else self.find_table(name, "units")
            )
            rows_N = match_rows(table, unit_ids, _UNIT_IDS, self.notes)
            for rule, holds_R in table.meeting(rules, "units_where"):
                self.keep("units", holds_R[rows_N], kept_N, f"do not meet {rule!r}")
            if not kept_N.any():
                raise self.nothing_left("unit")
        return np.flatnonzero(kept_N)
