"""Tables and time series of an NWB file, read as the HDF5 file that it is.

A column of a table may be ragged: its values lie end to end, and ``NAME_index`` says where each
row's end. A time series is a group of ``data`` with ``timestamps``, or with ``starting_time`` and
its rate. Times are in seconds, by the format.
"""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents, Item, ListsItem, SeriesItem
from ndt_cli.convert.read_hdf5 import read_dataset

# Definitions of the format, the laboratory, the animal and the electrodes.
_NO_DATA = ("specifications/", "general/")


def is_nwb(file: h5py.File) -> bool:
    """Tell whether an HDF5 file says that it is an NWB file."""
    return "nwb_version" in file.attrs


def as_nwb(contents: Contents, file: h5py.File) -> None:
    """Put ragged columns and time series in the place of the datasets that make them up."""
    contents.layout = "NWB"
    for name in list(contents.items):
        if name.startswith(_NO_DATA) or "/" not in name:
            del contents.items[name]
    for name in [n for n in contents.items if n.endswith("_index") and n in contents.items]:
        _join_ragged(contents, file, name)
    for name in [n for n in contents.items if n.endswith("/data")]:
        _join_series(contents, file, name.removesuffix("/data"))


def _join_ragged(contents: Contents, file: h5py.File, index_name: str) -> None:
    name = index_name.removesuffix("_index")
    if name not in contents.items or f"{index_name}_index" in contents.items:
        return  # no index of a column, or one of two levels, such as waveforms
    values, ends = file[name], file[index_name]
    if h5py.check_dtype(ref=values.dtype) is not None or ends.ndim != 1:
        return

    def read() -> list[NDArray[Any]]:
        stops = read_dataset(contents.path, ends).astype(np.int64)
        return np.split(read_dataset(contents.path, values), stops[:-1]) if len(stops) else []

    del contents.items[index_name]
    contents.items[name] = ListsItem(ends.shape, f"lists of {values.dtype}", read)


def _join_series(contents: Contents, file: h5py.File, name: str) -> None:
    group = file[name]
    data, stamps = group["data"], group.get("timestamps")
    start = group.get("starting_time")
    if stamps is None and (start is None or "rate" not in start.attrs):
        return
    scale = float(data.attrs.get("conversion", 1.0))
    offset = float(data.attrs.get("offset", 0.0))

    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        values = read_dataset(contents.path, data)
        if values.dtype.kind in "buif" and (scale != 1 or offset != 0):
            values = values * scale + offset
        if stamps is not None:
            return read_dataset(contents.path, stamps), values
        return float(start[()]) + np.arange(len(values)) / float(start.attrs["rate"]), values

    for part in ("data", "timestamps", "starting_time"):
        contents.items.pop(f"{name}/{part}", None)
    unit = data.attrs.get("unit", "")
    item: Item = SeriesItem(data.shape, f"time series, {unit}" if unit else "time series", read)
    contents.items[name] = item
