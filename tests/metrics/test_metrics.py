"""Scores: hand-computed cases, an independent formula, and what must not change a score."""

import math

import numpy as np
import pytest
from builders import spike_data

from ndt_cli.metrics import (
    RateScoreSums,
    SpikeScoreSums,
    bits_per_spike,
    decode_behavior,
    psth_scores,
    rate_scores,
)


def _column(*values):
    return np.array(values, dtype=float).reshape(1, -1, 1)


def _random_set(seed=0, shape=(7, 5, 4)):
    rng = np.random.default_rng(seed)
    truth_BTN = rng.gamma(2.0, 0.2, shape)
    rates_BTN = truth_BTN + 0.1 * rng.standard_normal(shape) ** 2
    spikes_BTN = rng.poisson(truth_BTN)
    scored_BTN = rng.random(shape) < 0.8
    return rates_BTN, truth_BTN, spikes_BTN, scored_BTN


def test_r2_of_a_hand_computed_neuron():
    # Truth 1 2 3: SST 2. Errors 0, 0, 1: SSE 1. Residual variance 1 - 3 * (1/3)^2 = 2/3.
    scores = rate_scores(_column(1, 2, 2), _column(1, 2, 3))
    assert scores.r2_N == pytest.approx([0.5])
    assert scores.explained_variance_N == pytest.approx([1 - (2 / 3) / 2])
    assert scores.r2_mean == scores.r2_median == scores.r2_pooled == pytest.approx(0.5)


def test_explained_variance_forgives_an_offset_and_r2_does_not():
    scores = rate_scores(_column(2, 3, 4), _column(1, 2, 3))
    assert scores.explained_variance_N == pytest.approx([1.0])
    assert scores.r2_N == pytest.approx([1 - 3 / 2])


def test_rate_scores_agree_with_loops_over_neurons():
    rates_BTN, truth_BTN, _, scored_BTN = _random_set()
    scores = rate_scores(rates_BTN, truth_BTN, scored_BTN)
    errors, totals, residuals = [], [], []
    for n in range(truth_BTN.shape[2]):
        kept = scored_BTN[:, :, n]
        truth, guess = truth_BTN[:, :, n][kept], rates_BTN[:, :, n][kept]
        errors.append(sum((t - g) ** 2 for t, g in zip(truth, guess, strict=True)))
        totals.append(np.var(truth) * len(truth))
        residuals.append(np.var(truth - guess) * len(truth))
    r2 = 1 - np.array(errors) / totals
    assert scores.r2_N == pytest.approx(r2, rel=1e-12)
    assert scores.r2_mean == pytest.approx(r2.mean())
    assert scores.r2_median == pytest.approx(np.median(r2))
    assert scores.r2_pooled == pytest.approx(1 - sum(errors) / sum(totals))
    explained = 1 - np.array(residuals) / totals
    assert scores.explained_variance_N == pytest.approx(explained, rel=1e-12)
    assert scores.explained_variance_mean == pytest.approx(explained.mean())
    assert scores.explained_variance_median == pytest.approx(np.median(explained))
    assert scores.explained_variance_pooled == pytest.approx(1 - sum(residuals) / sum(totals))


def test_a_neuron_with_a_constant_rate_has_no_r2_and_no_weight():
    # 0.1 has no exact binary form: its mean over bins is not itself.
    truth_BTN = np.concatenate([_column(1, 2, 3), np.full((1, 3, 1), 0.1)], axis=2)
    rates_BTN = np.concatenate([_column(1, 2, 2), np.full((1, 3, 1), 9.0)], axis=2)
    scores = rate_scores(rates_BTN, truth_BTN)
    assert np.isnan(scores.r2_N).tolist() == [False, True]
    assert scores.n_undefined == 1
    assert scores.r2_mean == scores.r2_pooled == pytest.approx(0.5)

    none = rate_scores(rates_BTN[:, :, 1:], truth_BTN[:, :, 1:])
    assert none.n_undefined == 1
    assert math.isnan(none.r2_mean)
    assert math.isnan(none.r2_pooled)


def test_r2_keeps_its_digits_on_a_large_nearly_constant_rate():
    offset = 1e8
    near = rate_scores(_column(1, 2, 2) + offset, _column(1, 2, 3) + offset)
    assert near.r2_N == pytest.approx([0.5], abs=1e-6)


