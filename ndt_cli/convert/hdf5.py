"""HDF5 files: datasets by their path, and compound tables by their columns. NWB files."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents, Item, array_item, fields_of
from ndt_cli.data.files import (
    DAMAGE,
    Elsewhere,
    attribute,
    check_announced,
    own_item,
    own_names,
    read_objects,
    text_array,
)
from ndt_cli.errors import DataError

# A group may hold links to itself: two of them make a million paths of this depth.
_MAX_DEPTH = 20
# Names that are listed: at least, at most, and the least bytes of the file that one takes.
_FEW_LINKS, _MAX_LINKS, _LINK_BYTES = 5_000, 100_000, 64

# Parts of an NWB file: definitions of the format; the laboratory, animal and electrodes.
_NO_DATA = ("specifications/", "general/")
_ELECTRODES = "general/extracellular_ephys/electrodes"


def list_hdf5(contents: Contents, file: h5py.File) -> None:
    """List the arrays of an open HDF5 file, or the tables and time series of an NWB file."""
    contents.layout, path = "HDF5", contents.path
    max_links = min(_MAX_LINKS, max(_FEW_LINKS, file.id.get_filesize() // _LINK_BYTES))
    for n_links, (name, item) in enumerate(_below(file)):
        if n_links >= max_links:
            raise DataError(
                f"{path}: found more than {max_links} names; expected a recording",
                hint="Do its groups link to one another? Copy what you need to a new file.",
            )
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            contents.items.update(_dataset_items(path, name, item))
        elif isinstance(item, Elsewhere):
            contents.items[name] = _elsewhere(path, name, item)
    if "nwb_version" in file.attrs:
        _as_nwb(contents, file)


def _below(group: h5py.Group, front: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the path and item of all that is below a group; None for what is damaged."""
    for key in own_names(group):
        try:
            item = own_item(group, key)
        except DAMAGE:
            item = None
        yield f"{front}{key}", item
        if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
            yield from _below(item, f"{front}{key}/", depth + 1)


def _elsewhere(path: Path, name: str, item: Elsewhere) -> Item:
    """Return an item that is listed, and refused when it is read."""

    def read() -> NDArray[Any]:
        raise DataError(
            f"{path}: {name!r}: found {item.found}; expected the array itself", hint=item.hint
        )

    return Item((), f"in another file, {item.file}", read)


def _dataset_items(path: Path, name: str, dataset: h5py.Dataset) -> dict[str, Item]:
    """Return the items of a dataset: itself, or one for each column of a compound table."""
    try:
        dtype = dataset.dtype
    except DAMAGE:  # a type that numpy does not have
        return {}
    read = partial(read_dataset, path, dataset)
    if dtype.names:
        return fields_of(name, dataset.shape, dtype, read)
    if h5py.check_ref_dtype(dtype) is not None:
        return {}
    is_text = h5py.check_string_dtype(dtype) is not None
    if not is_text and h5py.check_vlen_dtype(dtype) is not None:

        def read_lists() -> list[NDArray[Any]]:
            return [np.asarray(values) for values in read().reshape(-1)]

        return {name: Item(dataset.shape, "lists of numbers", read_lists, "lists")}
    return {name: array_item(dataset.shape, "text" if is_text else str(dtype), read)}


