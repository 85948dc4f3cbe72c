"""Start values of neurons that a trained encoder has not met."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import build_network, changed, model_settings, recording, tiny_settings

from ndt_cli import make_lorenz
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine import new_neurons
from ndt_cli.engine.new_neurons import TrainedNeurons, fit_new_neurons, fit_read_out
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.starting import Start
from ndt_cli.engine.trainer import Validator, new_network
from ndt_cli.engine.training import train
from ndt_cli.model.cpu.kernels import CpuMath

MODEL = {"embedding": "linear", "width": 16, "n_heads": 2, "norm_place": "pre"}
SETTINGS = tiny_settings(
    model={**MODEL, "dropout": 0.0, "dropout_embedding": 0.0, "dropout_rates": 0.0},
    mask={"empty_ratio": 1.0},
    train={"max_epochs": 25, "learning_rate": 0.01, "batch_size": 16, "val_interval_epochs": 25},
)
CPU = torch.device("cpu")


def _day(neurons, n_trials=None):
    """A day of the same Lorenz system, seen through some of its neurons."""
    whole = make_lorenz(n_conditions=10, n_repeats=10, n_neurons=24, seed=3)
    splits = [
        data.take(np.arange(data.n_trials if n_trials is None else n_trials))
        for data in (whole.train, whole.valid)
    ]
    return Recording(
        *(
            replace(
                data,
                spikes_BTN=np.ascontiguousarray(data.spikes_BTN[..., neurons]),
                rates_BTN=np.ascontiguousarray(data.rates_BTN[..., neurons]),
                latents_BTK=None,
                neuron_names=tuple(f"unit {n}" for n in neurons),
            )
            for data in splits
        ),
        source="lorenz",
        layout="synthetic",
    )


OLD, NEW = np.arange(14), np.arange(10, 24)  # four in common


@pytest.fixture(autouse=True)
def _few_starts(monkeypatch):
    for name, number in (("_N_STARTS", 2), ("_N_ROUNDS", 3), ("_N_LAST_ROUNDS", 2)):
        monkeypatch.setattr(new_neurons, name, number)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a run on the first day."""
    out = tmp_path_factory.mktemp("first") / "run"
    train(SETTINGS, out=out, recording=_day(OLD))
    return out


def _loss(network, day):
    return Validator(day.valid, SETTINGS, CPU)(network)["valid_masked_loss"]


def _started(run, day, **settings):
    """The network of a new run on this day as it starts, and what is said about it."""
    start, own = Start.load(run), changed(SETTINGS, "train", start_from=run, **settings)
    network = new_network(own, day.train, CpuMath())
    columns_N = start.match(own, day.train, day.source)
    start.fill(network, columns_N)
    return network, start.fit(network, day, columns_N, own)


def test_a_read_out_is_found_from_counts():
    rng = torch.Generator().manual_seed(0)
    encoded_XD = torch.randn(4000, 5, generator=rng).double() + 2.0
    read_out_ND = 0.3 * torch.randn(6, 5, generator=rng).double()
    bias_N = torch.linspace(-2.0, 0.0, 6).double()
    rates_XN = (encoded_XD @ read_out_ND.T + bias_N).exp()
    counts_XN = torch.poisson(rates_XN, generator=rng)
    trained = TrainedNeurons(torch.zeros(6, 5).double(), read_out_ND)
    found_ND, found_N = fit_read_out(encoded_XD, counts_XN, trained)
    torch.testing.assert_close(found_ND, read_out_ND, rtol=0, atol=0.08)
    log_rates_XN = encoded_XD @ found_ND.T + found_N
    assert (log_rates_XN.exp() - rates_XN).square().mean() < 0.02 * rates_XN.var()


def test_without_counts_a_read_out_is_that_of_the_trained_neurons_on_average():
    trained = TrainedNeurons(*2 * [torch.randn(8, 3, generator=torch.Generator()).double()])
    encoded_XD = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double()
    found_ND, found_N = fit_read_out(encoded_XD, torch.zeros(50, 2).double(), trained)
    assert found_ND.isfinite().all()
    assert (found_N < -1).all()


def test_read_in_goes_with_read_out_as_in_the_trained_neurons():
    rng = torch.Generator().manual_seed(0)
    read_out_MD = torch.randn(200, 4, generator=rng).double()
    rule_DD = torch.randn(4, 4, generator=rng).double()
    trained = TrainedNeurons(read_out_MD @ rule_DD + 1.0, read_out_MD)
    new_ND = read_out_MD.mean(0) + torch.randn(3, 4, generator=rng).double()
    found_ND = trained.read_in(new_ND)
    expected_ND = new_ND @ rule_DD + 1.0
    # Ridge regression shrinks what stands out from the mean.
    mean_D = read_out_MD.mean(0) @ rule_DD + 1.0
    ratio_ND = (found_ND - mean_D) / (expected_ND - mean_D)
    assert ((ratio_ND > 0.2) & (ratio_ND < 1.2)).all()


