"""The Neural Data Transformer (Ye & Pandarinath 2021, section 2).

Axes: B trials, T bins, N neurons, D width of the encoder, L layers, C spike-count classes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndt_cli.model.attention import (
    ContextAttention,
    RelativePositions,
    Window,
    Windows,
    linear,
)
from ndt_cli.model.context import Context
from ndt_cli.model.dropout import Dropout
from ndt_cli.model.embedding import Embedding, encoder_width
from ndt_cli.model.losses import cross_entropy_BTN, poisson_loss_BTN
from ndt_cli.settings.tree import ModelSettings


@dataclass(frozen=True)
class ModelShape:
    """What the data decide about the network.

    Parameters
    ----------
    n_neurons : int
        N, held-out neurons included.
    n_bins : int
        T, forward bins included; the longest trial that learned positions can take.
    max_count : int
        Largest spike count in the training trials.
    """

    n_neurons: int
    n_bins: int
    max_count: int


class LayerMath(Protocol):
    """How the two parts of an encoder layer are computed.

    All ways give the same results but for rounding, and draw the same dropout.

    Attributes
    ----------
    dtype : torch.dtype
        Of the matrix products.
    """

    @property
    def dtype(self) -> torch.dtype: ...

    def attend(
        self, layer: "EncoderLayer", x_BTD: Tensor, window: Window, dropout: Dropout | None
    ) -> Tensor:
        """Return the attention part, with dropout of its output, before the residual."""

    def feed(self, layer: "EncoderLayer", x_BTD: Tensor, dropout: Dropout | None) -> Tensor:
        """Return the feed-forward part, with dropout of its output, before the residual."""


@dataclass(frozen=True)
class PlainMath:
    """PyTorch's own operations and automatic gradients: the reference, on any device."""

    dtype: torch.dtype = torch.float32

    def attend(
        self, layer: "EncoderLayer", x_BTD: Tensor, window: Window, dropout: Dropout | None
    ) -> Tensor:
        return _drop(layer.attention(x_BTD.to(self.dtype), window, dropout), layer.p, dropout)

    def feed(self, layer: "EncoderLayer", x_BTD: Tensor, dropout: Dropout | None) -> Tensor:
        activation = F.relu if layer.activation == "relu" else F.gelu
        hidden = activation(linear(x_BTD.to(self.dtype), layer.expand))
        return _drop(linear(_drop(hidden, layer.p, dropout), layer.contract), layer.p, dropout)


def _drop(x: Tensor, p: float, dropout: Dropout | None) -> Tensor:
    return x if dropout is None else dropout(x, p)


