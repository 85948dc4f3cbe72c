"""Time and memory of a training step against neurons, bins, trials and layers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ndt_cli.bench.growth import LINES, Axis, Growth, GrowthPoint, Line, value_on
from ndt_cli.report.style import MODEL, MUTED, SECOND, SMOOTHED, new_figure, styled


class _Look(NamedTuple):
    label: str
    color: str
    dashes: str
    marker: str


_LOOKS: dict[Line, _Look] = {
    "ndt": _Look("ndt", MODEL, "-", "o"),
    "full context": _Look("ndt, full context", SECOND, "--", "s"),
    "stock": _Look("stock layers", SMOOTHED, "-", "^"),
}

_NAMES: dict[Axis, str] = {
    "neurons": "neurons",
    "bins": "bins per trial",
    "trials": "trials per step",
    "layers": "layers",
}


@styled
def growth_curves(growth: Growth) -> Figure:
    """Draw time (above) and memory (below) along each axis; all scales are logarithmic.

    A dotted line marks the size that the other axes keep. What was not measured is a gap;
    without any memory known there is no second row.

    Parameters
    ----------
    growth : Growth
        From `ndt_cli.bench.growth.measure_growth`.
    """
    axes_names = list(dict.fromkeys(point.axis for point in growth.points))
    has_memory = any(point.peak_mb is not None for point in growth.points)
    n_rows = 2 if has_memory else 1
    figure = new_figure("two", 0.5 + 1.75 * n_rows)
    grid = figure.subplots(n_rows, len(axes_names), squeeze=False, sharex="col", sharey="row")
    for panels, axis in zip(grid.T, axes_names, strict=True):
        for panel in panels:
            _draw(panel, growth, axis, "peak_mb" if panel is panels[-1] and has_memory else "ms")
        panels[-1].set_xlabel(_NAMES[axis])
        _ticks_at(panels[-1], [point.value for point in growth.on(axis, "ndt")])
    grid[0, 0].set_ylabel("training step (ms)")
    if has_memory:
        grid[1, 0].set_ylabel("peak memory (MB)")
    artists: dict[str, Artist] = {}
    for panel in grid[0]:
        artists |= {str(line.get_label()): line for line in panel.get_lines()}
    labels = [_LOOKS[line].label for line in LINES if _LOOKS[line].label in artists]
    handles = [artists[label] for label in labels]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _draw(panel: Axes, growth: Growth, axis: Axis, measure: str) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.axvline(value_on(axis, growth.workload), color=MUTED, lw=0.8, ls=(0, (1, 2)), zorder=0)
    for line in LINES:
        look = _LOOKS[line]
        points = growth.on(axis, line)
        if points:
            panel.plot(
                [point.value for point in points],
                [_value(point, measure) for point in points],
                look.dashes,
                color=look.color,
                marker=look.marker,
                ms=3,
                label=look.label,
            )
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _value(point: GrowthPoint, measure: str) -> float:
    value = point.fastest_ms if measure == "ms" else point.peak_mb
    return math.nan if value is None else value


def _ticks_at(panel: Axes, values: Sequence[int]) -> None:
    """Put ticks at the measured sizes, and none between."""
    panel.set_xticks(values, [str(value) for value in values])
    panel.xaxis.set_minor_locator(NullLocator())
