"""Recorded steps: replays give what the steps give when they are taken one kernel after another.

Most rules are checked on a CPU, with a recorder that repeats operations as a CUDA graph does; the
tests marked gpu check them again with graphs.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    changed,
    last_checkpoint,
    recording,
    run_metrics,
    same_tensors,
    spike_data,
    tiny_settings,
)
from op_recorder import record_operations
from same_run import assert_same_run

from ndt_cli.engine.checkpoint import optimizer_tensors
from ndt_cli.engine.cuda_graphs import WARM_UP_STEPS, RecordedSteps, Recording, records_steps
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.step import TrainingStep, make_optimizer, set_learning_rate
from ndt_cli.engine.streams import Streams, make_stream
from ndt_cli.engine.together import StepTogether
from ndt_cli.engine.training import resume, train
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.errors import RunWarning
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import TrainSettings

CPU = torch.device("cpu")
SPANS = {"max_span": 4, "span_ramp_start_epoch": 1, "span_ramp_end_epoch": 4}
VARIANTS = {
    "timestep": {"mask": {"token_ratio": 0.5, **SPANS}},
    "full": {"mask": {"mode": "full", "zero_token": False, "token_ratio": 0.5, **SPANS}},
    "neuron": {"mask": {"mode": "neuron"}},
    "timestep-only": {"mask": {"mode": "timestep-only", **SPANS}},
    "worst entries": {"train": {"topk_fraction": 0.5}},
    "classes": {"model": {"loss": "cross-entropy"}},
    "post-norm, sinusoids": {"model": {"norm_place": "post", "positions": "sinusoid"}},
    "scale norm, linear": {"model": {"norm": "scale", "embedding": "linear", "readout": "mlp"}},
}


class _Run:
    """A run's step and trials, with the streams and the optimizer that a GPU has."""

    def __init__(self, settings, data, device=CPU, seed=0):
        self.settings = settings
        self.trials = TrialSet.load(data, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = ModelShape(data.n_neurons, data.n_bins, data.max_count)
            self.network = NeuralDataTransformer(settings.model, shape).to(device)
        self.network.plain = True
        self.optimizer = make_optimizer(self.network.parameters(), settings, device)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], device=device)
        names = ("order", "mask", "dropout")
        self.streams = Streams(*(make_stream(seed, name, device) for name in names))
        self.step = TrainingStep(self.network, self.optimizer, settings, self.streams, Ranks())
        self.sums = []

    def train(self, n_epochs, take, batch_size=4):
        """Take epochs of steps with a rate that changes, and a last batch that is smaller."""
        for epoch in range(n_epochs):
            set_learning_rate(self.optimizer, 1e-2 / (epoch + 1))
            device = self.trials.counts_BTN.device
            order = torch.randperm(len(self.trials), generator=self.streams.order, device=device)
            for rows in order.split(batch_size):
                sums = take(self.step, self.trials.take(rows), epoch)
                self.sums.append([value.clone() for value in sums])
        return self

    def state(self):
        state = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        state |= optimizer_tensors(self.optimizer, self.network)
        state |= self.streams.state()
        return state | {f"sums {i}": torch.stack(sums) for i, sums in enumerate(self.sums)}


@pytest.fixture(autouse=True)
def _no_recording_has_failed(monkeypatch):
    monkeypatch.setattr(Recording, "works", True)


def _eager(step, batch, epoch):
    return step(batch, epoch)


