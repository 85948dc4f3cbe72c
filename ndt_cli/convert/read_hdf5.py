"""Datasets of an HDF5 file, by their path; tables of compound rows by their columns."""

from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents, Item, ListsItem
from ndt_cli.errors import DataError

_MAX_DEPTH = 20  # a group may hold a link to itself


def open_h5(path: Path) -> h5py.File:
    """Open an HDF5 file.

    Raises
    ------
    DataError
        If it is damaged.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: the file is damaged or was not written to its end ({error})",
            hint="Copy or write the file again.",
        ) from error


def hdf5_contents(path: Path, file: h5py.File) -> Contents:
    """List the arrays of an open HDF5 file."""
    contents = Contents(path, "HDF5")
    contents.on_close.callback(file.close)
    _walk(contents, file, "", 0)
    return contents


def _walk(contents: Contents, group: h5py.Group, front: str, depth: int) -> None:
    for key in group:
        item = group.get(key)  # None for a link that leads nowhere
        if isinstance(item, h5py.Group) and depth < _MAX_DEPTH:
            _walk(contents, item, f"{front}{key}/", depth + 1)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            contents.items.update(dataset_items(contents.path, f"{front}{key}", item))


def dataset_items(path: Path, name: str, dataset: h5py.Dataset) -> dict[str, Item]:
    """Return the items of one dataset: itself, or one for each column of a compound table."""
    if dataset.dtype.names:
        return {
            f"{name}/{column}": ArrayItem(
                dataset.shape,
                str(dataset.dtype[column]),
                partial(_read_column, path, dataset, column),
            )
            for column in dataset.dtype.names
        }
    if h5py.check_ref_dtype(dataset.dtype) is not None:
        return {}
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    if not is_text and h5py.check_vlen_dtype(dataset.dtype) is not None:

        def read_lists() -> list[NDArray[Any]]:
            return [np.asarray(values) for values in read_dataset(path, dataset).reshape(-1)]

        return {name: ListsItem(dataset.shape, "lists of numbers", read_lists)}
    shown = "text" if is_text else str(dataset.dtype)
    return {name: ArrayItem(dataset.shape, shown, partial(read_dataset, path, dataset))}


def _read_column(path: Path, dataset: h5py.Dataset, column: str) -> NDArray[Any]:
    return np.asarray(read_dataset(path, dataset)[column])


def read_dataset(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Read a whole dataset, text as str.

    Raises
    ------
    DataError
        If its content is damaged.
    """
    try:
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return np.asarray(dataset.asstr()[()]).astype(str)
        return np.asarray(dataset[()])
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: `{dataset.name}` cannot be read ({error})",
            hint="Copy or write the file again.",
        ) from error
