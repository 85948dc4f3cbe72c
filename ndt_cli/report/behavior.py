"""Behavior decoded from rates, beside the behavior that was measured.

Axes: B trials, T bins, N neurons, V behavioral variables.
"""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.data.spike_data import ByTrial, FloatArray, SpikeData
from ndt_cli.errors import DataError
from ndt_cli.metrics.decoding import Decoder, lag_bins, variable_names
from ndt_cli.report.conditions import condition_label, evenly_spaced
from ndt_cli.report.figures import MODEL, TRUTH, CaptionedFigure, count, new_figure, styled
from ndt_cli.report.trial import TimeAxis, trial_label

if TYPE_CHECKING:
    from ndt_cli.report.registry import RunContents

MOST_VARIABLES = 4
MOST_TRIALS = 4


def draw_behavior(run: "RunContents") -> CaptionedFigure:
    """Draw decoded and true behavior of a few validation trials of a run."""
    train, valid = run.recording.train, run.recording.valid
    if train.behavior_BTV is None or valid.behavior_BTV is None:
        raise DataError(
            "these trials have no behavior to decode",
            "A file stores it in `behavior`, trials x bins x variables.",
        )
    lags_L = lag_bins(train)
    decoder = Decoder.fit(_rates(run, train), train, lags_L)
    trials = shown_trials(valid)
    shown = valid.take(trials)
    decoded_BTV = decoder.decode(_rates(run, shown), shown, np.arange(len(trials)))
    figure = decoded_beside_true(shown, decoded_BTV)
    scores = run.evaluation.scores
    numbers = [
        f"{name}: {behavior.r2_mean:.3f}"
        for name in ("NDT", "smoothed spikes")
        if (behavior := scores[name].behavior) is not None
    ]
    kind = {"train": "training", "valid": "validation", "all": "all"}[run.evaluation.split]
    caption = (
        f"Behavior in {len(trials)} of {count(valid.n_trials, 'validation trial')}, as measured "
        "and as decoded from NDT's rates by ridge regression, fitted to the training trials. Mean "
        f"R2 over {kind} trials: {', '.join(numbers)}."
    )
    alt = "Decoded and measured behavior over time, one column per trial, one row per variable."
    return CaptionedFigure(figure, caption, alt)


def _rates(run: "RunContents", data: SpikeData) -> ByTrial:
    shape = data.spikes_BTN.shape
    return ByTrial(shape, np.float32, lambda trials: run.trained.rates(data.take(trials)))


def shown_trials(data: SpikeData) -> NDArray[np.int64]:
    """Return up to four trials that have behavior, of different conditions where there are any."""
    assert data.behavior_BTV is not None
    known = np.flatnonzero(np.isfinite(data.behavior_BTV).any(axis=(1, 2)))
    if data.conditions_B is not None:
        _, first = np.unique(data.conditions_B[known], return_index=True)
        known = known[first] if len(first) > 1 else known
    return known[evenly_spaced(len(known), MOST_TRIALS)]


@styled
def decoded_beside_true(data: SpikeData, decoded_BTV: FloatArray) -> Figure:
    """Draw each trial's behavior, true in black and decoded in color; up to four variables.

    Parameters
    ----------
    data : SpikeData
        The trials to draw, with behavior.
    decoded_BTV : (trials, bins, variables) float array
        The decoded behavior; NaN where there is none.
    """
    assert data.behavior_BTV is not None
    names = variable_names(data)[:MOST_VARIABLES]
    times = TimeAxis.of(data, int(np.asarray(data.lengths_B).max()))
    figure = new_figure("two", 0.8 + 1.1 * len(names))
    panels = figure.subplots(len(names), data.n_trials, sharex=True, sharey="row", squeeze=False)
    for b in range(data.n_trials):
        n_bins = int(data.lengths_B[b])
        for v, name in enumerate(names):
            axes: Axes = panels[v, b]
            centers_T = times.centers(n_bins)
            axes.plot(centers_T, data.behavior_BTV[b, :n_bins, v], color=TRUTH, lw=1, label="true")
            axes.plot(centers_T, decoded_BTV[b, :n_bins, v], color=MODEL, label="decoded")
            axes.yaxis.set_major_locator(MaxNLocator(3))
            times.apply(axes, label=v == len(names) - 1)
            if b == 0:
                axes.set_ylabel(name.replace("_", " "))
        panels[0, b].set_title(_title(data, b))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    figure.align_ylabels(panels[:, 0])
    return figure


def _title(data: SpikeData, trial: int) -> str:
    if data.conditions_B is None:
        return trial_label(data, trial)
    return f"{trial_label(data, trial)}\n{condition_label(data, int(data.conditions_B[trial]))}"
