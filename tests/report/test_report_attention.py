"""Attention weights: those that the network uses, and their averages over trials."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import (
    build_network,
    counts_BTN,
    evaluation_of,
    model_settings,
    recording,
    spike_data,
    tiny_settings,
)

from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.training import train
from ndt_cli.report.attention_weights import (
    attention_weights,
    average_attention,
    draw_attention_lags,
    draw_attention_maps,
    is_narrow,
)

N_BINS = 12


def run_of(average):
    """The parts of a run that figures of its attention need."""
    evaluation = evaluation_of(spike_data(3, N_BINS), np.ones((3, N_BINS, 3)))
    return SimpleNamespace(attention=average, is_ensemble=False, evaluation=evaluation)


def encoder_with(network, input_BTN, weights):
    """The encoder once more, each layer mixing its values with the weights given."""
    x_BTD = network.embedding(input_BTN, None)
    for layer, weights_BHTS in zip(network.layers, weights, strict=True):
        into_BTD = layer.norm_attention(x_BTD) if layer.pre_norm else x_BTD
        v_BTD = layer.attention.qkv(into_BTD).chunk(3, dim=-1)[2]
        v_BHSE = v_BTD.unflatten(-1, (layer.attention.n_heads, -1)).transpose(1, 2)
        x_BTD = x_BTD + layer.attention.out((weights_BHTS @ v_BHSE).transpose(1, 2).flatten(2))
        if not layer.pre_norm:
            x_BTD = layer.norm_attention(x_BTD)
        into_BTD = layer.norm_feedforward(x_BTD) if layer.pre_norm else x_BTD
        x_BTD = x_BTD + layer.contract(F.relu(layer.expand(into_BTD)))
        if not layer.pre_norm:
            x_BTD = layer.norm_feedforward(x_BTD)
    return network.norm(x_BTD)


@pytest.mark.parametrize("norm_place", ["pre", "post"])
@pytest.mark.parametrize(
    "window",
    [
        {"context_back": 2, "context_forward": 1},
        {"full_context": True},
        {"full_context": True, "head_spans": (0.5, 4.0)},
    ],
)
@pytest.mark.parametrize("positions", ["learned", "relative"])
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_the_weights_are_those_that_make_the_activations(norm_place, window, positions, padded):
    model = {"n_layers": 3, "n_heads": 2, "norm_place": norm_place, "positions": positions}
    network = build_network(model_settings(**model, **window), n_bins=N_BINS)
    for layer in network.layers if positions == "relative" else ():
        layer.attention.relative.bias_HO.normal_(generator=torch.Generator().manual_seed(0))
    counts = counts_BTN(4, N_BINS, 3)
    inside_BT = torch.arange(N_BINS) < torch.tensor([12, 5, 1, 9])[:, None] if padded else None
    weights = attention_weights(network, counts, inside_BT)
    assert [tuple(each.shape) for each in weights] == [(4, 2, N_BINS, N_BINS)] * 3
    rebuilt = encoder_with(network, counts, weights)
    own = network.encode(counts, inside_BT)
    inside = slice(None) if inside_BT is None else inside_BT
    torch.testing.assert_close(rebuilt[inside], own[inside], atol=2e-5, rtol=1e-4)
    # Other weights make other activations, so the comparison says something.
    rolled = encoder_with(network, counts, [each.roll(1, dims=1) for each in weights])
    assert (rolled[inside] - own[inside]).abs().max() > 1e-3


@torch.inference_mode()
def test_a_bin_looks_only_at_its_window_and_never_at_padding():
    settings = model_settings(n_layers=2, context_back=2, context_forward=1)
    network = build_network(settings, n_bins=N_BINS)
    inside_BT = torch.arange(N_BINS) < torch.tensor([12, 7])[:, None]
    for weights_BHTS in attention_weights(network, counts_BTN(2, N_BINS, 3), inside_BT):
        assert torch.allclose(weights_BHTS.sum(-1), torch.ones(2, 1, N_BINS))
        ahead = torch.arange(N_BINS)[None, :] - torch.arange(N_BINS)[:, None]
        assert weights_BHTS[:, :, (ahead < -2) | (ahead > 1)].max() == 0
        assert weights_BHTS[1, :, :7, 7:].max() == 0


def test_the_network_is_left_as_it_was():
    network = build_network(model_settings(n_layers=2))
    before = network.encode(counts_BTN(2, 6, 3))
    attention_weights(network, counts_BTN(2, 6, 3))
    assert not any(layer._forward_pre_hooks for layer in network.layers)
    assert torch.equal(network.encode(counts_BTN(2, 6, 3)), before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = tiny_settings(
        model={"n_layers": 2, "n_heads": 2, "context_back": 2, "context_forward": 1},
        train={"max_epochs": 1},
    )
    run = train(
        settings,
        out=tmp_path_factory.mktemp("runs") / "run",
        recording=recording(8, 4, n_bins=N_BINS),
    ).run
    return load_trained(run)


def test_even_attention_averages_to_the_even_line(trained):
    blank = load_trained(trained.run.path)
    with torch.no_grad():
        for layer in blank.network.layers:
            layer.attention.qkv.weight.zero_()
    data = spike_data(5, N_BINS, lengths_B=[12, 3, 1, 12, 8])
    even = average_attention(blank, data)
    assert even.lags_K.tolist() == [-2, -1, 0, 1]
    np.testing.assert_allclose(even.by_lag_LHK, np.broadcast_to(even.uniform_K, (2, 2, 4)), 1e-5)
    # Far from both ends a bin sees four; the first bin sees itself and the next.
    assert even.maps_LHTS[0, 0, 6, 5] == pytest.approx(0.25)
    own = average_attention(trained, data)
    assert np.abs(own.by_lag_LHK - own.uniform_K).max() > 1e-3


def test_padding_and_hidden_neurons_do_not_touch_the_average(trained):
    data = spike_data(3, N_BINS, lengths_B=[12, 6, 9], seed=3)
    average = average_attention(trained, data)
    alone = [average_attention(trained, data.take(np.array([i]))) for i in range(3)]
    for row, column, trials in ((2, 3, (0, 1, 2)), (8, 7, (0, 2)), (11, 10, (0,))):
        mean = np.mean([alone[i].maps_LHTS[:, :, row, column] for i in trials], axis=0)
        np.testing.assert_allclose(average.maps_LHTS[:, :, row, column], mean, rtol=1e-4)
    assert alone[1].maps_LHTS.shape[2:] == (6, 6)
    assert np.isnan(average.maps_LHTS[:, :, 0, 8]).all()


def test_maps_end_with_the_longest_trial(trained):
    average = average_attention(trained, spike_data(3, N_BINS, lengths_B=[6, 9, 4], seed=3))
    assert average.maps_LHTS.shape[2:] == (9, 9)
    assert np.isfinite(average.maps_LHTS[:, :, 8, 8]).all()


@pytest.mark.parametrize("is_narrow_", [True, False])
def test_times_of_maps_are_those_from_the_event(trained, is_narrow_):
    average = average_attention(trained, spike_data(3, N_BINS))
    if not is_narrow_:
        average = dataclasses.replace(average, lags_K=np.arange(1 - N_BINS, N_BINS))
    assert is_narrow(average) == is_narrow_
    run = run_of(average)
    aligned = dataclasses.replace(run.evaluation.data, event="go", start_ms=-50.0)
    run.evaluation = dataclasses.replace(run.evaluation, data=aligned)
    panel = draw_attention_maps(run).figure.axes[0]
    bins = "bin that attends" if is_narrow_ else "bin attended to"
    assert panel.get_xlabel() == f"{bins}, time from go (ms)"
    ticks = zip(panel.get_xticks(), panel.get_xticklabels(), strict=True)
    assert {label.get_text(): at for at, label in ticks if at < 120}["0"] == 50.0
    other = zip(panel.get_yticks(), panel.get_yticklabels(), strict=True)
    at = {label.get_text(): at for at, label in other if at <= 40 or (not is_narrow_ and at < 120)}
    assert at["0"] == (15.0 if is_narrow_ else 50.0)


def test_maps_show_every_layer_and_head_and_narrow_windows_by_lag(trained):
    average = average_attention(trained, spike_data(3, N_BINS))
    assert is_narrow(average)
    figure = draw_attention_maps(run_of(average)).figure
    panel = figure.axes[0]
    maps = panel.images
    assert [image.get_array().shape for image in maps] == [(4, N_BINS)] * 4
    names = ["layer 1", "layer 2", "head 1", "head 2"]
    assert [text.get_text() for text in panel.texts] == names
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("lag (ms)", "bin that attends (ms)")
    # A bin of 10 ms, two bins back to one ahead, each drawn whole; lags point up.
    assert maps[0].get_extent() == [0.0, 120.0, 40.0, 0.0]
    ticks = zip(panel.get_yticks(), panel.get_yticklabels(), strict=True)
    assert {label.get_text(): at for at, label in ticks if at <= 40}["0"] == 15.0
    left, right = maps[1].get_extent()[:2]
    here = [at for at in panel.get_xticks() if left <= at <= right]
    label = panel.get_xticklabels()[panel.get_xticks().tolist().index(here[1])].get_text()
    assert here[1] - left == pytest.approx(float(label))
    # A row for each head, a column for each layer.
    tops = [image.get_extent()[3] for image in maps]
    assert tops[0] == tops[1] < tops[2] == tops[3]
    drawn = maps[2].get_array()[:, 5]  # from bin 5 to bins 3 to 6, by the second head of layer 1
    np.testing.assert_allclose(drawn, average.maps_LHTS[0, 1, 5, 3:7])
    wide = average_attention(trained, spike_data(3, 6))
    assert not is_narrow(wide)
    assert draw_attention_maps(run_of(wide)).figure.axes[0].images[0].get_array().shape == (6, 6)


def test_lags_have_a_line_a_head_and_the_even_one(trained):
    average = average_attention(trained, spike_data(3, N_BINS))
    figure = draw_attention_lags(run_of(average)).figure
    assert figure.get_supxlabel() == "lag of the bin attended to (ms); negative: earlier"
    for layer, axes in enumerate(figure.axes):
        lines = {line.get_label(): line for line in axes.lines}
        assert lines["head 2"].get_xdata().tolist() == [-20.0, -10.0, 0.0, 10.0]
        assert lines["head 2"].get_ydata() == pytest.approx(average.by_lag_LHK[layer, 1])
    names = [text.get_text() for text in figure.legends[0].texts]
    assert names == ["head 1", "head 2", "even"]
