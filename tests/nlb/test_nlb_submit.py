"""From NWB files to a checked and scored submission."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("nlb_tools", reason="nlb-tools is not installed: see the README, Installing")
pytest.importorskip("pynwb", reason='pynwb is not installed: pip install "ndt-cli[nlb]"')

from nlb_nwb import write_maze

from ndt_cli.app import app
from ndt_cli.engine.events import EpochDone
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import DataError, ExistingFileError, RunError, SettingsError
from ndt_cli.nlb.catalog import DEFAULT_CONFIG, Interrupted, dataset_settings
from ndt_cli.nlb.submission import read_groups
from ndt_cli.nlb.submit import submit
from ndt_cli.nlb.tensors import make_tensors, scored_inputs, to_recording
from ndt_cli.settings.load import load_settings

FAST = (
    "model.n_layers=1", "model.feedforward_size=8", "model.full_context=true",
    "train.max_epochs=4", "train.warmup_epochs=1", "train.val_interval_epochs=1",
    "train.batch_size=4", "train.n_threads=1", "train.device=cpu", "train.precision=float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("nlb")
    write_maze(root, n_train=12, n_val=8, n_test=5)
    return root


def make(data_dir, out, **options):
    return submit(
        ["mc_maze_small"], out=out, data_dir=data_dir, bin_ms=20, overrides=FAST, **options
    )


@pytest.fixture(scope="module")
def two_members(data_dir, tmp_path_factory):
    return make(data_dir, tmp_path_factory.mktemp("runs") / "two", members=2)


def test_a_validation_submission_is_written_checked_and_scored(two_members):
    assert not [finding for finding in two_members.findings if finding.severity == "error"]
    (made,) = two_members.datasets
    assert made.key == "mc_maze_small_20"
    assert list(made.scores) == ["NDT", "spike smoothing", "mean rate"]
    assert {"co-bps", "vel R2", "psth R2", "fp-bps"} == set(made.scores["NDT"])
    written = read_groups(two_members.file)[made.key]
    assert written["eval_rates_heldout"].shape == (8, 35, 2)
    assert written["eval_rates_heldin_forward"].shape == (8, 10, 4)
    assert written["train_rates_heldin"].shape == (12, 35, 4)
    saved = json.loads((two_members.file.parent / "scores.json").read_text())
    assert saved["datasets"][made.key]["scored_on"] == "validation split"


def test_members_differ_by_seed_and_their_rates_are_averaged(two_members, data_dir):
    (made,) = two_members.datasets
    trials = scored_inputs(make_tensors("mc_maze_small", 20, "val", data_dir))
    each = [load_trained(run).rates(trials)[:, :35, 4:] for run in made.runs]
    assert not np.array_equal(*each)
    np.testing.assert_allclose(made.rates["eval_rates_heldout"], np.mean(each, axis=0), rtol=1e-6)
    seeds = [RunFolder.open(run).settings().train.seed for run in made.runs]
    assert seeds == [0, 1]


def test_weights_are_chosen_by_co_bps_by_default(two_members):
    settings = RunFolder.open(two_members.datasets[0].runs[0]).settings()
    assert settings.train.choose_by == "co-bps"
    assert dataset_settings(
        "mc_maze", 5, None, ["train.choose_by=masked-loss"]
    ).train.choose_by == ("masked-loss")


def test_a_submission_that_was_stopped_continues_to_the_same_one(two_members, data_dir, tmp_path):
    done, out = [], tmp_path / "out"

    def watch(event):
        done.extend([event] if isinstance(event, EpochDone) else [])

    def in_the_second_run():
        return len(done) >= 6

    with pytest.raises(Interrupted):
        make(data_dir, out, members=2, watch=watch, should_stop=in_the_second_run)
    with pytest.raises(SettingsError, match=r"val-0 was begun with other settings: train\.max_ep"):
        submit(
            ["mc_maze_small"], out=out, data_dir=data_dir, bin_ms=20, members=2,
            overrides=[*FAST, "train.max_epochs=5"],
        )  # fmt: skip
    again = make(data_dir, out, members=2, watch=watch)
    assert len([event for event in done if event.record["epoch"] == 1]) == 2
    for key, rates_BTN in two_members.datasets[0].rates.items():
        np.testing.assert_array_equal(again.datasets[0].rates[key], rates_BTN)
    with pytest.raises(ExistingFileError):
        make(data_dir, out, members=2)


def test_a_model_of_the_test_phase_that_trained_for_longer_is_refused(
    data_dir, tmp_path, monkeypatch
):
    chosen = "ndt_cli.nlb.submit._chosen_epochs"
    monkeypatch.setattr(chosen, lambda run: 3)
    make(data_dir, tmp_path / "out", phase="test")
    for name in ("submission.h5", "scores.json"):
        (tmp_path / "out" / name).unlink()
    monkeypatch.setattr(chosen, lambda run: 2)
    with pytest.raises(RunError, match="has trained for 3 epochs; expected 2"):
        make(data_dir, tmp_path / "out", phase="test")


def test_a_run_of_a_submission_can_be_evaluated_and_used_again(two_members, data_dir, tmp_path):
    run = two_members.datasets[0].runs[1]
    result = CliRunner().invoke(app, ["evaluate", str(run), "--json"])
    assert result.exit_code == 0, result.output
    again = make(data_dir, tmp_path / "again", runs=[run])
    trials = scored_inputs(make_tensors("mc_maze_small", 20, "val", data_dir))
    alone = load_trained(run).rates(trials)[:, :35, 4:]
    np.testing.assert_allclose(again.datasets[0].rates["eval_rates_heldout"], alone, rtol=1e-6)


def test_the_test_phase_trains_on_both_splits_for_as_long_as_validation_chose(data_dir, tmp_path):
    result = make(data_dir, tmp_path / "test", phase="test")
    (made,) = result.datasets
    assert made.scores == {}  # no labels, no score
    assert made.rates["train_rates_heldin"].shape[0] == 20
    assert made.rates["eval_rates_heldout"].shape == (5, 35, 2)
    folder = RunFolder.open(made.runs[0])
    assert folder.read_json("run.json")["data"]["train"]["n_trials"] == 20
    assert [record["epoch"] for record in folder.read_metrics()][-1] == made.epochs[0]
    np.testing.assert_allclose(
        made.rates["eval_rates_heldout"],
        load_trained(made.runs[0], "last").rates(
            scored_inputs(make_tensors("mc_maze_small", 20, "test", data_dir))
        )[:, :35, 4:],
        rtol=1e-6,
    )


def test_any_runs_are_averaged_and_their_own_settings_retrain_them(data_dir, tmp_path):
    # Members of a search differ in more than their seed.
    first = make(data_dir, tmp_path / "first").datasets[0].runs
    other = submit(
        ["mc_maze_small"],
        out=tmp_path / "other",
        data_dir=data_dir,
        bin_ms=20,
        overrides=(*FAST, "model.feedforward_size=12", "train.seed=5"),
    )
    runs = [*first, *other.datasets[0].runs]
    together = make(data_dir, tmp_path / "together", runs=runs).datasets[0]
    trials = scored_inputs(make_tensors("mc_maze_small", 20, "val", data_dir))
    each = [load_trained(run).rates(trials)[:, :35, 4:] for run in runs]
    np.testing.assert_allclose(
        together.rates["eval_rates_heldout"], np.mean(each, axis=0), rtol=1e-6
    )
    assert together.runs == runs

    retrained = make(data_dir, tmp_path / "test", runs=runs, phase="test").datasets[0].runs
    for before, after in zip(runs, retrained, strict=True):
        old, new = (RunFolder.open(run).settings() for run in (before, after))
        assert new.model == old.model
        assert new.train == old.train
        assert after.is_relative_to(tmp_path / "test")


def test_given_runs_are_of_one_data_set_and_train_no_others(data_dir, tmp_path):
    for names, options, words in (
        (["mc_maze_small"], {"members": 2}, "`runs` gives trained models"),
        (["mc_maze_small", "mc_rtt"], {}, "found 2: mc_maze_small, mc_rtt"),
        (["mc_maze", "mc_maze"], {}, "named twice"),
    ):
        with pytest.raises(SettingsError, match=words):
            submit(names, out=tmp_path / "x", data_dir=data_dir, runs=[tmp_path], **options)


# ------------------------------------------------------------------ settings and messages
def test_without_a_config_the_one_that_measured_best_is_taken_and_the_paper_s_on_request():
    found = dataset_settings("mc_maze", 5, None, ())
    assert found == load_settings(DEFAULT_CONFIG, ["train.choose_by=co-bps"])
    assert dataset_settings("mc_maze", 5, "mc_maze", ()).train.max_epochs > 50_000
    shown = CliRunner().invoke(app, ["nlb-submit", "--help"]).output
    assert f"[default: ({DEFAULT_CONFIG})]" in shown


def test_a_stop_asked_for_while_scoring_ends_after_that_step_and_keeps_the_runs(data_dir, tmp_path):
    scoring = []

    def note(what, done, total):
        scoring.extend([what] if "scoring" in what else [])

    with pytest.raises(Interrupted):
        make(data_dir, tmp_path / "out", progress=note, should_stop=lambda: bool(scoring))
    assert scoring
    assert not (tmp_path / "out" / "submission.h5").exists()
    run = tmp_path / "out" / "mc_maze_small_20" / "val-0"
    assert len(RunFolder.open(run).read_metrics()) == 4


def test_a_context_window_is_as_long_in_time_at_20_ms():
    at_5, at_20 = (dataset_settings("mc_maze", bin_ms, None, ()) for bin_ms in (5, 20))
    assert at_20.model.context_back * 20 == pytest.approx(at_5.model.context_back * 5, abs=10)
    own = dataset_settings("mc_maze", 20, None, ["model.context_back=3"])
    assert own.model.context_back == 3


def test_nothing_is_overwritten_and_wrong_names_are_refused_before_any_work(data_dir, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ExistingFileError):
        submit(["mc_maze_small"], out=tmp_path, data_dir=data_dir)
    with pytest.raises(SettingsError, match="mc_maze_small"):
        submit(["mc_maze_smal"], out=tmp_path / "x", data_dir=data_dir)
    with pytest.raises(DataError, match=r"mc_rtt|000129"):
        submit(["mc_rtt"], out=tmp_path / "x", data_dir=data_dir)
    assert not (tmp_path / "x").exists()


def test_the_command_prints_scores_and_the_file(data_dir, tmp_path):
    changes = [word for change in FAST for word in ("--set", change)]
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app,
        ["nlb-submit", "mc_maze_small", "--data-dir", str(data_dir), "--bin-ms", "20",
         "--out", str(out), *changes],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for words in ("co-bps", "spike smoothing", "mean rate", "validation split"):
        assert words in result.stdout
    assert re.search(r"mc_maze_small_20: scoring NDT  \d+\.\d s\n", result.stderr)
    checked = CliRunner().invoke(app, ["nlb-check", str(out / "submission.h5")])
    assert checked.exit_code == 0, checked.output


def test_every_run_that_the_command_is_given_is_averaged(two_members, data_dir, tmp_path):
    (made,), out = two_members.datasets, tmp_path / "out"
    runs = [word for run in made.runs for word in ("--run", str(run))]
    result = CliRunner().invoke(
        app,
        ["nlb-submit", "mc_maze_small", "--data-dir", str(data_dir), "--bin-ms", "20",
         "--out", str(out), *runs],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    again = read_groups(out / "submission.h5")[made.key]
    rates = made.rates["eval_rates_heldout"]
    np.testing.assert_allclose(again["eval_rates_heldout"], rates, rtol=1e-6)


def test_labels_are_for_the_test_phase(data_dir, tmp_path):
    result = CliRunner().invoke(
        app, ["nlb-submit", "mc_maze_small", "--labels", str(tmp_path / "labels.h5")]
    )
    assert result.exit_code == 2
    assert "--phase test" in result.stderr


def test_the_engine_scores_co_bps_as_the_benchmark_does(two_members, data_dir):
    # Validation's own measure and nlb_tools' are the same number.
    run = two_members.datasets[0].runs[0]
    best = max(record["valid_co_bps"] for record in RunFolder.open(run).read_metrics())
    from ndt_cli.metrics import bits_per_spike

    valid = to_recording(make_tensors("mc_maze_small", 20, "val", data_dir)).valid
    rates = load_trained(run).rates(valid)[:, :35, 4:]
    assert bits_per_spike(rates, valid.spikes_BTN[:, :35, 4:]).bits_per_spike == (
        pytest.approx(best, abs=1e-6)
    )


def test_rates_are_finite_and_positive(two_members):
    for array in two_members.datasets[0].rates.values():
        assert np.isfinite(array).all()
        assert (array >= 0).all()
