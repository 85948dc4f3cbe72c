"""What stands in the place of hidden counts, and that neither they nor blind ones leak."""

import pytest
import torch
from builders import build_network, counts_BTN, model_settings, spike_data

from ndt_cli.engine.batches import TrialSet
from ndt_cli.model.masking import (
    describe_scoring,
    draw_hidden,
    draw_passes,
    hide,
    scoring_mask,
    span_probability,
)
from ndt_cli.settings.tree import InferenceSettings, MaskSettings


def _stream(seed=0):
    return torch.Generator().manual_seed(seed)


def _draw(mask, shape, seed=0, epoch=0):
    settings = MaskSettings(**mask)
    p_span = span_probability(settings, epoch)
    return draw_hidden(shape, settings, p_span, _stream(seed)).expand(shape)


def _hide(counts, hidden, mask=None, *, max_count=4, visible=None, seed=0):
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    visible = everywhere if visible is None else visible
    settings = MaskSettings(**(mask or {}))
    return hide(counts, visible, everywhere, hidden, settings, max_count, _stream(seed))


def test_hidden_entries_become_token_random_or_stay_in_the_asked_shares():
    counts = torch.full((200, 50, 4), 7, dtype=torch.uint8)
    mask = {"token_ratio": 0.6, "random_ratio": 0.75, "zero_token": False}
    hidden = _draw({"mode": "full"}, counts.shape)
    seen = _hide(counts, hidden, mask, max_count=9).input_BTN[hidden]
    # 0.6 token; 0.4 * 0.75 random, a tenth of which is 7 by chance; the rest stays.
    random_share = 0.4 * 0.75
    assert (seen == 10).float().mean().item() == pytest.approx(0.6, abs=0.02)
    assert (seen < 7).float().mean().item() == pytest.approx(random_share * 0.7, abs=0.02)
    assert (seen == 7).float().mean().item() == pytest.approx(0.1 + random_share * 0.1, abs=0.02)


def test_entries_that_are_not_hidden_stay_and_are_not_scored():
    counts = counts_BTN(20, 10, 4)
    hidden = _draw({"mode": "full"}, counts.shape)
    for token_ratio in (0.0, 0.5, 1.0):
        masked = _hide(counts, hidden, {"token_ratio": token_ratio, "random_ratio": 1.0})
        assert torch.equal(masked.input_BTN[~hidden], counts[~hidden])
        assert torch.equal(masked.scored_BTN.expand(counts.shape), hidden)


def test_without_token_and_random_share_the_hidden_counts_stay():
    counts = counts_BTN(20, 10, 4)
    hidden = _draw({"mode": "full"}, counts.shape)
    masked = _hide(counts, hidden, {"token_ratio": 0.0, "random_ratio": 0.0})
    assert torch.equal(masked.input_BTN, counts)
    assert torch.equal(masked.scored_BTN.expand(counts.shape), hidden)


def test_ndt1_fault_random_replacement_draws_zero_and_the_largest_count():
    counts = torch.ones(100, 20, 5, dtype=torch.uint8)
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    masked = _hide(counts, everything, {"token_ratio": 0.0, "random_ratio": 1.0}, max_count=4)
    shares = torch.bincount(masked.input_BTN.flatten().long(), minlength=6) / counts.numel()
    assert shares[:5].tolist() == pytest.approx([0.2] * 5, abs=0.025)
    assert shares[5] == 0


@pytest.mark.parametrize("max_count", [0, 4])
def test_ndt1_fault_random_replacement_works_on_a_batch_without_a_spike(max_count):
    counts = torch.zeros(10, 10, 3, dtype=torch.uint8)
    hidden = _draw({}, counts.shape)
    masked = _hide(counts, hidden, {"token_ratio": 0.0, "random_ratio": 1.0}, max_count=max_count)
    assert masked.input_BTN.max() == max_count
    assert masked.input_BTN[~hidden].max() == 0


@pytest.mark.parametrize("embedding", ["count-table", "identity", "linear"])
@pytest.mark.parametrize("max_count", [1, 4])
def test_the_mask_token_reads_unlike_any_count_in_every_embedding(embedding, max_count):
    counts = torch.arange(max_count + 1, dtype=torch.uint8)[None, :, None].expand(1, -1, 2)
    counts = counts.contiguous()
    token = torch.full_like(counts, max_count + 1)
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    masked = _hide(counts, everything, {"zero_token": False}, max_count=max_count)
    assert torch.equal(masked.input_BTN, token)

    # Bins see only themselves: compare each count with the token in the same bin.
    settings = model_settings(embedding=embedding, context_back=0, context_forward=0)
    network = build_network(settings, n_neurons=2, n_bins=max_count + 1, max_count=max_count)
    output_TN = network(masked.input_BTN)[0]
    assert (output_TN - network(counts)[0]).abs().amax(dim=1).min() > 1e-5
    output_TN.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


_BLIND = {"n_heldout": 2, "n_forward": 3}


