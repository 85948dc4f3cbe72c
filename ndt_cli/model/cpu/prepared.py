"""A network made ready to infer on a CPU: weights cast and laid out once.

In a pass over a single trial, that and small calls cost more than the arithmetic.

Axes: B trials, T bins, N neurons, D width, H heads, E width of a head; K blocks of a trial, C bins
of a block, W bins that a block looks at. What is added to the scores may be the same for all heads.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndt_cli.model.attention import Windows
from ndt_cli.model.context import Blocks
from ndt_cli.model.cpu.processor import cpu_has_tiles, torch_threads
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer

# Up to this many bins all pairs are scored: for so few, cutting costs more than it saves.
_WHOLE_BINS = 64

# Below this many numbers (rows by width) a call in bfloat16 takes longer than one in float32.
_FEW_NUMBERS = 16_384

# From this many on, arithmetic costs more than calls: the layers that training takes are faster.
_MANY_NUMBERS = 40_000


class PreparedNetwork:
    """Gives what a `NeuralDataTransformer` gives without dropout, faster for few trials.

    Parameters
    ----------
    network : NeuralDataTransformer
        On a CPU. Its weights must stay as they are, and no gradients be asked for.
    """

    def __init__(self, network: NeuralDataTransformer) -> None:
        self.network = network
        self._windows = Windows(network.context)
        dtypes = {torch.float32, network.math.dtype}
        self._layers = {
            dtype: [_Layer(cast(EncoderLayer, layer), dtype) for layer in network.layers]
            for dtype in dtypes
        }

    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`."""
        output: Tensor = self.network.readout(self.encode(input_BTN, inside_BT), None)
        return output

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations, (B, T, D) float32."""
        numbers = input_BTN[..., 0].numel() * self.network.embedding.width
        if numbers >= _MANY_NUMBERS or numbers == 0:
            return self.network.encode(input_BTN, inside_BT)
        # For so little, threads take longer to wake than to compute.
        with torch_threads(1):
            x_BTD = self.network.embedding(input_BTN, None)
            encoded_BTD = [
                self._encode_one(x_TD, None if inside_BT is None else inside_BT[i : i + 1])
                for i, x_TD in enumerate(x_BTD)
            ]
            normed_BTD: Tensor = self.network.norm(torch.stack(encoded_BTD))
            return normed_BTD

    def _encode_one(self, x_TD: Tensor, inside_1T: Tensor | None) -> Tensor:
        n_bins = len(x_TD)
        dtype = torch.float32 if x_TD.numel() < _FEW_NUMBERS else self.network.math.dtype
        blocks = Blocks.whole(n_bins) if n_bins <= _WHOLE_BINS else None
        window = self._windows(n_bins, inside_1T, dtype, x_TD.device, blocks)
        for layer in self._layers[dtype]:
            added = layer.added(window)
            x_TD = layer(x_TD, window.blocks, added if inside_1T is None else added[0])
        return x_TD


class _Layer:
    """A layer of a trial."""

    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.pre_norm = layer.pre_norm
        self.n_heads = layer.attention.n_heads
        self.norms = _norm(layer.norm_attention), _norm(layer.norm_feedforward)
        self.added = layer.attention.added
        self.qkv = _weights(layer.attention.qkv, dtype)
        self.out = _weights(layer.attention.out, dtype)
        self.expand = _weights(layer.expand, dtype)
        self.contract = _weights(layer.contract, dtype)
        self.activate = torch.relu_ if layer.activation == "relu" else F.gelu
        # In bfloat16, PyTorch's fused attention is the faster one only where there are tiles.
        fused = dtype == torch.float32 or cpu_has_tiles()
        self.weigh = F.scaled_dot_product_attention if fused else _weigh

    def __call__(self, x_TD: Tensor, blocks: Blocks, added_KHCW: Tensor) -> Tensor:
        norm_attention, norm_feedforward = self.norms
        if self.pre_norm:
            x_TD = x_TD + self._attend(norm_attention(x_TD), blocks, added_KHCW)
            return x_TD + self._feed(norm_feedforward(x_TD))
        x_TD = norm_attention(x_TD + self._attend(x_TD, blocks, added_KHCW))
        return norm_feedforward(x_TD + self._feed(x_TD))

    def _attend(self, x_TD: Tensor, blocks: Blocks, added_KHCW: Tensor) -> Tensor:
        n_bins, width = x_TD.shape
        row = 3 * width
        # The first and the last block see zeros outside the trial, and give no weight to them.
        first, last = blocks.back, blocks.back + n_bins
        qkv = torch.empty(last + blocks.spare + blocks.forward, row, dtype=self.dtype)
        if blocks.n_blocks > 1:
            qkv[:first].zero_()
            qkv[last:].zero_()
        bias, weight = self.qkv
        torch.addmm(bias, x_TD.to(self.dtype), weight, out=qkv[first:last])

        size = (blocks.n_blocks, self.n_heads, blocks.size, width // self.n_heads)
        size_around = (*size[:2], blocks.around, size[3])
        stride = (blocks.size * row, size[3], row, 1)
        attended_KHCE = self.weigh(
            qkv.as_strided(size, stride, first * row),
            qkv.as_strided(size_around, stride, width),
            qkv.as_strided(size_around, stride, 2 * width),
            added_KHCW,
        )
        attended_TD = attended_KHCE.transpose(1, 2).reshape(-1, width)[:n_bins]
        return torch.addmm(self.out[0], attended_TD, self.out[1])

    def _feed(self, x_TD: Tensor) -> Tensor:
        hidden_TF = torch.addmm(self.expand[0], x_TD.to(self.dtype), self.expand[1])
        return torch.addmm(self.contract[0], self.activate(hidden_TF), self.contract[1])


def _weigh(q_KHCE: Tensor, k_KHWE: Tensor, v_KHWE: Tensor, added_KHCW: Tensor) -> Tensor:
    """Do what `F.scaled_dot_product_attention` does."""
    scaled_KHCE = q_KHCE * q_KHCE.shape[-1] ** -0.5
    scores_KHCW = (scaled_KHCE @ k_KHWE.transpose(-1, -2)).add_(added_KHCW)
    weighted_KHCE: Tensor = scores_KHCW.softmax(dim=-1) @ v_KHWE
    return weighted_KHCE


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    if not isinstance(norm, nn.LayerNorm):
        return norm
    shape, weight, bias = list(norm.normalized_shape), norm.weight.detach(), norm.bias.detach()
    # Calling the module takes a third as long as computing it.
    return lambda x: torch.layer_norm(x, shape, weight, bias, norm.eps)


def _weights(linear: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return linear.bias.detach().to(dtype), linear.weight.detach().t().to(dtype).contiguous()
