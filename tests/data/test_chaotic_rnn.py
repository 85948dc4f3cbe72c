import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ndt_cli.data import synthetic
from ndt_cli.data.synthetic import make_chaotic_rnn
from ndt_cli.errors import SettingsError

FINGERPRINT = Path(__file__).resolve().parents[3] / "shared/reference/chaotic_rnn_fingerprint.json"
# The public generator scales activity to 0..1 and divides by this to get spikes per bin.
CONVERSION = 1 / (30.0 * 0.01)


@pytest.fixture(scope="module")
def recording():
    return make_chaotic_rnn()


def sha256(array, dtype):
    return hashlib.sha256(np.ascontiguousarray(array, dtype=dtype).tobytes()).hexdigest()


# Digests, sums and values of the public generator's own output.
@pytest.mark.parametrize(
    ("split", "shape", "spikes_sha", "conditions_sha", "truth_sum"),
    [
        (
            "train",
            (1040, 100, 50),
            "2f2e1570d79762bdddaa6d30140e7f9b1d59ee286bdfd5afe381ad51ac138b0a",
            "62edcb93c197d2e1798fcc656b8e884890348e64244523bb86b8cd72861a022b",
            2596311.8391049234,
        ),
        (
            "valid",
            (260, 100, 50),
            "216a6296e993f05cb6204935480aeb1053b0b593ae210546237fe34d3dc541c9",
            "6e50bb08cf4df1604d8bbf6706b219b7aae8c412d80afcd0c670fdeaeecbd7d8",
            649077.9597762307,
        ),
    ],
)
def test_the_default_set_is_the_published_one(
    recording, split, shape, spikes_sha, conditions_sha, truth_sum
):
    data = getattr(recording, split)
    assert data.spikes_BTN.shape == shape
    assert sha256(data.spikes_BTN, "<i8") == spikes_sha
    assert sha256(data.conditions_B, "<i8") == conditions_sha
    assert data.rates_BTN.sum() * CONVERSION == pytest.approx(truth_sum, rel=1e-12)


def test_the_default_rates_are_the_published_ones(recording):
    truth_BTN = recording.train.rates_BTN * CONVERSION
    assert truth_BTN.dtype == np.float64
    first_unit = [0.0, 0.16259208474313616, 0.2707120539914988, 0.3055277693333418]
    first_bin = [0.0, 0.14313658048652178, 0.48540489819148736, 0.3939769307654357]
    last = [0.7062529105727323, 0.13417696896987932, 0.6481129886996273, 0.10826684294489697]
    np.testing.assert_allclose(truth_BTN[0, :4, 0], first_unit, rtol=0, atol=1e-12)
    np.testing.assert_allclose(truth_BTN[0, 0, :4], first_bin, rtol=0, atol=1e-12)
    np.testing.assert_allclose(truth_BTN[-1, -1, -4:], last, rtol=0, atol=1e-12)


def test_the_network_is_the_one_of_the_paper(monkeypatch):
    seen = []
    run = synthetic._run_network
    monkeypatch.setattr(
        synthetic, "_run_network", lambda w_NN, *rest: seen.append(w_NN) or run(w_NN, *rest)
    )
    make_chaotic_rnn(n_conditions=1, n_repeats=2, train_fraction=0.5, gain=2.0)
    assert seen[0][0, 0] / 2.0 == pytest.approx(0.06239899, abs=1e-8)


def test_the_first_repeats_of_each_condition_train(recording):
    # Trial ids are places in the original order: 10 repeats of condition 0, then of 1, ...
    np.testing.assert_array_equal(
        recording.train.trial_ids_B[:10], [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]
    )
    np.testing.assert_array_equal(recording.valid.trial_ids_B[:4], [8, 9, 18, 19])
    assert recording.train.bin_ms == 10.0


def test_trials_of_a_condition_share_rates_and_not_spikes(recording):
    data = recording.train
    np.testing.assert_array_equal(data.rates_BTN[0], data.rates_BTN[7])
    assert (data.rates_BTN[0] != data.rates_BTN[8]).any()
    assert (data.spikes_BTN[0] != data.spikes_BTN[7]).any()


def test_each_unit_reaches_its_peak_rate_once_a_trial():
    data = make_chaotic_rnn(n_conditions=2, n_repeats=5, peak_rate_hz=50, dt_s=0.02).train
    np.testing.assert_allclose(data.rates_BTN.max(axis=1), 50 * 0.02)
    np.testing.assert_allclose(data.rates_BTN.min(axis=1), 0)
    assert data.n_bins == 50


def test_observing_fewer_units_leaves_the_network_alone():
    some = make_chaotic_rnn(n_conditions=2, n_repeats=5, n_observed=7).train
    every = make_chaotic_rnn(n_conditions=2, n_repeats=5).train
    assert some.n_neurons == 7
    np.testing.assert_array_equal(some.rates_BTN, every.rates_BTN[..., :7])


def test_another_seed_is_another_network():
    one, other = (make_chaotic_rnn(seed=s, n_conditions=1, n_repeats=5).train for s in (5, 6))
    assert (one.rates_BTN != other.rates_BTN).any()


def test_steps_of_less_than_twice_the_time_constant_make_a_set():
    assert make_chaotic_rnn(n_conditions=2, n_repeats=5, tau_s=0.0051).train.n_bins == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_observed": 51}, "`n_observed=51`: expected 1 to 50"),
        ({"n_repeats": 1}, "leaves one split empty"),
        ({"train_fraction": 1.0}, "leaves one split empty"),
        ({"duration_s": 0.01}, "holds 1 bins"),
        ({"x0_std": 0.0}, "does not change"),
        ({"gain": 1e10}, "`gain=1e.10`: expected"),
        ({"tau_s": 0.005}, "below twice the time constant"),
        ({"peak_rate_hz": 0.0}, "peak_rate_hz.* no spike"),
    ],
)
def test_arguments_that_make_no_set_are_refused(arguments, message):
    with pytest.raises(SettingsError, match=message):
        make_chaotic_rnn(**{"n_conditions": 2, "n_repeats": 5, **arguments})


def test_every_recorded_figure_of_the_public_output_agrees(recording):
    if not FINGERPRINT.is_file():
        pytest.skip("shared/reference/chaotic_rnn_fingerprint.json is not here")
    reference = json.loads(FINGERPRINT.read_text())
    for split, data in (("train", recording.train), ("valid", recording.valid)):
        counts = reference[f"{split}_data"]
        np.testing.assert_array_equal(np.bincount(data.spikes_BTN.ravel()), counts["hist"])
        per_neuron = data.spikes_BTN.sum(axis=(0, 1), dtype=int)
        np.testing.assert_array_equal(per_neuron[:10], counts["sum_first_10_neurons"])
        truth = reference[f"{split}_truth"]
        ours = data.rates_BTN * float(reference["conversion_factor"]["first"][0])
        expected_first, expected_last = (
            np.array(truth[key], dtype=float) for key in ("first", "last")
        )
        np.testing.assert_allclose(ours.ravel()[:8], expected_first, rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.ravel()[-4:], expected_last, rtol=0, atol=1e-12)
