"""A training step of several runs at once, with a leading axis of runs."""

from collections.abc import Sequence

import torch

from ndt_cli.engine.cuda_graphs import RecordedSteps
from ndt_cli.engine.device import free_gpu_bytes
from ndt_cli.engine.step import Sums, TrainingStep
from ndt_cli.engine.trainer import StepRequest, Trainer
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.model.population import Population
from ndt_cli.model.shape_settings import SHAPE_SETTINGS

# On a CPU a batch of more bins than this fills it: the layers written for one network are faster.
_FEW_BINS = 1000

# Of a GPU's free memory, what a population may take.
_SHARE_OF_MEMORY = 0.7
_MOST_MEMBERS = 64


class StepTogether:
    """Takes the steps that several runs ask for as one batched step.

    Each run draws its own masks and dropout, has its own optimizer and schedule, and gets the
    weights that it gets alone, to rounding. What all must share: `batch_key`.
    """

    def __init__(self) -> None:
        self._populations: dict[tuple[int, ...], Population] = {}
        self._recorded = RecordedSteps(self._take)

    def __call__(self, trainers: Sequence[Trainer], requests: Sequence[StepRequest]) -> list[Sums]:
        """Take a step of each; return the summed loss and scored entries of each."""
        steps = [trainer.step for trainer in trainers]
        batches = [request.batch for request in requests]
        epochs = [request.epoch for request in requests]
        if trainers[0].records_steps:
            return self._recorded(steps, batches, epochs)
        for step, epoch in zip(steps, epochs, strict=True):
            step.begin(epoch)
        return self._take(steps, batches)

    def forget(self, trainer: Trainer) -> None:
        """Let go of what was kept for a run that has ended."""
        self._recorded.forget(trainer.step)
        self._populations = {
            key: population
            for key, population in self._populations.items()
            if trainer.step.network not in population.networks
        }

    def _take(self, steps: Sequence[TrainingStep], batches: Sequence[TrialSet]) -> list[Sums]:
        masked = [step.masked(batch) for step, batch in zip(steps, batches, strict=True)]
        inside = [batch.inside_BT for batch in batches]
        output_MBTN = self._population(steps)(
            torch.stack([hidden.input_BTN for hidden in masked]),
            None if inside[0] is None else torch.stack([i for i in inside if i is not None]),
            [step.dropout for step in steps],
        )
        sums = [
            step.scored_sum(output_BTN, batch.counts_BTN, hidden.scored_BTN.expand(batch.shape))
            for step, output_BTN, batch, hidden in zip(
                steps, output_MBTN, batches, masked, strict=True
            )
        ]
        losses = [total / n_scored.clamp_min(1) for total, n_scored in sums]
        for step in steps:
            step.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        for step, loss in zip(steps, losses, strict=True):
            step.update(loss.detach())
        return [(total.detach(), n_scored) for total, n_scored in sums]

    def _population(self, steps: Sequence[TrainingStep]) -> Population:
        key = tuple(id(step.network) for step in steps)
        if key not in self._populations:
            self._populations[key] = Population([step.network for step in steps])
        return self._populations[key]


def pays_together(trainer: Trainer, request: StepRequest) -> bool:
    """Tell whether runs that take this step together are faster than one after another."""
    n_trials, n_bins, _ = request.batch.shape
    return trainer.compute.device.type != "cpu" or n_trials * n_bins <= _FEW_BINS


def members_that_fit(trainer: Trainer) -> int:
    """Return how many runs like this one the memory of its device holds at once.

    On a GPU by the peak of a step, which is taken on the run's own weights with nothing changed;
    elsewhere as many as pay.
    """
    device = trainer.compute.device
    if device.type != "cuda":
        return _MOST_MEMBERS
    n_trials, size = len(trainer.trials), trainer.settings.train.batch_size
    batch = trainer.trials.take(slice(0, size))
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    trainer.network(batch.counts_BTN, batch.inside_BT).sum().backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    # Dropout masks, and the weights with their gradients and two moments, come on top.
    weights = 16 * sum(p.numel() for p in trainer.network.parameters())
    one = 2 * (torch.cuda.max_memory_allocated(device) - before)
    if trainer.records_steps and n_trials > size:
        # What a recorded step takes is kept from a smaller last batch, which takes its own.
        one += one * (n_trials % size) // size
    free = free_gpu_bytes(device)
    return max(1, min(_MOST_MEMBERS, int(_SHARE_OF_MEMORY * free / (one + weights))))


# Settings that change a computation, but not the shapes of its weights.
_COURSE = {"position_offset", "activation", "norm_place", "log_rates"}


def batch_key(trainer: Trainer, request: StepRequest) -> tuple[object, ...]:
    """Return what steps have in common that can be taken together.

    Beside the shapes of weights and batch: what changes the course of the computation.
    """
    sections = (name.partition(".") for name in SHAPE_SETTINGS)
    shapes = {name for section, _, name in sections if section == "model"}
    model = trainer.settings.model.model_dump(include=shapes | _COURSE)
    padded = request.batch.inside_BT is not None
    plain = trainer.settings.train.plain_layers
    return (*model.items(), request.batch.shape, padded, trainer.compute, plain)
