"""Trajectories over time: of the population in principal components, and of decoded behavior.

Axes: B trials, T bins, N neurons, P components, V behavioral variables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import DataError
from ndt_cli.metrics.decoding import variable_names
from ndt_cli.report.conditions import (
    TrialGroup,
    condition_groups,
    condition_label,
    draw_legend,
    group_average,
    group_colors,
    groups_text,
    trial_groups,
)
from ndt_cli.report.figures import (
    MODEL,
    TRUTH,
    CaptionedFigure,
    draw_lines,
    new_figure,
    shortened,
    styled,
    trials_text,
)
from ndt_cli.report.trial import TimeAxis, evenly_spaced, trial_label

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation

Float64Array = NDArray[np.float64]

# Added to each neuron's range, so that noise of quiet neurons is not amplified (Churchland et al.
# 2012, "soft normalization").
SOFT_HZ = 5.0

# Ends of a trajectory, in the legend.
_ENDS = {
    label: {"color": "black", "marker": marker, "ls": "", "ms": 4}
    for label, marker in (("first bin", "o"), ("last bin", "s"))
}

MOST_TRAJECTORIES = 8
MOST_SINGLE = 5


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of softly normalized rates."""

    mean_N: Float64Array  # Hz
    scale_N: Float64Array  # that rates are divided by, Hz
    axes_PN: Float64Array  # orthonormal, by decreasing variance
    share_P: Float64Array  # of the variance

    def project(self, rates_hz_TN: Float64Array) -> Float64Array:
        """Return the states that belong to rates, (bins, components)."""
        states_TP: Float64Array = (rates_hz_TN - self.mean_N) / self.scale_N @ self.axes_PN.T
        return states_TP


def principal_components(rates_hz_TN: Float64Array, n: int) -> Components:
    """Find the directions along which a population's rates vary most.

    Each neuron's rate is centered and divided by its range plus 5 Hz, so that busy neurons do not
    dominate (soft normalization, Churchland et al. 2012).
    """
    n_neurons = rates_hz_TN.shape[1]
    if n_neurons < n:
        raise DataError(
            f"trajectories in {n} dimensions need at least {n} neurons; found {n_neurons}"
        )
    mean_N = rates_hz_TN.mean(axis=0)
    scale_N = np.ptp(rates_hz_TN, axis=0) + SOFT_HZ
    _, singular_P, axes_PN = np.linalg.svd((rates_hz_TN - mean_N) / scale_N, full_matrices=False)
    variance_P = singular_P**2
    if len(rates_hz_TN) <= n or variance_P.sum() < 1e-12:
        raise DataError("the rates do not vary enough for trajectories")
    axes_PN = axes_PN[:n]
    # The sign of a component is arbitrary; this choice is the same on any machine.
    largest_P = np.abs(axes_PN).argmax(axis=1)
    signs_P = np.sign(axes_PN[np.arange(n), largest_P])
    return Components(
        mean_N, scale_N, axes_PN * signs_P[:, None], variance_P[:n] / variance_P.sum()
    )


def trajectory_groups(data: SpikeData) -> list[TrialGroup]:
    """Return up to eight conditions, or five single trials of data without conditions."""
    if data.conditions_B is None:
        return trial_groups(data, MOST_SINGLE)
    return condition_groups(data, MOST_TRAJECTORIES)


