"""What the arrays of a submission are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError
from ndt_cli.nlb.groups import AXES, EVAL_TRIALS, TRAIN_TRIALS

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
