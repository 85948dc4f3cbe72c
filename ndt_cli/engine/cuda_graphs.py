"""Repeat a step or a forward pass on a GPU by CUDA graphs; on failure warn once and run eagerly.

A step is hundreds of small kernels, and a host takes longer to launch them one by one than a GPU
takes to run them. A CUDA graph launches them all at once, and needs no compiler.
"""

import gc
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ndt_cli.engine.batches import TrialSet
from ndt_cli.engine.step import StepParts, Sums, TrainingStep
from ndt_cli.errors import RunWarning
from ndt_cli.model.network import NeuralDataTransformer, PlainMath

WARM_UP_STEPS = 3
"""Steps on batches of one shape before a capture: in them libraries set themselves up, and the
optimizer creates its state."""

WARM_UP_PASSES = 2
"""Forward passes of one shape before a capture: libraries set themselves up in the first."""

# Shapes of forward passes that are captured; the input and the read-out of each are kept.
_MOST_PASSES = 8

Capture = Callable[[Callable[[], None], Sequence[torch.Generator]], Callable[[], None]]
"""Captures what a function does on the device, drawing from these generators, without running it;
returns what replays it."""

Tensors = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class CudaGraphBackend:
    """Plain layers, with steps and forward passes replayed as CUDA graphs; a `Backend`."""

    dtype: torch.dtype
    captures_steps: bool = True

    @property
    def math(self) -> PlainMath:
        return PlainMath(self.dtype)

    def training_step(self, parts: StepParts) -> TrainingStep:
        return CapturedStep(parts) if self.captures_steps else TrainingStep(parts)

    def inference(self, network: NeuralDataTransformer) -> "CapturedNetwork":
        return CapturedNetwork(network)


class CapturedStep(TrainingStep):
    """Updates the weights by one batch, as `TrainingStep` does; sums hold until the next step."""

    def __init__(self, parts: StepParts, capture: Capture | None = None) -> None:
        super().__init__(parts)
        self._captured = Captured(
            "a training step",
            self._compute_tensors,
            capture or CudaGraphs(self.mask_stream.device),
            self.generators,
            warm_up=WARM_UP_STEPS,
        )

    def compute(self, batch: TrialSet) -> Sums:
        """Take the step; see `TrainingStep.compute`."""
        total, n_scored = self._captured(batch.counts_BTN, batch.inside_BT, batch.visible_1TN)
        return total, n_scored

    def _compute_tensors(
        self, counts_BTN: Tensor, inside_BT: Tensor | None, visible_1TN: Tensor
    ) -> Sums:
        return super().compute(TrialSet(counts_BTN, inside_BT, visible_1TN))


class CapturedNetwork:
    """Gives what a network gives without dropout; an `Inference`."""

    def __init__(self, network: NeuralDataTransformer, capture: Capture | None = None) -> None:
        self.network = network
        self._captured = Captured(
            "inference",
            lambda input_BTN, inside_BT: (network(input_BTN, inside_BT),),
            capture or CudaGraphs(next(network.parameters()).device),
            warm_up=WARM_UP_PASSES,
            most_kinds=_MOST_PASSES,
        )

    @torch.inference_mode()
    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`."""
        (output,) = self._captured(input_BTN, inside_BT)
        return output.clone()  # the next replay writes over it

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations; never captured."""
        return self.network.encode(input_BTN, inside_BT)


class Captured:
    """A function of tensors, captured and replayed once it has run a few times.

    Each kind of call (shapes and dtypes of the arguments: the last batch of an epoch is smaller)
    is captured on its own.
    """

    def __init__(
        self,
        what: str,
        function: Callable[..., tuple[Tensor, ...]],
        capture: Capture,
        generators: Sequence[torch.Generator] = (),
        *,
        warm_up: int,
        most_kinds: int | None = None,
    ) -> None:
        self._what, self._function = what, function
        self._capture, self._generators = capture, generators
        self._warm_up, self._most_kinds = warm_up, most_kinds
        self._n_calls: Counter[tuple[object, ...]] = Counter()
        self._replays: dict[tuple[object, ...], _Replay] = {}
        self._works = True

    def __call__(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Call the function, or replay it with these arguments.

        Warns
        -----
        RunWarning
            Once, when it cannot be captured; from then on it is called eagerly.
        """
        kind = tuple(None if x is None else (x.shape, x.dtype) for x in tensors)
        if kind not in self._replays and self._n_calls[kind] >= self._warm_up:
            self._try_capture(kind, tensors)
        self._n_calls[kind] += 1
        replay = self._replays.get(kind)
        return self._function(*tensors) if replay is None else replay(tensors)

    def _try_capture(self, kind: tuple[object, ...], tensors: Tensors) -> None:
        is_full = self._most_kinds is not None and len(self._replays) >= self._most_kinds
        if is_full or not self._works:
            return
        try:
            self._replays[kind] = _Replay(self._function, self._capture, self._generators, tensors)
        except RuntimeError as error:
            self._works = False
            # The first error, as ending the capture raises another. Only its text: an error kept
            # by the frame that it came through keeps the step's tensors alive.
            reason = str(error.__context__ or error).partition("\n")[0]
            warnings.warn(
                f"{self._what} cannot be captured as a CUDA graph here, and launched kernel by "
                f"kernel it is slower: {reason}",
                RunWarning,
                stacklevel=4,
            )


class _Replay:
    """A captured call, the arguments that it reads and the results that it writes."""

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        capture: Capture,
        generators: Sequence[torch.Generator],
        tensors: Tensors,
    ) -> None:
        self._tensors = [None if x is None else x.clone() for x in tensors]
        self._results: tuple[Tensor, ...] = ()

        def once() -> None:
            self._results = function(*self._tensors)

        self._replay = capture(once, generators)

    def __call__(self, tensors: Tensors) -> tuple[Tensor, ...]:
        for own, given in zip(self._tensors, tensors, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._replay()
        return self._results


@cache
def _refusals(device: torch.device) -> list[str]:
    """Return the errors of captures that failed on a device in this process."""
    del device
    return []


class CudaGraphs:
    """Captures functions as CUDA graphs, of which one runs at a time: they share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._latest: weakref.ref[torch.cuda.CUDAGraph] | None = None

    def __call__(
        self, function: Callable[[], None], generators: Sequence[torch.Generator]
    ) -> Callable[[], None]:
        """Capture a function without running it, and return what replays it.

        A replay advances the generators as the function would.
        """
        failed = _refusals(self.device)
        if failed:  # CUDA may not recover from it, so none is tried again
            raise RuntimeError(failed[0])
        try:
            return self._captured(function, generators)
        except RuntimeError as error:
            failed.append(str(error.__context__ or error))
            raise

    def _captured(
        self, function: Callable[[], None], generators: Sequence[torch.Generator]
    ) -> Callable[[], None]:
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
                        stream=_capture_stream(self.device),
                    ):
                        function()
                finally:
                    torch.cuda.set_stream(stream)  # a failed capture may leave its own
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
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all: libraries keep memory of their own for each stream.
    return torch.cuda.Stream(device)


def _clear_workspaces() -> None:
    """Let products take new working memory, so that a graph's is its own.

    They keep it by stream, and PyTorch 2.12 and 2.13 free it when any graph captured on that stream
    is destroyed (pytorch issue 193402), though others may still be replayed on it.
    """
    clear = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)  # builds for CPUs have none
    if clear is not None:
        clear()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Let no graph be destroyed while another one is captured, which would fail then."""
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
    """Let generators draw from states that belong to a capture, then give theirs back.

    After a failed capture, a state that took part in it can no longer be drawn from. The device's
    default generator takes part in every capture.
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
