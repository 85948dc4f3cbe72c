"""Trials by condition: which are shown, and averages that padding cannot touch.

Axes: B trials, T bins, N neurons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import DataError
from ndt_cli.report.style import new_figure, sequence_colors, styled
from ndt_cli.report.trial import modulated_neurons, neuron_columns, time_step


@dataclass(frozen=True, eq=False)
class Group:
    """Trials that are averaged together.

    Attributes
    ----------
    label : str
        Such as ``"condition 3"``.
    trials : (trials,) int array
        Positions of its trials, at least one.
    n_bins : int
        Bins that at least half of its trials have.
    """

    label: str
    trials: NDArray[np.int64]
    n_bins: int


def condition_groups(data: SpikeData, most: int) -> list[Group]:
    """Return the conditions to show: all, or ``most`` that are evenly spaced in their order.

    Parameters
    ----------
    data : SpikeData
        Trials; those without a bin are left out.
    most : int
        Conditions to return at most.

    Raises
    ------
    DataError
        When the trials have no conditions.
    """
    if data.conditions_B is None:
        raise DataError(
            "these trials have no conditions to average over",
            "a file names them in `conditions`, one label a trial",
        )
    usable_B = np.asarray(data.lengths_B) > 0
    labels = np.unique(data.conditions_B[usable_B])
    chosen = labels[evenly_spaced(len(labels), most)]
    return [
        _group(data, f"condition {label}", np.flatnonzero((data.conditions_B == label) & usable_B))
        for label in chosen.tolist()
    ]


def trial_groups(data: SpikeData, most: int) -> list[Group]:
    """Return single trials to show, at most so many, evenly spaced in the order of the set."""
    usable = np.flatnonzero(np.asarray(data.lengths_B) > 0)
    chosen = usable[evenly_spaced(len(usable), most)]
    return [_group(data, f"trial {trial}", np.array([trial])) for trial in chosen.tolist()]


def evenly_spaced(n: int, most: int) -> NDArray[np.int64]:
    """Return all of 0..n-1, or ``most`` of them evenly spaced, both ends included."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


