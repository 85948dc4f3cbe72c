"""Findings of a check of a submission, and the sizes and spike counts that it compares with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError
from ndt_cli.nlb.catalog import AXES, EVAL_TRIALS, RATE_KEYS, TRAIN_TRIALS

Array = NDArray[Any]
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One finding in a submission file.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
        error: the file cannot be scored, or its score would be wrong.
    group : str
        Group of the file, such as ``mc_maze_20``; empty if it concerns the whole file.
    key : str
        Array of the group, or several separated by commas; empty if it concerns the whole group.
    message : str
        What was found, and what was expected.
    hint : str, optional
        How to fix it.
    """

    severity: Severity
    group: str
    key: str
    message: str
    hint: str | None = None

    @property
    def place(self) -> str:
        """Group and key, as a path in the file."""
        if self.key == ", ".join(RATE_KEYS):
            return f"{self.group}, all arrays"
        return f"{self.group}/{self.key}" if self.key else self.group

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


@dataclass(frozen=True, eq=False)
class Expected:
    """Known sizes and spike counts of one group.

    Parameters
    ----------
    sizes : mapping of str to int
        Length of each axis, by the names in `ndt_cli.nlb.catalog.AXES`.
    counts : mapping of str to array
        Spike counts per bin, trials x bins x neurons, by the key of the rates that predict them.
        NaN where a count is not scored.
    """

    sizes: Mapping[str, int]
    counts: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, *arrays: Mapping[str, Array]) -> Self:
        """Collect sizes and counts from input tensors and targets of one group.

        Parameters
        ----------
        *arrays : mapping of str to array
            By the keys of nlb_tools: ``train_spikes_heldin``, ``eval_spikes_heldout``,
            ``train_behavior``, ``psth`` and so on. Later arrays replace earlier ones of the same
            key: give targets last, which are NaN where nothing is scored.

        Raises
        ------
        DataError
            If spike counts are not numbers, trials x bins x neurons.
        """
        known: dict[str, Array] = {}
        for mapping in arrays:
            known.update(mapping)
        counts: dict[str, Array] = {}
        sizes: dict[str, int] = {}
        for key, axes in AXES.items():
            name = key.replace("_rates_", "_spikes_")
            if name not in known:
                continue
            array = counts[key] = known[name]
            if np.ndim(array) != len(axes) or array.dtype.kind not in "buif":
                raise DataError(
                    f"targets: `{name}`: found shape {np.shape(array)} of type {array.dtype}; "
                    f"expected spike counts, {' x '.join(axes)}"
                )
            sizes.update(zip(axes, np.shape(array), strict=True))
        for axis, name in ((TRAIN_TRIALS, "train_behavior"), (EVAL_TRIALS, "eval_behavior")):
            if name in known and np.ndim(known[name]):
                sizes.setdefault(axis, len(known[name]))
        return cls(sizes, counts)
