"""Threads that each take some of the trials: the step of one thread, to rounding."""

import threading

import numpy as np
import pytest
import torch
from builders import (
    NO_DROPOUT,
    build_network,
    last_checkpoint,
    recording,
    same_tensors,
    snapshot,
    spike_data,
    tiny_settings,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from same_run import assert_same_run

from ndt_cli.engine import cpu_parallel
from ndt_cli.engine.batches import Streams, TrialSet
from ndt_cli.engine.cpu_parallel import ShardedStep
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.optimizer import make_optimizer
from ndt_cli.engine.step import StepParts, TrainingStep
from ndt_cli.engine.training import resume, train

CPU = torch.device("cpu")
UNEVEN = {"lengths_B": [6] * 8 + [5, 3, 2]}


@pytest.fixture(autouse=True)
def _small_shares(monkeypatch):
    monkeypatch.setattr(cpu_parallel, "_LEAST_NUMBERS", 1)


class _Run:
    def __init__(self, kind, run_settings, data):
        self.batch = TrialSet.load(data, CPU)
        shape = (data.n_neurons, data.n_bins, data.max_count)
        self.network = build_network(run_settings.model, *shape)
        self.optimizer = make_optimizer(self.network, run_settings, CPU)
        self.streams = Streams.from_seed(0, CPU)
        self.step = kind(
            StepParts(self.network, self.optimizer, run_settings, self.streams, Ranks())
        )

    def train(self, n_threads, n_steps=4):
        with cpu_threads(n_threads):
            self.sums = torch.stack([torch.stack(self.step(self.batch, 0)) for _ in range(n_steps)])
        return self


def _runs(run_settings, data, n_threads, **how):
    """Return the same steps, taken as a whole by one thread and shared out among several."""
    whole = _Run(TrainingStep, run_settings, data).train(1, **how)
    return whole, _Run(ShardedStep, run_settings, data).train(n_threads, **how)


def _assert_same_but_for_rounding(whole, shared):
    torch.testing.assert_close(shared.sums, whole.sums, rtol=2e-5, atol=1e-5)
    for name, weight in whole.network.state_dict().items():
        if not name.endswith("qkv.bias"):  # that of the keys has no gradient but rounding
            found = shared.network.state_dict()[name]
            torch.testing.assert_close(found, weight, rtol=0, atol=2e-4, msg=name)
    assert same_tensors(whole.streams.state(), shared.streams.state())


@pytest.mark.parametrize("n_threads", [2, 3, 4, 9])
@pytest.mark.parametrize("data", [{}, UNEVEN, {"n_heldout": 1, "n_forward": 2}])
def test_shares_give_the_sums_and_weights_of_the_whole(n_threads, data):
    mask = {"mode": "full", "token_ratio": 0.5, "max_span": 3}
    run_settings = tiny_settings(mask=mask, train={"learning_rate": 3e-3})
    _assert_same_but_for_rounding(*_runs(run_settings, spike_data(11, **data), n_threads))


@settings(deadline=None, max_examples=25)
@given(
    n_trials=st.integers(2, 9),
    n_bins=st.integers(1, 9),
    n_threads=st.integers(2, 5),
    model=st.fixed_dictionaries(
        {
            "embedding": st.sampled_from(["identity", "count-table", "linear"]),
            "norm_place": st.sampled_from(["pre", "post"]),
            "activation": st.sampled_from(["relu", "gelu"]),
            "loss": st.sampled_from(["poisson", "cross-entropy"]),
            "dropout": st.sampled_from([0.0, 0.3]),
            "dropout_embedding": st.sampled_from([0.0, 0.2]),
            "context_back": st.integers(0, 4),
        }
    ),
    mode=st.sampled_from(["timestep", "full", "neuron", "timestep-only"]),
)
def test_shares_of_any_settings_give_the_loss_and_gradient_of_the_whole(
    n_trials, n_bins, n_threads, model, mode
):
    run_settings = tiny_settings(model=model, mask={"mode": mode})
    data = spike_data(n_trials, n_bins, 4)
    whole, shared = _runs(run_settings, data, n_threads, n_steps=1)
    torch.testing.assert_close(shared.sums, whole.sums, rtol=2e-5, atol=1e-5)
    for ours, theirs in zip(shared.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_the_same_number_of_threads_gives_the_same_bits():
    run_settings = tiny_settings(train={"learning_rate": 0.01})
    first, again = (
        _Run(ShardedStep, run_settings, spike_data(11)).train(3, n_steps=10) for _ in range(2)
    )
    assert same_tensors(snapshot(first.network), snapshot(again.network))
    assert torch.equal(first.sums, again.sums)


def test_every_thread_takes_its_trials(monkeypatch):
    seen = {}
    forward = cpu_parallel.NeuralDataTransformer.forward

    def note(network, input_BTN, *rest):
        seen.setdefault(threading.current_thread().name, []).append(len(input_BTN))
        return forward(network, input_BTN, *rest)

    monkeypatch.setattr(cpu_parallel.NeuralDataTransformer, "forward", note)
    before = torch.get_num_threads()
    _Run(ShardedStep, tiny_settings(), spike_data(11)).train(4, n_steps=1)
    assert sorted(n for of_thread in seen.values() for n in of_thread) == [2, 3, 3, 3]
    assert torch.get_num_threads() == before


def test_a_small_batch_is_computed_by_one_thread(monkeypatch):
    monkeypatch.setattr(cpu_parallel, "_LEAST_NUMBERS", 10**6)
    run, n_threads = _Run(ShardedStep, tiny_settings(), spike_data(8)), []
    forward = cpu_parallel.NeuralDataTransformer.forward

    def note(network, *batch):
        n_threads.append(torch.get_num_threads())
        return forward(network, *batch)

    monkeypatch.setattr(cpu_parallel.NeuralDataTransformer, "forward", note)
    run.train(4, n_steps=2)
    assert n_threads == [1, 1]
    assert "_pool" not in vars(run.step)


def test_the_worst_entries_are_those_of_the_whole_batch():
    run_settings = tiny_settings(train={"topk_fraction": 0.3})
    whole, shared = _runs(run_settings, spike_data(11), 3)
    _assert_same_but_for_rounding(whole, shared)


def test_a_step_that_is_not_finite_in_one_share_changes_nothing():
    data = spike_data(8)
    run = _Run(ShardedStep, tiny_settings(model=NO_DROPOUT), data).train(2, n_steps=2)
    with torch.no_grad():
        run.network.readout.last.bias.fill_(200.0)  # exp overflows
    before = snapshot(run.network)
    run.train(2, n_steps=1)
    assert same_tensors(snapshot(run.network), before)
    assert run.step.first_bad_step() == 2


def test_an_error_in_one_share_is_that_of_the_step(monkeypatch):
    run = _Run(ShardedStep, tiny_settings(), spike_data(8))
    run.train(2, n_steps=1)

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(run.step._networks[1], "forward", fail)
    before = torch.get_num_threads()
    with pytest.raises(MemoryError, match="no room"):
        run.train(2, n_steps=1)
    assert torch.get_num_threads() == before


def test_steps_lower_the_loss():
    run_settings = tiny_settings(train={"learning_rate": 0.01})
    run = _Run(ShardedStep, run_settings, spike_data(8)).train(2, n_steps=120)
    losses = (run.sums[:, 0] / run.sums[:, 1]).numpy()
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.05


def test_a_run_whose_trials_are_shared_out_resumes_to_the_last_bit(tmp_path):
    run_settings = tiny_settings(train={"n_threads": 3, "max_epochs": 4, "learning_rate": 0.01})
    data = recording(10, rates=True)
    train(run_settings, out=tmp_path / "whole", recording=data)
    seen = []
    train(  # stopped within an epoch
        run_settings,
        out=tmp_path / "parts",
        recording=data,
        watch=seen.append,
        should_stop=lambda: len(seen) > 6,
    )
    assert last_checkpoint(tmp_path / "parts").progress["step"] > 0
    resume(tmp_path / "parts", recording=data)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
