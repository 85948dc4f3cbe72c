"""What a function does on a CUDA GPU, recorded as a graph."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch


class CudaGraphs:
    """Records functions as CUDA graphs, of which one runs at a time: they share their memory.

    Parameters
    ----------
    device : torch.device
        The GPU on which the functions compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._latest: weakref.ref[torch.cuda.CUDAGraph] | None = None

    def __call__(
        self, function: Callable[[], None], generators: Sequence[torch.Generator]
    ) -> Callable[[], None]:
        """Record a function. A replay moves the generators on as the function would.

        Raises
        ------
        RuntimeError
            When the function does what a graph cannot hold, such as waiting for the device.
        """
        # CUDA takes the device that is current, whatever that of the tensors is.
        with torch.cuda.device(self.device):
            # The memory of a graph that is gone cannot be taken over, so nothing else is asked.
            latest = self._latest and self._latest()
            graph = torch.cuda.CUDAGraph()
            with _private_states(generators, self.device) as own, _nothing_collected():
                for generator in own:
                    graph.register_generator_state(generator)
                stream = torch.cuda.current_stream()
                _clear_workspaces()
                try:
                    with torch.cuda.graph(
                        graph,
                        pool=latest.pool() if latest else None,
                        stream=_recording_stream(self.device),
                    ):
                        function()
                finally:
                    torch.cuda.set_stream(stream)  # a recording that fails may leave its own
                    _clear_workspaces()
        self._latest = weakref.ref(graph)

        def replay() -> None:
            for generator, its in zip(generators, own, strict=True):
                its.set_state(generator.get_state())
            with torch.cuda.device(self.device):
                graph.replay()
            for generator, its in zip(generators, own, strict=True):
                generator.set_state(its.get_state())

        return replay


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all: libraries keep memory of their own for each stream.
    return torch.cuda.Stream(device)


def _clear_workspaces() -> None:
    """Let products take new working memory, so that a graph's is its own.

    They keep it by stream, and PyTorch 2.12 and 2.13 free it when any graph recorded on that stream
    is destroyed (pytorch issue 193402), though others may still be replayed on it.
    """
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)  # builds for CPUs have none
    if clear is not None:
        clear()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Let no graph be destroyed while another one is recorded, which would fail then."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _private_states(
    generators: Sequence[torch.Generator], device: torch.device
) -> Iterator[list[torch.Generator]]:
    """Let generators draw from states that belong to a recording, and give them theirs back.

    A state that is part of a recording cannot be drawn from otherwise when the recording fails.
    The device's default generator becomes a part of every recording.
    """
    default = torch.cuda.default_generators[device.index or 0]
    given = [*generators, default]
    states = [generator.graphsafe_get_state() for generator in given]
    own = [torch.Generator(device) for _ in given]
    for generator, private in zip(given, own, strict=True):
        private.set_state(generator.get_state())
        generator.graphsafe_set_state(private)
    try:
        yield own[:-1]
    finally:
        for generator, state in zip(given, states, strict=True):
            generator.graphsafe_set_state(state)