@styled
def draw_trajectories_2d(evaluation: "Evaluation") -> CaptionedFigure:
    """Draw trajectories in the plane of the first two principal components.

    Each estimate of the rates is shown in its own components, turned to the same side as the
    model's where it is a mirror image. A dot is the first bin, a square the last.
    """
    data, sources = evaluation.data, evaluation.sources
    groups = trajectory_groups(data)
    names = [name for name in ("NDT", "smoothed spikes", "true rates") if name in sources]
    colors = group_colors(data, groups)
    figure = new_figure("two", 4.2 if len(names) == 2 else 3.2)
    panels: list[Axes] = list(figure.subplots(1, len(names)))
    model_XP: Float64Array | None = None
    for axes, name in zip(panels, names, strict=True):
        components, each = _states(data, sources[name], groups, 2)
        every_TP = np.concatenate(each)
        if model_XP is None:
            model_XP = every_TP
        # The sign of a component is arbitrary: a mirror image shows the same.
        signs_P = np.where((every_TP * model_XP).sum(axis=0) < 0, -1.0, 1.0)
        every_TP = every_TP * signs_P
        middle_P = (every_TP.max(axis=0) + every_TP.min(axis=0)) / 2
        reach = 0.55 * float(np.ptp(every_TP, axis=0).max())
        paths = [states_TP * signs_P for states_TP in each]
        draw_lines(axes, paths, colors, _line_width(data))
        for end, marker in ((0, "o"), (-1, "s")):
            x_G, y_G = np.array([states_TP[end] for states_TP in paths]).T
            axes.scatter(x_G, y_G, s=16, c=colors, marker=marker, ec="white", lw=0.5, zorder=5)
        # Equal scales, so that angles and distances are true.
        axes.set(title=name, box_aspect=1)
        axes.set_xlim(middle_P[0] - reach, middle_P[0] + reach)
        axes.set_ylim(middle_P[1] - reach, middle_P[1] + reach)
        axes.set_xlabel(_axis_name(components, 0) + " of variance")
        axes.set_ylabel(_axis_name(components, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
    draw_legend(figure, groups, colors, _ENDS)
    others = " and" if data.rates_BTN is None else ", true rates and"
    caption = (
        f"{_caption(evaluation, groups)} NDT's rates{others} smoothed spikes are each shown along "
        "their own first two principal components; percentages are of the variance of each."
    )
    alt = "Trajectories of the population in two dimensions, one panel per source."
    return CaptionedFigure(figure, caption, alt)


@styled
def draw_trajectories_3d(evaluation: "Evaluation") -> CaptionedFigure:
    """Draw the model's trajectories along the first three principal components, in two views."""
    data = evaluation.data
    groups = trajectory_groups(data)
    components, each = _states(data, evaluation.rates_BTN, groups, 3)
    colors = group_colors(data, groups)
    figure = new_figure("two", 3.7)
    for place, turn_degrees in ((1, -60), (2, 30)):
        axes: Any = figure.add_subplot(1, 2, place, projection="3d")
        for states_TP, color in zip(each, colors, strict=True):
            axes.plot(*states_TP.T, color=color, lw=_line_width(data))
            for end, marker in ((slice(1), "o"), (slice(-1, None), "s")):
                look = {"ms": 4, "color": color, "mec": "white", "mew": 0.5, "zorder": 5}
                axes.plot(*states_TP[end].T, marker, **look)
        axes.view_init(elev=25, azim=turn_degrees)
        for component, set_name in enumerate((axes.set_xlabel, axes.set_ylabel, axes.set_zlabel)):
            set_name(_axis_name(components, component), labelpad=-4, fontsize=7)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_pane_color((0.97, 0.97, 0.97))
        axes.tick_params(pad=-2, labelsize=6)
        axes.set_box_aspect(None, zoom=0.88)
    draw_legend(figure, groups, colors, _ENDS)
    caption = (
        f"{_caption(evaluation, groups)} Both panels show the same trajectories from two sides."
    )
    alt = "Trajectories of the population in three dimensions, two views."
    return CaptionedFigure(figure, caption, alt)


def _caption(evaluation: "Evaluation", groups: Sequence[TrialGroup]) -> str:
    averaged = evaluation.data.conditions_B is not None
    what = "Averages of NDT's rates over conditions" if averaged else "NDT's rates in single trials"
    return (
        f"{what} along their principal components: {groups_text(groups, evaluation.data)}, of "
        f"{trials_text(evaluation)}. Each neuron's rate is centered and divided by its range plus "
        f"{SOFT_HZ:g} Hz."
    )


def _line_width(data: SpikeData) -> float:
    return 1.3 if data.conditions_B is not None else 0.8  # single trials wind more


def _states(
    data: SpikeData, rates_BTN: FloatArray, groups: Sequence[TrialGroup], n: int
) -> tuple[Components, list[Float64Array]]:
    """Return the components of the averages over groups, and each average along them."""
    rates_hz = [group_average(data, rates_BTN, group) * 1000 / data.bin_ms for group in groups]
    components = principal_components(np.concatenate(rates_hz), n)
    return components, [components.project(rates_TN) for rates_TN in rates_hz]


def _axis_name(components: Components, component: int) -> str:
    return f"PC {component + 1}, {100 * components.share_P[component]:.0f} %"


# Behavior decoded from rates, beside the behavior that was measured -------------------------------

MOST_VARIABLES = 4
MOST_TRIALS = 4


def shown_trials(data: SpikeData) -> NDArray[np.int64]:
    """Return up to four trials that have behavior, of different conditions where there are any."""
    assert data.behavior_BTV is not None
    known = np.flatnonzero(np.isfinite(data.behavior_BTV).any(axis=(1, 2)))
    if data.conditions_B is not None:
        _, first = np.unique(data.conditions_B[known], return_index=True)
        known = known[first] if len(first) > 1 else known
    return known[evenly_spaced(len(known), MOST_TRIALS)]


@styled
def draw_behavior(evaluation: "Evaluation") -> CaptionedFigure:
    """Draw behavior of a few trials, true in black and decoded in color; up to four variables.

    The decoder is that of the evaluation, which was fitted to training trials.
    """
    everything, decoder = evaluation.data, evaluation.decoders.get("NDT")
    if everything.behavior_BTV is None:
        raise DataError(
            "these trials have no behavior to decode",
            "A file stores it in `behavior`, trials x bins x variables.",
        )
    if decoder is None:
        raise DataError(
            "there is no decoder of behavior that was fitted to other trials than these",
            "Draw the validation trials: `split='valid'`.",
        )
    trials = shown_trials(everything)
    data, rates_BTN = everything.take(trials), evaluation.inferred.take(trials)
    decoded_BTV = decoder.decode(rates_BTN, data, np.arange(len(trials)))
    if not np.isfinite(decoded_BTV).any():
        raise DataError("no behavior could be decoded: these or the training trials have no values")
    assert data.behavior_BTV is not None
    names = variable_names(data)[:MOST_VARIABLES]
    times = TimeAxis.of(data, int(np.asarray(data.lengths_B).max()))
    figure = new_figure("two", 0.8 + 1.1 * len(names))
    panels = figure.subplots(len(names), data.n_trials, sharey="row", squeeze=False)
    for b in range(data.n_trials):
        n_bins = int(data.lengths_B[b])
        for v, name in enumerate(names):
            axes: Axes = panels[v, b]
            true_T, decoded_T = data.behavior_BTV[b, :n_bins, v], decoded_BTV[b, :n_bins, v]
            axes.plot(*times.line(true_T).T, color=TRUTH, lw=1, label="true")
            axes.plot(*times.line(decoded_T).T, color=MODEL, label="decoded")
            axes.yaxis.set_major_locator(MaxNLocator(3))
            times.apply(axes, lowest=v == len(names) - 1, labeled=False)
            if b == 0:
                axes.set_ylabel(name.replace("_", " "))
        panels[0, b].set_title(_title(data, b))
    figure.supxlabel(times.label, fontsize=8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    figure.align_ylabels(panels[:, 0])
    numbers = [
        f"{name}: {behavior.r2_mean:.3f}"
        for name in ("NDT", "smoothed spikes")
        if (behavior := evaluation.scores[name].behavior) is not None
        and np.isfinite(behavior.r2_mean)
    ]
    scored = f" Mean R2 over all of them: {', '.join(numbers)}." if numbers else ""
    caption = (
        f"Behavior in {len(trials)} of {trials_text(evaluation)}, as measured and as decoded from "
        f"NDT's rates by ridge regression, fitted to the training trials.{scored}"
    )
    alt = "Decoded and measured behavior over time, one column per trial, one row per variable."
    return CaptionedFigure(figure, caption, alt)


def _title(data: SpikeData, trial: int) -> str:
    if data.conditions_B is None:
        return trial_label(data, trial)
    condition = condition_label(data, int(data.conditions_B[trial]))
    return f"{trial_label(data, trial)}\n{shortened(condition, 22)}"
