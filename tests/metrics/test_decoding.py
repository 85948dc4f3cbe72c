"""Behavior decoded from rates: what is found, what may be looked at, what is scored."""

import dataclasses

import numpy as np
import pytest
from builders import spike_data

from ndt_cli.errors import SettingsError
from ndt_cli.metrics import decode_behavior
from ndt_cli.metrics.decoding import (
    DEFAULT_LAGS_MS,
    Decoder,
    deal,
    fit_ridge,
    lag_bins,
    moments,
    squared_error,
)

WEIGHTS_NV = np.array([[1.0, 0.0], [-2.0, 0.5], [0.0, 3.0], [0.5, 0.5]])


def lagged_trials(n_trials, lag, seed=0, n_bins=40, noise=0.01, **fields):
    """Trials of 20 ms bins whose behavior follows from the rates ``lag`` bins earlier."""
    rng = np.random.default_rng(seed)
    rates_BTN = np.exp(0.3 * rng.standard_normal((n_trials, n_bins, 4)))
    behavior_BTV = np.roll(rates_BTN, lag, axis=1) @ WEIGHTS_NV + 7.0
    behavior_BTV += noise * rng.standard_normal(behavior_BTV.shape)
    data = spike_data(
        n_trials,
        n_bins,
        4,
        bin_ms=20.0,
        behavior_BTV=behavior_BTV,
        behavior_names=("x", "y"),
        **fields,
    )
    return rates_BTN, data


def test_behavior_is_decoded_at_its_lag():
    train_BTN, train = lagged_trials(10, lag=2, seed=1)
    rates_BTN, data = lagged_trials(5, lag=2, seed=2)
    scores = decode_behavior(rates_BTN, data, train_rates_BTN=train_BTN, train=train)
    assert scores.names == ("x", "y")
    assert scores.r2_V == pytest.approx([1, 1], abs=1e-3)
    assert scores.r2_mean == pytest.approx(1, abs=1e-3)
    assert scores.lag_ms_V.tolist() == [40, 40]
    assert scores.n_folds == 0
    wrong = decode_behavior(rates_BTN, data, train_rates_BTN=train_BTN, train=train, lags_ms=[0.0])
    assert wrong.r2_mean < 0.1


def test_rates_after_the_behavior_have_a_negative_lag():
    rates_BTN, data = lagged_trials(10, lag=-2)
    assert decode_behavior(rates_BTN, data).lag_ms_V.tolist() == [-40, -40]


def test_each_variable_has_a_lag_of_its_own():
    rates_BTN, data = lagged_trials(12, lag=2)
    early_BTV = lagged_trials(12, lag=-4)[1].behavior_BTV
    mixed_BTV = np.stack([data.behavior_BTV[:, :, 0], early_BTV[:, :, 1]], axis=2)
    scores = decode_behavior(rates_BTN, dataclasses.replace(data, behavior_BTV=mixed_BTV))
    assert scores.lag_ms_V.tolist() == [40, -80]
    assert scores.r2_V == pytest.approx([1, 1], abs=1e-3)


def test_the_decoder_of_training_trials_looks_at_no_scored_behavior():
    train_BTN, train = lagged_trials(10, lag=2, seed=1, noise=1.0)
    rates_BTN, data = lagged_trials(5, lag=2, seed=2)
    other = dataclasses.replace(data, behavior_BTV=lagged_trials(5, lag=-4)[1].behavior_BTV)
    first, second = (
        decode_behavior(rates_BTN, d, train_rates_BTN=train_BTN, train=train) for d in (data, other)
    )
    assert first.lag_ms_V.tolist() == second.lag_ms_V.tolist() == [40, 40]
    assert first.penalty_V.tolist() == second.penalty_V.tolist()
    assert first.r2_mean > 0.5 > second.r2_mean


def test_folds_do_not_score_what_they_were_fitted_to():
    # Each trial has a neuron of its own: any behavior can be learnt by heart, none predicted.
    rng = np.random.default_rng(0)
    rates_BTN = np.repeat(np.eye(20)[:, None], 30, axis=1)
    behavior_BTV = np.repeat(rng.standard_normal((20, 1, 1)), 30, axis=1)
    data = spike_data(20, 30, 20, bin_ms=20.0, behavior_BTV=behavior_BTV)
    scores = decode_behavior(rates_BTN, data)
    assert scores.n_folds == 5
    assert scores.r2_mean < 0
    assert scores.names == ("behavior 0",)


def test_behavior_that_is_not_known_is_neither_fitted_nor_scored():
    rates_BTN, data = lagged_trials(10, lag=0)
    gaps = np.random.default_rng(3).random((10, 40)) < 0.3
    wild_BTV = data.behavior_BTV.copy()
    wild_BTV[gaps, 0] = 1e6
    spoilt = dataclasses.replace(data, behavior_BTV=wild_BTV)
    assert decode_behavior(rates_BTN, spoilt).r2_V[0] < 0.1
    wild_BTV[gaps, 0] = np.nan
    scores = decode_behavior(rates_BTN, spoilt)
    assert scores.r2_V == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize("kind", ["padding", "forward"])
def test_bins_outside_the_window_have_no_part(kind):
    rates_BTN, data = lagged_trials(10, lag=2)
    changes = {"lengths_B": np.full(10, 30)} if kind == "padding" else {"n_forward": 10}
    cut = dataclasses.replace(data, **changes)
    before = decode_behavior(rates_BTN, cut)
    wild_BTN, wild_BTV = rates_BTN.copy(), data.behavior_BTV.copy()
    wild_BTN[:, 30:], wild_BTV[:, 30:] = 50, -3
    after = decode_behavior(wild_BTN, dataclasses.replace(cut, behavior_BTV=wild_BTV))
    assert after.r2_V.tolist() == before.r2_V.tolist()
    # 120 ms from the start and 80 ms to the end cannot be reached with every lag.
    assert before.n_scored == 10 * (30 - 6 - 4)


