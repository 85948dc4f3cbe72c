"""Windows of a recording put back together a stretch at a time, for one too long to hold as floats.

Axes: T bins of the recording, K channels.
"""

from collections.abc import Iterator

import numpy as np

from ndt_cli.data.by_trial import TrialValues, trial_blocks
from ndt_cli.data.chop import merge
from ndt_cli.data.spike_data import FloatArray, IntArray


def merged_bins(starts_B: IntArray, lengths_B: IntArray) -> int:
    """Return the bins from the first one of the earliest window to the last one of the latest."""
    return int(np.max(starts_B + lengths_B) - np.min(starts_B))


def merge_blocks(
    windows_BTK: TrialValues, starts_B: IntArray, lengths_B: IntArray
) -> Iterator[FloatArray]:
    """Give what `merge` returns, in consecutive stretches.

    Parameters
    ----------
    windows_BTK : (windows, bins, channels) float array or ByTrial
        Windows, in any order.
    starts_B, lengths_B : (windows,) int arrays
        As `merge` takes them.

    Examples
    --------
    >>> windows_BTK = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])[:, :, None]
    >>> stretches = merge_blocks(windows_BTK, np.array([0, 2]), np.array([3, 3]))
    >>> np.concatenate(list(stretches)).ravel()
    array([1. , 1. , 1.5, 2. , 2. ])
    """
    order = np.argsort(starts_B, kind="stable")
    ends_B = starts_B + lengths_B
    end = int(ends_B.max())
    blocks = trial_blocks(len(order), windows_BTK.shape[1] * windows_BTK.shape[2])
    for block in blocks:
        first = int(starts_B[order[block.start]])
        stop = end if block is blocks[-1] else int(starts_B[order[block.stop]])
        earlier = order[: block.start]
        # A bin is settled by the windows that hold it, so those that reach into it come along.
        some = np.concatenate([earlier[ends_B[earlier] > first], order[block]])
        merged_TK = merge(windows_BTK[some], starts_B[some], lengths_B[some])
        found_TK = merged_TK[first - int(starts_B[some].min()) :][: stop - first]
        stretch_TK = np.full((stop - first, merged_TK.shape[1]), np.nan, merged_TK.dtype)
        stretch_TK[: len(found_TK)] = found_TK
        yield stretch_TK
