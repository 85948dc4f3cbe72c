"""Captured steps: replays give what the steps give when they run kernel by kernel.

Most rules are checked on a CPU, with a stand-in that repeats operations as a CUDA graph does; the
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
from op_recorder import capture_operations
from same_run import assert_same_run

from ndt_cli.engine.batches import Streams, TrialSet, make_stream
from ndt_cli.engine.checkpoint import optimizer_tensors
from ndt_cli.engine.cuda_graphs import WARM_UP_STEPS, CapturedStep
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.optimizer import make_optimizer, set_learning_rate
from ndt_cli.engine.step import StepParts, TrainingStep
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import RunWarning
from ndt_cli.model.network import ModelShape, NeuralDataTransformer

CPU = torch.device("cpu")
SPANS = {"max_span": 4, "span_ramp_start_epoch": 1, "span_ramp_end_epoch": 4}
VARIANTS = {
    "timestep": {"mask": {"token_ratio": 0.5, **SPANS}},
    "full": {"mask": {"mode": "full", "zero_token": False, "token_ratio": 0.5, **SPANS}},
    "neuron": {"mask": {"mode": "neuron"}},
    "timestep-only": {"mask": {"mode": "timestep-only", **SPANS}},
    "worst entries": {"train": {"topk_fraction": 0.5}},
    "muon": {"train": {"optimizer": "muon", "weight_decay": 0.1}, "model": {"n_layers": 2}},
    "classes": {"model": {"loss": "cross-entropy"}},
    "post-norm, sinusoids": {"model": {"norm_place": "post", "positions": "sinusoid"}},
    "relative positions": {"model": {"positions": "relative", "context_back": 2, "n_layers": 2}},
    "scale norm, linear": {"model": {"norm": "scale", "embedding": "linear", "readout": "mlp"}},
}


class _Run:
    """A run's step and trials, with the streams and the optimizer that a GPU has."""

    def __init__(self, settings, data, capture=None, device=CPU, seed=0):
        self.settings = settings
        self.trials = TrialSet.load(data, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            shape = ModelShape(data.n_neurons, data.n_bins, data.max_count)
            self.network = NeuralDataTransformer(settings.model, shape).to(device)
        self.optimizer = make_optimizer(self.network, settings, device)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], device=device)
        names = ("order", "mask", "dropout")
        self.streams = Streams(*(make_stream(seed, name, device) for name in names))
        parts = StepParts(self.network, self.optimizer, settings, self.streams, Ranks())
        self.step = CapturedStep(parts, capture) if capture else TrainingStep(parts)
        self.sums = []

    def train(self, n_epochs, batch_size=4):
        """Take epochs of steps with a rate that changes, and a last batch that is smaller."""
        for epoch in range(n_epochs):
            set_learning_rate(self.optimizer, 1e-2 / (epoch + 1))
            device = self.trials.counts_BTN.device
            order = torch.randperm(len(self.trials), generator=self.streams.order, device=device)
            for rows in order.split(batch_size):
                sums = self.step(self.trials.take(rows), epoch)
                self.sums.append([value.clone() for value in sums])
        return self

    def state(self):
        state = {name: weight.clone() for name, weight in self.network.state_dict().items()}
        state |= optimizer_tensors(self.optimizer, self.network)
        state |= self.streams.state()
        return state | {f"sums {i}": torch.stack(sums) for i, sums in enumerate(self.sums)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_replayed_steps_are_those_taken_one_by_one(variant):
    settings = tiny_settings(**VARIANTS[variant])
    data = spike_data(10, 6, 4, lengths_B=[6] * 8 + [5, 3])
    one_by_one = _Run(settings, data).train(6)
    replayed = _Run(settings, data, capture_operations).train(6)
    assert len(replayed.sums) > 2 * (WARM_UP_STEPS + 1)
    assert same_tensors(one_by_one.state(), replayed.state())


@pytest.mark.parametrize("heldout", [{}, {"n_heldout": 1, "n_forward": 2}])
def test_trials_of_equal_length_need_no_padding_in_a_graph(heldout):
    settings, data = tiny_settings(), spike_data(10, 6, 4, **heldout)
    one_by_one, replayed = (
        _Run(settings, data, capture).train(5) for capture in (None, capture_operations)
    )
    assert same_tensors(one_by_one.state(), replayed.state())


def test_the_stand_in_notices_what_a_graph_must_not_hold():
    # The rules above mean something only if a number of the host stays as it was captured.
    factor = [1.0]
    into = torch.zeros(())
    replay = capture_operations(lambda: into.add_(factor[0]), [])
    assert into.item() == 0
    factor[0] = 5.0
    replay()
    assert into.item() == 1
    with pytest.raises(RuntimeError, match="capturing"):
        capture_operations(lambda: into.item(), [])


def test_a_replayed_step_that_is_not_finite_changes_nothing_and_is_remembered():
    run = _Run(tiny_settings(), spike_data(8), capture_operations)
    run.train(4)
    n_steps = len(run.sums)
    assert n_steps > WARM_UP_STEPS
    with torch.no_grad():
        run.network.readout.last.bias.fill_(200.0)  # exp overflows
    before = {name: weight.clone() for name, weight in run.network.state_dict().items()}
    run.train(1)
    assert same_tensors(before, run.network.state_dict())
    assert run.step.first_bad_step() == n_steps


def test_steps_are_captured_once_for_each_size_of_batch():
    captured = []

    def capture(function, generators):
        captured.append(len(generators))
        return capture_operations(function, generators)

    _Run(tiny_settings(), spike_data(10), capture).train(12)
    assert captured == [2, 2]  # batches of four and of two; masks and dropout are drawn


def test_steps_that_cannot_be_captured_run_eagerly_with_one_warning():
    def refuse(function, generators):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    settings, data = tiny_settings(), spike_data(10)
    with pytest.warns(RunWarning, match="slower: operation not permitted") as warned:
        eager = _Run(settings, data, refuse).train(4)
    assert len(warned) == 1
    assert "more" not in str(warned[0].message)
    assert same_tensors(_Run(settings, data).train(4).state(), eager.state())


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
    assert graphs["captured"] >= 3
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def _train_losses(run):
    return [record["train_loss"] for record in run_metrics(run)]


def _train_where_capture_fails(folder):
    """Train once kernel by kernel and once with steps that a graph cannot hold."""
    data = recording(10, rates=True)
    by_kernel = changed(GPU_SETTINGS, "train", cuda_graph=False)
    train(by_kernel, out=folder / "kernels", recording=data)
    compute = TrainingStep.compute

    def waits(step, batch):
        sums = compute(step, batch)
        if torch.cuda.is_current_stream_capturing():
            sums[0].item()
        return sums

    TrainingStep.compute = waits
    with pytest.warns(RunWarning, match="kernel by kernel"):
        train(GPU_SETTINGS, out=folder / "failed", recording=data)


@pytest.mark.gpu
def test_a_run_continues_after_a_failed_capture(tmp_path):
    # In a process of its own: what failed stays with a process.
    subprocess.run([sys.executable, __file__, tmp_path], check=True)
    losses = [_train_losses(tmp_path / run) for run in ("kernels", "failed")]
    assert losses[0] == losses[1]
    assert np.isfinite(losses).all()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_run_on_the_second_gpu_is_captured_there(tmp_path, graphs):
    data = recording(10, rates=True)
    for name, device in (("first", "cuda:0"), ("second", "cuda:1")):
        train(changed(GPU_SETTINGS, "train", device=device), out=tmp_path / name, recording=data)
    assert graphs["captured"] >= 2
    losses = [_train_losses(tmp_path / run) for run in ("first", "second")]
    assert losses[0] == losses[1]
    assert len(set(losses[1])) == len(losses[1])  # it goes on learning


if __name__ == "__main__":
    _train_where_capture_fails(Path(sys.argv[1]))
