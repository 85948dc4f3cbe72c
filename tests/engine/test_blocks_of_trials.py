"""Large sets go through in blocks of trials: the same numbers, in little memory."""

import dataclasses
import tracemalloc

import h5py
import numpy as np
import pytest
from builders import recording, spike_data, tiny_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.data import spike_data as by_trial
from ndt_cli.data.bins import merge, merge_blocks, merged_bins
from ndt_cli.data.spike_data import ByTrial, Recording, trial_blocks
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.engine.training import train
from ndt_cli.errors import DataError
from ndt_cli.evaluation import evaluate
from ndt_cli.inferred_rates import Rates
from ndt_cli.rates_file import write_rates


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few thousand entries, and no set that is small enough to be kept."""
    monkeypatch.setattr(by_trial, "BLOCK_ENTRIES", 2**12)
    monkeypatch.setattr(by_trial, "KEPT_BYTES", 0)


@given(st.integers(0, 500), st.integers(0, 2**23))
def test_blocks_hold_each_trial_once_and_no_more_than_they_may(n_trials, n_entries):
    blocks = [range(n_trials)[block] for block in trial_blocks(n_trials, n_entries)]
    assert [trial for block in blocks for trial in block] == list(range(n_trials))
    for block in blocks:
        assert len(block) <= by_trial.BLOCK_TRIALS
        assert len(block) == 1 or len(block) * n_entries <= by_trial.BLOCK_ENTRIES


@pytest.mark.parametrize("kept_bytes", [0, 2**20])
def test_values_are_those_of_the_trials_asked_for(monkeypatch, kept_bytes):
    monkeypatch.setattr(by_trial, "KEPT_BYTES", kept_bytes)
    whole_BTK = np.random.default_rng(0).random((300, 4, 3))
    made = []

    def make(trials):
        made.extend(trials.tolist())
        return whole_BTK[trials]

    values_BTK = ByTrial(whole_BTK.shape, whole_BTK.dtype, make)
    some = np.array([290, 3, 150])
    np.testing.assert_array_equal(values_BTK[some], whole_BTK[some])
    np.testing.assert_array_equal(values_BTK[some], whole_BTK[some])
    np.testing.assert_array_equal(values_BTK.take(some)[1:], whole_BTK[some[1:]])
    # A small set is made once; of a large one nothing but what is asked for.
    assert made == ([*range(300)] if kept_bytes else [290, 3, 150, 290, 3, 150, 3, 150])
    np.testing.assert_array_equal(values_BTK[:], whole_BTK)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), min_size=1, max_size=20))
def test_windows_merged_in_stretches_are_those_merged_at_once(windows):
    starts_B, lengths_B = np.array(windows).T + np.array([[100], [0]])
    windows_BTK = np.random.default_rng(0).random((len(windows), 9, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_trial, "BLOCK_ENTRIES", 3 * 9 * 2)
        stretches = list(merge_blocks(windows_BTK, starts_B, lengths_B))
    whole_TK = merge(windows_BTK, starts_B, lengths_B)
    np.testing.assert_array_equal(np.concatenate(stretches), whole_TK)
    assert merged_bins(starts_B, lengths_B) == len(whole_TK)


@pytest.mark.parametrize("mode", ["timestep", "timestep-only", "full", "neuron"])
def test_folds_of_some_trials_are_those_among_all(mode):
    data, chosen = spike_data(20, 6, 3), tiny_settings(mask={"mode": mode})
    shape = data.spikes_BTN.shape
    some = np.array([7, 2, 19, 3])
    among_all = np.broadcast_to(hiding_folds(data, chosen), shape)[some]
    alone = np.broadcast_to(hiding_folds(data, chosen, some), among_all.shape)
    np.testing.assert_array_equal(alone, among_all)
    assert len(np.unique(alone)) > 1


@pytest.fixture(scope="module")
def spikes():
    """Trials with all that is scored."""
    recorded = recording(40, 30, rates=True, n_bins=50, n_neurons=20, n_heldout=3, n_forward=5)

    def behaving(data):
        walk_BTV = np.random.default_rng(0).standard_normal((data.n_trials, 50, 2)).cumsum(axis=1)
        conditions_B = np.arange(data.n_trials) % 3
        return dataclasses.replace(data, behavior_BTV=walk_BTV, conditions_B=conditions_B)

    return Recording(behaving(recorded.train), behaving(recorded.valid), "tiny", "synthetic")


@pytest.fixture(scope="module")
def run(spikes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(tiny_settings(train={"max_epochs": 1}), out=out, recording=spikes).run


def leaves(value):
    """All numbers in scores, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("split", ["valid", "all"])
