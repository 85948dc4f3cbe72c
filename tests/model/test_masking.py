"""Which counts are hidden: how many, in what runs, and alike in what."""

import numpy as np
import pytest
import torch

from ndt_cli.model.masking import draw_hidden, span_probability
from ndt_cli.settings.tree import MaskSettings

RATIO = 0.25
SPANS = {"max_span": 5}  # the ramp ends at epoch 0: every batch draws a width


def _stream(seed=0):
    return torch.Generator().manual_seed(seed)


def _draw(mask, shape, seed=0, epoch=0):
    settings = MaskSettings(**mask)
    p_span = span_probability(settings, epoch)
    return draw_hidden(shape, settings, p_span, _stream(seed)).expand(shape)


def _hidden_share_TN(mask, shape, n_batches):
    """Share of the draws that hide each bin of each neuron."""
    settings, stream = MaskSettings(ratio=RATIO, **mask), _stream()
    total_TN, p_span = torch.zeros(shape[1:]), span_probability(settings, 0)
    for _ in range(n_batches):
        total_TN += draw_hidden(shape, settings, p_span, stream).expand(shape).float().mean(dim=0)
    return total_TN / n_batches


def _runs(hidden_T):
    """Lengths of the runs of hidden bins that touch neither edge."""
    padded = np.concatenate([[0], np.asarray(hidden_T, dtype=int), [0]])
    edges = np.flatnonzero(np.diff(padded))
    starts, ends = edges[::2], edges[1::2]
    inside = (starts > 0) & (ends < len(hidden_T))
    return (ends - starts)[inside].tolist()


# (mask, shape, batches, bound): five standard deviations of a bin's share, or more.
_MODES = [
    ({"mode": "timestep"}, (500, 10, 1), 400, 0.005),
    ({"mode": "timestep", **SPANS}, (500, 10, 1), 400, 0.005),
    ({"mode": "full"}, (200, 10, 3), 400, 0.008),
    ({"mode": "full", **SPANS}, (200, 10, 3), 400, 0.008),
    ({"mode": "neuron"}, (200, 4, 6), 400, 0.008),
    ({"mode": "timestep-only"}, (2, 10, 1), 12000, 0.02),
    ({"mode": "timestep-only", **SPANS}, (2, 10, 1), 12000, 0.02),
]


@pytest.mark.parametrize(("mask", "shape", "n_batches", "bound"), _MODES)
def test_ndt1_fault_span_masking_every_bin_is_hidden_at_the_asked_ratio(
    mask, shape, n_batches, bound
):
    # NDT1 hides a first bin with ratio / width: 0.11 here, for widths of 1 to 5.
    share_TN = _hidden_share_TN(mask, shape, n_batches)
    assert (share_TN - RATIO).abs().max() < bound


@pytest.mark.parametrize("mode", ["timestep", "full", "neuron", "timestep-only"])
def test_a_ratio_of_one_hides_everything(mode):
    assert _draw({"mode": mode, "ratio": 1.0}, (3, 7, 4)).all()


@pytest.mark.parametrize("max_span", [1, 3])
def test_timestep_mode_hides_all_neurons_of_a_bin_and_differs_between_trials(max_span):
    hidden_BTN = _draw({"mode": "timestep", "max_span": max_span}, (50, 20, 6))
    assert torch.equal(hidden_BTN.any(dim=2), hidden_BTN.all(dim=2))
    assert not torch.equal(hidden_BTN.any(dim=0), hidden_BTN.all(dim=0))


@pytest.mark.parametrize("max_span", [1, 3])
def test_timestep_only_mode_hides_the_same_bins_in_every_trial(max_span):
    mask = {"mode": "timestep-only", "max_span": max_span, "ratio": 0.5}
    hidden_BTN = _draw(mask, (5, 40, 3))
    assert torch.equal(hidden_BTN, hidden_BTN[:1, :, :1].expand(5, 40, 3))
    assert 0 < hidden_BTN[0, :, 0].sum() < 40
    assert not torch.equal(hidden_BTN, _draw(mask, (5, 40, 3), seed=1))


def test_ndt1_fault_neuron_masking_hides_a_neuron_for_the_whole_trial():
    hidden_BTN = _draw({"mode": "neuron"}, (50, 20, 6))
    assert torch.equal(hidden_BTN.any(dim=1), hidden_BTN.all(dim=1))
    hidden_BN = hidden_BTN[:, 0]
    assert not torch.equal(hidden_BN.any(dim=1), hidden_BN.all(dim=1))  # neuron by neuron
    assert not torch.equal(hidden_BN.any(dim=0), hidden_BN.all(dim=0))  # trial by trial


