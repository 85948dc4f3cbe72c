"""Validation: fixed masks, in batches, on what the model may be judged by."""

import dataclasses

import numpy as np
import pytest
import torch
from builders import (
    assert_generators_untouched,
    build_network,
    changed,
    recording,
    same_tensors,
    snapshot,
    spike_data,
    tiny_settings,
    vars_of,
    with_spikes,
)

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.measures import measures_of
from ndt_cli.engine.trainer import VALIDATION_BATCH_SIZE, Validator
from ndt_cli.errors import NdtError
from ndt_cli.metrics import bits_per_spike, rate_scores

CPU = torch.device("cpu")
BLIND = {"n_heldout": 2, "n_forward": 3}


def _validate(data, settings=None, network=None):
    settings = settings or tiny_settings()
    network = network or _network(data, settings)
    return Validator(data, settings, CPU)(network)


def _network(data, settings=None, seed=0):
    model = (settings or tiny_settings()).model
    return build_network(model, data.n_neurons, data.n_bins, max(data.max_count, 4), seed=seed)


def _blind_TN(data):
    blind_TN = np.zeros((data.n_bins, data.n_neurons), dtype=bool)
    blind_TN[:, data.n_neurons - data.n_heldout :] = True
    blind_TN[data.n_bins - data.n_forward :] = True
    return blind_TN


def _with_other_blind_counts(data):
    spikes_BTN = data.spikes_BTN.copy()
    spikes_BTN[:, _blind_TN(data)] += 2
    return with_spikes(data, spikes_BTN)


@pytest.mark.parametrize("mode", ["timestep", "full", "neuron", "timestep-only"])
def test_ndt1_fault_validation_two_measurements_of_one_model_are_equal(mode):
    settings = tiny_settings(mask={"mode": mode, "token_ratio": 0.5})
    data = spike_data(20)
    network = _network(data)
    validator = Validator(data, settings, CPU)
    first = validator(network)
    # A draw in between, another validator, another batch size in training: nothing moves it.
    torch.rand(3, generator=torch.Generator().manual_seed(0))
    assert validator(network) == first
    other = changed(settings, "train", batch_size=7, max_epochs=50)
    assert _validate(data, other, network) == first
    assert _validate(data, settings, _network(data, seed=1)) != first


def test_the_masks_follow_from_the_seed():
    data = spike_data(20)
    network = _network(data)
    losses = [_validate(data, tiny_settings(train={"seed": seed}), network) for seed in (0, 1)]
    assert losses[0]["valid_masked_loss"] != losses[1]["valid_masked_loss"]
    assert losses[0]["valid_unmasked_loss"] == losses[1]["valid_unmasked_loss"]


def test_validation_does_not_touch_the_global_generator_or_the_model():
    data = spike_data(20)
    network = _network(data)
    weights = snapshot(network)
    with assert_generators_untouched():
        _validate(data, network=network)
    assert same_tensors(snapshot(network), weights)
    assert all(p.grad is None for p in network.parameters())


def test_dropout_is_off():
    data = spike_data(20)
    for p in (0.0, 0.9):
        settings = tiny_settings(model={"dropout": p, "dropout_rates": p, "dropout_embedding": p})
        losses = _validate(data, settings)
        if p == 0.0:
            expected = losses
    assert losses == expected


def test_the_whole_set_is_measured_whatever_the_number_of_batches():
    n_trials = 2 * VALIDATION_BATCH_SIZE + 3
    data = spike_data(n_trials, lengths_B=np.r_[np.full(n_trials - 2, 6), 4, 1])
    network = _network(data)
    counts = torch.from_numpy(data.spikes_BTN)
    inside = torch.from_numpy(data.inside_BT)
    with torch.no_grad():
        output = network(counts, inside)
    losses = (output.exp() - counts * output)[inside]
    found = _validate(data, network=network)["valid_unmasked_loss"]
    assert found == pytest.approx(losses.double().mean().item(), rel=1e-5)


def test_with_everything_hidden_the_masked_loss_is_that_of_a_blank_input():
    data = spike_data(20)
    network = _network(data)
    settings = tiny_settings(mask={"ratio": 1.0})
    counts = torch.from_numpy(data.spikes_BTN)
    with torch.no_grad():
        output = network(torch.zeros_like(counts))
    expected = (output.exp() - counts * output).double().mean().item()
    assert _validate(data, settings, network)["valid_masked_loss"] == pytest.approx(
        expected, rel=1e-5
    )