def test_scores_do_not_depend_on_the_blocks(run, spikes, split, request):
    whole = evaluate(run, split=split, recording=spikes).to_json()["scores"]
    request.getfixturevalue("small_blocks")
    blocks = evaluate(run, split=split, recording=spikes).to_json()["scores"]
    for name in whole:
        # Inference is in float32, and its rounding depends on how many trials are in a batch.
        tolerance = 1e-4 if name == "NDT" else 1e-11
        found, expected = leaves(blocks[name]), leaves(whole[name])
        assert len(expected) > 100
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_rates_are_written_in_blocks(run, spikes, small_blocks, tmp_path, ending):
    starts_B = np.arange(30) * 40  # windows of 50 bins: each fades into the next
    chopped = dataclasses.replace(spikes.valid, start_bins_B=starts_B)
    evaluation = evaluate(run, recording=dataclasses.replace(spikes, valid=chopped))
    data, path = evaluation.data, tmp_path / f"rates{ending}"
    write_rates(path, Rates(data, evaluation.inferred, evaluation.activations))
    with h5py.File(path) if ending == ".h5" else np.load(path, allow_pickle=False) as file:
        written = {key: file[key][()] for key in file}
    trained = load_trained(run)
    rates_BTN = trained.rates(data)[:, :, data.file_order_N]
    np.testing.assert_allclose(written["rates"], rates_BTN, rtol=1e-5)
    np.testing.assert_allclose(written["rates_hz"], rates_BTN * 100, rtol=1e-5)
    np.testing.assert_allclose(written["activations"], trained.activations(data), rtol=1e-4)
    merged_TN = merge(written["rates"], starts_B, data.lengths_B)
    np.testing.assert_array_equal(written["continuous_rates"], merged_TN)
    np.testing.assert_array_equal(written["continuous_rates_hz"], merged_TN * np.float32(100))


def test_rates_that_are_not_finite_leave_no_file(spikes, small_blocks, tmp_path):
    data = spikes.valid
    rates_BTN = np.ones(data.spikes_BTN.shape, dtype=np.float32)
    rates_BTN[17, 3, 2] = np.inf
    for ending in (".h5", ".npz"):
        with pytest.raises(DataError, match="rates of trial 17 are not finite"):
            write_rates(tmp_path / f"rates{ending}", Rates(data, rates_BTN, rates_BTN))
    assert list(tmp_path.iterdir()) == []


def peak_bytes(work):
    """The most memory that arrays took at once while this ran, without what was there before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore::ndt_cli.errors.RunWarning")
def test_the_memory_of_evaluating_and_writing_does_not_grow_with_the_trials(tmp_path, monkeypatch):
    # Blocks are as small against these trials as true ones are against 2 GB.
    monkeypatch.setattr(by_trial, "BLOCK_ENTRIES", 2**12)
    monkeypatch.setattr(by_trial, "KEPT_BYTES", 2**12)
    spikes = recording(20, 20, n_bins=20, n_neurons=50, n_heldout=5)
    chosen = tiny_settings(
        model={"embedding": "identity"}, mask={"ratio": 0.5}, train={"max_epochs": 1}
    )
    run = train(chosen, out=tmp_path / "run", recording=spikes).run
    evaluate(run, recording=spikes)  # what is imported once is no part of it
    many = spike_data(400, 20, 50, n_heldout=5)
    peaks = []
    for data in (spikes.valid, many):
        evaluations = []
        given = dataclasses.replace(spikes, valid=data)
        of_scores = peak_bytes(
            lambda g=given, e=evaluations: e.append(evaluate(run, recording=g, accept_changes=True))
        )
        (found,) = evaluations
        path = tmp_path / f"{data.n_trials}.h5"
        of_file = peak_bytes(
            lambda p=path, e=found: write_rates(p, Rates(e.data, e.inferred, e.activations))
        )
        assert path.stat().st_size > 12 * data.spikes_BTN.nbytes  # three arrays of float32
        peaks.append((of_scores, of_file))
    # Rates of all trials would take four bytes an entry, sums of them eight.
    for few, more in zip(*peaks, strict=True):
        assert more - few < many.spikes_BTN.nbytes / 4
    assert peak_bytes(lambda: found.rates_BTN) > 4 * many.spikes_BTN.nbytes  # the measure sees
