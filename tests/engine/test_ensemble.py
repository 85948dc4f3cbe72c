"""An ensemble infers the mean of its members' rates, and needs nothing but its own folder."""

import json
import shutil

import numpy as np
import pytest
from builders import changed, recording, run_files, tiny_settings

from ndt_cli.engine.ensembles import Ensemble, save_ensemble
from ndt_cli.engine.inference import hiding_folds, load_trained, run_scores
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import train
from ndt_cli.errors import CheckpointError, DataError, ExistingFileError, RunError, SettingsError
from ndt_cli.evaluation import evaluate
from ndt_cli.search.folder import SweepFolder, choose_members
from ndt_cli.search.loop import sweep
from ndt_cli.search.space import Space

SETTINGS = tiny_settings(train={"learning_rate": 0.02, "max_epochs": 4})


@pytest.fixture(scope="module")
def spikes():
    return recording(12, 6, rates=True, n_bins=8)


@pytest.fixture(scope="module")
def runs(spikes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(changed(SETTINGS, "train", seed=seed), out=folder / str(seed), recording=spikes).run
        for seed in range(3)
    ]


@pytest.fixture
def ensemble(runs, tmp_path):
    return save_ensemble(runs, tmp_path / "ensemble")


@pytest.fixture(scope="module")
def swept(spikes, tmp_path_factory):
    space = Space.from_tables("test", {"train": {"learning_rate": {"log-uniform": [1e-4, 0.05]}}})
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    sweep(SETTINGS, space, n_members=5, out=out, recording=spikes)
    return out


# Rates


def test_its_rates_are_the_mean_of_the_members_rates(ensemble, runs, spikes):
    together = load_trained(ensemble)
    assert isinstance(together, Ensemble)
    folds_BTN = hiding_folds(spikes.valid, SETTINGS)
    members = [load_trained(run) for run in runs]
    seen = [member.rates(spikes.valid) for member in members]
    assert not np.allclose(seen[0], seen[1])
    np.testing.assert_allclose(together.rates(spikes.valid), np.mean(seen, axis=0), rtol=1e-6)
    hidden = [member.rates_while_hidden(spikes.valid, folds_BTN) for member in members]
    np.testing.assert_allclose(
        together.rates_while_hidden(spikes.valid, folds_BTN), np.mean(hidden, axis=0), rtol=1e-6
    )


def test_its_activations_are_the_members_side_by_side(ensemble, runs, spikes):
    side_by_side = load_trained(ensemble).activations(spikes.valid)
    assert side_by_side.shape == (6, 8, 3 * 16)
    np.testing.assert_array_equal(
        side_by_side[:, :, 16:32], load_trained(runs[1]).activations(spikes.valid)
    )


def test_an_ensemble_of_one_is_that_run(runs, spikes, tmp_path):
    alone = save_ensemble(runs[:1], tmp_path / "ensemble")
    np.testing.assert_array_equal(
        load_trained(alone).rates(spikes.valid), load_trained(runs[0]).rates(spikes.valid)
    )


def test_it_is_evaluated_as_a_run_is_without_the_runs_it_was_made_of(runs, spikes, tmp_path):
    copies = [shutil.copytree(run, tmp_path / "runs" / run.name) for run in runs]
    ensemble = save_ensemble(copies, tmp_path / "ensemble")
    before = load_trained(ensemble).rates(spikes.valid)
    shutil.rmtree(tmp_path / "runs")
    moved = ensemble.rename(tmp_path / "elsewhere")
    evaluation = evaluate(moved, recording=spikes)
    np.testing.assert_array_equal(evaluation.rates_BTN, before)
    assert evaluation.run == str(moved)
    assert evaluation.checkpoint == "best-masked-loss"


def test_trials_of_another_kind_are_refused_in_its_own_name(ensemble):
    trained = load_trained(ensemble)
    with pytest.raises(DataError, match="4 neurons") as caught:
        trained.check_fits(recording(n_bins=8, n_neurons=4).valid, "other.h5")
    assert f"{ensemble} was trained" in caught.value.message


# The folder


def test_an_ensemble_holds_its_weights_and_their_sources(ensemble, runs):
    member = ["checkpoints/best-masked-loss.safetensors", "run.json", "settings.toml"]
    expected = ["ensemble.json", "run.json", "settings.toml"]
    expected += [f"members/00{i}/{name}" for i in range(3) for name in member]
    assert run_files(ensemble) == sorted(expected)
    about = json.loads((ensemble / "ensemble.json").read_text())
    assert [row["from"] for row in about["members"]] == [str(run) for run in runs]


