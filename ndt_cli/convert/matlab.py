"""MATLAB files of every version, as named items.

A struct becomes a group, an array of structs a table, a cell array lists or text. Vectors lose
their second axis, which only MATLAB needs. Nothing in a file is executed: function handles and
objects are listed by name, and refused where they are asked for.
"""

import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union

import h5py
import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

from ndt_cli.convert.contents import Contents, Item
from ndt_cli.convert.hdf5 import read_dataset
from ndt_cli.data.files import (
    DAMAGE,
    Elsewhere,
    MatlabObject,
    attribute,
    matlab_class,
    matlab_object,
    own_item,
    own_names,
    text_array,
)
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory, in_gb

# Of what lies in one another, in files of either format.
_MAX_DEPTH = 32

# What files of both formats hold ------------------------------------------------------------------
#
# Numbers in an array of MATLAB's shape, which loads them; text; cells; a struct; or what is named
# in a list of the file, and refused where it is asked for.


@dataclass(frozen=True)
class Cells:
    """A cell array, or an array of structs; values in C order of ``shape``."""

    shape: tuple[int, ...]
    values: "list[Value]"


Value = Union[Item, str, Cells, "dict[str, Value]"]
_NOT_READ = ", not read"


def _unread(kind: str, found: str, hint: str) -> Item:
    return Item((), kind + _NOT_READ, lambda: np.zeros(0), unread=(found, hint))


def _object(what: MatlabObject) -> Item:
    return _unread(f"MATLAB {what.class_name}", what.found, what.hint)


def _several_kinds(values: list[Value]) -> Item:
    """Return what stands for cells that are no list, table or text together."""
    words = {Item: "numbers", str: "text", Cells: "cells", dict: "structs"}
    unread = {i: v for i, v in enumerate(values) if isinstance(v, Item) and v.unread is not None}
    kinds = [
        unread[i].dtype.removesuffix(_NOT_READ) if i in unread else words[type(value)]
        for i, value in enumerate(values)
    ]
    most = max(sorted(set(kinds)), key=kinds.count)
    found = f"cells of {most}"
    if len(set(kinds)) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind != most)
        found += f", but {kinds[other]} in cell {other + 1}"
    hints = [item.unread[1] for item in unread.values() if item.unread is not None]
    return _unread(found, found, hints[0] if hints else "Save cells of one kind and size.")


