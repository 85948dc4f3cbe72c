"""Axes of the pictures of a sweep."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ndt_cli.search.draws import Choice, Draw, Integer, LogUniform
from ndt_cli.search.results import MemberResult
from ndt_cli.search.scoring import lower_is_better


class Limits(NamedTuple):
    """An axis that leaves out what is far worse than the rest."""

    ends: tuple[float, float]
    worst: float
    n_outside: int

    def held(self, value: float) -> float:
        """Return the value, or the nearer end of the axis."""
        return min(max(value, self.ends[0]), self.ends[1]) if math.isfinite(value) else self.worst


def limits_of(values: Sequence[float], choose_by: str) -> Limits:
    """Return limits from the best value to four times as far as the median is from it."""
    sign = 1.0 if lower_is_better(choose_by) else -1.0
    # Distance from the best: members that learned nothing would flatten the others.
    finite = sign * np.array([value for value in values if math.isfinite(value)])
    best, median, worst = np.quantile(finite, [0.0, 0.5, 1.0])
    cut = min(worst, best + 4 * max(median - best, 1e-3 * abs(best), 1e-6))
    room = 0.06 * max(cut - best, 1e-3 * abs(best), 1e-6)
    ends = sorted((sign * (best - room), sign * (cut + room)))
    return Limits((ends[0], ends[1]), sign * (cut + room), int((finite > cut + room).sum()))


def setting_axis(axes: Axes, key: str, draw: Draw) -> Callable[[MemberResult], float]:
    """Prepare the axis of a setting; return where on it a member stands."""
    if isinstance(draw, Choice):
        names = [str(v).lower() if isinstance(v, bool) else str(v) for v in draw.values]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(draw.values) - 0.5)
        return lambda member: draw.values.index(member.drawn[key])
    low, high = draw.low, draw.high
    if isinstance(draw, LogUniform):
        axes.set_xscale("log")
        room = (high / low) ** 0.06
        axes.set_xlim(low / room, high * room)
        if high / low >= 100:
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.06 * (high - low)
        axes.set_xlim(low - room, high + room)
        whole = isinstance(draw, Integer)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole, steps=[1, 2, 5, 10]))
    return lambda member: float(member.drawn[key])
