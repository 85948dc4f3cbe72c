"""Training steps that a GPU repeats as a whole: recorded once, replayed from then on.

A step is hundreds of small kernels, and to launch them one by one takes a host longer than a GPU
needs to run them. A CUDA graph launches them all at once, and needs no compiler.
"""

from collections.abc import Callable, Sequence

import torch

from ndt_cli.engine.cuda_graphs import CudaGraphs
from ndt_cli.engine.recording import Record, Recording
from ndt_cli.engine.step import Sums, TrainingStep
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.settings.tree import TrainSettings

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
