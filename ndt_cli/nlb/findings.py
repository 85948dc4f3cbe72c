"""What a check of a submission says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError
from ndt_cli.nlb.catalog import AXES, EVAL_TRIALS, RATE_KEYS, TRAIN_TRIALS

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found in a submission file.

    Parameters
    ----------
    severity : {"error", "warning", "note"}
        error: the file cannot be scored, or its score would be wrong.
    group : str
        Group of the file, such as ``mc_maze_20``; empty when it is about the whole file.
    key : str
        Array of the group, or several with commas; empty when it is about the whole group.
    message : str
        What was found, and what was expected.
    hint : str, optional
        How to mend it.
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


# ------------------------------------------------------------------------------------------------
# What the arrays of a submission are compared with.
# ------------------------------------------------------------------------------------------------


Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Expected:
    """Sizes and spike counts of one group, as far as they are known.

    Parameters
    ----------
    sizes : mapping of str to int
        Length of each axis, under the names that `groups.AXES` gives them.
    counts : mapping of str to array
        Spike counts per bin, trials x bins x neurons, under the key of the rates that predict
        them. NaN where a count is not scored.
    """

    sizes: Mapping[str, int]
    counts: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, *arrays: Mapping[str, Array]) -> Self:
        """Take what input tensors and targets of one group tell.

        Parameters
        ----------
        *arrays : mapping of str to array
            Under the keys of nlb_tools: ``train_spikes_heldin``, ``eval_spikes_heldout``,
            ``train_behavior``, ``psth`` and so on. Of the same key the last one counts, so
            targets belong after inputs: theirs are NaN where nothing is scored.

        Raises
        ------
        DataError
            If spike counts are no numbers, trials x bins x neurons.
        """
        known: dict[str, Array] = {}
        for mapping in arrays:
            known.update(mapping)
        counts = {
            key: known[name]
            for key in AXES
            if (name := key.replace("_rates_", "_spikes_")) in known
        }
        for key, array in counts.items():
            if np.ndim(array) != len(AXES[key]) or array.dtype.kind not in "buif":
                raise DataError(
                    f"targets: `{key.replace('_rates_', '_spikes_')}`: found shape "
                    f"{np.shape(array)} of type {array.dtype}; expected spike counts, "
                    f"{' x '.join(AXES[key])}"
                )
        sizes = {
            axis: size
            for key, array in counts.items()
            for axis, size in zip(AXES[key], np.shape(array), strict=True)
        }
        for axis, name in ((TRAIN_TRIALS, "train_behavior"), (EVAL_TRIALS, "eval_behavior")):
            if name in known and np.ndim(known[name]):
                sizes.setdefault(axis, len(known[name]))
        return cls(sizes, counts)
