"""What a function does on a CUDA GPU, recorded as a graph."""

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from ndt_cli.engine.step import Sums, TrainingStep
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.errors import RunWarning
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import TrainSettings


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


# ------------------------------------------------------------------------------------------------
# Recording what a GPU then repeats as a whole; where that fails, it is said once.
# ------------------------------------------------------------------------------------------------


Record = Callable[[Callable[[], None], Sequence[torch.Generator]], Callable[[], None]]
"""Records what a function does on the device, drawing from these generators, without doing it;
returns what does it."""

_T = TypeVar("_T")


class Recording:
    """What this process may record.

    Attributes
    ----------
    works : bool
        False after a recording failed: CUDA may not recover from it, so none is tried again.
    """

    works = True

    @classmethod
    def attempt(cls, what: str, record: Callable[[], _T]) -> _T | None:
        """Return what ``record`` returns; None where recording has failed, now or before.

        Warns
        -----
        RunWarning
            When it fails now; ``what`` is its subject.
        """
        if not cls.works:
            return None
        try:
            return record()
        except RuntimeError as error:
            cls.works = False
            # The first error; ending the recording is another. Only its text: an error kept by the
            # frame that it came through keeps the step's tensors alive.
            told = str(error.__context__ or error).partition("\n")[0]
            warnings.warn(
                f"{what} cannot be recorded as a CUDA graph here, and launched kernel by kernel it "
                f"is slower: {told}",
                RunWarning,
                stacklevel=3,
            )
            return None


# ------------------------------------------------------------------------------------------------
# Training steps that a GPU repeats as a whole: recorded once, replayed from then on.
#
# A step is hundreds of small kernels, and to launch them one by one takes a host longer than a GPU
# needs to run them. A CUDA graph launches them all at once, and needs no compiler.
# ------------------------------------------------------------------------------------------------


# Steps of a kind before it is recorded: in them libraries set themselves up, and the optimizer
# makes its state.
WARM_UP_STEPS = 3

Take = Callable[[Sequence[TrainingStep], Sequence[TrialSet]], list[Sums]]
"""Takes a step of each of several runs, on a batch each."""


def records_steps(settings: TrainSettings, device: torch.device, world_size: int = 1) -> bool:
    """Tell whether a run's steps are recorded; processes that train together wait within one."""
    return settings.cuda_graph and device.type == "cuda" and world_size == 1


def take_each(steps: Sequence[TrainingStep], batches: Sequence[TrialSet]) -> list[Sums]:
    """Take the steps one after another."""
    return [step.take(batch) for step, batch in zip(steps, batches, strict=True)]


class RecordedSteps:
    """Takes steps by replaying them, once they have been taken a few times.

    Each kind (these runs, batches of these shapes: the last batch of an epoch is smaller) is
    recorded on its own. Weights and sums are those of steps taken kernel by kernel; sums hold until
    the next step.

    Parameters
    ----------
    take : callable
        Takes a step of each of several runs.
    record : callable, optional
        How it is recorded. Default: as CUDA graphs.
    """

    def __init__(self, take: Take = take_each, record: Record | None = None) -> None:
        self._take = take
        self._record = record
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def __call__(
        self, steps: Sequence[TrainingStep], batches: Sequence[TrialSet], epochs: Sequence[int]
    ) -> list[Sums]:
        """Take a step of each run, on its batch, in its epoch.

        Warns
        -----
        RunWarning
            Once, when steps cannot be recorded; they are then taken kernel by kernel.
        """
        for step, epoch in zip(steps, epochs, strict=True):
            step.begin(epoch)
        key = _key(steps, batches)
        if key not in self._kinds:
            self._kinds[key] = _Kind(steps)
        kind = self._kinds[key]
        if kind.replay is None and kind.n_taken >= WARM_UP_STEPS:
            kind.replay = self._recorded(steps, batches)
        kind.n_taken += 1
        return self._take(steps, batches) if kind.replay is None else kind.replay(batches)

    def _recorded(
        self, steps: Sequence[TrainingStep], batches: Sequence[TrialSet]
    ) -> "_Replay | None":
        record = self._record = self._record or CudaGraphs(batches[0].counts_BTN.device)
        return Recording.attempt(
            "a training step", lambda: _Replay(self._take, record, steps, batches)
        )

    def forget(self, step: TrainingStep) -> None:
        """Let go of what was recorded with a run that has ended."""
        self._kinds = {key: kind for key, kind in self._kinds.items() if step not in kind.steps}


