"""The context window of attention, and how a trial is cut into blocks to compute no more than it.

Axes: B trials, T bins that attend (rows), S bins attended to (columns), K blocks of a trial, C bins
of a block, W bins of a block and around it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ndt_cli.settings.tree import ModelSettings


@dataclass(frozen=True)
class Context:
    """The context window of one layer: bin i sees bin j if ``i - back <= j <= i + forward``.

    ``None`` means no limit on that side. With ``wrap_initial`` the first ``back`` bins all see
    one another, so that the start of a trial is not inferred from a bin or two. ``head_spans`` says
    over how many bins the attention of each head falls by a factor of e; empty: it does not.
    """

    back: int | None
    forward: int | None
    wrap_initial: bool = False
    head_spans: tuple[float, ...] = ()

    @classmethod
    def from_settings(cls, settings: ModelSettings) -> "Context":
        if settings.full_context:
            return cls(None, None, head_spans=settings.head_spans)
        back = None if settings.context_back < 0 else settings.context_back
        forward = None if settings.context_forward < 0 else settings.context_forward
        # Without a limit behind there is no initial segment to join.
        wrap_initial = settings.context_wrap_initial and back is not None
        return cls(back, forward, wrap_initial, settings.head_spans)

    def reach(self, n_bins: int) -> tuple[int, int]:
        """Return how far a bin sees back and forward in a trial of ``n_bins``."""
        most = n_bins - 1
        back = most if self.back is None else min(self.back, most)
        forward = most if self.forward is None else min(self.forward, most)
        return back, max(forward, back - 1) if self.wrap_initial else forward

    def allowed_TS(self, n_bins: int, device: torch.device | str = "cpu") -> Tensor:
        """Return a bool matrix, True where row bin may attend to column bin."""
        bins = torch.arange(n_bins, device=device)
        ahead_TS = bins[None, :] - bins[:, None]
        allowed_TS = torch.ones(n_bins, n_bins, dtype=torch.bool, device=device)
        if self.back is not None:
            allowed_TS &= ahead_TS >= -self.back
        if self.forward is not None:
            allowed_TS &= ahead_TS <= self.forward
        if self.wrap_initial and self.back is not None:
            initial_T = bins < self.back
            allowed_TS |= initial_T[:, None] & initial_T[None, :]
        return allowed_TS

    def lowered(self, distance: Tensor) -> Tensor:
        """Return what is added to the scores of bins at a distance, (..., H, C, W) for (..., C, W).

        Of head h it is -distance / span_h (Press et al. 2022, section 3, in both directions); zeros
        for one head if attention does not fall with distance.
        """
        if not self.head_spans:
            return torch.zeros_like(distance, dtype=torch.float32).unsqueeze(-3)
        # Not by a tensor of spans: a step that is captured on a GPU can copy nothing to it.
        return torch.stack([-distance / span for span in self.head_spans], dim=-3)


# Rows of scores are read in vectors of this many numbers, so wider rows come in such steps.
_VECTOR = 16
# What gathering one bin into a window costs, in scores.
_GATHER_COST = 64
# A GPU scores all pairs of so few bins sooner than it starts the operations that cut them.
_WHOLE_ON_GPU = 256


@dataclass(frozen=True)
class Blocks:
    """How a trial of ``n_bins`` is cut."""

    n_bins: int
    size: int  # the last block may reach past the trial
    back: int  # bins around a block that its bins may attend to
    forward: int

    @property
    def n_blocks(self) -> int:
        return math.ceil(self.n_bins / self.size)

    @property
    def around(self) -> int:
        """W."""
        return self.back + self.size + self.forward

    @property
    def spare(self) -> int:
        """Bins of the last block that lie past the trial."""
        return self.n_blocks * self.size - self.n_bins

    @property
    def cost(self) -> int:
        """Scores to compute for a trial, with gathering counted as scores."""
        row = math.ceil(self.around / _VECTOR) * _VECTOR
        return self.n_blocks * (self.size * row + _GATHER_COST * self.around)

    @classmethod
    def whole(cls, n_bins: int) -> "Blocks":
        """Return the cut into one block, the trial."""
        return cls(n_bins, n_bins, 0, 0)

    @classmethod
    def for_context(cls, context: Context, n_bins: int, device: torch.device) -> "Blocks":
        """Return the cut whose scores cost least on this device."""
        whole = cls.whole(n_bins)
        if device.type == "cuda" and n_bins <= _WHOLE_ON_GPU:
            return whole
        if context.back is None or context.forward is None or context.wrap_initial:
            return whole
        cuts = [cls(n_bins, size, context.back, context.forward) for size in range(4, n_bins)]
        return min([whole, *cuts], key=lambda blocks: blocks.cost)

    def row_KC(self, device: torch.device) -> Tensor:
        """Return the bin of each row of each block; the last ones may lie past the trial."""
        return torch.arange(self.n_blocks * self.size, device=device).view(-1, self.size)

    def column_KW(self, device: torch.device) -> Tensor:
        """Return the bins that each block looks at; the first and last may lie outside."""
        first_K = torch.arange(self.n_blocks, device=device) * self.size - self.back
        return first_K[:, None] + torch.arange(self.around, device=device)

    def distance_KCW(self, device: torch.device) -> Tensor:
        """Return how many bins lie between each row of a block and each bin that it looks at."""
        return (self.row_KC(device)[:, :, None] - self.column_KW(device)[:, None, :]).abs()

    def cut_out(self, allowed: Tensor) -> Tensor:
        """Cut a (..., T, T) bool matrix to (..., K, C, W); False past the trial.

        A row past the trial, which no one reads, allows everything: softmax of a row without
        an allowed bin would be NaN.
        """
        row_KC, column_KW = self.row_KC(allowed.device), self.column_KW(allowed.device)
        in_trial_KW = (column_KW >= 0) & (column_KW < self.n_bins)
        last = self.n_bins - 1
        cut = allowed[..., row_KC.clamp_max(last)[:, :, None], column_KW.clamp(0, last)[:, None, :]]
        return (cut & in_trial_KW[:, None, :]) | (row_KC > last)[:, :, None]