def test_ndt1_fault_unmasked_nlb_validation_leaves_out_every_held_out_neuron_and_forward_bin():
    data = spike_data(30, 10, 6, mean_count=2.0, **BLIND)
    network = _network(data)
    before = _validate(data, network=network)
    after = _validate(_with_other_blind_counts(data), network=network)
    # Neither input nor loss: the counts there make no difference at all.
    assert after["valid_unmasked_loss"] == before["valid_unmasked_loss"]
    # They are targets of the masked loss.
    assert after["valid_masked_loss"] != before["valid_masked_loss"]

    counts = torch.from_numpy(data.spikes_BTN)
    blind = torch.from_numpy(_blind_TN(data))
    with torch.no_grad():
        output = network(counts.masked_fill(blind, 0))
    seen = (output.exp() - counts * output)[:, ~blind].double().mean().item()
    assert before["valid_unmasked_loss"] == pytest.approx(seen, rel=1e-5)


def test_ndt1_fault_unmasked_nlb_validation_counts_that_are_not_known_are_not_scored():
    known = spike_data(30, 10, 6, mean_count=2.0, **BLIND)
    unknown = SpikeData(**{**vars_of(known), "hidden_counts_known": False})
    network = _network(known)
    losses = _validate(unknown, network=network)
    assert _validate(_with_other_blind_counts(unknown), network=network) == losses
    assert losses["valid_masked_loss"] != _validate(known, network=network)["valid_masked_loss"]


def test_padding_is_not_scored():
    data = spike_data(20, lengths_B=[6, 3] * 10)
    network = _network(data)
    spikes_BTN = data.spikes_BTN.copy()
    spikes_BTN[~data.inside_BT] = 4
    assert _validate(with_spikes(data, spikes_BTN), network=network) == _validate(
        data, network=network
    )


def test_spans_are_drawn_as_after_the_ramp_from_the_first_validation_on():
    ramp = {"span_ramp_start_epoch": 100, "span_ramp_end_epoch": 200}
    data = spike_data(30, 20)
    network = _network(data)
    late = _validate(data, tiny_settings(mask={"max_span": 5, **ramp}), network)
    at_once = _validate(data, tiny_settings(mask={"max_span": 5}), network)
    never = _validate(data, tiny_settings(mask={"max_span": 1}), network)
    assert late == at_once
    assert late["valid_masked_loss"] != never["valid_masked_loss"]


def test_r2_is_that_of_the_rates_with_nothing_hidden():
    n_trials = VALIDATION_BATCH_SIZE + 5
    truth = np.random.default_rng(0).gamma(2.0, 0.5, (n_trials, 6, 3))
    data = spike_data(n_trials, rates_BTN=truth, lengths_B=np.r_[np.full(n_trials - 1, 6), 2])
    network = _network(data)
    with torch.no_grad():
        output = network(torch.from_numpy(data.spikes_BTN), torch.from_numpy(data.inside_BT))
    expected = rate_scores(output.exp().numpy(), truth, data.inside_BT).r2_mean
    found = _validate(data, network=network)["valid_rate_r2"]
    assert found == pytest.approx(expected, rel=1e-5)


def test_co_bps_is_that_of_held_out_neurons_in_the_window_with_nothing_hidden():
    n_trials = VALIDATION_BATCH_SIZE + 5
    data = spike_data(n_trials, 10, 6, lengths_B=np.r_[np.full(n_trials - 1, 10), 4], **BLIND)
    network = _network(data)
    visible = torch.from_numpy(~_blind_TN(data))
    counts = torch.from_numpy(data.spikes_BTN)
    with torch.no_grad():
        rates = network(counts * visible, torch.from_numpy(data.inside_BT)).exp().numpy()
    heldout = (slice(None), slice(0, 7), slice(4, 6))
    expected = bits_per_spike(rates[heldout], data.spikes_BTN[heldout], data.inside_BT[:, :7])
    found = _validate(data, network=network)["valid_co_bps"]
    assert found == pytest.approx(expected.bits_per_spike, rel=1e-5)


