"""Multi-head attention within a context window, over blocks of the band that it allows.

Axes: B trials, T bins, H heads, D width, E width of a head; K blocks of a trial, C bins of a
block, W bins that a block looks at.
"""

# The compilers of PyTorch 2.4 to 2.6 cannot evaluate the annotations of a nested function.
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndt_cli.model.context import Blocks, Context
from ndt_cli.model.dropout import Dropout

# Windows of other sizes that are kept.
_MOST_KEPT = 8


class ContextAttention(nn.Module):
    """Multi-head self-attention; bins outside the context window get no weight.

    ``relative`` is the bias of the scores by relative position, where there is one.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        dropout: float,
        relative: RelativePositions | None = None,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.relative = relative
        # Queries, keys and values in one product; each third is initialized on its own.
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.qkv.bias)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTD: Tensor, window: Window, dropout: Dropout | None) -> Tensor:
        """Return the attended values, (B, T, D), in the dtype of ``x_BTD``.

        ``window`` comes from `Windows`; ``dropout`` is None outside training.
        """
        n_trials, n_bins, width = x_BTD.shape
        blocks = window.blocks
        q_BTD, k_BTD, v_BTD = linear(x_BTD, self.qkv).chunk(3, dim=-1)

        def heads(x_BTD: Tensor, bins_of: Callable[[torch.device], Tensor], n: int) -> Tensor:
            """Gather bins, (K, n), into (B, K, H, n, E)."""
            if blocks != Blocks.whole(n_bins):
                bins_Kn = bins_of(x_BTD.device).clamp(0, n_bins - 1)
                x_BTD = x_BTD.index_select(1, bins_Kn.flatten())
            cut = x_BTD.view(n_trials, blocks.n_blocks, n, self.n_heads, width // self.n_heads)
            return cut.transpose(2, 3)

        q_BKHCE = heads(q_BTD, blocks.row_KC, blocks.size) * (width // self.n_heads) ** -0.5
        scores_BKHCW = q_BKHCE @ heads(k_BTD, blocks.column_KW, blocks.around).transpose(-1, -2)
        weights_BKHCW = (scores_BKHCW + self.added(window)).softmax(dim=-1)
        if dropout is not None:
            weights_BKHCW = dropout(weights_BKHCW, self.dropout)
        attended_BKHCE = weights_BKHCW @ heads(v_BTD, blocks.column_KW, blocks.around)
        n_rows = blocks.n_blocks * blocks.size
        attended_BTD = attended_BKHCE.transpose(2, 3).reshape(n_trials, n_rows, width)
        return linear(attended_BTD[:, :n_bins], self.out)

    def added(self, window: Window) -> Tensor:
        """Return what is added to the scores: -inf where attention is not allowed, and the bias."""
        if self.relative is None:
            return window.blocked
        bias_HCW: Tensor = self.relative(window.blocks)
        return window.blocked + bias_HCW.to(window.blocked.dtype)


class RelativePositions(nn.Module):
    """A bias of the attention scores, learned for each head and each offset, zero at the start.

    The offset is the bin attended to minus the bin that attends (Shaw et al. 2018; as a bias of the
    scores, Raffel et al. 2020). Unlike positions in a trial, it exists in trials of any length.

    Parameters
    ----------
    n_heads : int
    back, forward : int
        Farthest offsets that occur in training. Those beyond share the bias of the farthest.
    """

    def __init__(self, n_heads: int, back: int, forward: int) -> None:
        super().__init__()
        self.back, self.ahead = back, forward
        self.bias_HO = nn.Parameter(torch.zeros(n_heads, back + 1 + forward))

    def forward(self, blocks: Blocks) -> Tensor:
        """Return the bias of each score of a block, (H, C, W) float32: all blocks have the same."""
        first, last = -blocks.back - blocks.size + 1, blocks.size - 1 + blocks.forward
        offsets_HO = self.bias_HO[:, max(0, first + self.back) :]
        offsets_HO = offsets_HO[:, : last - max(first, -self.back) + 1]
        before, after = max(0, -self.back - first), max(0, last - self.ahead)
        farthest_back, farthest_forward = self.bias_HO[:, :1], self.bias_HO[:, -1:]
        offsets_HO = torch.cat(
            [farthest_back.expand(-1, before), offsets_HO, farthest_forward.expand(-1, after)],
            dim=1,
        )
        # Row c starts at the offset of its first column: the last row at the farthest one.
        return offsets_HO.unfold(1, blocks.around, 1).flip(1)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply ``layer`` in the dtype of ``x``; its own weights stay float32."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


@dataclass(frozen=True)
class Window:
    """What all layers and heads share of the context window.

    With a window of 13 bins, a trial of 100 in blocks of 20 has a third of the scores.
    """

    blocks: Blocks
    # What is added to the scores: -inf where attention is not allowed; elsewhere 0, or less where
    # it falls with distance. (K, H, C, W), or (B, K, H, C, W) if the trials differ in length; H is
    # 1 if all heads have the same.
    blocked: Tensor


class Windows:
    """The windows of a context, kept: for a single trial, making one costs more than a layer."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._kept: dict[tuple[object, ...], Window] = {}

    def __call__(
        self,
        n_bins: int,
        inside_BT: Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
        blocks: Blocks | None = None,
    ) -> Window:
        """Return what all layers and heads share; no bin attends to padding.

        ``blocks`` cut a trial in another way than the cheapest one.
        """
        if inside_BT is not None:
            return _padded_window(self.context, inside_BT, dtype, blocks)
        key = (n_bins, dtype, device, blocks)
        if key not in self._kept:
            # On a GPU all are kept: a recorded step reads them where they lie.
            if device.type == "cpu" and len(self._kept) == _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = _window(self.context, n_bins, dtype, device, blocks)
        return self._kept[key]


def _padded_window(
    context: Context, inside_BT: Tensor, dtype: torch.dtype, blocks: Blocks | None
) -> Window:
    n_bins, device = inside_BT.shape[1], inside_BT.device
    blocks = blocks or Blocks.for_context(context, n_bins, device)
    # A padded bin still sees itself: a row without a single allowed bin would be NaN.
    itself_TS = torch.eye(n_bins, dtype=torch.bool, device=device)
    allowed_BTS = (context.allowed_TS(n_bins, device) & inside_BT[:, None, :]) | itself_TS
    return Window(blocks, _blocked(context, blocks, blocks.cut_out(allowed_BTS), dtype))


def _window(
    context: Context, n_bins: int, dtype: torch.dtype, device: torch.device, blocks: Blocks | None
) -> Window:
    # Tensors made in inference mode could not be used in training.
    with torch.inference_mode(False):
        blocks = blocks or Blocks.for_context(context, n_bins, device)
        allowed_KCW = blocks.cut_out(context.allowed_TS(n_bins, device))
        return Window(blocks, _blocked(context, blocks, allowed_KCW, dtype))


def _blocked(context: Context, blocks: Blocks, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    lowered_KHCW = context.lowered(blocks.distance_KCW(allowed.device)).to(dtype)
    return lowered_KHCW.masked_fill(~allowed.unsqueeze(-3), -math.inf)
