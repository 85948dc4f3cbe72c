from importlib.util import find_spec

import numpy as np
import pytest
from nlb_arrays import GROUP, N_HELDIN, make_example

from ndt_cli.errors import MissingExtraError
from ndt_cli.metrics import bits_per_spike
from ndt_cli.nlb import dependencies as extra
from ndt_cli.nlb.benchmark_scores import (
    BENCHMARK_SMOOTHING,
    Smoothing,
    _kernel,
    _smooth,
    mean_rate_submission,
    smoothing_submission,
)
from ndt_cli.nlb.catalog import DATASETS
from ndt_cli.nlb.check import Expected, check_group

needs_sklearn = pytest.mark.skipif(
    find_spec("sklearn") is None, reason='needs scikit-learn: pip install "ndt-cli[nlb]"'
)
SMOOTHING = Smoothing(40, 0.01)


@pytest.fixture
def tensors():
    return make_example().tensors


def inputs(tensors):
    forward = [tensors[f"train_spikes_{part}_forward"] for part in ("heldin", "heldout")]
    train = tensors["train_spikes_heldin"], tensors["train_spikes_heldout"]
    return [*train, np.concatenate(forward, axis=2), tensors["eval_spikes_heldin"]]


def test_every_dataset_has_the_kernel_that_the_benchmark_chose():
    assert set(BENCHMARK_SMOOTHING) == set(DATASETS)


@pytest.mark.parametrize("width_ms", [30, 40, 50, 60])
@pytest.mark.parametrize("bin_ms", [5, 20])
def test_spikes_are_smoothed_as_numpy_convolves(width_ms, bin_ms):
    spikes_BTN = np.random.default_rng(0).poisson(0.3, (2, 75, 3))
    kernel = _kernel(width_ms, bin_ms)
    assert len(kernel) == int(6 * width_ms / bin_ms)
    assert kernel.sum() == pytest.approx(1)
    expected = np.apply_along_axis(lambda x: np.convolve(x, kernel, "same"), 1, spikes_BTN)
    np.testing.assert_allclose(_smooth(spikes_BTN, kernel), expected, atol=1e-12)


@needs_sklearn
def test_heldout_rates_are_a_poisson_regression_on_log_rates(tensors):
    """At the optimum of the penalised likelihood its gradient is zero."""
    rates = smoothing_submission(*inputs(tensors), 20, SMOOTHING)
    logs = np.log(rates["train_rates_heldin"] + 1e-4).reshape(-1, N_HELDIN)
    predicted = rates["train_rates_heldout"].reshape(len(logs), -1)
    counts = tensors["train_spikes_heldout"].astype(float).reshape(len(logs), -1)
    weights, *_ = np.linalg.lstsq(
        np.column_stack([logs, np.ones(len(logs))]), np.log(predicted), rcond=None
    )
    gradient = logs.T @ (predicted - counts) / len(logs) + SMOOTHING.alpha * weights[:-1]
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    np.testing.assert_allclose(predicted.mean(axis=0), counts.mean(axis=0), rtol=1e-4)


@needs_sklearn
def test_heldin_rates_are_the_smoothed_spikes(tensors):
    rates = smoothing_submission(*inputs(tensors), 20, SMOOTHING)
    expected = _smooth(tensors["eval_spikes_heldin"], _kernel(40, 20))
    np.testing.assert_array_equal(rates["eval_rates_heldin"], expected)


@needs_sklearn
def test_forward_bins_are_predicted_from_the_end_of_the_window(tensors):
    """The kernel of 40 ms at bins of 20 ms is 12 bins long: six on either side."""
    *train, eval_heldin = inputs(tensors)
    forward = []
    for changed_bin in (None, 35 - 8, 35 - 2):
        spikes = eval_heldin.copy()
        if changed_bin is not None:
            spikes[:, changed_bin] += 3
        rates = smoothing_submission(*train, spikes, 20, SMOOTHING)
        forward.append(rates["eval_rates_heldout_forward"])
    before, far, near = forward
    np.testing.assert_array_equal(far, before)
    assert np.abs(near - before).max() > 0.01 * before.mean()


@needs_sklearn
def test_forward_rates_follow_what_the_training_trials_did():
    rng = np.random.default_rng(0)
    active = np.arange(120) % 2  # every other trial ends active, and stays so
    heldin = rng.poisson(0.3, (120, 35, 3))
    heldin[:, -6:] = rng.poisson(0.1 + 2 * active[:, None, None], (120, 6, 3))
    forward = rng.poisson(0.2 + active[:, None, None], (120, 10, 4))
    heldout = rng.poisson(0.3, (120, 35, 1))
    trains, evaluated = slice(100), slice(100, None)
    rates = smoothing_submission(
        heldin[trains], heldout[trains], forward[trains], heldin[evaluated], 20, SMOOTHING
    )
    predicted = rates["eval_rates_heldout_forward"].mean(axis=(1, 2))
    assert predicted[active[evaluated] == 1].min() > 2 * predicted[active[evaluated] == 0].max()


