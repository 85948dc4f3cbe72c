"""Training end to end on tiny data: what it writes, when it stops, what it refuses."""

import math

import numpy as np
import pytest
import torch
from builders import (
    assert_generators_untouched,
    changed,
    last_checkpoint,
    recording,
    run_files,
    run_metrics,
    same_tensors,
    spike_data,
    tiny_settings,
)

from ndt_cli.baselines.smoothing import starting_rates
from ndt_cli.data.spike_data import Recording
from ndt_cli.data.synthetic import make_lorenz
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import EpochDone, Started, StepDone
from ndt_cli.engine.optimizer import learning_rate
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trainer import Validator
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import DataError, ExistingFileError, MissingExtraError, SettingsError
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.settings.load import load_settings

CPU = torch.device("cpu")
BEST_LOSSES = ["best-masked-loss", "best-unmasked-loss"]


@pytest.mark.parametrize("rates", [False, True])
def test_a_run_folder_holds_exactly_theserun_files(tmp_path, rates):
    out = tmp_path / "run"
    result = train(tiny_settings(), out=out, recording=recording(rates=rates))
    best = [*BEST_LOSSES, *(["best-rate-r2"] if rates else [])]
    expected = [f"checkpoints/{name}.safetensors" for name in (*best, "last")]
    expected += ["metrics.jsonl", "run.json", "run.lock", "settings.toml"]
    assert run_files(out) == sorted(expected)
    assert result.run == out
    assert result.stopped == "finished"
    assert set(result.best) == set(best)


def test_metrics_have_a_line_an_epoch_and_are_the_history(tmp_path):
    settings = tiny_settings(
        train={"max_epochs": 5, "val_interval_epochs": 2, "schedule": "cosine"}
    )
    result = train(settings, out=tmp_path, recording=recording(rates=True))
    assert result.history == run_metrics(tmp_path)
    always = {"epoch", "train_loss", "learning_rate", "seconds"}
    valid = {"valid_masked_loss", "valid_unmasked_loss", "valid_rate_r2"}
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4, 5]
    for record in result.history:
        # Every second epoch, and the last one whatever the interval.
        expected = always | valid if record["epoch"] in (2, 4, 5) else always
        assert set(record) == expected
        assert record["learning_rate"] == learning_rate(record["epoch"] - 1, settings.train)
    seconds = [record["seconds"] for record in result.history]
    assert seconds == sorted(seconds)
    assert result.seconds == pytest.approx(seconds[-1], abs=0.5)


def test_run_json_records_what_made_the_run(tmp_path):
    data = recording()
    train(tiny_settings(), out=tmp_path, recording=data)
    content = RunFolder(tmp_path).read_json("run.json")
    assert content["device"] == "cpu"
    assert content["precision"] == "float32"
    assert content["n_threads"] == 1
    assert content["packages"]["torch"] == torch.__version__
    assert content["data"]["train"]["fingerprint"] == data.train.fingerprint
    assert content["data"]["valid"]["n_trials"] == 5
    assert RunFolder(tmp_path).settings() == tiny_settings()


def test_a_best_checkpoint_gives_the_value_that_it_was_kept_for(tmp_path):
    settings = tiny_settings(train={"max_epochs": 6, "learning_rate": 0.03})
    data = recording(rates=True)
    result = train(settings, out=tmp_path, recording=data)
    validate = Validator(data.valid, settings, CPU)
    for name, measure, best in (
        ("best-masked-loss", "valid_masked_loss", min),
        ("best-unmasked-loss", "valid_unmasked_loss", min),
        ("best-rate-r2", "valid_rate_r2", max),
    ):
        value, epoch = result.best[name]
        assert value == best(record[measure] for record in result.history)
        assert result.history[epoch - 1][measure] == value
        checkpoint = Checkpoint.load(RunFolder(tmp_path).checkpoint(name))
        assert checkpoint.progress["epoch"] == epoch
        measured = validate(checkpoint.build_model(CpuMath()))[measure]
        assert measured == pytest.approx(value, rel=1e-6)
        # It is for use, not to resume from.
        assert not checkpoint.optimizer
        assert not checkpoint.streams


def test_ndt1_fault_runs_an_earlier_run_is_never_overwritten(tmp_path):
    train(tiny_settings(), out=tmp_path, recording=recording())
    before = {name: (tmp_path / name).read_bytes() for name in run_files(tmp_path)}
    with pytest.raises(ExistingFileError, match="never overwritten"):
        train(tiny_settings(train={"seed": 1}), out=tmp_path, recording=recording())
    assert {name: (tmp_path / name).read_bytes() for name in run_files(tmp_path)} == before


def test_without_a_name_a_run_takes_a_fresh_folder_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [train(tiny_settings(), recording=recording()).run for _ in range(2)]
    assert runs[0] != runs[1]
    for run in runs:
        assert run.parent.name == "runs"
        assert run.name.startswith("tiny-")
        assert "metrics.jsonl" in run_files(tmp_path / run)


