"""Figure of the training of a run: losses, R2 and learning rate over the epochs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import RunError, called, count
from ndt_cli.report.figures import (
    MODEL,
    MUTED,
    SECOND,
    SMOOTHED,
    CaptionedFigure,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from ndt_cli.comparing import ComparedRun, RunComparison
    from ndt_cli.report.registry import RunContents

History = Sequence[Mapping[str, float]]


class _Look(NamedTuple):
    label: str
    color: str
    dashes: str
    width: float


_LOSSES = {
    "train_loss": _Look("train, hidden bins", MUTED, "-", 0.7),
    "valid_masked_loss": _Look("validation, hidden bins", MODEL, "-", 1.2),
    "valid_unmasked_loss": _Look("validation, nothing hidden", SMOOTHED, "--", 1.2),
}


MEASURE_NAMES = {
    "masked-loss": "loss of hidden bins",
    "unmasked-loss": "loss with nothing hidden",
    "rate-r2": "R2 of the rates",
    "co-bps": "co-bps",
}


_WAYS = {"alone": (MUTED, "s"), "adapted": (MODEL, "o"), "jointly": (SECOND, "^")}


@styled
def trial_curves(found: "RunComparison") -> Figure:
    """Draw the scores of runs over their number of training trials, one panel for each score.

    A point is a run, a line the mean of runs with as many trials (such as several seeds), by how
    they were trained: alone, adapted from another run, or jointly with other sessions. Ensembles
    are open points, with a dotted line of their own. The dashed line is smoothing, as fitted to
    the trials of the first run.
    """
    runs, smoothed = found.runs[:-1], found.runs[-1]
    figure = new_figure("two", 2.4)
    panels = figure.subplots(1, len(found.units), squeeze=False)[0]
    ticks = sorted({run.n_training_trials for run in runs})
    for axes, (label, unit) in zip(panels, found.units.items(), strict=True):
        for way, (color, marker) in _WAYS.items():
            own = [run for run in runs if run.trained == way]
            single, averaged = ([r for r in own if r.is_ensemble == of] for of in (False, True))
            if single:
                _draw_runs(axes, single, label, way, color=color, marker=marker, ms=3, mew=0)
            if averaged:
                look = {"color": color, "marker": marker, "ms": 3.5, "mfc": "white", "ls": ":"}
                _draw_runs(axes, averaged, label, f"{way}, ensemble", **look)
        axes.axhline(
            smoothed.scores[label].value, color=SMOOTHED, ls="--", lw=0.8, label=smoothed.run
        )
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("training trials")
        axes.set_ylabel(f"{label} ({unit})")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper right", ncols=4, frameon=False)
    return figure


def _draw_runs(
    axes: Axes, runs: "Sequence[ComparedRun]", label: str, name: str, **look: Any
) -> None:
    """Draw a point for each run, and the line of their means."""
    values: dict[int, list[float]] = {
        n: [] for n in sorted({run.n_training_trials for run in runs})
    }
    for run in runs:
        values[run.n_training_trials].append(run.scores[label].value)
    for n, own in values.items():
        axes.plot([n] * len(own), own, **{**look, "ls": "", "alpha": 0.7})
    means = [float(np.mean(own)) for own in values.values()]
    (line,) = axes.plot(list(values), means, label=name, zorder=1.9, **look)
    line.set_markevery([])  # its points are the runs; only the legend shows one


@styled
def draw_training(run: "RunContents") -> CaptionedFigure:
    """Draw losses, R2 (if true rates are known) and learning rate over the epochs.

    The epoch of the best checkpoint is marked. The loss axis leaves out the first epochs' largest
    values.
    """
    history = run.history
    if run.is_ensemble:
        raise RunError(
            f"{run.path} is an ensemble: each of its members was trained in a run of its own",
            "Draw the curves of a run that ensemble.json names.",
        )
    if not history:
        raise RunError(
            f"{run.path}: no epoch is complete yet, so there are no learning curves",
            f"Continue with {called('resume', run.path)}.",
        )
    choose_by = run.settings.train.choose_by
    measure = MEASURES[choose_by].key
    best = _best(history, measure, MEASURES[choose_by].lower_is_better)
    has_r2 = bool(finite_series(history, "valid_rate_r2")[0])
    figure = new_figure("two", 2.8)
    layout: Any = [["loss", "r2"], ["loss", "rate"]] if has_r2 else [["loss", "rate"]]
    panels = figure.subplot_mosaic(
        layout, width_ratios=[1.3, 1.0], height_ratios=[1.7, 1.0][: len(layout)]
    )
    for axes in panels.values():
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlim(min(1, history[0]["epoch"]) - 1, history[-1]["epoch"] + 1)
        if best is not None:
            axes.axvline(best[0], color=MUTED, lw=0.8, ls=(0, (1, 2)), zorder=0)
    if has_r2:
        panels["r2"].sharex(panels["rate"])
        panels["r2"].set_xlabel("")
        panels["r2"].tick_params(labelbottom=False)
        _draw_r2(panels["r2"], history, best if measure == "valid_rate_r2" else None)
    _draw_learning_rate(panels["rate"], history)
    figure.align_ylabels([panels[name] for name in panels if name != "loss"])
    _draw_losses(panels["loss"], history)
    if best is not None:
        _name_best(panels["loss"], best[0])
        if measure in _LOSSES:
            _mark_best(panels["loss"], best, _LOSSES[measure].color)
    data, (_, losses) = run.about["data"], finite_series(history, "valid_masked_loss")
    caption = (
        f"{count(len(history), 'epoch')} of {count(data['train']['n_trials'], 'trial')}; "
        f"validated {count(len(losses), 'time')} on {count(data['valid']['n_trials'], 'trial')} "
        "with the same hidden bins each time. The dotted line marks the epoch of the best "
        f"checkpoint, by {MEASURE_NAMES[choose_by]}."
    )
    ends = f", from {losses[0]:.4f} to {losses[-1]:.4f} on validation trials" if losses else ""
    return CaptionedFigure(figure, caption, f"Learning curves: loss over the epochs{ends}.")


def _draw_losses(axes: Axes, history: History) -> None:
    axes.set_ylabel("loss (nats per bin)")
    lines = {key: finite_series(history, key) for key in _LOSSES}
    lines = {key: line for key, line in lines.items() if line[0]}
    if not lines:
        return
    for key, (epochs, values) in lines.items():
        label, color, dashes, width = _LOSSES[key]
        marker = _marker(epochs)
        axes.plot(epochs, values, dashes, color=color, lw=width, label=label, marker=marker, ms=3)
    axes.set_ylim(*_loss_limits(np.concatenate([values for _, values in lines.values()])))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(frameon=False, loc="upper right")


def _mark_best(axes: Axes, best: tuple[float, float], color: str) -> None:
    axes.plot(*best, "o", ms=4.5, mfc="white", mec=color, mew=1, zorder=5)


def _name_best(axes: Axes, epoch: float) -> None:
    left, right = axes.get_xlim()
    place = (epoch - left) / (right - left)
    axes.annotate(
        f"best: epoch {epoch:g}",
        (place, 1.0),
        (0, 2),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="left" if place < 0.2 else "right" if place > 0.8 else "center",
        fontsize=7,
        color=MUTED,
    )


def _draw_r2(axes: Axes, history: History, best: tuple[float, float] | None) -> None:
    epochs, values = finite_series(history, "valid_rate_r2")
    axes.plot(epochs, values, color=SECOND, marker=_marker(epochs), ms=3)
    if best is not None:
        _mark_best(axes, best, SECOND)
    axes.set_ylabel("R² of the rate")
    # An untrained network can score far below zero, which would flatten the rest.
    axes.set_ylim(max(min(values), min(-0.5, max(values) - 1.0)) - 0.05, 1)
    axes.set_title(f"last: {values[-1]:.3f}", loc="right", color=SECOND, fontsize=7)


def _draw_learning_rate(axes: Axes, history: History) -> None:
    epochs, values = finite_series(history, "learning_rate")
    axes.plot(epochs, values, color=MUTED, marker=_marker(epochs), ms=3)
    axes.set_ylim(0, 1.15 * max(values, default=1.0))
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)


def finite_series(history: History, key: str) -> tuple[list[float], list[float]]:
    """Return the epochs that have a finite value of this key, and the values."""
    points = [
        (float(record["epoch"]), float(record[key]))
        for record in history
        if math.isfinite(record.get(key, math.nan))
    ]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _best(history: History, measure: str, lower_is_better: bool) -> tuple[float, float] | None:
    """Return the epoch with the best value of a measure, and that value."""
    sign = 1 if lower_is_better else -1
    points = zip(*finite_series(history, measure), strict=True)
    return min(points, key=lambda point: sign * point[1], default=None)


def _marker(epochs: list[float]) -> str | None:
    # A run of one epoch is a point, and no line would show it.
    return "." if len(epochs) == 1 else None


def _loss_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    lowest, high, highest = np.quantile(values, [0.0, 0.95, 1.0])
    room = max(high - lowest, 0.01 * abs(lowest), 1e-6)
    return float(lowest - 0.08 * room), float(min(highest, high + 0.5 * room) + 0.08 * room)
