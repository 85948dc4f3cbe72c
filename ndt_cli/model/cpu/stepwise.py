"""A network that takes one bin after another, in NumPy.

What the context window of a layer needs of earlier bins, their keys and values, is kept in a ring.
Where layers look ahead, each waits for ``context_forward`` bins before it gives a bin to the next.

For a single bin, calls cost more than arithmetic, and those of NumPy cost least. All is float32, in
memory that is allocated once.

Axes: N neurons, D width of the encoder, I width with a one after it, H heads, E width of a head, F
hidden units, W bins of a context window, O offsets, J values with a one after them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf
from torch import nn

from ndt_cli.errors import DataError, RunError
from ndt_cli.model.context import Context
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer, ScaleNorm

Float32Array = NDArray[np.float32]

# Sums of exponentials from this to its inverse are exact in float32, and so are their ratios.
_LEAST_SUM = 1e-30


class StepwiseNetwork:
    """Gives the rates of a `NeuralDataTransformer` bin by bin.

    Parameters
    ----------
    network : NeuralDataTransformer
        Its weights are copied.
    columns_N : (neurons,) int array
        The channel, in the order of the file, that each column of the network is.
    n_heldout : int
        Columns, the last ones, that are never seen.
    token : int
        What stood in place of hidden counts in training.
    name : str
        Of the model, for messages.

    Attributes
    ----------
    lag_bins : int
        A bin's rates are known this many bins later.
    memory : float32 array
        All that is remembered of earlier bins, but for their number.
    bins : list of int
        Bins that each layer has taken.

    Raises
    ------
    RunError
        If rates are never final while a recording goes on.
    """

    def __init__(
        self,
        network: NeuralDataTransformer,
        columns_N: NDArray[np.int64],
        n_heldout: int,
        token: int,
        name: str,
    ) -> None:
        settings, shape = network.settings, network.shape
        window = _window(network, name)
        self.lag_bins = window.forward * settings.n_layers
        in_trial = settings.positions in ("learned", "sinusoid")
        self._limit = shape.n_bins if in_trial or network.context.back is None else None
        self._limited_by = "learned" if in_trial else "back"
        self._name = name

        self._embed = _Embed(network, columns_N, n_heldout, token)
        layers = [layer for layer in network.layers if isinstance(layer, EncoderLayer)]
        self._layers = [
            _LayerStream(layer, window, network, i == 0) for i, layer in enumerate(layers)
        ]
        self.memory: Float32Array = np.zeros(
            sum(layer.n_remembered for layer in self._layers), dtype=np.float32
        )
        start = 0
        for layer in self._layers:
            layer.remember_in(self.memory[start : start + layer.n_remembered])
            start += layer.n_remembered
        self._before = np.empty_like(self.memory)
        self.bins = [0] * len(self._layers)  # that each layer has taken
        self._readout = _Readout(network, np.argsort(columns_N))

    @property
    def n_bytes(self) -> int:
        parts = (self._embed, self._readout, *self._layers)
        weights = sum(
            value.nbytes
            for part in parts
            for value in vars(part).values()
            if isinstance(value, np.ndarray) and value.base is None
        )
        return weights + self.memory.nbytes + self._before.nbytes

    def reset(self) -> None:
        self.bins[:] = [0] * len(self.bins)
        for layer in self._layers:
            layer.reset()

    def push(self, counts_N: NDArray[Any] | None) -> Float32Array | None:
        """Take a bin; return the rates of the bin that is now final."""
        if self._limit is not None and self.bins[0] == self._limit:
            self._refuse_more()
        x_D = self._embed(counts_N, self.bins[0])
        with np.errstate(over="ignore", invalid="ignore"):  # where a softmax needs its shift
            return self._through(x_D, 0)

    def flush(self) -> list[Float32Array]:
        """Return the rates of the bins that wait for bins that will not come."""
        found = []
        for first, layer in enumerate(self._layers):
            for _ in range(layer.window.forward):
                with np.errstate(over="ignore", invalid="ignore"):
                    rates_N = self._through(None, first)
                if rates_N is not None:
                    found.append(rates_N)
        return found

    def provisional(self) -> Float32Array:
        """Return the rates of the last bin if nothing follows it."""
        if not self.lag_bins:
            x_D = self._layers[-1].x_D
            return self._readout(x_D)
        bins = self.bins.copy()
        np.copyto(self._before, self.memory)
        try:
            return self.flush()[-1]
        finally:
            np.copyto(self.memory, self._before)
            self.bins[:] = bins

    def _through(self, x_D: Float32Array | None, first: int) -> Float32Array | None:
        """Take a bin, or the end of the recording (None), at a layer and on through those above."""
        for i in range(first, len(self._layers)):
            n_before = self.bins[i]
            self.bins[i] = n_before + 1
            x_D = self._layers[i].push(x_D, n_before)
            if x_D is None:
                return None
        assert x_D is not None
        return self._readout(x_D)

    def _refuse_more(self) -> None:
        if self._limited_by == "learned":
            why = "its positions are those of bins in a trial"
            instead = "train with `model.positions=relative`"
        else:
            why = "each bin attends to all bins before it"
            instead = "train with a context window, such as `model.context_back=20`"
        raise DataError(
            f"{self._name} was trained with trials of {self._limit} bins, and knows no more: {why}",
            f"Call `reset()` at the start of each trial, or {instead}.",
        )


@dataclass(frozen=True)
class _Window:
    back: int
    forward: int

    @property
    def n_bins(self) -> int:
        """W."""
        return self.back + 1 + self.forward


def _window(network: NeuralDataTransformer, name: str) -> _Window:
    context = network.context
    if context.forward is None:
        key = "full_context=true" if network.settings.full_context else "context_forward=-1"
        raise RunError(
            f"{name}: with `model.{key}` each bin attends to all bins after it, so its rates are "
            "never final while a recording goes on",
            "Train with `model.context_forward=0`, or a few bins and as much delay per layer.",
        )
    if context.wrap_initial:
        raise RunError(
            f"{name}: with `model.context_wrap_initial=true` the first bins attend to later ones",
            "Train with `model.context_wrap_initial=false`.",
        )
    in_trial = network.settings.positions in ("learned", "sinusoid")
    most = network.shape.n_bins - 1
    back = most if context.back is None else context.back
    return _Window(min(back, most) if in_trial else back, context.forward)


class _Embed:
    """Counts in the order of the file to a vector."""

    def __init__(
        self,
        network: NeuralDataTransformer,
        columns_N: NDArray[np.int64],
        n_heldout: int,
        token: int,
    ) -> None:
        embedding, n_neurons = network.embedding, len(columns_N)
        self.kind, self.max_index = embedding.kind, embedding.max_index
        self.scale = np.float32(math.sqrt(embedding.width))
        self.columns_N, self.n_seen, self.token = columns_N, n_neurons - n_heldout, token
        table = self.kind == "count-table"
        self.input_N: NDArray[Any] = np.zeros(n_neurons, dtype=np.intp if table else np.float32)
        self.x_D = np.zeros(embedding.width, dtype=np.float32)
        self.rows_NE: Float32Array | None = None
        if table:
            self.table_CE = _array(embedding.table.weight) * self.scale
            size = n_neurons * self.table_CE.shape[1]
            self.rows_NE = self.x_D[:size].reshape(n_neurons, -1)
        elif self.kind == "linear":
            self.weights_DN = np.asfortranarray(_array(embedding.projection.weight) * self.scale)
            self.bias_D = _array(embedding.projection.bias) * self.scale
        self.positions_TD = None
        if embedding.positions is not None:
            self.positions_TD = _array(embedding.positions)

    def __call__(self, counts_N: NDArray[Any] | None, bin_: int) -> Float32Array:
        x_D, input_N = self.x_D, self.input_N
        if counts_N is None:
            input_N[: self.n_seen] = self.token
        else:
            input_N[:] = counts_N[self.columns_N]
        input_N[self.n_seen :] = 0
        if self.rows_NE is not None:
            np.take(self.table_CE, input_N, axis=0, out=self.rows_NE, mode="clip")
            x_D[self.rows_NE.size :] = 0
        elif self.kind == "linear":
            np.dot(self.weights_DN, input_N, out=x_D)
            x_D += self.bias_D
        else:
            np.multiply(input_N, self.scale, out=x_D[: len(input_N)])
            x_D[len(input_N) :] = 0
        if self.positions_TD is not None:
            x_D += self.positions_TD[bin_]
        return x_D


class _Norm:
    """A norm, of which `factor` is computed, and the rest is part of the weights that follow.

    LayerNorm takes the mean out of the residual stream itself: where all that reads the stream is a
    LayerNorm, nothing else changes.
    """

    def __init__(self, norm: nn.Module, is_centered: bool) -> None:
        self.eps = 0.0
        self._factor = np.zeros((), dtype=np.float32)
        if isinstance(norm, ScaleNorm):
            self.layer = False
            self.gain = float(norm.gain.detach())
            self.eps = norm.eps
        else:
            assert isinstance(norm, nn.LayerNorm)
            self.layer = True
            self.gain_D, self.shift_D = _array(norm.weight), _array(norm.bias)
            self.eps, self.width = norm.eps, len(self.gain_D)
            self.centers = not is_centered
            self.means_D = np.full(self.width, 1 / self.width, dtype=np.float32)

    def factor(self, x_D: Float32Array) -> Float32Array:
        """Return what to multiply with, after taking out the mean."""
        # In an array without axes: numbers of Python and NumPy take longer to multiply with.
        self._factor[()] = self._of(x_D)
        return self._factor

    def _of(self, x_D: Float32Array) -> float:
        if not self.layer:
            return self.gain / max(math.sqrt(float(x_D.dot(x_D))), self.eps)
        if self.centers:
            x_D -= x_D.dot(self.means_D)
        return 1 / math.sqrt(float(x_D.dot(x_D)) / self.width + self.eps)

    def apply(self, x_D: Float32Array) -> None:
        """Normalize in place."""
        x_D *= self.factor(x_D)
        if self.layer:
            x_D *= self.gain_D
            x_D += self.shift_D

    def folded(self, linear: nn.Linear) -> Float32Array:
        """Return the weights of what follows, with the bias as the last column."""
        weight, bias = _array(linear.weight), _array(linear.bias)
        if self.layer:
            weight, bias = weight * self.gain_D, bias + weight @ self.shift_D
        return _with_bias(weight, bias)


def _array(tensor: torch.Tensor) -> Float32Array:
    found: Float32Array = tensor.detach().float().cpu().numpy().copy()
    return found


def _with_bias(weight: Float32Array, bias: Float32Array) -> Float32Array:
    # Column by column: a vector is multiplied fastest so.
    return np.asfortranarray(np.concatenate([weight, bias[:, None]], axis=1))


def _ones(width: int) -> Float32Array:
    """Return a vector whose last number, which meets the bias, is one."""
    vector = np.zeros(width + 1, dtype=np.float32)
    vector[-1] = 1
    return vector


class _LayerStream:
    """A layer, and what it remembers of the bins of its window."""

    def __init__(
        self, layer: EncoderLayer, window: _Window, network: NeuralDataTransformer, is_first: bool
    ) -> None:
        self.window, self.pre_norm, self.activation = window, layer.pre_norm, layer.activation
        attention = layer.attention
        self.n_heads = attention.n_heads
        self.width = width = attention.out.in_features
        # The embedding has a mean; what pre-norm layers add is free of it, by their weights.
        # Unless the last norm, a ScaleNorm, needs the mean.
        self.keeps_mean = layer.pre_norm and isinstance(network.norm, ScaleNorm)
        frees = layer.pre_norm and not self.keeps_mean
        is_centered = frees and not is_first
        self.norm_attention = _Norm(layer.norm_attention, is_centered)
        self.norm_feedforward = _Norm(layer.norm_feedforward, is_centered=frees)
        self.w_qkv = self._read(layer, self.norm_attention, attention.qkv)
        self.w_qkv[:width] *= (width // self.n_heads) ** -0.5
        self.w_out = self._write(layer, attention.out)
        self.w_expand = self._read(layer, self.norm_feedforward, layer.expand)
        self.w_contract = self._write(layer, layer.contract)

        self.x_D: Float32Array = np.zeros(width, dtype=np.float32)
        self.read_I, self.attended_I = _ones(width), _ones(width)
        self.read_D = self.read_I[:-1]
        self.hidden_I = _ones(layer.expand.out_features)
        self.hidden_F = self.hidden_I[:-1]
        self.change_D = np.zeros(width, dtype=np.float32)
        n_bins, n_heads = window.n_bins, self.n_heads
        size = (n_heads, width // n_heads)
        self.queries_HD = np.zeros((n_heads, width), dtype=np.float32)
        self.scores_HW = np.zeros((n_heads, n_bins), dtype=np.float32)
        self.weights_HW = np.zeros_like(self.scores_HW)
        # The last column adds up the weights: the values end with a one.
        self.mixed_HJ = np.zeros((n_heads, width + 1), dtype=np.float32)
        self.sums_H1 = self.mixed_HJ[:, -1:]
        self.attended_HE = self.attended_I[:-1].reshape(size)
        self.own_queries_HE = _blocks(self.queries_HD, size)
        self.own_mixed_HE = _blocks(self.mixed_HJ, size)
        self.bias_at = self._bias(layer, network.context)

    def _read(self, layer: EncoderLayer, norm: _Norm, linear: nn.Linear) -> Float32Array:
        if layer.pre_norm:
            return norm.folded(linear)
        return _with_bias(_array(linear.weight), _array(linear.bias))

    def _write(self, layer: EncoderLayer, linear: nn.Linear) -> Float32Array:
        weight, bias = _array(linear.weight), _array(linear.bias)
        if layer.pre_norm and not self.keeps_mean:
            weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
        return _with_bias(weight, bias)

    def _bias(self, layer: EncoderLayer, context: Context) -> list[Float32Array] | None:
        """Return what is added to the scores of the ring, for each place of the newest bin."""
        relative = layer.attention.relative
        if relative is None and not context.head_spans:
            return None
        n_bins, forward = self.window.n_bins, self.window.forward
        offset_U = forward - -np.arange(2 * n_bins) % n_bins
        distance_1U = torch.from_numpy(np.abs(offset_U))[None].float()
        twice_HU = context.lowered(distance_1U)[:, 0].numpy()
        if relative is not None:
            bias_HO = _array(relative.bias_HO)
            twice_HU = (
                twice_HU + bias_HO[:, (offset_U + relative.back).clip(0, bias_HO.shape[1] - 1)]
            )
        return [twice_HU[:, n_bins - slot : 2 * n_bins - slot] for slot in range(n_bins)]

    @property
    def n_remembered(self) -> int:
        """Numbers to remember: a row and a mark for each bin of the window, and waiting inputs."""
        n_bins, forward = self.window.n_bins, self.window.forward
        waiting = (forward + 1) * self.width if forward else 0
        return n_bins * (3 * self.width + 2) + waiting

    def remember_in(self, memory: Float32Array) -> None:
        """Use this memory."""
        n_bins, width = self.window.n_bins, self.width
        n_rows = n_bins * (3 * width + 1)
        self.ring = memory[:n_rows].reshape(n_bins, 3 * width + 1)
        self.absent_W = memory[n_rows : n_rows + n_bins]
        self.inputs = memory[n_rows + n_bins :].reshape(-1, width)
        self.keys_DW, self.values_WJ = self.ring[:, width : 2 * width].T, self.ring[:, 2 * width :]
        self.rows = [row[:-1] for row in self.ring]
        size = self.attended_HE.shape
        self.queries = [row[:width].reshape(size) for row in self.ring]

    def reset(self) -> None:
        self.ring[:] = 0
        self.ring[:, -1] = 1
        self.absent_W[:] = -np.inf

    def push(self, x_D: Float32Array | None, n_before: int) -> Float32Array | None:
        """Take the next bin, or none at the end; return the bin that has all of its window now."""
        window = self.window
        slot, is_end = n_before % window.n_bins, x_D is None
        if x_D is None:
            self.absent_W[slot] = -np.inf
        else:
            self._read_from(x_D, self.norm_attention)
            np.dot(self.w_qkv, self.read_I, out=self.rows[slot])
            if n_before < window.n_bins:
                self.absent_W[slot] = 0
        now = n_before - window.forward
        if window.forward:
            if x_D is not None:
                self.inputs[n_before % len(self.inputs)] = x_D
            if now < 0:
                return None
            self.x_D[:] = self.inputs[now % len(self.inputs)]
            x_D = self.x_D
        some_absent = is_end or n_before + 1 < window.n_bins
        assert x_D is not None
        self.x_D = x_D
        self._attend(now % window.n_bins, slot, some_absent)
        x_D += np.dot(self.w_out, self.attended_I, out=self.change_D)
        if not self.pre_norm:
            self.norm_attention.apply(x_D)
        self._feed(x_D)
        return x_D

    def _attend(self, own: int, newest: int, some_absent: bool) -> None:
        """Mix the values of the window by the weights of the bin in this place of the ring."""
        scores_HW, weights_HW = self.scores_HW, self.weights_HW
        self.own_queries_HE[...] = self.queries[own]
        np.dot(self.queries_HD, self.keys_DW, out=scores_HW)
        if self.bias_at is not None:
            np.add(scores_HW, self.bias_at[newest], out=scores_HW)
        if some_absent:
            scores_HW += self.absent_W
        # The softmax without its usual shift by the largest score, a sixth of the time of a layer.
        np.exp(scores_HW, out=weights_HW)
        np.dot(weights_HW, self.values_WJ, out=self.mixed_HJ)
        sums_H = self.sums_H1[:, 0].tolist()
        if min(sums_H) < _LEAST_SUM or max(sums_H) > 1 / _LEAST_SUM:
            scores_HW -= scores_HW.max(axis=1, keepdims=True)
            np.exp(scores_HW, out=weights_HW)
            np.dot(weights_HW, self.values_WJ, out=self.mixed_HJ)
        np.divide(self.own_mixed_HE, self.sums_H1, out=self.attended_HE)

    def _read_from(self, x_D: Float32Array, norm: _Norm) -> None:
        """Take the input of the next product, normalized where norms come first."""
        if self.pre_norm and not self.keeps_mean:
            np.multiply(x_D, norm.factor(x_D), out=self.read_D)
        elif self.pre_norm:
            self.read_D[:] = x_D
            self.read_D *= norm.factor(self.read_D)
        else:
            self.read_D[:] = x_D

    def _feed(self, x_D: Float32Array) -> None:
        hidden_F = self.hidden_F
        self._read_from(x_D, self.norm_feedforward)
        np.dot(self.w_expand, self.read_I, out=hidden_F)
        if self.activation == "relu":
            np.maximum(hidden_F, 0, out=hidden_F)
        else:
            hidden_F *= 0.5 * (1 + erf(hidden_F * np.float32(0.5**0.5)))
        x_D += np.dot(self.w_contract, self.hidden_I, out=self.change_D)
        if not self.pre_norm:
            self.norm_feedforward.apply(x_D)


def _blocks(x_HD: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Return of each row the numbers of its own head, as a view, (H, E)."""
    row, number = x_HD.strides
    return np.lib.stride_tricks.as_strided(x_HD, size, (row + size[1] * number, number))


