"""A network as a graph of OpenVINO, for one trial.

The same mathematics as `NeuralDataTransformer` without dropout: matrix products in its
``compute_dtype``; norms, the residual stream and the read-out in float32.

Axes: T bins, N neurons, D width, H heads, E width of a head, C classes.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ndt_cli.model.attention import ContextAttention, Windows
from ndt_cli.model.context import Blocks
from ndt_cli.model.embedding import Embedding
from ndt_cli.model.network import EncoderLayer, NeuralDataTransformer, Readout, ScaleNorm

Node = Any
"""A value in the graph; OpenVINO is an extra, so its types are not known here."""


def build_graph(openvino: Any, network: NeuralDataTransformer, n_bins: int) -> Any:
    """Return the graph of a network, from counts, (1, T, N) int32, to its read-out.

    Parameters
    ----------
    openvino : module
        OpenVINO.
    network : NeuralDataTransformer
        On a CPU. The graph holds copies of its weights.
    n_bins : int
        T.

    Returns
    -------
    openvino.Model
        Its output is (1, T, N) float32, or (1, T, N * C) for the cross-entropy loss.
    """
    return _Builder(openvino, network, n_bins).build()


class _Builder:
    def __init__(self, openvino: Any, network: NeuralDataTransformer, n_bins: int) -> None:
        self.openvino, self.ops = openvino, openvino.opset13
        self.network, self.n_bins = network, n_bins
        self.in_bfloat16 = network.compute_dtype == torch.bfloat16

    def build(self) -> Any:
        shape = [1, self.n_bins, self.network.shape.n_neurons]
        counts_1TN = self.ops.parameter(shape, np.int32)
        x_1TD = self.embed(self.network.embedding, counts_1TN)
        whole = Blocks.whole(self.n_bins)
        windows = Windows(self.network.context)
        window = windows(self.n_bins, None, torch.float32, torch.device("cpu"), whole)
        blocked = self.number(window.blocked)
        for layer in self.network.layers:
            x_1TD = self.layer(cast(EncoderLayer, layer), x_1TD, blocked)
        output = self.read_out(self.network.readout, self.norm(self.network.norm, x_1TD))
        return self.openvino.Model([output], [counts_1TN], "ndt")

    def embed(self, embedding: Embedding, counts_1TN: Node) -> Node:
        ops, scale = self.ops, math.sqrt(embedding.width)
        if embedding.kind == "count-table":
            table = self.constant(embedding.table.weight * scale)
            row_1TN = ops.minimum(counts_1TN, ops.constant(np.int32(embedding.max_index)))
            x_1TD = self.reshape(ops.gather(table, row_1TN, ops.constant(0)), 1, self.n_bins, -1)
        elif embedding.kind == "linear":
            weight, bias = embedding.projection.weight * scale, embedding.projection.bias * scale
            x_1TD = self.linear(ops.convert(counts_1TN, "f32"), weight, bias)
        else:
            counts_1TN = ops.convert(counts_1TN, "f32")
            x_1TD = ops.multiply(counts_1TN, ops.constant(np.float32(scale)))
        missing = embedding.width - x_1TD.get_output_shape(0)[-1]
        if missing:
            zeros = ops.constant(np.zeros((1, self.n_bins, missing), np.float32))
            x_1TD = ops.concat([x_1TD, zeros], -1)
        if embedding.positions is not None:
            x_1TD = ops.add(x_1TD, self.constant(embedding.positions[: self.n_bins]))
        return x_1TD

    def layer(self, layer: EncoderLayer, x_1TD: Node, blocked: Node) -> Node:
        add = self.ops.add
        if layer.pre_norm:
            normed = self.norm(layer.norm_attention, x_1TD)
            x_1TD = add(x_1TD, self.attend(layer.attention, normed, blocked))
            return add(x_1TD, self.feed(layer, self.norm(layer.norm_feedforward, x_1TD)))
        attended = self.attend(layer.attention, x_1TD, blocked)
        x_1TD = self.norm(layer.norm_attention, add(x_1TD, attended))
        return self.norm(layer.norm_feedforward, add(x_1TD, self.feed(layer, x_1TD)))

    def attend(self, attention: ContextAttention, x_1TD: Node, blocked: Node) -> Node:
        ops, width = self.ops, attention.out.in_features
        size = (1, self.n_bins, attention.n_heads, width // attention.n_heads)
        x_1TD = self.lower(x_1TD)
        # Queries with 1 / sqrt(E) of the scores in their weights.
        scales = (1 / math.sqrt(size[-1]), 1.0, 1.0)
        parts = zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), scales, strict=True)

        def heads(weight: Tensor, bias: Tensor, scale: float) -> Node:
            x_1THE = self.reshape(self.product(x_1TD, weight * scale, bias * scale), *size)
            return self.swap(x_1THE)

        q_1HTE, k_1HTE, v_1HTE = (heads(*part) for part in parts)
        scores_1HTT = ops.add(ops.matmul(q_1HTE, k_1HTE, False, True), blocked)
        attended_1HTE = ops.matmul(ops.softmax(scores_1HTT, -1), v_1HTE, False, False)
        attended_1TD = self.reshape(self.swap(attended_1HTE), 1, self.n_bins, width)
        return self.lift(self.product(attended_1TD, attention.out.weight, attention.out.bias))

    def feed(self, layer: EncoderLayer, x_1TD: Node) -> Node:
        hidden_1TF = self.product(self.lower(x_1TD), layer.expand.weight, layer.expand.bias)
        relu = layer.activation == "relu"
        active_1TF = self.ops.relu(hidden_1TF) if relu else self.ops.gelu(hidden_1TF, "erf")
        return self.lift(self.product(active_1TF, layer.contract.weight, layer.contract.bias))

    def read_out(self, readout: Readout, x_1TD: Node) -> Node:
        if readout.hidden is not None:
            x_1TD = self.linear(x_1TD, readout.hidden.weight, readout.hidden.bias)
            x_1TD = self.ops.relu(x_1TD)
        output = self.linear(x_1TD, readout.last.weight, readout.last.bias)
        return self.ops.relu(output) if readout.rectify else output

    def norm(self, norm: nn.Module, x_1TD: Node) -> Node:
        ops, last = self.ops, self.ops.constant(np.array([-1]))
        if isinstance(norm, ScaleNorm):
            length = ops.reduce_l2(x_1TD, last, True)
            length = ops.maximum(length, ops.constant(np.float32(norm.eps)))
            return ops.multiply(ops.divide(x_1TD, length), self.constant(norm.gain))
        assert isinstance(norm, nn.LayerNorm)
        normed = ops.mvn(x_1TD, last, True, norm.eps, "inside_sqrt")
        return ops.add(ops.multiply(normed, self.constant(norm.weight)), self.constant(norm.bias))

    def linear(self, x: Node, weight: Tensor, bias: Tensor) -> Node:
        """Multiply in float32."""
        product = self.ops.matmul(x, self.constant(weight), False, True)
        return self.ops.add(product, self.constant(bias))

    def product(self, x: Node, weight: Tensor, bias: Tensor) -> Node:
        """Multiply what `lower` gave."""
        return self.ops.add(self.ops.matmul(x, self.number(weight), False, True), self.number(bias))

    def lower(self, x: Node) -> Node:
        """To what products are computed in."""
        return self.ops.convert(x, "bf16") if self.in_bfloat16 else x

    def lift(self, x: Node) -> Node:
        """Back to float32."""
        return self.ops.convert(x, "f32") if self.in_bfloat16 else x

    def number(self, x: Tensor) -> Node:
        return self.lower(self.constant(x))

    def constant(self, x: Tensor) -> Node:
        return self.ops.constant(x.detach().float().numpy().copy())

    def reshape(self, x: Node, *shape: int) -> Node:
        return self.ops.reshape(x, self.ops.constant(np.array(shape)), False)

    def swap(self, x: Node) -> Node:
        """Swap bins and heads."""
        return self.ops.transpose(x, self.ops.constant(np.array([0, 2, 1, 3])))