def _items(name: str, value: Value) -> dict[str, Item]:
    """Return the items of a variable."""
    if isinstance(value, dict):
        items: dict[str, Item] = {}
        for key, part in value.items():
            items.update(_items(f"{name}/{key}", part))
        return items
    if isinstance(value, Cells):
        return _cell_items(name, value)
    if isinstance(value, str):
        return {name: _text(name, (), [value])}
    if value.unread is not None:
        return {name: value}
    shape = _squeezed(value.shape)
    return {name: Item(shape, value.dtype, lambda: value.read().reshape(shape))}


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a vector's shape without its second axis, a number's without any."""
    if len(shape) == 2 and 1 in shape:
        return tuple(n for n in shape if n != 1)
    return shape


def _cell_items(name: str, cells: Cells) -> dict[str, Item]:
    """Return the items of a cell array: a table of structs, text, numbers or lists."""
    shape, values = _squeezed(cells.shape), cells.values
    if not values:
        return {name: Item((0,), "empty cells", list, "lists")}
    if any(isinstance(v, str) for v in values):  # an empty array stands for missing text
        values = ["" if isinstance(v, Item) and not math.prod(v.shape) else v for v in values]
    structs = [v for v in values if isinstance(v, dict)]
    words = [v for v in values if isinstance(v, str)]
    inner = [v for v in values if isinstance(v, Cells)]
    arrays = [v for v in values if isinstance(v, Item) and v.unread is None]
    if len(structs) == len(values):
        items: dict[str, Item] = {}
        for column in structs[0]:
            if all(column in row for row in structs):
                parts = Cells(shape, [row[column] for row in structs])
                items.update(_cell_items(f"{name}/{column}", parts))
        return items
    if len(words) == len(values):
        return {name: _text(name, shape, words)}
    if len(inner) == len(values) and len({_squeezed(v.shape) for v in inner}) == 1:
        flat = [part for v in inner for part in v.values]
        return _cell_items(name, Cells((*shape, *_squeezed(inner[0].shape)), flat))
    if len(arrays) < len(values):
        return {name: _several_kinds(values)}
    dtype = arrays[0].dtype
    n_single = sum(v.shape == (1, 1) for v in arrays)
    n_missing = sum(not math.prod(v.shape) for v in arrays)
    if n_single > n_missing and n_single + n_missing == len(arrays):

        def read_numbers() -> NDArray[Any]:  # [] among single numbers is a missing one
            parts = [v.read().reshape(()) if math.prod(v.shape) else np.nan for v in arrays]
            return np.array(parts).reshape(shape)

        return {name: Item(shape, "float64" if n_missing else dtype, read_numbers)}
    are_matrices = any(len(v.shape) == 2 and min(v.shape) > 1 for v in arrays)
    kind: Literal["matrices", "lists"] = "matrices" if are_matrices else "lists"

    def read() -> list[NDArray[Any]]:  # among matrices, one bin or one neuron is a matrix too
        return [v.read().reshape(v.shape if are_matrices else _squeezed(v.shape)) for v in arrays]

    return {name: Item(shape, f"{kind} of {dtype}", read, kind)}


def _text(name: str, shape: tuple[int, ...], words: list[str]) -> Item:
    return Item(shape, "text", lambda: text_array(repr(name), words).reshape(shape))


def _no_mat(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error})",
        hint="Save it again; `save -v7.3` writes HDF5, which is read too.",
    )


# Versions 5 to 7: a check of the layout before scipy reads it -------------------------------------
#
# `scipy.io.loadmat` trusts the type and size that each element declares; one damaged byte there
# can crash the process. The layout is that of MathWorks' "MAT-File Format", chapter 1.

_HEADER_BYTES = 128

# Types of elements: an array, a compressed element, and numbers or text; the other types up to 18
# are reserved.
_MATRIX, _COMPRESSED = 14, 15
_TYPES = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18)

# The first elements of an array: its flags with its class, its shape, its name; of these types.
_FLAGS, _SHAPES, _NAMES, _BEFORE_VALUES = 6, (5, 6), (1, 16), 3
# Classes: cells, structs and objects; sparse; text and numbers; functions; opaque.
_OF_ARRAYS, _SPARSE, _PLAIN, _FUNCTION, _OPAQUE = (1, 2, 3), 5, (4, *range(6, 16)), 16, 17
# Cells that may be declared without being there: structs without fields are stored so.
_FEW, _MOST_AXES = 1000, 32

# zlib compresses a thousandfold; counts stay far below that, except in small files.
_MOST_UNPACKED, _MOST_COMPRESSION = 2**28, 100

_Element: TypeAlias = tuple[int, memoryview]


def check_elements(path: Path) -> None:
    """Raise a ValueError or zlib.error if an element has no known type, or exceeds its place."""
    content = path.read_bytes()
    marks = {b"IM": "<", b"MI": ">"}
    mark = content[_HEADER_BYTES - 2 : _HEADER_BYTES]
    if mark not in marks:
        raise ValueError("its header is damaged")
    most_bytes = max(_MOST_UNPACKED, _MOST_COMPRESSION * len(content))
    _check(memoryview(content)[_HEADER_BYTES:], marks[mark], 0, most_bytes)


def _check(content: memoryview, order: str, depth: int, most_bytes: int = 0) -> list[_Element]:
    """Check the elements of an array or file and return them; they unpack to ``most_bytes``."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} nested arrays")
    parts = list(_elements(content, order))
    for kind, part in parts:
        if kind == _MATRIX:
            _check_values(_check(part, order, depth + 1), order)
        elif kind == _COMPRESSED and depth == 0:
            unpacked = zlib.decompressobj()
            inside = unpacked.decompress(part, most_bytes)
            if unpacked.unconsumed_tail:
                raise ValueError(f"it unpacks to more than {in_gb(most_bytes)}")
            most_bytes -= len(inside)
            _check(memoryview(inside), order, depth + 1)
        elif kind not in _TYPES:
            raise ValueError(f"an element of type {kind}")
    return parts