@pytest.mark.parametrize("cuts", [[], [1], [2, 3, 6]])
def test_batches_add_up_to_the_whole(cuts):
    rates_BTN, truth_BTN, spikes_BTN, scored_BTN = _random_set()
    rate_sums, spike_sums = RateScoreSums(4), SpikeScoreSums(4)
    for trials in np.split(np.arange(len(rates_BTN)), cuts):
        rate_sums.add(rates_BTN[trials], truth_BTN[trials], scored_BTN[trials])
        spike_sums.add(rates_BTN[trials], spikes_BTN[trials], scored_BTN[trials])
    whole = rate_scores(rates_BTN, truth_BTN, scored_BTN)
    assert rate_sums.result().r2_N == pytest.approx(whole.r2_N, rel=1e-12)
    assert rate_sums.result().explained_variance_N == pytest.approx(
        whole.explained_variance_N, rel=1e-12
    )
    whole_bits = bits_per_spike(rates_BTN, spikes_BTN, scored_BTN)
    assert spike_sums.result().bits_per_spike == pytest.approx(whole_bits.bits_per_spike, rel=1e-12)
    assert spike_sums.result().nll == pytest.approx(whole_bits.nll, rel=1e-12)


def test_what_is_not_scored_cannot_change_a_score():
    rates_BTN, truth_BTN, spikes_BTN, _ = _random_set()
    inside_BT = np.arange(5)[None, :] < np.array([5, 3, 1, 5, 2, 4, 5])[:, None]
    rates, bits = (
        rate_scores(rates_BTN, truth_BTN, inside_BT),
        bits_per_spike(rates_BTN, spikes_BTN, inside_BT),
    )
    rates_BTN[~inside_BT], truth_BTN[~inside_BT] = np.nan, np.inf
    spikes_BTN[~inside_BT] = 1000
    assert (rate_scores(rates_BTN, truth_BTN, inside_BT).r2_N == rates.r2_N).all()
    assert bits_per_spike(rates_BTN, spikes_BTN, inside_BT).nll == bits.nll


# Two trials x two bins x three neurons, with rates of zero. The expected values were computed
# with nlb_tools 0.0.4, evaluation.bits_per_spike and neg_log_likelihood.
_NLB_RATES = np.array(
    [[[0.5, 0.0, 1.5], [0.25, 2.0, 0.0]], [[1.0, 0.5, 0.1], [3.0, 0.0, 0.2]]], dtype=float
)
_NLB_SPIKES = np.array([[[1, 0, 2], [0, 3, 0]], [[1, 0, 0], [2, 0, 0]]])


def test_bits_per_spike_is_the_benchmarks():
    scores = bits_per_spike(_NLB_RATES, _NLB_SPIKES)
    assert scores.bits_per_spike == pytest.approx(1.0569808604831803, rel=1e-12)
    assert scores.nll == pytest.approx(7.833604678675507 / 12, rel=1e-12)

    with_impossible_spike = _NLB_SPIKES.copy()
    with_impossible_spike[0, 1, 2] = 1
    assert bits_per_spike(_NLB_RATES, with_impossible_spike).bits_per_spike == pytest.approx(
        -1.969671757091215, rel=1e-12
    )

    with_silent_neuron = _NLB_SPIKES.copy()
    with_silent_neuron[:, :, 2] = 0
    silent = bits_per_spike(_NLB_RATES, with_silent_neuron)
    assert silent.bits_per_spike == pytest.approx(0.49393038098559483, rel=1e-12)
    assert silent.n_silent == 1
    assert np.isnan(silent.bits_per_spike_N).tolist() == [False, False, True]
    assert silent.bits_per_spike_mean == pytest.approx(silent.bits_per_spike_N[:2].mean())


def test_bits_per_spike_of_a_hand_computed_neuron():
    # Counts 0 and 2, rates 1/2 and 2 against the mean 1:
    # gain = (2 ln 2 - 2.5) - (2 ln 1 - 2) nats over 2 spikes.
    scores = bits_per_spike(_column(0.5, 2), _column(0, 2))
    gain = (2 * math.log(2) - 2.5 + 2) / (2 * math.log(2))
    assert scores.bits_per_spike == pytest.approx(gain)
    assert scores.bits_per_spike_N == pytest.approx([gain])


def test_the_mean_count_earns_no_bits():
    _, _, spikes_BTN, scored_BTN = _random_set()
    mean_N = np.mean(spikes_BTN, axis=(0, 1), where=scored_BTN)
    scores = bits_per_spike(np.broadcast_to(mean_N, spikes_BTN.shape), spikes_BTN, scored_BTN)
    assert scores.bits_per_spike == pytest.approx(0.0, abs=1e-12)
    assert (
        bits_per_spike(
            np.broadcast_to(mean_N * 1.5, spikes_BTN.shape), spikes_BTN, scored_BTN
        ).bits_per_spike
        < -0.01
    )


def test_nll_is_the_log_of_a_probability():
    # Poisson probabilities of 0, 1 and 3 at rate 2: e^-2, 2 e^-2, 8/6 e^-2.
    expected = -np.mean(np.log([math.exp(-2), 2 * math.exp(-2), 8 / 6 * math.exp(-2)]))
    rates_BTN, spikes_BTN = _column(2, 2, 2), _column(0, 1, 3)
    scores = bits_per_spike(rates_BTN, spikes_BTN)
    assert scores.nll == pytest.approx(expected)
    assert scores.poisson_loss == pytest.approx(2 - (4 / 3) * math.log(2))


