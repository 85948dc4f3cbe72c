"""Figures of a sweep: what each setting did, loss against other measures, learning curves."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ndt_cli.engine.measures import MEASURES
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, called, count
from ndt_cli.report.curves import MEASURE_NAMES, finite_series
from ndt_cli.report.figures import (
    MODEL,
    MUTED,
    SMOOTHED,
    CaptionedFigure,
    new_figure,
    save_figure,
    styled,
)
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Draw, Value
from ndt_cli.settings.explain import heading, value_text

_COLUMNS = 4
_COMPARED = ("rate-r2", "co-bps")  # measures that the masked loss is compared with


def write_sweep_figures(
    folder: Path, results: SweepResults, draws: Mapping[str, Draw]
) -> list[Path]:
    """Draw the results of a sweep so far; earlier files are replaced."""
    written = []
    for name, (_, draw) in SWEEP_FIGURES.items():
        try:
            figure = draw(results, draws).figure
        except RunError:  # there is nothing to draw yet
            continue
        written.append(save_figure(figure, folder / f"{name}.png", overwrite=True))
    return written


def _best_text(results: SweepResults) -> str:
    best = results.ranked[0]
    return f"Best: member {best.index} with {results.score(best):.4f}."


def _check_ranked(results: SweepResults) -> None:
    if not results.ranked:
        raise RunError(
            f"{results.path}: no member has finished yet",
            f"Continue with {called('resume_sweep', results.path)}.",
        )


# Axes ---------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """Ends of an axis that leaves out scores far worse than the others."""

    ends: tuple[float, float]
    worst: float
    n_outside: int

    def held(self, value: float) -> float:
        """Return the value, or the nearer end of the axis."""
        return min(max(value, self.ends[0]), self.ends[1]) if math.isfinite(value) else self.worst


def limits_of(values: Sequence[float], choose_by: str) -> Limits:
    """Return limits from the best value to four times the distance of the median from it."""
    sign = 1.0 if MEASURES[choose_by].lower_is_better else -1.0
    # Distance from the best: members that learned nothing would flatten the others.
    finite = sign * np.array([value for value in values if math.isfinite(value)])
    best, median, worst = np.quantile(finite, [0.0, 0.5, 1.0])
    cut = min(worst, best + 4 * max(median - best, 1e-3 * abs(best), 1e-6))
    room = 0.06 * max(cut - best, 1e-3 * abs(best), 1e-6)
    ends = sorted((sign * (best - room), sign * (cut + room)))
    return Limits((ends[0], ends[1]), sign * (cut + room), int((finite > cut + room).sum()))


def setting_axis(axes: Axes, key: str, draw: Draw) -> Callable[[MemberResult], float]:
    """Prepare the axis of a setting; return a function for the place of a member on it."""
    if draw.kind == "choice":
        names = [str(v).lower() if isinstance(v, bool) else str(v) for v in draw.values]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(draw.values) - 0.5)
        return lambda member: draw.values.index(member.drawn[key])
    low, high = draw.values
    if draw.kind == "log-uniform":
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
        whole = draw.kind == "integer"
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole, steps=[1, 2, 5, 10]))
    return lambda member: float(member.drawn[key])


# Score by setting ---------------------------------------------------------------------------------


@styled
def draw_settings(results: SweepResults, draws: Mapping[str, Draw]) -> CaptionedFigure:
    """Draw the score of each member against each setting that was varied.

    The best member is marked in every panel. Members that diverged are crosses at the worse edge.
    Scores far worse than the others are drawn at that edge too.
    """
    _check_ranked(results)
    ranked = results.ranked
    diverged = [member for member in results.members if member.status == "diverged"]
    limits = limits_of([results.score(member) for member in ranked], results.choose_by)
    scores = [limits.held(results.score(member)) for member in ranked]
    floor = results.mean_rate.get(results.choose_by, math.nan)
    n_rows = math.ceil(len(draws) / _COLUMNS)
    figure = new_figure("two", 0.35 + 1.55 * n_rows)
    grid = figure.subplots(n_rows, _COLUMNS, squeeze=False, sharey=True)
    panels = list(grid.flat)
    for axes, (key, draw) in zip(panels, draws.items(), strict=False):
        place = setting_axis(axes, key, draw)
        axes.set_xlabel(key, fontsize=7, labelpad=2)
        drawn = [(place(m), s) for m, s in zip(ranked, scores, strict=True) if key in m.drawn]
        x, y = np.reshape(drawn, (-1, 2)).T
        axes.plot(x, y, "o", color=MUTED, ms=3, mew=0, clip_on=False)
        for member in diverged:
            if key in member.drawn:
                axes.plot(place(member), limits.worst, "x", color=SMOOTHED, ms=4, clip_on=False)
        if key in ranked[0].drawn:
            axes.plot(place(ranked[0]), scores[0], "o", color=MODEL, ms=5, mec="white", mew=0.5)
        axes.axhline(floor, color=MUTED, lw=0.6, ls=(0, (1, 2)), zorder=0)
    panels[0].set_ylim(*limits.ends)
    for axes in panels[len(draws) :]:
        axes.set_axis_off()
    figure.supylabel(MEASURES[results.choose_by].axis, fontsize=8)
    title = _title(results, limits.n_outside, len(diverged))
    if limits.ends[0] <= floor <= limits.ends[1]:
        title += "; dotted: mean rate"
    elif math.isfinite(floor):
        title += f"; mean rate, outside the panels: {floor:.4f}"
    figure.suptitle(title, fontsize=7, color=MUTED)
    caption = (
        f"{MEASURE_NAMES[results.choose_by].capitalize()} on validation trials against each "
        f"setting that was varied, one point per member: {len(ranked)} ranked of "
        f"{len(results.members)}."
    )
    alt = f"The score of each member against each setting. {_best_text(results)}"
    return CaptionedFigure(figure, caption, alt)


# Loss against R2 and co-bps -----------------------------------------------------------------------


@styled
def draw_measures(results: SweepResults, draws: Mapping[str, Draw]) -> CaptionedFigure:
    """Draw R2 and co-bps, if known, of the ranked members against their loss."""
    ranked = results.ranked
    known = [name for name in _COMPARED if any(name in m.scores for m in ranked)]
    if not known:
        raise RunError(
            f"{results.path}: without true rates and held-out neurons there is nothing to compare "
            "the loss with"
        )
    figure = new_figure("one" if len(known) == 1 else "two", 2.6)
    grid = figure.subplots(1, len(known), squeeze=False)
    moved: set[int] = set()
    for axes, name in zip(grid.flat, known, strict=True):
        losses = [member.scores["masked-loss"] for member in ranked]
        values = [member.scores[name] for member in ranked]
        along, up = limits_of(losses, "masked-loss"), limits_of(values, name)
        x, y = [along.held(v) for v in losses], [up.held(v) for v in values]
        axes.plot(x, y, "o", color=MUTED, ms=3.5, mew=0, clip_on=False)
        axes.plot(x[0], y[0], "o", color=MODEL, ms=5, mec="white", mew=0.5)
        axes.set(xlim=along.ends, ylim=up.ends)
        axes.set_xlabel(MEASURES["masked-loss"].axis)
        axes.set_ylabel(MEASURES[name].axis)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="x", useOffset=False)
        moved |= {i for i in range(len(ranked)) if x[i] != losses[i] or y[i] != values[i]}
    figure.suptitle(_title(results, len(moved), n_diverged=0), fontsize=7, color=MUTED)
    caption = (
        "How well the loss of hidden bins predicts the measure of interest, one point per member: "
        f"{count(len(ranked), 'member')}."
    )
    alt = f"R2 or co-bps of each member against its loss of hidden bins. {_best_text(results)}"
    return CaptionedFigure(figure, caption, alt)


# What made members good ---------------------------------------------------------------------------


@styled
def draw_importance(results: SweepResults, draws: Mapping[str, Draw]) -> CaptionedFigure:
    """Draw the importance of each setting (`ndt_cli.search.study.importance`)."""
    from ndt_cli.search.study import importance, importance_caveat

    shares = importance(results, draws)
    if not shares:
        _check_ranked(results)
        raise RunError(f"{results.path}: the members are too few to tell what makes them good")
    figure = new_figure("one", 0.6 + 0.2 * len(shares))
    axes = figure.subplots()
    rows = list(reversed(list(shares.items())))
    names = [heading(key) for key, _ in rows]
    axes.barh(names, [share for _, share in rows], color=MODEL, height=0.6)
    axes.set_xlabel("share of the importance")
    axes.tick_params(axis="y", length=0)
    caveat = importance_caveat(results)
    axes.set_title(caveat, fontsize=7, color=MUTED)
    caption = (
        f"Share of each setting in what makes members good, from {len(results.ranked)} ranked "
        "members (PED-ANOVA; settings that depend on others are left out)."
        + (f" {caveat.capitalize()}." if caveat else "")
    )
    alt = f"Importance of each setting; the largest is that of the {heading(next(iter(shares)))}."
    return CaptionedFigure(figure, caption, alt)


@styled
def draw_parallel(results: SweepResults, draws: Mapping[str, Draw]) -> CaptionedFigure:
    """Draw the settings of each ranked member as one line, which ends at its score.

    The best member is blue; the darker another line, the better its rank. A line has a gap where
    a setting was not drawn.
    """
    _check_ranked(results)
    ranked = results.ranked
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
        for value in draw.values:
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
    caption = (
        "Settings of each ranked member as one line, which ends at its validation score; the "
        "best one is blue, and the darker another, the better."
    )
    alt = f"Settings and scores of {count(len(ranked), 'member')}. {_best_text(results)}"
    return CaptionedFigure(figure, caption, alt)


def _height(value: Value | None, draw: Draw) -> float:
    """Return where a value lies between the ends of its draw, from 0 to 1."""
    if value is None:
        return math.nan
    if draw.kind == "choice":
        return draw.values.index(value) / max(1, len(draw.values) - 1)
    number, (low, high) = float(value), draw.values
    if draw.kind == "log-uniform":
        return math.log(number / low) / math.log(high / low)
    return float((number - low) / (high - low))


# Learning curves ----------------------------------------------------------------------------------


@styled
def draw_curves(results: SweepResults, draws: Mapping[str, Draw]) -> CaptionedFigure:
    """Draw the measure that ranks the members over the epochs, the best member in color.

    Masked losses are under each member's own mask settings.
    """
    measure = MEASURES[results.choose_by].key
    histories = {m.index: RunFolder(m.folder).read_metrics() for m in results.members}
    curves = {index: finite_series(history, measure) for index, history in histories.items()}
    curves = {index: curve for index, curve in curves.items() if curve[0]}
    if not curves:
        _check_ranked(results)
        raise RunError(f"{results.path}: no member has validated yet")
    ranked = results.ranked
    best = ranked[0].index if ranked else None
    figure = new_figure("two", 2.8)
    axes = figure.subplots()
    # The first epochs fall from far away and would flatten what comes after.
    limits = limits_of(
        [value for _, values in curves.values() for value in values], results.choose_by
    )
    for index, (epochs, values) in curves.items():
        lost = results.members[index].status == "diverged"
        color = MODEL if index == best else SMOOTHED if lost else MUTED
        width, order = (1.4, 3) if index == best else (0.6, 2 if lost else 1)
        marker = "." if len(epochs) == 1 else None
        axes.plot(epochs, values, color=color, lw=width, zorder=order, marker=marker, ms=4)
        if lost:
            end = epochs[-1], limits.held(values[-1])
            axes.plot(*end, "x", color=color, ms=4, zorder=order, clip_on=False)
    axes.set_ylim(*limits.ends)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    own = ",\neach under its own masks" if results.choose_by == "masked-loss" else ""
    axes.set_ylabel(MEASURES[results.choose_by].axis + own)
    low, high = limits.ends
    beyond = sum(max(v) < low or min(v) > high for _, v in curves.values())
    unseen = f", {beyond} beyond the axis" if beyond else ""
    kinds = [(f"{count(len(curves), 'member')}{unseen}", MUTED, "-")]
    kinds += [(f"best: member {best}", MODEL, "-")] if best is not None else []
    kinds += [("diverged", SMOOTHED, "x-")] if results.count("diverged") else []
    for label, color, look in kinds:
        axes.plot([], [], look, color=color, ms=4, lw=1, label=label)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    caption = (
        f"Validation ({MEASURE_NAMES[results.choose_by]}) of "
        f"{count(len(results.members), 'member')} over the epochs; the best one is blue."
    )
    return CaptionedFigure(figure, caption, "Learning curves of all members of the sweep.")


def _title(results: SweepResults, n_outside: int, n_diverged: int) -> str:
    best = results.ranked[0]
    parts = [f"best (blue): member {best.index}, {results.score(best):.4f}"]
    parts += [f"{n_diverged} diverged (crosses)"] if n_diverged else []
    parts += [f"{n_outside} far worse, drawn at the edge"] if n_outside else []
    return "; ".join(parts)


SWEEP_FIGURES = {
    "settings": ("Score by setting", draw_settings),
    "measures": ("Loss against R2 or co-bps", draw_measures),
    "importance": ("Importance of each setting", draw_importance),
    "parallel": ("Settings of all members", draw_parallel),
    "curves": ("Learning curves of all members", draw_curves),
}
"""Title and function of each figure, which draws results and what was varied."""
