"""Trials on the device, in the form that a training step and validation take them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ndt_cli.data.spike_data import SpikeData


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
