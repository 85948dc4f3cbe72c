"""Figures of what made members of a sweep good: importance, and all settings side by side."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from ndt_cli.engine.measures import MEASURES
from ndt_cli.report.style import MODEL, MUTED, new_figure, styled
from ndt_cli.search.results import SweepResults
from ndt_cli.search.space import Draw, LogUniform, OneOf, Value, extremes, heading, value_text


@styled
def importance_bars(shares: Mapping[str, float]) -> Figure:
    """Draw the importance of each setting (`ndt_cli.search.study.importance`)."""
    figure = new_figure("one", 0.6 + 0.2 * len(shares))
    axes = figure.subplots()
    names = [heading(key) for key in reversed(shares)]
    axes.barh(names, list(reversed(shares.values())), color=MODEL, height=0.6)
    axes.set_xlabel("importance (PED-ANOVA, shares add up to 1)")
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def parallel_coordinates(results: SweepResults, draws: Mapping[str, Draw]) -> Figure:
    """Draw the settings of each ranked member as one line, which ends at its score.

    The best member is blue; the darker another line, the better its rank. A line has a gap where
    a setting was not drawn.

    Raises
    ------
    ValueError
        If no member is ranked.
    """
    ranked = results.ranked
    if not ranked:
        raise ValueError("no member is ranked")
    figure = new_figure("two", 2.8)
    axes = figure.subplots()
    scores = [results.score(member) for member in ranked]
    worst, best = scores[-1], scores[0]
    places = range(len(draws) + 1)
    for rank, member in reversed(list(enumerate(ranked))):
        heights = [_height(member.drawn.get(key), draw) for key, draw in draws.items()]
        # The best score is at the top, whichever way the measure goes.
        heights.append((scores[rank] - worst) / (best - worst) if best != worst else 1.0)
        color, width = (MODEL, 1.6) if rank == 0 else (MUTED, 0.7)
        alpha = 1.0 if rank == 0 else 1 - 0.85 * rank / len(ranked)
        axes.plot(places, heights, color=color, lw=width, alpha=alpha, clip_on=False)
    for place, draw in enumerate(draws.values()):
        axes.axvline(place, color=MUTED, lw=0.5, zorder=0)
        ends = extremes(draw)
        for value in ends if isinstance(draw, OneOf) else (ends[0], ends[-1]):
            height = _height(value, draw)
            axes.text(place + 0.06, height, value_text(value), fontsize=6, va="center")
    axes.axvline(len(draws), color=MUTED, lw=0.5, zorder=0)
    for score, height in ((best, 1.0), (worst, 0.0)):
        axes.text(len(draws) + 0.06, height, f"{score:.4f}", fontsize=6, va="center")
    labels = [heading(key) for key in draws] + [MEASURES[results.choose_by].label]
    axes.set_xticks(list(places), labels, rotation=35, ha="right")
    axes.set(xlim=(0, len(draws)), ylim=(0, 1), yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _height(value: Value | None, draw: Draw) -> float:
    """Return where a value lies between the ends of its draw, from 0 to 1."""
    if value is None:
        return math.nan
    if isinstance(draw, OneOf):
        return draw.values.index(value) / max(1, len(draw.values) - 1)
    number = float(value)
    if isinstance(draw, LogUniform):
        return math.log(number / draw.low) / math.log(draw.high / draw.low)
    return (number - draw.low) / (draw.high - draw.low)
