"""Whether the parts of a MATLAB file of version 5 to 7 lie in one another as they should.

`scipy.io.loadmat` believes the type and the size that each part gives; one damaged byte there can
end the whole process. The layout is that of MathWorks' "MAT-File Format", chapter 1.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

_HEADER_BYTES = 128
_MAX_DEPTH = 32

# Types of parts: an array, a packed part, and numbers or text; the others up to 18 are reserved.
_MATRIX, _PACKED = 14, 15
_TYPES = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18)

# An array begins with its flags, which say its class, its shape and its name, of these types.
_FLAGS, _SHAPES, _NAMES, _BEFORE_VALUES = 6, (5, 6), (1, 16), 3
# Classes: cells, structs and objects; sparse; text and numbers; functions; what MATLAB alone knows.
_OF_ARRAYS, _SPARSE, _PLAIN, _FUNCTION, _OPAQUE = (1, 2, 3), 5, (4, *range(6, 16)), 16, 17
# Cells that may be announced without being there: structs without fields are stored so.
_FEW, _MOST_AXES = 1000, 32

_Part: TypeAlias = tuple[int, memoryview]


def check_elements(path: Path) -> None:
    """Refuse a file whose parts have types that there are not, or do not fit into it.

    Parameters
    ----------
    path : Path
        A file of version 5 to 7.

    Raises
    ------
    ValueError
        With what is wrong.
    zlib.error
        If a packed part is damaged.
    """
    content = path.read_bytes()
    marks = {b"IM": "<", b"MI": ">"}
    mark = content[_HEADER_BYTES - 2 : _HEADER_BYTES]
    if mark not in marks:
        raise ValueError("its header is damaged")
    _check(memoryview(content)[_HEADER_BYTES:], marks[mark], 0)


def _check(content: memoryview, order: str, depth: int) -> list[_Part]:
    """Check the parts of an array, or of the file, and return them."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} arrays in one another")
    parts = list(_parts(content, order))
    for kind, part in parts:
        if kind == _MATRIX:
            _check_values(_check(part, order, depth + 1), order)
        elif kind == _PACKED and depth == 0:
            _check(memoryview(zlib.decompress(part)), order, depth + 1)
        elif kind not in _TYPES:
            raise ValueError(f"a part of type {kind}")
    return parts


def _parts(content: memoryview, order: str) -> Iterator[_Part]:
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise ValueError("it ends within a part")
        kind, size = struct.unpack_from(f"{order}II", content, at)
        first = at + 8
        if kind >> 16:  # a small part has its size beside its type, and its content after both
            kind, size, first = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise ValueError(f"a small part of {size} bytes")
        at = first + size
        if at > len(content):
            raise ValueError(f"a part of {size} bytes where {len(content) - first} are left")
        yield kind, content[first:at]
        if kind != _PACKED:
            at += -at % 8


def _check_values(parts: list[_Part], order: str) -> None:
    """Refuse an array of numbers or text without them: others would be taken in their place."""
    if not parts:
        return  # so cells without anything are stored
    if parts[0][0] != _FLAGS or len(parts[0][1]) < 8:
        raise ValueError("an array that does not say what it holds")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    what, is_complex = flags & 0xFF, bool(flags & 0x800)
    if what in (_FUNCTION, _OPAQUE):
        return
    n_entries = _n_entries(parts, order)
    n_held = sum(kind == _MATRIX for kind, _ in parts)
    if what in _OF_ARRAYS and n_entries > max(n_held, _FEW):
        raise ValueError(f"an array of {n_entries} cells or structs, with {n_held} in it")
    needed = {_SPARSE: 3, **dict.fromkeys(_PLAIN, 1)}.get(what)
    if needed is None:
        return
    values = [kind for kind, _ in parts[_BEFORE_VALUES:]][: needed + is_complex]
    if len(values) < needed + is_complex or not set(values) <= set(_TYPES):
        raise ValueError(f"an array of class {what} without its values")


def _n_entries(parts: list[_Part], order: str) -> int:
    kinds = [kind for kind, _ in parts[1:_BEFORE_VALUES]]
    if len(kinds) < 2 or kinds[0] not in _SHAPES or kinds[1] not in _NAMES:
        raise ValueError("an array without a shape or a name")
    shape = parts[1][1]
    n_axes, rest = divmod(len(shape), 4)
    if rest or not 2 <= n_axes <= _MOST_AXES:
        raise ValueError(f"an array whose shape has {len(shape)} bytes")
    sizes = struct.unpack_from(f"{order}{n_axes}i", shape)
    if min(sizes) < 0:
        raise ValueError(f"an array of shape {sizes}")
    return math.prod(sizes)