def _elements(content: memoryview, order: str) -> Iterator[_Element]:
    """Yield type and content of each element, which must fit into what holds it."""
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise ValueError("it ends within an element")
        kind, size = struct.unpack_from(f"{order}II", content, at)
        first = at + 8
        if kind >> 16:  # a small element: size and type share four bytes
            kind, size, first = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise ValueError(f"a small element of {size} bytes")
        at = first + size
        if at > len(content):
            raise ValueError(f"an element of {size} bytes where {len(content) - first} are left")
        yield kind, content[first:at]
        if kind != _COMPRESSED:
            at += -at % 8


def _check_values(parts: list[_Element], order: str) -> None:
    """Refuse an array without its values: scipy would take what follows for them."""
    if not parts:
        return  # an empty cell is stored so
    if parts[0][0] != _FLAGS or len(parts[0][1]) < 8:
        raise ValueError("an array that does not say what it holds")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    what, is_complex = flags & 0xFF, bool(flags & 0x800)
    if what in (_FUNCTION, _OPAQUE):
        return
    kinds = [kind for kind, _ in parts]
    if len(kinds) < _BEFORE_VALUES or kinds[1] not in _SHAPES or kinds[2] not in _NAMES:
        raise ValueError("an array without a shape or a name")
    n_axes, rest = divmod(len(parts[1][1]), 4)
    if rest or not 2 <= n_axes <= _MOST_AXES:
        raise ValueError(f"an array whose shape has {len(parts[1][1])} bytes")
    shape = struct.unpack_from(f"{order}{n_axes}i", parts[1][1])
    if min(shape) < 0:
        raise ValueError(f"an array of shape {shape}")
    n_entries, n_held = math.prod(shape), kinds.count(_MATRIX)
    if what in _OF_ARRAYS and n_entries > max(n_held, _FEW):
        raise ValueError(f"an array of {n_entries} cells or structs, with {n_held} in it")
    n_needed = {_SPARSE: 3, **dict.fromkeys(_PLAIN, 1)}.get(what, 0)
    if n_needed:
        n_needed += is_complex
        values = kinds[_BEFORE_VALUES:][:n_needed]
        if len(values) < n_needed or not set(values) <= set(_TYPES):
            raise ValueError(f"an array of class {what} without its values")


# Versions 4 to 7, through `scipy.io.loadmat`, which executes nothing ------------------------------

# Major version by scipy's count of versions 5 to 7, which share a layout.
_VERSION_5 = 1
# A sparse array takes all its memory when it is read: a few bytes can declare any size.
_FEW_BYTES, _MOST_SPARSE = 2**26, 10_000


def list_mat5(contents: Contents) -> None:
    """Read a MATLAB file of version 4 to 7."""
    path, contents.layout = contents.path, "MATLAB"
    try:
        if scipy.io.matlab.matfile_version(path)[0] == _VERSION_5:
            check_elements(path)
        sizes = scipy.io.whosmat(path)
    except Exception as error:
        raise _no_mat(path, error) from error
    n_entries = sum(math.prod(shape) for _, shape, _ in sizes)
    check_memory(n_entries, f"{path}: its {len(sizes)} variables")  # at least a byte each
    try:
        with warnings.catch_warnings():
            # Of objects that all seem to have the name None, see `_opaque_part`.
            warnings.simplefilter("ignore", scipy.io.matlab.MatReadWarning)
            variables = scipy.io.loadmat(path, struct_as_record=True, squeeze_me=False)
    except Exception as error:  # scipy raises many kinds over damaged content
        raise _no_mat(path, error) from error
    for name, raw in variables.items():
        if name.startswith("__"):
            continue
        value = _value(raw, f"{path}: {name!r}")
        if isinstance(raw, scipy.io.matlab.MatlabOpaque):  # whose name scipy does not read
            name = _opaque_part(raw, "s0") or name
        contents.items.update(_items(name, value))