class _Readout:
    """From the encoder's vector to rates in the order of the file."""

    def __init__(self, network: NeuralDataTransformer, order_N: NDArray[np.int64]) -> None:
        readout, settings = network.readout, network.settings
        self.norm = _Norm(network.norm, is_centered=settings.norm_place == "pre")
        self.n_classes, self.rectify = readout.n_classes, readout.rectify
        self.w_hidden: Float32Array | None = None
        if readout.hidden is None:
            weights = self.norm.folded(readout.last)
        else:
            self.w_hidden = self.norm.folded(readout.hidden)
            weights = _with_bias(_array(readout.last.weight), _array(readout.last.bias))
            self.hidden_I = _ones(readout.N_HIDDEN)
        by_neuron = weights.reshape(len(order_N), -1, weights.shape[1])[order_N]
        self.weights = np.asfortranarray(by_neuron.reshape(weights.shape))
        self.counts_C = np.arange(self.n_classes or 1, dtype=np.float32)
        self.read_I = _ones(network.embedding.width)

    def __call__(self, x_D: Float32Array) -> Float32Array:
        read_I = self.read_I
        np.multiply(x_D, self.norm.factor(x_D), out=read_I[:-1])
        if self.w_hidden is not None:
            hidden = self.hidden_I[:-1]
            np.maximum(np.dot(self.w_hidden, read_I, out=hidden), 0, out=hidden)
            read_I = self.hidden_I
        # In memory of its own: it is the caller's to keep.
        output: Float32Array = np.dot(self.weights, read_I)
        if self.n_classes is not None:
            scores_NC = output.reshape(-1, self.n_classes)
            weights_NC = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
            expected_N: Float32Array = (weights_NC @ self.counts_C) / weights_NC.sum(axis=1)
            return expected_N
        return np.maximum(output, 0, out=output) if self.rectify else np.exp(output, out=output)
