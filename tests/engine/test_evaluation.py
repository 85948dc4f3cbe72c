"""Scores of a run, next to those of its references, and rates as a file."""

import dataclasses
import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
from builders import changed, recording, spike_data, tiny_settings, vars_of, with_spikes

from ndt_cli.baselines import Smoother
from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.spike_data import Recording, SpikeData, all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.engine.batches import stream_seed
from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.engine.training import train
from ndt_cli.errors import (
    CheckpointError,
    DataError,
    ExistingFileError,
    RunError,
    SettingsError,
)
from ndt_cli.evaluation import evaluate
from ndt_cli.fitting import fit
from ndt_cli.inferred_rates import Rates, infer_rates
from ndt_cli.model.masking import draw_passes
from ndt_cli.rates_file import write_rates
from ndt_cli.settings.tree import InferenceSettings


@pytest.fixture(scope="module")
def spikes():
    return recording(12, 6, rates=True, n_bins=8)


@pytest.fixture(scope="module")
def run(spikes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(tiny_settings(), out=out, recording=spikes).run


def test_the_references_are_scored_like_the_model(run, spikes):
    evaluation = evaluate(run, recording=spikes)
    assert list(evaluation.scores) == ["NDT", "smoothed spikes", "mean rate", "true rates"]
    truth = evaluation.scores["true rates"]
    assert truth.rates.r2_mean == 1
    assert truth.rates.explained_variance_pooled == 1
    # A constant near the mean explains nothing of the truth.
    assert evaluation.scores["mean rate"].rates.explained_variance_mean == pytest.approx(0)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"overrides": ["data.bin_ms=20"]}, "`overrides` can only change how another file is read"),
        (
            {"overrides": ["model.n_layers=3"], "data": "spikes.npz"},
            "`model.n_layers=3`: the run was trained with its own settings",
        ),
        ({"split": "test"}, "`split='test'`: expected one of train, valid, all"),
        ({"lags_ms": [0, float("nan")]}, r"`lags_ms=\[nan\]`: expected a time in ms"),
        ({"lags_ms": [1e300]}, r"`lags_ms=\[1e\+300\]`: expected a time in ms"),
    ],
)
def test_an_argument_that_is_not_usable_is_refused_before_anything_is_read(arguments, cause):
    with pytest.raises(SettingsError, match=cause):
        evaluate("no-such-run", **arguments)
    if "lags_ms" not in arguments and "split" not in arguments:
        with pytest.raises(SettingsError, match=cause):
            infer_rates("no-such-run", **arguments)


def test_a_run_is_not_evaluated_on_the_rebuilt_file_that_it_was_trained_on(spikes, tmp_path):
    file = tmp_path / "spikes.npz"
    write_recording(spikes, file)
    run = train(changed(tiny_settings(), "data", file=file), out=tmp_path / "run").run
    assert evaluate(run).split == "valid"
    write_recording(Recording(spikes.valid, spikes.train, "", "ndt"), file, overwrite=True)
    with pytest.raises(RunError, match="trials are not those that"):
        evaluate(run)
    assert evaluate(run, data=file).split == "all"


@pytest.mark.filterwarnings("ignore::ndt_cli.errors.RunWarning")
def test_without_true_rates_there_is_no_r2(run, spikes):
    blind = Recording(
        dataclasses.replace(spikes.train, rates_BTN=None),
        dataclasses.replace(spikes.valid, rates_BTN=None),
        "tiny",
        "synthetic",
    )
    scores = evaluate(run, recording=blind, accept_changes=True).scores
    assert "true rates" not in scores
    assert scores["NDT"].rates is None


def test_each_split_is_scored_on_its_own_trials(run, spikes):
    sizes = {
        split: evaluate(run, split=split, recording=spikes).data.n_trials
        for split in ("train", "valid", "all")
    }
    assert sizes == {"train": 12, "valid": 6, "all": 18}


def test_scores_of_training_trials_say_so(run, spikes):
    assert evaluate(run, recording=spikes).warnings == ()
    for split in ("train", "all"):
        (warning,) = evaluate(run, split=split, recording=spikes).warnings
        which = {"train": "these 12", "all": "12 of these 18"}[split]
        assert warning.startswith(f"The model was trained on {which} trials")