def test_what_cannot_be_measured_is_left_out():
    always = ["valid_masked_loss", "valid_unmasked_loss"]
    assert list(_validate(spike_data(5))) == always
    unknown = spike_data(5, n_heldout=1, hidden_counts_known=False)
    assert list(_validate(unknown)) == always
    only_forward = spike_data(5, n_forward=1)
    assert list(_validate(only_forward)) == always
    for data in (spike_data(5), unknown, spike_data(5, n_heldout=1)):
        assert list(_validate(data)) == [measure.key for measure in measures_of(data)]


def test_topk_does_not_act_on_validation():
    data = spike_data(20)
    network = _network(data)
    few = tiny_settings(train={"topk_fraction": 0.1})
    assert _validate(data, few, network) == _validate(data, network=network)


def test_a_diverged_model_is_measured_as_such():
    # Rates that overflow are a fact to report: no exception that no one expects.
    data = spike_data(5, rates_BTN=np.random.default_rng(0).gamma(2.0, 0.5, (5, 6, 3)))
    network = _network(data)
    with torch.no_grad():
        network.readout.last.bias.fill_(200.0)
    try:
        losses = _validate(data, network=network)
    except NdtError:
        return
    assert not np.isfinite(losses["valid_masked_loss"])
    assert not losses["valid_rate_r2"] > 0  # NaN, or as bad as it gets


def _inputs(data, settings, max_count):
    """What a network of larger training counts is shown in validation."""
    network = build_network(settings.model, data.n_neurons, data.n_bins, max_count)
    seen = []
    network.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    Validator(data, settings, CPU)(network)
    return seen[0]


@pytest.mark.parametrize("max_count", [10, 254, 255, 300])
def test_the_mask_token_fits_where_validation_counts_are_small_and_training_counts_are_not(
    max_count,
):
    settings = tiny_settings(mask={"zero_token": False, "ratio": 1.0})
    assert (_inputs(spike_data(5), settings, max_count) == max_count + 1).all()


@pytest.mark.parametrize("max_count", [10, 1000])
def test_random_counts_fit_where_validation_counts_are_small_and_training_counts_are_not(
    max_count,
):
    settings = tiny_settings(mask={"ratio": 1.0, "token_ratio": 0.0, "random_ratio": 1.0})
    shown = _inputs(spike_data(100), settings, max_count).float()
    assert shown.mean().item() == pytest.approx(max_count / 2, rel=0.1)


def test_with_empty_bins_in_training_the_masked_loss_is_of_whole_bins_hidden():
    data = spike_data(20)
    network = _network(data)
    losses = [
        _validate(data, tiny_settings(mask=mask), network)["valid_masked_loss"]
        for mask in (
            {"token_ratio": 0.5, "empty_ratio": 0.5},
            {"token_ratio": 0.1, "random_ratio": 0.0, "empty_ratio": 1.0},
            {"token_ratio": 1.0},
        )
    ]
    assert losses[0] == losses[1] == losses[2]


def test_co_smoothing_and_r2_are_of_the_rates_that_inference_averages():
    data = dataclasses.replace(recording(1, 30, rates=True, n_bins=10).valid, n_heldout=1)
    network = _network(data)
    plain, averaged = (
        _validate(data, tiny_settings(inference={"passes": passes}), network) for passes in (1, 4)
    )
    for measure in ("valid_rate_r2", "valid_co_bps"):
        assert plain[measure] != averaged[measure]
    for measure in ("valid_masked_loss", "valid_unmasked_loss"):
        assert plain[measure] == averaged[measure]


def test_a_few_trials_are_masked_often_enough_that_the_masks_hardly_matter(monkeypatch):
    data = spike_data(4)
    network = _network(data)

    def spread_over_masks():
        losses = [
            _validate(data, tiny_settings(train={"seed": seed}), network)["valid_masked_loss"]
            for seed in range(20)
        ]
        return np.std(losses)

    often = spread_over_masks()
    monkeypatch.setattr("ndt_cli.engine.trainer.MOST_VALIDATION_DRAWS", 1)
    # Sixteen masks: a quarter of the deviation, but that masks of one trial overlap.
    assert often < 0.5 * spread_over_masks()
