"""Times as whole microseconds, so that which bin a spike falls into is integer arithmetic.

A time such as ``0.3`` or ``3 * 0.1`` has no exact binary form, and a spike on the edge of a bin
would fall to either side of it by chance. Every time is therefore rounded to the nearest
microsecond first: an error below half a microsecond moves nothing, and no recording is sampled
faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import SettingsError

TimeUnit = Literal["s", "ms", "us", "samples"]
TicksArray = NDArray[np.int64]

_US_PER_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0}
_MAX_US = 2**58  # nine thousand years, so that sums of times stay within 64 bits


@dataclass(frozen=True)
class Clock:
    """How the numbers in a file become microseconds.

    Parameters
    ----------
    unit : {"s", "ms", "us", "samples"}
        Unit of the numbers.
    sample_rate_hz : float, optional
        Samples per second, where times are counted in samples.
    """

    unit: TimeUnit = "s"
    sample_rate_hz: float | None = None

    @property
    def us_per_unit(self) -> float:
        """Microseconds in the unit."""
        if self.unit == "samples":
            assert self.sample_rate_hz is not None
            return 1e6 / self.sample_rate_hz
        return _US_PER_UNIT[self.unit]

    def to_us(self, times: NDArray[Any]) -> TicksArray:
        """Return finite times in whole microseconds.

        Raises
        ------
        SettingsError
            If a time is centuries away: the unit cannot be right.
        """
        times, factor = np.asarray(times), self.us_per_unit
        with np.errstate(over="ignore"):  # what is too large then is refused
            ticks = np.rint(times.astype(np.float64) * factor)
        far = ~(np.abs(ticks) <= _MAX_US)
        if far.any():
            raise SettingsError(
                f"found a time of {times[far].reshape(-1)[0]:g} {self.unit}; expected a time in a "
                "recording",
                hint="Is the unit of the times right? See --time-unit.",
            )
        if factor == 1 and times.dtype.kind in "iu":
            return times.astype(np.int64)  # whole already, and exact above 2^53 too
        return ticks.astype(np.int64)


def ms_to_us(value_ms: float, flag: str) -> int:
    """Return a duration in whole microseconds.

    Raises
    ------
    SettingsError
        If it is not whole, or centuries long.
    """
    if not abs(value_ms) < _MAX_US / 1000:  # nor is it NaN
        raise SettingsError(f"{flag}: found {value_ms:g} ms; expected a time in a recording")
    ticks = round(value_ms * 1000)
    if abs(value_ms * 1000 - ticks) > 1e-6:
        raise SettingsError(
            f"{flag}: found {value_ms:.9g} ms; expected a whole number of microseconds",
            hint=f"Take {ticks / 1000:g}: times are kept to the microsecond.",
        )
    return ticks


# ------------------------------------------------------------------------------------------------
# Sets of intervals on the clock, (intervals, 2) int arrays: from the first to the second.
# ------------------------------------------------------------------------------------------------


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