@needs_sklearn
def test_forward_rates_rise_where_those_of_the_training_trials_did():
    rng = np.random.default_rng(0)
    heldin, heldout = rng.poisson(0.3, (120, 35, 3)), rng.poisson(0.3, (120, 35, 1))
    rising = 0.1 + 0.2 * np.arange(10)
    forward = rng.poisson(rising[:, None], (120, 10, 4))
    rates = smoothing_submission(
        heldin[:100], heldout[:100], forward[:100], heldin[100:], 20, SMOOTHING
    )
    predicted_T = rates["eval_rates_heldout_forward"].mean(axis=(0, 2))
    assert predicted_T[-1] > 3 * predicted_T[0]
    np.testing.assert_allclose(predicted_T.mean(), rising.mean(), rtol=0.2)


@needs_sklearn
def test_smoothing_predicts_neurons_that_it_does_not_see(tensors):
    example = make_example()
    smoothed = smoothing_submission(*inputs(tensors), 20, SMOOTHING)
    train_heldin, train_heldout, train_forward, _ = inputs(tensors)
    mean = mean_rate_submission(
        train_heldin, train_heldout, train_forward, len(tensors["eval_spikes_heldin"])
    )
    spikes = tensors["eval_spikes_heldout"]
    smoothed_bits, mean_bits, true_bits = (
        bits_per_spike(rates["eval_rates_heldout"], spikes).bits_per_spike
        for rates in (smoothed, mean, example.rates)
    )
    assert mean_bits + 0.05 < smoothed_bits < true_bits


@needs_sklearn
def test_smoothing_and_mean_rate_make_files_that_can_be_scored(tensors):
    example = make_example()
    expected = Expected.of(tensors, example.targets)
    train_heldin, train_heldout, train_forward, eval_heldin = inputs(tensors)
    for rates in (
        smoothing_submission(*inputs(tensors), 20, SMOOTHING),
        mean_rate_submission(train_heldin, train_heldout, train_forward, len(eval_heldin)),
    ):
        findings = check_group(GROUP, rates, expected)
        assert [f for f in findings if f.severity == "error"] == []


@needs_sklearn
def test_a_silent_neuron_gets_a_rate_that_is_not_zero(tensors):
    arrays = [array.copy() for array in inputs(tensors)]
    arrays[1][:, :, 0] = 0
    arrays[2][:, :, 0] = 0
    arrays[2][:, :, N_HELDIN] = 0
    smoothed = smoothing_submission(*arrays, 20, SMOOTHING)
    mean = mean_rate_submission(*arrays[:3], len(arrays[3]))
    for rates in (smoothed, mean):
        assert rates["eval_rates_heldout"][:, :, 0].max() < 0.01
        assert all(array.min() > 0 for key, array in rates.items() if "heldout" in key)
        assert rates["eval_rates_heldin_forward"][:, :, 0].min() > 0
        assert all(np.isfinite(array).all() for array in rates.values())


@needs_sklearn
def test_smoothing_tells_how_far_it_is(tensors):
    told = []
    smoothing_submission(*inputs(tensors), 20, SMOOTHING, progress=lambda *a: told.append(a))
    done = [step for _, step, _ in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 4 + 10)
    assert {total for _, _, total in told} == {4 + 10}


def test_the_mean_rate_is_that_of_the_training_trials(tensors):
    train_heldin, train_heldout, train_forward, _ = inputs(tensors)
    rates = mean_rate_submission(train_heldin, train_heldout, train_forward, 3)
    means = train_heldout.mean(axis=(0, 1), dtype=float)
    np.testing.assert_allclose(rates["eval_rates_heldout"], np.tile(means, (3, 35, 1)))
    means = train_forward.mean(axis=(0, 1), dtype=float)
    np.testing.assert_allclose(rates["eval_rates_heldin_forward"][2, 9], means[:N_HELDIN])
    np.testing.assert_allclose(rates["eval_rates_heldout_forward"][2, 9], means[N_HELDIN:])


def test_many_half_precision_counts_are_added_up_right():
    counts = np.ones((300, 40, 1), dtype="float16")
    rates = mean_rate_submission(counts, counts, np.ones((300, 10, 2), dtype="float16"), 1)
    assert rates["eval_rates_heldout"].max() == 1


def test_without_scikit_learn_the_error_names_the_command_to_install_it(tensors, monkeypatch):
    found = extra.find_spec
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "sklearn" else found(name))
    with pytest.raises(MissingExtraError, match="sklearn") as caught:
        smoothing_submission(*inputs(tensors), 20, SMOOTHING)
    assert "scikit-learn" in caught.value.hint