def _key(steps: Sequence[TrainingStep], batches: Sequence[TrialSet]) -> tuple[object, ...]:
    """Return what makes steps of one kind; a recording knows nothing of settings that change."""
    return (
        *((id(step), id(step.settings)) for step in steps),
        *((batch.shape, batch.inside_BT is None) for batch in batches),
    )


class _Kind:
    """Steps of one kind: how many were taken, and their replay once there is one."""

    def __init__(self, steps: Sequence[TrainingStep]) -> None:
        # Held, so that no others come to have their ids.
        self.steps = list(steps)
        self.settings = [step.settings for step in steps]
        self.n_taken = 0
        self.replay: _Replay | None = None


class _Replay:
    """A recorded step, the batches that it reads and the sums that it writes."""

    def __init__(
        self,
        take: Take,
        record: Record,
        steps: Sequence[TrainingStep],
        batches: Sequence[TrialSet],
    ) -> None:
        self._batches = [batch.copy() for batch in batches]
        self._sums: list[Sums] = []

        def once() -> None:
            self._sums = take(steps, self._batches)

        generators = [generator for step in steps for generator in step.generators]
        self._replay = record(once, generators)

    def __call__(self, batches: Sequence[TrialSet]) -> list[Sums]:
        for own, batch in zip(self._batches, batches, strict=True):
            own.fill(batch)
        self._replay()
        return self._sums


# ------------------------------------------------------------------------------------------------
# A network that a GPU infers with by CUDA graphs, without launching its kernels one by one.
# ------------------------------------------------------------------------------------------------


WARM_UP_PASSES = 2
"""Batches of a shape before it is recorded: libraries set themselves up in the first."""

# Shapes that are recorded; of each the input and the read-out are kept.
_MOST_KINDS = 8


class RecordedNetwork:
    """Gives what a `NeuralDataTransformer` gives without dropout.

    A shape of batch that comes again is recorded, and replayed from then on.

    Parameters
    ----------
    network : NeuralDataTransformer
        Changes of its weights, in place, are seen.
    record : callable, optional
        How a pass is recorded. Default: as CUDA graphs.
    """

    def __init__(self, network: NeuralDataTransformer, record: Record | None = None) -> None:
        self.network = network
        self._record = record or CudaGraphs(next(network.parameters()).device)
        self._n_seen: dict[tuple[object, ...], int] = {}
        self._replays: dict[tuple[object, ...], _Pass] = {}

    @torch.inference_mode()
    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`.

        Warns
        -----
        RunWarning
            Once, when a pass cannot be recorded; kernels are then launched one by one.
        """
        key = (input_BTN.shape, input_BTN.dtype, inside_BT is None)
        n_seen = self._n_seen[key] = self._n_seen.get(key, 0) + 1
        if (
            key not in self._replays
            and n_seen > WARM_UP_PASSES
            and len(self._replays) < _MOST_KINDS
        ):
            recorded = Recording.attempt(
                "inference", lambda: _Pass(self.network, self._record, input_BTN, inside_BT)
            )
            if recorded is not None:
                self._replays[key] = recorded
        if key in self._replays:
            return self._replays[key](input_BTN, inside_BT)
        output: Tensor = self.network(input_BTN, inside_BT)
        return output

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations; never recorded."""
        return self.network.encode(input_BTN, inside_BT)


class _Pass:
    """A recorded pass, the batch that it reads and the read-out that it writes."""

    def __init__(
        self,
        network: NeuralDataTransformer,
        record: Record,
        input_BTN: Tensor,
        inside_BT: Tensor | None,
    ) -> None:
        self._input_BTN = input_BTN.clone()
        self._inside_BT = None if inside_BT is None else inside_BT.clone()

        self._output: Tensor

        def once() -> None:
            self._output = network(self._input_BTN, self._inside_BT)

        self._replay = record(once, ())

    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None) -> Tensor:
        self._input_BTN.copy_(input_BTN)
        if self._inside_BT is not None and inside_BT is not None:
            self._inside_BT.copy_(inside_BT)
        self._replay()
        return self._output.clone()  # the next replay writes over it
