"""One trial: the rates of all neurons, source by source."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.report.style import new_figure, styled
from ndt_cli.report.trial import time_axis, trial_bins


@styled
def rate_heatmaps(
    data: SpikeData,
    inferred_BTN: FloatArray,
    smoothed_BTN: FloatArray | None = None,
    *,
    trial: int,
) -> Figure:
    """Draw the rates of all neurons in one trial side by side, on one colour scale.

    Neurons are sorted by the time of their largest rate: the true one, or the inferred one
    where no true rate is known. The scale ends at the 99.5th percentile of the first heatmap's
    rates; what lies above has the last colour.

    Parameters
    ----------
    data : SpikeData
        Trials; true rates are drawn first where they are known.
    inferred_BTN : (trials, bins, neurons) float array
        Rates of the model, in spikes per bin.
    smoothed_BTN : (trials, bins, neurons) float array, optional
        Rates of smoothed spikes, in spikes per bin.
    trial : int
        Position of the trial.

    Raises
    ------
    DataError
        A trial that does not exist, or has no bins.
    """
    n_bins = trial_bins(data, trial)
    bin_time, unit = time_axis(data, n_bins)
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
    exceeds = any(float(rates_NT.max()) > top_hz for rates_NT in maps.values())
    bar = figure.colorbar(
        image, ax=panels, extend="max" if exceeds else "neither", fraction=0.03, pad=0.01
    )
    bar.set_label("rate (Hz)")
    bar.outline.set_linewidth(0.6)
    return figure
