"""Figures of one trial: spikes and rates of a few neurons, rates of all neurons.

Axes: B trials, T bins, N neurons.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import DataError
from ndt_cli.report.figures import (
    MODEL,
    MUTED,
    SMOOTHED,
    TRUTH,
    CaptionedFigure,
    add_color_bar,
    count,
    label_beside,
    new_figure,
    styled,
    trials_text,
)

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation
    from ndt_cli.report.registry import RunContents

# Trials longer than this are drawn in seconds.
_SECONDS_FROM_MS = 3000.0


def typical_trial(evaluation: "Evaluation") -> int:
    """Return the trial whose number of spikes per bin is the median one."""
    per_bin_B = evaluation.data.spikes_BTN.sum(axis=(1, 2)) / np.maximum(
        evaluation.data.lengths_B, 1
    )
    return int(per_bin_B.argsort(kind="stable")[len(per_bin_B) // 2])


def spread_trials(evaluation: "Evaluation") -> list[int]:
    """Return a quiet, a typical and a busy trial, by their spikes per bin."""
    lengths_B = np.asarray(evaluation.data.lengths_B)
    usable = np.flatnonzero(lengths_B > 0)
    per_bin = evaluation.data.spikes_BTN.sum(axis=(1, 2))[usable] / lengths_B[usable]
    order = usable[per_bin.argsort(kind="stable")]
    places = {round(share * (len(order) - 1)) for share in (0.1, 0.5, 0.9)}
    return [int(order[place]) for place in sorted(places)]


def choose_neurons(data: SpikeData, inferred_BTN: FloatArray, trial: int, n: int = 4) -> list[int]:
    """Return up to ``n`` neurons worth showing in a trial; see `modulated_neurons`.

    The rates are the true ones if they are known, the inferred ones otherwise.
    """
    n_bins = trial_bins(data, trial)
    source_BTN = inferred_BTN if data.rates_BTN is None else data.rates_BTN
    return modulated_neurons(data, np.asarray(source_BTN[trial, :n_bins], dtype=np.float64), n)


def modulated_neurons(data: SpikeData, rates_TN: NDArray[np.float64], n: int) -> list[int]:
    """Return up to ``n`` modulated neurons by their place in the file, from quiet to busy ones.

    Modulation is the standard deviation of a neuron's rate over the square root of its mean: how
    far the rate moves against the Poisson noise of its counts. From the more modulated half,
    ranked by mean rate, ``n`` evenly spaced neurons are taken, both ends included.
    """
    n_neurons = rates_TN.shape[1]
    mean_N = rates_TN.mean(axis=0)
    modulation_N = rates_TN.std(axis=0) / np.sqrt(np.maximum(mean_N, 1e-9))
    n_better = max(n, (n_neurons + 1) // 2)
    better = np.argsort(-modulation_N, kind="stable")[:n_better]
    ranked = better[np.argsort(mean_N[better], kind="stable")]
    spaced = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    columns = ranked[spaced]
    return [int(n) for n in (columns if data.neuron_ids_N is None else data.neuron_ids_N[columns])]


def trial_bins(data: SpikeData, trial: int) -> int:
    """Return the number of bins of a trial without padding; `DataError` if there are none."""
    if not 0 <= trial < data.n_trials:
        raise DataError(
            f"trial {trial} does not exist: there are {data.n_trials} trials",
            f"trials are counted from 0 to {data.n_trials - 1}",
        )
    n_bins = int(data.lengths_B[trial])
    if n_bins == 0:
        raise DataError(f"trial {trial} has no bins", "choose another trial")
    return n_bins


def neuron_columns(data: SpikeData, neurons: Sequence[int]) -> list[int]:
    """Return the columns of neurons given by their place in the file; `DataError` for others."""
    for neuron in neurons:
        if not 0 <= neuron < data.n_neurons:
            raise DataError(
                f"neuron {neuron} does not exist: there are {data.n_neurons} neurons",
                f"neurons are counted from 0 to {data.n_neurons - 1}",
            )
    return [int(column) for column in data.file_order_N[list(neurons)]]


def time_step(bin_ms: float, n_bins: int) -> tuple[float, str]:
    """Return the bin width in the unit of a time axis of ``n_bins`` bins, and that unit."""
    if n_bins * bin_ms > _SECONDS_FROM_MS:
        return bin_ms / 1000.0, "s"
    return bin_ms, "ms"


def spike_times(counts_T: NDArray[np.integer], bin_time: float) -> list[float]:
    """Return times at which to draw spikes: those of one bin are spread over the bin."""
    return [
        (bin_ + (k + 0.5) / count) * bin_time
        for bin_, count in enumerate(counts_T.tolist())
        for k in range(int(count))
    ]


# Above the right end of a panel, clear of the data.
_LEGEND: Any = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
    "borderpad": 0,
    "borderaxespad": 0.3,
}


def draw_rates(
    run: "RunContents", trial: int | None = None, neurons: Sequence[int] = ()
) -> CaptionedFigure:
    """Draw spikes and rates of one trial of a run."""
    found = run.evaluation
    trial = typical_trial(found) if trial is None else trial
    figure = draw_trial(found, trial, neurons)
    known = ", and the true rates" if found.data.rates_BTN is not None else ""
    caption = (
        f"Trial {trial} of {trials_text(found)}. Top: spike counts of all "
        f"{count(found.data.n_neurons, 'neuron')}. Below: rates that NDT infers with nothing "
        f"hidden, spikes smoothed by a Gaussian of {found.smoothing_ms:.0f} ms{known}; ticks are "
        "spikes."
    )
    shown = count(len(figure.axes) - 1, "neuron")
    alt = f"Raster of the spikes in trial {trial}, and rates of {shown} over time."
    return CaptionedFigure(figure, caption, alt)


def draw_trial(
    evaluation: "Evaluation", trial: int | None = None, neurons: Sequence[int] = ()
) -> Figure:
    """Draw spikes and rates of one trial of an evaluation; see `rates_over_raster`.

    By default the `typical_trial` is drawn, and the neurons of `choose_neurons`.
    """
    trial = typical_trial(evaluation) if trial is None else trial
    trial_bins(evaluation.data, trial)
    one = evaluation.take(np.array([trial]))  # the rates of all trials may not fit into memory
    return rates_over_raster(
        one.data, one.rates_BTN, one.smoothed_BTN, trial=0, neurons=list(neurons) or None
    )


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

    A neuron's spikes are ticks under its rates. Padding is not drawn.
    """
    n_bins = trial_bins(data, trial)
    if neurons is None:
        neurons = choose_neurons(data, inferred_BTN, trial)
    columns = neuron_columns(data, neurons)
    bin_time, unit = time_step(data.bin_ms, n_bins)
    heights = [2.0] + [1.0] * len(neurons)
    figure = new_figure("two", 1.9 + 0.85 * len(neurons))
    panels: list[Axes] = list(
        figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    )
    per_second = 1000.0 / data.bin_ms
    centers_T = (np.arange(n_bins) + 0.5) * bin_time
    for axes, neuron, column in zip(panels[1:], neurons, columns, strict=True):
        if data.rates_BTN is not None:
            true_T = data.rates_BTN[trial, :n_bins, column] * per_second
            axes.plot(centers_T, true_T, color=TRUTH, lw=0.9, label="true rate")
        smoothed_T = smoothed_BTN[trial, :n_bins, column] * per_second
        axes.plot(centers_T, smoothed_T, color=SMOOTHED, ls="--", lw=1.0, label="smoothed spikes")
        inferred_T = inferred_BTN[trial, :n_bins, column] * per_second
        axes.plot(centers_T, inferred_T, color=MODEL, lw=1.5, label="NDT")
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
    counts_NT = data.spikes_BTN[trial, :n_bins].T[data.file_order_N]
    _draw_counts(figure, panels[0], counts_NT, n_bins * bin_time, neurons)
    return figure


