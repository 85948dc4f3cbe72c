"""The training loop, the state of a run that it changes, and validation."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ndt_cli.baselines import starting_rates
from ndt_cli.data.sessions import session_parts
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.backend import choose_backend
from ndt_cli.engine.batches import Streams, TrialSet, make_stream, mean_over_passes, stream_seed
from ndt_cli.engine.checkpoint import (
    Checkpoint,
    Origin,
    Progress,
    Saver,
    check_log,
    optimizer_tensors,
    take_later_best,
)
from ndt_cli.engine.device import Compute
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import EpochDone, Event, Started, StepDone, Watcher
from ndt_cli.engine.measures import measures_of
from ndt_cli.engine.optimizer import learning_rates, make_optimizer, set_learning_rate
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.starting import Start
from ndt_cli.engine.step import StepParts
from ndt_cli.engine.trackers import EventLog
from ndt_cli.errors import TrainingError
from ndt_cli.metrics import RateScoreSums, SpikeScoreSums
from ndt_cli.model.losses import masked_sum
from ndt_cli.model.masking import draw_hidden, hide, span_probability
from ndt_cli.model.network import LayerMath, ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import Settings, TrainSettings

_log = logging.getLogger(__name__)

# Trials in a validation batch: bounds memory, and part of what fixes the masks.
VALIDATION_BATCH_SIZE = 64

# Bins of all validation trials below which they are masked several times.
VALIDATION_BINS = 10_000
MOST_VALIDATION_DRAWS = 16

Stopped = Literal["finished", "early", "interrupted"]
"""How training ended: all epochs done, early stopping, or asked to stop."""


@dataclass(frozen=True)
class TrainResult:
    """The outcome of training.

    Attributes
    ----------
    run : Path
        The run folder.
    history : list of dict
        The records of ``metrics.jsonl``, one per epoch.
    best : dict
        By checkpoint name: the best value, and after how many epochs.
    stopped : {"finished", "early", "interrupted"}
        All epochs done, no improvement for ``train.patience_epochs``, or asked to stop.
    seconds : float
        Time spent training, including before any resume.
    """

    run: Path
    history: list[dict[str, float]]
    best: dict[str, tuple[float, int]]
    stopped: Stopped
    seconds: float


class Trainer:
    """A training run in memory: weights, optimizer, random streams, progress."""

    def __init__(
        self,
        settings: Settings,
        recording: Recording,
        folder: RunFolder,
        compute: Compute,
        ranks: Ranks,
        start: Start | None = None,
    ) -> None:
        self.settings = settings
        self.recording = recording
        self.folder = folder
        self.compute = compute
        self.ranks = ranks
        device = compute.device
        sessions = recording.train.sessions
        # A captured step takes trials of one session.
        how = settings.train if sessions is None else _uncaptured(settings.train)
        backend = choose_backend(how, compute, ranks.world_size)
        self.trials = TrialSet.load(recording.train, device)
        self.validator = Validator(recording.valid, settings, device)
        network = new_network(settings, recording.train, backend.math)
        self.notes = recording.notes
        if start is None:
            self.network = network.to(device)
        else:
            columns_N = start.match(settings, recording.train, recording.source)
            start.fill(network, columns_N)
            self.network = network.to(device)
            self.notes += start.fit(self.network, recording, columns_N, settings)
        self.optimizer = make_optimizer(self.network, settings, device)
        self.streams = Streams.from_seed(settings.train.seed, device, ranks.rank)
        several = ranks.world_size > 1
        model = DistributedDataParallel(self.network) if several else self.network
        self.step = backend.training_step(
            StepParts(model, self.optimizer, settings, self.streams, ranks)
        )
        self.saver = Saver(folder, settings.train)
        self.progress = Progress()
        self.history: list[dict[str, float]] = []
        # The order of the epoch under way is drawn again on resuming, from this state.
        self.order_state = self.streams.order.get_state()
        self._is_new = True
        self._clock = time.perf_counter()

    @cached_property
    def origin(self) -> Origin:
        """What the checkpoints say of the run; only the first process may have its folder."""
        return Origin.of(self.folder, self.settings)

    def restore(self, checkpoint: Checkpoint, *, accept_changes: bool = False) -> None:
        """Continue from a checkpoint."""
        checkpoint.check_origin(self.origin, accept_changes=accept_changes)
        checkpoint.load_into(self.network)
        checkpoint.load_optimizer(self.optimizer, self.network)
        checkpoint.load_streams(self.streams, self.ranks.rank, self.ranks.world_size)
        self.order_state = self.streams.order.get_state()
        self.progress = Progress.from_json(checkpoint.progress)
        take_later_best(self.folder, self.progress, self.origin, accept_changes=accept_changes)
        self._is_new = False
        if self.ranks.is_first:
            check_log(self.folder, self.progress.epoch, accept_changes=accept_changes)
            self.history = self.folder.keep_metrics(self.progress.epoch)

    def run(
        self,
        n_threads: int,
        watch: Watcher,
        should_stop: Callable[[], bool],
        until_epoch: int | None = None,
    ) -> TrainResult:
        """Train to the end, until asked to stop, or until this many epochs are complete.

        The schedule spans ``train.max_epochs`` in any case. Several processes ask ``should_stop``
        between epochs only.
        """
        settings, progress, device = self.settings.train, self.progress, self.compute.device
        last_epoch = settings.max_epochs
        if until_epoch is not None:
            last_epoch = min(until_epoch, last_epoch)
        tell = watch if self.ranks.is_first else ignore
        tell(self._started(n_threads))
        self._clock = time.perf_counter()
        events = EventLog.maybe(
            self.folder, settings.tensorboard and self.ranks.is_first, progress.epoch
        )
        stopped: Stopped = "finished"
        try:
            if self._is_new:  # from now on it can be resumed; and a full disk shows at once
                if settings.start_from is not None:  # few trials may not improve on the start
                    for name in progress.validated(self._validate()):
                        self._save(name)
                self._save("last", must=True)
            for epoch in range(progress.epoch, last_epoch):
                waited = progress.epochs_without_improvement(settings.choose_by)
                if waited >= settings.patience_epochs:
                    stopped = "early"
                    break
                set_learning_rate(self.optimizer, *learning_rates(epoch, settings))
                batches = self._batches()
                sums = torch.tensor([progress.loss_total, progress.n_scored], device=device)
                for rows in batches[progress.step :]:
                    sums += torch.stack(self.step(self.trials.take(rows), epoch))
                    progress.step += 1
                    if device.type == "cpu":  # there is nothing to wait for
                        self._check_finite()
                    tell(StepDone(epoch, progress.step))
                    # Several processes must stop together: they do between epochs.
                    if self.ranks.world_size > 1 or progress.step == len(batches):
                        continue
                    if should_stop():
                        break
                    if self.saver.is_due():
                        self._read(sums)
                        self._save("last")
                self._read(sums)
                if progress.step < len(batches):
                    break
                self._end_epoch(events)
                tell(EpochDone(self.history[-1]))
                if self.ranks.any(should_stop(), device):
                    break
            if stopped != "early" and progress.epoch < settings.max_epochs:
                stopped = "interrupted"
                self._save("last", must=True)
            if self.ranks.any(self.saver.is_behind, device):
                self._save("last", must=True)
        finally:
            self.saver.close(events)
        return TrainResult(
            self.folder.path, self.history, dict(progress.best), stopped, progress.seconds
        )

    def _started(self, n_threads: int) -> Started:
        return Started(
            run=self.folder.path,
            compute=self.compute.name,
            n_threads=n_threads,
            n_parameters=sum(p.numel() for p in self.network.parameters()),
            n_train_trials=len(self.trials),
            n_valid_trials=self.recording.valid.n_trials,
            first_epoch=self.progress.epoch,
            max_epochs=self.settings.train.max_epochs,
            steps_per_epoch=sum(self._n_batches()),
            notes=self.notes,
        )

    def _batches(self) -> tuple[Tensor, ...]:
        """Return the trials of each batch of the epoch under way, in random order."""
        generator, size = self.streams.order, self.settings.train.batch_size
        generator.set_state(self.order_state)

        def order(n: int) -> Tensor:
            return torch.randperm(n, generator=generator, device=self.compute.device)

        if self.recording.train.sessions is None:
            batches: tuple[Tensor, ...] = order(len(self.trials)).split(size)
            return batches
        # Each from one session: the loss is a mean over a batch, and so over one session's
        # neurons. In random order, so that sessions alternate.
        of_session: list[Tensor] = []
        parts = [trials for trials, _ in session_parts(self.recording.train)]
        for trials, n_batches in zip(parts, self._n_batches(), strict=True):
            rows = torch.from_numpy(trials).to(self.compute.device)
            found: list[Tensor] = []
            while len(found) < n_batches:
                found += rows[order(len(rows))].split(size)
            of_session += found[:n_batches]
        return tuple(of_session[place] for place in order(len(of_session)).tolist())

    def _n_batches(self) -> list[int]:
        """Return the batches of an epoch from each session; without sessions, of all trials."""
        train, settings = self.recording.train, self.settings.train
        parts = [np.arange(train.n_trials)[trials] for trials, _ in session_parts(train)]
        numbers = [math.ceil(len(part) / settings.batch_size) for part in parts]
        if settings.session_batches == "equal":
            return [max(1, round(sum(numbers) / len(numbers)))] * len(numbers)
        return numbers

    def _read(self, sums: Tensor) -> None:
        """Read the loss of the epoch so far; the host waits for the device here."""
        self._check_finite()
        self.progress.loss_total, self.progress.n_scored = sums.tolist()

    def _check_finite(self) -> None:
        bad = self.step.first_bad_step()
        if bad is None:
            return
        rate = self.settings.train.learning_rate / 3
        advice = (
            f"Try a lower learning rate (`train.learning_rate={rate:.1g}`), a longer warm-up "
            "(`train.warmup_epochs=20`), or `train.precision=float32`."
        )
        if self.progress.best:
            advice += f" The checkpoints in {self.folder.path} were saved before and are good."
        raise TrainingError(
            f"loss or gradient is not finite in epoch {self.progress.epoch + 1}, step {bad + 1} "
            "since training started or resumed; that step did not change the weights",
            advice,
        )

    def _end_epoch(self, events: EventLog) -> None:
        """Validate where that is due, log the epoch, and save."""
        progress, settings = self.progress, self.settings.train
        record: dict[str, float] = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.loss_total / max(progress.n_scored, 1),
            "learning_rate": learning_rates(progress.epoch, settings)[0],
        }
        progress.epoch += 1
        progress.step, progress.loss_total, progress.n_scored = 0, 0.0, 0.0
        self.order_state = self.streams.order.get_state()
        to_save: list[str] = []
        if progress.epoch % settings.val_interval_epochs == 0 or (
            progress.epoch == settings.max_epochs
        ):
            values = self._validate()
            record |= values
            to_save = [*progress.validated(values), "last"]
        elif self.ranks.any(self.ranks.is_first and self.saver.is_due(), self.compute.device):
            to_save = ["last"]
        self._count_time()
        record["seconds"] = round(progress.seconds, 3)
        _log.debug("epoch %d: %s", progress.epoch, record)
        self.history.append(record)
        if self.ranks.is_first:
            self.saver.record(self.history)
            self.saver.show(events, self.history)
        for name in to_save:
            self._save(name)

    def _validate(self) -> dict[str, float]:
        """Validate in the first process; every process gets its numbers."""
        keys = self.validator.keys
        measured = self.validator(self.network) if self.ranks.is_first else {}
        values = [measured.get(key, math.nan) for key in keys]
        return dict(zip(keys, self.ranks.from_first(values, self.compute.device), strict=True))

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _save(self, name: str, *, must: bool = False) -> None:
        """Write a checkpoint; ``must`` raises if that fails, as at the end of training."""
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
            checkpoint = replace(checkpoint, origin=self.origin)
            self.saver.save(name, checkpoint, self.history, must=must)
            _log.debug("saved the checkpoint %s after epoch %d", name, self.progress.epoch)


class Validator:
    """Measures a model on the validation trials.

    The masks are drawn from the same seed each time, with spans as after the ramp, so that two
    measurements differ only by the model. Few trials are masked several times: the loss on one mask
    depends on it so much that the best checkpoint would be chosen by chance.

    Parameters
    ----------
    data : SpikeData
        The validation split.
    settings : Settings
        Masking, and the seed.
    device : torch.device
        Where the model is.
    """

    def __init__(self, data: SpikeData, settings: Settings, device: torch.device) -> None:
        self.data = data
        self.settings = settings
        self.device = device
        self.trials = TrialSet.load(data, device)
        self.keys = [measure.key for measure in measures_of(data)]
        n_bins = int(data.lengths_B.sum())
        self._n_draws = min(MOST_VALIDATION_DRAWS, max(1, VALIDATION_BINS // n_bins))

    @torch.no_grad()
    def __call__(self, model: NeuralDataTransformer) -> dict[str, float]:
        """Return the value of each measure that is defined on the trials, by its key."""
        stream = make_stream(self.settings.train.seed, "validation-mask", self.device)
        mask = self.settings.mask
        if mask.empty_ratio:  # as scores hide: whole bins
            mask = mask.model_copy(update={"empty_ratio": 1.0})
        p_span = span_probability(mask, mask.span_ramp_end_epoch)
        # Read at the end: the host waits for the device once.
        masked_sums: list[torch.Tensor] = []
        seen_sums: list[torch.Tensor] = []
        scores = [_SessionScores(self.data, *part) for part in session_parts(self.data)]
        diverged = False
        for i, batch in enumerate(self.trials.batches(VALIDATION_BATCH_SIZE)):
            for _ in range(self._n_draws):
                masked = hide(
                    batch.counts_BTN,
                    batch.visible,
                    batch.scorable & (batch.visible | self.data.hidden_counts_known),
                    draw_hidden(batch.shape, mask, p_span, stream),
                    mask,
                    model.shape.max_count,
                    stream,
                )
                output = model(masked.input_BTN, batch.inside_BT)
                loss_BTN = model.loss_BTN(output, batch.counts_BTN)
                scored_BTN = masked.scored_BTN.expand(batch.shape)
                masked_sums.append(torch.stack(masked_sum(loss_BTN, scored_BTN)))

            output = model(torch.where(batch.visible, batch.counts_BTN, 0), batch.inside_BT)
            loss_BTN = model.loss_BTN(output, batch.counts_BTN)
            seen_BTN = (batch.visible & batch.scorable).expand(batch.shape)
            seen_sums.append(torch.stack(masked_sum(loss_BTN, seen_BTN)))
            if not {"valid_co_bps", "valid_rate_r2"} & set(self.keys):
                continue
            here = slice(i * VALIDATION_BATCH_SIZE, (i + 1) * VALIDATION_BATCH_SIZE)
            rates = model.rates(output)
            if self.settings.inference.passes > 1:
                rates = mean_over_passes(model, model, batch, self.settings)
            rates_BTN = rates.cpu().numpy()
            if not np.isfinite(rates_BTN).all():
                diverged = True
                continue
            for of_session in scores:
                of_session.add(rates_BTN, here)
        sums = torch.stack([*masked_sums, *seen_sums]).cpu().double()
        masked_total, n_masked = sums[: len(masked_sums)].sum(0).tolist()
        seen_total, n_seen = sums[len(masked_sums) :].sum(0).tolist()
        measures = {
            "valid_masked_loss": masked_total / max(n_masked, 1),
            "valid_unmasked_loss": seen_total / max(n_seen, 1),
        }
        if "valid_rate_r2" in self.keys:
            measures["valid_rate_r2"] = math.nan if diverged else _mean_r2(scores)
        if "valid_co_bps" in self.keys:
            measures["valid_co_bps"] = math.nan if diverged else _mean_co_bps(scores)
        return measures


class _SessionScores:
    """Sums for the scores of the rates in one session; without sessions, in all trials."""

    def __init__(self, data: SpikeData, trials: Any, neurons: Any) -> None:
        self.data = data
        self.trials = np.arange(data.n_trials)[trials]
        self.neurons, n_seen = neurons, data.n_neurons - data.n_heldout
        here_N = np.arange(data.n_neurons)[neurons]
        whole = isinstance(neurons, slice)
        self.heldout: Any = slice(n_seen, None) if whole else here_N[here_N >= n_seen]
        self.n_neurons, self.n_heldout = len(here_N), int((here_N >= n_seen).sum())
        self.rates = RateScoreSums(self.n_neurons)
        self.heldout_counts = SpikeScoreSums(self.n_heldout)

    def add(self, rates_BTN: NDArray[np.float32], here: slice) -> None:
        """Add the rates of the trials at ``here``, as far as they are of this session."""
        data = self.data
        own = self.trials[(self.trials >= here.start) & (self.trials < here.stop)]
        if not len(own):
            return
        # A slice where all trials are of one session: nothing is copied.
        rows: Any = own - here.start if data.sessions is not None else slice(None)
        inside_BT, window = data.inside_BT[here][rows], slice(0, data.n_bins - data.n_forward)
        if self.n_heldout and data.hidden_counts_known:
            counts_BTN = data.spikes_BTN[here][rows][:, window, self.heldout]
            shown_BTN = rates_BTN[rows][:, window, self.heldout]
            self.heldout_counts.add(shown_BTN, counts_BTN, inside_BT[:, window])
        if data.rates_BTN is not None:
            truth_BTN = data.rates_BTN[here][rows][..., self.neurons]
            self.rates.add(rates_BTN[rows][..., self.neurons], truth_BTN, inside_BT)


def _mean_r2(scores: Sequence[_SessionScores]) -> float:
    """Return the mean over the neurons of all sessions."""
    if len(scores) == 1:
        return scores[0].rates.result().r2_mean
    total = sum(s.n_neurons * s.rates.result().r2_mean for s in scores)
    return total / sum(s.n_neurons for s in scores)


def _mean_co_bps(scores: Sequence[_SessionScores]) -> float:
    """Return bits per spike, as the mean over sessions by their held-out neurons."""
    if len(scores) == 1:
        return scores[0].heldout_counts.result().bits_per_spike
    held = [s for s in scores if s.n_heldout]
    total = sum(s.n_heldout * s.heldout_counts.result().bits_per_spike for s in held)
    return total / sum(s.n_heldout for s in held)


def new_network(settings: Settings, train: SpikeData, math: LayerMath) -> NeuralDataTransformer:
    """Return the network of a new run, on the CPU; its read-out starts at the mean rates."""
    shape = ModelShape(train.n_neurons, train.n_bins, train.max_count)
    # Drawn on the CPU from the global generator, so that any device starts from the same weights;
    # the caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(settings.train.seed, "weights"))
        network = NeuralDataTransformer(settings.model, shape, math)
    if settings.model.readout_init == "mean-rate":
        rates_N = np.empty(train.n_neurons)
        for trials, neurons in session_parts(train):
            own = train if train.sessions is None else train.take(trials)
            rates_N[neurons] = starting_rates(own)[neurons]
        network.readout.start_at(torch.from_numpy(rates_N))
    return network


def _uncaptured(settings: TrainSettings) -> TrainSettings:
    return settings.model_copy(update={"cuda_graph": False})


def ignore(event: Event) -> None:
    """Watch nothing."""
    del event