@pytest.mark.parametrize("mode", ["timestep", "full", "neuron", "timestep-only"])
@pytest.mark.parametrize("zero_token", [True, False])
def test_held_out_neurons_and_forward_bins_are_never_seen_and_always_scored(mode, zero_token):
    data = spike_data(50, 10, 6, mean_count=4.0, **_BLIND)
    trials = TrialSet.load(data, torch.device("cpu"))
    settings = MaskSettings(
        mode=mode, zero_token=zero_token, token_ratio=0.5, random_ratio=0.9, ratio=0.4
    )
    stream = _stream()
    hidden = draw_hidden(trials.shape, settings, 0, stream)
    masked = hide(
        trials.counts_BTN, trials.visible_1TN, trials.scorable, hidden, settings, 9, stream
    )
    blind_TN = torch.zeros(10, 6, dtype=torch.bool)
    blind_TN[:, -2:] = True
    blind_TN[-3:] = True
    scored_BTN = masked.scored_BTN.expand(trials.shape)
    assert (masked.input_BTN[:, blind_TN] == 0).all()
    assert scored_BTN[:, blind_TN].all()
    # The rest is hidden at the ratio, not always.
    assert 0 < scored_BTN[:, ~blind_TN].float().mean() < 0.8
    assert trials.counts_BTN[:, blind_TN].max() > 0


def test_padding_is_never_scored():
    data = spike_data(6, 8, 3, lengths_B=[8, 5, 1, 0, 7, 8], **{"n_heldout": 1})
    trials = TrialSet.load(data, torch.device("cpu"))
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    masked = hide(
        trials.counts_BTN,
        trials.visible_1TN,
        trials.scorable,
        everything,
        MaskSettings(),
        4,
        _stream(),
    )
    inside_BTN = torch.from_numpy(data.inside_BT)[:, :, None].expand(trials.shape)
    assert torch.equal(masked.scored_BTN.expand(trials.shape), inside_BTN)


def _log_rates(network, trials, mask, seed=5):
    settings, stream = MaskSettings(**mask), _stream(seed)
    hidden = draw_hidden(trials.shape, settings, span_probability(settings, 0), stream)
    masked = hide(
        trials.counts_BTN, trials.visible_1TN, trials.scorable, hidden, settings, 9, stream
    )
    with torch.no_grad():
        return network(masked.input_BTN), hidden.expand(trials.shape)


@pytest.mark.parametrize("embedding", ["count-table", "identity", "linear"])
@pytest.mark.parametrize("mode", ["timestep", "full", "neuron"])
@pytest.mark.parametrize(
    "mask", [{"zero_token": True}, {"zero_token": False}, {"token_ratio": 0, "random_ratio": 1.0}]
)
def test_a_hidden_count_cannot_leak_into_any_rate(embedding, mode, mask):
    settings = model_settings(embedding=embedding, full_context=True)
    network = build_network(settings, n_neurons=4, n_bins=10, max_count=9)
    trials = TrialSet.load(spike_data(8, 10, 4, mean_count=2.0), torch.device("cpu"))
    mask = {"mode": mode, **mask}
    before_BTN, hidden_BTN = _log_rates(network, trials, mask)
    trials.counts_BTN[hidden_BTN] = 9 - trials.counts_BTN[hidden_BTN].clamp_max(9)
    assert torch.equal(_log_rates(network, trials, mask)[0], before_BTN)
    trials.counts_BTN[~hidden_BTN] = 9 - trials.counts_BTN[~hidden_BTN].clamp_max(9)
    assert not torch.equal(_log_rates(network, trials, mask)[0], before_BTN)


@pytest.mark.parametrize("embedding", ["count-table", "identity", "linear"])
@pytest.mark.parametrize("token_ratio", [1.0, 0.3])
def test_counts_of_held_out_neurons_and_forward_bins_cannot_leak(embedding, token_ratio):
    data = spike_data(8, 10, 6, mean_count=2.0, **_BLIND)
    trials = TrialSet.load(data, torch.device("cpu"))
    settings = model_settings(embedding=embedding, full_context=True)
    network = build_network(settings, n_neurons=6, n_bins=10, max_count=9)
    mask = {"mode": "full", "token_ratio": token_ratio}
    before_BTN, _ = _log_rates(network, trials, mask)
    blind_BTN = ~trials.visible_1TN.expand(trials.shape)
    trials.counts_BTN[blind_BTN] = 9 - trials.counts_BTN[blind_BTN].clamp_max(9)
    assert torch.equal(_log_rates(network, trials, mask)[0], before_BTN)


# Whole bins, and neurons beside them


def _bins(shape, ratio=0.25):
    return draw_hidden(shape, MaskSettings(ratio=ratio), 0, _stream(1))


