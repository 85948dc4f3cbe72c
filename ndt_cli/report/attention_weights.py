"""Attention weights of a trained network, averaged over trials, and their figures.

Axes: B trials, L layers, H heads, T bins that attend, S bins attended to, K lags, D width, E width
of a head.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.batches import TrialSet
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.trained_model import TrainedModel
from ndt_cli.errors import count
from ndt_cli.model.attention import ContextAttention
from ndt_cli.model.context import Blocks
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer
from ndt_cli.report.figures import (
    MUTED,
    CaptionedFigure,
    add_color_bar,
    add_panels,
    new_figure,
    sequence_colors,
    styled,
    trials_text,
)
from ndt_cli.report.trial import TimeAxis, evenly_spaced, time_step

if TYPE_CHECKING:
    from ndt_cli.report.registry import RunContents

Float64Array = NDArray[np.float64]

# Scores between all bins of a trial are held for every layer at once.
_BATCH_TRIALS = 16
MOST_LAYERS = 6
MOST_HEADS = 4


def attention_weights(
    network: NeuralDataTransformer, input_BTN: Tensor, inside_BT: Tensor | None = None
) -> list[Tensor]:
    """Return the attention weights of each layer as the network infers rates.

    Per layer (B, H, T, S): softmax(q k^T / sqrt(E)) within the context window (Ye & Pandarinath
    2021, section 2), with what falls with distance; it sums to 1 over S. The network does not keep
    them: they are recomputed in float32 from the input of each layer. Weights of padded bins are
    undefined.
    """
    n_bins, device = input_BTN.shape[1], input_BTN.device
    blocked = ~allowed_pairs(network, n_bins, inside_BT, device)
    lowered = network.context.lowered(Blocks.whole(n_bins).distance_KCW(device))
    weights: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, EncoderLayer)
        x_BTD = layer.norm_attention(inputs[0]) if layer.pre_norm else inputs[0]
        weights.append(_weights(layer.attention, x_BTD, blocked, lowered))

    hooks = [layer.register_forward_pre_hook(keep) for layer in network.layers]
    try:
        network.encode(input_BTN, inside_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return weights


def _weights(
    attention: ContextAttention, x_BTD: Tensor, blocked: Tensor, lowered: Tensor
) -> Tensor:
    q_BTD, k_BTD, _ = attention.qkv(x_BTD).chunk(3, dim=-1)
    q_BHTE, k_BHSE = (
        part.unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for part in (q_BTD, k_BTD)
    )
    scores_BHTS = q_BHTE @ k_BHSE.transpose(-1, -2) / math.sqrt(q_BHTE.shape[-1])
    scores_BHTS = scores_BHTS + lowered
    if attention.relative is not None:
        scores_BHTS = scores_BHTS + attention.relative(Blocks.whole(x_BTD.shape[1]))
    weights_BHTS: Tensor = scores_BHTS.masked_fill(blocked, -math.inf).softmax(dim=-1)
    return weights_BHTS


def allowed_pairs(
    network: NeuralDataTransformer,
    n_bins: int,
    inside_BT: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Return which bins each bin may attend to: (1, 1, T, S), or (B, 1, T, S) with padding.

    A padded bin also sees itself: the softmax of a row without bins would be NaN.
    """
    allowed = network.context.allowed_TS(n_bins, device)[None, None]
    if inside_BT is None:
        return allowed
    itself_TS = torch.eye(n_bins, dtype=torch.bool, device=device)
    return (allowed & inside_BT[:, None, None, :]) | itself_TS


@dataclass(frozen=True, eq=False)
class AttentionAverage:
    """Mean attention weights over trials."""

    maps_LHTS: Float64Array  # over the trials that have both bins; NaN if no trial has
    lags_K: NDArray[np.int64]  # bin attended to minus bin that attends: negative is earlier
    by_lag_LHK: Float64Array  # over trials, and over the bins that can see that lag
    uniform_K: Float64Array  # the same if every bin attended evenly to all bins that it can see
    n_trials: int
    bin_ms: float


