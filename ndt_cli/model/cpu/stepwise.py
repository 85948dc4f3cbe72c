"""A network that takes one bin after another, in NumPy.

What the context window of a layer needs of earlier bins, their keys and values, is kept in a ring.
Where layers look ahead, each waits for ``context_forward`` bins before it gives a bin to the next.

For a single bin, calls cost more than arithmetic, so that there are few of them: a product scales
its input, or adds to its output, in the same call. All is float32, in memory that is allocated
once.

Axes: N neurons, D width of the encoder, I width with what meets the bias after it, H heads, E width
of a head, F hidden units, W bins of a context window, O offsets, J values with a one after them.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import sdot, sgemv
from scipy.special import erf
from torch import nn

from ndt_cli.errors import DataError, RunError
from ndt_cli.model.context import Context
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer, ScaleNorm

Float32Array = NDArray[np.float32]

# Sums of exponentials from this to its inverse are exact in float32, and so are their ratios.
_LEAST_SUM = 1e-30
# Numbers of Python take NumPy longer.
_ZERO = np.zeros((), dtype=np.float32)


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
        back, forward = _window(network, name)
        self.lag_bins = forward * settings.n_layers
        in_trial = settings.positions in ("learned", "sinusoid")
        self._limit = shape.n_bins if in_trial or network.context.back is None else None
        self._limited_by = "learned" if in_trial else "back"
        self._name = name

        self._embed = _Embed(network, columns_N, n_heldout, token)
        layers = (layer for layer in network.layers if isinstance(layer, EncoderLayer))
        self._layers = [_LayerStream(layer, back, forward, network) for layer in layers]
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
        x_I = self._embed(counts_N, self.bins[0])
        with np.errstate(over="ignore", invalid="ignore"):  # where a softmax needs its shift
            return self._through(x_I, 0)

    def flush(self) -> list[Float32Array]:
        """Return the rates of the bins that wait for bins that will not come."""
        found = []
        for first, layer in enumerate(self._layers):
            for _ in range(layer.forward):
                with np.errstate(over="ignore", invalid="ignore"):
                    rates_N = self._through(None, first)
                if rates_N is not None:
                    found.append(rates_N)
        return found

    def provisional(self) -> Float32Array:
        """Return the rates of the last bin if nothing follows it."""
        if not self.lag_bins:
            return self._readout(self._layers[-1].x_I)
        bins = self.bins.copy()
        np.copyto(self._before, self.memory)
        try:
            return self.flush()[-1]
        finally:
            np.copyto(self.memory, self._before)
            self.bins[:] = bins

    def _through(self, x_I: Float32Array | None, first: int) -> Float32Array | None:
        """Take a bin, or the end of the recording (None), at a layer and on through those above."""
        for i in range(first, len(self._layers)):
            n_before = self.bins[i]
            self.bins[i] = n_before + 1
            x_I = self._layers[i].push(x_I, n_before)
            if x_I is None:
                return None
        assert x_I is not None
        return self._readout(x_I)

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


def _window(network: NeuralDataTransformer, name: str) -> tuple[int, int]:
    """Return the bins back and forward that a layer sees."""
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
    return min(back, most) if in_trial else back, context.forward


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
        scale, width = np.float32(math.sqrt(embedding.width)), embedding.width
        self.seen_N, self.token = columns_N[: n_neurons - n_heldout], token
        self.x_I = _ones(width)
        self.x_D = self.x_I[:-1]
        self.weights_DI: Float32Array | None = None
        if embedding.kind == "count-table":
            self.table_CE = _array(embedding.table.weight) * scale
            self.input_N: NDArray[Any] = np.zeros(n_neurons, dtype=np.intp)
            rows = self.x_D[: n_neurons * self.table_CE.shape[1]]
            self.rows_NE = rows.reshape(n_neurons, -1)
        else:
            weight_DN, bias_D = np.eye(width, n_neurons, dtype=np.float32), np.zeros_like(self.x_D)
            if embedding.kind == "linear":
                weight_DN, bias_D = (_array(p) for p in embedding.projection.parameters())
            by_channel_DN = np.zeros_like(weight_DN)
            by_channel_DN[:, self.seen_N] = weight_DN[:, : len(self.seen_N)]
            self.weights_DI = _with_bias(by_channel_DN * scale, bias_D * scale)
            self.input_I = _ones(n_neurons)
            self.input_N = self.input_I[:-1]
        self.positions_TD = None
        if embedding.positions is not None:
            self.positions_TD = _array(embedding.positions)
        self.means_D = None
        if _is_centered(network):
            self.means_D = np.full_like(self.x_D, 1 / width)

    def __call__(self, counts_N: NDArray[Any] | None, bin_: int) -> Float32Array:
        x_D, input_N = self.x_D, self.input_N
        if self.weights_DI is not None:
            input_N[:] = self.token if counts_N is None else counts_N
            _multiply(self.weights_DI, self.input_I, x_D)
        else:
            seen_N = self.token if counts_N is None else counts_N[self.seen_N]
            input_N[: len(self.seen_N)] = seen_N
            np.take(self.table_CE, input_N, axis=0, out=self.rows_NE, mode="clip")
            x_D[self.rows_NE.size :] = 0
        if self.positions_TD is not None:
            x_D += self.positions_TD[bin_]
        if self.means_D is not None:
            x_D -= x_D.dot(self.means_D)
        return self.x_I


def _is_centered(network: NeuralDataTransformer) -> bool:
    """Whether the mean can be taken out of the residual stream, as each LayerNorm would do."""
    return network.settings.norm_place == "pre" and isinstance(network.norm, nn.LayerNorm)


class _Norm:
    """A norm: a factor, and what is part of the weights of the product that follows.

    The factor is above 0, so that an input with its inverse in place of the one that meets the bias
    gives, times the factor, the product of the normalized input.
    """

    def __init__(self, norm: nn.Module, is_centered: bool) -> None:
        self.is_layer, self.is_centered = isinstance(norm, nn.LayerNorm), is_centered
        if isinstance(norm, ScaleNorm):
            self.gain, self.eps = _array(norm.gain), norm.eps
        else:
            assert isinstance(norm, nn.LayerNorm)
            self.gain, self.shift_D, self.eps = _array(norm.weight), _array(norm.bias), norm.eps
            self.means_D = np.full(len(self.gain), 1 / len(self.gain), dtype=np.float32)

    def length(self, x_I: Float32Array) -> float:
        """Return one over the factor."""
        width = len(x_I) - 1
        squares: float = sdot(x_I, x_I, width)
        if not self.is_layer:
            return max(math.sqrt(squares), self.eps)
        variance = squares / width
        if not self.is_centered:
            variance = max(0.0, variance - sdot(x_I, self.means_D, width) ** 2)
        return math.sqrt(variance + self.eps)

    def apply(self, x_I: Float32Array) -> None:
        """Normalize in place, with a LayerNorm."""
        x_D = x_I[:-1]
        x_D -= x_D.dot(self.means_D)
        x_D *= self.gain / np.float32(self.length(x_I))
        x_D += self.shift_D

    def folded(self, linear: nn.Linear) -> Float32Array:
        """Return the weights of what follows, with the bias as the last column."""
        weight, bias = _array(linear.weight) * self.gain, _array(linear.bias)
        if self.is_layer:
            bias = bias + _array(linear.weight) @ self.shift_D
            weight -= weight.mean(axis=1, keepdims=True)
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


def _multiply(
    weights: Float32Array, x: Float32Array, out: Float32Array, factor: float = 1.0, kept: int = 0
) -> None:
    """Put ``factor * (weights @ x)`` into ``out``, or add it to what is there if that is kept."""
    # By position: offsets and strides of the vectors, not transposed, `out` overwritten. Names cost
    # as much as the product.
    sgemv(factor, weights, x, kept, out, 0, 1, 0, 1, 0, 1)


class _LayerStream:
    """A layer, and what it remembers of the bins of its window.

    A bin is a row of the ring: its queries, its keys, and of each head its values and a one, which
    adds up the weights of attention.
    """

    def __init__(
        self, layer: EncoderLayer, back: int, forward: int, network: NeuralDataTransformer
    ) -> None:
        self.n_bins, self.forward = back + 1 + forward, forward  # n_bins is W
        self.pre_norm, self.activation = layer.pre_norm, layer.activation
        attention = layer.attention
        self.n_heads, self.width = attention.n_heads, attention.out.in_features
        self.size = (self.n_heads, self.width // self.n_heads)
        self.is_centered = _is_centered(network)
        self.norm_attention = _Norm(layer.norm_attention, self.is_centered)
        self.norm_feedforward = _Norm(layer.norm_feedforward, self.is_centered)
        self.w_qkv = self._qkv(self._read(self.norm_attention, attention.qkv))
        self.w_out = self._with_sums(self._write(attention.out))
        self.w_expand = self._read(self.norm_feedforward, layer.expand)
        self.w_contract = self._write(layer.contract)

        self.x_I = _ones(self.width)
        self.hidden_I = _ones(layer.expand.out_features)
        self.hidden_F = self.hidden_I[:-1]
        self.scores_HW = np.zeros((self.n_heads, self.n_bins), dtype=np.float32)
        self.weights_HW = np.zeros_like(self.scores_HW)
        self.scores_HW1, self.weights_H1W = self.scores_HW[:, :, None], self.weights_HW[:, None]
        self.mixed_HJ = np.zeros((self.n_heads, self.size[1] + 1), dtype=np.float32)
        self.mixed_H1J, self.sums_H1 = self.mixed_HJ[:, None], self.mixed_HJ[:, -1:]
        self.sums_H = self.mixed_HJ[:, -1]
        self.attended_HJ = np.zeros_like(self.mixed_HJ)
        self.attended = self.attended_HJ.ravel()  # head after head
        self.bias_at = self._bias(layer, network.context)

    def _read(self, norm: _Norm, linear: nn.Linear) -> Float32Array:
        if self.pre_norm:
            return norm.folded(linear)
        return _with_bias(_array(linear.weight), _array(linear.bias))

    def _write(self, linear: nn.Linear) -> Float32Array:
        weight, bias = _array(linear.weight), _array(linear.bias)
        if self.is_centered:
            weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
        return _with_bias(weight, bias)

    def _with_sums(self, weights: Float32Array) -> Float32Array:
        """Leave out the one of each head, which is mixed with its values, but for the bias."""
        by_head = weights[:, :-1].reshape(-1, *self.size)
        padded = np.pad(by_head, ((0, 0), (0, 0), (0, 1)))
        padded[:, -1, -1] = weights[:, -1]
        return np.asfortranarray(padded.reshape(len(weights), -1))

    def _qkv(self, weights: Float32Array) -> Float32Array:
        """Scale the queries, and add the ones to the values, as rows without weights."""
        queries, keys, values = np.split(weights, 3)
        one = np.zeros((self.n_heads, 1, self.width + 1), dtype=np.float32)
        one[:, :, -1] = 1
        by_head = np.concatenate([values.reshape(*self.size, -1), one], axis=1)
        parts = [queries * self.size[1] ** -0.5, keys, by_head.reshape(-1, self.width + 1)]
        return np.asfortranarray(np.concatenate(parts))

    def _bias(self, layer: EncoderLayer, context: Context) -> Float32Array | None:
        """Return what is added to the scores of the ring, for each place of the newest bin."""
        relative = layer.attention.relative
        if relative is None and not context.head_spans:
            return None
        n_bins, forward = self.n_bins, self.forward
        offset_U = forward - -np.arange(2 * n_bins) % n_bins
        distance_1U = torch.from_numpy(np.abs(offset_U))[None].float()
        twice_HU = context.lowered(distance_1U)[:, 0].numpy()
        if relative is not None:
            bias_HO = _array(relative.bias_HO)
            twice_HU = (
                twice_HU + bias_HO[:, (offset_U + relative.back).clip(0, bias_HO.shape[1] - 1)]
            )
        # One after the other in memory: views take twice as long to add.
        return np.stack([twice_HU[:, n_bins - slot :][:, :n_bins] for slot in range(n_bins)])

    @property
    def n_remembered(self) -> int:
        """Numbers to remember: a row and a mark for each bin of the window, and waiting inputs."""
        waiting = (self.forward + 1) * self.width if self.forward else 0
        return self.n_bins * (len(self.w_qkv) + 1) + waiting

    def remember_in(self, memory: Float32Array) -> None:
        """Use this memory."""
        n_bins, width = self.n_bins, self.width
        n_rows = n_bins * len(self.w_qkv)
        self.rows = memory[:n_rows].reshape(n_bins, -1)
        self.absent_W = memory[n_rows : n_rows + n_bins]
        self.inputs = memory[n_rows + n_bins :].reshape(-1, width)
        self.row_at = list(self.rows)
        self.query_at = [row[:width].reshape(*self.size, 1) for row in self.rows]
        keys_WHE = self.rows[:, width : 2 * width].reshape(n_bins, *self.size)
        values_WHJ = self.rows[:, 2 * width :].reshape(n_bins, self.n_heads, -1)
        self.keys_HWE, self.values_HWJ = keys_WHE.swapaxes(0, 1), values_WHJ.swapaxes(0, 1)

    def reset(self) -> None:
        self.rows[:] = 0
        self.absent_W[:] = -np.inf

    def push(self, x_I: Float32Array | None, n_before: int) -> Float32Array | None:
        """Take the next bin, or none at the end; return the bin that has all of its window now."""
        slot, is_end = n_before % self.n_bins, x_I is None
        if x_I is None:
            self.absent_W[slot] = -np.inf
        else:
            self._product(self.w_qkv, self.norm_attention, x_I, self.row_at[slot])
            if n_before < self.n_bins:
                self.absent_W[slot] = 0
        now = n_before - self.forward
        if self.forward:
            if x_I is not None:
                self.inputs[n_before % len(self.inputs)] = x_I[:-1]
            if now < 0:
                return None
            self.x_I[:-1] = self.inputs[now % len(self.inputs)]
            x_I = self.x_I
        some_absent = is_end or n_before + 1 < self.n_bins
        assert x_I is not None
        self.x_I = x_I
        self._attend(now % self.n_bins, slot, some_absent)
        _multiply(self.w_out, self.attended, x_I, kept=1)
        if not self.pre_norm:
            self.norm_attention.apply(x_I)
        self._product(self.w_expand, self.norm_feedforward, x_I, self.hidden_F)
        self._activate()
        _multiply(self.w_contract, self.hidden_I, x_I, kept=1)
        if not self.pre_norm:
            self.norm_feedforward.apply(x_I)
        return x_I

    def _product(
        self, weights: Float32Array, norm: _Norm, x_I: Float32Array, out: Float32Array
    ) -> None:
        """Multiply, where norms come first with the normalized input."""
        length = norm.length(x_I) if self.pre_norm else 1.0
        x_I[-1] = length
        _multiply(weights, x_I, out, 1 / length)

    def _attend(self, own: int, newest: int, some_absent: bool) -> None:
        """Mix the values of the window by the weights of the bin in this place of the ring."""
        scores_HW, weights_HW = self.scores_HW, self.weights_HW
        np.matmul(self.keys_HWE, self.query_at[own], self.scores_HW1)
        if self.bias_at is not None:
            scores_HW += self.bias_at[newest]
        if some_absent:
            scores_HW += self.absent_W
        # The softmax without its usual shift by the largest score, a sixth of the time of a layer.
        np.exp(scores_HW, weights_HW)
        np.matmul(self.weights_H1W, self.values_HWJ, self.mixed_H1J)
        sums_H = self.sums_H.tolist()
        if min(sums_H) < _LEAST_SUM or max(sums_H) > 1 / _LEAST_SUM:
            scores_HW -= scores_HW.max(axis=1, keepdims=True)
            np.exp(scores_HW, weights_HW)
            np.matmul(self.weights_H1W, self.values_HWJ, self.mixed_H1J)
        np.divide(self.mixed_HJ, self.sums_H1, self.attended_HJ)

    def _activate(self) -> None:
        """Apply the activation of the feed-forward block in place."""
        hidden_F = self.hidden_F
        if self.activation == "relu":
            np.maximum(hidden_F, _ZERO, out=hidden_F)
        else:
            hidden_F *= 0.5 * (1 + erf(hidden_F * np.float32(0.5**0.5)))


class _Readout:
    """From the encoder's vector to rates in the order of the file."""

    def __init__(self, network: NeuralDataTransformer, order_N: NDArray[np.int64]) -> None:
        readout = network.readout
        self.norm = _Norm(network.norm, _is_centered(network))
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

    def __call__(self, x_I: Float32Array) -> Float32Array:
        x_I[-1] = length = self.norm.length(x_I)
        # In memory of its own: it is the caller's to keep.
        output: Float32Array = np.empty(len(self.weights), dtype=np.float32)
        if self.w_hidden is None:
            _multiply(self.weights, x_I, output, 1 / length)
        else:
            hidden = self.hidden_I[:-1]
            _multiply(self.w_hidden, x_I, hidden, 1 / length)
            np.maximum(hidden, _ZERO, out=hidden)
            _multiply(self.weights, self.hidden_I, output)
        if self.n_classes is not None:
            scores_NC = output.reshape(-1, self.n_classes)
            weights_NC = np.exp(scores_NC - scores_NC.max(axis=1, keepdims=True))
            expected_N: Float32Array = (weights_NC @ self.counts_C) / weights_NC.sum(axis=1)
            return expected_N
        return np.maximum(output, _ZERO, out=output) if self.rectify else np.exp(output, output)
