"""``ndt train`` and ``ndt evaluate`` as a user sees them."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from builders import recording
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.commands.flags import chosen_settings
from ndt_cli.data.write import write_recording
from ndt_cli.settings.explain import field_table

SMALL = (
    "model.n_layers=1", "model.feedforward_size=8", "train.max_epochs=2",
    "train.val_interval_epochs=1", "train.n_threads=1", "train.device=cpu", "train.warmup_epochs=0",
)  # fmt: skip


def ndt(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def settings(*changes):
    return [word for change in (*SMALL, *changes) for word in ("--set", change)]


@pytest.fixture
def spikes(tmp_path):
    path = tmp_path / "spikes.h5"
    write_recording(recording(12, 6, rates=True, n_bins=8), path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_recording(recording(12, 6, rates=True, n_bins=8), folder / "spikes.h5")
    data, out = folder / "spikes.h5", folder / "run"
    result = ndt("train", "--data", data, "--out", out, *settings())
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def run(trained, tmp_path):
    """Return a copy of a run that the test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def test_training_prints_the_scores_and_the_run_folder(spikes, tmp_path):
    out = tmp_path / "run"
    result = ndt("train", "--data", spikes, "--out", out, *settings())
    assert result.exit_code == 0
    for words in ("NDT", "smoothed spikes", "mean rate", "true rates", "median", str(out)):
        assert words in result.stdout
    assert "settings: preset recordings (the default for a spike file" in result.stderr


def test_pictures_come_with_the_run(run):
    pictures = {path.name for path in (run / "figures").iterdir()}
    assert pictures == {"heatmaps.png", "neurons.png", "rates.png", "training.png"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped"] == "finished"
    assert summary["evaluation"]["n_trials"] == 6


def test_json_is_the_only_thing_on_standard_output(spikes, tmp_path, run):
    result = ndt("train", "--data", spikes, "--out", tmp_path / "other", "--json", *settings())
    content = json.loads(result.stdout)
    assert content["epochs"] == 2
    result = ndt("evaluate", run, "--json")
    assert json.loads(result.stdout)["scores"].keys() == content["evaluation"]["scores"].keys()


def test_a_run_is_never_overwritten(run, spikes):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = ndt("train", "--data", spikes, "--out", run, *settings())
    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert f"--resume {run}" in result.stderr.replace("\n", "")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_resume_uses_only_the_settings_of_the_run(run):
    result = ndt("train", "--resume", run, "--set", "train.max_epochs=4")
    assert result.exit_code == 0, result.output
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    refused = ndt("train", "--resume", run, "--set", "train.learning_rate=1e-4")
    assert refused.exit_code == 2
    assert "train.max_epochs" in refused.stderr
    assert ndt("train", "--resume", run, "--config", "lorenz").exit_code == 2


def test_rates_writes_the_rates_of_all_trials(run, tmp_path):
    rates = tmp_path / "rates.npz"
    result = ndt("rates", run, "--out", rates, "--pca", 2)
    assert result.exit_code == 0, result.output
    assert f"rates: {rates} (18 trials x 8 bins of 10 ms x 3 neurons)" in result.stdout
    with np.load(rates, allow_pickle=False) as file:
        assert file["rates_hz"].shape == (18, 8, 3)
        assert file["components"].shape == (18, 8, 2)
    said = ndt("rates", run, "--out", tmp_path / "train.csv", "--split", "train", "--json")
    assert json.loads(said.stdout)["n_trials"] == 12


def test_evaluate_draws_a_picture_of_chosen_neurons(run, tmp_path):
    picture = tmp_path / "trial.svg"
    result = ndt(
        "evaluate", run, "--split", "train",
        "--figure", picture, "--trial", 2, "--neuron", 0, "--neuron", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    drawn = picture.read_text()
    assert "neuron 2" in drawn
    assert "neuron 1" not in drawn


def test_rates_and_a_picture_replace_a_file_only_when_asked_to(run, tmp_path):
    for command, option, name, kind in (
        ("rates", "--out", "rates.h5", b"HDF"),
        ("evaluate", "--figure", "trial.png", b"PNG"),
    ):
        path = tmp_path / name
        path.write_text("mine")
        refused = ndt(command, run, option, path)
        assert refused.exit_code == 1
        assert f"{path} already exists" in refused.stderr
        assert path.read_text() == "mine"
        replaced = ndt(command, run, option, path, "--overwrite")
        assert replaced.exit_code == 0, replaced.output
        assert path.read_bytes()[1:4] == kind


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--trial", "99"], "trial 99"),
        (["--neuron", "7"], "neuron 7"),
    ],
)
def test_a_trial_or_neuron_that_is_not_there_is_named(run, tmp_path, args, words):
    result = ndt("evaluate", run, "--figure", tmp_path / "x.png", *args)
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "bug" not in result.stderr