def average_attention(trained: TrainedModel, data: SpikeData) -> AttentionAverage:
    """Average a model's attention weights over trials, with nothing hidden and without padding."""
    network, n_bins = trained.network, data.n_bins
    settings = network.settings
    sum_LHTS = np.zeros((settings.n_layers, settings.n_heads, n_bins, n_bins))
    uniform_TS = np.zeros((n_bins, n_bins))
    n_TS = np.zeros((n_bins, n_bins))
    with cpu_threads(trained.settings.train.n_threads), torch.inference_mode():
        for batch in TrialSet.load(data, trained.compute.device).batches(_BATCH_TRIALS):
            inside_BT = batch.inside_BT
            visible_BTN = torch.where(batch.visible, batch.counts_BTN, 0)
            weights = attention_weights(network, visible_BTN, inside_BT)
            allowed = allowed_pairs(network, n_bins, inside_BT, visible_BTN.device)
            # Pairs of bins inside a trial of which one may attend to the other, (B, 1, T, S).
            seen = allowed.expand(len(batch), -1, -1, -1)
            if inside_BT is not None:
                seen = seen & inside_BT[:, None, :, None]
            seen = seen.float()
            for layer, weights_BHTS in enumerate(weights):
                sum_LHTS[layer] += _sum(weights_BHTS * seen)
            n_TS += _sum(seen)[0]
            uniform_TS += _sum(seen / seen.sum(-1, keepdim=True).clamp_min(1))[0]
    return _averages(sum_LHTS, uniform_TS, n_TS, data)


def _sum(values_BHTS: Tensor) -> Float64Array:
    summed: Float64Array = values_BHTS.sum(dim=0, dtype=torch.float32).cpu().numpy()
    return summed.astype(np.float64)


def _averages(
    sum_LHTS: Float64Array, uniform_TS: Float64Array, n_TS: Float64Array, data: SpikeData
) -> AttentionAverage:
    lag_TS = np.arange(data.n_bins)[None, :] - np.arange(data.n_bins)[:, None]
    lags_K = np.unique(lag_TS[n_TS > 0])
    by_lag_LHK = np.zeros((*sum_LHTS.shape[:2], len(lags_K)))
    uniform_K = np.zeros(len(lags_K))
    for k, lag in enumerate(lags_K):
        here_TS = lag_TS == lag
        n_pairs = n_TS[here_TS].sum()
        by_lag_LHK[:, :, k] = sum_LHTS[:, :, here_TS].sum(axis=-1) / n_pairs
        uniform_K[k] = uniform_TS[here_TS].sum() / n_pairs
    maps_LHTS = np.where(n_TS > 0, sum_LHTS / np.maximum(n_TS, 1), np.nan)
    longest = int(data.lengths_B.max())  # the trials trained on may be longer
    return AttentionAverage(
        maps_LHTS[:, :, :longest, :longest],
        lags_K,
        by_lag_LHK,
        uniform_K,
        int((data.lengths_B > 0).sum()),
        data.bin_ms,
    )


def _average_text(run: "RunContents") -> str:
    of_best = " of the ensemble's member 0" if run.is_ensemble else ""
    shown = _shown_text(run.attention)
    return f"{shown} Mean{of_best} over {trials_text(run.evaluation)}, with nothing hidden."


def _shown_text(attention: AttentionAverage) -> str:
    n_layers, n_heads = attention.by_lag_LHK.shape[:2]
    parts = ((n_layers, MOST_LAYERS, "layer"), (n_heads, MOST_HEADS, "head"))
    shown = (count(n, noun) if n <= most else f"{most} of {n} {noun}s" for n, most, noun in parts)
    return ", ".join(shown) + "."


def _shown(n_layers: int, n_heads: int) -> tuple[list[int], list[int]]:
    """Return the layers and heads that are drawn."""
    layers, heads = evenly_spaced(n_layers, MOST_LAYERS), evenly_spaced(n_heads, MOST_HEADS)
    return layers.tolist(), heads.tolist()