def test_the_engine_prints_nothing(tmp_path, capfd):
    train(tiny_settings(), out=tmp_path, recording=recording())
    assert capfd.readouterr() == ("", "")


def test_threads_and_the_global_generators_are_as_before(tmp_path):
    n_threads = torch.get_num_threads()
    settings = tiny_settings(train={"n_threads": n_threads + 1})
    with assert_generators_untouched():
        train(settings, out=tmp_path / "run", recording=recording())
    assert torch.get_num_threads() == n_threads
    with assert_generators_untouched(), pytest.raises(ExistingFileError):
        train(settings, out=tmp_path / "run", recording=recording())
    assert torch.get_num_threads() == n_threads


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path):
    runs = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(runs))  # what the caller drew must not matter
            settings = tiny_settings(train={"seed": seed})
            train(settings, out=tmp_path / name, recording=recording())
        runs[name] = last_checkpoint(tmp_path / name)
    assert same_tensors(runs["first"].model, runs["again"].model)
    assert same_tensors(runs["first"].optimizer, runs["again"].optimizer)
    assert not same_tensors(runs["first"].model, runs["other"].model)


def test_the_watcher_receives_start_steps_and_epochs(tmp_path):
    events = []
    result = train(tiny_settings(), out=tmp_path, recording=recording(), watch=events.append)
    started = events[0]
    assert isinstance(started, Started)
    assert (started.n_train_trials, started.n_valid_trials) == (10, 5)
    assert (started.first_epoch, started.max_epochs, started.steps_per_epoch) == (0, 3, 3)
    n_weights = sum(tensor.numel() for tensor in last_checkpoint(tmp_path).model.values())
    assert started.n_parameters == n_weights
    steps = [(event.epoch, event.step) for event in events if isinstance(event, StepDone)]
    assert steps == [(epoch, step) for epoch in range(3) for step in (1, 2, 3)]
    records = [event.record for event in events if isinstance(event, EpochDone)]
    assert records == result.history


def _recording_of(train_data, valid_data):
    return Recording(train_data, valid_data, source="lab.h5", layout="ndt")


_GOOD = spike_data(8)
_REFUSED = {
    "no spike": _recording_of(spike_data(8, mean_count=0.0), _GOOD),
    "no validation trial": _recording_of(_GOOD, spike_data(0)),
    "no training trial": _recording_of(spike_data(0), _GOOD),
    "other neurons": _recording_of(_GOOD, spike_data(4, n_neurons=5)),
    "other bins": _recording_of(_GOOD, spike_data(4, n_bins=9)),
    "other held-out neurons": _recording_of(_GOOD, spike_data(4, n_heldout=1)),
    "unknown counts to train on": _recording_of(
        spike_data(8, n_heldout=1, hidden_counts_known=False), spike_data(4, n_heldout=1)
    ),
}


@pytest.mark.parametrize("why", _REFUSED)
def test_data_that_cannot_be_trained_on_are_refused_before_anything_is_written(tmp_path, why):
    out = tmp_path / "run"
    with pytest.raises(DataError, match=r"lab\.h5"):
        train(tiny_settings(), out=out, recording=_REFUSED[why])
    assert not out.exists()


def test_missing_tensorboard_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("ndt_cli.engine.trackers.find_spec", lambda name: None)
    out = tmp_path / "run"
    with pytest.raises(MissingExtraError, match="TensorBoard") as caught:
        train(tiny_settings(train={"tensorboard": True}), out=out, recording=recording())
    assert "ndt-cli[tensorboard]" in caught.value.hint
    assert not out.exists()


@pytest.mark.parametrize("kind", ["one neuron", "one trial", "one bin", "padded", "nlb"])
def test_unusual_shapes_train(tmp_path, kind):
    data = {
        "one neuron": lambda: recording(n_neurons=1),
        "one trial": lambda: recording(1, 1),
        "one bin": lambda: recording(n_bins=1),
        "padded": lambda: _recording_of(
            spike_data(5, lengths_B=[6, 5, 3, 1, 0]), spike_data(3, lengths_B=[2, 6, 6])
        ),
        "nlb": lambda: recording(n_bins=10, n_neurons=6, n_heldout=2, n_forward=3),
    }[kind]()
    result = train(tiny_settings(), out=tmp_path, recording=data)
    assert ("best-co-bps" in result.best) is (kind == "nlb")
    assert all(math.isfinite(record["valid_masked_loss"]) for record in result.history)


@pytest.mark.parametrize("kind", ["one neuron", "one trial", "one bin", "padded", "many neurons"])
def test_the_preset_for_recordings_trains_on_unusual_shapes(tmp_path, kind):
    data = {
        "one neuron": lambda: recording(n_neurons=1),
        "one trial": lambda: recording(1, 1),
        "one bin": lambda: recording(n_bins=1),
        "padded": lambda: _recording_of(
            spike_data(5, lengths_B=[6, 5, 3, 1, 0]), spike_data(3, lengths_B=[2, 6, 6])
        ),
        "many neurons": lambda: recording(n_neurons=300),
    }[kind]()
    settings = load_settings("recordings", ["train.max_steps=3", "train.device=cpu"])
    result = train(settings, out=tmp_path, recording=data)
    assert len(result.history) == 3  # a step an epoch
    assert math.isfinite(result.history[-1]["valid_masked_loss"])
    kept = RunFolder.open(tmp_path).settings()
    assert (kept.train.max_epochs, kept.train.max_steps) == (3, None)  # as it was trained


