"""One trial: the spikes of all neurons, and the rates of a few."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.report.style import MODEL, MUTED, SMOOTHED, TRUTH, label_beside, new_figure, styled
from ndt_cli.report.trial import choose_neurons, neuron_columns, time_axis, trial_bins

# Above the right end of a panel, where no data can be.
_LEGEND: Any = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
    "borderpad": 0,
    "borderaxespad": 0.3,
}


@styled
def rates_over_raster(
    data: SpikeData,
    inferred_BTN: FloatArray,
    smoothed_BTN: FloatArray,
    *,
    trial: int,
    neurons: Sequence[int] | None = None,
) -> Figure:
    """Draw one trial: the counts of all neurons, and below them the rates of a few.

    A neuron's spikes are ticks under its rates; spikes of one bin are spread over the bin.
    Padding is not drawn.

    Parameters
    ----------
    data : SpikeData
        Trials; true rates are drawn where they are known.
    inferred_BTN, smoothed_BTN : (trials, bins, neurons) float array
        Rates of the model and of smoothed spikes, in spikes per bin.
    trial : int
        Position of the trial.
    neurons : sequence of int, optional
        Neurons to show, by their places in the file; those of `choose_neurons` by default.

    Raises
    ------
    DataError
        A trial or a neuron that does not exist, or a trial without bins.
    """
    n_bins = trial_bins(data, trial)
    if neurons is None:
        neurons = choose_neurons(data, inferred_BTN, trial)
    columns = neuron_columns(data, neurons)
    bin_time, unit = time_axis(data, n_bins)

    figure = new_figure("two", 1.9 + 0.85 * len(neurons))
    panels: list[Axes] = list(
        figure.subplots(
            1 + len(neurons),
            1,
            sharex=True,
            squeeze=False,
            height_ratios=[2.0] + [1.0] * len(neurons),
        )[:, 0]
    )
    per_second = 1000.0 / data.bin_ms
    centres_T = (np.arange(n_bins) + 0.5) * bin_time
    for axes, neuron, column in zip(panels[1:], neurons, columns, strict=True):
        if data.rates_BTN is not None:
            true_T = data.rates_BTN[trial, :n_bins, column] * per_second
            axes.plot(centres_T, true_T, color=TRUTH, lw=0.9, label="true rate")
        smoothed_T = smoothed_BTN[trial, :n_bins, column] * per_second
        axes.plot(centres_T, smoothed_T, color=SMOOTHED, ls="--", lw=1.0, label="smoothed spikes")
        inferred_T = inferred_BTN[trial, :n_bins, column] * per_second
        axes.plot(centres_T, inferred_T, color=MODEL, lw=1.5, label="NDT")
        _draw_ticks(axes, data.spikes_BTN[trial, :n_bins, column], bin_time)
        axes.set_ylabel(f"neuron {neuron}\n(Hz)")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    if len(panels) > 1:
        handles, labels = panels[1].get_legend_handles_labels()
        panels[1].legend(handles[::-1], labels[::-1], **_LEGEND, ncols=3)
    for axes in panels[1:-1]:
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(bottom=False)
    panels[-1].set_xlabel(f"time in trial ({unit})")
    panels[-1].set_xlim(0, n_bins * bin_time)
    figure.align_ylabels(panels)
    _draw_counts(figure, panels[0], data, trial, n_bins * bin_time, neurons)
    return figure


def _draw_counts(
    figure: Figure,
    axes: Axes,
    data: SpikeData,
    trial: int,
    duration: float,
    neurons: Sequence[int],
) -> None:
    counts_NT = data.spikes_BTN[trial, : trial_bins(data, trial)].T[data.file_order_N]
    most = max(int(counts_NT.max()), 1)
    image = axes.imshow(
        np.ma.masked_equal(counts_NT, 0),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        cmap="Greys",
        vmin=-most / 2,  # a single spike stands out from the paper, whatever the largest count is
        vmax=most,
        extent=(0.0, duration, -0.5, data.n_neurons - 0.5),
    )
    axes.set_ylabel("neuron")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    levels = sorted({1, *(-(-most * third // 3) for third in (1, 2, 3))})
    shades = np.asarray(image.cmap(image.norm(np.array(levels))))
    axes.legend(
        [Patch(color=color) for color in shades.tolist()],
        [*map(str, levels[:-1]), f"{levels[-1]} {'spike' if most == 1 else 'spikes'} per bin"],
        **_LEGEND,
        ncols=len(levels),
        handlelength=1.0,
        handleheight=0.7,
    )
    shown = sorted(set(neurons))
    if shown:
        label_beside(figure, axes, shown, [f"neuron {n}" for n in shown], [MODEL] * len(shown))


def _draw_ticks(axes: Axes, counts_T: NDArray[np.integer], bin_time: float) -> None:
    """Draw spikes as ticks below zero, a tenth of the panel high."""
    times = [
        (bin_ + (k + 0.5) / count) * bin_time
        for bin_, count in enumerate(counts_T.tolist())
        for k in range(int(count))
    ]
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.24 * top, top)
    axes.vlines(times, -0.2 * top, -0.07 * top, color=MUTED, lw=0.7)
    axes.spines["left"].set_bounds(0, top)
