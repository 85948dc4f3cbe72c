"""Arrays of an .npz file. Their headers are read first, so that listing a file costs nothing."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Contents
from ndt_cli.data.arrays import ArrayFile


def open_npz(path: Path) -> Contents:
    """Open an .npz file; Python objects in it are listed and never loaded.

    Raises
    ------
    DataError
        If the file is missing, damaged or no .npz file.
    """
    contents = Contents(path, "npz")
    file = contents.on_close.enter_context(ArrayFile(path))
    for key in file.keys:
        _add(contents, file, key, file.shape(key), file.dtype(key))
    return contents


def _add(
    contents: Contents, file: ArrayFile, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if dtype.names:
        for name in dtype.names:
            contents.items[f"{key}/{name}"] = ArrayItem(
                (*shape, *dtype[name].shape),
                str(dtype[name].base),
                partial(_read_field, file, key, name),
            )
        return

    shown = "Python objects, not read" if dtype.hasobject else str(dtype)
    kind = "text" if dtype.kind in "SU" else shown
    contents.items[key] = ArrayItem(shape, kind, partial(file.read, key))


def _read_field(file: ArrayFile, key: str, name: str) -> NDArray[Any]:
    return np.asarray(file.read(key)[name])