def is_narrow(attention: AttentionAverage) -> bool:
    """Return whether the context window is so narrow that `attention_maps` shows lags."""
    n_bins: int = attention.maps_LHTS.shape[2]
    return 2 * len(attention.lags_K) <= n_bins


@styled
def draw_attention_maps(run: "RunContents") -> CaptionedFigure:
    """Draw the mean attention between pairs of bins, one row per head and one column per layer.

    The bin that attends is on the y axis, the bin attended to on the x axis. With a narrow context
    window such a map would be a thin diagonal: then the bin that attends is on the x axis, and the
    lag of the bin attended to on the y axis. All maps share a color scale, which ends at the 99.5th
    percentile. Up to six layers and four heads are drawn, evenly spaced.
    """
    attention = run.attention
    n_layers, n_heads, n_bins, _ = attention.maps_LHTS.shape
    layers, heads = _shown(n_layers, n_heads)
    step, unit = time_step(attention.bin_ms, n_bins)
    axis = TimeAxis.of(run.evaluation.data, n_bins)
    start, end = axis.start, n_bins * step
    narrow = is_narrow(attention)
    maps = [[_map(attention, layer, head, narrow) for layer in layers] for head in heads]
    top = max(float(np.nanquantile(np.array(maps), 0.995)), 1e-6)
    first, last = (attention.lags_K[i] * step for i in (0, -1))
    low, high = (first - step / 2, last + step / 2) if narrow else (0.0, end)
    # Two layers across the page would make squares of half a page.
    size = 1.2 if narrow else min(1.9, 6.2 / len(layers))
    figure = new_figure("two", size * len(heads) + 0.75)
    # All maps in one panel: panels of their own take four times as long to draw.
    axes: Axes = figure.subplots()
    axes.spines[:].set_visible(False)
    lefts_X = 1.06 * end * np.arange(len(layers))
    # The y axis points down, and in a map of lags up.
    uppers_Y = (1.1 if narrow else 1.06) * (high - low) * np.arange(len(heads))
    for row, upper in enumerate(uppers_Y):
        for column, left in enumerate(lefts_X):
            image = axes.imshow(
                maps[row][column],
                interpolation="nearest",
                origin="lower" if narrow else "upper",
                cmap=mpl.colormaps["viridis"].with_extremes(bad="#dddddd"),
                vmin=0.0,
                vmax=top,
                extent=(left, left + end, upper + high - low, upper),
            )
    for left, layer in zip(lefts_X, layers, strict=True):
        where = (left + end / 2, -0.04 * (high - low))
        axes.text(*where, f"layer {layer + 1}", ha="center", va="bottom")
    right = lefts_X[-1] + end
    for upper, head in zip(uppers_Y, heads, strict=True):
        where = (right + 0.02 * end, upper + (high - low) / 2)
        axes.text(*where, f"head {head + 1}", rotation=-90, ha="left", va="center")
    times = [
        t for t in MaxNLocator(3).tick_values(start, start + end) if 0 <= t - start < 0.9 * end
    ]
    rights = np.array(times) - start
    axes.set_xticks(np.add.outer(lefts_X, rights).ravel(), [f"{t:g}" for t in times] * len(layers))
    if not narrow:  # bins that attend, by their times
        low, high = low + start, high + start
    ups = [y for y in MaxNLocator(3).tick_values(low, high) if low <= y <= high]
    from_upper = [high - y if narrow else y - low for y in ups]
    axes.set_yticks(
        np.add.outer(uppers_Y, from_upper).ravel(), [f"{y:g}" for y in ups] * len(heads)
    )
    axes.set(xlim=(0, right), ylim=(uppers_Y[-1] + high - low, 0))
    axes.set_aspect("auto" if narrow else "equal")
    along, up = ("bin that attends", "lag") if narrow else ("bin attended to", "bin that attends")
    when = f", {axis.label}" if axis.has_event else f" ({unit})"
    axes.set(xlabel=f"{along}{when}", ylabel=f"{up} ({unit})" if narrow else f"{up}{when}")
    cut = bool(np.nanmax(np.array(maps)) > top)
    add_color_bar(figure, image, axes, "mean weight", cut=cut)
    what = "that a bin (row) gives to each bin (column)"
    if narrow:
        what = "that a bin (x axis) gives to the bins before it (negative lag) and after it"
    caption = (
        f"Mean attention weight {what}. {_average_text(run)} Gray: outside the trial or the "
        "context window."
    )
    alt = f"Maps of attention weights between bins. {_shown_text(attention)}"
    return CaptionedFigure(figure, caption, alt)


