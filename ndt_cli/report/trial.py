"""Figures of one trial: spikes and rates of a few neurons, rates of all neurons.

Axes: B trials, T bins, N neurons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import DataError, count
from ndt_cli.report.figures import (
    MODEL,
    MUTED,
    SMOOTHED,
    TRUTH,
    CaptionedFigure,
    add_color_bar,
    new_figure,
    shortened,
    styled,
    trials_text,
)

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation

_LISTED_NAMES = 20  # of the units, in an error

# Trials longer than this are drawn in seconds.
_SECONDS_FROM_MS = 3000.0

LEAST_PEAK_HZ = 1.0
"""Rates of a quieter neuron are divided by this in a heat map, which otherwise shows its noise."""


def typical_trial(data: SpikeData) -> int:
    """Return the trial whose number of spikes per bin is the median one."""
    return spread_trials(data, (0.5,))[0]


def spread_trials(data: SpikeData, ranks: Sequence[float] = (0.1, 0.5, 0.9)) -> list[int]:
    """Return a quiet, a typical and a busy trial, by their spikes per bin."""
    lengths_B = np.asarray(data.lengths_B)
    usable = np.flatnonzero(lengths_B > 0)
    per_bin = data.spikes_BTN.sum(axis=(1, 2))[usable] / lengths_B[usable]
    order = usable[per_bin.argsort(kind="stable")]
    places = {int(rank * (len(order) - 1) + 0.5) for rank in ranks}
    return [int(order[place]) for place in sorted(places)]


def modulated_neurons(rates_TN: NDArray[np.float64], n: int) -> list[int]:
    """Return the columns of up to ``n`` modulated neurons, from quiet to busy ones.

    Modulation is the standard deviation of a neuron's rate over the square root of its mean: how
    far the rate moves against the Poisson noise of its counts. From the more modulated half,
    ranked by mean rate, ``n`` evenly spaced neurons are taken, both ends included.
    """
    mean_N = rates_TN.mean(axis=0)
    modulation_N = rates_TN.std(axis=0) / np.sqrt(np.maximum(mean_N, 1e-9))
    better = np.argsort(-modulation_N, kind="stable")[: max(n, (len(mean_N) + 1) // 2)]
    ranked = better[np.argsort(mean_N[better], kind="stable")]
    return [int(column) for column in ranked[evenly_spaced(len(ranked), n)]]


def evenly_spaced(n: int, most: int) -> NDArray[np.int64]:
    """Return 0 to n - 1, or ``most`` of these evenly spaced, both ends included."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


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


def neuron_columns(data: SpikeData, neurons: Sequence[int | str]) -> list[int]:
    """Return the columns of neurons, each once; `DataError` if there is no such neuron.

    They are given as positions in the file, from 0, or names in the recording; a text that is not
    a name is a position.
    """
    columns = []
    for neuron in neurons:
        position = str(neuron)
        if isinstance(neuron, str) and neuron in data.neuron_names:
            position = str(data.neuron_names.index(neuron))
        if not (position.isdecimal() and int(position) < data.n_neurons):
            names = data.neuron_names[:_LISTED_NAMES]
            more = ", ..." if len(data.neuron_names) > len(names) else ""
            known = f"its units are {', '.join(names)}{more}; " if names else ""
            raise DataError(
                f"neuron {neuron} does not exist: there are {data.n_neurons} neurons",
                f"{known}positions in the file count from 0 to {data.n_neurons - 1}",
            )
        columns.append(int(data.file_order_N[int(position)]))
    return list(dict.fromkeys(columns))


def time_step(bin_ms: float, n_bins: int) -> tuple[float, str]:
    """Return the bin width in the unit of a time axis of ``n_bins`` bins, and that unit."""
    if n_bins * bin_ms > _SECONDS_FROM_MS:
        return bin_ms / 1000.0, "s"
    return bin_ms, "ms"


@dataclass(frozen=True)
class TimeAxis:
    """Times of the bins, from the event that the trials are aligned to or the start of a trial."""

    start: float  # of the first bin
    step: float
    n_bins: int
    label: str
    has_event: bool

    @classmethod
    def of(cls, data: SpikeData, n_bins: int) -> "TimeAxis":
        """Return the axis of trials of ``n_bins`` bins, in ms or, for long trials, in seconds."""
        step, unit = time_step(data.bin_ms, n_bins)
        start = data.start_ms * step / data.bin_ms
        words = f"time from {data.event.replace('_', ' ')}" if data.event else "time in trial"
        return cls(start, step, n_bins, f"{words} ({unit})", bool(data.event))

    @property
    def end(self) -> float:
        """Time of the end of the last bin."""
        return self.start + self.n_bins * self.step

    def centers(self, n_bins: int | None = None) -> NDArray[np.float64]:
        """Return the middle of each bin."""
        bins_T = np.arange(self.n_bins if n_bins is None else n_bins, dtype=np.float64)
        return self.start + (bins_T + 0.5) * self.step

    def line(self, values_T: NDArray[Any]) -> NDArray[np.float64]:
        """Return the points of a line, (bins, 2), with a value for each of the first bins.

        A single bin has two, its beginning and its end: a line of one point is not seen.
        """
        if len(values_T) == 1:
            return np.column_stack([[self.start, self.start + self.step], values_T.repeat(2)])
        return np.column_stack([self.centers(len(values_T)), values_T])

    def apply(self, axes: Axes, *, lowest: bool = True, labeled: bool = True) -> None:
        """Give a panel this range, and draw a line at the event if it is within.

        Only the lowest panel of a column has ticks and, unless the columns share one, a label.
        """
        axes.set_xlim(self.start, self.end)
        axes.set_xlabel(self.label if lowest and labeled else "")
        axes.xaxis.set_visible(lowest)
        if self.has_event and self.start < 0 < self.end:
            axes.axvline(0.0, color=MUTED, lw=0.7, ls=(0, (4, 3)), zorder=0)


