"""The feed-forward part for CPUs, with its gradient written out.

Axes: B trials, T bins, D width; R = B * T rows, F hidden units.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ndt_cli.model.dropout import LANES, Dropout
from ndt_cli.model.fast_attention import keep, split_bias, with_bias, with_ones


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
        _Plan(activation, None if p == 0 else dropout, p, dtype),
    )
    return output


@dataclass(frozen=True)
class _Plan:
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
        plan: _Plan,
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
