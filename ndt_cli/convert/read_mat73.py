"""MATLAB files of version 7.3: HDF5 with axes reversed, cells as references, text as numbers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents
from ndt_cli.convert.matlab import Cells, Stored, Value, matlab_items
from ndt_cli.convert.read_hdf5 import read_dataset
from ndt_cli.data.arrays import DAMAGE
from ndt_cli.data.own_items import Elsewhere, own_item
from ndt_cli.errors import DataError

_OBJECTS = (h5py.Group, h5py.Dataset, h5py.Datatype)

# Cells may refer to one another: a few of them can stand for any number. Each reference takes
# eight bytes of the file, if it is not packed.
_FEW_VALUES, _VALUE_BYTES = 10_000, 8
_MAX_DEPTH = 32


def is_mat73(file: h5py.File) -> bool:
    """Tell whether an HDF5 file was written by MATLAB."""
    return any(_is_matlab(file, key) for key in file)


def _is_matlab(file: h5py.File, key: str) -> bool:
    try:
        item = own_item(file, key)
        return isinstance(item, _OBJECTS) and "MATLAB_class" in item.attrs
    except DAMAGE:
        return False


def open_mat73(path: Path, file: h5py.File) -> Contents:
    """List the variables of an open MATLAB file of version 7.3."""
    contents = Contents(path, "MATLAB")
    contents.on_close.callback(file.close)
    reader = _Reader(path, max(_FEW_VALUES, file.id.get_filesize() // _VALUE_BYTES))
    try:
        for name in file:
            if not name.startswith("#"):  # #refs# and #subsystem# hold what cells refer to
                value = reader.value(own_item(file, name))
                if value is not None:
                    contents.items.update(matlab_items(name, value))
    except DAMAGE as error:
        contents.on_close.close()
        raise DataError(
            f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error})",
            hint="Save it again.",
        ) from error
    return contents


@dataclass
class _Reader:
    """Follows groups and references from the variables of a file, so many of them at most."""

    path: Path
    max_values: int
    n_values: int = 0

    def value(self, item: Any, depth: int = 0) -> Value | None:
        self.n_values += 1
        if self.n_values > self.max_values or depth > _MAX_DEPTH:
            found = f"{_MAX_DEPTH} levels" if depth > _MAX_DEPTH else f"{self.max_values} values"
            raise ValueError(f"more than {found}; do its cells refer to one another?")
        if isinstance(item, Elsewhere):
            raise ValueError(f"found {item.found}")
        if isinstance(item, h5py.Group):
            return self._struct(item, depth)
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            return None
        kind = _class(item)
        if item.attrs.get("MATLAB_empty", 0):
            return _empty(kind, item)
        if h5py.check_ref_dtype(item.dtype) is not None:
            return self._cells(item, depth)
        if kind == "char" and item.dtype.kind in "ui":
            rows = [_word(row) for row in read_dataset(self.path, item).T]
            return rows[0] if len(rows) == 1 else Cells((len(rows), 1), list(rows))
        if item.dtype.kind not in "buif":
            return None

        def read() -> NDArray[Any]:
            return read_dataset(self.path, item).T

        return Stored(item.shape[::-1], str(item.dtype), read)

    def _cells(self, item: h5py.Dataset, depth: int) -> Cells | None:
        references = read_dataset(self.path, item).T
        parts = (item.file[reference] for reference in references.reshape(-1))
        values = [self.value(part, depth + 1) for part in parts]
        if any(value is None for value in values):
            return None
        return Cells(references.shape, [value for value in values if value is not None])

    def _struct(self, group: h5py.Group, depth: int) -> Value:
        fields = {name: self.value(own_item(group, name), depth + 1) for name in group}
        # An array of structs keeps each field as an array of references that says no class.
        shapes = {
            name: value.shape
            for name, value in fields.items()
            if isinstance(value, Cells) and not _class(group[name])
        }
        if shapes and len(shapes) == len(fields) and len(set(shapes.values())) == 1:
            shape = next(iter(shapes.values()))
            columns = {name: v for name, v in fields.items() if isinstance(v, Cells)}
            rows: list[Value] = [
                {name: column.values[i] for name, column in columns.items()}
                for i in range(int(np.prod(shape)))
            ]
            return Cells(shape, rows)
        return {name: value for name, value in fields.items() if value is not None}


def _empty(kind: str, item: h5py.Dataset) -> Value:
    """Return an array without entries: MATLAB stores its size in place of them."""
    if kind == "char":
        return ""
    if item.size > _MAX_DEPTH or item.dtype.kind not in "ui":
        raise ValueError(f"a size of {item.size} numbers of type {item.dtype}")
    shape = tuple(int(n) for n in np.asarray(item[()]).reshape(-1))
    if math.prod(shape):
        raise ValueError(f"an empty array of size {shape}")
    empty = np.zeros(shape)
    return Cells(shape, []) if kind == "cell" else Stored(shape, "float64", lambda: empty)


def _class(item: Any) -> str:
    name = item.attrs.get("MATLAB_class", b"")
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _word(codes: NDArray[Any]) -> str:
    return codes.astype(np.uint16).tobytes().decode("utf-16-le", errors="replace").rstrip()
