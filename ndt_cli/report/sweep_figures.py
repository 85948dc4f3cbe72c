"""Axes of the pictures of a sweep."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ndt_cli.engine.measures import MEASURES
from ndt_cli.engine.run_folder import BEST, RunFolder
from ndt_cli.errors import RunError, SettingsError, nearest, typed
from ndt_cli.report.curves import finite_series
from ndt_cli.report.figures import save_figure
from ndt_cli.report.run_contents import Drawn, count
from ndt_cli.report.style import MODEL, MUTED, SMOOTHED, new_figure, styled
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Draw, Integer, LogUniform, OneOf


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
    sign = 1.0 if MEASURES[choose_by].lower_is_better else -1.0
    # Distance from the best: members that learned nothing would flatten the others.
    finite = sign * np.array([value for value in values if math.isfinite(value)])
    best, median, worst = np.quantile(finite, [0.0, 0.5, 1.0])
    cut = min(worst, best + 4 * max(median - best, 1e-3 * abs(best), 1e-6))
    room = 0.06 * max(cut - best, 1e-3 * abs(best), 1e-6)
    ends = sorted((sign * (best - room), sign * (cut + room)))
    return Limits((ends[0], ends[1]), sign * (cut + room), int((finite > cut + room).sum()))


def setting_axis(axes: Axes, key: str, draw: Draw) -> Callable[[MemberResult], float]:
    """Prepare the axis of a setting; return where on it a member stands."""
    if isinstance(draw, OneOf):
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


# ------------------------------------------------------------------------------------------------
# Pictures of a sweep: what each setting did, loss against the measure that matters, curves.
# ------------------------------------------------------------------------------------------------


History = Sequence[Mapping[str, float]]

_COLUMNS = 4


def write_sweep_figures(
    folder: Path, results: SweepResults, draws: Mapping[str, Draw]
) -> list[Path]:
    """Draw what a sweep has found so far.

    Parameters
    ----------
    folder : Path
        Where the pictures go; older ones are replaced.
    results : SweepResults
        All members.
    draws : mapping of str to Draw
        The space's, for the axes.

    Returns
    -------
    list of Path
        ``curves.png`` once a member has validated; with a ranked member ``settings.png`` and,
        where true rates or held-out neurons are known, ``measures.png``.
    """
    histories = {m.index: RunFolder(m.folder).read_metrics() for m in results.members}
    measure = BEST[f"best-{results.choose_by}"][0]
    figures = {}
    if results.ranked:
        figures["settings.png"] = score_by_setting(results, draws)
        if any({"rate-r2", "co-bps"} & m.scores.keys() for m in results.ranked):
            figures["measures.png"] = loss_against_measure(results)
    if any(finite_series(history, measure)[0] for history in histories.values()):
        figures["curves.png"] = learning_curves(results, histories)
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


@styled
def score_by_setting(results: SweepResults, draws: Mapping[str, Draw]) -> Figure:
    """Draw the score of each member against each setting that was drawn.

    The best member is marked in every panel. Members that diverged stand as crosses at the worse
    edge, whatever they had reached. Scores far worse than the others are drawn at that edge too.

    Raises
    ------
    ValueError
        When no member is ranked.
    """
    ranked = results.ranked
    if not ranked:
        raise ValueError("no member is ranked")
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
        axes.plot([place(m) for m in ranked], scores, "o", color=MUTED, ms=3, mew=0, clip_on=False)
        for member in diverged:
            axes.plot(place(member), limits.worst, "x", color=SMOOTHED, ms=4, clip_on=False)
        axes.plot(place(ranked[0]), scores[0], "o", color=MODEL, ms=5, mec="white", mew=0.5)
        axes.axhline(floor, color=MUTED, lw=0.6, ls=(0, (1, 2)), zorder=0)
    panels[0].set_ylim(*limits.ends)
    for axes in panels[len(draws) :]:
        axes.set_axis_off()
    figure.supylabel(MEASURES[results.choose_by].axis, fontsize=8)
    caption = _caption(results, limits.n_outside, len(diverged))
    figure.suptitle(caption + "; dotted: mean rate", fontsize=7, color=MUTED)
    return figure


@styled
def loss_against_measure(results: SweepResults) -> Figure:
    """Draw R2 and co-bps, where known, of the ranked members against their masked loss.

    Raises
    ------
    ValueError
        When neither is known of any member.
    """
    ranked = results.ranked
    known = [name for name in ("rate-r2", "co-bps") if any(name in m.scores for m in ranked)]
    if not known:
        raise ValueError("neither R2 nor co-bps is known")
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
    figure.suptitle(_caption(results, len(moved), n_diverged=0), fontsize=7, color=MUTED)
    return figure


@styled
def learning_curves(results: SweepResults, histories: Mapping[int, History]) -> Figure:
    """Draw the measure that ranks over the epochs, of every member, the best one in color.

    Parameters
    ----------
    results : SweepResults
        All members.
    histories : mapping of int to sequence of mappings
        Lines of each member's ``metrics.jsonl``, by its number. Masked losses in them are each
        under the member's own mask settings.

    Raises
    ------
    ValueError
        When no member has validated.
    """
    measure = BEST[f"best-{results.choose_by}"][0]
    curves = {index: finite_series(history, measure) for index, history in histories.items()}
    curves = {index: curve for index, curve in curves.items() if curve[0]}
    if not curves:
        raise ValueError("no member has validated")
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
            axes.plot(
                epochs[-1],
                limits.held(values[-1]),
                "x",
                color=color,
                ms=4,
                zorder=order,
                clip_on=False,
            )
    axes.set_ylim(*limits.ends)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    own = ",\neach under its own masks" if results.choose_by == "masked-loss" else ""
    axes.set_ylabel(MEASURES[results.choose_by].axis + own)
    low, high = limits.ends
    beyond = sum(max(v) < low or min(v) > high for _, v in curves.values())
    unseen = f", {beyond} beyond the axis" if beyond else ""
    kinds = [(f"{len(curves)} members{unseen}", MUTED, "-")]
    kinds += [(f"best: member {best}", MODEL, "-")] if best is not None else []
    kinds += [("diverged", SMOOTHED, "x-")] if results.count("diverged") else []
    for label, color, look in kinds:
        axes.plot([], [], look, color=color, ms=4, lw=1, label=label)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return figure


def _caption(results: SweepResults, n_outside: int, n_diverged: int) -> str:
    best = results.ranked[0]
    parts = [f"best (blue): member {best.index}, {results.score(best):.4f}"]
    parts += [f"{n_diverged} diverged (crosses)"] if n_diverged else []
    parts += [f"{n_outside} far worse, drawn at the edge"] if n_outside else []
    return "; ".join(parts)


# ------------------------------------------------------------------------------------------------
# The figures of a sweep by name, with their words.
# ------------------------------------------------------------------------------------------------


MEASURE_NAMES = {
    "masked-loss": "loss of hidden bins",
    "unmasked-loss": "loss with nothing hidden",
    "rate-r2": "R2 of the rates",
    "co-bps": "co-bps",
}


class SweepFigure(NamedTuple):
    """A figure that a sweep may have.

    Attributes
    ----------
    title : str
        Its heading.
    draw : callable
        Draws it; raises a `RunError` where the sweep has no such figure yet.
    """

    title: str
    draw: Callable[[SweepFolder], Drawn]


def draw_sweep(sweep: SweepFolder, name: str) -> Drawn:
    """Draw one figure of a sweep.

    Raises
    ------
    SettingsError
        When there is no such figure; the message names the nearest.
    RunError
        When the sweep has none yet.
    """
    if name in SWEEP_FIGURES:
        return SWEEP_FIGURES[name].draw(sweep)
    close = nearest(name, SWEEP_FIGURES)
    raise SettingsError(
        f"a sweep has no figure {name!r}" + (f"; did you mean {close}?" if close else ""),
        f"figures of a sweep: {', '.join(SWEEP_FIGURES)}",
    )


def _draw_settings(sweep: SweepFolder) -> Drawn:
    results = sweep.results()
    if not results.ranked:
        raise _nothing_yet(sweep)
    figure = score_by_setting(results, sweep.space.draws)
    measure = MEASURE_NAMES[results.choose_by].capitalize()
    caption = (
        f"{measure} on validation trials against each setting that was drawn, a point a member: "
        f"{len(results.ranked)} ranked of {len(results.members)}."
    )
    return Drawn(
        figure, caption, f"The score of each member against each setting. {_best(results)}"
    )


def _draw_measures(sweep: SweepFolder) -> Drawn:
    results = sweep.results()
    if not any({"rate-r2", "co-bps"} & member.scores.keys() for member in results.ranked):
        raise RunError(
            f"{sweep.path}: there are neither true rates nor held-out neurons to compare the loss "
            "with"
        )
    caption = (
        "How well the loss of hidden bins foretells the measure that matters, a point a member: "
        f"{count(len(results.ranked), 'member')}."
    )
    alt = "R2 or co-bps of each member against its loss of hidden bins."
    return Drawn(loss_against_measure(results), caption, f"{alt} {_best(results)}")


def _draw_curves(sweep: SweepFolder) -> Drawn:
    results = sweep.results()
    histories = {m.index: RunFolder(m.folder).read_metrics() for m in results.members}
    try:
        figure = learning_curves(results, histories)
    except ValueError as error:
        raise _nothing_yet(sweep) from error
    measure = MEASURE_NAMES[results.choose_by]
    members = count(len(results.members), "member")
    caption = f"Validation ({measure}) of {members} over the epochs; the best one is blue."
    return Drawn(figure, caption, "Learning curves of all members of the sweep.")


def _best(results: SweepResults) -> str:
    best = results.ranked[0]
    return f"Best: member {best.index} with {results.score(best):.4f}."


def _nothing_yet(sweep: SweepFolder) -> RunError:
    return RunError(
        f"{sweep.path}: no member has come to its end yet",
        f"ndt sweep --resume {typed(sweep.path)}",
    )


SWEEP_FIGURES = {
    "settings": SweepFigure("Score by setting", _draw_settings),
    "measures": SweepFigure("Loss against the measure that matters", _draw_measures),
    "curves": SweepFigure("Learning curves of all members", _draw_curves),
}
