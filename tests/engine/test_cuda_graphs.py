"""Capturing a CUDA graph: on its device, with generators that stay good when it fails.

CUDA is there in name only; the tests marked gpu in test_captured_steps.py take real graphs.
"""

import gc
from contextlib import contextmanager

import pytest
import torch

from ndt_cli.engine import cuda_graphs
from ndt_cli.engine.cuda_graphs import CudaGraphs


class _Generator:
    """A generator whose state is a number, with the interface that those of a GPU have."""

    def __init__(self, device=None):
        self.memory = [0]

    def get_state(self):
        return self.memory[0]

    def set_state(self, state):
        self.memory[0] = state

    def graphsafe_get_state(self):
        shared = _Generator()
        shared.memory = self.memory
        return shared

    def graphsafe_set_state(self, other):
        self.memory = other.memory


@pytest.fixture
def mocked_cuda(monkeypatch):
    """CUDA in name only; returns what happened, in order."""
    happened = []

    class Graph:
        def __init__(self):
            self.part_of_it = []

        def register_generator_state(self, generator):
            self.part_of_it.append(generator.memory)

        def pool(self):
            return "pool", id(self)

        def replay(self):
            happened.append(("replay", self))
            for memory in self.part_of_it:
                memory[0] += 10

    @contextmanager
    def graph(graph, pool, stream):
        happened.append(("record", pool))
        yield
        happened.append(("recorded", gc.isenabled()))

    @contextmanager
    def device(wanted):
        happened.append(("device", wanted.index))
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(cuda_graphs, "_capture_stream", lambda device: "capturing")
    monkeypatch.setattr(
        torch._C, "_cuda_clearCublasWorkspaces", lambda: happened.append(("clear", None)), False
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "current")
    monkeypatch.setattr(
        torch.cuda, "set_stream", lambda stream: happened.append(("stream", stream))
    )
    defaults = tuple(_Generator() for _ in range(2))
    monkeypatch.setattr(torch.cuda, "default_generators", defaults)
    monkeypatch.setattr(torch, "Generator", _Generator)
    cuda_graphs._refusals.cache_clear()
    yield happened
    cuda_graphs._refusals.cache_clear()


def test_captures_have_states_of_their_own_and_move_the_generators_on(mocked_cuda):
    generator = _Generator()
    generator.set_state(5)
    memory = generator.memory
    graphs = CudaGraphs(torch.device("cuda", 1))

    def draw():
        assert generator.get_state() == 5
        generator.set_state(99)  # a capture draws from nothing that is drawn from otherwise

    replays = [graphs(draw, [generator]) for _ in range(2)]
    assert generator.memory is memory
    assert generator.get_state() == 5
    replays[0]()
    replays[1]()
    assert generator.get_state() == 25
    assert {index for what, index in mocked_cuda if what == "device"} == {1}
    (_, first), (_, second) = (done for done in mocked_cuda if done[0] == "record")
    assert first is None
    assert second[0] == "pool"


def test_a_capture_has_working_memory_of_its_own_and_nothing_is_collected_meanwhile(mocked_cuda):
    assert gc.isenabled()
    CudaGraphs(torch.device("cuda", 1))(lambda: None, [])
    done = [what for what in mocked_cuda if what[0] in ("clear", "record", "recorded")]
    assert done == [("clear", None), ("record", None), ("recorded", False), ("clear", None)]
    assert gc.isenabled()


def test_a_capture_that_fails_leaves_generators_and_stream_as_they_were(mocked_cuda):
    generator, default = _Generator(), torch.cuda.default_generators[1]
    before = [(each, each.memory) for each in (generator, default)]
    generator.set_state(5)

    def fail():
        generator.set_state(99)
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        CudaGraphs(torch.device("cuda", 1))(fail, [generator])
    assert all(each.memory is memory for each, memory in before)
    assert generator.get_state() == 5
    assert mocked_cuda[-2:] == [("stream", "current"), ("clear", None)]
    assert gc.isenabled()


def test_a_failed_capture_is_not_retried(mocked_cuda):
    def fail():
        raise RuntimeError("operation not permitted when stream is capturing")

    for function in (fail, lambda: None):
        with pytest.raises(RuntimeError, match="capturing"):
            CudaGraphs(torch.device("cuda", 1))(function, [])
    assert len([what for what in mocked_cuda if what[0] == "record"]) == 1
    CudaGraphs(torch.device("cuda", 0))(lambda: None, [])  # another device
