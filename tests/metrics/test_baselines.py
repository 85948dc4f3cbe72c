"""Baselines: what smoothing may see, what it must return, and how its kernel is chosen."""

import math

import numpy as np
import pytest

from ndt_cli.baselines import (
    HeldoutRegression,
    MeanPrior,
    Smoother,
    choose_kernel,
    constant_rates,
    default_widths_ms,
    mean_rate,
    smooth,
)
from ndt_cli.baselines.heldout import fit_poisson
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError
from ndt_cli.metrics import bits_per_spike, rate_scores


def _data(spikes_BTN, lengths_B=None, bin_ms=10.0, **known):
    spikes_BTN = np.asarray(spikes_BTN)
    if lengths_B is None:
        lengths_B = np.full(len(spikes_BTN), spikes_BTN.shape[1])
    return SpikeData(spikes_BTN, bin_ms, np.asarray(lengths_B), **known)


def _waves(n_trials=40, n_bins=60, n_neurons=8, period_bins=30.0, seed=0):
    """Spikes of sinusoidal rates with a phase of its own for each trial and neuron."""
    rng = np.random.default_rng(seed)
    phase_B1N = rng.uniform(0, 2 * np.pi, (n_trials, 1, n_neurons))
    time_T1 = np.arange(n_bins)[:, None]
    rates_BTN = 0.2 * (1 + 0.9 * np.sin(2 * np.pi * time_T1 / period_bins + phase_B1N))
    return _data(rng.poisson(rates_BTN).astype(np.uint8), rates_BTN=rates_BTN)


def _slow_estimate(counts_T, visible_T, width_bins, t, prior=None):
    total = weight = 0.0
    for u in range(len(counts_T)):
        if visible_T[u] and abs(u - t) <= math.ceil(4 * width_bins):
            k = math.exp(-0.5 * ((u - t) / width_bins) ** 2)
            total, weight = total + k * counts_T[u], weight + k
    if prior is not None:
        mean, n_spikes = prior
        total, weight = total + n_spikes, weight + n_spikes / mean
    return total / weight


def test_the_mean_rate_leaves_padding_out():
    data = _data([[[1, 0], [3, 0]], [[2, 1], [0, 0]]], lengths_B=[2, 1])
    assert mean_rate(data).tolist() == [2.0, 1 / 3]
    assert constant_rates(mean_rate(data), data).shape == (2, 2, 2)

    with pytest.raises(DataError, match="held-out"):
        mean_rate(_data([[[1]]], n_heldout=1, hidden_counts_known=False))
    with pytest.raises(DataError, match="found 0 trials without bins"):
        mean_rate(_data(np.zeros((0, 5, 2), dtype=np.uint8)))


def test_smoothing_of_a_hand_computed_trial():
    # Three bins, one spike in the middle, a kernel of one bin: 1, e^-1/2, e^-2.
    k1, k2 = math.exp(-0.5), math.exp(-2.0)
    rates_BTN = smooth(np.array([[[0], [1], [0]]]), np.ones((1, 3), dtype=bool), 10.0, 10.0)
    edge = k1 / (1 + k1 + k2)
    assert rates_BTN[0, :, 0] == pytest.approx([edge, 1 / (1 + 2 * k1), edge])


@pytest.mark.parametrize("width_ms", [4.0, 25.0, 400.0])
def test_smoothing_agrees_with_loops(width_ms):
    data = _waves(n_trials=3, n_bins=70, n_neurons=2)
    lengths_B = np.array([70, 41, 1])
    data = _data(data.spikes_BTN, lengths_B)
    hidden_BT = np.random.default_rng(1).random((3, 70)) < 0.3
    prior = MeanPrior(np.array([0.2, 0.3]), 0.5)
    plain_BTN = smooth(data.spikes_BTN, data.inside_BT, width_ms, 10.0)
    hidden_BTN = smooth(data.spikes_BTN, data.inside_BT, width_ms, 10.0, prior, hidden_BT)
    for b, t, n in [(0, 0, 0), (0, 35, 1), (0, 69, 0), (1, 40, 1), (2, 0, 0)]:
        counts_T, inside_T = data.spikes_BTN[b, :, n].astype(float), data.inside_BT[b]
        assert plain_BTN[b, t, n] == pytest.approx(
            _slow_estimate(counts_T, inside_T, width_ms / 10.0, t), rel=1e-9, abs=1e-12
        )
        assert hidden_BTN[b, t, n] == pytest.approx(
            _slow_estimate(
                counts_T,
                inside_T & ~hidden_BT[b],
                width_ms / 10.0,
                t,
                (prior.mean_rates_N[n], prior.n_spikes),
            ),
            rel=1e-9,
        )


