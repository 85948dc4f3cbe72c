"""Arrays of an .npz file. Their headers are read first, so that listing a file costs nothing."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents
from ndt_cli.data.arrays import ArrayFile
from ndt_cli.errors import DataError


def open_npz(path: Path) -> Contents:
    """Open an .npz file; Python objects in it are listed and never loaded.

    Raises
    ------
    DataError
        If the file is missing, damaged or no .npz file.
    """
    contents = Contents(path, "npz")
    file = contents.on_close.enter_context(ArrayFile(path))
    headers = _headers(path)
    for key in file.keys:
        header = headers.get(key)
        if header is None:
            header = (file.shape(key), file.dtype(key))
        _add(contents, file, key, *header)
    return contents


def _add(
    contents: Contents, file: ArrayFile, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if dtype.names:
        for name in dtype.names:
            contents.items[f"{key}/{name}"] = ArrayItem(
                shape, str(dtype[name]), partial(_read_field, file, key, name)
            )
        return

    def read() -> NDArray[Any]:
        if dtype.hasobject:
            raise DataError(
                f"{file.path}: `{key}` holds Python objects, which could run code when loaded",
                hint="Save it as an array of numbers or text.",
            )
        return file.read(key)

    shown = "Python objects, not read" if dtype.hasobject else str(dtype)
    contents.items[key] = ArrayItem(shape, "text" if dtype.kind in "SU" else shown, read)


def _read_field(file: ArrayFile, key: str, name: str) -> NDArray[Any]:
    return np.asarray(file.read(key)[name])


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of the arrays whose header is of a known version."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                try:
                    shape, _, dtype = readers[np.lib.format.read_magic(stream)](stream)
                except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
                    continue  # ArrayFile reads it, or says what is wrong with it
            found[member.removesuffix(".npy")] = (tuple(shape), dtype)
    return found
