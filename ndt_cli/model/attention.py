"""Multi-head attention within a context window, dense or over blocks of the band.

Axes: B trials, T bins that ask, S bins looked at, H heads, D width, E width of a head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndt_cli.model.band import Blocks, gather_windows
from ndt_cli.model.context import Context
from ndt_cli.model.dropout import Dropout

Drop = Callable[[Tensor], Tensor]


class ContextAttention(nn.Module):
    """Multi-head self-attention; bins outside the context window get no weight.

    Parameters
    ----------
    width : int
        D, a multiple of ``n_heads``.
    n_heads : int
        H.
    dropout : float
        Dropout of the attention weights.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        # Queries, keys and values in one product; each third is initialised on its own.
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.qkv.bias)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BTD: Tensor, window: "Window", dropout: Dropout | None) -> Tensor:
        """Return the attended values, (B, T, D), in the dtype of ``x_BTD``.

        ``window`` comes from `attention_window`; ``dropout`` is None outside training.
        """
        n_trials, n_bins, width = x_BTD.shape
        qkv_BT3HE = linear(x_BTD, self.qkv).view(
            n_trials, n_bins, 3, self.n_heads, width // self.n_heads
        )
        attended_BTHE = window.attend(
            qkv_BT3HE,
            lambda weights: weights if dropout is None else dropout(weights, self.dropout),
        )
        return linear(attended_BTHE.reshape(n_trials, n_bins, width), self.out)


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """Apply ``layer`` in the dtype of ``x``; its own weights stay float32."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


@dataclass(frozen=True)
class DenseWindow:
    """Scores between all pairs of bins, those outside the window set to -inf.

    Attributes
    ----------
    blocked : Tensor
        0 where attention is allowed, -inf elsewhere; (T, S) or (B, 1, T, S).
    """

    blocked: Tensor

    def attend(self, qkv_BT3HE: Tensor, drop: Drop) -> Tensor:
        """Return the values weighted by attention, (B, T, H, E)."""
        q_BHTE, k_BHSE, v_BHSE = qkv_BT3HE.permute(2, 0, 3, 1, 4).unbind(0)
        scores_BHTS = (q_BHTE * q_BHTE.shape[-1] ** -0.5) @ k_BHSE.transpose(-1, -2)
        weights_BHTS = (scores_BHTS + self.blocked).softmax(dim=-1)
        return (drop(weights_BHTS) @ v_BHSE).transpose(1, 2)


@dataclass(frozen=True)
class BandWindow:
    """Scores between each block of bins and the bins around it that the window reaches.

    The same mathematics as `DenseWindow`. With a window of 13 bins in a trial of 100 it makes
    a third of the scores.

    Attributes
    ----------
    blocks : Blocks
        How the trial is cut.
    blocked : Tensor
        0 where attention is allowed, -inf elsewhere; (K, C, W), or (B, 1, K, C, W) where trials
        differ in length.
    """

    blocks: Blocks
    blocked: Tensor

    def attend(self, qkv_BT3HE: Tensor, drop: Drop) -> Tensor:
        """Return the values weighted by attention, (B, T, H, E)."""
        # K blocks, C bins of a block, W bins around it
        q_BHTE, k_BHTE, v_BHTE = qkv_BT3HE.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        blocks = self.blocks
        spare = blocks.n_blocks * blocks.size - blocks.n_bins
        q_BHKCE = F.pad(q_BHTE * q_BHTE.shape[-1] ** -0.5, (0, 0, 0, spare)).unflatten(
            2, (blocks.n_blocks, blocks.size)
        )
        scores_BHKCW = q_BHKCE @ gather_windows(k_BHTE, blocks).transpose(-1, -2)
        weights_BHKCW = (scores_BHKCW + self.blocked).softmax(dim=-1)
        attended_BHKCE = drop(weights_BHKCW) @ gather_windows(v_BHTE, blocks)
        return attended_BHKCE.flatten(2, 3)[:, :, : blocks.n_bins].transpose(1, 2)


Window = DenseWindow | BandWindow


def attention_window(
    context: Context,
    n_bins: int,
    inside_BT: Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Window:
    """Prepare what all layers and heads share, in the form that costs less.

    Parameters
    ----------
    context : Context
        The window of each bin.
    n_bins : int
        T.
    inside_BT : Tensor of bool or None
        False for padding, to which no bin attends.
    dtype, device
        Of the scores.
    """
    allowed = context.allowed_TS(n_bins, device)
    if inside_BT is not None:
        # A padded bin still sees itself: a row without a single allowed bin would be NaN.
        itself_TS = torch.eye(n_bins, dtype=torch.bool, device=device)
        allowed = (allowed & inside_BT[:, None, :]) | itself_TS
    blocks = Blocks.for_context(context, n_bins)
    if blocks is None:
        return DenseWindow(_blocked(allowed if inside_BT is None else allowed[:, None], dtype))
    cut = blocks.cut_out(allowed)
    return BandWindow(blocks, _blocked(cut if inside_BT is None else cut[:, None], dtype))


def _blocked(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return zeros.masked_fill_(~allowed, -math.inf)
