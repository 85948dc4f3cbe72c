"""Attention: which bins the model looks at, layer by layer (Ye & Pandarinath 2021)."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ndt_cli.report.attention_average import AttentionAverage, Float64Array
from ndt_cli.report.conditions import evenly_spaced
from ndt_cli.report.style import MUTED, label_beside, new_figure, sequence_colors, styled
from ndt_cli.report.trial import time_step

MOST_LAYERS = 6
MOST_HEADS = 4


def _shown(n_layers: int, n_heads: int) -> tuple[list[int], list[int]]:
    """Return the layers and heads that are drawn."""
    layers, heads = evenly_spaced(n_layers, MOST_LAYERS), evenly_spaced(n_heads, MOST_HEADS)
    return layers.tolist(), heads.tolist()


def is_narrow(attention: AttentionAverage) -> bool:
    """Tell whether the context window reaches so little that `attention_maps` shows lags."""
    n_bins: int = attention.maps_LHTS.shape[2]
    return 2 * len(attention.lags_K) <= n_bins


@styled
def attention_maps(attention: AttentionAverage) -> Figure:
    """Draw the mean attention between pairs of bins, a row a head and a column a layer.

    A map has the bin that looks upwards and the bin looked at to the right. Where the context
    window is narrow, such maps would be a thin line; then the bin that looks is to the right,
    and upwards is how far after it the bin looked at lies. One colour scale for all, which ends
    at the 99.5th percentile. Of more than six layers or four heads, evenly spaced ones are drawn.

    Parameters
    ----------
    attention : AttentionAverage
        Mean weights.
    """
    n_layers, n_heads, n_bins, _ = attention.maps_LHTS.shape
    layers, heads = _shown(n_layers, n_heads)
    step, unit = time_step(attention.bin_ms, n_bins)
    end = n_bins * step
    narrow = is_narrow(attention)
    maps = [[_map(attention, layer, head, narrow) for layer in layers] for head in heads]
    top = max(float(np.nanquantile(np.array(maps), 0.995)), 1e-6)
    first, last = (attention.lags_K[i] * step for i in (0, -1))
    extent = (0.0, end, first - step / 2, last + step / 2) if narrow else (0.0, end, end, 0.0)
    # Two layers across the page would make squares of half a page.
    size = 1.2 if narrow else min(1.9, 6.2 / len(layers))
    figure = new_figure("two", size * len(heads) + 0.75)
    panels = figure.subplots(len(heads), len(layers), sharex=True, sharey=True, squeeze=False)
    for row, head in enumerate(heads):
        for column, layer in enumerate(layers):
            axes: Axes = panels[row, column]
            image = axes.imshow(
                maps[row][column],
                interpolation="nearest",
                origin="lower" if narrow else "upper",
                aspect="auto" if narrow else "equal",
                cmap="viridis",
                vmin=0.0,
                vmax=top,
                extent=extent,
            )
            axes.set_facecolor("#dddddd")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(3))
            if row == 0:
                axes.set_title(f"layer {layer + 1}")
            if column == 0:
                up = "lag" if narrow else "bin that looks"
                axes.set_ylabel(f"head {head + 1}\n{up} ({unit})")
    along = "bin that looks" if narrow else "bin looked at"
    figure.supxlabel(f"{along} ({unit})", fontsize=8)
    exceeds = bool(np.nanmax(np.array(maps)) > top)
    bar = figure.colorbar(
        image, ax=panels, extend="max" if exceeds else "neither", fraction=0.03, pad=0.01
    )
    bar.set_label("mean weight")
    bar.outline.set_linewidth(0.6)
    return figure


def _map(attention: AttentionAverage, layer: int, head: int, narrow: bool) -> Float64Array:
    """Return a map: bin that looks x bin looked at, or lag x bin that looks."""
    map_TS: Float64Array = attention.maps_LHTS[layer, head]
    if not narrow:
        return map_TS
    bin_T = np.arange(len(map_TS))
    looked_at_KT = attention.lags_K[:, None] + bin_T
    there_KT = (looked_at_KT >= 0) & (looked_at_KT < len(map_TS))
    return np.where(there_KT, map_TS[bin_T, looked_at_KT.clip(0, len(map_TS) - 1)], np.nan)


@styled
def attention_by_lag(attention: AttentionAverage) -> Figure:
    """Draw the mean attention against the lag of the bin looked at, a panel a layer.

    The dashed line is even attention to all that a bin may see. Of more than six layers or four
    heads, evenly spaced ones are drawn.

    Parameters
    ----------
    attention : AttentionAverage
        Mean weights.
    """
    n_layers, n_heads = attention.by_lag_LHK.shape[:2]
    layers, heads = _shown(n_layers, n_heads)
    step, unit = time_step(attention.bin_ms, int(np.ptp(attention.lags_K)))
    lags = attention.lags_K * step
    columns = min(3, len(layers))
    rows = -(-len(layers) // columns)
    colors = sequence_colors(len(heads))
    figure = new_figure("two", 1.5 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    marker = "." if len(lags) <= 40 else None
    for axes, layer in zip(panels.flat, layers, strict=False):
        axes.axvline(0, color=MUTED, lw=0.6, ls=(0, (1, 2)), zorder=0)
        axes.plot(lags, attention.uniform_K, color=MUTED, ls="--", lw=0.9)
        for head, color in zip(heads, colors, strict=True):
            weights_K = attention.by_lag_LHK[layer, head]
            axes.plot(lags, weights_K, color=color, marker=marker, ms=2.5, label=f"head {head + 1}")
        axes.set_title(f"layer {layer + 1}")
    for axes in panels.flat[len(layers) :]:
        axes.set_visible(False)
    panels[0, 0].set_ylim(bottom=0)
    figure.supxlabel(f"lag of the bin looked at ({unit}); negative: earlier", fontsize=8)
    figure.supylabel("mean weight", fontsize=8)
    last: Axes = panels[0, columns - 1]
    ends = [attention.by_lag_LHK[layers[columns - 1], head][-1] for head in heads]
    label_beside(
        figure,
        last,
        [*ends, attention.uniform_K[-1]],
        [*(f"head {head + 1}" for head in heads), "even"],
        [*colors, MUTED],
    )
    return figure