@pytest.mark.parametrize(("empty_ratio", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_asked_share_of_the_hidden_bins_is_wholly_empty(empty_ratio, share):
    counts = torch.full((100, 40, 30), 3, dtype=torch.uint8)
    hidden = _bins(counts.shape)
    mask = {"token_ratio": 0.5, "random_ratio": 1.0, "empty_ratio": empty_ratio}
    masked = _hide(counts, hidden, mask)
    empty = masked.input_BTN[hidden[..., 0]].amax(dim=1) == 0
    assert empty.float().mean().item() == pytest.approx(share, abs=0.05)
    # The others are as they are without such bins: half zeros, half random counts from 0 to 4.
    if empty_ratio < 1:
        partly = masked.input_BTN[hidden[..., 0]][~empty]
        assert (partly == 0).float().mean().item() == pytest.approx(0.6, abs=0.02)
    assert torch.equal(masked.scored_BTN.expand(counts.shape), hidden.expand(counts.shape))


def test_hidden_neurons_are_empty_for_the_whole_trial_and_scored():
    counts = torch.full((400, 10, 50), 3, dtype=torch.uint8)
    mask = {"token_ratio": 0.5, "random_ratio": 0.0, "neuron_ratio": 0.4}
    nothing = torch.zeros(1, 1, 1, dtype=torch.bool)
    masked = _hide(counts, nothing, mask)
    empty = masked.input_BTN == 0
    assert torch.equal(empty.all(dim=1), empty.any(dim=1))
    assert torch.equal(masked.scored_BTN.expand(counts.shape), empty)
    share_B = empty[:, 0].float().mean(dim=1)
    assert share_B.mean().item() == pytest.approx(0.2, abs=0.03)  # uniform from 0 to 0.4
    assert share_B.max() > 0.35
    assert share_B.min() < 0.05


def test_without_the_new_settings_the_draws_are_those_of_before():
    counts = counts_BTN(20, 10, 4)
    hidden = _bins(counts.shape)
    stream = _stream()
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    settings = MaskSettings(token_ratio=0.5, random_ratio=0.5)
    hide(counts, everywhere, everywhere, hidden, settings, 4, stream)
    again = _stream()
    torch.rand(counts.shape, generator=again)  # one number for each entry, and no other
    assert torch.equal(stream.get_state(), again.get_state())


@pytest.mark.parametrize("embedding", ["count-table", "linear"])
@pytest.mark.parametrize(
    "mask",
    [
        {"empty_ratio": 1.0, "token_ratio": 0.3},
        {"token_ratio": 0.3, "random_ratio": 0.4},
        {"token_ratio": 0.0, "random_ratio": 0.0},
        {"token_ratio": 0.0, "random_ratio": 0.5, "zero_token": False},
    ],
)
def test_scores_hide_as_in_training_and_no_count_leaks(embedding, mask):
    settings = scoring_mask(MaskSettings(**mask, neuron_ratio=0.3))
    counts = counts_BTN(8, 10, 6, max_count=9)
    hidden = _bins(counts.shape)
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)

    def seen(counts):
        return hide(counts, everywhere, everywhere, hidden, settings, 9, _stream()).input_BTN

    other = torch.where(hidden, 9 - counts, counts)
    assert torch.equal(seen(counts), seen(other))
    assert torch.equal(seen(counts)[~hidden.expand_as(counts)], counts[~hidden.expand_as(counts)])


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({}, "whole bins hidden, all zeros"),
        ({"token_ratio": 0.7, "empty_ratio": 0.5}, "whole bins hidden, all zeros"),
        (
            {"token_ratio": 0.7},
            "whole bins hidden, zeros and random counts in their place as in training",
        ),
        ({"mode": "neuron", "zero_token": False}, "whole neurons hidden, all mask tokens"),
    ],
)
def test_the_output_says_what_the_scores_hide(mask, words):
    assert describe_scoring(MaskSettings(**mask)) == words


@pytest.mark.parametrize(("passes", "ratio"), [(8, 0.25), (4, 0.25), (5, 0.3), (2, 0.25)])
def test_passes_hide_every_bin_equally_often(passes, ratio):
    settings = InferenceSettings(passes=passes, hidden_ratio=ratio)
    hidden_KT1 = draw_passes(2000, 3, "timestep", settings, seed=1)
    assert hidden_KT1.shape == (passes, 2000, 1)
    n_hidden_T = hidden_KT1.sum(axis=0)[:, 0]
    assert set(n_hidden_T) <= {int(passes * ratio), int(passes * ratio) + 1}
    assert hidden_KT1.mean() == pytest.approx(ratio, abs=0.02)
    assert hidden_KT1.mean(axis=(1, 2)) == pytest.approx([ratio] * passes, abs=0.05)


def test_the_bins_that_passes_hide_do_not_depend_on_the_length_of_the_trials():
    settings = InferenceSettings(passes=8)
    longer = draw_passes(50, 3, "timestep", settings, seed=1)
    assert (longer[:, :20] == draw_passes(20, 3, "timestep", settings, seed=1)).all()
    assert draw_passes(20, 3, "full", settings, seed=1).shape == (8, 20, 3)
    assert draw_passes(20, 3, "neuron", settings, seed=1).shape == (8, 1, 3)
