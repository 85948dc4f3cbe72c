"""Datasets of an HDF5 file, by their path; tables of compound rows by their columns."""

from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents, Item, ListsItem
from ndt_cli.data.announced import check_announced
from ndt_cli.data.arrays import DAMAGE
from ndt_cli.data.own_items import Elsewhere, own_item
from ndt_cli.errors import DataError

# A group may hold links to itself: two of them make a million paths of this depth.
_MAX_DEPTH = 20
# What has a name takes so many bytes of the file, at least.
_FEW_LINKS, _MAX_LINKS, _LINK_BYTES = 5_000, 100_000, 64


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
    max_links = min(_MAX_LINKS, max(_FEW_LINKS, file.id.get_filesize() // _LINK_BYTES))
    if _walk(contents, file, "", max_links) > max_links:
        contents.on_close.close()
        raise DataError(
            f"{path}: found more than {max_links} names; expected a recording",
            hint="Do its groups hold links to one another? Copy what is needed to a file of its "
            "own.",
        )
    return contents


def _walk(
    contents: Contents,
    group: h5py.Group,
    front: str,
    max_links: int,
    depth: int = 0,
    n_links: int = 0,
) -> int:
    """List what is in a group, and below; return how many names were met."""
    for key in group:
        n_links += 1
        if n_links > max_links:
            break
        try:
            item = own_item(group, key)
        except DAMAGE:
            continue
        if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
            n_links = _walk(contents, item, f"{front}{key}/", max_links, depth + 1, n_links)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            contents.items.update(dataset_items(contents.path, f"{front}{key}", item))
        elif isinstance(item, Elsewhere):
            contents.items[f"{front}{key}"] = _elsewhere(contents.path, f"{front}{key}", item)
    return n_links


def _elsewhere(path: Path, name: str, item: Elsewhere) -> ArrayItem:
    """Return an item that is listed, and refused where it is chosen."""

    def read() -> NDArray[Any]:
        raise DataError(
            f"{path}: `{name}`: found {item.found}; expected the array itself", hint=item.hint
        )

    return ArrayItem((), f"in another file, {item.file}", read)


def dataset_items(path: Path, name: str, dataset: h5py.Dataset) -> dict[str, Item]:
    """Return the items of one dataset: itself, or one for each column of a compound table."""
    try:
        dtype = dataset.dtype
    except DAMAGE:  # HDF5 has types that numpy has not
        return {}
    if dtype.names:
        return {
            f"{name}/{column}": ArrayItem(
                (*dataset.shape, *dtype[column].shape),
                str(dtype[column].base),
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
        If its content is damaged, far larger than the file, or does not fit into memory.
    """
    check_announced(path, dataset)
    try:
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return np.asarray(dataset.asstr()[()]).astype(str)
        return np.asarray(dataset[()])
    except DAMAGE as error:
        raise DataError(
            f"{path}: `{dataset.name}` cannot be read ({error})",
            hint="Copy or write the file again.",
        ) from error