@pytest.mark.parametrize("width_ms", [4.0, 25.0, 400.0])
def test_a_constant_count_stays_what_it_is_up_to_the_edges(width_ms):
    data = _data(np.full((2, 50, 3), 2, dtype=np.uint8), lengths_B=[50, 20])
    rates_BTN = smooth(data.spikes_BTN, data.inside_BT, width_ms, 10.0)
    assert rates_BTN[data.inside_BT] == pytest.approx(2.0)
    assert (rates_BTN[~data.inside_BT] == 0).all()


@pytest.mark.parametrize("width_ms", [4.0, 25.0, 400.0])
def test_padding_cannot_change_a_rate(width_ms):
    data = _data(_waves(n_trials=3).spikes_BTN, lengths_B=[60, 20, 1])
    dirty_BTN = data.spikes_BTN.copy()
    dirty_BTN[~data.inside_BT] = 99
    clean = smooth(data.spikes_BTN, data.inside_BT, width_ms, 10.0)
    assert (smooth(dirty_BTN, data.inside_BT, width_ms, 10.0) == clean).all()
    # A trial cut to its own length has the rates that it has among longer ones.
    alone = smooth(data.spikes_BTN[1:2, :20], data.inside_BT[1:2, :20], width_ms, 10.0)
    assert alone[0] == pytest.approx(clean[1, :20], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("width_ms", [4.0, 25.0, 400.0])
def test_a_hidden_count_has_no_part_in_any_estimate(width_ms):
    data = _waves(n_trials=4)
    smoother = Smoother(width_ms, 0.3, mean_rate(data), data.bin_ms)
    rng = np.random.default_rng(2)
    bins_BT, entries_BTN = rng.random((4, 60)) < 0.3, rng.random((4, 60, 8)) < 0.3
    for hidden in (bins_BT, entries_BTN):
        rates_BTN = smoother.rates_hidden(data, hidden)
        changed_BTN = data.spikes_BTN.copy()
        changed_BTN[hidden] += 7
        assert (smoother.rates_hidden(_data(changed_BTN), hidden) == rates_BTN).all()
        # A count that is not hidden does have a part: the test could fail.
        changed_BTN[~hidden] += 7
        assert (smoother.rates_hidden(_data(changed_BTN), hidden) > rates_BTN).any()


def test_bins_hidden_far_and_wide_have_the_mean_rate():
    data = _waves(n_trials=2)
    smoother = Smoother.fit(data)
    everything = np.ones((2, 60), dtype=bool)
    rates_BTN = smoother.rates_hidden(data, everything)
    assert rates_BTN == pytest.approx(constant_rates(mean_rate(data), data))


def test_heldout_neurons_and_forward_bins_are_never_used():
    full = _waves(n_trials=6)
    smoother = Smoother.fit(full)
    data = _data(full.spikes_BTN, n_heldout=3, n_forward=10)
    unseen_BTN = np.zeros(full.spikes_BTN.shape, dtype=bool)
    unseen_BTN[:, 50:], unseen_BTN[:, :, 5:] = True, True
    rates_BTN = smoother.rates(data)
    changed = _data(np.where(unseen_BTN, 50, full.spikes_BTN), n_heldout=3, n_forward=10)
    assert (smoother.rates(changed) == rates_BTN).all()
    assert rates_BTN[:, :, 5:] == pytest.approx(
        np.broadcast_to(mean_rate(full)[5:], rates_BTN[:, :, 5:].shape)
    )
    # With nothing held out the same counts are used.
    assert not np.allclose(smoother.rates(_data(full.spikes_BTN)), rates_BTN)


def test_no_neuron_that_spiked_in_training_has_a_rate_of_zero():
    spikes_BTN = np.zeros((2, 200, 2), dtype=np.uint8)
    spikes_BTN[0, 0, 0] = 1
    data = _data(spikes_BTN)
    smoother = Smoother(20.0, 0.3, mean_rate(data), 10.0)
    assert (smoother.rates(data)[:, :, 0] > 0).all()
    assert (smoother.rates(data)[:, :, 1] == 0).all()
    assert (smooth(spikes_BTN, data.inside_BT, 20.0, 10.0)[1, :, 0] == 0).all()


def test_the_chosen_width_is_close_to_the_best_one_for_the_true_rates():
    data = _waves()
    widths_ms = default_widths_ms(data.bin_ms, data.n_bins)
    smoother = Smoother.fit(data)
    r2 = [
        rate_scores(
            Smoother(width, smoother.prior_spikes, smoother.mean_rates_N, 10.0).rates(data),
            data.rates_BTN,
        ).r2_pooled
        for width in widths_ms
    ]
    best = int(np.argmax(r2))
    chosen = int(np.argmin(abs(widths_ms - smoother.width_ms)))
    assert 0 < best < len(widths_ms) - 1
    assert abs(chosen - best) <= 1
    hidden_BT = np.random.default_rng(3).random((40, 60)) < 0.25
    predicted = smoother.rates_hidden(data, hidden_BT)
    assert bits_per_spike(predicted, data.spikes_BTN, hidden_BT).bits_per_spike > 0.05


def test_slower_rates_get_wider_kernels():
    fast = choose_kernel(_waves(period_bins=12.0, n_trials=80)).width_ms
    slow = choose_kernel(_waves(period_bins=60.0, n_trials=80)).width_ms
    assert slow > 2 * fast
    assert choose_kernel(_waves(), candidates_ms=[11.0]).width_ms == 11.0


def test_the_choice_agrees_with_leaving_out_each_bin_in_turn():
    data = _waves(n_trials=3, n_bins=20, n_neurons=2)
    candidates_ms, priors = [8.0, 20.0, 60.0], (0.1, 0.3, 1.0, 3.0)
    counts_BTN = data.spikes_BTN.astype(float)
    n_bins = data.n_trials * data.n_bins
    losses = {}
    for width_ms in candidates_ms:
        for n_spikes in priors:
            loss = 0.0
            for b, t, n in np.ndindex(counts_BTN.shape):
                others = np.arange(20) != t
                y = counts_BTN[b, t, n]
                mean = (counts_BTN[:, :, n].sum() - y) / (n_bins - 1)
                rate = _slow_estimate(
                    counts_BTN[b, :, n], others, width_ms / 10.0, t, (mean, n_spikes)
                )
                loss += rate - y * math.log(rate)
            losses[width_ms, n_spikes] = loss
    assert tuple(choose_kernel(data, candidates_ms)) == min(losses, key=losses.get)


def test_padding_cannot_change_the_choice():
    # Busy ends: were padding scored, wide kernels would pay for the rate that they spill into it.
    rates_T1 = np.where(np.arange(60) < 40, 0.02, 0.4)[:, None]
    spikes_BTN = np.random.default_rng(0).poisson(rates_T1, (40, 60, 8)).astype(np.uint8)
    padded_BTN = np.concatenate([spikes_BTN, np.full((40, 100, 8), 9, np.uint8)], axis=1)
    padded = _data(padded_BTN, lengths_B=np.full(40, 60))
    candidates_ms = default_widths_ms(10.0, 60).tolist()
    assert choose_kernel(padded, candidates_ms) == choose_kernel(_data(spikes_BTN), candidates_ms)


def test_no_rate_is_below_zero():
    spikes_BTN = np.zeros((1, 2000, 1), dtype=np.uint8)
    spikes_BTN[0, [100, 101, 1500]] = 3
    for width_ms in (50.0, 400.0):
        rates_BTN = smooth(spikes_BTN, np.ones((1, 2000), dtype=bool), width_ms, 10.0)
        assert rates_BTN.min() >= 0
        assert rates_BTN[0, 100, 0] > rates_BTN[0, 1500, 0] > rates_BTN[0, 800, 0]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (3, 1, 2)])