def test_all_trials_come_in_the_order_of_the_file():
    ids = np.array([4, 0, 2]), np.array([3, 1])
    splits = [spike_data(len(i), trial_ids_B=i, seed=k) for k, i in enumerate(ids)]
    joined = all_trials(Recording(*splits, "tiny", "synthetic"))
    assert joined.trial_ids_B.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(joined.spikes_BTN[3], splits[1].spikes_BTN[0])


@pytest.mark.parametrize("mode", ["timestep", "timestep-only", "full", "neuron"])
def test_every_entry_is_hidden_once_and_then_cannot_be_seen(spikes, tmp_path, mode):
    settings = changed(tiny_settings(train={"max_epochs": 1}), "mask", mode=mode)
    run = train(settings, out=tmp_path / "run", recording=spikes).run
    trained = load_trained(run)
    data = spikes.valid
    folds_BTN = hiding_folds(data, settings)
    shape = data.spikes_BTN.shape
    _, sizes = np.unique(np.broadcast_to(folds_BTN, shape), return_counts=True)
    assert len(sizes) == (4 if mode != "neuron" else 3)  # a quarter each; there are 3 neurons

    rates_BTN = trained.rates_while_hidden(data, folds_BTN)
    changed_counts = data.spikes_BTN.copy()
    changed_counts[0, 3, 1] += 3
    again_BTN = trained.rates_while_hidden(with_spikes(data, changed_counts), folds_BTN)
    # What is hidden together with the changed count must not move: at least its own entry.
    every_fold = np.broadcast_to(folds_BTN, shape)
    same_fold = every_fold[0] == every_fold[0, 3, 1]
    np.testing.assert_array_equal(rates_BTN[0][same_fold], again_BTN[0][same_fold])
    seen = trained.rates(with_spikes(data, changed_counts))
    assert not np.array_equal(seen[0], trained.rates(data)[0])


def test_a_file_of_the_same_neurons_can_be_evaluated(run, spikes, tmp_path):
    path = tmp_path / "other.h5"
    other = replace(spikes, train=spikes.valid, valid=spikes.train)
    write_recording(other, path)
    assert evaluate(run, data=path, recording=spikes).data.n_trials == 18
    assert evaluate(run, data=path, split="valid", recording=spikes).data.n_trials == 12


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"n_neurons": 4}, "4 neurons"),
        ({"bin_ms": 5.0}, "5 ms as bin width"),
        ({"n_bins": 9}, "9 bins"),
        ({"n_heldout": 1}, "1 held-out neurons"),
    ],
)
def test_trials_of_another_kind_are_refused(run, spikes, tmp_path, fields, cause):
    other = recording(4, 4, **{"n_bins": 8, **fields})
    path = tmp_path / "other.npz"
    write_recording(other, path)
    with pytest.raises(DataError, match=cause):
        evaluate(run, data=path, recording=spikes)


def test_shorter_trials_are_fine(run, spikes, tmp_path):
    path = tmp_path / "short.npz"
    write_recording(recording(4, 4, n_bins=5), path)
    assert evaluate(run, data=path, recording=spikes).rates_BTN.shape == (8, 5, 3)


def test_heldout_neurons_and_forward_bins_are_scored_unseen(tmp_path):
    spikes = recording(12, 6, n_bins=8, n_neurons=4, n_heldout=1, n_forward=2)
    run = train(tiny_settings(), out=tmp_path / "run", recording=spikes).run
    evaluation = evaluate(run, recording=spikes)
    scores = evaluation.scores["NDT"]
    assert scores.heldout.n_scored == 6 * 6 * 1
    assert scores.forward.n_scored == 6 * 2 * 4
    assert scores.hidden.n_scored == 6 * 6 * 3
    flipped = spikes.valid.spikes_BTN.copy()
    flipped[:, :, -1] += 1
    flipped[:, -2:] += 1
    np.testing.assert_array_equal(
        load_trained(run).rates(with_spikes(spikes.valid, flipped)), evaluation.rates_BTN
    )


