"""Epochs: what one is, and when training stops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    changed,
    last_checkpoint,
    recording,
    run_files,
    run_metrics,
    tiny_settings,
)

from ndt_cli.engine import trainer as trainer_module
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.cpu_parallel import CpuBackend
from ndt_cli.engine.optimizer import learning_rate
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.step import TrainingStep
from ndt_cli.engine.training import train
from ndt_cli.errors import DataError, TrainingError


class _Recorder(TrainingStep):
    """A step that notes what it is given; a test may also have it go wrong."""

    taken: list
    bad_at = None

    def __call__(self, batch, epoch):
        number = len(self.taken)
        self.taken.append((epoch, float(self.optimizer.param_groups[0]["lr"]), []))
        if number == self.bad_at:
            with torch.no_grad():
                self.network.readout.last.bias.fill_(torch.nan)
        self.taken[-1][2].extend(batch.counts_BTN[:, 0, 0].tolist())
        return super().__call__(batch, epoch)


@pytest.fixture
def steps(monkeypatch):
    """The steps that training takes, as (epoch, learning rate, trials)."""
    monkeypatch.setattr(_Recorder, "taken", [], raising=False)
    monkeypatch.setattr(CpuBackend, "training_step", lambda self, parts: _Recorder(parts))
    return _Recorder.taken


def _numbered(n_train):
    """Trials whose first count is their number."""
    data = recording(n_train)
    data.train.spikes_BTN[:, 0, 0] = np.arange(n_train)
    return data


def test_ndt1_fault_updates_an_epoch_is_one_shuffled_pass_with_the_last_part_kept(tmp_path, steps):
    train(tiny_settings(), out=tmp_path, recording=_numbered(10))
    assert [epoch for epoch, _, _ in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [len(trials) for _, _, trials in steps] == [4, 4, 2] * 3
    passes = [
        [trial for e, _, trials in steps if e == epoch for trial in trials] for epoch in range(3)
    ]
    for order in passes:
        assert sorted(order) == list(range(10))
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != list(range(10))


def test_ndt1_fault_updates_the_schedule_counts_epochs_not_steps(tmp_path, steps):
    settings = tiny_settings(train={"schedule": "cosine", "warmup_epochs": 2, "max_epochs": 5})
    train(settings, out=tmp_path, recording=recording())
    assert [rate for _, rate, _ in steps] == [
        learning_rate(epoch, settings.train) for epoch in range(5) for _ in range(3)
    ]


def _scripted(monkeypatch, masked_losses):
    """Validation that gives these masked losses in turn, then the last one for ever."""

    class Scripted:
        keys = ("valid_masked_loss", "valid_unmasked_loss")

        def __init__(self, data, settings, device):
            self.losses = list(masked_losses)

        def __call__(self, model):
            loss = self.losses.pop(0) if len(self.losses) > 1 else self.losses[0]
            return {"valid_masked_loss": loss, "valid_unmasked_loss": 1.0}

    monkeypatch.setattr(trainer_module, "Validator", Scripted)


@pytest.mark.parametrize(
    ("losses", "interval", "patience", "expected"),
    [
        ([0.5, 0.4, 0.45], 1, 3, 5),  # best at epoch 2
        ([0.5, 0.5, 0.5], 1, 3, 4),  # as good is no better
        ([0.5, 0.4, 0.45, 0.3, 0.35], 1, 3, 7),  # patience starts anew at epoch 4
        ([math.nan], 1, 3, 3),  # never measured
        ([0.5, 0.4, 0.45], 2, 4, 8),  # best at epoch 4
    ],
)
def test_training_stops_after_patience_epochs_without_improvement(
    tmp_path, monkeypatch, losses, interval, patience, expected
):
    _scripted(monkeypatch, losses)
    train_settings = {
        "max_epochs": 20,
        "val_interval_epochs": interval,
        "patience_epochs": patience,
    }
    result = train(tiny_settings(train=train_settings), out=tmp_path, recording=recording())
    assert result.stopped == "early"
    assert len(result.history) == expected
    assert last_checkpoint(tmp_path).progress["epoch"] == expected


@pytest.mark.parametrize(("interval", "patience", "expected"), [(4, 2, 8), (2, 3, 6), (5, 7, 15)])
def test_training_never_stops_early_without_a_new_measurement(
    tmp_path, monkeypatch, interval, patience, expected
):
    # Epochs after the last validation tell nothing: only a validation can be without improvement.
    _scripted(monkeypatch, [0.5])
    train_settings = {
        "max_epochs": 20,
        "val_interval_epochs": interval,
        "patience_epochs": patience,
    }
    result = train(tiny_settings(train=train_settings), out=tmp_path, recording=recording())
    assert result.stopped == "early"
    assert len(result.history) == expected
    assert "valid_masked_loss" in result.history[-1]
    assert last_checkpoint(tmp_path).progress["epoch"] == expected


def test_the_measure_to_choose_by_decides_when_to_stop(tmp_path, monkeypatch):
    # The masked loss is best at once; the unmasked one, 1.0 each time, too. R2 improves.
    _scripted(monkeypatch, [0.5])
    with_r2 = trainer_module.Validator
    scores = iter(range(20))

    class WithR2(with_r2):
        keys = (*with_r2.keys, "valid_rate_r2")

        def __call__(self, model):
            return {**super().__call__(model), "valid_rate_r2": min(next(scores), 4) / 10}

    monkeypatch.setattr(trainer_module, "Validator", WithR2)
    settings = tiny_settings(train={"max_epochs": 20, "patience_epochs": 3})
    by_r2 = changed(settings, "train", choose_by="rate-r2")
    data = recording(rates=True)
    assert len(train(by_r2, out=tmp_path / "r2", recording=data).history) == 5 + 3
    assert len(train(settings, out=tmp_path / "loss", recording=data).history) == 1 + 3


@pytest.mark.parametrize("choose_by", ["rate-r2", "co-bps"])
def test_a_measure_that_the_data_do_not_allow_is_refused(tmp_path, choose_by):
    settings = tiny_settings(train={"choose_by": choose_by})
    with pytest.raises(DataError, match=choose_by) as caught:
        train(settings, out=tmp_path / "run", recording=recording())
    assert "choose_by=masked-loss" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_an_improving_run_trains_to_its_last_epoch(tmp_path, monkeypatch):
    _scripted(monkeypatch, [1 / n for n in range(1, 9)])
    settings = tiny_settings(train={"max_epochs": 8, "patience_epochs": 1})
    result = train(settings, out=tmp_path, recording=recording())
    assert (result.stopped, len(result.history)) == ("finished", 8)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_good_checkpoints(
    tmp_path, steps, monkeypatch
):
    monkeypatch.setattr(_Recorder, "bad_at", 4)  # the second step of the second epoch
    with pytest.raises(TrainingError, match="epoch 2") as caught:
        train(tiny_settings(), out=tmp_path, recording=recording())
    assert "train.learning_rate" in caught.value.hint
    assert "checkpoints" in caught.value.hint
    assert len(steps) == 5
    assert [record["epoch"] for record in run_metrics(tmp_path)] == [1]
    for name in ("best-masked-loss", "best-unmasked-loss", "last"):
        checkpoint = Checkpoint.load(RunFolder(tmp_path).checkpoint(name))
        assert checkpoint.progress["epoch"] == 1
        assert all(tensor.isfinite().all() for tensor in checkpoint.model.values())


def test_a_failure_before_the_first_validation_promises_no_checkpoint(tmp_path, steps, monkeypatch):
    monkeypatch.setattr(_Recorder, "bad_at", 0)
    with pytest.raises(TrainingError, match="epoch 1") as caught:
        train(tiny_settings(), out=tmp_path, recording=recording())
    saved = [name for name in run_files(tmp_path) if "safetensors" in name]
    assert [Path(name).name for name in saved] == ["last.safetensors"]  # of no training yet
    assert "train.learning_rate" in caught.value.hint
    assert "checkpoint" not in caught.value.hint


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_on_a_gpu_too_a_loss_that_is_not_finite_stops_training(
    tmp_path, steps, monkeypatch, cuda_graph
):
    monkeypatch.setattr(_Recorder, "bad_at", 4)
    monkeypatch.setattr(_Recorder, "take", TrainingStep.take)  # noting trials waits for the GPU
    settings = tiny_settings(train={"device": "cuda", "cuda_graph": cuda_graph})
    with pytest.raises(TrainingError, match="epoch 2"):
        train(settings, out=tmp_path, recording=recording())
    assert [record["epoch"] for record in run_metrics(tmp_path)] == [1]
    assert all(tensor.isfinite().all() for tensor in last_checkpoint(tmp_path).model.values())