def test_tiny_and_silent_sets_are_ordinary_input(shape):
    for count in (0, 1):
        data = _data(np.full(shape, count, dtype=np.uint8))
        rates_BTN = Smoother.fit(data).rates(data)
        assert rates_BTN == pytest.approx(np.full(shape, float(count)))


def test_trials_of_another_recording_are_refused():
    smoother = Smoother.fit(_waves(n_trials=4))
    other = _waves(n_trials=4)
    with pytest.raises(DataError, match="8 neurons in bins of 10 ms; found 8 in bins of 20 ms"):
        smoother.rates(_data(other.spikes_BTN, bin_ms=20.0))
    with pytest.raises(DataError, match="found 7"):
        smoother.rates(_data(other.spikes_BTN[:, :, :7]))
    with pytest.raises(ValueError, match="above 0"):
        smooth(other.spikes_BTN, other.inside_BT, 0.0, 10.0)


def _driven(n_trials=30, seed=0, *, coupled=True, **fields):
    """Eight neurons driven by one slow wave a trial, two of them held out."""
    rng = np.random.default_rng(seed)
    phase_B11 = rng.uniform(0, 2 * np.pi, (n_trials, 1, 1))
    signs_N = np.array([1, -1, 1, -1, 1, -1, 1, -1]) * np.where(np.arange(8) < 6, 1, coupled)
    wave_BT1 = np.sin(2 * np.pi * np.arange(60)[:, None] / 40 + phase_B11)
    counts_BTN = rng.poisson(0.3 * np.exp(1.2 * wave_BT1 * signs_N)).astype(np.uint8)
    return _data(counts_BTN, n_heldout=2, **fields)


def _heldout_bits(train, data):
    rates_BTN = HeldoutRegression.fit(train, Smoother.fit(train)).rates(data)
    return bits_per_spike(rates_BTN, data.spikes_BTN[:, :, 6:], data.inside_BT).bits_per_spike


