"""The stock baseline of the bench computes what the package computes."""

import pytest
import torch
from builders import (
    NO_DROPOUT,
    build_network,
    counts_BTN,
    model_settings,
    spike_data,
    tiny_settings,
)

from ndt_cli.bench.measure import NdtTraining, StockModel, StockTraining
from ndt_cli.bench.workload import Workload
from ndt_cli.engine.device import Compute
from ndt_cli.errors import SettingsError
from ndt_cli.model.network import ModelShape, PlainMath

CPU = torch.device("cpu")
FLOAT32 = Compute(CPU, torch.float32)

# Name of each weight of a layer: this package's, and PyTorch's.
LAYER = {
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.qkv.bias": "self_attn.in_proj_bias",
    "attention.out": "self_attn.out_proj",
    "norm_attention": "norm1",
    "norm_feedforward": "norm2",
    "expand": "linear1",
    "contract": "linear2",
}
WHOLE = {
    "embedding.table": "embed",
    "embedding.projection": "embed",
    "embedding.positions": "positions",
    "norm": "encoder.norm",
    "readout.last": "readout",
}


def stock_name(name):
    """Return the name in the stock model of a weight of this package's network."""
    table, stem = WHOLE, ""
    if name.startswith("layers."):
        _, index, name = name.split(".", 2)
        table, stem = LAYER, f"encoder.layers.{index}."
    ours = next(part for part in table if name == part or name.startswith(f"{part}."))
    return stem + table[ours] + name.removeprefix(ours)


def copy_weights(network, stock):
    """Give the stock model this network's weights; every one must have a place."""
    weights = {stock_name(name): tensor for name, tensor in network.named_parameters()}
    assert weights.keys() == dict(stock.named_parameters()).keys()
    stock.load_state_dict({**stock.state_dict(), **weights})


def scrambled(network):
    """The network with every weight random: zero biases and unit norms would hide a mistake."""
    stream = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=stream))
    return network


def pair(n_neurons=3, n_bins=12, **model):
    """This package's network on its plain path, and the stock model with the same weights."""
    settings = model_settings(**{**NO_DROPOUT, "n_layers": 2, "n_heads": 2, **model})
    math = PlainMath(torch.float32)
    network = scrambled(build_network(settings, n_neurons, n_bins, math=math)).eval()
    stock = StockModel(settings, ModelShape(n_neurons, n_bins, 4))
    copy_weights(network, stock)
    return network, stock


@pytest.mark.parametrize("norm_place", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("embedding", ["count-table", "identity", "linear"])
@pytest.mark.parametrize("n_neurons", [3, 20])
def test_the_stock_model_gives_the_same_rates(norm_place, activation, embedding, n_neurons):
    model = {"norm_place": norm_place, "activation": activation, "embedding": embedding}
    network, stock = pair(n_neurons, **model)
    counts = counts_BTN(5, 12, n_neurons)
    expected = network(counts)
    assert expected.std() > 0.1
    torch.testing.assert_close(stock.train()(counts), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():  # stock layers have a separate path for inference
        torch.testing.assert_close(stock.eval()(counts), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stock.rates(stock(counts)), network.rates(expected))


@pytest.mark.parametrize(
    "model",
    [
        {"positions": "sinusoid"},
        {"positions": "sinusoid", "position_offset": False},
        {"positions": "none"},
        {"full_context": True},
        {"context_back": 2, "context_forward": 0},
        {"context_back": 3, "context_forward": 1, "context_wrap_initial": True},
        {"log_rates": False},
        {"n_heads": 3},
        {"n_heads": 3, "head_spans": (1.0, 3.0, 10.0)},
    ],
)
def test_the_stock_model_follows_the_settings(model):
    network, stock = pair(**model)
    counts = counts_BTN(5, 12, 3)
    torch.testing.assert_close(stock(counts), network(counts), rtol=1e-4, atol=1e-5)


def test_the_comparison_sees_another_window_and_another_norm_place():
    counts = counts_BTN(5, 12, 3)
    network, _ = pair()
    for model in ({"context_back": 7}, {"norm_place": "pre"}):
        _, stock = pair(**model)
        copy_weights(network, stock)
        assert not torch.allclose(stock(counts), network(counts), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "model", [{"norm": "scale"}, {"readout": "mlp"}, {"loss": "cross-entropy"}]
)
def test_a_variant_that_stock_layers_lack_is_refused_by_name(model):
    (key, value), *_ = model.items()
    with pytest.raises(SettingsError, match=f'model.{key} = "{value}"') as caught:
        StockModel(model_settings(**model), ModelShape(3, 6, 4))
    assert f"`model.{key}=" in caught.value.hint


@pytest.mark.parametrize("unseen", [{}, {"n_heldout": 1, "n_forward": 2}])
@pytest.mark.parametrize("log_rates", [True, False])
def test_a_stock_step_has_the_gradient_of_a_step_of_the_package(unseen, log_rates):
    # Every bin is masked and a batch is all trials, so nothing is random.
    data = spike_data(8, **unseen)
    settings = tiny_settings(
        model={**NO_DROPOUT, "log_rates": log_rates},
        mask={"ratio": 1.0},
        train={"batch_size": 8, "plain_layers": True},
    )
    ours = NdtTraining(Workload("tiny", settings, 6, 3), data, FLOAT32)
    stock = StockTraining(settings, data, CPU)
    scrambled(ours.network)
    copy_weights(ours.network, stock.model)
    ours.step()
    stock.step()
    gradients = dict(stock.model.named_parameters())
    for name, p in ours.network.named_parameters():
        expected = gradients[stock_name(name)].grad
        torch.testing.assert_close(p.grad, expected, rtol=1e-3, atol=1e-5, msg=name)
    assert ours.network.readout.last.weight.grad.abs().max() > 1e-3


def test_the_stock_training_begins_a_new_epoch_when_the_trials_end():
    # Small batches, so that in some of them nothing is masked.
    stock = StockTraining(tiny_settings(train={"batch_size": 4}), spike_data(6), CPU)
    before = stock.model.readout.weight.detach().clone()
    for _ in range(40):  # two steps an epoch
        stock.step()
    assert all(p.isfinite().all() for p in stock.model.parameters())
    assert not torch.equal(stock.model.readout.weight, before)


def test_both_infer_the_same_rates_from_the_same_weights():
    data = spike_data(8)
    settings = tiny_settings(train={"batch_size": 8})
    ours = NdtTraining(Workload("tiny", settings, 6, 3), data, FLOAT32)
    stock = StockTraining(settings, data, CPU)
    scrambled(ours.network)
    copy_weights(ours.network, stock.model)
    counts = torch.from_numpy(data.spikes_BTN)
    with torch.inference_mode():
        torch.testing.assert_close(
            ours.infer()(counts), stock.infer()(counts), rtol=1e-4, atol=1e-5
        )