def test_a_width_that_the_embedding_cannot_take_is_refused(tmp_path):
    settings = tiny_settings(model={"width": 16, "embedding_size": 8})
    with pytest.raises(SettingsError, match=r"24 numbers of 3 neurons, and model\.width is 16"):
        train(settings, out=tmp_path / "run", recording=recording())
    assert not (tmp_path / "run").exists()
    train(changed(settings, "model", embedding="linear"), out=tmp_path, recording=recording())


def test_counts_that_training_never_saw_are_validated(tmp_path):
    data = recording()
    data.valid.spikes_BTN[0, 0, 0] = 200
    result = train(tiny_settings(), out=tmp_path, recording=data)
    assert all(math.isfinite(record["valid_masked_loss"]) for record in result.history)


def test_a_readout_starts_at_the_mean_rates_of_the_training_trials():
    data = spike_data(50, lengths_B=[6, 4] * 25)
    data.spikes_BTN[:, :, 2] = 0
    rates_N = starting_rates(data)
    expected = data.spikes_BTN.sum(axis=(0, 1)) / 250
    assert rates_N[:2].tolist() == pytest.approx(expected[:2].tolist())
    assert 0 < rates_N[2] < 1 / 250  # a silent neuron: less than one spike in all


def test_a_spanning_run_in_bfloat16_trains(tmp_path):
    settings = tiny_settings(mask={"max_span": 3}, train={"precision": "bfloat16"})
    result = train(settings, out=tmp_path, recording=recording())
    assert all(math.isfinite(record["train_loss"]) for record in result.history)
    assert RunFolder(tmp_path).read_json("run.json")["precision"] == "bfloat16"
    assert all(t.dtype == torch.float32 for t in last_checkpoint(tmp_path).model.values())


def test_hidden_counts_of_a_lorenz_set_are_predicted_better_than_by_the_mean_rate(tmp_path):
    data = make_lorenz(
        n_conditions=40, n_repeats=5, n_bins=25, n_neurons=15, base_rate_hz=40.0, seed=1
    )
    settings = tiny_settings(
        model={"n_layers": 2, "n_heads": 2, "feedforward_size": 32, "dropout_rates": 0.0},
        train={
            "max_epochs": 40,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "val_interval_epochs": 10,
        },
    )
    result = train(settings, out=tmp_path, recording=data)

    def loss(rates_BTN):
        counts_BTN = data.valid.spikes_BTN
        return float((rates_BTN - counts_BTN * np.log(rates_BTN)).mean())

    assert data.valid.rates_BTN is not None
    of_mean = loss(data.train.spikes_BTN.mean(axis=(0, 1)))
    of_truth = loss(data.valid.rates_BTN)
    found, _ = result.best["best-masked-loss"]
    # Hidden bins are a sample of all: the losses compare up to its error, far below the gap.
    assert (of_mean - found) / (of_mean - of_truth) > 0.4
    assert result.best["best-rate-r2"][0] > 0.3
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_reproducible_and_close_to_one_on_the_cpu(tmp_path):
    still = {"dropout": 0.0, "dropout_embedding": 0.0, "dropout_rates": 0.0}
    settings = tiny_settings(model=still, mask={"ratio": 1.0}, train={"batch_size": 10})
    runs = {}
    for name, device in (("cpu", "cpu"), ("gpu", "cuda"), ("again", "cuda")):
        on_device = changed(settings, "train", device=device)
        runs[name] = train(on_device, out=tmp_path / name, recording=recording()).history
    for cpu, gpu, again in zip(runs["cpu"], runs["gpu"], runs["again"], strict=True):
        assert gpu["valid_masked_loss"] == pytest.approx(cpu["valid_masked_loss"], rel=1e-3)
        assert again["valid_masked_loss"] == gpu["valid_masked_loss"]


def test_training_until_an_epoch_stops_and_resumes_there(tmp_path):
    data, settings = recording(rates=True), tiny_settings(train={"max_epochs": 4})
    whole = train(settings, out=tmp_path / "whole", recording=data)
    part = train(settings, out=tmp_path / "part", recording=data, until_epoch=2)
    assert (part.stopped, len(part.history)) == ("interrupted", 2)
    same = resume(part.run, recording=data, until_epoch=2)  # there already
    assert (same.stopped, len(same.history)) == ("interrupted", 2)
    rest = resume(part.run, recording=data, until_epoch=9)
    assert (rest.stopped, len(rest.history)) == ("finished", 4)
    first, second = (Checkpoint.load(RunFolder(r.run).checkpoint("last")) for r in (whole, rest))
    assert same_tensors(first.model, second.model)
