"""Match to condition averages: against a slow version, and what must not be looked at."""

import dataclasses

import numpy as np
import pytest
from builders import spike_data

from ndt_cli.baselines import smooth
from ndt_cli.errors import RunError
from ndt_cli.metrics import PSTH_SMOOTHING_MS, psth_scores
from ndt_cli.metrics.psth import Psths

RNG = np.random.default_rng(0)
PROFILES_CTN = 0.3 + 0.25 * np.sin(
    np.arange(50)[:, None] / 8 + 2 * np.pi * RNG.random((3, 1, 4))
)  # fmt: skip


def trials(n_of_each, seed, *, flat=False, lengths_B=None):
    """Trials of three conditions with a rate course of their own, and those rates."""
    conditions_B = np.repeat(np.arange(3), n_of_each)
    rates_BTN = np.full((len(conditions_B), 50, 4), 0.3) if flat else PROFILES_CTN[conditions_B]
    counts = np.random.default_rng(seed).poisson(rates_BTN).astype(np.uint8)
    data = spike_data(len(conditions_B), 50, 4, conditions_B=conditions_B)
    if lengths_B is not None:
        counts[np.arange(50) >= lengths_B[:, None]] = 0
        data = dataclasses.replace(data, lengths_B=lengths_B)
    return rates_BTN, dataclasses.replace(data, spikes_BTN=counts)


def test_scores_agree_with_loops_over_conditions_and_neurons():
    _, train = trials([5, 3, 4], seed=1, lengths_B=RNG.integers(30, 51, 12))
    _, data = trials([2, 3, 1], seed=2, lengths_B=RNG.integers(30, 51, 6))
    rates_BTN = RNG.random(data.spikes_BTN.shape)
    scores = psth_scores(rates_BTN, data, train)
    smoothed_BTN = smooth(train.spikes_BTN, train.inside_BT, PSTH_SMOOTHING_MS, 10.0)
    rates_BTN = smooth(rates_BTN, data.inside_BT, PSTH_SMOOTHING_MS, 10.0)  # compared alike
    for n in range(4):
        found, expected = [], []
        for c in range(3):
            for t in range(50):
                a = [i for i in range(6) if data.conditions_B[i] == c and data.inside_BT[i, t]]
                b = [i for i in range(12) if train.conditions_B[i] == c and train.inside_BT[i, t]]
                if len(a) >= 1 and len(b) >= 2:
                    found.append(np.mean(rates_BTN[a, t, n]))
                    expected.append(np.mean(smoothed_BTN[b, t, n]))
        found, expected = np.array(found), np.array(expected)
        sse, sst = ((found - expected) ** 2).sum(), ((expected - expected.mean()) ** 2).sum()
        assert scores.r2_N[n] == pytest.approx(1 - sse / sst)
    assert scores.r2_mean == pytest.approx(scores.r2_N.mean())
    assert (scores.n_conditions, scores.split_half) == (3, False)


def test_no_estimate_matches_better_than_the_true_rates():
    # Rates that change fast: a blurred PSTH is unlike them, and like anything as blurred.
    fast_CTN = np.where(RNG.random((3, 50, 4)) < 0.2, 0.9, 0.05)
    labels_B = np.repeat(np.arange(3), 60)
    counts = np.random.default_rng(3).poisson(fast_CTN[labels_B]).astype(np.uint8)
    made = spike_data(180, 50, 4, conditions_B=labels_B)
    train = dataclasses.replace(made, spikes_BTN=counts)
    data = train.take(np.arange(0, 180, 10))
    train = train.take(np.setdiff1d(np.arange(180), np.arange(0, 180, 10)))
    rates_BTN = fast_CTN[data.conditions_B]
    truth = psth_scores(rates_BTN, data, train)
    blurred_BTN = smooth(rates_BTN, data.inside_BT, PSTH_SMOOTHING_MS, 10.0)
    assert truth.r2_mean > 0.8
    assert psth_scores(blurred_BTN, data, train).r2_mean < truth.r2_mean


