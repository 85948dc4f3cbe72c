import numpy as np
import pytest

from ndt_cli.data import synthetic
from ndt_cli.data.synthetic import make_lorenz
from ndt_cli.errors import SettingsError


@pytest.fixture(scope="module")
def recording():
    return make_lorenz()


def test_the_default_set_has_the_size_of_the_papers(recording):
    assert recording.train.spikes_BTN.shape == (1248, 50, 29)
    assert recording.valid.spikes_BTN.shape == (312, 50, 29)
    assert recording.train.bin_ms == 20.0


def test_the_default_set_is_always_the_same(recording):
    # Runs name their data by this digest; a change of numpy that moves it must not go unseen.
    assert recording.train.fingerprint.startswith("e6db16dae2d6857e")
    assert recording.valid.fingerprint.startswith("613357f6849aafd3")


def test_each_condition_is_in_both_splits_in_proportion(recording):
    train, valid = (np.bincount(d.conditions_B) for d in (recording.train, recording.valid))
    np.testing.assert_array_equal(train + valid, np.full(65, 24))
    assert set(valid.tolist()) == {4, 5}  # a fifth of 24 is 4.8


def test_trials_of_a_condition_share_their_rates(recording):
    conditions_B = recording.train.conditions_B
    first, second = np.flatnonzero(conditions_B == 3)[:2]
    other = np.flatnonzero(conditions_B == 4)[0]
    rates_BTN = recording.train.rates_BTN
    np.testing.assert_array_equal(rates_BTN[first], rates_BTN[second])
    assert (rates_BTN[first] != rates_BTN[other]).any()
    assert (recording.train.spikes_BTN[first] != recording.train.spikes_BTN[second]).any()


def test_counts_are_poisson_draws_of_the_rates(recording):
    counts, rates = recording.train.spikes_BTN, recording.train.rates_BTN
    # 14 000 spikes of a neuron: the mean is known to 1 % (3 standard errors are 2.5 %).
    np.testing.assert_allclose(counts.mean((0, 1)) / rates.mean((0, 1)), 1, atol=0.03)
    dispersion = ((counts - rates) ** 2).mean() / rates.mean()
    assert dispersion == pytest.approx(1, abs=0.01)


def test_rates_are_those_of_cortical_neurons(recording):
    rates_hz = recording.train.rates_BTN / 0.02
    assert 5 < rates_hz.mean() < 12
    assert rates_hz.max() < 500
    assert 20 < np.median(rates_hz.max(axis=(0, 1))) < 100


def test_log_rates_are_linear_in_the_latents(recording):
    data = recording.train
    latents = data.latents_BTK.reshape(-1, 3)
    np.testing.assert_allclose(latents.std(axis=0), 1, atol=0.1)
    log_rates = np.log(data.rates_BTN / 0.02 / 5).reshape(-1, 29)
    readout, *_ = np.linalg.lstsq(latents, log_rates, rcond=None)
    np.testing.assert_allclose(latents @ readout, log_rates, atol=1e-9)


def test_a_trial_turns_around_the_wings_two_or_three_times(recording):
    z = recording.train.latents_BTK[..., 2]
    turns = ((z[:, 1:-1] > z[:, :-2]) & (z[:, 1:-1] > z[:, 2:])).sum(axis=1).mean()
    assert 2 < turns < 3.5


def test_the_integration_is_of_fourth_order():
    start = np.array([[1.0, 2.0, 20.0]])

    def run(step):
        return synthetic._integrate(
            start, (10, 28, 8 / 3), n_bins=10, time_per_bin=0.04, max_step=step, transient=0.04
        )

    exact = run(0.0005)
    coarse, fine = (np.abs(run(step) - exact).max() for step in (0.01, 0.005))
    assert coarse / fine == pytest.approx(16, rel=0.3)


def test_the_seed_decides():
    small = {"n_conditions": 2, "n_repeats": 5, "n_bins": 10}
    one, same, other = (make_lorenz(seed=s, **small).train for s in (1, 1, 2))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    np.testing.assert_array_equal(one.rates_BTN, same.rates_BTN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_conditions": 1, "n_repeats": 1}, "at least 2"),
        ({"n_neurons": 0}, "`n_neurons=0`: expected 1"),
        ({"train_fraction": 1.0}, "`train_fraction=1`"),
        ({"max_step": 1.0, "lorenz_time_per_s": 50.0}, "diverged"),
        ({"sigma": float("nan")}, "`sigma=nan`: expected"),
        ({"log_rate_std": 1e10}, "`log_rate_std=1e.10`: expected 0 to 1000000000"),
        ({"base_rate_hz": 0.0}, "base_rate_hz.* no spike"),
    ],
)
def test_arguments_that_make_no_set_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        make_lorenz(**{"n_conditions": 2, "n_repeats": 5, "n_bins": 10, **arguments})