def _draw_counts(
    figure: Figure,
    axes: Axes,
    counts_NT: NDArray[np.integer],
    duration: float,
    neurons: Sequence[int],
) -> None:
    most = max(int(counts_NT.max()), 1)
    image = axes.imshow(
        np.ma.masked_equal(counts_NT, 0),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        cmap="Greys",
        vmin=-most / 2,  # a single spike stands out from the paper, whatever the largest count is
        vmax=most,
        extent=(0.0, duration, -0.5, len(counts_NT) - 0.5),
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
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.24 * top, top)
    axes.vlines(spike_times(counts_T, bin_time), -0.2 * top, -0.07 * top, color=MUTED, lw=0.7)
    axes.spines["left"].set_bounds(0, top)


def draw_heatmaps(run: "RunContents", trial: int | None = None) -> CaptionedFigure:
    """Draw the rates of all neurons in one trial of a run."""
    found = run.evaluation
    trial = typical_trial(found) if trial is None else trial
    figure = rate_heatmaps(found.data, found.rates_BTN, found.smoothed_BTN, trial=trial)
    order = "inferred" if found.data.rates_BTN is None else "true"
    caption = (
        f"Rates of {count(found.data.n_neurons, 'neuron')} in trial {trial} of "
        f"{trials_text(found)}. Neurons are sorted by the time of their largest {order} rate, in "
        "the same order in all panels."
    )
    alt = f"Heat maps of the rates of all neurons in trial {trial}, one panel per source."
    return CaptionedFigure(figure, caption, alt)


@styled
def rate_heatmaps(
    data: SpikeData,
    inferred_BTN: FloatArray,
    smoothed_BTN: FloatArray | None = None,
    *,
    trial: int,
) -> Figure:
    """Draw the rates of all neurons in one trial, one panel per source, on one color scale.

    Neurons are sorted by the time of their largest rate: the true one if it is known, the
    inferred one otherwise. The color scale ends at the 99.5th percentile of the first panel.
    Arguments and errors are those of `rates_over_raster`.
    """
    n_bins = trial_bins(data, trial)
    bin_time, unit = time_step(data.bin_ms, n_bins)
    sources = {"true rates": data.rates_BTN, "NDT": inferred_BTN, "smoothed spikes": smoothed_BTN}
    maps = {
        name: np.asarray(rates_BTN[trial, :n_bins], dtype=np.float64).T * 1000.0 / data.bin_ms
        for name, rates_BTN in sources.items()
        if rates_BTN is not None
    }
    first_NT = next(iter(maps.values()))
    order = np.argsort(first_NT.argmax(axis=1), kind="stable")
    top_hz = max(float(np.quantile(first_NT, 0.995)), 1e-6)
    figure = new_figure("two", 2.6)
    panels: list[Axes] = list(
        figure.subplots(1, len(maps), sharex=True, sharey=True, squeeze=False)[0]
    )
    for axes, (name, rates_NT) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(
            rates_NT[order],
            aspect="auto",
            interpolation="nearest",
            origin="lower",
            cmap="viridis",
            vmin=0.0,
            vmax=top_hz,
            extent=(0.0, n_bins * bin_time, 0.5, data.n_neurons + 0.5),
        )
        axes.set_title(name)
        axes.set_xlabel(f"time in trial ({unit})")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    panels[0].set_ylabel("neurons, by time of peak")
    cut = any(float(rates_NT.max()) > top_hz for rates_NT in maps.values())
    add_color_bar(figure, image, panels, "rate (Hz)", cut=cut)
    return figure
