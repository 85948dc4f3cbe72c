"""Trials on the device, the random streams of a run, and the inputs of inference in passes.

Axes: B trials, T bins, N neurons.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.model.dropout import RandomBits
from ndt_cli.model.masking import draw_passes, hide, scoring_mask
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import Settings


@dataclass(frozen=True)
class TrialSet:
    """All trials of a split, on the device that computes."""

    counts_BTN: Tensor  # uint8 if the counts and a mask token fit, else int32
    inside_BT: Tensor | None  # False for padding; None without padding
    visible_1TN: Tensor  # False for held-out neurons and forward bins, which the model never sees
    present_B1N: Tensor | None = None  # of several sessions: False for neurons of another one

    @classmethod
    def load(cls, data: SpikeData, device: torch.device) -> "TrialSet":
        """Copy a split to the device."""
        small = data.max_count < np.iinfo(np.uint8).max
        counts = np.ascontiguousarray(data.spikes_BTN, dtype=np.uint8 if small else np.int32)
        visible = torch.ones(1, data.n_bins, data.n_neurons, dtype=torch.bool)
        visible[:, :, data.n_neurons - data.n_heldout :] = False
        visible[:, data.n_bins - data.n_forward :] = False
        return cls(
            counts_BTN=torch.from_numpy(counts).to(device),
            inside_BT=torch.from_numpy(data.inside_BT).to(device) if data.has_padding else None,
            visible_1TN=visible.to(device),
            present_B1N=None
            if data.sessions is None
            else torch.from_numpy(data.sessions.present_BN[:, None]).to(device),
        )

    def __len__(self) -> int:
        return self.counts_BTN.shape[0]

    def take(self, trials: Tensor | slice) -> "TrialSet":
        """Return some of the trials."""
        inside_BT = None if self.inside_BT is None else self.inside_BT[trials]
        present_B1N = None if self.present_B1N is None else self.present_B1N[trials]
        return TrialSet(self.counts_BTN[trials], inside_BT, self.visible_1TN, present_B1N)

    def copy(self) -> "TrialSet":
        """Return the same trials in memory of their own."""
        inside_BT = None if self.inside_BT is None else self.inside_BT.clone()
        return TrialSet(self.counts_BTN.clone(), inside_BT, self.visible_1TN)

    def fill(self, trials: "TrialSet") -> None:
        """Take over as many other trials, of the same lengths or padded as these are."""
        self.counts_BTN.copy_(trials.counts_BTN)
        if self.inside_BT is not None and trials.inside_BT is not None:
            self.inside_BT.copy_(trials.inside_BT)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Trials, bins, neurons."""
        n_trials, n_bins, n_neurons = self.counts_BTN.shape
        return n_trials, n_bins, n_neurons

    @property
    def visible(self) -> Tensor:
        """True for entries that the model may ever see; broadcasts to the counts."""
        if self.present_B1N is None:
            return self.visible_1TN
        return self.visible_1TN & self.present_B1N

    @property
    def scorable(self) -> Tensor:
        """True for entries whose count is known; broadcasts to the counts."""
        inside = torch.ones(1, 1, 1, dtype=torch.bool, device=self.counts_BTN.device)
        if self.inside_BT is not None:
            inside = self.inside_BT[:, :, None]
        return inside if self.present_B1N is None else inside & self.present_B1N

    def batches(self, size: int) -> "list[TrialSet]":
        """Return consecutive batches of at most ``size`` trials."""
        return [self.take(slice(i, i + size)) for i in range(0, len(self), size)]


# ------------------------------------------------------------------------------------------------
# Named random streams, all made from one seed. Each kind of draw has a stream of its own, so that
# changing one (another mask mode, say) leaves the others as they were, validation never moves, and
# a resumed run continues exactly.
# ------------------------------------------------------------------------------------------------


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of a named stream, unrelated to that of any other name or seed."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits on every device


def make_stream(seed: int, name: str, device: torch.device) -> torch.Generator:
    """Return a fresh generator for a named stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name))


@dataclass(frozen=True)
class Streams:
    """What a training run draws from while it runs.

    ``order`` and ``mask`` are the same in every process of a distributed run: each draws for
    the whole batch and takes its share, so the number of processes changes no mask.
    """

    order: torch.Generator
    mask: torch.Generator
    dropout: torch.Generator | RandomBits

    @classmethod
    def from_seed(cls, seed: int, device: torch.device, rank: int = 0) -> "Streams":
        return cls(
            order=make_stream(seed, "order", device),
            mask=make_stream(seed, "mask", device),
            dropout=_dropout_stream(seed, f"dropout-{rank}", device),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the state of each stream by name."""
        return {name: stream.get_state() for name, stream in vars(self).items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set each stream to a state that `state` returned."""
        for name, stream in vars(self).items():
            stream.set_state(state[name])


def _dropout_stream(seed: int, name: str, device: torch.device) -> torch.Generator | RandomBits:
    return (
        RandomBits(stream_seed(seed, name))
        if device.type == "cpu"
        else make_stream(seed, name, device)
    )


# ------------------------------------------------------------------------------------------------
# Rates as the mean of several passes, in each of which other bins are hidden: a network that was
# trained with a part of the bins hidden has never seen a trial as a whole.
# ------------------------------------------------------------------------------------------------


Forward = Callable[[Tensor, Tensor | None], Tensor]


def pass_inputs(batch: TrialSet, settings: Settings, max_count: int) -> Iterator[Tensor]:
    """Give the input of each pass, (B, T, N); of a single pass with nothing hidden."""
    if settings.inference.passes == 1:
        yield torch.where(batch.visible, batch.counts_BTN, 0)
        return
    _, n_bins, n_neurons = batch.shape
    seed = stream_seed(settings.train.seed, "inference-passes")
    # Replaced by the token throughout: nothing else is drawn.
    mask = scoring_mask(settings.mask).model_copy(update={"token_ratio": 1.0})
    device = batch.counts_BTN.device
    unused = torch.Generator(device)
    for hidden in draw_passes(n_bins, n_neurons, mask.mode, settings.inference, seed):
        place = torch.from_numpy(hidden[None]).to(device)
        yield hide(
            batch.counts_BTN, batch.visible, batch.scorable, place, mask, max_count, unused
        ).input_BTN


def mean_over_passes(
    forward: Forward, network: NeuralDataTransformer, batch: TrialSet, settings: Settings
) -> Tensor:
    """Return rates in spikes per bin, (B, T, N): the mean of log-rates where there are some.

    Parameters
    ----------
    forward : callable
        Gives the read-out of an input and of the bins inside the trials.
    network : NeuralDataTransformer
        Makes rates of it.
    batch : TrialSet
        Trials.
    settings : Settings
        How many passes there are, and what each hides.
    """
    in_logs = network.settings.loss == "poisson" and network.settings.log_rates
    total: Tensor | float = 0.0
    for input_BTN in pass_inputs(batch, settings, network.shape.max_count):
        output = forward(input_BTN, batch.inside_BT)
        total = total + (output if in_logs else network.rates(output))
    mean_BTN = total / settings.inference.passes
    assert isinstance(mean_BTN, Tensor)
    return mean_BTN.exp() if in_logs else mean_BTN