def test_padding_is_never_scored(tmp_path):
    lengths = {"lengths_B": np.array([8, 3, 5, 8, 2, 8])}
    spikes = Recording(
        spike_data(12, 8, seed=1), spike_data(6, 8, seed=2, **lengths), "tiny", "synthetic"
    )
    run = train(tiny_settings(), out=tmp_path / "run", recording=spikes).run
    evaluation = evaluate(run, recording=spikes)
    assert evaluation.scores["NDT"].seen.n_scored == lengths["lengths_B"].sum() * 3
    assert not evaluation.rates_BTN[~spikes.valid.inside_BT].any()


@pytest.mark.filterwarnings("ignore::ndt_cli.errors.RunWarning")
def test_the_json_has_no_number_that_is_not_finite(run, spikes):
    silent = spikes.valid.spikes_BTN.copy()
    silent[:, :, 0] = 0
    data = SpikeData(**{**vars_of(spikes.valid), "spikes_BTN": silent})
    evaluation = evaluate(
        run, recording=dataclasses.replace(spikes, valid=data), accept_changes=True
    )
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    bits_N = json.loads(text)["scores"]["NDT"]["hidden"]["bits_per_spike_N"]
    assert bits_N[0] is None
    assert all(isinstance(bits, float) for bits in bits_N[1:])


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_rates_are_written_per_bin_and_in_hz(run, spikes, tmp_path, ending):
    evaluation = evaluate(run, recording=spikes)
    activations = load_trained(run).activations(evaluation.data)
    path = tmp_path / f"rates{ending}"
    write_rates(path, Rates(evaluation.data, evaluation.rates_BTN, activations))
    if ending == ".h5":
        with h5py.File(path) as file:
            written = {key: file[key][()] for key in file}
    else:
        with np.load(path, allow_pickle=False) as file:
            written = dict(file)
    np.testing.assert_array_equal(written["rates"], evaluation.rates_BTN)
    np.testing.assert_allclose(written["rates_hz"], evaluation.rates_BTN * 100, rtol=1e-6)
    assert written["activations"].shape == (6, 8, 16)
    assert written["bin_ms"] == 10


def test_rates_replace_an_existing_file_only_when_asked_to(spikes, tmp_path):
    data = spikes.valid
    path = tmp_path / "rates.npz"
    write_rates(path, Rates(data, data.rates_BTN, data.rates_BTN))
    before = path.read_bytes()
    with pytest.raises(ExistingFileError, match=r"rates\.npz already exists"):
        write_rates(path, Rates(data, 2 * data.rates_BTN, data.rates_BTN))
    assert path.read_bytes() == before
    write_rates(path, Rates(data, 2 * data.rates_BTN, data.rates_BTN), overwrite=True)
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["rates"], 2 * data.rates_BTN)


def test_rates_have_a_suffix_that_names_their_format_in_either_case(spikes, tmp_path):
    data = spikes.valid
    with pytest.raises(
        SettingsError, match=r"rates\.txt: found the suffix .txt; expected .h5, .npz"
    ):
        write_rates(tmp_path / "rates.txt", Rates(data, data.rates_BTN, data.rates_BTN))
    write_rates(tmp_path / "new" / "folder" / "A.NPZ", Rates(data, data.rates_BTN, data.rates_BTN))
    with np.load(tmp_path / "new" / "folder" / "A.NPZ", allow_pickle=False) as file:
        assert file["rates"].shape == data.rates_BTN.shape


def test_rates_that_are_not_finite_are_not_written(spikes, tmp_path):
    data = spikes.valid
    diverged_BTN = data.rates_BTN.copy()
    diverged_BTN[3, 2, 1] = np.inf
    with pytest.raises(DataError, match="rates of trial 3 are not finite"):
        write_rates(tmp_path / "rates.h5", Rates(data, diverged_BTN, data.rates_BTN))
    assert list(tmp_path.iterdir()) == []


def test_activations_are_what_the_rates_are_read_from(run, spikes):
    trained = load_trained(run)
    import torch

    with torch.no_grad():
        read = trained.network.readout(torch.from_numpy(trained.activations(spikes.valid)), None)
        rates = trained.network.rates(read).numpy()
    np.testing.assert_allclose(rates, trained.rates(spikes.valid), rtol=1e-5)