def _group(data: SpikeData, label: str, trials: NDArray[np.int64]) -> Group:
    lengths = np.sort(np.asarray(data.lengths_B)[trials])
    return Group(label, trials, int(lengths[len(lengths) // 2]))


def group_average(data: SpikeData, values_BTN: FloatArray, group: Group) -> NDArray[np.float64]:
    """Return the mean over a group's trials, (bins, neurons), to the group's last bin.

    Each bin is averaged over the trials that have it.
    """
    inside_BT = data.inside_BT[group.trials, : group.n_bins]
    values = np.asarray(values_BTN[group.trials, : group.n_bins], dtype=np.float64)
    total_TN = np.where(inside_BT[:, :, None], values, 0.0).sum(axis=0)
    average_TN: NDArray[np.float64] = total_TN / inside_BT.sum(axis=0)[:, None]
    return average_TN


# ------------------------------------------------------------------------------------------------
# A few neurons by condition: spikes of single trials, and the rates of each source.
# ------------------------------------------------------------------------------------------------


MOST_CONDITIONS = 4
# Trials of a condition in the raster; the averages are over all of them.
MOST_TRIALS = 12
_N_NEURONS = 3


@styled
def rates_by_condition(
    data: SpikeData,
    inferred_BTN: FloatArray,
    smoothed_BTN: FloatArray,
    *,
    neurons: Sequence[int] | None = None,
) -> Figure:
    """Draw a few neurons, a column each: spikes by condition, and rates averaged by condition.

    Below the spikes each source of rates has a row: the true rates where they are known,
    smoothed spikes, and the model. Thick lines are averages over all trials of a condition;
    thin lines, for the last two sources, are the single trials of the raster. A line ends where
    fewer than half of its trials go on.

    Parameters
    ----------
    data : SpikeData
        Trials with conditions. Of more than four conditions, evenly spaced ones are drawn; of
        more than twelve trials of a condition, so are their spikes.
    inferred_BTN, smoothed_BTN : (trials, bins, neurons) float array
        Rates in spikes per bin.
    neurons : sequence of int, optional
        Neurons to show, by their places in the file. Default: three that vary with time and
        condition.

    Raises
    ------
    DataError
        Without conditions, or a neuron that does not exist.
    """
    groups = condition_groups(data, MOST_CONDITIONS)
    if neurons is None:
        averages = [group_average(data, inferred_BTN, group) for group in groups]
        neurons = modulated_neurons(data, np.concatenate(averages), _N_NEURONS)
    columns = neuron_columns(data, neurons)
    known = {"true rates": data.rates_BTN, "smoothed spikes": smoothed_BTN, "NDT": inferred_BTN}
    sources = {name: rates_BTN for name, rates_BTN in known.items() if rates_BTN is not None}
    colors = sequence_colors(len(groups))
    n_bins = max(int(np.asarray(data.lengths_B)[group.trials].max()) for group in groups)
    step, unit = time_step(data.bin_ms, n_bins)

    figure = new_figure("two", 1.7 + 1.15 * len(sources))
    panels = figure.subplots(
        1 + len(sources),
        len(neurons),
        sharex=True,
        squeeze=False,
        height_ratios=[1.3] + [1.0] * len(sources),
    )
    for place, (neuron, column) in enumerate(zip(neurons, columns, strict=True)):
        top: Axes = panels[0, place]
        top.set_title(f"neuron {neuron}")
        _draw_raster(top, data, groups, colors, column, step)
        shared: list[Axes] = list(panels[1:, place])
        for axes, (name, rates_BTN) in zip(shared, sources.items(), strict=True):
            for group, color in zip(groups, colors, strict=True):
                single = name != "true rates"
                _draw_rates(axes, data, rates_BTN, group, color, column, step, single)
        limit = max(axes.get_ylim()[1] for axes in shared)
        for axes in shared:
            axes.set_ylim(0, limit)
            axes.yaxis.set_major_locator(MaxNLocator(3))
        shared[-1].set_xlabel(f"time in trial ({unit})")
    panels[0, 0].set_ylabel("trials")
    for axes, name in zip(panels[1:, 0], sources, strict=True):
        axes.set_ylabel(f"{name}\n(Hz)")
    panels[-1, 0].set_xlim(0, n_bins * step)
    figure.align_ylabels(panels[:, 0])
    figure.legend(
        [Line2D([], [], color=color, lw=1.8) for color in colors],
        [group.label for group in groups],
        loc="outside upper right",
        ncols=len(groups),
        frameon=False,
    )
    return figure


def _shown_trials(group: Group) -> NDArray[np.int64]:
    return group.trials[evenly_spaced(len(group.trials), MOST_TRIALS)]


def _draw_raster(
    axes: Axes,
    data: SpikeData,
    groups: Sequence[Group],
    colors: Sequence[str],
    column: int,
    step: float,
) -> None:
    row = 0
    for group, color in zip(groups, colors, strict=True):
        times: list[float] = []
        rows: list[int] = []
        for trial in _shown_trials(group):
            counts_T = data.spikes_BTN[trial, :, column]
            for bin_ in np.flatnonzero(counts_T).tolist():
                count = int(counts_T[bin_])
                times += [(bin_ + (k + 0.5) / count) * step for k in range(count)]
                rows += [row] * count
            row += 1
        at = np.array(rows, dtype=float)
        axes.vlines(times, at + 0.1, at + 0.9, color=color, lw=0.8)
    axes.set_ylim(row, 0)
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False)


def _draw_rates(
    axes: Axes,
    data: SpikeData,
    rates_BTN: FloatArray,
    group: Group,
    color: str,
    column: int,
    step: float,
    single: bool,
) -> None:
    per_second = 1000.0 / data.bin_ms
    if single:
        for trial in _shown_trials(group):
            n_bins = int(data.lengths_B[trial])
            centers_T = (np.arange(n_bins) + 0.5) * step
            rates_T = np.asarray(rates_BTN[trial, :n_bins, column]) * per_second
            axes.plot(centers_T, rates_T, color=color, lw=0.4, alpha=0.45)
    average_T = group_average(data, rates_BTN, group)[:, column] * per_second
    axes.plot((np.arange(group.n_bins) + 0.5) * step, average_T, color=color, lw=1.6)