def test_a_loss_that_is_not_finite_stops_with_advice(spikes, tmp_path, monkeypatch):
    from ndt_cli.engine.step import TrainingStep

    finite, steps = TrainingStep.loss_sum, []

    def diverging(step, batch):
        total, n_scored = finite(step, batch)
        steps.append(batch)
        return (total * math.inf if len(steps) == 2 else total), n_scored

    monkeypatch.setattr(TrainingStep, "loss_sum", diverging)
    changes = settings("train.learning_rate=3e-3")
    result = ndt("train", "--data", spikes, "--out", tmp_path / "run", *changes)
    assert result.exit_code == 1
    assert "not finite in epoch 2" in result.stderr
    assert "--set train.learning_rate=0.001" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_first_ctrl_c_saves_and_prints_how_to_resume(spikes, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ndt_cli", "train", "--data", str(spikes), "--out", str(out)]
    process = subprocess.Popen(
        [*command, *settings("train.max_epochs=100000")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"ndt train --resume {out}" in said
    done = len((out / "metrics.jsonl").read_text().splitlines())
    resumed = ndt("train", "--resume", out, "--set", f"train.max_epochs={done + 3}")
    assert resumed.exit_code == 0, resumed.output
    assert len((out / "metrics.jsonl").read_text().splitlines()) == done + 3


@pytest.fixture
def behaving(tmp_path):
    """A file with behavior, conditions and true rates."""
    rng = np.random.default_rng(0)
    recorded = recording(12, 6, rates=True, n_bins=8, n_neurons=5)
    names = [
        "hand velocity x",
        "hand velocity y",
        "cursor_velocity_x",
        "[red]gaze",
        "pupil",
        "more",
    ]

    def behave(data):
        return dataclasses.replace(
            data,
            behavior_BTV=rng.standard_normal((data.n_trials, 8, 6)),
            behavior_names=tuple(names),
            conditions_B=np.arange(data.n_trials) % 2,
        )

    whole = dataclasses.replace(
        recorded, train=behave(recorded.train), valid=behave(recorded.valid)
    )
    write_recording(whole, tmp_path / "behaving.h5")
    return tmp_path / "behaving.h5"


def test_scores_of_behavior_conditions_and_held_out_neurons_fit_80_columns(behaving, tmp_path):
    out = tmp_path / "run"
    result = ndt("train", "--data", behaving, "--out", out, *settings("data.heldout_neurons=[1,3]"))
    assert result.exit_code == 0, result.output
    words = ("held-out", "per neuron", "PSTH", "behavior R2", "hand", "[red]gaze", "forward")
    printed = result.stdout.replace("model.context_forward", "")  # a setting that the verdict names
    assert [word for word in words if word not in printed] == ["forward"]
    tables = [line for line in result.stdout.splitlines() if "  " in line]  # not the sentences
    assert max(map(len, tables)) <= 80
    assert "2 of 5 neurons are held out" in result.stderr
    assert "fitted to the training trials" in result.stderr

    result = ndt("evaluate", out, "--lag-ms", "10", "--json")
    assert result.exit_code == 0, result.output
    behavior = json.loads(result.stdout)["scores"]["NDT"]["behavior"]
    assert behavior["lag_ms_V"] == [10.0] * 6
    result = ndt("evaluate", out, "--lag-ms", "80")
    assert result.exit_code == 2
    assert "lags of 80 ms" in result.stderr


def test_a_config_of_ones_own_says_that_other_settings_have_their_defaults(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("[model]\nwidth = 32\nn_layers = 2\n")
    name, settings = chosen_settings(str(tmp_path / "mine.toml"), ["model.embedding=linear"])
    assert (name, settings.model.width) == ("mine", 32)
    said = " ".join(capsys.readouterr().err.split())
    assert f"mine.toml (2 of {len(field_table())} settings; the others have their defaults)" in said
