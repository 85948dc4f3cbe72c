"""The context window: which bins can change a rate, and that padding never can."""

import pytest
import torch
from builders import build_network, counts_BTN, model_settings

from ndt_cli.model.context import Blocks, Context
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.model.network import PlainMath
from ndt_cli.report.attention_weights import attention_weights

N_BINS = 12
CPU = torch.device("cpu")


def _influence_TS(**model):
    """Change the count of each bin in turn; tell which bins' log-rates move by it."""
    settings = model_settings(feedforward_size=16, n_heads=2, **model)
    network = build_network(settings, n_neurons=2, n_bins=N_BINS, seed=3)
    input_BTN = counts_BTN(1, N_BINS, 2, seed=4)
    with torch.no_grad():
        before_TN = network(input_BTN)[0]
        influence_TS = torch.zeros(N_BINS, N_BINS, dtype=torch.bool)
        for bin_changed in range(N_BINS):
            other_BTN = input_BTN.clone()
            other_BTN[0, bin_changed] = (other_BTN[0, bin_changed] + 2) % 5
            moved_T = (network(other_BTN)[0] - before_TN).abs().amax(dim=-1)
            influence_TS[:, bin_changed] = moved_T > 1e-6
    return influence_TS


def _window_TS(back, forward):
    ahead_TS = torch.arange(N_BINS)[None, :] - torch.arange(N_BINS)[:, None]
    return (ahead_TS >= -back) & (ahead_TS <= forward)


@pytest.mark.parametrize(("back", "forward"), [(0, 0), (2, 1), (1, 4), (3, 0), (0, 3)])
@pytest.mark.parametrize("norm_place", ["pre", "post"])
def test_one_layer_sees_its_window_and_nothing_else(back, forward, norm_place):
    influence_TS = _influence_TS(context_back=back, context_forward=forward, norm_place=norm_place)
    assert torch.equal(influence_TS, _window_TS(back, forward))


@pytest.mark.parametrize("n_layers", [2, 3])
def test_a_bin_beyond_the_reach_of_all_layers_cannot_change_a_rate(n_layers):
    influence_TS = _influence_TS(n_layers=n_layers, context_back=2, context_forward=1)
    reach_TS = _window_TS(2 * n_layers, n_layers)
    assert not (influence_TS & ~reach_TS).any()
    # The reach is real: information does travel over several layers.
    assert (influence_TS & ~_window_TS(2, 1)).any()
    assert torch.equal(influence_TS & _window_TS(2, 1), _window_TS(2, 1))


@pytest.mark.parametrize(
    ("model", "back", "forward"),
    [
        ({"context_back": -1, "context_forward": 1}, N_BINS, 1),
        ({"context_back": 2, "context_forward": -1}, 2, N_BINS),
        ({"context_back": -1, "context_forward": -1}, N_BINS, N_BINS),
        ({"context_back": 1, "context_forward": 0, "full_context": True}, N_BINS, N_BINS),
    ],
)
def test_minus_one_and_full_context_lift_the_limits(model, back, forward):
    assert torch.equal(_influence_TS(**model), _window_TS(back, forward))


def test_wrap_initial_joins_the_first_bins_and_changes_nothing_else():
    wrapped_TS = _influence_TS(context_back=4, context_forward=1, context_wrap_initial=True)
    initial_TS = torch.zeros(N_BINS, N_BINS, dtype=torch.bool)
    initial_TS[:4, :4] = True
    assert torch.equal(wrapped_TS, _window_TS(4, 1) | initial_TS)
    assert not torch.equal(wrapped_TS, _window_TS(4, 1))


def test_wrap_initial_means_nothing_without_a_limit_behind():
    with_limit = {"context_forward": 1, "context_wrap_initial": True, "full_context": True}
    assert torch.equal(_influence_TS(**with_limit), _window_TS(N_BINS, N_BINS))


@pytest.mark.parametrize("full_context", [True, False])
@pytest.mark.parametrize("norm_place", ["pre", "post"])
def test_padding_changes_no_rate_inside_the_trial(full_context, norm_place):
    settings = model_settings(n_layers=2, full_context=full_context, norm_place=norm_place)
    network = build_network(settings, n_bins=8)
    input_BTN = counts_BTN(3, 8, 3)
    inside_BT = torch.arange(8) < torch.tensor([8, 5, 1])[:, None]
    rubbish_BTN = torch.where(inside_BT[:, :, None], input_BTN, 4 - input_BTN)
    with torch.no_grad():
        clean_BTN, dirty_BTN = network(input_BTN, inside_BT), network(rubbish_BTN, inside_BT)
        blind_BTN = network(rubbish_BTN)
    assert torch.equal(clean_BTN[inside_BT], dirty_BTN[inside_BT])
    # Without the mask the same rubbish does leak in.
    assert not torch.allclose(clean_BTN[inside_BT], blind_BTN[inside_BT])


