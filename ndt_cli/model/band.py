"""A trial cut into blocks, each with the bins around it that a context window reaches.

Axes: B trials, T bins, K blocks, C bins of a block, W bins of a block and around it, H heads,
E width of a head.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ndt_cli.model.context import Context

# Rows of scores are read in vectors of this many numbers, so wider rows come in such steps.
_VECTOR = 16
# What gathering one bin into a window costs, in scores.
_GATHER_COST = 32


@dataclass(frozen=True)
class Blocks:
    """How a trial of ``n_bins`` is cut.

    Attributes
    ----------
    n_bins : int
        T.
    size : int
        C; the last block may reach past the trial.
    back, forward : int
        Bins around a block that its bins may attend to.
    """

    n_bins: int
    size: int
    back: int
    forward: int

    @property
    def n_blocks(self) -> int:
        return math.ceil(self.n_bins / self.size)

    @property
    def around(self) -> int:
        """W."""
        return self.back + self.size + self.forward

    @property
    def cost(self) -> int:
        """Scores to compute for a trial, with gathering counted as scores."""
        row = math.ceil(self.around / _VECTOR) * _VECTOR
        return self.n_blocks * (self.size * row + _GATHER_COST * self.around)

    @classmethod
    def for_context(cls, context: Context, n_bins: int) -> "Blocks | None":
        """Return the cheapest cut, or None where scores between all bins are cheaper."""
        if context.back is None or context.forward is None or context.wrap_initial:
            return None
        cuts = (cls(n_bins, size, context.back, context.forward) for size in range(4, n_bins))
        best = min(cuts, key=lambda blocks: blocks.cost, default=None)
        dense = n_bins * (math.ceil(n_bins / _VECTOR) * _VECTOR + _GATHER_COST)
        return None if best is None or best.cost >= dense else best

    def cut_out(self, allowed: Tensor) -> Tensor:
        """Cut a (..., T, T) bool matrix to (..., K, C, W); False past the trial.

        A row past the trial, which no one reads, allows everything: softmax of a row without
        an allowed bin would be NaN.
        """
        device = allowed.device
        row_KC = torch.arange(self.n_blocks * self.size, device=device).view(-1, self.size)
        first_K = torch.arange(self.n_blocks, device=device) * self.size - self.back
        column_KW = first_K[:, None] + torch.arange(self.around, device=device)
        in_trial_KW = (column_KW >= 0) & (column_KW < self.n_bins)
        last = self.n_bins - 1
        cut = allowed[..., row_KC.clamp_max(last)[:, :, None], column_KW.clamp(0, last)[:, None, :]]
        return (cut & in_trial_KW[:, None, :]) | (row_KC > last)[:, :, None]


def gather_windows(x_BHTE: Tensor, blocks: Blocks) -> Tensor:
    """Return the bins around each block, (B, H, K, W, E); zero past the trial."""
    gathered: Tensor = _GatherWindows.apply(x_BHTE, blocks)  # type: ignore[no-untyped-call]
    return gathered


class _GatherWindows(torch.autograd.Function):
    """Copies overlapping windows; its gradient adds them up again.

    Written out because the gradient of ``Tensor.unfold`` adds number by number. Bins and the
    width of a head are treated as one axis, so that both directions run over long stretches of
    memory.
    """

    @staticmethod
    def forward(ctx: Any, x_BHTE: Tensor, blocks: Blocks) -> Tensor:
        ctx.blocks = blocks
        spare = blocks.n_blocks * blocks.size - blocks.n_bins
        padded_BHTE = F.pad(x_BHTE, (0, 0, blocks.back, blocks.forward + spare))
        width = x_BHTE.shape[-1]
        windows = padded_BHTE.flatten(-2).unfold(-1, blocks.around * width, blocks.size * width)
        return windows.view(*windows.shape[:-1], blocks.around, width).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        blocks: Blocks = ctx.blocks
        (grad_BHKWE,) = grads
        width = grad_BHKWE.shape[-1]
        stride = blocks.size * width
        pieces = grad_BHKWE.flatten(-2).split(stride, dim=-1)
        n_trials, n_heads = grad_BHKWE.shape[:2]
        total = grad_BHKWE.new_zeros(n_trials, n_heads, blocks.n_blocks + len(pieces) - 1, stride)
        # Piece j of the window of block i lies on block i + j of the padded trial.
        for j, piece in enumerate(pieces):
            total[:, :, j : j + blocks.n_blocks, : piece.shape[-1]] += piece
        padded_BHTE = total.view(n_trials, n_heads, total.shape[2] * blocks.size, width)
        return padded_BHTE[:, :, blocks.back : blocks.back + blocks.n_bins], None