def test_held_out_neurons_are_predicted_from_the_others():
    assert _heldout_bits(_driven(), _driven(10, seed=1)) > 0.15
    # Neurons that share nothing with the others are given no more than their mean rate.
    assert abs(_heldout_bits(_driven(coupled=False), _driven(10, seed=1, coupled=False))) < 0.02


def test_predicting_held_out_neurons_uses_none_of_their_counts():
    train, data = _driven(), _driven(5, seed=1)
    regression = HeldoutRegression.fit(train, Smoother.fit(train))
    rates_BTN = regression.rates(data)
    unseen_BTN = data.spikes_BTN.copy()
    unseen_BTN[:, :, 6:] += 3
    assert (regression.rates(_data(unseen_BTN, n_heldout=2)) == rates_BTN).all()
    seen_BTN = data.spikes_BTN.copy()
    seen_BTN[:, :, 0] += 3
    assert (regression.rates(_data(seen_BTN, n_heldout=2)) != rates_BTN).any()


def test_padding_and_forward_bins_have_no_part_in_the_regression():
    full = _driven(20)
    lengths_B = np.full(20, 40)
    cut = _data(full.spikes_BTN[:, :40], n_heldout=2)
    padded_BTN = full.spikes_BTN.copy()
    padded_BTN[:, 40:] = 9
    padded = _data(padded_BTN, lengths_B, n_heldout=2)
    smoother = Smoother(30.0, 0.3, mean_rate(cut), 10.0)
    expected_BTN = HeldoutRegression.fit(cut, smoother).rates(cut)
    found_BTN = HeldoutRegression.fit(padded, smoother).rates(padded)
    assert found_BTN[:, :40] == pytest.approx(expected_BTN, rel=1e-6)
    assert (found_BTN[:, 40:] == 0).all()
    forward = _data(padded_BTN, n_heldout=2, n_forward=20)
    found_BTN = HeldoutRegression.fit(forward, smoother).rates(forward)
    assert found_BTN[:, :40] == pytest.approx(expected_BTN, rel=1e-6)
    assert found_BTN[:, 40:] == pytest.approx(
        np.broadcast_to(smoother.mean_rates_N[6:], (20, 20, 2))
    )


def test_silent_neurons_are_ordinary_to_the_regression():
    train, data = _driven(), _driven(5, seed=1)
    silent_BTN = train.spikes_BTN.copy()
    silent_BTN[:, :, [0, 7]] = 0  # one seen, one held out
    silent = _data(silent_BTN, n_heldout=2)
    regression = HeldoutRegression.fit(silent, Smoother.fit(silent))
    rates_BTN = regression.rates(data)
    assert np.isfinite(rates_BTN).all()
    assert rates_BTN[:, :, 1] == pytest.approx(0.5 / (30 * 60))
    assert rates_BTN.max() <= silent_BTN[:, :, 6].max()


def test_one_training_trial_and_one_neuron_suffice():
    data = _data(np.array([[[1, 0], [0, 1], [2, 1]]]), n_heldout=1)
    rates_BTN = HeldoutRegression.fit(data, Smoother.fit(data)).rates(data)
    assert rates_BTN.shape == (1, 3, 1)
    assert ((rates_BTN > 0) & (rates_BTN <= 1)).all()


def test_the_regression_needs_the_counts_of_held_out_neurons():
    smoother = Smoother.fit(_driven())
    with pytest.raises(DataError, match="found 0 held-out neurons"):
        HeldoutRegression.fit(_data(_driven().spikes_BTN), smoother)
    with pytest.raises(DataError, match="of unknown counts"):
        HeldoutRegression.fit(_driven(hidden_counts_known=False), smoother)


@pytest.mark.parametrize("penalty", [0.3, 0.003])
def test_a_poisson_regression_is_at_its_minimum(penalty):
    rng = np.random.default_rng(0)
    features_XF = rng.standard_normal((400, 5))
    features_XF -= features_XF.mean(axis=0)
    counts_XN = rng.poisson(np.exp(features_XF[:, :3] * [0.5, -1, 0.1] - [3, 0, 1]))
    weights_FN, intercepts_N = fit_poisson(features_XF, counts_XN.astype(float), penalty)
    excess_XN = np.exp(features_XF @ weights_FN + intercepts_N) - counts_XN
    gradient_FN = features_XF.T @ excess_XN / 400 + penalty * weights_FN
    assert abs(gradient_FN).max() < 1e-4
    assert abs(excess_XN.mean(axis=0)).max() < 1e-4
    weaker_FN, _ = fit_poisson(features_XF, counts_XN.astype(float), penalty / 10)
    assert (np.linalg.norm(weaker_FN, axis=0) > np.linalg.norm(weights_FN, axis=0)).all()