def test_new_neurons_predict_hidden_bins_before_any_training(first):
    day = _day(NEW, n_trials=20)
    random, _ = _started(first, day, start_fit=False, start_neurons="other")
    fitted, said = _started(first, day, start_neurons="other")
    mean_rate = new_network(SETTINGS, day.train, CpuMath())
    mean_rate.readout.last.weight.data.zero_()
    gain = _loss(mean_rate, day) - _loss(fitted, day)
    whole = _loss(mean_rate, day) - _best_loss(first)
    assert _loss(fitted, day) < min(_loss(random, day), _loss(mean_rate, day))
    assert gain > 0.3 * abs(whole)
    assert "the other 14 start fitted" in said[1]
    for name, weights in Start.load(first).checkpoint.model.items():  # the encoder is as it was
        if name.startswith(("layers.", "norm.", "embedding.positions")):
            assert torch.equal(fitted.state_dict()[name], weights)


def _best_loss(run):
    return min(
        record["valid_masked_loss"]
        for record in RunFolder(run).read_metrics()
        if "valid_masked_loss" in record
    )


def test_known_neurons_keep_their_weights(first, monkeypatch):
    monkeypatch.setattr(new_neurons, "_N_STARTS", 0)  # nothing else is tried
    old = Start.load(first).checkpoint.model
    network, said = _started(first, _day(NEW, n_trials=20))
    read_in_DN, read_out_ND = network.embedding.projection.weight, network.readout.last.weight
    assert torch.equal(read_in_DN[:, :4], old["embedding.projection.weight"][:, 10:])
    assert torch.equal(read_out_ND[:4], old["readout.last.weight"][10:])
    assert "4 of the 14 neurons" in said[0]


def test_neurons_under_wrong_names_do_not_keep_the_weights_of_others(first):
    names = {"neuron_names": tuple(f"unit {n}" for n in np.roll(OLD, 5))}
    day = _day(OLD, n_trials=20)
    day = replace(day, train=replace(day.train, **names), valid=replace(day.valid, **names))
    named, _ = _started(first, day, start_fit=False)
    fitted, said = _started(first, day)
    assert _loss(fitted, day) < _loss(named, day)
    assert "better than the weights of the 14 of the same name" in said[0]
    sure, said = _started(first, day, start_neurons="same")
    old = Start.load(first).checkpoint.model
    assert torch.equal(sure.readout.last.weight, old["readout.last.weight"])  # in order
    assert "of all 14 neurons" in said[0]


def test_the_start_is_the_same_each_time(first):
    day = _day(NEW, n_trials=10)
    one, two = (_started(first, day)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_training_never_ends_with_worse_weights_than_it_started_from(first, tmp_path):
    day = _day(NEW, n_trials=20)
    settings = changed(
        SETTINGS, "train", start_from=first, max_epochs=1, learning_rate=0.9, val_interval_epochs=1
    )
    result = train(settings, out=tmp_path / "run", recording=day)
    value, epoch = result.best["best-masked-loss"]
    assert epoch == 0
    assert value < result.history[-1]["valid_masked_loss"]


@pytest.mark.parametrize(
    "model", [{"loss": "cross-entropy"}, {"log_rates": False}, {"readout": "mlp"}]
)
def test_networks_that_read_out_otherwise_start_at_random(model):
    network = build_network(model_settings(**{**MODEL, **model}), n_neurons=6)
    assert TrainedNeurons.of(network, 0) is None


def test_held_out_neurons_teach_no_read_in():
    network = build_network(model_settings(**MODEL), n_neurons=6)
    assert len(TrainedNeurons.of(network, 2).read_in_MD) == 4
    assert TrainedNeurons.of(network, 3) is None  # too few


def test_padding_and_forward_bins_and_held_out_neurons_are_no_obstacle():
    lengths = np.array([6, 4, 5, 6, 3, 6])
    data = recording(6, 6, n_neurons=7, n_heldout=2, n_forward=1, lengths_B=lengths)
    network = build_network(model_settings(**MODEL), n_neurons=7, n_bins=6)
    trained = TrainedNeurons.of(network, 2)
    unknown = Recording(data.train, data.valid, "a", "x")
    fit_new_neurons(network, trained, unknown, torch.zeros(7, dtype=torch.bool), SETTINGS)
    assert all(weights.isfinite().all() for weights in network.state_dict().values())
