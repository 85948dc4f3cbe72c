"""Inference by captured passes: the same read-outs, whatever comes between."""

import gc

import pytest
import torch
from builders import build_network, counts_BTN, model_settings, tiny_settings

from ndt_cli.engine.backend import PlainBackend, choose_backend
from ndt_cli.engine.batches import Streams
from ndt_cli.engine.cpu_parallel import CpuBackend, ShardedStep
from ndt_cli.engine.cuda_graphs import CapturedNetwork, CapturedStep, CudaGraphBackend
from ndt_cli.engine.device import Compute
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.optimizer import make_optimizer
from ndt_cli.engine.step import StepParts, TrainingStep
from ndt_cli.errors import RunWarning
from ndt_cli.model.cpu.prepared import PreparedNetwork
from ndt_cli.model.network import PlainMath
from ndt_cli.settings.tree import TrainSettings


class Capture:
    """Repeats a function instead of what it did on a device."""

    def __init__(self):
        self.n_captured = self.n_replayed = 0

    def __call__(self, function, generators):
        assert not generators
        self.n_captured += 1

        def replay():
            self.n_replayed += 1
            function()

        return replay


def _network():
    return build_network(model_settings(n_layers=2, dropout=0.2), 5, 20)


def _assert_infers(captured, counts, inside_BT=None):
    with torch.inference_mode():
        expected = captured.network(counts, inside_BT)
    torch.testing.assert_close(captured(counts, inside_BT), expected, rtol=0, atol=0)


def test_a_shape_that_comes_again_is_replayed_on_the_batch_given():
    capture = Capture()
    captured = CapturedNetwork(_network(), capture)
    for seed in range(5):
        _assert_infers(captured, counts_BTN(2, 20, 5, seed=seed))
    assert (capture.n_captured, capture.n_replayed) == (1, 3)
    inside_BT = torch.arange(20) < torch.tensor([[20], [11]])
    for n_trials, inside in ((3, None), (2, inside_BT), (2, ~inside_BT)) * 4:
        _assert_infers(captured, counts_BTN(n_trials, 20, 5, seed=9), inside)
    assert capture.n_captured == 3


def test_a_readout_is_a_copy_of_its_caller():
    captured = CapturedNetwork(_network(), Capture())
    outputs = [captured(counts_BTN(1, 20, 5, seed=seed)) for seed in range(6)]
    for seed, output in enumerate(outputs):
        with torch.inference_mode():
            expected = captured.network(counts_BTN(1, 20, 5, seed=seed))
        torch.testing.assert_close(output, expected)


def test_no_more_shapes_are_kept_than_a_few():
    capture = Capture()
    captured = CapturedNetwork(_network(), capture)
    for n_trials in range(1, 15):
        for _ in range(3):
            _assert_infers(captured, counts_BTN(n_trials, 20, 5))
    assert capture.n_captured == 8


def test_a_pass_that_cannot_be_captured_warns_once():
    def fails(function, generators):
        raise RuntimeError("operation not permitted\nmore")

    captured = CapturedNetwork(_network(), fails)
    for _ in range(2):
        _assert_infers(captured, counts_BTN(2, 20, 5))
    with pytest.warns(RunWarning, match="not permitted$"):
        _assert_infers(captured, counts_BTN(2, 20, 5))
    _assert_infers(captured, counts_BTN(2, 20, 5))  # silent from now on


@pytest.mark.parametrize(
    ("settings", "device", "world_size", "backend"),
    [
        ({}, "cpu", 1, CpuBackend(torch.float32)),
        ({}, "cpu", 2, CpuBackend(torch.float32, shares_steps=False)),
        ({"plain_layers": True}, "cpu", 1, PlainBackend(torch.float32)),
        ({}, "cuda", 1, CudaGraphBackend(torch.float32)),
        ({}, "cuda", 2, CudaGraphBackend(torch.float32, captures_steps=False)),
        ({"cuda_graph": False}, "cuda", 1, PlainBackend(torch.float32)),
        ({}, "mps", 1, PlainBackend(torch.float32)),
    ],
)
def test_each_device_computes_in_its_fastest_way(settings, device, world_size, backend):
    compute = Compute(torch.device(device), torch.float32)
    assert choose_backend(TrainSettings(**settings), compute, world_size) == backend


def test_a_backend_infers_and_trains_in_its_way():
    network, dtype = _network(), torch.float32
    assert isinstance(CpuBackend(dtype).inference(network), PreparedNetwork)
    assert isinstance(CudaGraphBackend(dtype).inference(network), CapturedNetwork)
    assert PlainBackend(dtype).inference(network) is network
    settings, cpu = tiny_settings(), torch.device("cpu")
    optimizer = make_optimizer(network, settings, cpu)
    parts = StepParts(network, optimizer, settings, Streams.from_seed(0, cpu), Ranks())
    assert type(CpuBackend(dtype).training_step(parts)) is ShardedStep
    assert type(CpuBackend(dtype, shares_steps=False).training_step(parts)) is TrainingStep
    assert type(CudaGraphBackend(dtype).training_step(parts)) is CapturedStep
    assert type(CudaGraphBackend(dtype, captures_steps=False).training_step(parts)) is TrainingStep
    assert type(PlainBackend(dtype).training_step(parts)) is TrainingStep


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_replays_what_it_infers_kernel_by_kernel(dtype):
    network = _network().to("cuda")
    network.math = PlainMath(dtype)
    captured = CapturedNetwork(network)
    inside_BT = (torch.arange(20) < torch.tensor([[20], [11]])).to("cuda")
    for seed in range(5):
        _assert_infers(captured, counts_BTN(2, 20, 5, seed=seed).to("cuda"))
        _assert_infers(captured, counts_BTN(2, 20, 5, seed=seed).to("cuda"), inside_BT)
    assert len(captured._captured._replays) == 2


@pytest.mark.gpu
def test_what_is_captured_outlives_what_was_captured_beside_it(graphs):
    counts = counts_BTN(4, 20, 5).to("cuda")
    networks = [_network().to("cuda") for _ in range(3)]
    for network in networks:
        network.math = PlainMath(torch.bfloat16)
    kept, gone, later = (CapturedNetwork(network) for network in networks)
    for captured in (kept, gone):
        for _ in range(4):
            _assert_infers(captured, counts)
    del gone, captured
    gc.collect()
    torch.cuda.empty_cache()
    for _ in range(4):
        _assert_infers(later, counts)
        _assert_infers(kept, counts)
    assert graphs["captured"] == 3
