"""MATLAB's values, of either file format, as named items.

A struct becomes a group, an array of structs a table, a cell array lists or text. Vectors lose
their second axis, as nothing but MATLAB needs it. Nothing in a file is executed: function handles
and objects are passed over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.contents import ArrayItem, Item, ListsItem


@dataclass(frozen=True)
class Stored:
    """A numeric array, read when asked for; ``shape`` is MATLAB's."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class Cells:
    """A cell array, or an array of structs; values in C order of ``shape``."""

    shape: tuple[int, ...]
    values: "list[Value]"


Value = Union[Stored, str, Cells, "dict[str, Value]"]


def matlab_items(name: str, value: Value) -> dict[str, Item]:
    """Return the items that a MATLAB variable holds."""
    if isinstance(value, dict):
        items: dict[str, Item] = {}
        for key, part in value.items():
            items.update(matlab_items(f"{name}/{key}", part))
        return items
    if isinstance(value, Cells):
        return _cell_items(name, value)
    if isinstance(value, str):
        return {name: _text((), [value])}
    shape = squeezed(value.shape)
    return {name: ArrayItem(shape, value.dtype, lambda: value.read().reshape(shape))}


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a vector's shape without its second axis, a number's without any."""
    if len(shape) == 2 and 1 in shape:
        return tuple(n for n in shape if n != 1)
    return shape


def _cell_items(name: str, cells: Cells) -> dict[str, Item]:
    shape, values = squeezed(cells.shape), cells.values
    if not values:
        return {name: ListsItem((0,), "empty cells", list)}
    if all(isinstance(v, dict) for v in values):
        return _table_items(name, shape, [v for v in values if isinstance(v, dict)])
    if all(isinstance(v, str) for v in values):
        return {name: _text(shape, [str(v) for v in values])}
    if all(isinstance(v, Cells) for v in values):
        inner = [v for v in values if isinstance(v, Cells)]
        sizes = {squeezed(v.shape) for v in inner}
        if len(sizes) == 1:
            flat = [part for v in inner for part in v.values]
            return _cell_items(name, Cells((*shape, *sizes.pop()), flat))
        return {}
    arrays = [v for v in values if isinstance(v, Stored)]
    if len(arrays) < len(values):
        return {}  # cells of several kinds: no column of anything
    if all(v.shape == (1, 1) for v in arrays):
        return {
            name: ArrayItem(
                shape,
                arrays[0].dtype,
                lambda: np.array([v.read().reshape(()) for v in arrays]).reshape(shape),
            )
        }
    return {
        name: ListsItem(
            shape,
            f"lists of {arrays[0].dtype}",
            lambda: [v.read().reshape(squeezed(v.shape)) for v in arrays],
        )
    }


def _table_items(
    name: str, shape: tuple[int, ...], rows: "list[dict[str, Value]]"
) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for column in rows[0]:
        if all(column in row for row in rows):
            items.update(_cell_items(f"{name}/{column}", Cells(shape, [r[column] for r in rows])))
    return items


def _text(shape: tuple[int, ...], words: list[str]) -> ArrayItem:
    return ArrayItem(shape, "text", lambda: np.array(words, dtype=str).reshape(shape))
