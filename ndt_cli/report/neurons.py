"""Scores of single neurons: the model against a baseline."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.report.style import MODEL, MUTED, SMOOTHED, new_figure, styled

Float64Array = NDArray[np.float64]

# A nearly silent neuron can score below -100; the others would shrink to one point.
_LOWEST = -1.0


@styled
def per_neuron_scores(
    model_N: Float64Array,
    smoothed_N: Float64Array,
    *,
    score: str = "R² of the rate",
    highest: float | None = 1.0,
) -> Figure:
    """Draw each neuron's score under the model against that under smoothed spikes.

    Left: one point a neuron, and the line of equal scores. Right: the two distributions, with
    their medians. Scores below -1 are drawn at -1; the figure says how many, and how many
    neurons have no score.

    Parameters
    ----------
    model_N, smoothed_N : (neurons,) float array
        A score of each neuron; NaN where undefined.
    score : str
        Name of the score.
    highest : float or None
        The best score that there can be, where the axes end; None: there is no such score, and
        they end at the largest one.

    Raises
    ------
    ValueError
        Arrays that differ in length, or without a neuron that has both scores.
    """
    if model_N.shape != smoothed_N.shape:
        raise ValueError(f"scores of {len(model_N)} and of {len(smoothed_N)} neurons")
    defined_N = np.isfinite(model_N) & np.isfinite(smoothed_N)
    if not defined_N.any():
        raise ValueError("no neuron has both scores")
    model, smoothed = model_N[defined_N], smoothed_N[defined_N]
    lowest = max(_LOWEST, min(0.0, float(np.minimum(model, smoothed).min())))
    top = max(highest or float(np.maximum(model, smoothed).max()), lowest + 0.01)
    room = 0.05 * (top - lowest)
    limits = (lowest - room, top if highest else top + room)

    figure = new_figure("two", 2.7)
    scatter, strips = figure.subplots(1, 2, width_ratios=[1.0, 1.25])
    _draw_pairs(scatter, np.maximum(smoothed, lowest), np.maximum(model, lowest), limits)
    scatter.set_xlabel(f"{score}, smoothed spikes")
    scatter.set_ylabel(f"{score}, NDT")
    for row, (values, color) in enumerate(((smoothed, SMOOTHED), (model, MODEL))):
        _draw_strip(strips, row, values, lowest, limits, color)
    strips.set(xlim=limits, ylim=(-0.6, 1.6), yticks=[0, 1], xlabel=score)
    for axis in (scatter.xaxis, scatter.yaxis, strips.xaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    strips.set_yticklabels(["smoothed\nspikes", "NDT"])
    strips.tick_params(axis="y", length=0)
    strips.spines["left"].set_visible(False)
    n_low, n_undefined = (np.minimum(model, smoothed) < lowest).sum(), (~defined_N).sum()
    notes = []
    if n_low:
        notes.append(f"{n_low} below \N{MINUS SIGN}{-lowest:g}, drawn there")
    if n_undefined:
        notes.append(f"{n_undefined} without a score")
    note = f"of {len(model_N)} neurons, {'; '.join(notes)}" if notes else ""
    strips.set_title(note, color=MUTED, fontsize=7)
    return figure


def _draw_pairs(
    axes: Axes, smoothed: Float64Array, model: Float64Array, limits: tuple[float, float]
) -> None:
    axes.plot(limits, limits, color=MUTED, lw=0.6, ls=(0, (4, 3)), zorder=0)
    axes.plot(smoothed, model, "o", ms=3, mfc=MODEL, mec="white", mew=0.3)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.annotate(
        f"NDT higher: {int((model > smoothed).sum())} of {len(model)}",
        (0.98, 0.03),
        xycoords="axes fraction",
        ha="right",
        fontsize=7,
        color=MUTED,
    )


def _draw_strip(
    axes: Axes,
    row: int,
    values: Float64Array,
    lowest: float,
    limits: tuple[float, float],
    color: str,
) -> None:
    # A golden-ratio sequence scatters the points evenly and the same way each time.
    heights = row + 0.5 * ((np.arange(len(values)) * 0.618034) % 1.0 - 0.5)
    axes.plot(np.maximum(values, lowest), heights, "o", ms=3, mfc=color, mec="white", mew=0.3)
    median = float(np.median(values))
    shown = max(median, lowest)
    place = (shown - limits[0]) / (limits[1] - limits[0])
    axes.vlines(shown, row - 0.36, row + 0.36, color="black", lw=1.2)
    axes.annotate(
        f"median {median:.2f}",
        (shown, row + 0.38),
        ha="left" if place < 0.1 else "right" if place > 0.9 else "center",
        va="bottom",
        fontsize=7,
    )