def neuron_label(data: SpikeData, column: int) -> str:
    """Return such text as "unit 41", by the name in the recording, or "neuron 3", by the place."""
    return f"{'unit' if data.neuron_names else 'neuron'} {data.column_names[column]}"


def trial_label(data: SpikeData, trial: int) -> str:
    """Return such text as "trial 57", by the number in the recording where it is known."""
    return f"trial {trial if data.trial_ids_B is None else data.trial_ids_B[trial]}"


def trial_text(data: SpikeData, trial: int, trials: str) -> str:
    """Return such text as "trial 57 (place 2, from 0, of 12 validation trials)"."""
    labels_B = data.condition_labels
    condition = "" if labels_B is None else f", condition {labels_B[trial]}"
    return f"{trial_label(data, trial)} (place {trial}, from 0, of {trials}{condition})"


def spike_times(counts_T: NDArray[np.integer], bin_time: float, start: float = 0.0) -> list[float]:
    """Return times at which to draw spikes: those of one bin are spread over the bin."""
    return [
        start + (bin_ + (k + 0.5) / count) * bin_time
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


@styled
def draw_rates(
    evaluation: "Evaluation", trial: int | None = None, neurons: Sequence[int | str] = ()
) -> CaptionedFigure:
    """Draw one trial: the counts of all neurons, and below them the rates of a few.

    A neuron's spikes are ticks under its rates. Padding is not drawn. By default the trial is the
    `typical_trial`, and the neurons are the most modulated ones in it.
    """
    data, trial = evaluation.data, _trial(evaluation, trial)
    n_bins = trial_bins(data, trial)
    sources = {
        name: np.asarray(rates_TN[:n_bins], dtype=np.float64) * 1000 / data.bin_ms
        for name, rates_TN in _sources(evaluation, trial).items()
    }
    columns = neuron_columns(data, neurons) or modulated_neurons(next(iter(sources.values())), 4)
    times = TimeAxis.of(data, n_bins)
    figure = new_figure("two", 1.9 + 0.85 * len(columns))
    ratios = [2.0] + [1.0] * len(columns)
    panels: list[Axes] = list(figure.subplots(1 + len(columns), 1, height_ratios=ratios))
    for axes, column in zip(panels[1:], columns, strict=True):
        for name, look in _LOOKS.items():
            if name in sources:
                axes.plot(*times.line(sources[name][:, column]).T, label=name, **look)
        _draw_ticks(axes, data.spikes_BTN[trial, :n_bins, column], times)
        axes.set_ylabel(f"{shortened(neuron_label(data, column), 12)}\n(Hz)")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    handles, labels = panels[1].get_legend_handles_labels()
    panels[1].legend(handles[::-1], labels[::-1], **_LEGEND, ncols=3)
    for axes in panels[1:-1]:
        axes.spines["bottom"].set_visible(False)
    figure.align_ylabels(panels)
    _draw_counts(panels[0], data.spikes_BTN[trial, :n_bins].T[data.file_order_N], times)
    _name_rows(panels[0], data, columns)
    for axes in panels:
        times.apply(axes, lowest=axes is panels[-1])
    known = ", and the true rates" if data.rates_BTN is not None else ""
    what = trial_text(data, trial, trials_text(evaluation))
    neurons_text = count(data.n_neurons, "neuron")
    caption = (
        f"{what[0].upper()}{what[1:]}. Top: all spikes, of {neurons_text}. "
        f"Below: rates that NDT infers {_inference_text(evaluation)}, spikes smoothed by a "
        f"Gaussian of {evaluation.smoothing_ms:.0f} ms{known}; ticks are spikes."
    )
    shown = count(len(columns), "neuron")
    alt = f"Raster of the spikes in {trial_label(data, trial)}, and rates of {shown} over time."
    return CaptionedFigure(figure, caption, alt)


def _inference_text(evaluation: "Evaluation") -> str:
    passes = 1 if evaluation.model is None else evaluation.model.settings.inference.passes
    if passes == 1:
        return "with nothing hidden"
    return f"as the mean of {passes} passes, each with other bins hidden"


# In the order in which they are drawn, the model on top.
_LOOKS: dict[str, Any] = {
    "true rates": {"color": TRUTH, "lw": 0.9},
    "smoothed spikes": {"color": SMOOTHED, "lw": 1.0, "ls": "--"},
    "NDT": {"color": MODEL, "lw": 1.5},
}


def _trial(evaluation: "Evaluation", trial: int | None) -> int:
    return typical_trial(evaluation.data) if trial is None else trial


def _sources(evaluation: "Evaluation", trial: int) -> dict[str, FloatArray]:
    """Return each source's rates of one trial, (bins, neurons): the true ones first, if known."""
    trial_bins(evaluation.data, trial)
    one = evaluation.take(np.array([trial]))  # the rates of all trials may not fit into memory
    return {name: rates_BTN[0] for name, rates_BTN in one.sources.items()}


def _draw_counts(axes: Axes, counts_NT: NDArray[np.integer], times: TimeAxis) -> None:
    most = max(int(counts_NT.max()), 1)
    image = axes.imshow(
        np.ma.masked_equal(counts_NT, 0),
        aspect="auto",
        interpolation="nearest",
        origin="lower",
        cmap="Greys",
        vmin=-most / 2,  # a single spike stands out from the paper, whatever the largest count is
        vmax=most,
        extent=(times.start, times.end, -0.5, len(counts_NT) - 0.5),
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


def _name_rows(axes: Axes, data: SpikeData, columns: Sequence[int]) -> None:
    """Write the names of neurons to the right of their rows, moved apart where they overlap."""
    gap = data.n_neurons / 11  # a line of text, in rows
    row_of = {int(column): row for row, column in enumerate(data.file_order_N)}
    at = -gap
    for column in sorted(columns, key=row_of.__getitem__):
        at = max(row_of[column], at + gap)
        axes.annotate(
            neuron_label(data, column),
            (1.0, at),
            (4, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            color=MODEL,
            fontsize=7,
            va="center",
            annotation_clip=False,
        )


def _draw_ticks(axes: Axes, counts_T: NDArray[np.integer], times: TimeAxis) -> None:
    """Draw spikes as ticks below zero, a tenth of the panel high."""
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.24 * top, top)
    axes.vlines(
        spike_times(counts_T, times.step, times.start), -0.2 * top, -0.07 * top, color=MUTED, lw=0.7
    )
    axes.spines["left"].set_bounds(0, top)


@styled
def draw_heatmaps(evaluation: "Evaluation", trial: int | None = None) -> CaptionedFigure:
    """Draw the rates of all neurons in one trial, one panel per source, on one scale per neuron.

    Each neuron's rates are divided by its largest rate, and the neurons are sorted by its time:
    the true rate if it is known, the inferred one otherwise.
    """
    data, trial = evaluation.data, _trial(evaluation, trial)
    n_bins = trial_bins(data, trial)
    times = TimeAxis.of(data, n_bins)
    maps = {
        name: np.asarray(rates_TN[:n_bins], dtype=np.float64).T * 1000.0 / data.bin_ms
        for name, rates_TN in _sources(evaluation, trial).items()
    }
    first_NT = next(iter(maps.values()))
    order = np.argsort(first_NT.argmax(axis=1), kind="stable")
    peak_N1 = np.maximum(first_NT.max(axis=1, keepdims=True), LEAST_PEAK_HZ)
    figure = new_figure("two", 2.6)
    panels: list[Axes] = list(
        figure.subplots(1, len(maps), sharex=True, sharey=True, squeeze=False)[0]
    )
    for axes, (name, rates_NT) in zip(panels, maps.items(), strict=True):
        image = axes.imshow(
            (rates_NT / peak_N1)[order],
            aspect="auto",
            interpolation="nearest",
            origin="lower",
            cmap="viridis",
            vmin=0.0,
            vmax=1.0,
            extent=(times.start, times.end, 0.5, data.n_neurons + 0.5),
        )
        axes.set_title(name)
        times.apply(axes)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    panels[0].set_ylabel("neurons, by time of peak")
    cut = any(bool((rates_NT > peak_N1).any()) for rates_NT in maps.values())
    add_color_bar(figure, image, panels, "rate / peak of the neuron", cut=cut)
    caption = (
        f"Rates of {count(data.n_neurons, 'neuron')} in "
        f"{trial_text(data, trial, trials_text(evaluation))}. Each neuron's rates are divided by "
        f"its largest {'inferred' if data.rates_BTN is None else 'true'} rate in the trial, in all "
        f"panels; a neuron is taken to reach {LEAST_PEAK_HZ:g} Hz. Neurons are sorted by the time "
        "of that largest rate."
    )
    alt = f"Heat maps of the rates of all neurons in {trial_label(data, trial)}, by source."
    return CaptionedFigure(figure, caption, alt)
