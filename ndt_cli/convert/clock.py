"""Times as whole microseconds, so that the bin of a spike is found by integer arithmetic.

A time such as ``0.3`` or ``3 * 0.1`` has no exact binary form, and a spike on the edge of a bin
would fall to either side of it by chance. Every time is therefore rounded to the nearest
microsecond first. No recording is sampled faster.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import SettingsError

TimeUnit = Literal["s", "ms", "us", "samples"]
TicksArray = NDArray[np.int64]

_US_PER_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0}
_UNIT_WORDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "\u00b5s", "\u03bcs", "microsecond", "microseconds"), "us"),
    "samples": "samples",
}
# The word at the end of a name: start_ms, "start (ms)", "start [ms]".
_UNIT_OF_NAME = re.compile(r"[_ (\[]([^\W\d_]+)[)\]]?\s*$")
# Times that step back further than this, in few of the steps, are of a clock that restarts.
FAR_BACK_US, FEW_STEPS = 100_000, 0.2
_COARSE_US = 100  # of times of trials or samples: worth a note

_MAX_US = 2**58  # nine thousand years, so that sums of times stay within 64 bits


@dataclass(frozen=True)
class Clock:
    """How the times in a file become microseconds: their unit, and the rate of samples."""

    unit: TimeUnit = "s"
    sample_rate_hz: float | None = None
    is_given: bool = False  # for these times alone, whatever their name says

    @property
    def us_per_unit(self) -> float:
        """Microseconds in the unit."""
        if self.unit == "samples":
            assert self.sample_rate_hz is not None
            return 1e6 / self.sample_rate_hz
        return _US_PER_UNIT[self.unit]

    def check_name(self, name: str, where: Path) -> None:
        """Refuse times whose name ends in another unit than this, such as ``start_ms``."""
        ending = _UNIT_OF_NAME.search(name)
        word = ending[1] if ending else ""
        # An unconditioned stimulus is a US.
        unit = _UNIT_WORDS.get(word.lower() if len(word) > 2 else word)
        if unit is not None and unit != self.unit and not self.is_given:
            raise SettingsError(
                f"{where}: {name!r}: found times that would be read in {self.unit}; expected those "
                f"in {unit}, by their name",
                f"Give the unit: `time_unit={unit!r}`, or that of trials or behavior alone, "
                f"`trials_time_unit={unit!r}`, `behavior_time_unit={unit!r}`; if the name means "
                f"something else, that is {self.unit!r}.",
            )

    def step_us(self, times: NDArray[Any]) -> float:
        """Return the step between the latest times, if they are stored in less than 64 bits."""
        known = times[np.isfinite(times)]
        if times.dtype.kind != "f" or times.dtype.itemsize >= 8 or not len(known):
            return 0.0
        return float(np.spacing(np.abs(known).max())) * self.us_per_unit

    def note_coarse(self, times: NDArray[Any], name: str, notes: list[str]) -> None:
        """Note times of trials or samples whose steps move them among the bins."""
        step_us = self.step_us(times)
        note = (
            f"Times in {name!r} are stored in single precision: steps of {step_us / 1000:.2g} ms "
            "late in the recording."
        )
        if step_us > _COARSE_US and note not in notes:
            notes.append(note)

    def to_us(self, times: NDArray[Any]) -> TicksArray:
        """Return finite times in whole microseconds, or raise a SettingsError if one is absurd."""
        times, factor = np.asarray(times), self.us_per_unit
        if times.dtype in (np.float32, np.float16):
            times = _as_printed(times)
        with np.errstate(over="ignore"):  # an overflow is absurd too
            ticks = np.rint(times.astype(np.float64) * factor)
        far = ~(np.abs(ticks) <= _MAX_US)
        if far.any():
            raise SettingsError(
                f"found a time of {times[far].reshape(-1)[0]:g} {self.unit}; expected a time in a "
                "recording",
                hint="Are the times in another unit? Give it with `time_unit`.",
            )
        if factor == 1 and times.dtype.kind in "iu":
            return times.astype(np.int64)  # whole already, and exact above 2^53 too
        return ticks.astype(np.int64)


def _as_printed(times: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the shortest decimal number that each time stands for: 20.48, not 20.4799995."""
    exact = times.astype(np.float64)
    shortest, half_step = exact, np.spacing(np.abs(times)).astype(np.float64) / 2
    for n_decimals in range(8, -1, -1):
        rounded = np.round(exact, n_decimals)
        shortest = np.where(np.abs(rounded - exact) < half_step, rounded, shortest)
    return shortest


def ms_to_us(value_ms: float, name: str) -> int:
    """Return the duration of an option or key in microseconds; it must be a whole number."""
    if not abs(value_ms) < _MAX_US / 1000:  # NaN is refused too
        raise SettingsError(f"`{name}`: found {value_ms:g} ms; expected a time in a recording")
    ticks = round(value_ms * 1000)
    if abs(value_ms * 1000 - ticks) > 1e-6:
        raise SettingsError(
            f"`{name}`: found {value_ms:.9g} ms; expected a whole number of microseconds",
            hint=f"Take {ticks / 1000:g}: times are kept to the microsecond.",
        )
    return ticks


def bin_to_us(bin_ms: float, name: str) -> int:
    """Return the bin width of an option in microseconds, at least one."""
    if bin_ms < 0.001:
        raise SettingsError(f"`{name}`: found {bin_ms:g} ms; expected 0.001 ms or more")
    return ms_to_us(bin_ms, name)


def in_bins(value_ms: float, bin_us: int, name: str) -> int:
    """Return the duration of an option in bins; it must be a whole number of them."""
    value_us = ms_to_us(value_ms, name)
    if value_us % bin_us:
        low = value_us // bin_us * bin_us / 1000
        raise SettingsError(
            f"`{name}`: found {value_ms:g} ms, which is {value_us / bin_us:g} bins of "
            f"{bin_us / 1000:g} ms; expected a whole number of bins",
            hint=f"Take {low:g} or {low + bin_us / 1000:g} ms, or another `bin_ms`.",
        )
    return value_us // bin_us


# Sets of intervals, (intervals, 2) int arrays in microseconds: half open, from start to stop.


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
    """Return the times that are in all of the sets, as disjoint intervals."""
    steps: Counter[int] = Counter()  # how many more sets are open from a time on
    for intervals in sets:
        for start, stop in merge_intervals(intervals).tolist():
            steps[start] += 1
            steps[stop] -= 1
    times = sorted(steps)
    n_open = np.cumsum([steps[time] for time in times])
    common = [pair for pair, n in zip(pairwise(times), n_open, strict=False) if n == len(sets)]
    return merge_intervals(np.array(common, dtype=np.int64).reshape(-1, 2))


def contained(starts: TicksArray, stops: TicksArray, disjoint: TicksArray) -> NDArray[np.bool_]:
    """Return for each trial whether all of it is in one of the disjoint, ascending intervals."""
    if len(disjoint) == 0:
        return np.zeros(len(starts), dtype=bool)
    at = np.searchsorted(disjoint[:, 0], starts, side="right") - 1
    return np.asarray((at >= 0) & (stops <= disjoint[np.maximum(at, 0), 1]))


def inside(times: TicksArray, disjoint: TicksArray) -> NDArray[np.bool_]:
    """Return for each time whether it is in one of the disjoint, ascending intervals."""
    return contained(times, times + 1, disjoint)
