"""Tables and time series of an NWB file, read as the HDF5 file that it is.

A column of a table may be ragged: its values lie end to end, and ``NAME_index`` says where each
row's end. A time series is a group of ``data`` with ``timestamps``, or with ``starting_time`` and
its rate. Times are in seconds, by the format.
"""

import math
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents, Item, ListsItem, SeriesItem
from ndt_cli.convert.read_hdf5 import read_dataset
from ndt_cli.data.arrays import DAMAGE
from ndt_cli.data.own_items import own_item
from ndt_cli.errors import DataError

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
    values, ends = own_item(file, name), own_item(file, index_name)
    if not isinstance(values, h5py.Dataset) or not isinstance(ends, h5py.Dataset):
        return
    if h5py.check_dtype(ref=values.dtype) is not None or not values.ndim or ends.ndim != 1:
        return

    def read() -> list[NDArray[Any]]:
        flat, stops = read_dataset(contents.path, values), read_dataset(contents.path, ends)
        whole = stops.dtype.kind in "iu"
        # What is left over would be the last row's, or nobody's.
        if (
            not whole
            or stops.min(initial=0) < 0
            or stops.max(initial=0) != len(flat)
            or (stops[1:] < stops[:-1]).any()
        ):
            raise DataError(
                f"{contents.path}: `{index_name}`: found {stops[:5].tolist()}...; expected where "
                f"each row of `{name}` ends, ascending to its length of {len(flat)}",
                hint="Write the file again.",
            )
        return np.split(flat, stops.astype(np.int64))[:-1]

    del contents.items[index_name]
    contents.items[name] = ListsItem(ends.shape, f"lists of {values.dtype}", read)


def _join_series(contents: Contents, file: h5py.File, name: str) -> None:
    data, stamps, start = (
        own_item(file, f"{name}/{part}") for part in ("data", "timestamps", "starting_time")
    )
    if not isinstance(data, h5py.Dataset) or not data.ndim:
        return
    if not isinstance(stamps, h5py.Dataset) and not (
        isinstance(start, h5py.Dataset) and "rate" in start.attrs
    ):
        return

    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        values = read_dataset(contents.path, data)
        try:
            scale = float(data.attrs.get("conversion", 1.0))
            offset = float(data.attrs.get("offset", 0.0))
            if isinstance(stamps, h5py.Dataset):
                times = read_dataset(contents.path, stamps)
            else:
                times = _regular_times(start, len(values))
        except DAMAGE as error:
            raise DataError(
                f"{contents.path}: `{name}`: conversion, offset, starting time or rate cannot be "
                f"read ({error})",
                hint="Write the file again.",
            ) from error
        if values.dtype.kind in "buif" and (scale != 1 or offset != 0):
            with np.errstate(over="ignore"):
                values = values * scale + offset
        return times, values

    for part in ("data", "timestamps", "starting_time"):
        contents.items.pop(f"{name}/{part}", None)
    unit = _unit(data)
    item: Item = SeriesItem(data.shape, f"time series, {unit}" if unit else "time series", read)
    contents.items[name] = item


def _regular_times(start: Any, n_samples: int) -> NDArray[np.float64]:
    rate_hz, first_s = float(start.attrs["rate"]), float(start[()])
    if not 0 < rate_hz < math.inf or not math.isfinite(first_s):
        raise ValueError(f"{rate_hz:g} samples per second from {first_s:g} s on")
    return first_s + np.arange(n_samples) / rate_hz


def _unit(data: h5py.Dataset) -> str:
    try:
        unit = data.attrs.get("unit", "")
    except DAMAGE:
        return ""
    return unit if isinstance(unit, str) else ""
