"""Chopping stretches of a recording into windows that never straddle training and validation.

Windows overlap, so a window drawn for validation would share bins with its training neighbours.
The draw is therefore made first, over cells of one window's length; runs of cells of one split
are chopped each on its own.

Windows begin on a grid of bins that starts at time 0 of the recording's clock, so that the bin at
which each one begins says when it was, and `ndt_cli.data.chop.merge` can put them back.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.ticks import TicksArray
from ndt_cli.data.chop import chop_windows
from ndt_cli.data.spike_data import IntArray


@dataclass(frozen=True, eq=False)
class Pieces:
    """Windows of the stretches: one row a window.

    Parameters
    ----------
    start_bins_B : (windows,) int array
        First bin, counted from time 0 of the clock.
    n_bins_B : (windows,) int array
        Bins of each window.
    stretch_B : (windows,) int array
        Stretch that each window is of.
    is_valid_B : (windows,) bool array
        True for windows of the validation split.
    """

    start_bins_B: IntArray
    n_bins_B: IntArray
    stretch_B: IntArray
    is_valid_B: NDArray[np.bool_]


def plan_pieces(
    stretches_us: TicksArray,
    bin_us: int,
    window_bins: int,
    overlap_bins: int,
    draw: Callable[[IntArray], NDArray[np.bool_]],
) -> Pieces:
    """Plan the windows of some stretches of a recording.

    Parameters
    ----------
    stretches_us : (stretches, 2) int array
        Beginning and end of each, in microseconds; disjoint. What lies before the first edge of
        the grid, or past the last one, is left out.
    bin_us : int
        Bin width in microseconds.
    window_bins, overlap_bins : int
        As for `chop_windows`.
    draw : callable
        Called with the stretch of each cell, in order; returns which cells validate.
    """
    grid = np.stack([-(-stretches_us[:, 0] // bin_us), stretches_us[:, 1] // bin_us], axis=1)
    cells = [
        (stretch, begin, min(begin + window_bins, stop))
        for stretch, (start, stop) in enumerate(grid.tolist())
        for begin in range(start, stop, window_bins)
    ]
    of_cell = np.array([stretch for stretch, _, _ in cells], dtype=np.int64)
    is_valid = draw(of_cell)
    runs: list[list[int]] = []
    for (stretch, begin, end), valid in zip(cells, is_valid.tolist(), strict=True):
        if runs and runs[-1][0] == stretch and runs[-1][3] == valid:
            runs[-1][2] = end
        else:
            runs.append([stretch, begin, end, int(valid)])
    planned = [chop_windows(end - begin, window_bins, overlap_bins) for _, begin, end, _ in runs]
    n_windows = [len(starts) for starts, _ in planned]
    return Pieces(
        np.concatenate([run[1] + starts for run, (starts, _) in zip(runs, planned, strict=True)]),
        np.concatenate([lengths for _, lengths in planned]),
        np.repeat([run[0] for run in runs], n_windows),
        np.repeat([bool(run[3]) for run in runs], n_windows),
    )