def read_dataset(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Read a whole dataset, text as str, unless it is damaged or far larger than the file."""
    check_announced(path, dataset)
    try:
        words_of = h5py.check_enum_dtype(dataset.dtype)
        if words_of:
            return _words(np.asarray(dataset[()]), {code: word for word, code in words_of.items()})
        text = h5py.check_string_dtype(dataset.dtype)
        values = read_objects(dataset) if dataset.dtype.hasobject else dataset[()]
        if text is None:
            return np.asarray(values)
        words = [word.decode(text.encoding) for word in np.atleast_1d(values).reshape(-1).tolist()]
        return text_array(f"{path}: {dataset.name!r}", words).reshape(dataset.shape)
    except DAMAGE as error:
        raise DataError(
            f"{path}: {dataset.name!r} cannot be read ({error})",
            hint="Copy or write the file again.",
        ) from error


def _words(codes: NDArray[Any], words: dict[int, str]) -> NDArray[Any]:
    """Return the word of each code; a code without one stays a number."""
    found = [words.get(code, str(code)) for code in np.atleast_1d(codes).reshape(-1).tolist()]
    return np.array(found, dtype=str).reshape(codes.shape)


# Tables and time series of an NWB file, read as the HDF5 file that it is --------------------------
#
# A column of a table may be ragged: its values lie end to end, and ``NAME_index`` holds the end of
# each row. A time series is a group of ``data`` with ``timestamps``, or with ``starting_time`` and
# a rate. Times are in seconds.


def _as_nwb(contents: Contents, file: h5py.File) -> None:
    """Replace the datasets of ragged columns and of time series by one item each."""
    contents.layout = "NWB"
    for name in list(contents.items):
        if name.startswith(_NO_DATA) or "/" not in name:
            del contents.items[name]
    for name in list(contents.items):
        _name_elements(contents, file, name)
    for name in [n for n in contents.items if n.endswith("_index")]:
        _join_ragged(contents, file, name)
    for name in [n for n in contents.items if n.endswith("/data")]:
        _join_series(contents, file, name.removesuffix("/data"))
    _join_electrodes(contents, file)


def _name_elements(contents: Contents, file: h5py.File, name: str) -> None:
    """Read a column of numbers that stand for words (EnumData) as these words."""
    codes = own_item(file, name)
    if not isinstance(codes, h5py.Dataset) or codes.ndim != 1:
        return
    where = attribute(codes, "elements")
    elements = file[where] if isinstance(where, h5py.Reference) and where else None
    if not isinstance(elements, h5py.Dataset):
        return

    def read() -> NDArray[Any]:
        words = dict(enumerate(read_dataset(contents.path, elements).tolist()))
        return _words(read_dataset(contents.path, codes), words)

    contents.items[name] = Item(codes.shape, "text", read)


def _join_ragged(contents: Contents, file: h5py.File, index_name: str) -> None:
    """Replace a column and its index by lists."""
    name = index_name.removesuffix("_index")
    if name not in contents.items or f"{index_name}_index" in contents.items:
        return  # not the index of a column, or an index of two levels, such as for waveforms
    values, ends = own_item(file, name), own_item(file, index_name)
    if not isinstance(values, h5py.Dataset) or not isinstance(ends, h5py.Dataset):
        return
    if h5py.check_dtype(ref=values.dtype) is not None or not values.ndim or ends.ndim != 1:
        return
    kind = attribute(ends, "neurodata_type", "VectorIndex")  # some write none
    if kind not in ("VectorIndex", b"VectorIndex"):
        return  # a column of its own, such as the place of a target

    def read() -> list[NDArray[Any]]:
        flat, stops = read_dataset(contents.path, values), read_dataset(contents.path, ends)
        # What is left over would be the last row's, or no row's.
        if (
            stops.dtype.kind not in "iu"
            or stops.min(initial=0) < 0
            or stops.max(initial=0) != len(flat)
            or (stops[1:] < stops[:-1]).any()
        ):
            raise DataError(
                f"{contents.path}: {index_name!r}: found {stops[:5].tolist()}...; expected the end "
                f"of each row of {name!r}, ascending to its length of {len(flat)}",
                hint="Write the file again.",
            )
        return np.split(flat, stops.astype(np.int64))[:-1]

    del contents.items[index_name]
    contents.items[name] = Item(ends.shape, f"lists of {values.dtype}", read, "lists")


def _join_electrodes(contents: Contents, file: h5py.File) -> None:
    """Add to the units the text of their electrodes, such as ``location``, the brain area."""
    groups = own_item(file, "units/electrode_group")
    if isinstance(groups, h5py.Dataset) and h5py.check_ref_dtype(groups.dtype) and groups.ndim == 1:

        def read_groups() -> NDArray[Any]:
            found = [file[r].name if r else "" for r in read_dataset(contents.path, groups)]
            return np.array([name.rpartition("/")[2] for name in found], dtype=str)

        contents.items["units/electrode_group"] = Item(groups.shape, "text", read_groups)
    rows, table = contents.items.get("units/electrodes"), own_item(file, _ELECTRODES)
    if rows is None or len(rows.shape) != 1 or not isinstance(table, h5py.Group):
        return
    for column in own_names(table):
        values, name = own_item(table, column), f"units/{column}"
        if not isinstance(values, h5py.Dataset) or values.ndim != 1 or name in contents.items:
            continue
        if h5py.check_string_dtype(values.dtype) is None:
            continue

        def read(values: h5py.Dataset = values, name: str = name) -> NDArray[Any]:
            words, units = read_dataset(contents.path, values), rows.read()
            each = [np.unique(np.asarray(unit)) for unit in units]
            own = np.concatenate(each) if each else np.zeros(0, dtype=int)
            if own.dtype.kind not in "iu" or not ((own >= 0) & (own < len(words))).all():
                raise DataError(
                    f"{contents.path}: 'units/electrodes': found rows outside of the "
                    f"{len(words)} electrodes; expected the electrodes of each unit",
                    hint="Write the file again.",
                )
            joined = ["/".join(sorted({str(words[row]) for row in unit})) for unit in each]
            return text_array(f"{contents.path}: {name!r}", joined)

        contents.items[name] = Item(rows.shape, "text", read)


def _join_series(contents: Contents, file: h5py.File, name: str) -> None:
    """Replace data and times by a time series."""
    names = ("data", "timestamps", "starting_time", "channel_conversion")
    parts = [f"{name}/{part}" for part in names]
    data, stamps, start, gains = (own_item(file, part) for part in parts)
    if not isinstance(data, h5py.Dataset) or not data.ndim:
        return
    has_rate = isinstance(start, h5py.Dataset) and "rate" in start.attrs
    if not isinstance(stamps, h5py.Dataset) and not has_rate:
        return

    def read() -> tuple[NDArray[Any], NDArray[Any]]:
        values = read_dataset(contents.path, data)
        try:
            scale: Any = float(attribute(data, "conversion", 1.0))
            offset = float(attribute(data, "offset", 0.0))
            if isinstance(gains, h5py.Dataset):
                scale = scale * _gains(read_dataset(contents.path, gains), values)
            if isinstance(stamps, h5py.Dataset):
                times = read_dataset(contents.path, stamps)
            else:
                times = _regular_times(start, len(values))
        except DAMAGE as error:
            raise DataError(
                f"{contents.path}: {name!r}: conversion, offset, starting time or rate cannot be "
                f"read ({error})",
                hint="Write the file again.",
            ) from error
        if values.dtype.kind in "buif" and (np.any(scale != 1) or offset != 0):
            with np.errstate(over="ignore"):
                values = values * scale + offset
        return times, values

    for part in parts:
        contents.items.pop(part, None)
    try:
        unit = attribute(data, "unit")
    except DAMAGE:
        unit = None
    kind = f"time series, {unit}" if unit and isinstance(unit, str) else "time series"
    contents.items[name] = Item(data.shape, kind, read, "series")


def _gains(gains: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the factor of each channel (``channel_conversion``), along the second axis."""
    if values.ndim != 2 or gains.shape != values.shape[1:]:
        raise ValueError(f"channel_conversion of shape {gains.shape} for data of {values.shape}")
    return gains.astype(np.float64)


def _regular_times(start: Any, n_samples: int) -> NDArray[np.float64]:
    rate_hz, first_s = float(attribute(start, "rate")), float(start[()])
    if not 0 < rate_hz < math.inf or not math.isfinite(first_s):
        raise ValueError(f"{rate_hz:g} samples per second from {first_s:g} s")
    return first_s + np.arange(n_samples) / rate_hz
