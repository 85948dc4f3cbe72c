"""Which units to keep, by the columns of a table of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.choices import Choices
from ndt_cli.convert.contents import Contents
from ndt_cli.convert.guess import guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.tables import Table, find_table, match_rows
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError

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
