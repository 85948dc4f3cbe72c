"""Sets of intervals on the clock, (intervals, 2) int arrays: from the first to the second."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.ticks import TicksArray


def merge_intervals(intervals: TicksArray) -> TicksArray:
    """Return disjoint intervals, ascending, that cover the same times."""
    merged: list[list[int]] = []
    for start, stop in sorted(intervals.tolist()):
        if stop <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def common_intervals(sets: Sequence[TicksArray]) -> TicksArray:
    """Return the intervals that lie in every one of the sets."""
    if not sets:
        return np.zeros((0, 2), dtype=np.int64)
    steps: dict[int, int] = {}
    for intervals in sets:
        for start, stop in merge_intervals(intervals).tolist():
            steps[start] = steps.get(start, 0) + 1
            steps[stop] = steps.get(stop, 0) - 1
    times = sorted(steps)
    n_open, common = 0, []
    for time, following in pairwise(times):
        n_open += steps[time]
        if n_open == len(sets):
            common.append([time, following])
    return merge_intervals(np.array(common, dtype=np.int64).reshape(-1, 2))


def inside(times: TicksArray, disjoint: TicksArray) -> NDArray[np.bool_]:
    """Return for each time whether it lies in one of the disjoint, ascending intervals."""
    if len(disjoint) == 0:
        return np.zeros(len(times), dtype=bool)
    at = np.searchsorted(disjoint[:, 0], times, side="right") - 1
    return np.asarray((at >= 0) & (times < disjoint[np.maximum(at, 0), 1]))


def contained(starts: TicksArray, stops: TicksArray, disjoint: TicksArray) -> NDArray[np.bool_]:
    """Return for each stretch whether all of it lies in one of the disjoint intervals."""
    if len(disjoint) == 0:
        return np.zeros(len(starts), dtype=bool)
    at = np.searchsorted(disjoint[:, 0], starts, side="right") - 1
    return np.asarray((at >= 0) & (stops <= disjoint[np.maximum(at, 0), 1]))


def clipped(disjoint: TicksArray, start: int, stop: int) -> TicksArray:
    """Return what of the intervals lies between two times."""
    cut = np.clip(disjoint, start, stop)
    return cut[cut[:, 0] < cut[:, 1]]
