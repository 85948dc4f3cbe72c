"""Encoder layers for CPUs, with their gradients written out.

The same mathematics as `ndt_cli.model.network.PlainMath`, in fewer passes over memory: keys and
values are copied once into the windows of their blocks, dropout clears bits instead of
multiplying, and its scale is moved into the weights that follow.

Axes: B trials, T bins, H heads, D width, E width of a head, F hidden units; K blocks of a trial, C
bins of a block, W bins that a block attends to; R = B * T rows, G = B * K * H matrices, I width of
a row with its one.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndt_cli.model.attention import ContextAttention, Window
from ndt_cli.model.context import Blocks
from ndt_cli.model.dropout import LANES, Dropout
from ndt_cli.model.network import EncoderLayer, PlainMath

# Matrices whose width is a multiple of this are multiplied faster.
_COLUMNS = 8


@dataclass(frozen=True)
class CpuMath:
    """The parts of a layer by the functions below, a `LayerMath` for tensors on a CPU."""

    dtype: torch.dtype = torch.float32

    def attend(
        self, layer: EncoderLayer, x_BTD: Tensor, window: Window, dropout: Dropout | None
    ) -> Tensor:
        if x_BTD.numel() == 0:  # a process may hold no trial of a small batch
            return PlainMath(self.dtype).attend(layer, x_BTD, window, dropout)
        return fast_attention(x_BTD, layer.attention, window, dropout, layer.p)

    def feed(self, layer: EncoderLayer, x_BTD: Tensor, dropout: Dropout | None) -> Tensor:
        if x_BTD.numel() == 0:
            return PlainMath(self.dtype).feed(layer, x_BTD, dropout)
        return fast_feedforward(
            x_BTD, layer.expand, layer.contract, layer.activation, dropout, layer.p, self.dtype
        )


def fast_attention(
    x_BTD: Tensor, layer: ContextAttention, window: Window, dropout: Dropout | None, p_out: float
) -> Tensor:
    """Return what ``layer`` gives, with dropout of its output added, (B, T, D).

    The result, and what is computed on the way, have the dtype of the window.

    Parameters
    ----------
    x_BTD : Tensor
        float32, on a CPU.
    layer : ContextAttention
        The weights, and the dropout of attention weights.
    window : Window
        Of `ndt_cli.model.attention.Windows`; bfloat16 or float32.
    dropout : Dropout or None
        None outside training.
    p_out : float
        Dropout of the output.
    """
    attended: Tensor = _FastAttention.apply(  # type: ignore[no-untyped-call]
        x_BTD,
        layer.qkv.weight,
        layer.qkv.bias,
        layer.out.weight,
        layer.out.bias,
        layer.added(window),
        window,
        _AttentionPlan(layer.n_heads, dropout, layer.dropout, p_out),
    )
    return attended


@dataclass(frozen=True)
class _AttentionPlan:
    n_heads: int
    dropout: Dropout | None
    p_weights: float
    p_out: float

    def kept(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor | None:
        if self.dropout is None or p == 0:
            return None
        return self.dropout.kept_lanes(shape, p, dtype)

    def scale(self, p: float) -> float:
        return 1.0 if self.dropout is None or p == 0 else self.dropout.scale(p)


class _FastAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        qkv_weight: Tensor,
        qkv_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        added: Tensor,
        window: Window,
        plan: _AttentionPlan,
    ) -> Tensor:
        n_trials, n_bins, width = x_BTD.shape
        dtype, blocks, n_heads = window.blocked.dtype, window.blocks, plan.n_heads
        x_RI = with_ones(x_BTD.reshape(-1, width), dtype)
        # 1 / sqrt(E) of the scores, in the weights of the queries.
        scales = torch.ones(3 * width, 1)
        scales[:width] = (width // n_heads) ** -0.5
        w_qkv = with_bias(qkv_weight * scales, qkv_bias * scales[:, 0], x_RI)
        qkv = _project(x_RI, w_qkv, blocks)
        q_GCE, k_GWE, v_GWE = (_heads(qkv, i, n_trials, n_heads, blocks) for i in range(3))

        shape = (n_trials, blocks.n_blocks, n_heads, blocks.size, blocks.around)
        scores = torch.bmm(q_GCE, k_GWE.transpose(1, 2)).view(shape).add_(added)
        weights = scores.softmax(dim=-1)
        kept_weights = plan.kept(weights.shape, plan.p_weights, dtype)
        dropped_GCW = keep(weights, kept_weights).view(-1, *shape[3:])
        attended_RI = _ones_at(torch.empty_like(x_RI), width)
        _put_back(torch.bmm(dropped_GCW, v_GWE), attended_RI[:, :width], shape)

        scale_out = plan.scale(plan.p_out)
        scale_all = scale_out * plan.scale(plan.p_weights)
        w_out = with_bias(out_weight * scale_all, out_bias * scale_out, x_RI)
        out_RD = attended_RI @ w_out.t()
        kept_out = plan.kept(out_RD.shape, plan.p_out, dtype)
        if kept_out is not None:
            out_RD.view(kept_out.dtype).bitwise_and_(kept_out)

        ctx.save_for_backward(x_RI, q_GCE, k_GWE, v_GWE, weights, attended_RI, w_qkv, w_out, scales)
        ctx.kept = (kept_weights, kept_out)
        ctx.scales_out = (scale_out, scale_all)
        ctx.blocks = blocks
        ctx.added_shape = added.shape
        return out_RD.view(n_trials, n_bins, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, q_GCE, k_GWE, v_GWE, weights, attended_RI, w_qkv, w_out, scales = ctx.saved_tensors
        kept_weights, kept_out = ctx.kept
        scale_out, scale_all = ctx.scales_out
        blocks: Blocks = ctx.blocks
        shape = weights.shape
        n_trials, n_bins, width = grads[0].shape

        grad_RD = keep(grads[0].reshape(-1, width), kept_out)
        grad_w_out, grad_b_out = split_bias(grad_RD.t() @ attended_RI, width)
        grad_GCE = _cut(grad_RD @ w_out[:, :width], shape, blocks)

        grad_weights = torch.bmm(grad_GCE, v_GWE.transpose(1, 2)).view(shape)
        grad_weights = keep(grad_weights, kept_weights)
        dropped_GCW = keep(weights, kept_weights).view(-1, *shape[3:])
        grad_v_GWE = torch.bmm(dropped_GCW.transpose(1, 2), grad_GCE)
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, x_RI.dtype)
        # Of the bias by relative position: all trials have the same, unless some are padded.
        grad_added = grad_scores.sum_to_size(ctx.added_shape) if ctx.needs_input_grad[5] else None
        grad_GCW = grad_scores.view(-1, *shape[3:])
        grad_q_GCE = torch.bmm(grad_GCW, k_GWE)
        grad_k_GWE = torch.bmm(grad_GCW.transpose(1, 2), q_GCE)

        grad_qkv = x_RI.new_empty(n_trials * n_bins, 3 * width)
        parts = (grad_q_GCE, _add_up(grad_k_GWE, shape, blocks), _add_up(grad_v_GWE, shape, blocks))
        for part, place in zip(parts, grad_qkv.chunk(3, dim=1), strict=True):
            _put_back(part, place, shape)
        grad_x = (grad_qkv @ w_qkv[:, :width]).float().view(n_trials, n_bins, width)
        grad_w_qkv, grad_b_qkv = split_bias(grad_qkv.t() @ x_RI, width)
        return (
            grad_x,
            grad_w_qkv.mul_(scales),
            grad_b_qkv.mul_(scales[:, 0]),
            grad_w_out.mul_(scale_all),
            grad_b_out.mul_(scale_out),
            grad_added,
            None,
            None,
        )


def with_ones(x_RD: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows followed by a one, and zeros up to a width that multiplies well.

    The bias is then a column of the weights, and its gradient comes with theirs: adding and
    summing it apart would be two more passes.
    """
    n_rows, width = x_RD.shape
    x_RI = torch.empty(n_rows, -(-(width + 1) // _COLUMNS) * _COLUMNS, dtype=dtype)
    x_RI[:, :width] = x_RD
    return _ones_at(x_RI, width)


def _ones_at(x_RI: Tensor, width: int) -> Tensor:
    x_RI[:, width + 1 :] = 0
    x_RI[:, width] = 1
    return x_RI


def with_bias(weight: Tensor, bias: Tensor, x_RI: Tensor) -> Tensor:
    """Return the weights for rows of `with_ones`, in their dtype."""
    whole = torch.zeros(len(weight), x_RI.shape[1], dtype=x_RI.dtype)
    whole[:, : weight.shape[1]] = weight
    whole[:, weight.shape[1]] = bias
    return whole


def split_bias(grad: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weights and of the bias, float32."""
    grad = grad.float()
    return grad[:, :width], grad[:, width]


def keep(x: Tensor, kept: Tensor | None) -> Tensor:
    """Return ``x`` with the bits cleared where ``kept`` has none; see `Dropout.kept_lanes`."""
    return x if kept is None else (x.view(LANES[x.dtype]) & kept).view(x.dtype)


def _project(x_RI: Tensor, weight: Tensor, blocks: Blocks) -> Tensor:
    """Project to queries, keys and values, with rows of zeros around for the outer windows."""
    n_rows, after = len(x_RI), blocks.spare + blocks.forward
    qkv = x_RI.new_empty(blocks.back + n_rows + after, len(weight))
    qkv[: blocks.back] = 0
    qkv[blocks.back + n_rows :] = 0
    torch.mm(x_RI, weight.t(), out=qkv[blocks.back : blocks.back + n_rows])
    return qkv


def _heads(qkv: Tensor, i: int, n_trials: int, n_heads: int, blocks: Blocks) -> Tensor:
    """Copy queries (i = 0), keys (1) or values (2) out, a matrix for each trial, block and head.

    A window reaches into the next trial at the end of one; those bins are blocked.
    """
    row = qkv.shape[1]
    width = row // 3
    n_bins, first = (blocks.size, blocks.back) if i == 0 else (blocks.around, 0)
    size = (n_trials, blocks.n_blocks, n_heads, n_bins, width // n_heads)
    stride = (blocks.n_bins * row, blocks.size * row, width // n_heads, row, 1)
    return qkv.as_strided(size, stride, first * row + i * width).reshape(-1, *size[3:])


def _put_back(x_GCE: Tensor, place_RD: Tensor, shape: tuple[int, ...]) -> None:
    """Copy blocks and heads, (B * K * H, C, E), to where they belong."""
    n_trials, n_blocks, n_heads, size, _ = shape
    x_BKCHE = x_GCE.view(n_trials, n_blocks, n_heads, size, -1).transpose(2, 3)
    place_BTHE = place_RD.unflatten(0, (n_trials, -1)).unflatten(-1, (n_heads, -1))
    n_bins = place_BTHE.shape[1]
    if n_blocks * size == n_bins:
        place_BTHE.unflatten(1, (n_blocks, size)).copy_(x_BKCHE)
    else:
        place_BTHE.copy_(x_BKCHE.flatten(1, 2)[:, :n_bins])


def _cut(x_RD: Tensor, shape: tuple[int, ...], blocks: Blocks) -> Tensor:
    """Undo `_put_back`; zero past the trial."""
    n_trials, n_blocks, n_heads, size, _ = shape
    x_BTD = F.pad(x_RD.view(n_trials, blocks.n_bins, -1), (0, 0, 0, blocks.spare))
    cut = x_BTD.view(n_trials, n_blocks, size, n_heads, -1).transpose(2, 3)
    return cut.reshape(-1, size, cut.shape[-1])


def _add_up(grad_GWE: Tensor, shape: tuple[int, ...], blocks: Blocks) -> Tensor:
    """Add the overlapping windows up, to (B * K * H, C, E)."""
    n_trials, n_blocks, n_heads, size, around = shape
    grad = grad_GWE.view(n_trials, n_blocks, n_heads, around, -1)
    back = blocks.back
    total = grad[:, :, :, back : back + size].contiguous()
    # Part j of the window of block i lies on block i + j.
    for j in range(-back // size, math.ceil(blocks.forward / size) + 1):
        first, last = max(0, back + j * size), min(around, back + (j + 1) * size)
        if j == 0 or abs(j) >= n_blocks:
            continue
        to = total[:, max(j, 0) : n_blocks + min(j, 0), :, first - back - j * size :]
        to[:, :, :, : last - first] += grad[:, max(-j, 0) : n_blocks - max(j, 0), :, first:last]
    return total.view(-1, size, total.shape[-1])


def fast_feedforward(
    x_BTD: Tensor,
    expand: nn.Linear,
    contract: nn.Linear,
    activation: Literal["relu", "gelu"],
    dropout: Dropout | None,
    p: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``drop(contract(drop(activation(expand(x)))))``, (B, T, D), in ``dtype``.

    Parameters
    ----------
    x_BTD : Tensor
        float32, on a CPU.
    expand, contract : nn.Linear
        The weights.
    activation : {"relu", "gelu"}
    dropout : Dropout or None
        None outside training.
    p : float
        Dropout of the hidden units and of the output.
    dtype : {torch.bfloat16, torch.float32}
        What it is computed in.
    """
    output: Tensor = _FastFeedForward.apply(  # type: ignore[no-untyped-call]
        x_BTD,
        expand.weight,
        expand.bias,
        contract.weight,
        contract.bias,
        _FeedforwardPlan(activation, None if p == 0 else dropout, p, dtype),
    )
    return output


@dataclass(frozen=True)
class _FeedforwardPlan:
    activation: Literal["relu", "gelu"]
    dropout: Dropout | None
    p: float
    dtype: torch.dtype


class _FastFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        expand_weight: Tensor,
        expand_bias: Tensor,
        contract_weight: Tensor,
        contract_bias: Tensor,
        plan: _FeedforwardPlan,
    ) -> Tensor:
        dtype, lane = plan.dtype, LANES[plan.dtype]
        x_RI = with_ones(x_BTD.reshape(-1, x_BTD.shape[-1]), dtype)
        w_expand = with_bias(expand_weight, expand_bias, x_RI)
        before_RF = hidden_RF = x_RI @ w_expand.t()
        if plan.activation == "relu":
            # As integers they have the same sign, and compare in a tenth of the time.
            hidden_RF.view(lane).clamp_min_(0)
        else:
            hidden_RF = torch.nn.functional.gelu(before_RF)
        dropout, scale = plan.dropout, 1.0
        kept_hidden = kept_out = None
        if dropout is not None:
            scale = dropout.scale(plan.p)
            kept_hidden = dropout.kept_lanes(hidden_RF.shape, plan.p, dtype)
            hidden_RF.view(lane).bitwise_and_(kept_hidden)
        w_contract = (contract_weight * scale**2).to(dtype)
        out_RD = torch.addmm((contract_bias * scale).to(dtype), hidden_RF, w_contract.t())
        if dropout is not None:
            kept_out = dropout.kept_lanes(out_RD.shape, plan.p, dtype)
            out_RD.view(lane).bitwise_and_(kept_out)
        if plan.activation == "relu":
            # What passed is above zero: nothing else need be kept.
            ctx.save_for_backward(x_RI, hidden_RF, w_expand, w_contract)
            ctx.kept = (None, kept_out)
        else:
            ctx.save_for_backward(x_RI, hidden_RF, w_expand, w_contract, before_RF)
            ctx.kept = (kept_hidden, kept_out)
        ctx.scale = scale
        return out_RD.view(x_BTD.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_RI, hidden_RF, w_expand, w_contract, *before = ctx.saved_tensors
        kept_hidden, kept_out = ctx.kept
        scale: float = ctx.scale
        grad_RD = keep(grads[0].reshape(-1, grads[0].shape[-1]), kept_out)
        grad_w_contract = (grad_RD.t() @ hidden_RF).float().mul_(scale**2)
        grad_b_contract = grad_RD.sum(0).float().mul_(scale)
        grad_RF = grad_RD @ w_contract
        if before:
            (before_RF,) = before
            grad_RF = torch.ops.aten.gelu_backward(keep(grad_RF, kept_hidden), before_RF)
        else:
            lane = LANES[hidden_RF.dtype]
            # All ones where the integer, and so the number, is above zero.
            passed = hidden_RF.view(lane).neg().bitwise_right_shift_(torch.iinfo(lane).bits - 1)
            grad_RF.view(lane).bitwise_and_(passed)
        width = grads[0].shape[-1]
        grad_x = (grad_RF @ w_expand[:, :width]).float().view(grads[0].shape)
        grad_w_expand, grad_b_expand = split_bias(grad_RF.t() @ x_RI, width)
        return grad_x, grad_w_expand, grad_b_expand, grad_w_contract, grad_b_contract, None
