"""MATLAB files before version 7.3, through `scipy.io.loadmat`, which executes nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents
from ndt_cli.convert.mat5_elements import check_elements
from ndt_cli.convert.matlab import Cells, Stored, Value, matlab_items
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory

# As scipy counts it: of versions 5 to 7, which have one layout.
_VERSION_5 = 1
# A sparse array takes all its memory when it is read: a few bytes can stand for any number.
_FEW_BYTES, _MOST_SPARSE = 2**26, 10_000


def open_mat5(path: Path) -> Contents:
    """Read a MATLAB file of version 4 to 7.

    Raises
    ------
    DataError
        If it is damaged, or does not fit into memory.
    """
    try:
        if scipy.io.matlab.matfile_version(path)[0] == _VERSION_5:
            check_elements(path)
        sizes = scipy.io.whosmat(path)
    except Exception as error:
        raise _no_mat(path, error) from error
    n_entries = sum(math.prod(shape) for _, shape, _ in sizes)
    check_memory(n_entries, f"{path}: its {len(sizes)} variables")  # a byte each, or more
    try:
        variables = scipy.io.loadmat(path, struct_as_record=True, squeeze_me=False)
    except Exception as error:  # scipy raises many kinds over damaged content
        raise _no_mat(path, error) from error
    contents = Contents(path, "MATLAB")
    for name, raw in variables.items():
        value = None if name.startswith("__") else _value(raw, f"{path}: `{name}`")
        if value is not None:
            contents.items.update(matlab_items(name, value))
    return contents


def _no_mat(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error})",
        hint="Save it again; `save -v7.3` writes HDF5, which is read too.",
    )


def _value(raw: Any, where: str) -> Value | None:
    """Return what a variable holds, None for functions and objects."""
    if type(raw) is not np.ndarray:  # MatlabFunction and MatlabOpaque are subclasses
        return _sparse(raw, where)
    if raw.dtype.names:
        rows = [_struct(row, raw.dtype.names, where) for row in raw.reshape(-1)]
        return rows[0] if len(rows) == 1 else Cells(raw.shape, list(rows))
    if raw.dtype.kind == "O":
        values = [_value(part, where) for part in raw.reshape(-1)]
        return Cells(raw.shape, [v for v in values if v is not None])
    if raw.dtype.kind == "U":
        words = [str(word).rstrip() for word in raw.reshape(-1)]
        return words[0] if len(words) == 1 else Cells(raw.shape, list(words))
    return Stored(raw.shape, str(raw.dtype), lambda: raw)


def _struct(row: Any, names: tuple[str, ...], where: str) -> dict[str, Value]:
    values = {name: _value(row[name], where) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _sparse(raw: Any, where: str) -> Value | None:
    if not hasattr(raw, "toarray"):
        return None

    def read() -> NDArray[Any]:
        n_bytes = math.prod(raw.shape) * raw.dtype.itemsize
        what = f"{where}, a sparse array of shape {raw.shape}"
        check_memory(n_bytes, what)
        if n_bytes > max(_FEW_BYTES, _MOST_SPARSE * raw.data.nbytes):
            raise DataError(
                f"{what}: found {raw.nnz} entries; expected more in so large a one",
                "Save what it stands for as a full array, or leave it out.",
            )
        try:
            # An entry outside of the shape would be written to memory elsewhere.
            raw.tocsc().check_format(full_check=True)
        except ValueError as error:
            raise DataError(f"{what}: it is damaged ({error})", "Save it again.") from error
        return np.asarray(raw.toarray())

    return Stored(tuple(raw.shape), str(raw.dtype), read)