def _map(attention: AttentionAverage, layer: int, head: int, narrow: bool) -> Float64Array:
    """Return a map: bin that attends x bin attended to, or lag x bin that attends."""
    map_TS: Float64Array = attention.maps_LHTS[layer, head]
    if not narrow:
        return map_TS
    bin_T = np.arange(len(map_TS))
    attended_KT = attention.lags_K[:, None] + bin_T
    there_KT = (attended_KT >= 0) & (attended_KT < len(map_TS))
    return np.where(there_KT, map_TS[bin_T, attended_KT.clip(0, len(map_TS) - 1)], np.nan)


@styled
def draw_attention_lags(run: "RunContents") -> CaptionedFigure:
    """Draw the mean attention against the lag of the bin attended to, one panel per layer.

    The dashed line is even attention to all bins in the context window. Up to six layers and four
    heads are drawn, evenly spaced.
    """
    attention = run.attention
    n_layers, n_heads = attention.by_lag_LHK.shape[:2]
    layers, heads = _shown(n_layers, n_heads)
    step, unit = time_step(attention.bin_ms, int(np.ptp(attention.lags_K)))
    lags = attention.lags_K * step
    columns = len(layers) if len(layers) <= 4 else 3
    colors = sequence_colors(len(heads))
    figure = new_figure("two", 1.5 * -(-len(layers) // columns) + 0.4)
    panels = add_panels(figure, len(layers), columns)
    marker = "." if len(lags) <= 40 else None
    room = 0.05 * max(float(np.ptp(lags)), step)
    highest = max(attention.by_lag_LHK[layers][:, heads].max(), attention.uniform_K.max())
    for place, (axes, layer) in enumerate(zip(panels, layers, strict=True)):
        axes.axvline(0, color=MUTED, lw=0.6, ls=(0, (1, 2)), zorder=0)
        axes.plot(lags, attention.uniform_K, color=MUTED, ls="--", lw=0.9)
        for head, color in zip(heads, colors, strict=True):
            weights_K = attention.by_lag_LHK[layer, head]
            axes.plot(lags, weights_K, color=color, marker=marker, ms=2.5, label=f"head {head + 1}")
        axes.set_title(f"layer {layer + 1}")
        axes.set(xlim=(lags[0] - room, lags[-1] + room), ylim=(0, 1.05 * highest))
        # All panels share their scales: the outer ones have the ticks.
        axes.xaxis.set_visible(place + columns >= len(layers))
        axes.yaxis.set_visible(place % columns == 0)
    figure.supxlabel(f"lag of the bin attended to ({unit}); negative: earlier", fontsize=8)
    figure.supylabel("mean weight", fontsize=8)
    even = Line2D([], [], color=MUTED, ls="--", lw=0.9)
    handles = [*panels[0].get_legend_handles_labels()[0], even]
    names = [*(f"head {head + 1}" for head in heads), "even"]
    figure.legend(handles, names, loc="outside right upper", frameon=False)
    caption = (
        "Mean attention weight by the lag from the bin that attends to the bin attended to "
        f"(negative: earlier). {_average_text(run)} Dashed: even attention to all bins in the "
        "context window."
    )
    alt = f"Attention weights against lag. {_shown_text(attention)}"
    return CaptionedFigure(figure, caption, alt)
