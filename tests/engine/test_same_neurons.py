"""Trials of other neurons, or of the same in another order, are not taken for the model's."""

from dataclasses import replace

import numpy as np
import pytest
from builders import recording, tiny_settings

from ndt_cli.data.loading import hold_out_neurons, load_file
from ndt_cli.data.spike_data import SpikeData, all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.engine.run_folder import RunFolder, SplitFacts
from ndt_cli.engine.trained_model import check_same_neurons, unlike_neurons
from ndt_cli.engine.training import train
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings

NAMES = ("a1", "b1", "b2")


def _named(names):
    data = recording()
    splits = {n: replace(getattr(data, n), neuron_names=names) for n in ("train", "valid")}
    return replace(data, **splits)


def _check(trained, evaluated):
    check_same_neurons(SplitFacts.of(trained), evaluated, "lab.h5", "runs/a")


def test_the_same_names_in_the_same_order_pass():
    _check(_named(NAMES).train, _named(NAMES).valid)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("b1", "a1", "b2"), "another order .* column 0 is neuron b1, and was a1"),
        (("a1", "b2", "b1"), "another order .* column 1 is neuron b2, and was b1"),
        (("a1", "b1", "c9"), "1 of its 3 neurons are not those of runs/a: column 2 is neuron c9"),
        (("x", "y", "z"), "3 of its 3 neurons"),
    ],
)
def test_other_names_or_another_order_are_refused_and_named(names, words):
    with pytest.raises(DataError, match=words) as caught:
        _check(_named(NAMES).train, _named(names).valid)
    assert caught.value.message.startswith("lab.h5: ")
    assert caught.value.hint


def test_where_one_side_has_no_names_nothing_is_refused():
    _check(_named(NAMES).train, recording().valid)
    _check(recording().train, _named(NAMES).valid)


def test_names_follow_neurons_that_are_held_out():
    settings = DataSettings(synthetic="none", heldout_neurons=(0,))
    ours = hold_out_neurons(_named(NAMES), settings)
    _check(ours.train, ours.valid)
    # The same columns by another way: the file has that order, and nothing was moved.
    theirs = replace(_named(("b1", "b2", "a1")).valid, n_heldout=1)
    _check(ours.train, theirs)


def test_other_neurons_held_out_are_refused():
    one, other = (
        hold_out_neurons(recording(), DataSettings(synthetic="none", heldout_neurons=(n,)))
        for n in (0, 1)
    )
    _check(one.train, one.valid)
    with pytest.raises(DataError, match="other neurons are held out"):
        _check(one.train, other.valid)


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_names_travel_with_the_file_and_the_run(tmp_path, ending):
    path = tmp_path / f"spikes.{ending}"
    write_recording(_named(("µ 1", "b", "c")), path)
    loaded = load_file(path, DataSettings())
    assert loaded.train.neuron_names == loaded.valid.neuron_names == ("µ 1", "b", "c")
    assert all_trials(loaded).neuron_names == ("µ 1", "b", "c")
    train(tiny_settings(train={"max_epochs": 1}), out=tmp_path / "run", recording=loaded)
    trained_on = RunFolder(tmp_path / "run").read_json("run.json")["data"]["train"]
    facts = SplitFacts.model_validate(trained_on)
    assert facts == SplitFacts.of(loaded.train)
    check_same_neurons(facts, all_trials(loaded), "lab.h5", "runs/a")


def test_neurons_that_were_moved_are_written_with_their_names(tmp_path):
    settings = DataSettings(synthetic="none", heldout_neurons=(0,))
    moved = hold_out_neurons(_named(NAMES), settings)
    path = tmp_path / "spikes.h5"
    write_recording(moved, path)
    assert load_file(path, DataSettings()).train.neuron_names == ("b1", "b2", "a1")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (np.array(["a", "b", "a"]), "found 2 different names; expected 3"),
        (np.array(["a", "b"]), "3 names|expected 3"),
        (np.array([1.5, 2.0, 3.0]), "names"),
    ],
)
def test_names_that_do_not_tell_neurons_apart_are_refused(tmp_path, names, words):
    path = tmp_path / "spikes.npz"
    np.savez(path, spikes=recording().train.spikes_BTN, bin_ms=10.0, neuron_names=names)
    with pytest.raises(DataError, match=words) as caught:
        load_file(path, DataSettings())
    assert "neuron_names" in caught.value.message


def test_numbers_of_units_are_names(tmp_path):
    path = tmp_path / "spikes.npz"
    spikes_BTN = recording().train.spikes_BTN
    np.savez(path, spikes=spikes_BTN, bin_ms=10.0, neuron_names=np.array([11, 12, 40]))
    assert load_file(path, DataSettings()).train.neuron_names == ("11", "12", "40")


# Rates that tell, where there are no names


def _trials(rates_N, seed, n_trials=30):
    rng = np.random.default_rng(seed)
    spikes_BTN = rng.poisson(rates_N, (n_trials, 20, len(rates_N))).astype(np.uint8)
    return SpikeData(spikes_BTN, bin_ms=10.0, lengths_B=np.full(n_trials, 20))


RATES_N = np.random.default_rng(0).lognormal(-1.0, 0.8, 30)


def _said(trained, evaluated):
    return unlike_neurons(SplitFacts.of(trained), evaluated)


def test_the_same_neurons_raise_no_doubt():
    for seed in range(1, 20):
        assert _said(_trials(RATES_N, 0), _trials(RATES_N, seed, n_trials=5)) is None


def test_shuffled_neurons_do():
    for seed in range(1, 20):
        shuffled_N = np.random.default_rng(seed).permutation(RATES_N)
        assert "same order" in _said(_trials(RATES_N, 0), _trials(shuffled_N, seed))
    for other_N in (RATES_N[::-1], np.roll(RATES_N, 1)):
        assert "same order" in _said(_trials(RATES_N, 0), _trials(other_N, 1))


def test_neurons_that_change_their_rates_raise_no_doubt():
    for seed in range(1, 20):
        gain_N = np.random.default_rng(seed).lognormal(0.0, 0.5, 30)
        assert _said(_trials(RATES_N, 0), _trials(RATES_N * gain_N, seed)) is None


def test_neurons_that_fire_alike_few_neurons_and_few_spikes_tell_nothing():
    alike_N = np.full(30, 0.3)
    assert _said(_trials(alike_N, 0), _trials(alike_N, 1)) is None
    few_N = RATES_N[:7]
    assert _said(_trials(few_N, 0), _trials(few_N[::-1], 1)) is None
    rare_N = RATES_N / 1000
    assert _said(_trials(rare_N, 0), _trials(rare_N[::-1], 1)) is None


def test_neurons_that_the_model_never_sees_are_not_asked():
    held_out = replace(_trials(RATES_N, 0), n_heldout=20)
    other_N = np.concatenate([RATES_N[:10], RATES_N[:9:-1]])
    assert _said(held_out, replace(_trials(other_N, 1), n_heldout=20)) is None


def test_a_run_of_an_older_version_is_not_judged():
    facts = SplitFacts.of(_trials(RATES_N, 0)).model_copy(
        update={"spikes_N": [], "n_observed_bins": 0}
    )
    assert unlike_neurons(facts, _trials(RATES_N[::-1], 1)) is None
