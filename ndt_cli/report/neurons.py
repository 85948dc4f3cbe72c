"""Figures of single neurons: scores of the model against those of smoothed spikes."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.errors import DataError, count
from ndt_cli.report.figures import (
    MODEL,
    MUTED,
    SMOOTHED,
    CaptionedFigure,
    new_figure,
    styled,
    trials_text,
)

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation, Scores

Float64Array = NDArray[np.float64]

# A nearly silent neuron can score below -100; the others would shrink to one point.
_LOWEST = -1.0


def draw_neurons_r2(evaluation: "Evaluation") -> CaptionedFigure:
    """Draw each neuron's R2 against that of smoothed spikes."""
    model, smoothed = (scores.rates for scores in _both(evaluation))
    if model is None or smoothed is None:
        raise DataError(
            "the true rates are unknown, so neurons have no R2",
            "The figure neurons-bits needs no true rates.",
        )
    caption = f"R2 of the inferred rates against the true rates, over {trials_text(evaluation)}."
    return score_figure("R2", model.r2_N, smoothed.r2_N, caption, "no neuron's true rate changes")


def draw_neurons_bits(evaluation: "Evaluation") -> CaptionedFigure:
    """Draw each held-in neuron's bits per spike, hidden, against those of smoothed spikes."""
    model_N, smoothed_N = (scores.hidden.bits_per_spike_N for scores in _both(evaluation))
    held_in = "held-in " if evaluation.data.n_heldout else ""
    caption = (
        f"Bits per spike over the mean rate of each {held_in}neuron, over "
        f"{trials_text(evaluation)}; each count is predicted while it is hidden."
    )
    undefined = "no neuron has a spike in these trials"
    return score_figure("bits per spike", model_N, smoothed_N, caption, undefined)


def draw_neurons_heldout(evaluation: "Evaluation") -> CaptionedFigure:
    """Draw each held-out neuron's bits per spike against those of smoothed spikes."""
    model, smoothed = (scores.heldout for scores in _both(evaluation))
    if model is None or smoothed is None:
        raise DataError(
            "no neurons are held out, or their spike counts are unknown",
            "To hold some out, train with `data.heldout_fraction=0.25`.",
        )
    caption = (
        "Bits per spike over the mean rate of each held-out neuron, predicted from the other "
        f"neurons (co-smoothing), over {trials_text(evaluation)}."
    )
    pair = (model.bits_per_spike_N, smoothed.bits_per_spike_N)
    undefined = "no held-out neuron has a spike in these trials"
    return score_figure("bits per spike", *pair, caption, undefined)


def _both(evaluation: "Evaluation") -> "tuple[Scores, Scores]":
    return evaluation.scores["NDT"], evaluation.scores["smoothed spikes"]


@styled
def score_figure(
    score: str, model_N: Float64Array, smoothed_N: Float64Array, caption: str, undefined: str
) -> CaptionedFigure:
    """Draw each neuron's score under the model against that under smoothed spikes.

    Left: one point per neuron, and the line of equal scores. Right: the two distributions, with
    their medians. Scores below -1 are drawn at -1; the figure gives their number, and the number
    of neurons without a score. ``undefined`` is the reason why no neuron may have one.
    """
    if model_N.shape != smoothed_N.shape:
        raise ValueError(f"found scores of {len(model_N)} and of {len(smoothed_N)} neurons")
    defined_N = np.isfinite(model_N) & np.isfinite(smoothed_N)
    if not defined_N.any():
        raise DataError(f"{undefined}, so none has a score")
    highest, label = (1.0, "R² of the rate") if score == "R2" else (None, score)
    model, smoothed = model_N[defined_N], smoothed_N[defined_N]
    lowest = max(_LOWEST, min(0.0, float(np.minimum(model, smoothed).min())))
    top = max(highest or float(np.maximum(model, smoothed).max()), lowest + 0.01)
    room = 0.05 * (top - lowest)
    limits = (lowest - room, top if highest else top + room)

    figure = new_figure("two", 2.7)
    scatter, strips = figure.subplots(1, 2, width_ratios=[1.0, 1.25])
    _draw_pairs(scatter, np.maximum(smoothed, lowest), np.maximum(model, lowest), limits)
    scatter.set_xlabel(f"{label}, smoothed spikes")
    scatter.set_ylabel(f"{label}, NDT")
    for row, (values, color) in enumerate(((smoothed, SMOOTHED), (model, MODEL))):
        _draw_strip(strips, row, values, lowest, limits, color)
    strips.set(xlim=limits, ylim=(-0.6, 1.6), yticks=[0, 1], xlabel=label)
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
    note = f"of {count(len(model_N), 'neuron')}, {'; '.join(notes)}" if notes else ""
    strips.set_title(note, color=MUTED, fontsize=7)
    alt = (
        f"{score} of each neuron under NDT (median {np.median(model):.3f}) against smoothed spikes "
        f"(median {np.median(smoothed):.3f}); NDT is higher in {int((model > smoothed).sum())} of "
        f"{len(model)}."
    )
    return CaptionedFigure(
        figure, f"{caption} One point per neuron; lines on the right are medians.", alt
    )


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