def test_a_run_or_checkpoint_that_does_not_exist_is_named(run, spikes, tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        evaluate(tmp_path / "nothing")
    (run / "checkpoints" / "best-rate-r2.safetensors").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate(run, checkpoint="best-rate-r2", recording=spikes)
    with pytest.raises(SettingsError, match="bin_mss"):
        evaluate(run, data="x.h5", overrides=("data.bin_mss=3",), recording=spikes)


@pytest.fixture(scope="module")
def behaving(tmp_path_factory):
    """A run on trials with behavior, conditions and a held-out neuron."""
    recorded = recording(12, 6, rates=True, n_bins=8, n_neurons=4, n_heldout=1)

    def behave(data):
        return dataclasses.replace(
            data,
            behavior_BTV=data.rates_BTN[:, :, :2] + 1.0,
            behavior_names=("hand x", "hand y"),
            conditions_B=np.arange(data.n_trials) % 2,
        )

    spikes = Recording(behave(recorded.train), behave(recorded.valid), "tiny", "synthetic")
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(tiny_settings(), out=out, recording=spikes).run, spikes


def test_validation_trials_are_decoded_by_a_fit_to_training_trials(behaving):
    run, spikes = behaving
    scores = evaluate(run, recording=spikes, lags_ms=[0.0]).scores
    # Behavior is a linear function of the true rates, and of nothing else.
    assert scores["true rates"].behavior.r2_mean > 0.99
    assert scores["NDT"].behavior.r2_mean < 0.5
    for estimate in scores.values():
        assert estimate.behavior.names == ("hand x", "hand y")
        assert estimate.behavior.n_folds == 0
        assert not estimate.psth.split_half
        assert estimate.behavior.n_scored == 6 * 8


@pytest.mark.parametrize("split", ["train", "all"])
def test_other_splits_are_decoded_in_folds(behaving, split):
    run, spikes = behaving
    scores = evaluate(run, split=split, recording=spikes).scores
    assert all(estimate.behavior.n_folds == 5 for estimate in scores.values())
    assert all(estimate.psth.split_half for estimate in scores.values())


@pytest.mark.filterwarnings("ignore::ndt_cli.errors.RunWarning")
def test_smoothing_predicts_held_out_neurons_from_the_others(behaving):
    run, spikes = behaving
    evaluation = evaluate(run, recording=spikes)
    assert evaluation.scores["smoothed spikes"].heldout.n_scored == 6 * 8
    flipped = spikes.valid.spikes_BTN.copy()
    flipped[:, :, -1] += 2
    other = dataclasses.replace(spikes, valid=with_spikes(spikes.valid, flipped))
    np.testing.assert_array_equal(
        evaluate(run, recording=other, accept_changes=True).smoothed_BTN, evaluation.smoothed_BTN
    )


def test_the_json_holds_behavior_and_psth(behaving):
    run, spikes = behaving
    content = json.loads(json.dumps(evaluate(run, recording=spikes).to_json(), allow_nan=False))
    scores = content["scores"]["smoothed spikes"]
    assert scores["behavior"]["names"] == ["hand x", "hand y"]
    assert len(scores["behavior"]["r2_V"]) == len(scores["behavior"]["lag_ms_V"]) == 2
    assert len(scores["psth"]["r2_N"]) == 4
    assert len(scores["hidden"]["bits_per_spike_N"]) == 3
    assert content["heldout_neurons"] == [3]


@pytest.mark.filterwarnings("ignore::ndt_cli.errors.RunWarning")
def test_true_rates_of_one_split_alone_are_no_obstacle(behaving):
    run, spikes = behaving
    blind = dataclasses.replace(spikes, train=dataclasses.replace(spikes.train, rates_BTN=None))
    scores = evaluate(run, recording=blind, accept_changes=True).scores
    assert scores["true rates"].behavior.n_folds == 5
    assert scores["NDT"].behavior.n_folds == 0


def test_without_behavior_and_conditions_there_are_no_such_scores(run, spikes):
    scores = evaluate(run, recording=spikes).scores["NDT"]
    assert (scores.behavior, scores.psth, scores.heldout) == (None, None, None)


def _averaging(run, passes):
    trained = load_trained(run)
    inference = InferenceSettings(passes=passes)
    return replace(trained, settings=trained.settings.model_copy(update={"inference": inference}))


def test_the_mean_of_passes_is_that_of_log_rates_with_bins_hidden(run, spikes):
    trained = _averaging(run, 4)  # a quarter of the bins each
    data = spikes.valid
    seed = stream_seed(trained.settings.train.seed, "inference-passes")
    hidden = draw_passes(data.n_bins, data.n_neurons, "timestep", trained.settings.inference, seed)
    assert (hidden.sum(axis=0) == 1).all()
    log_rates = []
    for hidden_T1 in hidden:
        emptied = np.where(hidden_T1, 0, data.spikes_BTN)
        log_rates.append(np.log(load_trained(run).rates(with_spikes(data, emptied))))
    expected = np.exp(np.mean(log_rates, axis=0))
    np.testing.assert_allclose(trained.rates(data), expected, rtol=1e-4)


def test_averaged_rates_of_a_trial_do_not_depend_on_the_trials_beside_it(run, spikes):
    trained, data = _averaging(run, 5), spikes.valid
    alone = trained.rates(data.take(np.array([2])))
    np.testing.assert_allclose(trained.rates(data)[2], alone[0], rtol=1e-5)
    width = trained.activations(data).shape[2]
    assert width == load_trained(run).activations(data).shape[2]


def test_the_output_says_what_hidden_scores_hide(run, spikes):
    assert evaluate(run, recording=spikes).to_json()["hiding"] == "whole bins hidden, all zeros"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of `fit` with a held-out neuron, its data, and another file of the same neurons."""
    folder = tmp_path_factory.mktemp("finished")
    spikes = recording(12, 6, n_bins=8, n_neurons=4)
    write_recording(spikes, folder / "own.h5")
    write_recording(recording(5, 5, n_bins=8, n_neurons=4, mean_count=2.0), folder / "other.h5")
    settings = changed(
        tiny_settings(train={"max_epochs": 1}),
        "data",
        file=folder / "own.h5",
        heldout_neurons=(3,),
    )
    return fit(settings, out=folder / "run"), folder


def test_smoothing_is_stored_with_the_run_and_scores_the_same(finished):
    done, folder = finished
    again = evaluate(folder / "run")
    assert again.to_json() == done.evaluation.to_json()
    (folder / "run" / "smoothing.safetensors").rename(folder / "stored")
    try:  # fitted again to the training trials
        assert evaluate(folder / "run").to_json()["scores"] == again.to_json()["scores"]
    finally:
        (folder / "stored").rename(folder / "run" / "smoothing.safetensors")


def test_another_file_is_evaluated_without_the_training_trials(finished):
    _, folder = finished
    own, stored = folder / "own.h5", folder / "run" / "smoothing.safetensors"
    expected = evaluate(folder / "run", data=folder / "other.h5").to_json()
    own.rename(folder / "away.h5")
    try:
        assert evaluate(folder / "run", data=folder / "other.h5").to_json() == expected
        stored.rename(folder / "stored")
        with pytest.raises(DataError, match=r"own\.h5"):
            evaluate(folder / "run", data=folder / "other.h5")
        (folder / "stored").rename(stored)
    finally:
        (folder / "away.h5").rename(own)


def test_an_ensemble_keeps_the_smoothing_of_its_runs(finished):
    _, folder = finished
    ensemble = save_ensemble([folder / "run"], folder / "ensemble")
    stored = (folder / "run" / "smoothing.safetensors").read_bytes()
    assert (ensemble / "smoothing.safetensors").read_bytes() == stored


def test_smoothing_of_other_training_trials_is_refused(finished, tmp_path):
    _, folder = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "smoothing.safetensors"
    SmoothingReference.fit(recording(mean_count=2.0).train).save(path)
    with pytest.raises(RunError, match=r"smoothing\.safetensors.* other training trials"):
        evaluate(tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "other neurons", "not finite"])
def test_a_damaged_smoothing_file_is_named(finished, tmp_path, damage):
    _, folder = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / "smoothing.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        n_neurons = 5 if damage == "other neurons" else 4
        mean_N = np.full(n_neurons, np.nan if damage == "not finite" else 1.0)
        SmoothingReference(Smoother(20.0, 1.0, mean_N, 10.0), None).save(path)
    with pytest.raises(RunError, match=r"smoothing\.safetensors"):
        evaluate(tmp_path / "run")
