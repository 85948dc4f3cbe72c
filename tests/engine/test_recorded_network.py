"""Inference by recorded passes: the same read-outs, whatever comes between."""

import gc

import pytest
import torch
from builders import build_network, counts_BTN, model_settings

from ndt_cli.engine.cuda_graphs import RecordedNetwork, Recording
from ndt_cli.engine.trained_model import inferring
from ndt_cli.errors import RunWarning
from ndt_cli.model.cpu.prepared import PreparedNetwork
from ndt_cli.settings.tree import TrainSettings


@pytest.fixture(autouse=True)
def _tries_again(monkeypatch):
    monkeypatch.setattr(Recording, "works", True)


class Recorder:
    """Repeats a function instead of what it did on a device."""

    def __init__(self):
        self.n_recorded = self.n_replayed = 0

    def __call__(self, function, generators):
        assert generators == ()
        self.n_recorded += 1

        def replay():
            self.n_replayed += 1
            function()

        return replay


def _network():
    return build_network(model_settings(n_layers=2, dropout=0.2), 5, 20)


def _assert_infers(recorded, counts, inside_BT=None):
    with torch.inference_mode():
        expected = recorded.network(counts, inside_BT)
    torch.testing.assert_close(recorded(counts, inside_BT), expected, rtol=0, atol=0)


def test_a_shape_that_comes_again_is_replayed_on_the_batch_given():
    recorder = Recorder()
    recorded = RecordedNetwork(_network(), recorder)
    for seed in range(5):
        _assert_infers(recorded, counts_BTN(2, 20, 5, seed=seed))
    assert (recorder.n_recorded, recorder.n_replayed) == (1, 3)
    inside_BT = torch.arange(20) < torch.tensor([[20], [11]])
    for n_trials, inside in ((3, None), (2, inside_BT), (2, ~inside_BT)) * 4:
        _assert_infers(recorded, counts_BTN(n_trials, 20, 5, seed=9), inside)
    assert recorder.n_recorded == 3


def test_a_read_out_is_the_caller_s_own():
    recorded = RecordedNetwork(_network(), Recorder())
    outputs = [recorded(counts_BTN(1, 20, 5, seed=seed)) for seed in range(6)]
    for seed, output in enumerate(outputs):
        with torch.inference_mode():
            expected = recorded.network(counts_BTN(1, 20, 5, seed=seed))
        torch.testing.assert_close(output, expected)


def test_no_more_shapes_are_kept_than_a_few():
    recorder = Recorder()
    recorded = RecordedNetwork(_network(), recorder)
    for n_trials in range(1, 15):
        for _ in range(3):
            _assert_infers(recorded, counts_BTN(n_trials, 20, 5))
    assert recorder.n_recorded == 8


def test_a_pass_that_cannot_be_recorded_is_said_once():
    def fails(function, generators):
        raise RuntimeError("operation not permitted\nmore")

    recorded = RecordedNetwork(_network(), fails)
    for _ in range(2):
        _assert_infers(recorded, counts_BTN(2, 20, 5))
    with pytest.warns(RunWarning, match="not permitted$"):
        _assert_infers(recorded, counts_BTN(2, 20, 5))
    _assert_infers(recorded, counts_BTN(2, 20, 5))  # silent from now on


def test_each_device_infers_in_its_fastest_way():
    network, cpu, cuda = _network(), torch.device("cpu"), torch.device("cuda")
    plain = TrainSettings(plain_layers=True, cuda_graph=False)
    assert isinstance(inferring(network, TrainSettings(), cpu), PreparedNetwork)
    assert isinstance(inferring(network, TrainSettings(), cuda), RecordedNetwork)
    for device in (cpu, cuda):
        assert inferring(network, plain, device) is network


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_replays_what_it_infers_kernel_by_kernel(dtype):
    network = _network().to("cuda")
    network.compute_dtype = dtype
    recorded = RecordedNetwork(network)
    inside_BT = (torch.arange(20) < torch.tensor([[20], [11]])).to("cuda")
    for seed in range(5):
        _assert_infers(recorded, counts_BTN(2, 20, 5, seed=seed).to("cuda"))
        _assert_infers(recorded, counts_BTN(2, 20, 5, seed=seed).to("cuda"), inside_BT)
    assert len(recorded._replays) == 2


@pytest.mark.gpu
def test_what_is_recorded_outlives_what_was_recorded_beside_it(graphs):
    counts = counts_BTN(4, 20, 5).to("cuda")
    networks = [_network().to("cuda") for _ in range(3)]
    for network in networks:
        network.compute_dtype = torch.bfloat16
    kept, gone, later = (RecordedNetwork(network) for network in networks)
    for recorded in (kept, gone):
        for _ in range(4):
            _assert_infers(recorded, counts)
    del gone, recorded
    gc.collect()
    torch.cuda.empty_cache()
    for _ in range(4):
        _assert_infers(later, counts)
        _assert_infers(kept, counts)
    assert graphs["recorded"] == 3
