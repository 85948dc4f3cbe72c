"""The optimizer: what muon does to matrices, and the learning rate as a function of the epoch."""

import math
from itertools import pairwise

import pytest
import torch
from builders import build_network, changed, tiny_settings

from ndt_cli.engine.optimizer import (
    Muon,
    learning_rate,
    learning_rates,
    make_optimizer,
    orthogonalized,
    set_learning_rate,
)
from ndt_cli.settings.tree import TrainSettings

CPU = torch.device("cpu")


def _matrices(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (2, 8, 24)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonalized_matrices_keep_their_directions_and_lose_their_lengths(shape, scale):
    given = _matrices(*shape)
    found = orthogonalized(given * scale)
    assert found.shape == given.shape
    left, lengths, right = torch.linalg.svd(given.double(), full_matrices=False)
    values = torch.linalg.svdvals(found.double())
    whole = lengths > 0.02 * lengths.norm(dim=1, keepdim=True)
    assert ((values.sort(1).values > 0.6) | ~whole.sort(1).values).all()
    assert (values < 1.25).all()
    aligned = (left.mT @ found.double() @ right.mT).flatten(0, 0)
    off_diagonal = aligned - torch.diag_embed(aligned.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-3


def test_the_zero_matrix_has_no_direction():
    assert torch.equal(orthogonalized(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def _stepped(settings, network, n_steps=3, rate=0.01):
    """The network after steps with gradients that are drawn, and those gradients."""
    optimizer = make_optimizer(network, settings, CPU)
    set_learning_rate(optimizer, rate)
    generator = torch.Generator().manual_seed(1)
    gradients = []
    for _ in range(n_steps):
        for weights in network.parameters():
            weights.grad = torch.randn(weights.shape, generator=generator)
        gradients.append([weights.grad.clone() for weights in network.parameters()])
        optimizer.step()
    return optimizer, gradients


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_steps_along_the_orthogonalized_momentum_of_each_matrix_of_a_layer(decay):
    train = {"optimizer": "muon", "weight_decay": decay}
    settings = tiny_settings(model={"n_layers": 2, "feedforward_size": 10}, train=train)
    network, before = build_network(settings.model), build_network(settings.model)
    optimizer, gradients = _stepped(settings, network)
    assert isinstance(optimizer, Muon)
    names = [name for name, _ in network.named_parameters()]
    seen = set()
    for name, expected in before.named_parameters():
        if not name.startswith("layers.") or expected.ndim != 2:
            continue
        seen.add(name.split(".", 2)[2])
        momentum = torch.zeros_like(expected)
        with torch.no_grad():
            for of_step in gradients:
                gradient = of_step[names.index(name)]
                momentum = 0.95 * momentum + gradient
                n_blocks = 3 if "qkv" in name else 1  # queries, keys and values apart
                for rows, block in zip(
                    expected.chunk(n_blocks),
                    (gradient + 0.95 * momentum).chunk(n_blocks),
                    strict=True,
                ):
                    n_out, n_in = block.shape
                    step = 10 * max(1, n_out / n_in) ** 0.5 * orthogonalized(block[None])[0]
                    rows -= 0.01 * (step + decay * rows)
        torch.testing.assert_close(network.get_parameter(name), expected, rtol=1e-4, atol=1e-5)
    assert seen == {
        "attention.qkv.weight",
        "attention.out.weight",
        "expand.weight",
        "contract.weight",
    }


def test_muon_leaves_everything_but_those_matrices_to_adamw():
    networks = []
    for optimizer in ("adamw", "muon"):
        settings = tiny_settings(
            model={"positions": "relative", "context_back": 2},
            train={"optimizer": optimizer, "weight_decay": 0.1},
        )
        networks.append(build_network(settings.model))
        _stepped(settings, networks[-1])
    adamw, muon = (dict(network.named_parameters()) for network in networks)
    same = {name for name, weights in adamw.items() if torch.equal(weights, muon[name])}
    matrices = {"attention.qkv.weight", "attention.out.weight", "expand.weight", "contract.weight"}
    assert {name.split(".", 2)[2] for name in adamw.keys() - same} == matrices
    assert "layers.0.attention.relative.bias_HO" in same


def test_a_rate_of_zero_changes_nothing_that_muon_trains():
    settings = tiny_settings(train={"optimizer": "muon", "weight_decay": 0.1})
    network, before = build_network(settings.model), build_network(settings.model)
    _stepped(settings, network, rate=0.0)
    for name, weights in before.named_parameters():
        assert torch.equal(network.get_parameter(name), weights), name


def test_after_a_start_the_encoder_and_the_neurons_have_rates_of_their_own():
    for kind in ("adamw", "muon"):
        settings = changed(tiny_settings(), "train", optimizer=kind, start_from="run")
        network = build_network(settings.model)
        optimizer = make_optimizer(network, settings, CPU)
        set_learning_rate(optimizer, 0.5, 0.25)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for name, weights in network.named_parameters():
            of_neurons = name.startswith(("embedding.table", "embedding.projection", "readout"))
            assert rates[id(weights)] == (0.5 if of_neurons else 0.25), name


def _rates(epochs, **train):
    settings = TrainSettings(**{"learning_rate": 1e-3, "max_epochs": 100, **train})
    return [learning_rate(epoch, settings) for epoch in epochs]


def test_constant_stays_and_needs_no_warm_up():
    assert _rates((0, 1, 50, 99)) == [1e-3] * 4


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse-sqrt"])
def test_warm_up_rises_linearly_to_the_peak_in_its_last_epoch(schedule):
    rates = _rates(range(10), schedule=schedule, warmup_epochs=10)
    assert rates == pytest.approx([1e-4 * (epoch + 1) for epoch in range(10)])


def test_cosine_falls_from_the_peak_to_zero_at_the_last_epoch():
    epochs = (20, 40, 60, 80, 99, 100, 150)
    rates = _rates(epochs, schedule="cosine", warmup_epochs=20)
    last = 0.5 * (1 + math.cos(math.pi * 79 / 80))
    expected = [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 - 2**-0.5), last, 0, 0]
    assert rates == pytest.approx([1e-3 * value for value in expected], abs=1e-12)
    assert 0 < rates[4] < 1e-6


def test_ndt1_fault_inverse_sqrt_peaks_at_the_asked_rate():
    # NDT1 multiplies the base rate twice: its peak is 1e-6 where 1e-3 was asked.
    rates = _rates(range(100), schedule="inverse-sqrt", warmup_epochs=4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 3
    # Half the peak at four times its epoch.
    assert rates[15] == pytest.approx(0.5e-3)
    assert rates[99] == pytest.approx(1e-3 * math.sqrt(4 / 100))
    assert all(later < earlier for earlier, later in pairwise(rates[3:]))


def test_the_rate_is_a_function_of_the_epoch_alone():
    settings = TrainSettings(schedule="cosine", warmup_epochs=5, max_epochs=40)
    forwards = [learning_rate(epoch, settings) for epoch in range(40)]
    backwards = [learning_rate(epoch, settings) for epoch in reversed(range(40))]
    assert forwards == backwards[::-1]


def test_the_rates_are_those_of_the_schedule_and_lower_once_everything_learns():
    settings = tiny_settings(train={"max_epochs": 10, "learning_rate": 0.01}).train
    assert learning_rates(0, settings) == (0.01,)
    changes = {"start_from": "x", "frozen_share": 0.3, "thawed_rate": 0.5}
    started = settings.model_copy(update=changes)
    assert [learning_rates(epoch, started) for epoch in (0, 2, 3, 9)] == [
        (0.01, 0.0),
        (0.01, 0.0),
        (0.005, 0.005),
        (0.005, 0.005),
    ]
