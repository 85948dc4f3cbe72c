"""MATLAB files of version 7.3: HDF5 with axes reversed, cells as references, text as numbers."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents
from ndt_cli.convert.matlab import Cells, Stored, Value, matlab_items
from ndt_cli.convert.read_hdf5 import read_dataset


def is_mat73(file: h5py.File) -> bool:
    """Tell whether an HDF5 file was written by MATLAB."""
    return any("MATLAB_class" in file[key].attrs for key in file if file.get(key) is not None)


def open_mat73(path: Path, file: h5py.File) -> Contents:
    """List the variables of an open MATLAB file of version 7.3."""
    contents = Contents(path, "MATLAB")
    contents.on_close.callback(file.close)
    for name in file:
        if not name.startswith("#"):  # #refs# and #subsystem# hold what cells refer to
            value = _value(path, file[name])
            if value is not None:
                contents.items.update(matlab_items(name, value))
    return contents


def _value(path: Path, item: Any) -> Value | None:
    if isinstance(item, h5py.Group):
        return _struct(path, item)
    kind = _class(item)
    if item.attrs.get("MATLAB_empty", 0):
        if kind == "char":
            return ""
        shape = tuple(int(n) for n in np.asarray(item[()]).reshape(-1))
        empty = np.zeros(shape)
        return Cells(shape, []) if kind == "cell" else Stored(shape, "float64", lambda: empty)
    if h5py.check_ref_dtype(item.dtype) is not None:
        return _cells(path, item)
    if kind == "char":
        rows = [_word(row) for row in read_dataset(path, item).T]
        return rows[0] if len(rows) == 1 else Cells((len(rows), 1), list(rows))
    if item.dtype.kind not in "buif":
        return None

    def read() -> NDArray[Any]:
        return read_dataset(path, item).T

    return Stored(item.shape[::-1], str(item.dtype), read)


def _class(item: Any) -> str:
    name = item.attrs.get("MATLAB_class", b"")
    return name.decode() if isinstance(name, bytes) else str(name)


def _cells(path: Path, item: h5py.Dataset) -> Cells | None:
    references = np.asarray(item[()]).T
    values = [_value(path, item.file[reference]) for reference in references.reshape(-1)]
    if any(value is None for value in values):
        return None
    return Cells(references.shape, [value for value in values if value is not None])


def _struct(path: Path, group: h5py.Group) -> Value:
    fields = {name: _value(path, group[name]) for name in group}
    # An array of structs keeps each field as an array of references that says no class.
    shapes = {
        name: value.shape
        for name, value in fields.items()
        if isinstance(value, Cells) and not _class(group[name])
    }
    if shapes and len(shapes) == len(fields) and len(set(shapes.values())) == 1:
        shape = next(iter(shapes.values()))
        rows: list[Value] = [
            {name: value.values[i] for name, value in fields.items() if isinstance(value, Cells)}
            for i in range(int(np.prod(shape)))
        ]
        return Cells(shape, rows)
    return {name: value for name, value in fields.items() if value is not None}


def _word(codes: NDArray[Any]) -> str:
    return codes.astype(np.uint16).tobytes().decode("utf-16-le").rstrip()