def test_it_appears_whole_or_not_at_all(runs, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ndt_cli.engine.ensembles.RunFolder.write_settings", full)
    with pytest.raises(OSError, match="No space"):
        save_ensemble(runs, tmp_path / "ensemble")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(ensemble, runs):
    before = run_files(ensemble)
    with pytest.raises(ExistingFileError):
        save_ensemble(runs[:1], ensemble)
    assert run_files(ensemble) == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "of its train trials, counts differ"),
        ({"bin_ms": 5.0}, "bin_ms is 5.0, not 10.0"),
        ({"n_neurons": 4}, "n_neurons is 4, not 3"),
    ],
)
def test_runs_of_other_data_are_refused(runs, tmp_path, fields, said):
    other = recording(12, 6, n_bins=8, mean_count=2.0, **fields)
    run = train(changed(SETTINGS, "train", max_epochs=1), out=tmp_path / "other", recording=other)
    with pytest.raises(RunError, match=said) as caught:
        save_ensemble([runs[0], run.run], tmp_path / "ensemble")
    assert str(run.run) in caught.value.message
    assert not (tmp_path / "ensemble").exists()


def test_repeated_runs_no_runs_and_ensembles_are_refused(ensemble, runs, tmp_path):
    out = tmp_path / "other"
    for given in ([], [runs[0], runs[0]]):
        with pytest.raises(SettingsError, match="each of them once"):
            save_ensemble(given, out)
    with pytest.raises(RunError, match="is an ensemble itself"):
        save_ensemble([ensemble], out)
    with pytest.raises(RunError, match="no such folder"):
        save_ensemble([tmp_path / "none"], out)


def test_a_damaged_ensemble_is_named(ensemble):
    with pytest.raises(CheckpointError, match="best-masked-loss"):
        load_trained(ensemble, "last")
    assert isinstance(load_trained(ensemble, "best-masked-loss"), Ensemble)
    file = ensemble / "ensemble.json"
    about = json.loads(file.read_text())
    for content, said in (({"format": "x"}, "not describe"), ({**about, "version": 9}, "format 9")):
        file.write_text(json.dumps(content))
        with pytest.raises(RunError, match=said):
            load_trained(ensemble)
    file.write_text(json.dumps(about))
    weights = ensemble / "members/001/checkpoints/best-masked-loss.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="001"):
        load_trained(ensemble)


# Members of a sweep


def test_the_number_of_members_is_the_one_that_validates_best(swept, spikes, tmp_path):
    choice = choose_members(swept, recording=spikes)
    results = SweepFolder.open(swept).results()
    assert choice.ranked == [member.folder for member in results.ranked]
    assert len(choice.curve) == 5
    # Each point of the curve is the score of the ensemble that would be saved.
    for n, score in enumerate(choice.curve, start=1):
        saved = save_ensemble(choice.ranked[:n], tmp_path / str(n), settings=SETTINGS)
        assert run_scores(saved, spikes.valid, SETTINGS)["masked-loss"] == pytest.approx(score)
    assert choice.curve[0] == pytest.approx(results.score(results.ranked[0]))
    assert choice.n_members == int(np.argmin(choice.curve)) + 1
    assert choice.runs == choice.ranked[: choice.n_members]


def test_only_the_validation_trials_choose(swept, spikes):
    other = recording(12, 6, rates=True, n_bins=8, mean_count=3.0)
    mixed = type(spikes)(other.train, spikes.valid, "tiny", "synthetic")
    assert choose_members(swept, recording=mixed) == choose_members(swept, recording=spikes)


def test_a_number_that_is_given_is_taken_and_one_too_high_refused(swept):
    choice = choose_members(swept, 3)
    assert (len(choice.runs), choice.curve) == (3, [])
    with pytest.raises(SettingsError, match="5 ranked members"):
        choose_members(swept, 6)


def test_members_that_diverged_or_have_not_ended_are_left_out(swept, tmp_path):
    out = shutil.copytree(swept, tmp_path / "sweep")
    left_out = SweepFolder.open(out).results().ranked[0].folder
    content = json.loads((left_out / "member.json").read_text())
    (left_out / "member.json").write_text(json.dumps({**content, "status": "diverged"}))
    choice = choose_members(out, 4)
    assert left_out not in choice.runs
    with pytest.raises(SettingsError, match="4 ranked members; 1 more"):
        choose_members(out, 5)
    for file in out.glob("members/*/member.json"):
        file.unlink()
    with pytest.raises(RunError, match="no member is ranked"):
        choose_members(out)


def test_it_is_measured_with_the_settings_that_the_sweep_s_members_share(swept, spikes, tmp_path):
    choice = choose_members(swept, 2)
    ensemble = save_ensemble(choice.runs, tmp_path / "ensemble", settings=choice.settings)
    assert load_trained(ensemble).settings == SETTINGS == choice.settings
    assert RunFolder(ensemble).settings() != RunFolder(choice.runs[1]).settings()