def _value(raw: Any, where: str) -> Value:
    """Return the content of a variable."""
    if hasattr(raw, "toarray"):
        return _sparse(raw, where)
    if type(raw) is not np.ndarray:  # functions and objects are subclasses
        if isinstance(raw, scipy.io.matlab.MatlabFunction):
            return _object(MatlabObject("function handle"))
        named = str(getattr(raw, "classname", "")) or _opaque_part(raw, "s2")
        return _object(MatlabObject(named or "object"))
    if raw.dtype.names:
        rows: list[Value] = [
            {name: _value(row[name], where) for name in raw.dtype.names} for row in raw.reshape(-1)
        ]
        return rows[0] if len(rows) == 1 else Cells(raw.shape, rows)
    if raw.dtype.kind == "O":
        return Cells(raw.shape, [_value(part, where) for part in raw.reshape(-1)])
    if raw.dtype.kind == "U":
        words: list[Value] = [str(word).rstrip() for word in raw.reshape(-1)] or [""]
        return words[0] if len(words) == 1 else Cells(raw.shape, words)
    return Item(raw.shape, str(raw.dtype), lambda: raw)


def _opaque_part(raw: Any, part: str) -> str:
    """Return the name (s0) or class (s2) of an object as scipy shows it."""
    try:
        text = raw.reshape(-1)[0][part]
    except (AttributeError, IndexError, KeyError, ValueError):
        return ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _sparse(raw: Any, where: str) -> Item:
    """Return a sparse array."""

    def read() -> NDArray[Any]:
        what = f"{where}, a sparse array of shape {raw.shape}"
        matrix = raw.tocsc(copy=True)
        try:
            # An entry outside of the shape would be written to memory elsewhere.
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise DataError(f"{what}: it is damaged ({error})", "Save it again.") from error
        matrix.sum_duplicates()
        values = matrix.data
        if values.min(initial=0) >= 0 and values.max(initial=0) < 256 and not (values % 1).any():
            matrix = matrix.astype(np.uint8)  # counts: an eighth of the memory
        n_bytes = math.prod(matrix.shape) * matrix.dtype.itemsize
        check_memory(n_bytes, what)
        if n_bytes > max(_FEW_BYTES, _MOST_SPARSE * matrix.data.nbytes):
            raise DataError(
                f"{what}: found {raw.nnz} entries; expected more in so large an array",
                "Save it as a full array, or leave it out.",
            )
        return np.asarray(matrix.toarray())

    return Item(tuple(raw.shape), str(raw.dtype), read)


# Version 7.3: HDF5 with axes reversed, cells as references, text as numbers -----------------------


_OBJECTS = (h5py.Group, h5py.Dataset, h5py.Datatype)

# Cells may refer to one another: a few of them can stand for any number. A reference takes eight
# bytes of the file, if not compressed.
_FEW_VALUES, _VALUE_BYTES = 10_000, 8
_WORD_BYTES = 64  # of a short text in memory


def is_mat73(file: h5py.File) -> bool:
    """Tell whether an HDF5 file was written by MATLAB."""
    for key in own_names(file):
        with suppress(*DAMAGE):
            item = own_item(file, key)
            if isinstance(item, _OBJECTS) and "MATLAB_class" in item.attrs:
                return True
    return False


