import numpy as np
import pytest
from nlb_arrays import GROUP, N_EVAL, as_dmfc, errors, only, warned

from ndt_cli.nlb.benchmark_scores import mean_rate_submission
from ndt_cli.nlb.catalog import RATE_KEYS
from ndt_cli.nlb.check import Expected, check_group

EVERY_KEY = ", ".join(RATE_KEYS)


# Values


def test_values_that_are_not_finite_are_counted_and_found(arrays):
    arrays["eval_rates_heldin"][2, 3, 4:] = np.nan
    arrays["eval_rates_heldin"][5, 0, 0] = np.inf
    finding = only(errors(check_group(GROUP, arrays)))
    assert "2 NaN and 1 infinite of 1680 values, in 2 of 8 trials" in finding.message
    assert "the first at trial 2, bin 3, neuron 4" in finding.message


def test_negative_rates_are_counted_and_found(arrays):
    arrays["train_rates_heldin"] *= 0.1
    arrays["train_rates_heldin"][4, 1, 2] = -0.25
    finding = only(errors(check_group(GROUP, arrays)))
    assert (
        "1 of 3360 values below 0, the lowest -0.25; the first at trial 4, bin 1, neuron 2"
        in finding.message
    )
    assert "numpy.maximum" in finding.hint


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (np.log, "log-rates: write numpy.exp(rates)."),
        (lambda a: np.log(50 * a / 5), "in Hz: write numpy.exp(rates) / 50"),
    ],
)
def test_log_rates_are_recognized(arrays, change, hint):
    logs = {key: change(array) for key, array in arrays.items()}
    assert all(array.min() < 0 for array in logs.values())
    findings = errors(check_group(GROUP, logs))
    assert [finding.key for finding in findings] == list(RATE_KEYS)
    assert all(hint in finding.hint for finding in findings)


def test_arrays_that_carry_nothing_raise_a_warning(arrays):
    key = "eval_rates_heldout"
    for change, message in (
        (lambda a: 0 * a, "is 0 everywhere"),
        (lambda a: a.mean(axis=1, keepdims=True).repeat(35, axis=1), "is constant over time"),
        (lambda a: a[:1].repeat(N_EVAL, axis=0), "is the same in every trial"),
    ):
        findings = check_group(GROUP, arrays | {key: change(arrays[key])})
        assert errors(findings) == []
        assert message in only(warned(findings)).message


def test_zeros_raise_a_warning_where_a_spike_is_scored(arrays):
    for key in ("eval_rates_heldin", "eval_rates_heldout"):
        arrays[key][:, :, 1] = 0
    finding = only(warned(check_group(GROUP, arrays)))
    assert finding.key == "eval_rates_heldout"
    assert "25.0% of the rates are exactly 0; throughout for 1 of 4 neurons: 1" in finding.message


# Unit


@pytest.mark.parametrize(
    ("factor", "message", "hint"),
    [
        (50, "rates in Hz, not expected counts per bin, 50 times too large", "Divide by 50"),
        (1 / 50, "50 times too small", "Multiply by 50"),
        (1 / 4, "counts per bin of 5 ms", "Multiply by 20 / 5"),
        (1 / 20, "counts per ms, 20 times too small", "Multiply by 20"),
    ],
)
def test_the_unit_is_recognized_by_the_spikes(arrays, expected, factor, message, hint):
    scaled = {key: factor * array for key, array in arrays.items()}
    findings = errors(check_group(GROUP, scaled, expected))
    assert {key for finding in findings for key in finding.key.split(", ")} == set(RATE_KEYS)
    for finding in findings:
        assert message in finding.message
        assert hint in finding.hint


def test_hz_are_recognized_without_spikes(arrays):
    hz = {key: 50 * array for key, array in arrays.items()}
    finding = only(errors(check_group(GROUP, hz)))
    assert finding.key == EVERY_KEY
    assert "rates in Hz" in finding.message
    assert "Divide by 50" in finding.hint


def test_hz_at_5_ms_are_200_times_too_large(arrays):
    fine = {
        key: np.repeat(array, 4, axis=1) / 4 * (200 if key.startswith("eval") else 1)
        for key, array in arrays.items()
    }
    finding = only(errors(check_group("mc_maze_small", fine)))
    assert "200 times too large" in finding.message
    assert finding.key == ", ".join(key for key in RATE_KEYS if key.startswith("eval"))