def test_a_set_without_spikes_is_refused():
    scores = bits_per_spike(_column(0.5, 2), _column(0, 0))
    assert (scores.n_spikes, scores.n_scored, scores.n_silent) == (0, 2, 1)
    assert math.isnan(scores.bits_per_spike)
    assert math.isnan(scores.bits_per_spike_mean)
    assert scores.nll == pytest.approx(1.25)

    nothing = bits_per_spike(_column(0.5, 2), _column(0, 1), np.zeros((1, 2), dtype=bool))
    assert nothing.n_scored == 0
    assert math.isnan(nothing.nll)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_an_impossible_rate_is_refused(bad):
    rates_BTN = _column(0.5, bad)
    with pytest.raises(ValueError, match=r"inferred rates.*\(0, 1, 0\)"):
        bits_per_spike(rates_BTN, _column(0, 1))
    # The same entry is welcome where it is not scored.
    only_first = np.array([[True, False]])
    assert bits_per_spike(rates_BTN, _column(1, 0), only_first).n_scored == 1


def test_masks_and_shapes_must_fit():
    rates_BTN, truth_BTN, _, _ = _random_set()
    with pytest.raises(ValueError, match="same"):
        rate_scores(rates_BTN, truth_BTN[:, :, :3])
    with pytest.raises(ValueError, match="mask of shape"):
        rate_scores(rates_BTN, truth_BTN, np.ones((7, 4), dtype=bool))


def test_what_a_masked_array_masks_is_no_value():
    rates_BTN, truth_BTN, spikes_BTN, scored_BTN = _random_set()
    masked_BTN = np.ma.masked_array(rates_BTN, mask=~scored_BTN)
    for score, target_BTN in ((rate_scores, truth_BTN), (bits_per_spike, spikes_BTN)):
        with pytest.raises(ValueError, match="not finite"):
            score(masked_BTN, target_BTN)
        score(masked_BTN, target_BTN, scored_BTN)


def test_nested_lists_are_arrays_and_a_mask_has_no_numbers():
    rates_BTN, _, spikes_BTN, scored_BTN = _random_set()
    listed = bits_per_spike(rates_BTN.tolist(), spikes_BTN.tolist(), scored_BTN.tolist())
    assert listed.nll == bits_per_spike(rates_BTN, spikes_BTN, scored_BTN).nll
    with pytest.raises(ValueError, match="mask of True and False; found values of type int64"):
        bits_per_spike(rates_BTN, spikes_BTN, scored_BTN.astype(np.int64))


def test_the_population_and_its_neurons_have_bits_per_spike_of_their_own():
    # Three neurons of 1, 2 and 12 spikes: the pooled score follows the busy one, the median not.
    spikes_BTN = np.zeros((1, 20, 3))
    spikes_BTN[0, 0, 0] = spikes_BTN[0, :2, 1].flat[0] = spikes_BTN[0, 1, 1] = 1
    spikes_BTN[0, :12, 2] = 1
    rates_BTN = np.broadcast_to(spikes_BTN.mean(axis=(0, 1)), spikes_BTN.shape).copy()
    rates_BTN[0, :, 2] = np.where(spikes_BTN[0, :, 2] > 0, 0.9, 0.2)
    scores = bits_per_spike(rates_BTN, spikes_BTN)
    busy = scores.bits_per_spike_N[2]
    assert busy > 0.2
    assert scores.bits_per_spike_N[:2] == pytest.approx([0, 0])
    assert scores.bits_per_spike == pytest.approx(12 / 15 * busy)
    assert scores.bits_per_spike_mean == pytest.approx(busy / 3)
    assert scores.bits_per_spike_median == pytest.approx(0)
    assert math.isnan(bits_per_spike(rates_BTN, 0 * spikes_BTN).bits_per_spike_median)


@pytest.mark.parametrize("score", [psth_scores, decode_behavior])
def test_rates_of_other_trials_neurons_or_bins_are_refused(score):
    rates_BTN = np.random.default_rng(0).random((4, 6, 2))
    data = spike_data(4, 6, 2, conditions_B=np.zeros(4, int), behavior_BTV=rates_BTN)
    others = [np.concatenate([rates_BTN, rates_BTN]), rates_BTN[:2], rates_BTN[:, :1]]
    for other_BTN in [*others, *([rates_BTN[:, :, :1]] if score is psth_scores else [])]:
        with pytest.raises(ValueError, match=r"expected \(4, 6, "):
            score(other_BTN, data)
    with pytest.raises(ValueError, match="not finite"):
        score(rates_BTN * np.nan, data)
