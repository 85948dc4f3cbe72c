"""What is in an unknown file, so that its names can be chosen."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.convert.contents import ArrayItem, Item
from ndt_cli.convert.open_file import open_file
from ndt_cli.errors import DataError

_N_SHOWN = 4
_MAX_CHARS = 40
_READ_ENTRIES = 10**6  # larger arrays are listed without a look inside


@dataclass(frozen=True)
class Entry:
    """One array, ragged column or time series.

    Attributes
    ----------
    name : str
        As the flags of ``ndt convert`` take it.
    shape : tuple of int
    kind : str
        Type of its values.
    values : str
        The first different values of a vector; empty for anything larger.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    values: str


@dataclass(frozen=True)
class Listing:
    """What a file holds.

    Attributes
    ----------
    source, format : str
    entries : tuple of Entry
    tables : dict of str to int
        Groups of columns of equal length, with their rows: what ``--trials`` and ``--units`` take.
    """

    source: str
    format: str
    entries: tuple[Entry, ...]
    tables: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def list_contents(file: Path | str) -> Listing:
    """List the arrays, tables and time series of a file.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB or CSV file.

    Returns
    -------
    Listing

    Raises
    ------
    DataError
        If the file cannot be read.

    Examples
    --------
    >>> for entry in list_contents("session.npz").entries[:3]:
    ...     print(entry.name, entry.shape)
    spike_times (2000,)
    spike_units (2000,)
    start_time (24,)
    """
    with open_file(Path(file)) as contents:
        entries = tuple(_entry(name, item) for name, item in contents.items.items())
        return Listing(str(file), contents.layout, entries, contents.tables())


def _entry(name: str, item: Item) -> Entry:
    values = ""
    if isinstance(item, ArrayItem) and len(item.shape) <= 1:
        values = _first_values(item)
    return Entry(name, item.shape, item.dtype, values)


def _first_values(item: ArrayItem) -> str:
    if int(np.prod(item.shape)) > _READ_ENTRIES:
        return ""
    try:
        flat = np.atleast_1d(item.read())
    except DataError as error:
        return error.message
    values = flat.tolist()
    if flat.dtype.kind in "OV":  # rows and lists cannot be compared
        values = [str(value) for value in values[: _N_SHOWN + 1]]
    distinct = list(dict.fromkeys(values))
    shown = ", ".join(f"{v:.7g}" if isinstance(v, float) else str(v) for v in distinct[:_N_SHOWN])
    if len(shown) > _MAX_CHARS:
        shown = f"{shown[:_MAX_CHARS]}..."
    elif len(distinct) > _N_SHOWN:
        shown += ", ..."
    return shown
