"""Values of trials that are made when they are asked for, a block of trials at a time.

Counts take a byte an entry, and a large set of them fills much of the memory; rates and what is
summed of them take four to eight times as much. So no more than a block of a large set is ever
held as floats.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ndt_cli.data.spike_data import FloatArray, IntArray

# What a block has at most: 32 MiB as float64, and no more trials than pay in one batch.
BLOCK_TRIALS = 128
BLOCK_ENTRIES = 2**22

# Smaller sets are made once and kept, for what goes through the trials several times.
KEPT_BYTES = 2**28


def trial_blocks(n_trials: int, n_entries: int) -> list[slice]:
    """Return slices that cover the trials, each of at most 128 trials and 4 million entries.

    Parameters
    ----------
    n_trials : int
        Trials.
    n_entries : int
        Entries of one trial. A trial is never cut, however large.

    Examples
    --------
    >>> trial_blocks(200, n_entries=5000)
    [slice(0, 128, None), slice(128, 200, None)]
    >>> trial_blocks(3, n_entries=2_000_000)
    [slice(0, 2, None), slice(2, 3, None)]
    """
    size = max(1, min(BLOCK_TRIALS, BLOCK_ENTRIES // max(1, n_entries)))
    return [slice(start, min(start + size, n_trials)) for start in range(0, n_trials, size)]


class ByTrial:
    """Values of trials, (trials, bins, channels), to be indexed by trials like an array.

    A set of at most `KEPT_BYTES` is made whole when it is first asked for, and kept. Of a larger
    one the trials that are asked for are made each time.

    Parameters
    ----------
    shape : (int, int, int)
        Trials, bins, channels.
    dtype : dtype
        Of the values.
    make : callable
        Gives the values of the trials at some positions, an int array.
    keep : bool
        Whether to keep those of a small set; not where each trial is asked for only once.

    Examples
    --------
    >>> doubled = ByTrial((4, 1, 1), float, lambda trials: 2.0 * trials[:, None, None])
    >>> doubled[1:3].ravel(), doubled[np.array([3, 0])].ravel()
    (array([2., 4.]), array([6., 0.]))
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        make: Callable[[NDArray[np.int64]], FloatArray],
        keep: bool = True,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._make = make
        self._is_kept = keep and math.prod(shape) * self.dtype.itemsize <= KEPT_BYTES

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, trials: slice | IntArray) -> FloatArray:
        if self._is_kept:
            return self._all[trials]
        return self._made(np.arange(len(self))[trials])

    @cached_property
    def _all(self) -> FloatArray:
        return self._made(np.arange(len(self)))

    def take(self, trials: IntArray) -> "ByTrial":
        """Return the values of the trials at these positions, in this order."""
        shape = (len(trials), *self.shape[1:])
        return ByTrial(shape, self.dtype, lambda places: self[trials[places]])

    def _made(self, trials: NDArray[np.int64]) -> FloatArray:
        values_BTK = np.empty((len(trials), *self.shape[1:]), self.dtype)
        for block in trial_blocks(len(trials), self.shape[1] * self.shape[2]):
            values_BTK[block] = self._make(trials[block])
        return values_BTK


TrialValues: TypeAlias = FloatArray | ByTrial
"""An array (trials, bins, channels), or one whose trials are made when they are asked for."""
