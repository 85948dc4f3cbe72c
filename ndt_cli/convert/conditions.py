"""Condition labels from the columns of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.tables import Table
from ndt_cli.data.spike_data import IntArray

_LARGEST_WHOLE = 2.0**53  # beyond it a float skips numbers


@dataclass(frozen=True, eq=False)
class Conditions:
    """Condition of each trial.

    Parameters
    ----------
    numbers_B : (trials,) int array
        Number of each trial's condition.
    names : dict of int to str
        What the file calls each of them.
    """

    numbers_B: IntArray
    names: dict[int, str]

    def sizes(self) -> dict[str, int]:
        """Trials of each condition, by name."""
        return {name: int((self.numbers_B == n).sum()) for n, name in self.names.items()}


def read_conditions(table: Table, columns: Sequence[str], rows_B: IntArray) -> Conditions | None:
    """Number the conditions of some rows; several columns together name one condition.

    A single column of whole numbers keeps its numbers; any other is numbered in sorted order.

    Raises
    ------
    SettingsError
        If a column is not there.
    """
    if not columns:
        return None
    values = [table.column(name, "--condition")[rows_B] for name in columns]
    if len(values) == 1 and _is_whole(values[0]):
        numbers_B = values[0].astype(np.int64)
        return Conditions(numbers_B, {int(n): str(n) for n in np.unique(numbers_B)})
    parts = [np.unique(v, return_inverse=True) for v in values]
    levels = np.stack([inverse for _, inverse in parts], axis=1)
    rows, numbers_B = np.unique(levels, axis=0, return_inverse=True)
    names = {
        i: "/".join(_label(level[j]) for (level, _), j in zip(parts, row, strict=True))
        for i, row in enumerate(rows)
    }
    return Conditions(numbers_B.reshape(-1).astype(np.int64), names)


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_whole(values: NDArray[np.generic]) -> bool:
    if values.dtype == np.uint64:
        return int(values.max(initial=0)) <= np.iinfo(np.int64).max
    if values.dtype.kind in "biu":
        return True
    if values.dtype.kind != "f":
        return False
    numbers = values.astype(np.float64)
    whole = np.abs(numbers) < _LARGEST_WHOLE
    return bool(whole.all() and (numbers % 1 == 0).all())
