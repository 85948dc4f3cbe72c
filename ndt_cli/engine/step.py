"""One training step: hide, predict, and update the weights unless something is not finite."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ndt_cli.engine.batches import Streams, TrialSet
from ndt_cli.engine.distributed import Ranks
from ndt_cli.model.dropout import Dropout
from ndt_cli.model.losses import keep_worst, masked_sum, only_scored
from ndt_cli.model.masking import HiddenBatch, draw_hidden, hide, span_probability
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import Settings

# Summed loss and number of scored entries.
Sums = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StepParts:
    """What a training step works with."""

    model: NeuralDataTransformer | DistributedDataParallel
    optimizer: torch.optim.AdamW
    settings: Settings
    streams: Streams  # of the masks and the dropout
    ranks: Ranks


class TrainingStep:
    """Updates the weights by one batch.

    Nothing in it waits for a GPU: loss and gradient norm stay on the device, and an update that
    is not finite is skipped there. `first_bad_step` tells afterwards whether that happened.
    """

    def __init__(self, parts: StepParts) -> None:
        self.model = model = parts.model
        self.network: NeuralDataTransformer = (
            model.module if isinstance(model, DistributedDataParallel) else model
        )
        self.optimizer = parts.optimizer
        self.settings = parts.settings
        streams = parts.streams
        self.mask_stream = streams.mask
        self.dropout = Dropout(streams.dropout)
        self.generators = [
            stream
            for stream in (streams.mask, streams.dropout)
            if isinstance(stream, torch.Generator)
        ]
        self.ranks = parts.ranks
        device = streams.mask.device
        # What differs from step to step lies on the device, where a captured step reads it.
        self._p_span = torch.zeros((), device=device)
        self._n_steps = torch.zeros((), dtype=torch.int64, device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def __call__(self, batch: TrialSet, epoch: int) -> Sums:
        """Take a step on a batch, the same in every process, each on its share.

        Returns summed loss and number of scored entries, over all processes, as tensors.
        """
        self._p_span.fill_(span_probability(self.settings.mask, epoch))
        return self.compute(batch)

    def compute(self, batch: TrialSet) -> Sums:
        """Take the step by operations on the device alone; see `__call__`."""
        total, n_scored = self.loss_sum(batch)
        n_scored = self.ranks.sum(n_scored)
        # DistributedDataParallel averages gradients over processes: undo it, so that the loss
        # is the mean over the scored entries of the whole batch. A batch may hide nothing.
        loss = total * (self.ranks.world_size / n_scored.clamp_min(1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update(loss.detach())
        return self.ranks.sum(total.detach()), n_scored

    def masked(self, batch: TrialSet) -> HiddenBatch:
        """Draw what is hidden of a batch."""
        hidden = draw_hidden(batch.shape, self.settings.mask, self._p_span, self.mask_stream)
        masked = hide(
            batch.counts_BTN,
            batch.visible,
            batch.scorable,
            hidden,
            self.settings.mask,
            self.network.shape.max_count,
            self.mask_stream,
        )
        return masked

    def loss_sum(self, batch: TrialSet) -> Sums:
        """Return the summed loss of this process' share of a batch, and its number of entries."""
        masked = self.masked(batch)
        share = self.ranks.share
        counts_BTN = share(batch.counts_BTN)
        inside_BT = None if batch.inside_BT is None else share(batch.inside_BT)
        scored_BTN = share(masked.scored_BTN.expand(batch.shape))
        output = self.model(share(masked.input_BTN), inside_BT, self.dropout)
        return self.scored_sum(output, counts_BTN, scored_BTN)

    def scored_sum(self, output: Tensor, counts_BTN: Tensor, scored_BTN: Tensor) -> Sums:
        """Return the summed loss of a read-out on the scored entries, and their number."""
        loss_BTN = self.network.loss_BTN(only_scored(output, scored_BTN), counts_BTN)
        scored_BTN = keep_worst(loss_BTN, scored_BTN, self.settings.train.topk_fraction)
        return masked_sum(loss_BTN, scored_BTN)

    def update(self, loss: Tensor) -> None:
        """Clip the gradients and update the weights, unless loss or gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.train.clip_norm)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        first = ~finite & (self._first_bad < 0)
        self._first_bad.copy_(torch.where(first, self._n_steps, self._first_bad))
        self._n_steps.add_(1)
        if self.optimizer.defaults["fused"]:
            # The fused optimizer skips its update on the device where found_inf is 1.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(finite):
            self.optimizer.step()

    def first_bad_step(self) -> int | None:
        """Number of the first step whose loss or gradient was not finite (waits for the device)."""
        first = int(self._first_bad.item())
        return None if first < 0 else first
