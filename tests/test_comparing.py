"""Runs side by side: the same scores as evaluation, and intervals by resampling trials."""

import csv
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from builders import changed, recording, tiny_settings
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.comparing import Interval, compare_runs
from ndt_cli.data.loading import load_recording
from ndt_cli.data.write import write_recording
from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import train
from ndt_cli.errors import RunError, RunWarning, SettingsError
from ndt_cli.evaluation import evaluate
from ndt_cli.fitting import fit
from ndt_cli.metrics import bits_per_spike, rate_scores
from ndt_cli.report.curves import trial_curves

SETTINGS = tiny_settings(train={"max_epochs": 1})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two runs on one file, and one on another."""
    folder = tmp_path_factory.mktemp("compared")
    lengths = {"lengths_B": np.array([8, 3, 5, 8, 2, 8])}
    kinds = {"rates": True, "n_bins": 8, "n_neurons": 4}
    spikes = recording(12, 6, **kinds)
    short = recording(6, 6, **kinds, **lengths)
    write_recording(dataclasses.replace(spikes, valid=short.valid), folder / "spikes.h5")
    write_recording(recording(8, 6, n_bins=8, n_neurons=4, mean_count=2.0), folder / "other.h5")
    for name, file, seed in (("a", "spikes", 0), ("b", "spikes", 1), ("c", "other", 0)):
        settings = changed(SETTINGS, "data", file=folder / f"{file}.h5", heldout_neurons=(2,))
        train(changed(settings, "train", seed=seed), out=folder / name)
    return folder


def test_values_are_those_of_the_evaluation(files):
    found = compare_runs([files / "a", files / "b"], n_resamples=20)
    assert list(found.units) == ["hidden bins", "held-out neurons", "true rates"]
    assert [run.run for run in found.runs][2] == "smoothed spikes"
    for run in found.runs[:2]:
        scores = evaluate(run.run).scores["NDT"]
        assert run.scores["hidden bins"].value == scores.hidden.bits_per_spike
        assert run.scores["held-out neurons"].value == scores.heldout.bits_per_spike
        assert run.scores["true rates"].value == scores.rates.r2_mean


def test_an_interval_is_that_of_the_scores_of_resampled_trials(files):
    found = compare_runs([files / "a"], n_resamples=200, seed=3)
    evaluation = evaluate(files / "a")
    data = evaluation.data
    n = data.n_trials
    rng = np.random.default_rng(3)
    hidden_BTN = evaluation.inferred_while_hidden[:]
    bits, r2 = [], []
    for draws_B in rng.multinomial(n, np.full(n, 1 / n), 200):
        trials = np.repeat(np.arange(n), draws_B)
        inside = data.inside_BT[trials]
        counts = data.spikes_BTN[trials][:, :, :3]
        bits.append(bits_per_spike(hidden_BTN[trials][:, :, :3], counts, inside).bits_per_spike)
        rates = evaluation.rates_BTN[trials], data.rates_BTN[trials]
        r2.append(rate_scores(*rates, inside).r2_mean)
    for label, values in (("hidden bins", bits), ("true rates", r2)):
        interval = found.runs[0].scores[label]
        expected = np.quantile(values, [0.025, 0.975])
        np.testing.assert_allclose([interval.low, interval.high], expected, rtol=1e-6)
        assert interval.low < interval.value < interval.high


def test_differences_are_taken_on_the_same_resamples(files):
    found = compare_runs([files / "a", files / "b"], n_resamples=50)
    same = found.runs[0].differences["hidden bins"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = found.runs[1]
    expected = other.scores["hidden bins"].value - found.runs[0].scores["hidden bins"].value
    assert other.differences["hidden bins"].value == pytest.approx(expected)


def test_the_same_seed_gives_the_same_intervals(files):
    first, again, other = (
        compare_runs([files / "a"], n_resamples=50, seed=seed).to_json()["runs"]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_run_whose_settings_were_edited_is_compared_if_that_is_accepted(files, tmp_path):
    run = tmp_path / "edited"
    shutil.copytree(files / "a", run)
    edited = changed(RunFolder(run).settings(), "train", learning_rate=0.5)
    RunFolder(run).write_settings(edited)
    for command in (["compare"], ["report"], ["plot", "neurons-bits", "--out", f"{run}.png"]):
        arguments = [command[0], str(run), *command[1:]]
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 1
        assert "insist: --accept-changes." in refused.output
        accepted = CliRunner().invoke(app, [*arguments, "--accept-changes"])
        assert accepted.exit_code == 0
        assert "Warning:" in accepted.output
        assert "learning_rate was" in accepted.output


def test_the_held_out_neurons_in_which_runs_differ_are_named(files, tmp_path):
    settings = changed(SETTINGS, "data", file=files / "spikes.h5", heldout_neurons=(1, 3))
    train(settings, out=tmp_path / "d")
    for data in (None, files / "other.h5"):
        with pytest.raises(RunError, match=r"other held-out neurons \(1, 3\) than .*a \(2\)"):
            compare_runs([files / "a", tmp_path / "d"], data=data)


def test_runs_of_other_trials_are_not_compared(files):
    with pytest.raises(RunError, match="is scored on other trials"):
        compare_runs([files / "a", files / "c"])
    both = compare_runs([files / "a", files / "c"], data=files / "other.h5", n_resamples=5)
    assert (both.split, both.n_trials) == ("valid", 6)  # on the others, c was trained
    with pytest.raises(SettingsError, match="each once"):
        compare_runs([files / "a", files / "a"])


def test_scores_without_an_interval_say_so(files):
    recorded = load_recording(RunFolder(files / "a").settings().data)
    labeled_train, labeled_valid = (
        dataclasses.replace(data, conditions_B=np.arange(data.n_trials) % 2)
        for data in (recorded.train, recorded.valid)
    )
    labeled = dataclasses.replace(recorded, train=labeled_train, valid=labeled_valid)
    found = compare_runs([files / "a"], recording=labeled, n_resamples=5)
    psth = found.runs[0].scores["PSTH"]
    assert np.isfinite(psth.value)
    assert np.isnan(psth.low)
    assert "have no interval" in found.notes[-1]
    one = dataclasses.replace(recorded, valid=recorded.valid.take(np.array([0])))
    with pytest.warns(RunWarning, match="n_trials is 1"):
        found = compare_runs([files / "a"], recording=one, accept_changes=True)
    assert found.notes[-1] == "a single trial has no interval"
    hidden = found.runs[0].scores["hidden bins"]
    assert np.isfinite(hidden.value)
    assert np.isnan(hidden.low)


def test_the_command_prints_a_table_csv_or_json(files):
    def ndt(*options):
        result = CliRunner().invoke(
            app, ["compare", str(files / "a"), str(files / "b"), "--resamples", "20", *options]
        )
        assert result.exit_code == 0, result.output
        return result.stdout

    table = ndt()
    for words in ("run 1", "run 2", "smoothed spikes", "held-out", "Differences from run 1"):
        assert words in table
    rows = list(csv.DictReader(io.StringIO(ndt("--csv"))))
    content = json.loads(ndt("--json"))
    assert len(rows) == 3 * 3
    hidden = content["runs"][1]["scores"]["hidden bins"]
    assert float(rows[3]["value"]) == hidden["value"]
    assert float(rows[3]["low"]) == hidden["low"]


def test_a_figure_shows_scores_over_training_trials_by_how_a_run_was_trained(tmp_path):
    days = {name: recording(n, 6, n_neurons=4) for name, n in (("day1", 12), ("day2", 9))}
    for name, day in days.items():
        write_recording(day, tmp_path / f"{name}.h5")
    linear = tiny_settings(model={"embedding": "linear", "width": 16}, train={"max_epochs": 1})
    first = changed(linear, "data", file=tmp_path / "day1.h5")
    train(first, out=tmp_path / "first")
    for n_trials in (4, 8):
        settings = changed(linear, "data", file=tmp_path / "day2.h5", train_trials=n_trials)
        train(settings, out=tmp_path / f"alone{n_trials}")
        adapted = changed(settings, "train", start_from=tmp_path / "first")
        train(adapted, out=tmp_path / f"adapted{n_trials}")
    files = (tmp_path / "day1.h5", tmp_path / "day2.h5")
    fit(changed(linear, "data", files=files), out=tmp_path / "both", draw=False)
    runs = [f"{way}{n}" for way in ("alone", "adapted") for n in (4, 8)] + ["both/sessions/day2"]
    command = ["compare", *(str(tmp_path / run) for run in runs), "--resamples", "5", "--json"]
    drawn = CliRunner().invoke(app, [*command, "--figure", str(tmp_path / "curve.png")])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "curve.png").is_file()
    found = compare_runs([tmp_path / run for run in runs], n_resamples=5)
    assert [(run.trained, run.n_training_trials) for run in found.runs[:-1]] == [
        ("alone", 4),
        ("alone", 8),
        ("adapted", 4),
        ("adapted", 8),
        ("jointly", 9),
    ]
    assert found.notes[-1].startswith("smoothed spikes: fitted to the training trials of ")
    axes = trial_curves(found).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    for way in ("alone", "adapted", "jointly"):
        own = [run for run in found.runs if run.trained == way]
        assert lines[way] == [
            [run.n_training_trials, run.scores["hidden bins"].value] for run in own
        ]
    save_ensemble([tmp_path / "alone4", tmp_path / "adapted4"], tmp_path / "mean4")
    both = compare_runs([tmp_path / run for run in ("alone4", "mean4")], n_resamples=5)
    assert [run.is_ensemble for run in both.runs[:-1]] == [False, True]
    alone, mean, smoothed = both.runs
    lower = {label: Interval(score.value - 1) for label, score in mean.scores.items()}
    mean = dataclasses.replace(mean, scores=lower)
    axes = trial_curves(dataclasses.replace(both, runs=[alone, mean, smoothed])).axes[0]
    lines = {line.get_label(): [*line.get_ydata()] for line in axes.lines}
    assert lines["alone"] == [alone.scores["hidden bins"].value]  # without the ensemble's
    assert lines["alone, ensemble"] == [lower["hidden bins"].value]
    again = CliRunner().invoke(app, [*command, "--figure", str(tmp_path / "curve.png")])
    assert again.exit_code != 0  # nothing is overwritten