class NeuralDataTransformer(nn.Module):
    """Counts in, log-rates (or rates, or class scores) out.

    Parameters
    ----------
    settings : ModelSettings
        The ``[model]`` section.
    shape : ModelShape
        Neurons, bins and the largest count of the training data.

    math : LayerMath, optional
        How the parts of a layer are computed, and in which dtype. Default: by PyTorch's own
        operations in float32, on any device.

    Notes
    -----
    The weights are float32, and so are norms, the residual stream and the read-out, whatever the
    dtype of ``math``.
    """

    def __init__(
        self, settings: ModelSettings, shape: ModelShape, math: "LayerMath | None" = None
    ) -> None:
        super().__init__()
        self.math = math or PlainMath()
        self.settings = settings
        self.shape = shape
        self.context = Context.from_settings(settings)
        self.windows = Windows(self.context)
        width = encoder_width(settings, shape.n_neurons)
        self.embedding = Embedding(settings, shape.n_neurons, shape.n_bins, shape.max_count)
        reach = self.context.reach(shape.n_bins)
        self.layers = nn.ModuleList(
            EncoderLayer(settings, width, reach) for _ in range(settings.n_layers)
        )
        self.norm = nn.LayerNorm(width) if settings.norm == "layer" else ScaleNorm(width)
        self.readout = Readout(settings, width, shape)
        if settings.tfixup_init:
            self._tfixup()

    @torch.no_grad()
    def _tfixup(self) -> None:
        """Scale the weights of the encoder by 0.67 * L^(-1/4) (Huang et al. 2020).

        The value projection takes another sqrt(2). NDT1 left it out by mistake.
        """
        scale = 0.67 * len(self.layers) ** -0.25
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            layer.expand.weight.mul_(scale)
            layer.contract.weight.mul_(scale)
            layer.attention.out.weight.mul_(scale)
            layer.attention.qkv.weight.chunk(3)[2].mul_(scale * 2**0.5)

    def forward(
        self,
        input_BTN: Tensor,
        inside_BT: Tensor | None = None,
        dropout: Dropout | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """Return the read-out of a batch.

        Parameters
        ----------
        input_BTN : Tensor
            Spike counts, any integer dtype, hidden ones replaced.
        inside_BT : Tensor of bool, optional
            False for padding; no bin attends to it. Needed only when trials differ in length.
        dropout : Dropout, optional
            Given while training; without it nothing is dropped.
        window : Window, optional
            Who attends to whom, where it is not the network's own context (`windows`).

        Returns
        -------
        (B, T, N) float32, or (B, T, N, C) for the cross-entropy loss.
        """
        output: Tensor = self.readout(self.encode(input_BTN, inside_BT, dropout, window), dropout)
        return output

    def encode(
        self,
        input_BTN: Tensor,
        inside_BT: Tensor | None = None,
        dropout: Dropout | None = None,
        window: Window | None = None,
    ) -> Tensor:
        """Return the encoder's activations, (B, T, D) float32; parameters as in `forward`."""
        if window is None:
            window = self.windows(input_BTN.shape[1], inside_BT, self.math.dtype, input_BTN.device)
        x_BTD = self.embedding(input_BTN, dropout)
        for layer in self.layers:
            x_BTD = layer(x_BTD, window, dropout, self.math)
        normed_BTD: Tensor = self.norm(x_BTD)
        return normed_BTD

    def rates(self, output: Tensor) -> Tensor:
        """Turn a read-out into rates, (B, T, N) in expected spikes per bin."""
        if self.settings.loss == "cross-entropy":
            counts_C = torch.arange(output.shape[-1], device=output.device, dtype=output.dtype)
            expected: Tensor = output.softmax(-1) @ counts_C
            return expected
        return output.exp() if self.settings.log_rates else output

    def loss_BTN(self, output: Tensor, counts_BTN: Tensor) -> Tensor:
        """Loss of each entry, (B, T, N), for the loss that the settings name."""
        if self.settings.loss == "cross-entropy":
            return cross_entropy_BTN(output, counts_BTN)
        return poisson_loss_BTN(output, counts_BTN, self.settings.log_rates)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward part, each with dropout, a residual and a norm."""

    def __init__(self, settings: ModelSettings, width: int, reach: tuple[int, int]) -> None:
        super().__init__()
        self.pre_norm = settings.norm_place == "pre"
        self.p = settings.dropout
        relative = None
        if settings.positions == "relative":
            relative = RelativePositions(settings.n_heads, *reach)
        self.attention = ContextAttention(width, settings.n_heads, settings.dropout, relative)
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.expand = nn.Linear(width, settings.feedforward_size)
        self.contract = nn.Linear(settings.feedforward_size, width)
        self.activation = settings.activation

    def forward(
        self, x_BTD: Tensor, window: Window, dropout: Dropout | None, math: LayerMath
    ) -> Tensor:
        if self.pre_norm:
            x_BTD = x_BTD + math.attend(self, self.norm_attention(x_BTD), window, dropout)
            return x_BTD + math.feed(self, self.norm_feedforward(x_BTD), dropout)
        x_BTD = self.norm_attention(x_BTD + math.attend(self, x_BTD, window, dropout))
        normed_BTD: Tensor = self.norm_feedforward(x_BTD + math.feed(self, x_BTD, dropout))
        return normed_BTD


class Readout(nn.Module):
    """From the encoder's activations to log-rates, rates or class scores."""

    N_HIDDEN = 16  # of the two-layer variant

    def __init__(self, settings: ModelSettings, width: int, shape: ModelShape) -> None:
        super().__init__()
        self.p = settings.dropout_rates
        self.n_classes = shape.max_count + 1 if settings.loss == "cross-entropy" else None
        self.rectify = settings.loss == "poisson" and not settings.log_rates
        self.n_neurons = shape.n_neurons
        n_outputs = shape.n_neurons * (self.n_classes or 1)
        self.hidden = nn.Linear(width, self.N_HIDDEN) if settings.readout == "mlp" else None
        self.last = nn.Linear(self.N_HIDDEN if self.hidden else width, n_outputs)
        nn.init.uniform_(self.last.weight, -0.1, 0.1)
        nn.init.zeros_(self.last.bias)

    def forward(self, x_BTD: Tensor, dropout: Dropout | None) -> Tensor:
        if dropout is not None:
            x_BTD = dropout(x_BTD, self.p)
        if self.hidden is not None:
            x_BTD = self.hidden(x_BTD).relu()
        output: Tensor = self.last(x_BTD)
        if self.rectify:
            output = output.relu()
        if self.n_classes is not None:
            output = output.view(*output.shape[:-1], self.n_neurons, self.n_classes)
        return output

    @torch.no_grad()
    def start_at(self, rates_N: Tensor) -> None:
        """Set the bias so that, before training, the read-out gives about these rates.

        Parameters
        ----------
        rates_N : (neurons,) Tensor
            Expected spikes per bin, above 0.
        """
        if self.n_classes is not None:
            # Log-probability of each count under a Poisson distribution, up to a constant.
            counts_C = torch.arange(self.n_classes, dtype=rates_N.dtype)
            scores_NC = counts_C * rates_N.log()[:, None] - torch.lgamma(counts_C + 1)
            self.last.bias.copy_(scores_NC.flatten())
        else:
            self.last.bias.copy_(rates_N if self.rectify else rates_N.log())


class ScaleNorm(nn.Module):
    """Scale each vector to one learned length: ``g * x / ||x||`` (Nguyen & Salazar 2019).

    ``g`` starts at sqrt(width), the length of a vector of unit-variance entries.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(width) ** 0.5))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.gain * x / x.norm(dim=-1, keepdim=True).clamp_min(self.eps)
        return scaled
