"""Neurons held out of a recording: which, where they go, and how they find back."""

import dataclasses

import numpy as np
import pytest
from builders import recording, tiny_settings, vars_of

from ndt_cli.data.loading import hold_out_neurons, load_file, load_recording
from ndt_cli.data.spike_data import Recording, SpikeData, all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.training import train
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.evaluation import evaluate
from ndt_cli.inferred_rates import Rates
from ndt_cli.rates_file import write_rates
from ndt_cli.settings.tree import DataSettings


@pytest.fixture(scope="module")
def spikes():
    return recording(12, 6, rates=True, n_bins=8, n_neurons=5)


def test_the_named_neurons_become_the_last_columns(spikes):
    held = hold_out_neurons(spikes, DataSettings(heldout_neurons=(3, 1)))
    for before, after in ((spikes.train, held.train), (spikes.valid, held.valid)):
        assert after.n_heldout == 2
        assert after.heldin_ids.tolist() == [0, 2, 4]
        assert after.heldout_ids.tolist() == [1, 3]
        np.testing.assert_array_equal(after.spikes_BTN[:, :, 3:], before.spikes_BTN[:, :, [1, 3]])
        np.testing.assert_array_equal(after.rates_BTN[:, :, :3], before.rates_BTN[:, :, [0, 2, 4]])
    assert held.notes[-1] == "2 of 5 neurons are held out (`data.heldout_neurons`): 1, 3."
    assert all_trials(held).heldout_ids.tolist() == [1, 3]


def test_the_order_of_the_file_is_found_again(spikes):
    held = hold_out_neurons(spikes, DataSettings(heldout_neurons=(0, 3))).valid
    np.testing.assert_array_equal(held.spikes_BTN[:, :, held.file_order_N], spikes.valid.spikes_BTN)
    np.testing.assert_array_equal(held.rates_BTN[:, :, held.file_order_N], spikes.valid.rates_BTN)


def test_a_share_is_drawn_by_its_own_seed():
    spikes = recording(4, 4, n_neurons=40)

    def drawn(**settings):
        held = hold_out_neurons(spikes, DataSettings(**settings)).train
        return tuple(held.heldout_ids.tolist())

    first = drawn(heldout_fraction=0.25)
    assert len(set(first)) == 10
    assert first == drawn(heldout_fraction=0.25, split_seed=5)
    assert first != drawn(heldout_fraction=0.25, heldout_seed=1)


@pytest.mark.parametrize(("fraction", "n_heldout"), [(0.01, 1), (0.4, 2), (0.99, 4)])
def test_some_neurons_are_held_out_and_some_are_kept(spikes, fraction, n_heldout):
    held = hold_out_neurons(spikes, DataSettings(heldout_fraction=fraction))
    assert held.valid.n_heldout == n_heldout


def test_nothing_is_held_out_unless_asked(spikes):
    assert hold_out_neurons(spikes, DataSettings()) is spikes


@pytest.mark.parametrize(
    ("fields", "settings", "error", "cause"),
    [
        ({"n_heldout": 1}, {"heldout_fraction": 0.2}, DataError, "already holds out 1 neurons"),
        ({"n_neurons": 1}, {"heldout_fraction": 0.2}, DataError, "found 1 neuron"),
        ({}, {"heldout_neurons": (1, 3)}, SettingsError, "names neuron 3, .* expected 0 to 2"),
        ({}, {"heldout_neurons": (0, 1, 2)}, SettingsError, "names all 3 neurons"),
    ],
)
def test_what_cannot_be_held_out_is_refused(fields, settings, error, cause):
    with pytest.raises(error, match=cause):
        hold_out_neurons(recording(4, 4, **fields), DataSettings(**settings))


def test_files_and_synthetic_sets_are_loaded_that_way(spikes, tmp_path):
    path = tmp_path / "spikes.npz"
    write_recording(spikes, path)
    held = load_file(path, DataSettings(heldout_neurons=(2,)))
    assert held.train.heldout_ids.tolist() == [2]
    made = load_recording(DataSettings(synthetic="lorenz", heldout_fraction=0.25))
    assert made.train.n_heldout == made.valid.n_heldout == 7


def test_rates_are_written_in_the_order_of_the_file(spikes, tmp_path):
    held = hold_out_neurons(spikes, DataSettings(heldout_neurons=(0, 3)))
    run = train(tiny_settings(), out=tmp_path / "run", recording=held).run
    evaluation = evaluate(run, recording=held)
    assert evaluation.scores["NDT"].heldout.n_scored == 6 * 8 * 2
    activations = load_trained(run).activations(evaluation.data)
    write_rates(tmp_path / "rates.npz", Rates(evaluation.data, evaluation.rates_BTN, activations))
    with np.load(tmp_path / "rates.npz", allow_pickle=False) as file:
        assert file["heldout_neurons"].tolist() == [0, 3]
        np.testing.assert_array_equal(file["rates"][:, :, 1], evaluation.rates_BTN[:, :, 0])
        np.testing.assert_array_equal(file["rates"][:, :, [0, 3]], evaluation.rates_BTN[:, :, 3:])
    content = evaluation.to_json()
    assert content["heldin_neurons"] == [1, 2, 4]
    assert content["heldout_neurons"] == [0, 3]
    assert len(content["scores"]["NDT"]["heldout"]["bits_per_spike_N"]) == 2


def test_the_model_never_sees_what_is_held_out(spikes, tmp_path):
    held = hold_out_neurons(spikes, DataSettings(heldout_neurons=(4,)))
    run = train(tiny_settings(), out=tmp_path / "run", recording=held).run
    counts = held.valid.spikes_BTN.copy()
    counts[:, :, -1] += 5
    other = SpikeData(**{**vars_of(held.valid), "spikes_BTN": counts})
    trained = load_trained(run)
    np.testing.assert_array_equal(trained.rates(other), trained.rates(held.valid))


def test_other_held_out_neurons_than_the_runs_are_refused(spikes, tmp_path):
    held = hold_out_neurons(spikes, DataSettings(heldout_neurons=(4,)))
    run = train(tiny_settings(), out=tmp_path / "run", recording=held).run
    write_recording(spikes, tmp_path / "spikes.npz")
    overrides = ("data.heldout_neurons=[1]", "data.heldout_fraction=0")
    with pytest.raises(DataError, match=r"other neurons are held out|other held-out neurons"):
        evaluate(run, data=tmp_path / "spikes.npz", overrides=overrides, recording=held)
    same = ("data.heldout_neurons=[4]",)
    assert evaluate(
        run, data=tmp_path / "spikes.npz", overrides=same, recording=held
    ).data.heldout_ids.tolist() == [4]


def test_splits_must_hold_the_same_behavior(spikes, tmp_path):
    from ndt_cli.data.spike_data import check_recording

    def with_behavior(data, n_variables):
        shape = (*data.spikes_BTN.shape[:2], n_variables)
        return dataclasses.replace(data, behavior_BTV=np.zeros(shape))

    good = Recording(with_behavior(spikes.train, 2), with_behavior(spikes.valid, 2), "tiny", "ndt")
    check_recording(good)
    with pytest.raises(DataError, match="found 2 and 3 variables"):
        check_recording(dataclasses.replace(good, valid=with_behavior(spikes.valid, 3)))