def test_a_mean_that_has_no_name_is_a_warning(arrays, expected):
    high = {key: 8 * array for key, array in arrays.items()}
    findings = check_group(GROUP, high, expected)
    assert errors(findings) == []
    assert all("times the mean spike count" in finding.message for finding in warned(findings))
    assert len(warned(findings)) >= 1
    low = {key: 1e-4 * array for key, array in arrays.items()}
    assert "a population fires at 0.05 Hz or more" in only(warned(check_group(GROUP, low))).message


def test_counts_that_are_not_scored_do_not_count_for_the_unit(example, arrays):
    targets = as_dmfc(example)
    targets["eval_spikes_heldout"] = targets["eval_spikes_heldout"].copy()
    rates = arrays["eval_rates_heldout"].copy()
    rates[:, :10] *= 1000  # never scored
    known = Expected.of(targets)
    findings = check_group(GROUP, arrays | {"eval_rates_heldout": rates}, known)
    assert not any("eval_rates_heldout" in f.key for f in errors(findings) + warned(findings))


# Order of trials


@pytest.mark.parametrize(
    ("order", "what"),
    [
        (np.arange(N_EVAL)[::-1], "in reverse"),
        (np.roll(np.arange(N_EVAL), 1), "one trial late"),
        (np.array([3, 0, 6, 1, 7, 2, 5, 4]), "in another order"),
    ],
)
def test_another_order_of_the_trials_is_recognized(arrays, expected, order, what):
    for key in RATE_KEYS[2:]:
        arrays[key] = arrays[key][order]
    finding = only(errors(check_group(GROUP, arrays, expected)))
    assert f"the trials are {what}" in finding.message
    assert f"trial 0 fits trial {order[0]}" in finding.message
    assert finding.key.startswith("eval")


def test_the_order_of_train_trials_is_checked_with_the_tensors(arrays, expected, example):
    for key in RATE_KEYS[:2]:
        arrays[key] = arrays[key][::-1]
    assert only(errors(check_group(GROUP, arrays, expected))).key.startswith("train")
    targets_alone = check_group(GROUP, arrays, Expected.of(example.targets))
    assert errors(targets_alone) == []
    assert any("order of train trials cannot be checked" in f.message for f in targets_alone)


def test_rates_that_do_not_differ_between_trials_tell_no_order(example, expected):
    tensors = example.tensors
    forward = [tensors[f"train_spikes_{part}_forward"] for part in ("heldin", "heldout")]
    flat = mean_rate_submission(
        tensors["train_spikes_heldin"],
        tensors["train_spikes_heldout"],
        np.concatenate(forward, axis=2),
        N_EVAL,
    )
    findings = check_group(GROUP, flat, expected)
    assert errors(findings) == []
    said = [f.message for f in findings if "order" in f.message]
    assert len(said) == 2
    assert all("differ too little" in message for message in said)


def test_a_few_rates_of_almost_nothing_do_not_hide_the_order(arrays, expected):
    rng = np.random.default_rng(2)
    for array in arrays.values():
        array[rng.random(array.shape) < 0.02] = 1e-9
    assert not any("order" in f.message for f in check_group(GROUP, arrays, expected))


def test_targets_say_better_than_inputs_what_is_scored(example):
    known = Expected.of(example.tensors, as_dmfc(example))
    assert np.isnan(known.counts["eval_rates_heldout"][:, :10]).all()
    assert not np.isnan(known.counts["train_rates_heldout"]).any()
    assert known.sizes["held-in neurons"] == 6


def test_three_trials_tell_no_order(arrays, example):
    few = {key: array[:3] for key, array in arrays.items()}
    spikes = {key: array[:3] for key, array in example.tensors.items()}
    findings = check_group(GROUP, few, Expected.of(spikes))
    assert errors(findings) == []
    assert any("order of 3 trials cannot be checked" in finding.message for finding in findings)


def test_chance_does_not_look_like_another_order(expected, example):
    rng = np.random.default_rng(1)
    for _ in range(20):
        noise = {key: rng.gamma(2.0, 0.2, array.shape) for key, array in example.rates.items()}
        assert errors(check_group(GROUP, noise, expected)) == []
