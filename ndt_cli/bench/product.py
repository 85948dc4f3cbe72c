"""The training step of this package, built as a run builds it, and the time of its parts."""

import time

import torch

from ndt_cli.bench.timing import Times, synchronise
from ndt_cli.bench.workload import Workload
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.compiled import CompiledLayers, compiles_layers
from ndt_cli.engine.cpu_parallel import step_class
from ndt_cli.engine.cuda_graphs import RecordedSteps, records_steps
from ndt_cli.engine.device import Compute
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.step import STEP_PARTS, make_optimizer, tell_no_one
from ndt_cli.engine.streams import Streams, stream_seed
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.model.network import ModelShape, NeuralDataTransformer

PARTS = ("data", *STEP_PARTS)
"""What a training step is made of, in order."""


class ProductTraining:
    """Epochs of a `NeuralDataTransformer` over trials that are on the device.

    Parameters
    ----------
    workload : Workload
        Settings.
    data : SpikeData
        The training trials.
    compute : Compute
        Device and precision.
    """

    def __init__(self, workload: Workload, data: SpikeData, compute: Compute) -> None:
        self.settings = workload.settings
        self.device = compute.device
        self.trials = TrialSet.load(data, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.settings.train.seed, "weights"))
            shape = ModelShape(data.n_neurons, data.n_bins, data.max_count)
            self.network = NeuralDataTransformer(self.settings.model, shape).to(self.device)
        self.network.compute_dtype = compute.dtype
        self.network.plain = self.settings.train.plain_layers
        if compiles_layers(self.settings.train, self.device):
            self.network.train_layer = CompiledLayers(workload.n_trials)
        self.optimizer = make_optimizer(self.network.parameters(), self.settings, self.device)
        self.streams = Streams.from_seed(self.settings.train.seed, self.device)
        # Once spans have come, they stay to the end of a run.
        self.epoch = self.settings.mask.span_ramp_end_epoch
        self._step = step_class(self.settings.train, self.device)(
            self.network, self.optimizer, self.settings, self.streams, Ranks()
        )
        self._recorded = RecordedSteps()
        self._batches: list[torch.Tensor] = []

    def next_batch(self) -> TrialSet:
        """Return the next trials of a random order of all."""
        if not self._batches:
            order = torch.randperm(
                len(self.trials), generator=self.streams.order, device=self.device
            )
            self._batches = list(order.split(self.settings.train.batch_size))
        return self.trials.take(self._batches.pop())

    def step(self) -> None:
        """Take the next batch and change the weights by it."""
        batch = self.next_batch()
        if records_steps(self.settings.train, self.device):
            self._recorded([self._step], [batch], [self.epoch])
        else:
            self._step(batch, self.epoch)

    def time_parts(self, n_steps: int) -> dict[str, Times]:
        """Take steps, and wait for the device after each of their `PARTS`.

        The parts add up to more than a step, which waits once. Where several threads share a step,
        forward is that of the first, and backward ends when all have ended.
        """
        clock = _Clock(self.device)
        self._step.tell_end = clock.end
        for _ in range(n_steps):
            clock.start()
            batch = self.next_batch()
            clock.end("data")
            self._step(batch, self.epoch)
        self._step.tell_end = tell_no_one
        return {part: Times(tuple(clock.seconds[part])) for part in PARTS}


class _Clock:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}

    def start(self) -> None:
        synchronise(self.device)
        self._last = time.perf_counter()

    def end(self, part: str) -> None:
        """Count the time since the last end for this part."""
        last = self._last
        self.start()
        self.seconds[part].append(self._last - last)
