"""Datasets of an HDF5 file, by their path; tables of compound rows by their columns."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents, Item, ListsItem
from ndt_cli.data.arrays import DAMAGE
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory

# A group may hold links to itself: two of them make a million paths of this depth.
_MAX_DEPTH = 20
_MAX_LINKS = 100_000


def open_h5(path: Path) -> h5py.File:
    """Open an HDF5 file.

    Raises
    ------
    DataError
        If it is damaged.
    """
    try:
        return h5py.File(path, "r")
    except DAMAGE as error:
        raise DataError(
            f"{path}: the file is damaged or was not written to its end ({error})",
            hint="Copy or write the file again.",
        ) from error


def hdf5_contents(path: Path, file: h5py.File) -> Contents:
    """List the arrays of an open HDF5 file."""
    contents = Contents(path, "HDF5")
    contents.on_close.callback(file.close)
    n_links = _walk(contents, file, "", 0)
    if n_links > _MAX_LINKS:
        contents.on_close.close()
        raise DataError(
            f"{path}: found more than {_MAX_LINKS} names; expected a recording",
            hint="Do its groups hold links to one another? Copy what is needed to a file of its "
            "own.",
        )
    return contents


def _walk(contents: Contents, group: h5py.Group, front: str, depth: int, n_links: int = 0) -> int:
    """List what is in a group, and below; return how many names were met."""
    for key in group:
        n_links += 1
        if n_links > _MAX_LINKS:
            break
        try:
            item = group.get(key)  # None for a link that leads nowhere
        except DAMAGE:  # or in a circle
            continue
        if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
            n_links = _walk(contents, item, f"{front}{key}/", depth + 1, n_links)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            contents.items.update(dataset_items(contents.path, f"{front}{key}", item))
    return n_links


def dataset_items(path: Path, name: str, dataset: h5py.Dataset) -> dict[str, Item]:
    """Return the items of one dataset: itself, or one for each column of a compound table."""
    try:
        dtype = dataset.dtype
    except DAMAGE:  # HDF5 has types that numpy has not
        return {}
    if dtype.names:
        return {
            f"{name}/{column}": ArrayItem(
                dataset.shape,
                str(dtype[column]),
                partial(_read_column, path, dataset, column),
            )
            for column in dtype.names
        }
    if h5py.check_ref_dtype(dtype) is not None:
        return {}
    is_text = h5py.check_string_dtype(dtype) is not None
    if not is_text and h5py.check_vlen_dtype(dtype) is not None:

        def read_lists() -> list[NDArray[Any]]:
            return [np.asarray(values) for values in read_dataset(path, dataset).reshape(-1)]

        return {name: ListsItem(dataset.shape, "lists of numbers", read_lists)}
    shown = "text" if is_text else str(dtype)
    return {name: ArrayItem(dataset.shape, shown, partial(read_dataset, path, dataset))}


def _read_column(path: Path, dataset: h5py.Dataset, column: str) -> NDArray[Any]:
    return np.asarray(read_dataset(path, dataset)[column])


def read_dataset(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Read a whole dataset, text as str.

    Raises
    ------
    DataError
        If its content is damaged, or does not fit into memory.
    """
    n_entries = max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,)))
    check_memory(n_entries * dataset.dtype.itemsize, f"{path}: `{dataset.name}`, {dataset.shape},")
    try:
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return np.asarray(dataset.asstr()[()]).astype(str)
        return np.asarray(dataset[()])
    except DAMAGE as error:
        raise DataError(
            f"{path}: `{dataset.name}` cannot be read ({error})",
            hint="Copy or write the file again.",
        ) from error
