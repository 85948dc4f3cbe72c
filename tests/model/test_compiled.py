"""Layers that torch.compile makes kernels for: the same layers, drawn the same."""

import pytest
import torch
from builders import (
    build_network,
    changed,
    counts_BTN,
    last_checkpoint,
    model_settings,
    recording,
    tiny_settings,
)
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from ndt_cli.engine.compiled import CompiledLayers, compiles_layers
from ndt_cli.engine.training import train
from ndt_cli.errors import RunWarning
from ndt_cli.model.dropout import Dropout, RandomBits
from ndt_cli.settings.tree import TrainSettings

CUDA = torch.device("cuda")


def _step(network, train_layer, n_trials=4):
    """Return the output of a training pass, all gradients, and the state of the dropout."""
    network.train_layer, stream = train_layer, RandomBits(3)
    network.zero_grad()
    output = network(counts_BTN(n_trials, 30, 6), None, Dropout(stream))
    output.square().mean().backward()
    return [output, *(p.grad for p in network.parameters()), stream.get_state()]


def _assert_same(network, train_layer, n_trials=4):
    # Without compiling, a CPU has ways of its own: plain layers are what is compiled.
    network.plain = True
    expected = _step(network, None, n_trials)
    network.plain = False
    torch.testing.assert_close(_step(network, train_layer, n_trials), expected)


def _n_graphs(n_layers):
    """One for all layers; one a layer in PyTorch 2.4, which tells modules apart."""
    return n_layers if torch.__version__.startswith("2.4.") else 1


@pytest.mark.parametrize(
    "model",
    [
        {"dropout": 0.2, "norm_place": "post"},
        {"dropout": 0.5, "norm": "scale", "context_back": 3, "context_forward": 2},
        {"dropout": 0.0, "activation": "gelu"},
    ],
)
def test_compiled_layers_compute_and_drop_as_plain_ones(model):
    network = build_network(model_settings(n_layers=3, **model), 6, 30)
    counters = torch._dynamo.utils.counters
    counters.clear()
    _assert_same(network, CompiledLayers(4, "aot_eager"))
    assert counters["stats"]["unique_graphs"] == _n_graphs(3)  # without a break
    assert not counters["graph_break"]


def test_batches_of_another_size_are_not_compiled_for():
    network = build_network(model_settings(n_layers=1, dropout=0.2), 6, 30)
    layers = CompiledLayers(4, "aot_eager")
    _assert_same(network, layers)
    counters = torch._dynamo.utils.counters
    counters.clear()
    _step(network, layers, n_trials=3)
    assert not counters["stats"]


def test_layers_that_cannot_be_compiled_are_said_once_and_computed():
    def broken(graph, inputs):
        raise FileNotFoundError("no C compiler\nand more")

    network = build_network(model_settings(n_layers=2, dropout=0.2), 6, 30)
    layers = CompiledLayers(4, broken)
    with pytest.warns(RunWarning, match="cannot be compiled.*no C compiler") as warned:
        _assert_same(network, layers)
    assert len(warned) == 1
    _step(network, layers)  # silent from now on


def test_layers_whose_gradient_cannot_be_compiled_are_said_and_computed():
    def broken(graph, inputs):
        raise RuntimeError("no gradient")

    network = build_network(model_settings(n_layers=1, dropout=0.2), 6, 30)
    forward_only = aot_autograd(
        fw_compiler=lambda graph, inputs: make_boxed_func(graph.forward), bw_compiler=broken
    )
    with pytest.warns(RunWarning, match="cannot be compiled.*no gradient"):
        _assert_same(network, CompiledLayers(4, forward_only))


def test_every_run_of_a_process_is_compiled():
    counters = torch._dynamo.utils.counters
    for i in range(10):  # more than torch keeps of one function
        counters.clear()
        network = build_network(model_settings(n_layers=2, dropout=0.05 * i), 6, 30)
        _step(network, CompiledLayers(4, "aot_eager"))
        assert counters["stats"]["unique_graphs"] == _n_graphs(2)


def test_inference_is_not_compiled():
    network = build_network(model_settings(n_layers=1), 6, 30)
    network.train_layer = pytest.fail
    network(counts_BTN(2, 30, 6))


def test_layers_are_compiled_on_a_gpu_where_it_is_asked_for():
    asked = TrainSettings(compile_layers=True)
    assert compiles_layers(asked, CUDA)
    assert not compiles_layers(asked, torch.device("cpu"))
    assert not compiles_layers(asked.model_copy(update={"plain_layers": True}), CUDA)
    assert not compiles_layers(TrainSettings(), CUDA)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_compiled_run_on_a_gpu_is_the_same_run_but_for_rounding(tmp_path, cuda_graph):
    settings = tiny_settings(
        model={"dropout": 0.2, "n_layers": 2},
        train={"device": "cuda", "precision": "float32", "max_epochs": 6, "cuda_graph": cuda_graph},
    )
    data = recording(10, rates=True)
    train(settings, out=tmp_path / "torch", recording=data)
    compiling = changed(settings, "train", compile_layers=True)
    counters = torch._dynamo.utils.counters
    counters.clear()
    train(compiling, out=tmp_path / "compiled", recording=data)
    assert counters["stats"]["unique_graphs"] >= 1
    compiled, by_torch = (last_checkpoint(tmp_path / run) for run in ("compiled", "torch"))
    torch.testing.assert_close(compiled.streams, by_torch.streams)
    for name, weights in compiled.model.items():
        expected = by_torch.model[name]
        if name.endswith("qkv.bias"):
            # That of the keys has no gradient but rounding, of which Adam makes whole steps.
            weights, expected = (torch.cat(w.chunk(3)[::2]) for w in (weights, expected))
        torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