def test_full_mode_hides_entry_by_entry():
    hidden = _draw({"mode": "full"}, (200, 30, 10)).float()
    # Knowing that its neighbor in time, or another neuron, is hidden tells nothing.
    for first, second in (
        (hidden[:, 1:], hidden[:, :-1]),
        (hidden[..., 1:], hidden[..., :-1]),
        (hidden[1:], hidden[:-1]),
    ):
        assert (first * second).mean().item() == pytest.approx(RATIO**2, abs=0.008)


def test_ndt1_fault_full_masking_with_spans_runs_along_time_for_each_neuron():
    mask = {"mode": "full", "ratio": 0.05, "max_span": 4}
    for seed in range(20):
        hidden_BTN = _draw(mask, (20, 40, 5), seed=seed)
        runs = [run for trial in hidden_BTN for neuron in trial.T for run in _runs(neuron)]
        width = min(runs)
        assert width in (1, 2, 3, 4)
        # Mostly lone spans at this ratio, so most runs have the batch's width.
        assert runs.count(width) / len(runs) > 0.8
        # Each neuron has its own spans.
        assert not torch.equal(hidden_BTN.any(dim=2), hidden_BTN.all(dim=2))


def test_spans_are_runs_of_one_width_a_batch_from_one_to_the_longest():
    widths = []
    for seed in range(200):
        hidden_BTN = _draw({"ratio": 0.04, "max_span": 5}, (40, 40, 1), seed=seed)
        runs = [run for trial in hidden_BTN for run in _runs(trial[:, 0])]
        widths.append(min(runs))
        # A run is one span or several that touch or overlap: never shorter than the width.
        assert np.median(runs) == widths[-1]
    assert set(widths) == {1, 2, 3, 4, 5}
    assert max(widths.count(width) for width in (1, 2, 3, 4, 5)) < 80  # 40 expected of each


def test_no_bin_follows_from_a_span_of_width_one():
    runs = [run for trial in _draw({"ratio": 0.04}, (300, 40, 1)) for run in _runs(trial[:, 0])]
    assert np.median(runs) == 1


def test_the_chance_of_spans_ramps_from_zero_to_one_between_two_epochs():
    mask = MaskSettings(max_span=3, span_ramp_start_epoch=10, span_ramp_end_epoch=20)
    chances = [span_probability(mask, epoch) for epoch in (0, 9, 10, 15, 19, 20, 500)]
    assert chances == pytest.approx([0, 0, 0, 0.5, 0.9, 1, 1])
    at_once = MaskSettings(max_span=3, span_ramp_start_epoch=10, span_ramp_end_epoch=10)
    assert [span_probability(at_once, epoch) for epoch in (9, 10)] == [0, 1]
    never = MaskSettings(span_ramp_start_epoch=0, span_ramp_end_epoch=5)
    assert span_probability(never, 100) == 0  # a longest span of one bin is no span


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (15, 0.4), (30, 0.8)])
def test_the_ramp_decides_how_many_batches_have_spans(epoch, expected):
    # At the end of the ramp a fifth of the widths drawn from 1 to 5 is 1.
    mask = {"ratio": 0.04, **SPANS, "span_ramp_start_epoch": 10, "span_ramp_end_epoch": 20}
    with_spans = [
        min(run for trial in _draw(mask, (20, 40, 1), seed, epoch) for run in _runs(trial[:, 0]))
        > 1
        for seed in range(300)
    ]
    assert np.mean(with_spans) == pytest.approx(expected, abs=0.12)


def test_the_same_stream_draws_the_same_mask():
    for mode in ("timestep", "full", "neuron", "timestep-only"):
        first, again = (_draw({"mode": mode}, (4, 30, 8), seed=3) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, _draw({"mode": mode}, (4, 30, 8), seed=4))


def test_ndt1_fault_search_mask_settings_changed_mid_run_apply_at_the_next_draw():
    stream, shape = _stream(), (200, 20, 1)
    for ratio in (0.1, 0.6, 0.3):
        hidden = draw_hidden(shape, MaskSettings(ratio=ratio), 0, stream)
        assert hidden.float().mean().item() == pytest.approx(ratio, abs=0.05)
