"""Times as whole microseconds, so that which bin a spike falls into is integer arithmetic.

A time such as ``0.3`` or ``3 * 0.1`` has no exact binary form, and a spike on the edge of a bin
would fall to either side of it by chance. Every time is therefore rounded to the nearest
microsecond first: an error below half a microsecond moves nothing, and no recording is sampled
faster.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import SettingsError

TimeUnit = Literal["s", "ms", "us", "samples"]
TicksArray = NDArray[np.int64]

_US_PER_UNIT = {"s": 1e6, "ms": 1e3, "us": 1.0}
_MAX_US = 2**62


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
        factor = self.us_per_unit
        if factor == 1 and np.asarray(times).dtype.kind in "iu":
            return np.asarray(times).astype(np.int64)
        ticks = np.rint(np.asarray(times, dtype=np.float64) * factor)
        if ticks.size and np.abs(ticks).max() > _MAX_US:
            raise SettingsError(
                f"found a time of {np.abs(times).max():g} {self.unit}; expected a time in a "
                "recording",
                hint="Is the unit of the times right? See --time-unit.",
            )
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