def list_mat73(contents: Contents, file: h5py.File) -> None:
    """List the variables of an open MATLAB file of version 7.3."""
    path, contents.layout = contents.path, "MATLAB"
    file_bytes = file.id.get_filesize()
    max_values = max(_FEW_VALUES, file_bytes // _VALUE_BYTES)
    reader = _Reader(path, max_values, max(_MOST_UNPACKED, _MOST_COMPRESSION * file_bytes))
    try:
        for name in own_names(file):
            if not name.startswith("#"):  # #refs# and #subsystem# are what cells refer to
                contents.items.update(_items(name, reader.value(own_item(file, name))))
    except DAMAGE as error:
        raise _no_mat(path, error) from error


@dataclass
class _Reader:
    """Follows groups and references from the variables of a file; many cells may refer to one."""

    path: Path
    max_values: int
    max_bytes: int  # of numbers and text in cells
    n_values: int = 0
    n_bytes: int = 0

    def value(self, item: Any, depth: int = 0) -> Value:
        """Return the content of an HDF5 item."""
        self.n_values += 1
        if self.n_values > self.max_values or depth > _MAX_DEPTH:
            found = f"{_MAX_DEPTH} levels" if depth > _MAX_DEPTH else f"{self.max_values} values"
            raise ValueError(f"more than {found}; do its cells refer to one another?")
        if isinstance(item, Elsewhere):
            raise ValueError(f"found {item.found}")
        if isinstance(item, h5py.Group | h5py.Dataset):
            unread = matlab_object(item)
            if unread is not None:
                return _object(unread)
        if isinstance(item, h5py.Group):
            is_sparse = "MATLAB_sparse" in item.attrs
            return self._sparse(item) if is_sparse else self._struct(item, depth)
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            return _object(MatlabObject("object"))
        kind = matlab_class(item)
        # Text is read at once, each row of it; numbers at the top of the file one by one.
        n_words = item.shape[-1] if kind == "char" and item.shape else 0
        self.n_bytes += item.nbytes * bool(depth) + _WORD_BYTES * n_words
        if self.n_bytes > self.max_bytes:
            raise ValueError(f"its cells and text take more than {in_gb(self.max_bytes)}")
        if attribute(item, "MATLAB_empty", 0):
            return _empty(kind, item)
        if h5py.check_ref_dtype(item.dtype) is not None:
            return self._cells(item, depth)
        if kind == "char" and item.dtype.kind in "ui":
            codes = read_dataset(self.path, item).T.astype(np.uint16)
            rows = [r.tobytes().decode("utf-16-le", errors="replace").rstrip() for r in codes]
            return rows[0] if len(rows) == 1 else Cells((len(rows), 1), list(rows))
        if item.dtype.kind not in "buif":
            return _object(MatlabObject(kind or f"array of {item.dtype}"))
        return Item(item.shape[::-1], str(item.dtype), lambda: read_dataset(self.path, item).T)

    def _sparse(self, group: h5py.Group) -> Item:
        """Return a sparse array: its values, their rows, and where each column begins."""
        columns = own_item(group, "jc")
        if not isinstance(columns, h5py.Dataset):
            raise ValueError("a sparse array without its columns")
        parts = [own_item(group, name) for name in ("data", "ir")]  # not there if all are zero
        held = [read_dataset(self.path, part) for part in parts if isinstance(part, h5py.Dataset)]
        begins = read_dataset(self.path, columns)
        shape = (int(attribute(group, "MATLAB_sparse")), max(len(begins) - 1, 0))
        values, rows = held if len(held) == 2 else (np.zeros(0), np.zeros(0, dtype=np.int64))
        matrix = scipy.sparse.csc_array(
            (values, rows.astype(np.int64), begins.astype(np.int64)), shape=shape
        )
        return _sparse(matrix, f"{self.path}: {group.name!r}")

    def _cells(self, item: h5py.Dataset, depth: int) -> Cells:
        references = read_dataset(self.path, item).T
        parts = (item.file[reference] for reference in references.reshape(-1))
        return Cells(references.shape, [self.value(part, depth + 1) for part in parts])

    def _struct(self, group: h5py.Group, depth: int) -> Value:
        fields = {name: self.value(own_item(group, name), depth + 1) for name in group}
        # An array of structs stores each field as an array of references without a class.
        columns = {
            name: value
            for name, value in fields.items()
            if isinstance(value, Cells) and not matlab_class(group[name])
        }
        shapes = {column.shape for column in columns.values()}
        if len(columns) == len(fields) and len(shapes) == 1:
            (shape,) = shapes
            rows: list[Value] = [
                {name: column.values[i] for name, column in columns.items()}
                for i in range(math.prod(shape))
            ]
            return Cells(shape, rows)
        return fields


def _empty(kind: str, item: h5py.Dataset) -> Value:
    """Return an empty array: MATLAB stores its shape as its content."""
    if kind == "char":
        return ""
    if item.size > _MAX_DEPTH or item.dtype.kind not in "ui":
        raise ValueError(f"a size of {item.size} numbers of type {item.dtype}")
    shape = tuple(int(n) for n in np.asarray(item[()]).reshape(-1))
    if math.prod(shape):
        raise ValueError(f"an empty array of size {shape}")
    empty = np.zeros(shape)
    return Cells(shape, []) if kind == "cell" else Item(shape, "float64", lambda: empty)