def test_true_rates_match_and_a_constant_does_not():
    _, train = trials([40, 40, 40], seed=1)
    rates_BTN, data = trials([5, 5, 5], seed=2)
    assert psth_scores(rates_BTN, data, train).r2_mean > 0.7
    assert psth_scores(np.full_like(rates_BTN, 0.3), data, train).r2_mean < 0.05
    # Conditions mixed up: the courses are those of others.
    assert psth_scores(rates_BTN[::-1], data, train).r2_mean < 0.5


def test_psths_of_training_trials_look_at_no_scored_spike():
    _, train = trials([5, 5, 5], seed=1)
    rates_BTN, data = trials([2, 2, 2], seed=2)
    other = dataclasses.replace(data, spikes_BTN=data.spikes_BTN[::-1])
    first, second = (psth_scores(rates_BTN, d, train) for d in (data, other))
    assert first.r2_N.tolist() == second.r2_N.tolist()


def test_without_other_trials_no_trial_is_compared_with_itself():
    # No condition has a course: what a trial's own spikes tell is noise.
    _, data = trials([10, 10, 10], seed=1, flat=True)
    own_BTN = data.spikes_BTN.astype(float)
    scores = psth_scores(own_BTN, data)
    assert scores.split_half
    assert scores.r2_mean < 0
    copied = psth_scores(own_BTN, data, data)  # what would have come out
    assert copied.r2_mean == pytest.approx(1)


def test_only_conditions_with_two_trials_to_average_count():
    _, train = trials([2, 1, 5], seed=1)
    rates_BTN, data = trials([1, 1, 1], seed=2)
    assert psth_scores(rates_BTN, data, train).n_conditions == 2
    assert psth_scores(rates_BTN, data) is None  # one trial each: no halves
    blind = dataclasses.replace(data, conditions_B=None)
    assert psth_scores(rates_BTN, blind, train) is None


def test_forward_bins_are_not_compared():
    _, train = trials([5, 5, 5], seed=1)
    rates_BTN, data = trials([2, 2, 2], seed=2)
    train, data = (dataclasses.replace(d, n_forward=10) for d in (train, data))
    wild_BTN = rates_BTN.copy()
    wild_BTN[:, 40:] = 99
    assert psth_scores(wild_BTN, data, train).r2_mean == psth_scores(rates_BTN, data, train).r2_mean


def test_held_out_neurons_need_their_counts():
    _, train = trials([5, 5, 5], seed=1)
    rates_BTN, data = trials([4, 4, 4], seed=2)
    held = dataclasses.replace(data, n_heldout=1, hidden_counts_known=False)
    known = dataclasses.replace(train, n_heldout=1)
    assert len(psth_scores(rates_BTN, held, known).r2_N) == 4  # the training trials know them
    assert len(psth_scores(rates_BTN, held).r2_N) == 3


def test_stored_psths_are_those_of_the_training_trials(tmp_path):
    _, train = trials([5, 3, 4], seed=1, lengths_B=RNG.integers(30, 51, 12))
    rates_BTN, data = trials([2, 3, 1], seed=2)
    train, data = (dataclasses.replace(d, n_forward=5) for d in (train, data))
    Psths.of(train).save(tmp_path / "psths.safetensors")
    psths = Psths.load(tmp_path / "psths.safetensors", 4, train.fingerprint)
    with pytest.raises(RunError, match="of other training trials"):
        Psths.load(tmp_path / "psths.safetensors", 4, data.fingerprint)
    expected = psth_scores(rates_BTN, data, train)
    found = psth_scores(rates_BTN, data, psths=psths)
    np.testing.assert_allclose(found.r2_N, expected.r2_N, rtol=1e-5)
    assert (found.n_conditions, found.split_half) == (3, False)
    # Another file numbers the conditions in its own way: names tell which is which.
    names = {7: "2", 8: "0", 9: "1"}
    renumbered = np.array([8, 9, 7])[data.conditions_B]
    other = dataclasses.replace(data, conditions_B=renumbered, condition_names=names)
    np.testing.assert_allclose(psth_scores(rates_BTN, other, psths=psths).r2_N, found.r2_N)
    unknown = dataclasses.replace(data, conditions_B=data.conditions_B + 10)
    assert psth_scores(rates_BTN, unknown, psths=psths).split_half