def _replayed(record=record_operations):
    recorded = RecordedSteps(record=record)
    return lambda step, batch, epoch: recorded([step], [batch], [epoch])[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_replayed_steps_are_those_taken_one_by_one(variant):
    settings = tiny_settings(**VARIANTS[variant])
    data = spike_data(10, 6, 4, lengths_B=[6] * 8 + [5, 3])
    one_by_one = _Run(settings, data).train(6, _eager)
    replayed = _Run(settings, data).train(6, _replayed())
    assert len(replayed.sums) > 2 * (WARM_UP_STEPS + 1)
    assert same_tensors(one_by_one.state(), replayed.state())


@pytest.mark.parametrize("heldout", [{}, {"n_heldout": 1, "n_forward": 2}])
def test_trials_of_equal_length_need_no_padding_in_a_recording(heldout):
    settings, data = tiny_settings(), spike_data(10, 6, 4, **heldout)
    one_by_one, replayed = (_Run(settings, data).train(5, take) for take in (_eager, _replayed()))
    assert same_tensors(one_by_one.state(), replayed.state())


def test_the_stand_in_notices_what_a_recording_must_not_hold():
    # The rules above mean something only if a number of the host stays as it was recorded.
    factor = [1.0]
    into = torch.zeros(())
    replay = record_operations(lambda: into.add_(factor[0]), [])
    assert into.item() == 0
    factor[0] = 5.0
    replay()
    assert into.item() == 1
    with pytest.raises(RuntimeError, match="capturing"):
        record_operations(lambda: into.item(), [])


def test_a_replayed_step_that_is_not_finite_changes_nothing_and_is_remembered():
    run = _Run(tiny_settings(), spike_data(8))
    take = _replayed()
    run.train(4, take)
    n_steps = len(run.sums)
    assert n_steps > WARM_UP_STEPS
    with torch.no_grad():
        run.network.readout.last.bias.fill_(200.0)  # exp overflows
    before = {name: weight.clone() for name, weight in run.network.state_dict().items()}
    run.train(1, take)
    assert same_tensors(before, run.network.state_dict())
    assert run.step.first_bad_step() == n_steps


def test_settings_that_change_between_steps_apply():
    run = _Run(tiny_settings(mask={"ratio": 0.1}), spike_data(200))
    take = _replayed()
    shares = []
    for ratio in (0.1, 0.8):
        run.step.settings = changed(run.settings, "mask", ratio=ratio)
        run.train(5, take, batch_size=200)
        shares.append(run.sums[-1][1].item() / run.trials.counts_BTN.numel())
    assert shares == pytest.approx([0.1, 0.8], abs=0.06)


def test_steps_are_recorded_once_for_each_size_of_batch():
    recordings = []

    def record(function, generators):
        recordings.append(len(generators))
        return record_operations(function, generators)

    _Run(tiny_settings(), spike_data(10)).train(12, _replayed(record))
    assert recordings == [2, 2]  # batches of four and of two; masks and dropout are drawn


def test_steps_that_cannot_be_recorded_are_taken_one_by_one_and_that_is_said_once():
    def refuse(function, generators):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    settings, data = tiny_settings(), spike_data(10)
    with pytest.warns(RunWarning, match="slower: operation not permitted") as told:
        replayed = _Run(settings, data).train(4, _replayed(refuse))
    assert len(told) == 1
    assert "more" not in str(told[0].message)
    assert same_tensors(_Run(settings, data).train(4, _eager).state(), replayed.state())


def test_of_a_run_that_has_ended_nothing_is_kept():
    recorded = RecordedSteps(record=record_operations)
    first, second = (_Run(tiny_settings(), spike_data(4), seed=seed) for seed in (0, 1))
    for run in (first, second):
        run.train(5, lambda *step: recorded(*([part] for part in step))[0])
    assert len(recorded._kinds) == 2
    recorded.forget(first.step)
    assert [kind.steps for kind in recorded._kinds.values()] == [[second.step]]


@pytest.mark.parametrize("n_members", [2, 3])
def test_replayed_steps_of_a_population_are_those_taken_one_by_one(n_members):
    data = spike_data(8, 6, 4)
    results = []
    for record in (None, record_operations):
        runs = [
            _Run(tiny_settings(mask={"ratio": 0.2 + 0.1 * i}), data, seed=i)
            for i in range(n_members)
        ]
        together = StepTogether()
        recorded = RecordedSteps(together._take, record)
        steps, batches = [run.step for run in runs], [run.trials for run in runs]
        for epoch in range(6):
            if record:
                sums = recorded(steps, batches, [epoch] * n_members)
            else:
                for step in steps:
                    step.begin(epoch)
                sums = together._take(steps, batches)
            for run, of_run in zip(runs, sums, strict=True):
                run.sums.append([value.clone() for value in of_run])
        results.append([run.state() for run in runs])
    for alone, replayed in zip(*results, strict=True):
        assert same_tensors(alone, replayed)


def test_one_process_on_a_cuda_gpu_records_unless_told_otherwise():
    cuda = torch.device("cuda")
    assert records_steps(TrainSettings(), cuda)
    assert not records_steps(TrainSettings(cuda_graph=False), cuda)
    assert not records_steps(TrainSettings(), cuda, world_size=2)
    assert not records_steps(TrainSettings(), CPU)


GPU_SETTINGS = tiny_settings(
    mask={"token_ratio": 0.5, **SPANS},
    train={"device": "cuda", "max_epochs": 8, "deterministic": True},
)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graphs_train_as_kernels_do(tmp_path, graphs, variant, precision):
    settings = tiny_settings(**VARIANTS[variant])
    settings = changed(
        settings, "train", device="cuda", max_epochs=8, deterministic=True, precision=precision
    )
    data = recording(10, rates=True)
    train(settings, out=tmp_path / "graphs", recording=data)
    assert graphs["replayed"]
    train(changed(settings, "train", cuda_graph=False), out=tmp_path / "kernels", recording=data)
    by_graph, by_kernel = (last_checkpoint(tmp_path / name) for name in ("graphs", "kernels"))
    assert same_tensors(by_graph.model, by_kernel.model)
    assert same_tensors(by_graph.optimizer, by_kernel.optimizer)
    assert same_tensors(by_graph.streams, by_kernel.streams)


@pytest.mark.gpu
@pytest.mark.parametrize("n_bins", [200, 300])  # scored whole, and cut into blocks
def test_graphs_hold_trials_of_a_real_size(tmp_path, graphs, n_bins):
    settings = changed(GPU_SETTINGS, "model", context_back=8, context_forward=4)
    data = recording(10, rates=True, n_bins=n_bins, n_neurons=12)
    train(settings, out=tmp_path / "graphs", recording=data)
    assert graphs["replayed"]
    train(changed(settings, "train", cuda_graph=False), out=tmp_path / "kernels", recording=data)
    by_graph, by_kernel = (last_checkpoint(tmp_path / name) for name in ("graphs", "kernels"))
    assert same_tensors(by_graph.model, by_kernel.model)


@pytest.mark.gpu
def test_a_run_of_graphs_resumes_to_the_last_bit(tmp_path, graphs):
    data = recording(10, rates=True)
    train(GPU_SETTINGS, out=tmp_path / "whole", recording=data)
    train(GPU_SETTINGS, out=tmp_path / "parts", recording=data, until_epoch=5)
    resume(tmp_path / "parts", recording=data)
    assert graphs["recorded"] >= 3
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def _train_losses(run):
    return [record["train_loss"] for record in run_metrics(run)]


def _train_where_recording_fails(folder):
    """Train once kernel by kernel and once with steps that a graph cannot hold."""
    data = recording(10, rates=True)
    by_kernel = changed(GPU_SETTINGS, "train", cuda_graph=False)
    train(by_kernel, out=folder / "kernels", recording=data)
    take = TrainingStep.take

    def waits(step, batch):
        sums = take(step, batch)
        if torch.cuda.is_current_stream_capturing():
            sums[0].item()
        return sums

    TrainingStep.take = waits
    with pytest.warns(RunWarning, match="kernel by kernel"):
        train(GPU_SETTINGS, out=folder / "failed", recording=data)


@pytest.mark.gpu
def test_a_run_goes_on_after_a_recording_that_failed(tmp_path):
    # In a process of its own: what failed stays with a process.
    subprocess.run([sys.executable, __file__, tmp_path], check=True)
    losses = [_train_losses(tmp_path / run) for run in ("kernels", "failed")]
    assert losses[0] == losses[1]
    assert np.isfinite(losses).all()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_run_on_the_second_gpu_is_recorded_there(tmp_path, graphs):
    data = recording(10, rates=True)
    for name, device in (("first", "cuda:0"), ("second", "cuda:1")):
        train(changed(GPU_SETTINGS, "train", device=device), out=tmp_path / name, recording=data)
    assert graphs["recorded"] >= 2
    losses = [_train_losses(tmp_path / run) for run in ("first", "second")]
    assert losses[0] == losses[1]
    assert len(set(losses[1])) == len(losses[1])  # it goes on learning


if __name__ == "__main__":
    _train_where_recording_fails(Path(sys.argv[1]))