def test_estimates_with_other_lags_are_scored_on_the_same_bins():
    rates_BTN, data = lagged_trials(10, lag=2)
    early_BTN = np.roll(rates_BTN, 4, axis=1)
    first, second = decode_behavior(rates_BTN, data), decode_behavior(early_BTN, data)
    assert first.lag_ms_V.tolist() != second.lag_ms_V.tolist()
    assert first.n_scored == second.n_scored


def test_lags_are_whole_bins_and_short_beside_the_trial():
    long, short = (spike_data(4, n_bins, 3, bin_ms=20.0) for n_bins in (100, 12))
    assert (lag_bins(long) * 20).tolist() == list(DEFAULT_LAGS_MS)
    assert lag_bins(short).tolist() == [-2, 0, 2]
    assert lag_bins(long, [10.0, 50.0, 61.0]).tolist() == [0, 2, 3]
    assert lag_bins(spike_data(4, 1, 3, bin_ms=20.0)).tolist() == [0]
    with pytest.raises(SettingsError, match=r"lags of 240 ms .* no trial is longer than 240 ms"):
        lag_bins(short, [240.0])


def test_what_cannot_be_decoded_has_no_score():
    rates_BTN, data = lagged_trials(1, lag=0)
    assert np.isnan(decode_behavior(rates_BTN, data).r2_mean)  # nothing left to fit
    rates_BTN, data = lagged_trials(6, lag=0)
    data.behavior_BTV[:, :, 0] = 3.0  # never changes
    scores = decode_behavior(rates_BTN, data)
    assert np.isnan(scores.r2_V[0])
    assert scores.r2_mean == scores.r2_V[1]
    data.behavior_BTV[:] = np.nan
    scores = decode_behavior(rates_BTN, data)
    assert np.isnan(scores.r2_mean)
    assert (scores.n_scored, scores.n_folds) == (0, 0)
    with pytest.raises(ValueError, match="expected trials with behavior"):
        decode_behavior(rates_BTN, dataclasses.replace(data, behavior_BTV=None))


def test_constant_rates_decode_the_mean_and_no_more():
    _, data = lagged_trials(10, lag=0)
    constant_BTN = np.broadcast_to(np.array([0.1, 1.0, 0.0, 0.3]), (10, 40, 4))
    scores = decode_behavior(constant_BTN, data)
    assert (scores.r2_V <= 0).all()
    assert scores.r2_mean == pytest.approx(0, abs=0.05)


def test_a_variable_that_never_changes_has_no_lag_and_no_weights():
    rates_BTN, data = lagged_trials(10, lag=2)
    behavior_BTV = data.behavior_BTV.copy()
    behavior_BTV[:, :, 1] = 0.1
    constant = dataclasses.replace(data, behavior_BTV=behavior_BTV)
    decoder = Decoder.fit(rates_BTN, constant, lag_bins(constant))
    assert decoder.lag_V.tolist() == [2, 0]
    assert not decoder.weights_NV[:, 1].any()
    assert decoder.intercepts_V[1] == 0.1
    alone = Decoder.fit(rates_BTN, data, lag_bins(data))
    assert decoder.weights_NV[:, 0] == pytest.approx(alone.weights_NV[:, 0])


def test_windows_of_one_recording_are_divided_into_stretches():
    trials = np.arange(10)
    chopped = spike_data(10, start_bins_B=trials[::-1] * 3)
    assert [fold.tolist() for fold in deal(chopped, trials)] == [
        [8, 9], [6, 7], [4, 5], [2, 3], [0, 1]
    ]  # fmt: skip
    folds = deal(spike_data(10), trials)
    assert sorted(np.concatenate(folds).tolist()) == trials.tolist()
    assert any(np.ptp(fold) > 1 for fold in folds)


def test_ridge_from_moments_is_ridge_from_the_entries():
    rng = np.random.default_rng(0)
    features_XF = rng.standard_normal((50, 3)) * [1, 10, 0.1] + [0, 1, 0]
    values_XV = features_XF @ rng.standard_normal((3, 2)) + rng.standard_normal((50, 2)) + 1
    penalties_P = np.array([1e-3, 0.5])
    fitted_PFV = fit_ridge(moments(features_XF, values_XV), penalties_P, np.ones(3))
    z_XF = (features_XF - features_XF.mean(axis=0)) / features_XF.std(axis=0)
    for penalty, fitted_FV in zip(penalties_P, fitted_PFV, strict=True):
        # As least squares with the square root of the ridge as further entries.
        rows = np.vstack([z_XF, np.sqrt(penalty * 50) * np.eye(3)])
        targets = np.vstack([values_XV - values_XV.mean(axis=0), np.zeros((3, 2))])
        weights_FV = np.linalg.lstsq(rows, targets, rcond=None)[0]
        expected_XV = z_XF @ weights_FV + values_XV.mean(axis=0)
        found_XV = features_XF @ fitted_FV[:-1] + fitted_FV[-1]
        np.testing.assert_allclose(found_XV, expected_XV, rtol=1e-9)
    error_PV = squared_error(moments(features_XF, values_XV), fitted_PFV)
    assert error_PV[1] == pytest.approx(np.square(values_XV - found_XV).sum(axis=0))


def test_moments_of_two_sets_add():
    rng = np.random.default_rng(0)
    features_XF, values_XV = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    parts = [moments(features_XF[s], values_XV[s]) for s in (slice(4), slice(4, 9))]
    np.testing.assert_allclose(sum(parts), moments(features_XF, values_XV))
