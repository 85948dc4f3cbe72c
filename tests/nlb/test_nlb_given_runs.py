"""Submissions of models that are trained already: a sweep's best, an ensemble, a run."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("nlb_tools", reason="nlb-tools is not installed: see the README, Installing")
pytest.importorskip("pynwb", reason='pynwb is not installed: pip install "ndt-cli[nlb]"')

from builders import recording, tiny_settings
from nlb_nwb import write_maze

from ndt_cli.app import app
from ndt_cli.data.loading import load_file
from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import train
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.nlb.submit import submit
from ndt_cli.nlb.tensors import make_tensors, scored_inputs, write_spike_file
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.loop import sweep
from ndt_cli.search.space import Space
from ndt_cli.settings.tree import DataSettings

SETTINGS = tiny_settings(
    train={"max_epochs": 4, "choose_by": "co-bps", "learning_rate": 0.02},
    model={"full_context": True},
)
SPACE = Space.from_tables("test", {"train": {"learning_rate": {"log-uniform": [1e-4, 0.05]}}})


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("nlb")
    write_maze(root, n_train=12, n_val=8, n_test=5)
    return root


@pytest.fixture(scope="module")
def trials(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("trials") / "spikes.h5"
    write_spike_file("mc_maze_small", 20, data_dir, path)
    return load_file(path, DataSettings())


@pytest.fixture(scope="module")
def swept(trials, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    sweep(SETTINGS, SPACE, n_members=4, out=out, recording=trials)
    return out


def make(data_dir, out, name="mc_maze_small", bin_ms=20, **options):
    return submit([name], out=out, data_dir=data_dir, bin_ms=bin_ms, **options)


def ranked(swept):
    return [member.folder for member in SweepFolder.open(swept).results().ranked]


def mean_heldout_rates(runs, data_dir, checkpoint=None, phase="val"):
    inputs = scored_inputs(make_tensors("mc_maze_small", 20, phase, data_dir))
    each = [load_trained(run, checkpoint).rates(inputs)[:, :35, 4:] for run in runs]
    return np.mean(each, axis=0)


# ------------------------------------------------------------------ which models
def test_the_best_members_of_a_sweep_are_averaged(swept, data_dir, tmp_path):
    (made,) = make(data_dir, tmp_path / "out", sweep=swept, members=2).datasets
    assert made.runs == ranked(swept)[:2]
    np.testing.assert_allclose(
        made.rates["eval_rates_heldout"], mean_heldout_rates(made.runs, data_dir), rtol=1e-6
    )
    assert (made.choice.n_members, len(made.choice.ranked), made.choice.curve) == (2, 4, [])
    assert not list((tmp_path / "out").rglob("run.json"))  # none was trained


def test_as_many_members_are_taken_as_the_benchmark_scores_best_together(swept, data_dir, tmp_path):
    (made,) = make(data_dir, tmp_path / "out", sweep=swept).datasets
    one = make(data_dir, tmp_path / "one", sweep=swept, members=1).datasets[0]
    curve = made.choice.curve
    assert len(curve) == 4
    assert len(made.runs) == int(np.argmax(curve)) + 1
    # What chooses is the benchmark's own score.
    assert curve[0] == pytest.approx(one.scores["NDT"]["co-bps"], abs=1e-6)
    assert max(curve) == pytest.approx(made.scores["NDT"]["co-bps"], abs=1e-6)
    saved = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert saved["datasets"]["mc_maze_small_20"]["sweep"] == {
        "folder": str(swept),
        "choose_by": "co-bps",
        "n_ranked": 4,
        "number_chosen": "on validation",
        "validation_curve": made.choice.curve,
    }


def test_the_sweep_s_data_file_need_not_be_there_any_more(data_dir, tmp_path):
    path = tmp_path / "spikes.h5"
    write_spike_file("mc_maze_small", 20, data_dir, path)
    from_file = SETTINGS.model_copy(update={"data": DataSettings(file=path)})
    sweep(from_file, SPACE, n_members=2, out=tmp_path / "sweep")
    path.unlink()
    (made,) = make(data_dir, tmp_path / "out", sweep=tmp_path / "sweep").datasets
    assert set(made.runs) <= set(ranked(tmp_path / "sweep"))


def test_the_test_phase_retrains_each_member_with_its_own_settings(swept, data_dir, tmp_path):
    (made,) = make(data_dir, tmp_path / "out", sweep=swept, members=2, phase="test").datasets
    chosen = ranked(swept)[:2]
    for before, after, epochs in zip(chosen, made.runs, made.epochs, strict=True):
        old, new = (RunFolder.open(run).settings().train for run in (before, after))
        assert new == old
        assert len(RunFolder.open(after).read_metrics()) == epochs
        assert RunFolder.open(after).read_json("run.json")["data"]["train"]["n_trials"] == 20
    np.testing.assert_allclose(
        made.rates["eval_rates_heldout"],
        mean_heldout_rates(made.runs, data_dir, "last", "test"),
        rtol=1e-6,
    )


def test_an_ensemble_is_submitted_by_its_members_without_the_runs(swept, data_dir, tmp_path):
    copies = [shutil.copytree(run, tmp_path / run.name) for run in ranked(swept)[:2]]
    ensemble = save_ensemble(copies, tmp_path / "ensemble")
    for run in copies:
        shutil.rmtree(run)
    (made,) = make(data_dir, tmp_path / "out", runs=[ensemble]).datasets
    assert len(made.runs) == 2
    inputs = scored_inputs(make_tensors("mc_maze_small", 20, "val", data_dir))
    together = load_trained(ensemble).rates(inputs)[:, :35, 4:]
    np.testing.assert_allclose(made.rates["eval_rates_heldout"], together, rtol=1e-6)
    (retrained,) = make(data_dir, tmp_path / "test", runs=[ensemble], phase="test").datasets
    assert len(retrained.runs) == 2
    assert all(run.is_relative_to(tmp_path / "test") for run in retrained.runs)


# ------------------------------------------------------------------ which trials
def test_models_of_other_trials_are_refused(swept, trials, data_dir, tmp_path):
    other_counts = recording(
        trials.train.n_trials, trials.valid.n_trials, n_bins=45, n_neurons=6,
        bin_ms=20.0, n_heldout=2, n_forward=10,
    )  # fmt: skip
    both_splits = type(trials)(trials.valid, trials.train, "swapped", "ndt")
    for number, other in enumerate((other_counts, both_splits)):
        run = train(SETTINGS, out=tmp_path / f"run-{number}", recording=other).run
        with pytest.raises(RunError, match="train trials are not those") as caught:
            make(data_dir, tmp_path / "out", runs=[run])
        assert str(run) in caught.value.message
        hint = "`write_spike_file('mc_maze_small', bin_ms=20, spikes="
        assert hint in (caught.value.hint or "")
    with pytest.raises(RunError, match=r"bin_ms is 5\.0, was 20\.0"):
        make(data_dir, tmp_path / "out", bin_ms=5, sweep=swept)
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_seen_the_scored_trials_is_refused(swept, data_dir, tmp_path):
    # Those of the test phase are trained on the validation trials.
    tested = make(data_dir, tmp_path / "test", sweep=swept, members=1, phase="test")
    with pytest.raises(RunError, match="n_trials is 12, was 20"):
        make(data_dir, tmp_path / "out", runs=tested.datasets[0].runs)


def test_a_damaged_member_is_named_with_its_own_hint(swept, data_dir, tmp_path):
    broken = shutil.copytree(swept, tmp_path / "sweep")
    file = ranked(broken)[0] / "run.json"
    file.write_text('{"data": {}}')
    with pytest.raises(RunError, match=r"run\.json: data\.train: field required") as caught:
        make(data_dir, tmp_path / "out", sweep=broken)
    assert "write_spike_file" not in (caught.value.hint or "")


# ------------------------------------------------------------------ what does not go together
def test_a_folder_without_a_sweep_or_with_too_few_members_is_refused(swept, data_dir, tmp_path):
    with pytest.raises(RunError, match="is not a sweep"):
        make(tmp_path / "no-nwb-files", tmp_path / "out", sweep=tmp_path)
    with pytest.raises(SettingsError, match="4 ranked members"):
        make(data_dir, tmp_path / "out", sweep=swept, members=5)


def test_models_come_from_one_source_and_are_of_one_dataset(swept, data_dir, tmp_path):
    with pytest.raises(SettingsError, match="both give"):
        make(data_dir, tmp_path / "out", sweep=swept, runs=ranked(swept))
    names = ["mc_maze_small", "mc_rtt"]
    with pytest.raises(SettingsError, match="`sweep` gives models of one dataset; found 2"):
        submit(names, out=tmp_path / "out", data_dir=data_dir, sweep=swept)


@pytest.mark.parametrize("change", [("--config", "nlb-quick"), ("--set", "train.max_epochs=3")])
def test_settings_are_those_of_the_models(swept, data_dir, tmp_path, change):
    refused = CliRunner().invoke(
        app, ["nlb-submit", "mc_maze_small", "--sweep", str(swept), "--data-dir", str(data_dir),
              "--out", str(tmp_path / "out"), *change],
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "--config and --set" in refused.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("phase", "flattered"), [("val", True), ("test", False)])
def test_the_command_reports_which_members_were_chosen_on_which_trials(
    swept, data_dir, tmp_path, phase, flattered
):
    made = CliRunner().invoke(
        app, ["nlb-submit", "mc_maze_small", "--sweep", str(swept), "--data-dir", str(data_dir),
              "--bin-ms", "20", "--out", str(tmp_path / "out"), "--phase", phase],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert f"of 4 ranked members of {swept} by co-bps" in made.stdout
    assert "the number that validates best" in made.stdout
    assert ("chosen on the same trials" in made.stdout) is flattered