@pytest.mark.parametrize("full_context", [True, False])
def test_a_trial_alone_equals_the_trial_in_a_padded_batch(full_context):
    settings = model_settings(n_layers=2, full_context=full_context, n_heads=2)
    network = build_network(settings, n_bins=9)
    lengths = [9, 4, 1, 7]
    input_BTN = counts_BTN(4, 9, 3)
    inside_BT = torch.arange(9) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together_BTN = network(input_BTN, inside_BT)
        for i, length in enumerate(lengths):
            alone_BTN = network(input_BTN[i : i + 1, :length])
            torch.testing.assert_close(together_BTN[i, :length], alone_BTN[0], rtol=0, atol=1e-5)


def test_padding_leaves_no_nan_in_rates_or_gradients():
    network = build_network(n_bins=6)
    inside_BT = torch.arange(6) < torch.tensor([6, 0, 2])[:, None]  # one trial is all padding
    output_BTN = network(counts_BTN(3, 6, 3), inside_BT)
    assert output_BTN.isfinite().all()
    output_BTN[inside_BT].sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def _rates_and_gradient(monkeypatch, blocks, n_bins, inside_BT, plain, **model):
    """Run a network that cuts a trial into these blocks."""
    monkeypatch.setattr(Blocks, "for_context", lambda *context_and_size: blocks)
    network = build_network(model_settings(n_layers=2, n_heads=2, **model), 5, n_bins)
    network.math = PlainMath() if plain else CpuMath()
    output_BTN = network(counts_BTN(3, n_bins, 5), inside_BT)
    inside = slice(None) if inside_BT is None else inside_BT
    output_BTN[inside].square().sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
    return output_BTN.detach()[inside], gradient


@pytest.mark.parametrize("size", [1, 4, 7, 22, 40])
@pytest.mark.parametrize(("back", "forward"), [(8, 4), (0, 0), (3, 0), (0, 16), (13, 20), (60, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_blocks_of_the_band_give_what_scores_between_all_bins_give(
    monkeypatch, size, back, forward, padded, plain
):
    n_bins = 23
    inside_BT = torch.arange(n_bins) < torch.tensor([n_bins, 12, 1])[:, None] if padded else None
    context = {"context_back": back, "context_forward": forward}
    blocks = Blocks(n_bins, size, back, forward)
    rates, gradient = _rates_and_gradient(monkeypatch, blocks, n_bins, inside_BT, plain, **context)
    whole = Blocks.whole(n_bins)
    expected = _rates_and_gradient(monkeypatch, whole, n_bins, inside_BT, plain, **context)
    torch.testing.assert_close(rates, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-3, atol=1e-3)


def test_only_a_narrow_window_in_a_long_trial_is_cut_into_blocks():
    assert Blocks.for_context(Context(8, 4), 200, CPU).n_blocks > 1
    assert Blocks.for_context(Context(8, 4), 10, CPU) == Blocks.whole(10)
    assert Blocks.for_context(Context(None, 4), 200, CPU) == Blocks.whole(200)
    assert Blocks.for_context(Context(8, None), 200, CPU) == Blocks.whole(200)
    # The wrapped start reaches further than the window of a block.
    assert Blocks.for_context(Context(8, 4, wrap_initial=True), 200, CPU) == Blocks.whole(200)


def test_a_gpu_cuts_only_long_trials():
    gpu = torch.device("cuda")
    assert Blocks.for_context(Context(8, 4), 256, gpu) == Blocks.whole(256)
    assert Blocks.for_context(Context(8, 4), 1000, gpu).n_blocks > 1


@torch.inference_mode()
def test_attention_to_like_bins_falls_by_e_over_the_span_of_its_head():
    settings = model_settings(n_layers=1, n_heads=2, full_context=True, head_spans=(1.0, 4.0))
    network = build_network(settings, n_bins=N_BINS)
    network.layers[0].attention.qkv.weight.zero_()  # all bins look alike
    (weights_BHTS,) = attention_weights(network, counts_BTN(1, N_BINS, 3))
    fast_TS, slow_TS = weights_BHTS[0].log()
    torch.testing.assert_close(fast_TS[5, 5] - fast_TS[5, 6], torch.tensor(1.0))
    torch.testing.assert_close(slow_TS[5, 5] - slow_TS[5, 9], torch.tensor(1.0))
    torch.testing.assert_close(slow_TS[5, 3], slow_TS[5, 7])  # as far back as forward
