"""A network made ready to infer on a CPU: weights cast and laid out once.

In a pass over a single trial, that and small calls cost more than the arithmetic.

Axes: B trials, T bins, N neurons, D width, H heads, E width of a head; K blocks of a trial, C bins
of a block, W bins that a block looks at; R = B * T rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndt_cli.model.attention import Window, Windows
from ndt_cli.model.band import Blocks
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer
from ndt_cli.model.threads import torch_threads

# Up to this many bins all pairs are scored: for so few, cutting costs more than it saves.
_WHOLE_BINS = 64

# Below so many numbers (rows by width) a call in bfloat16 takes longer than one in float32.
_FEW_NUMBERS = 16_384

# From so many on, arithmetic costs more than calls, and the layers that training takes are faster.
_MANY_NUMBERS = 40_000


class PreparedNetwork:
    """Gives what a `NeuralDataTransformer` gives without dropout, faster for few trials.

    Parameters
    ----------
    network : NeuralDataTransformer
        On a CPU. Changes of its weights after this are not seen.
    """

    def __init__(self, network: NeuralDataTransformer) -> None:
        self.network = network
        self._windows = Windows(network.context)
        dtypes = {torch.float32, network.compute_dtype}
        self._layers = {
            dtype: [
                _Layer(layer, dtype) for layer in network.layers if isinstance(layer, EncoderLayer)
            ]
            for dtype in dtypes
        }

    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`."""
        output: Tensor = self.network.readout(self.encode(input_BTN, inside_BT), None)
        return output

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations, (B, T, D) float32."""
        n_trials, n_bins, _ = input_BTN.shape
        if n_trials * n_bins * self.network.embedding.width >= _MANY_NUMBERS:
            return self.network.encode(input_BTN, inside_BT)
        # For so little, threads take longer to wake than to compute.
        with torch_threads(1):
            return self._encode_few(input_BTN, inside_BT)

    def _encode_few(self, input_BTN: Tensor, inside_BT: Tensor | None) -> Tensor:
        n_bins = input_BTN.shape[1]
        x_BTD = self.network.embedding(input_BTN, None)
        dtype = torch.float32 if x_BTD.numel() < _FEW_NUMBERS else self.network.compute_dtype
        window = self._windows(
            n_bins,
            inside_BT,
            dtype,
            input_BTN.device,
            Blocks.whole(n_bins) if n_bins <= _WHOLE_BINS else None,
        )
        for layer in self._layers[dtype]:
            x_BTD = layer(x_BTD, window)
        normed_BTD: Tensor = self.network.norm(x_BTD)
        return normed_BTD


class _Layer:
    def __init__(self, layer: EncoderLayer, dtype: torch.dtype) -> None:
        self.layer = layer
        self.dtype = dtype
        self.n_heads = layer.attention.n_heads
        self.qkv = _weights(layer.attention.qkv, dtype)
        self.out = _weights(layer.attention.out, dtype)
        self.expand = _weights(layer.expand, dtype)
        self.contract = _weights(layer.contract, dtype)

    def __call__(self, x_BTD: Tensor, window: Window) -> Tensor:
        layer = self.layer
        if layer.pre_norm:
            x_BTD = x_BTD + self._attend(layer.norm_attention(x_BTD), window)
            return x_BTD + self._feed(layer.norm_feedforward(x_BTD))
        x_BTD = layer.norm_attention(x_BTD + self._attend(x_BTD, window))
        normed_BTD: Tensor = layer.norm_feedforward(x_BTD + self._feed(x_BTD))
        return normed_BTD

    def _attend(self, x_BTD: Tensor, window: Window) -> Tensor:
        n_trials, n_bins, width = x_BTD.shape
        blocks, n_heads = window.blocks, self.n_heads
        x_RD = x_BTD.reshape(-1, width).to(self.dtype)
        qkv_BTI = _apply(self.qkv, x_RD).view(n_trials, n_bins, 3 * width)
        if blocks.n_blocks > 1:
            # What the first and the last block see outside the trial, and give no weight to.
            before, after = blocks.back, blocks.spare + blocks.forward
            zeros_BTI = qkv_BTI.new_zeros(n_trials, max(before, after), 3 * width)
            qkv_BTI = torch.cat([zeros_BTI[:, :before], qkv_BTI, zeros_BTI[:, :after]], dim=1)

        def heads(third: int, first_bin: int, n: int) -> Tensor:
            """Look at ``n`` bins of each block, from ``first_bin`` of the padded trial on."""
            in_trial, in_bin, _ = qkv_BTI.stride()
            size = (n_trials, blocks.n_blocks, n_heads, n, width // n_heads)
            stride = (in_trial, blocks.size * in_bin, width // n_heads, in_bin, 1)
            start = first_bin * in_bin + third * width
            return qkv_BTI.as_strided(size, stride, start).flatten(0, 1)  # a view for one trial

        # PyTorch's fused kernel takes no more than four axes.
        attended_GHCE = F.scaled_dot_product_attention(
            heads(0, blocks.back, blocks.size),
            heads(1, 0, blocks.around),
            heads(2, 0, blocks.around),
            window.blocked.expand(n_trials, *window.blocked.shape[-4:]).flatten(0, 1),
        )
        attended_BTD = attended_GHCE.transpose(1, 2).reshape(n_trials, -1, width)[:, :n_bins]
        return _apply(self.out, attended_BTD.reshape(-1, width)).view(x_BTD.shape)

    def _feed(self, x_BTD: Tensor) -> Tensor:
        hidden_RF = _apply(self.expand, x_BTD.reshape(-1, x_BTD.shape[-1]).to(self.dtype))
        hidden_RF = hidden_RF.relu_() if self.layer.activation == "relu" else F.gelu(hidden_RF)
        return _apply(self.contract, hidden_RF).view(x_BTD.shape)


def _weights(linear: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return linear.bias.detach().to(dtype), linear.weight.detach().t().to(dtype).contiguous()


def _apply(weights: tuple[Tensor, Tensor], x_RD: Tensor) -> Tensor:
    return torch.addmm(weights[0], x_RD, weights[1])
