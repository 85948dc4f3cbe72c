"""Figures by condition: which trials are averaged, and rates of single neurons.

Axes: B trials, T bins, N neurons.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.errors import DataError, count
from ndt_cli.metrics import PSTH_SMOOTHING_MS
from ndt_cli.report.figures import (
    MUTED,
    CaptionedFigure,
    add_panels,
    circle_color,
    draw_lines,
    new_figure,
    sequence_colors,
    shortened,
    styled,
    trials_text,
)
from ndt_cli.report.trial import (
    TimeAxis,
    evenly_spaced,
    modulated_neurons,
    neuron_columns,
    neuron_label,
    spike_times,
    trial_label,
)

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation


@dataclass(frozen=True, eq=False)
class TrialGroup:
    """Trials that are averaged together."""

    label: str
    trials: NDArray[np.int64]  # positions, at least one
    n_bins: int  # that at least half of them have


def condition_groups(data: SpikeData, most: int) -> list[TrialGroup]:
    """Return all conditions, or ``most`` evenly spaced ones; trials without bins are left out."""
    if data.conditions_B is None:
        raise DataError(
            "these trials have no conditions to average over",
            "A file stores them in `conditions`, one label per trial.",
        )
    usable_B = np.asarray(data.lengths_B) > 0
    found = np.unique(data.conditions_B[usable_B]).tolist()
    found.sort(key=lambda c: _by_number(data.condition_names.get(c, str(c))))
    chosen = [found[place] for place in evenly_spaced(len(found), most)]
    return [
        _group(
            data,
            condition_label(data, label),
            np.flatnonzero((data.conditions_B == label) & usable_B),
        )
        for label in chosen
    ]


def condition_label(data: SpikeData, condition: int) -> str:
    """Return the name of a condition in the recording, or such text as "condition 45"."""
    name = data.condition_names.get(condition, str(condition))
    # A name may be a number, such as the direction of a target.
    return name if re.search("[^\\W\\d_]", name) else f"condition {name}"


# A direction at the end of a name, in degrees or radians.
_NUMBER = re.compile(r"(-?\d+(\.\d+)?)\s*(°|deg|rad)?$")


def _by_number(name: str) -> tuple[str, float]:
    """Return what sorts names by the number at their end: 45 comes before 180."""
    number = _NUMBER.search(name)
    return (name[: number.start()], float(number[1])) if number else (name, 0.0)


def group_colors(data: SpikeData, groups: Sequence[TrialGroup]) -> list[str]:
    """Return a color for each group; around the circle where the conditions are directions.

    Conditions are directions where each name ends in a number and the numbers divide a whole turn,
    in degrees or radians, into equal parts.
    """
    if data.conditions_B is None:
        return sequence_colors(len(groups))
    names = {c: data.condition_names.get(c, str(c)) for c in np.unique(data.conditions_B).tolist()}
    angle_of = {c: float(found[1]) for c, name in names.items() if (found := _NUMBER.search(name))}
    angles = sorted(angle_of.values())
    if len(angles) < 3 or len(angles) < len(names):
        return sequence_colors(len(groups))
    gaps = np.diff(angles)
    turn = gaps.mean() + angles[-1] - angles[0]
    is_turn = any(np.isclose(turn, whole, rtol=0.02) for whole in (360.0, 2 * np.pi))
    if not is_turn or np.ptp(gaps) > 0.1 * gaps.mean():
        return sequence_colors(len(groups))
    return [circle_color(angle_of[int(data.conditions_B[g.trials[0]])] / turn) for g in groups]


def trial_groups(data: SpikeData, most: int) -> list[TrialGroup]:
    """Return up to ``most`` single trials, evenly spaced; trials without bins are left out."""
    usable = np.flatnonzero(np.asarray(data.lengths_B) > 0)
    chosen = usable[evenly_spaced(len(usable), most)]
    return [_group(data, trial_label(data, t), np.array([t])) for t in chosen.tolist()]


def groups_text(groups: Sequence[TrialGroup], data: SpikeData) -> str:
    """Return such text as "8 of 130 conditions, 2 trials each"."""
    if data.conditions_B is None:
        return f"{len(groups)} of {count(data.n_trials, 'trial')}"
    n_all = len(set(data.conditions_B.tolist()))
    sizes = sorted({len(group.trials) for group in groups})
    trials = count(sizes[0], "trial") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} trials"
    part = "" if len(groups) == n_all else f"{len(groups)} of "
    return f"{part}{count(n_all, 'condition')}, {trials} each"


def _group(data: SpikeData, label: str, trials: NDArray[np.int64]) -> TrialGroup:
    lengths = np.sort(np.asarray(data.lengths_B)[trials])
    return TrialGroup(label, trials, int(lengths[len(lengths) // 2]))


def group_average(
    data: SpikeData, values_BTN: FloatArray | IntArray, group: TrialGroup
) -> NDArray[np.float64]:
    """Return the mean over a group's trials, (bins, neurons), up to the group's last bin.

    Each bin is averaged over the trials that have it, so padding does not count.
    """
    inside_BT = data.inside_BT[group.trials, : group.n_bins]
    values = np.asarray(values_BTN[group.trials, : group.n_bins], dtype=np.float64)
    total_TN = np.where(inside_BT[:, :, None], values, 0.0).sum(axis=0)
    average_TN: NDArray[np.float64] = total_TN / inside_BT.sum(axis=0)[:, None]
    return average_TN


def draw_legend(
    figure: Figure,
    groups: Sequence[TrialGroup],
    colors: Sequence[str],
    others: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    loc: Literal["outside lower center", "outside upper right"] = "outside lower center",
    ncols: int = 5,
) -> None:
    """Draw the colors of the groups, and the looks of other lines and points by label."""
    looks = [{"color": color, "lw": 1.8} for color in colors] + list((others or {}).values())
    labels = [*(shortened(group.label, 40) for group in groups), *(others or {})]
    # As many as fit side by side.
    ncols = max(1, min(ncols, 130 // (max(map(len, labels)) + 8)))
    handles = [Line2D([], [], **look) for look in looks]
    figure.legend(handles, labels, loc=loc, ncols=ncols, frameon=False)


MOST_CONDITIONS = 4
# Trials per condition in the raster; the averages are over all of them.
MOST_TRIALS = 12
_N_NEURONS = 3


@styled
def draw_conditions(evaluation: "Evaluation", neurons: Sequence[int | str] = ()) -> CaptionedFigure:
    """Draw a few neurons, one column each: spikes by condition, rates averaged by condition.

    Below the spikes each source of rates has a row: the true rates if they are known, smoothed
    spikes, and the model. Thick lines are averages over all trials of a condition; thin lines, for
    the last two sources, are the single trials of the raster. A line ends where fewer than half
    of its trials continue.
    """
    data, sources = evaluation.data, evaluation.sources
    groups = condition_groups(data, MOST_CONDITIONS)
    columns = neuron_columns(data, neurons) or _modulated(evaluation, groups, _N_NEURONS)
    colors = group_colors(data, groups)
    n_bins = max(int(np.asarray(data.lengths_B)[group.trials].max()) for group in groups)
    times = TimeAxis.of(data, n_bins)
    names = [name for name in ("true rates", "smoothed spikes", "NDT") if name in sources]

    figure = new_figure("two", 1.7 + 1.15 * len(names))
    ratios = [1.3] + [1.0] * len(names)
    panels = figure.subplots(len(ratios), len(columns), squeeze=False, height_ratios=ratios)
    shown = [group.trials[evenly_spaced(len(group.trials), MOST_TRIALS)] for group in groups]
    trials, sizes = np.concatenate(shown), [len(trials) for trials in shown]
    trial_colors = np.repeat(colors, sizes).tolist()
    for place, column in enumerate(columns):
        top: Axes = panels[0, place]
        top.set_title(shortened(neuron_label(data, column), 22))
        _draw_raster(top, data.spikes_BTN[trials, :, column], trial_colors, times)
        highest = 0.0
        for axes, name in zip(panels[1:, place], names, strict=True):
            rates_hz_BT1 = sources[name][:, :, [column]] * (1000.0 / data.bin_ms)
            single = [
                times.line(rates_hz_BT1[trial, : data.lengths_B[trial], 0])
                for trial in (trials if name != "true rates" else ())
            ]
            average = [times.line(group_average(data, rates_hz_BT1, group)) for group in groups]
            draw_lines(axes, single, trial_colors, 0.4, alpha=0.45)
            draw_lines(axes, average, colors, 1.6)
            highest = max(highest, *(line[:, 1].max() for line in single + average))
        for axes in panels[1:, place]:
            _start_at_zero(axes, highest)
        for axes in panels[:, place]:
            times.apply(axes, lowest=axes is panels[-1, place], labeled=False)
    figure.supxlabel(times.label, fontsize=8)
    panels[0, 0].set_ylabel("trials")
    for axes, name in zip(panels[1:, 0], names, strict=True):
        axes.set_ylabel(f"{name}\n(Hz)")
    figure.align_ylabels(panels[:, 0])
    draw_legend(figure, groups, colors, loc="outside upper right", ncols=len(groups))
    caption = (
        f"Spikes and rates of single neurons by condition: {groups_text(groups, data)}, of "
        f"{trials_text(evaluation)}. Thick lines are averages over the trials of a condition and "
        "end where fewer than half of them continue; thin lines are the single trials of the "
        "raster."
    )
    alt = "For each of a few neurons: spikes of trials sorted by condition, and rates over time."
    return CaptionedFigure(figure, caption, alt)


def _modulated(evaluation: "Evaluation", groups: Sequence[TrialGroup], n: int) -> list[int]:
    averages = [group_average(evaluation.data, evaluation.rates_BTN, group) for group in groups]
    return modulated_neurons(np.concatenate(averages), n)


def _draw_raster(
    axes: Axes, counts_BT: NDArray[np.integer], colors: Sequence[str], times: TimeAxis
) -> None:
    spikes = [spike_times(counts_T, times.step, times.start) for counts_T in counts_BT]
    n_spikes = [len(each) for each in spikes]
    row = np.repeat(np.arange(len(spikes)) + 0.5, n_spikes)
    ticks_color = np.repeat(colors, n_spikes).tolist()
    axes.vlines(np.concatenate(spikes), row - 0.4, row + 0.4, ticks_color, lw=0.8)
    axes.set_ylim(len(spikes), 0)
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)


def _start_at_zero(axes: Axes, highest: float) -> None:
    """Give the y axis of rates, in Hz, its range and few ticks."""
    axes.set_ylim(0, 1.05 * highest or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(3))


MOST_PSTH_CONDITIONS = 8
_PSTH_NEURONS = 8


@styled
def draw_psth(evaluation: "Evaluation", neurons: Sequence[int | str] = ()) -> CaptionedFigure:
    """Draw condition averages of the model's rates over PSTHs, one panel per neuron.

    PSTHs are averages of the counts, smoothed by a Gaussian.
    """
    data = evaluation.data
    groups = condition_groups(data, MOST_PSTH_CONDITIONS)
    columns = neuron_columns(data, neurons) or _modulated(evaluation, groups, _PSTH_NEURONS)
    colors = group_colors(data, groups)
    times = TimeAxis.of(data, max(group.n_bins for group in groups))
    per_second, width_bins = 1000.0 / data.bin_ms, PSTH_SMOOTHING_MS / data.bin_ms
    rates, psths = (
        [group_average(data, values_BTN, group) * per_second for group in groups]
        for values_BTN in (evaluation.rates_BTN, data.spikes_BTN)
    )
    psths = [gaussian_filter1d(psth_TN, width_bins, axis=0) for psth_TN in psths]
    n_columns = min(4, len(columns))
    figure = new_figure("two", 0.5 + 1.35 * -(-len(columns) // n_columns))
    panels = add_panels(figure, len(columns), n_columns)
    for place, (axes, column) in enumerate(zip(panels, columns, strict=True)):
        below, above = ([times.line(each[:, column]) for each in all_] for all_ in (psths, rates))
        draw_lines(axes, below, colors, 0.9, ls=(0, (1, 1)))
        draw_lines(axes, above, colors, 1.4)
        axes.set_title(shortened(neuron_label(data, column), 22))
        _start_at_zero(axes, max(line[:, 1].max() for line in below + above))
        times.apply(axes, lowest=place + n_columns >= len(columns), labeled=False)
    figure.supxlabel(times.label, fontsize=8)
    panels[0].set_ylabel("rate (Hz)")
    others = {"NDT": {"color": MUTED, "lw": 1.4}, "PSTH": {"color": MUTED, "lw": 0.9, "ls": ":"}}
    draw_legend(figure, groups, colors, others, loc="outside upper right")
    caption = (
        f"Averages by condition: NDT's rates (lines) over the PSTHs, spike counts smoothed with "
        f"{PSTH_SMOOTHING_MS:g} ms (dotted): "
        f"{groups_text(groups, data)}, of {trials_text(evaluation)}."
    )
    alt = "For several neurons: rates of NDT averaged by condition, over PSTHs."
    return CaptionedFigure(figure, caption, alt)
