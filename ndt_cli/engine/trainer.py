"""The learning rate as a pure function of the epoch."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn.parallel import DistributedDataParallel

from ndt_cli.baselines import starting_rates
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint, Progress, optimizer_tensors
from ndt_cli.engine.compiled import CompiledLayers, compiles_layers
from ndt_cli.engine.cpu_parallel import step_class
from ndt_cli.engine.cuda_graphs import RecordedSteps, records_steps
from ndt_cli.engine.device import Compute
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import EpochDone, Event, Started, StepDone, Watcher
from ndt_cli.engine.preflight import check_limits, check_trainable
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.saving import Saver, take_later_best
from ndt_cli.engine.step import Sums, make_optimizer, set_learning_rate
from ndt_cli.engine.streams import Streams, stream_seed
from ndt_cli.engine.tensorboard import EventLog
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.engine.validation import Validator
from ndt_cli.errors import TrainingError
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import Settings, TrainSettings


def learning_rate(epoch: int, settings: TrainSettings) -> float:
    """Return the learning rate of an epoch, counted from 0.

    1. Warm-up: rises linearly and reaches the peak in the last warm-up epoch.
    2. After it: stays, falls as a half cosine to zero at ``max_epochs``, or falls as
       ``sqrt(warmup_epochs / (epoch + 1))``, which starts at the peak. (NDT1 multiplies the
       inverse square root by the base rate twice.)
    """
    peak, warmup = settings.learning_rate, settings.warmup_epochs
    if epoch < warmup:
        return peak * (epoch + 1) / warmup
    if settings.schedule == "cosine":
        progress = (epoch - warmup) / (settings.max_epochs - warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if settings.schedule == "inverse-sqrt":
        return peak * math.sqrt(warmup / (epoch + 1))
    return peak


# ------------------------------------------------------------------------------------------------
# The state of a training run, and its loop.
# ------------------------------------------------------------------------------------------------


Stopped = Literal["finished", "early", "interrupted"]
"""How training ended: all epochs done, no improvement for long, or asked to stop."""


@dataclass(frozen=True)
class TrainResult:
    """What training leaves behind.

    Attributes
    ----------
    run : Path
        The run folder.
    history : list of dict
        The records of ``metrics.jsonl``, one an epoch.
    best : dict
        By checkpoint name: best value and the number of epochs done when it came.
    stopped : {"finished", "early", "interrupted"}
        All epochs done, no improvement for long, or asked to stop.
    seconds : float
        Time spent training, over all resumptions.
    """

    run: Path
    history: list[dict[str, float]]
    best: dict[str, tuple[float, int]]
    stopped: Stopped
    seconds: float


@dataclass(frozen=True)
class StepRequest:
    """A step that a run asks for: on which batch, in which epoch."""

    batch: TrialSet
    epoch: int


Steps = Generator[StepRequest, Sums, TrainResult]


class Trainer:
    """The state of a training run, and its loop."""

    def __init__(
        self,
        settings: Settings,
        recording: Recording,
        folder: RunFolder,
        compute: Compute,
        ranks: Ranks,
    ) -> None:
        check_trainable(recording, settings)
        check_limits(recording.train, settings, compute.device, ranks.world_size)
        self.settings = settings
        self.recording = recording
        self.folder = folder
        self.compute = compute
        self.ranks = ranks
        train = recording.train
        device = compute.device
        self.trials = TrialSet.load(train, device)
        self.validator = Validator(recording.valid, settings, device)
        # Weights are drawn on the CPU from the global generator, so that any device starts from
        # the same ones; the caller's generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(settings.train.seed, "weights"))
            shape = ModelShape(train.n_neurons, train.n_bins, train.max_count)
            self.network = NeuralDataTransformer(settings.model, shape)
        if settings.model.readout_init == "mean-rate":
            self.network.readout.start_at(torch.from_numpy(starting_rates(train)))
        self.network.to(device)
        self.network.compute_dtype = compute.dtype
        self.network.plain = settings.train.plain_layers
        if compiles_layers(settings.train, device):
            whole = torch.arange(min(settings.train.batch_size, len(self.trials)))
            self.network.train_layer = CompiledLayers(len(ranks.share(whole)))
        self.optimizer = make_optimizer(self.network.parameters(), settings, device)
        self.streams = Streams.from_seed(settings.train.seed, device, ranks.rank)
        self.step = step_class(settings.train, device, ranks.world_size)(
            self._wrapped(), self.optimizer, self.settings, self.streams, ranks
        )
        self.records_steps = records_steps(settings.train, device, ranks.world_size)
        self._recorded = RecordedSteps()
        self.progress = Progress()
        self.history: list[dict[str, float]] = []
        # The order of the epoch under way is drawn again on resuming, from this state.
        self.order_state = self.streams.order.get_state()
        self.saver = Saver(folder, settings.train)
        self._is_new = True

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go to where a checkpoint was taken."""
        checkpoint.load_into(self.network)
        checkpoint.load_optimizer(self.optimizer, self.network)
        checkpoint.load_streams(self.streams, self.ranks.rank, self.ranks.world_size)
        self.order_state = self.streams.order.get_state()
        self.progress = Progress.from_json(checkpoint.progress)
        take_later_best(self.folder, self.progress)
        self._is_new = False
        if self.ranks.is_first:
            self.history = self.folder.keep_metrics(self.progress.epoch)

    def run(
        self,
        n_threads: int,
        watch: Watcher,
        should_stop: Callable[[], bool],
        until_epoch: int | None = None,
    ) -> TrainResult:
        """Train to the end, until asked to stop, or until so many epochs are complete."""
        steps = self.steps(n_threads, watch, should_stop, until_epoch)
        try:
            request = next(steps)
            while True:
                request = steps.send(self.take(request))
        except StopIteration as ended:
            result: TrainResult = ended.value
            return result
        finally:
            steps.close()

    def take(self, request: StepRequest) -> Sums:
        """Take a step that this run asked for."""
        if not self.records_steps:
            return self.step(request.batch, request.epoch)
        (sums,) = self._recorded([self.step], [request.batch], [request.epoch])
        return sums

    def steps(
        self,
        n_threads: int,
        watch: Watcher,
        should_stop: Callable[[], bool],
        until_epoch: int | None = None,
    ) -> Steps:
        """Train as a generator that asks for each step; whoever drives it takes it, as `take` does.

        So a run is the same whether it is driven alone or together with others.
        """
        settings, progress = self.settings.train, self.progress
        self._clock = time.perf_counter()
        steps_per_epoch = math.ceil(len(self.trials) / settings.batch_size)
        tell = watch if self.ranks.is_first else ignore
        tell(
            Started(
                run=self.folder.path,
                compute=self.compute.name,
                n_threads=n_threads,
                n_parameters=sum(p.numel() for p in self.network.parameters()),
                n_train_trials=len(self.trials),
                n_valid_trials=self.recording.valid.n_trials,
                first_epoch=progress.epoch,
                max_epochs=settings.max_epochs,
                steps_per_epoch=steps_per_epoch,
                notes=self.recording.notes,
            )
        )
        with ExitStack() as closing:
            wanted = settings.tensorboard and self.ranks.is_first
            self.events = EventLog.maybe(self.folder, wanted, progress.epoch)
            closing.callback(self.saver.close, self.events)
            if self._is_new:  # from now on it can be resumed; and a full disk shows at once
                self._save("last", must=True)
            stopped = yield from self._loop(tell, should_stop, until_epoch)
            if self.ranks.any(self.saver.is_behind, self.compute.device):
                self._save("last", must=True)
        return TrainResult(
            self.folder.path, self.history, dict(progress.best), stopped, progress.seconds
        )

    def _loop(
        self, tell: Watcher, should_stop: Callable[[], bool], until_epoch: int | None
    ) -> Generator[StepRequest, Sums, Stopped]:
        settings, progress = self.settings.train, self.progress
        last_epoch = settings.max_epochs if until_epoch is None else until_epoch
        while progress.epoch < min(last_epoch, settings.max_epochs):
            if progress.epochs_without_improvement(settings.choose_by) >= settings.patience_epochs:
                return "early"
            finished = yield from self._epoch(tell, should_stop)
            if not finished:
                self._save("last", must=True)
                return "interrupted"
            self._end_epoch(tell)
            if self.ranks.any(should_stop(), self.compute.device):
                break
        if progress.epoch == settings.max_epochs:
            return "finished"
        self._save("last", must=True)
        return "interrupted"

    def _wrapped(self) -> NeuralDataTransformer | DistributedDataParallel:
        if self.ranks.world_size == 1:
            return self.network
        return DistributedDataParallel(self.network)

    def _epoch(
        self, tell: Watcher, should_stop: Callable[[], bool]
    ) -> Generator[StepRequest, Sums, bool]:
        """Take the steps of an epoch that are left; return False when asked to stop before."""
        progress, settings = self.progress, self.settings.train
        device = self.compute.device
        set_learning_rate(self.optimizer, learning_rate(progress.epoch, settings))
        self.streams.order.set_state(self.order_state)
        order = torch.randperm(len(self.trials), generator=self.streams.order, device=device)
        batches = order.split(settings.batch_size)
        sums = torch.tensor([progress.loss_total, progress.n_scored], device=device)
        finished = True
        for batch in batches[progress.step :]:
            total, n_scored = yield StepRequest(self.trials.take(batch), progress.epoch)
            sums += torch.stack((total, n_scored))
            progress.step += 1
            if device.type == "cpu":  # there is nothing to wait for
                self._check_finite()
            tell(StepDone(progress.epoch, progress.step))
            # Processes must stop together, so several of them only do between epochs.
            if self.ranks.world_size > 1 or progress.step == len(batches):
                continue
            if should_stop():
                finished = False
                break
            if self.saver.is_due():
                self._check_finite()
                progress.loss_total, progress.n_scored = sums.tolist()
                self._save("last")
        # Here, and where a checkpoint was due, the host waits for the device.
        self._check_finite()
        progress.loss_total, progress.n_scored = sums.tolist()
        return finished

    def _check_finite(self) -> None:
        bad = self.step.first_bad_step()
        if bad is None:
            return
        advice = (
            "Try a lower learning rate "
            f"(--set train.learning_rate={self.settings.train.learning_rate / 3:.1g}), a longer "
            "warm-up (--set train.warmup_epochs=20), or --set train.precision=float32."
        )
        if self.progress.best:
            advice += f" The checkpoints in {self.folder.path} are from before and good."
        raise TrainingError(
            f"loss or gradient is not finite in epoch {self.progress.epoch + 1}, "
            f"at update {bad + 1} since this start; the weights were not changed by it",
            advice,
        )

    def _end_epoch(self, tell: Watcher) -> None:
        progress, settings = self.progress, self.settings.train
        record: dict[str, float] = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_total / max(progress.n_scored, 1),
            "learning_rate": learning_rate(progress.epoch, settings),
        }
        progress.epoch += 1
        progress.step, progress.loss_total, progress.n_scored = 0, 0.0, 0.0
        self.order_state = self.streams.order.get_state()
        due = progress.epoch % settings.val_interval_epochs == 0
        to_save: list[str] = []
        if due or progress.epoch == settings.max_epochs:
            measures = self._validate()
            record |= measures
            to_save = [*progress.validated(measures), "last"]
        elif self.ranks.any(self.ranks.is_first and self.saver.is_due(), self.compute.device):
            to_save = ["last"]
        self._count_time()
        record["seconds"] = round(progress.seconds, 3)
        self.history.append(record)
        if self.ranks.is_first:
            self.saver.record(self.history)
            self.saver.show(self.events, self.history)
        for name in to_save:
            self._save(name)
        tell(EpochDone(record))

    def _validate(self) -> dict[str, float]:
        """Validate in the first process; every process gets its numbers."""
        names = self.validator.measures
        measures = self.validator(self.network) if self.ranks.is_first else {}
        values = [measures.get(name, math.nan) for name in names]
        return dict(zip(names, self.ranks.from_first(values, self.compute.device), strict=True))

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _save(self, name: str, *, must: bool = False) -> None:
        """Write a checkpoint; ``must`` raises where that fails, as at the end of training."""
        self._count_time()
        if name != "last":
            checkpoint = Checkpoint.of_model(self.network, self.progress.to_json())
        else:
            states = {**self.streams.state(), "order": self.order_state}
            streams = self.ranks.gather(states, self.compute.device)
            checkpoint = Checkpoint.of_model(
                self.network,
                self.progress.to_json(),
                optimizer_tensors(self.optimizer, self.network),
                streams,
            )
        if self.ranks.is_first:
            self.saver.save(name, checkpoint, self.history, must=must)


def ignore(event: Event) -> None:
    """Watch nothing."""
    del event
