"""Attention weights of every layer, which the network itself does not keep.

Axes: B trials, T bins that ask, S bins looked at, H heads, D width, E width of a head.
"""

import math

import torch
from torch import Tensor, nn

from ndt_cli.model.attention import ContextAttention
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer


def attention_weights(
    network: NeuralDataTransformer, input_BTN: Tensor, inside_BT: Tensor | None = None
) -> list[Tensor]:
    """Return the attention weights of each layer, as the network computes its rates.

    The network runs as ever; the weights are then made anew, in float32, from what went into
    each layer.

    Parameters
    ----------
    network : NeuralDataTransformer
        Any network; nothing is dropped.
    input_BTN : Tensor
        Spike counts.
    inside_BT : Tensor of bool, optional
        False for padding; no bin attends to it, and its own weights mean nothing.

    Returns
    -------
    list of (B, H, T, S) Tensor
        One a layer: softmax(q k^T / sqrt(E)) within the context window (Ye & Pandarinath 2021,
        section 2). The weights of a bin sum to 1 over S.
    """
    blocked = ~allowed_pairs(network, input_BTN.shape[1], inside_BT, input_BTN.device)
    weights: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, EncoderLayer)
        x_BTD = layer.norm_attention(inputs[0]) if layer.pre_norm else inputs[0]
        weights.append(_weights(layer.attention, x_BTD, blocked))

    hooks = [layer.register_forward_pre_hook(keep) for layer in network.layers]
    try:
        network.encode(input_BTN, inside_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return weights


def _weights(attention: ContextAttention, x_BTD: Tensor, blocked: Tensor) -> Tensor:
    q_BTD, k_BTD, _ = attention.qkv(x_BTD).chunk(3, dim=-1)
    q_BHTE, k_BHSE = (
        part.unflatten(-1, (attention.n_heads, -1)).transpose(1, 2) for part in (q_BTD, k_BTD)
    )
    scores_BHTS = q_BHTE @ k_BHSE.transpose(-1, -2) / math.sqrt(q_BHTE.shape[-1])
    weights_BHTS: Tensor = scores_BHTS.masked_fill(blocked, -math.inf).softmax(dim=-1)
    return weights_BHTS


def allowed_pairs(
    network: NeuralDataTransformer,
    n_bins: int,
    inside_BT: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Return which bins each bin may attend to: (1, 1, T, S), or (B, 1, T, S) with padding.

    A padded bin sees itself besides: a row without a single bin would be NaN.
    """
    allowed = network.context.allowed_TS(n_bins, device)[None, None]
    if inside_BT is None:
        return allowed
    itself_TS = torch.eye(n_bins, dtype=torch.bool, device=device)
    return (allowed & inside_BT[:, None, None, :]) | itself_TS
