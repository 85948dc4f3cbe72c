"""Where training stands: what a checkpoint keeps beside tensors."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ndt_cli.engine.run_folder import BEST


@dataclass
class Progress:
    """Position in the training, and the best validation so far.

    Attributes
    ----------
    epoch : int
        Epoch under way, from 0; equal to the epochs that are complete.
    step : int
        Steps taken in it.
    loss_total, n_scored : float
        Summed training loss and scored entries of the steps taken in it.
    seconds : float
        Time spent training so far, over all resumptions.
    validated_epoch : int
        Epochs that were complete at the last validation.
    best : dict
        By checkpoint name: the best value so far and the epochs done when it came.
    """

    epoch: int = 0
    step: int = 0
    loss_total: float = 0.0
    n_scored: float = 0.0
    seconds: float = 0.0
    validated_epoch: int = 0
    best: dict[str, tuple[float, int]] = field(default_factory=dict)

    def validated(self, measures: dict[str, float]) -> list[str]:
        """Note the measures of a validation; return the names of the checkpoints to save."""
        self.validated_epoch = self.epoch
        better = []
        for name, (measure, lower_is_better) in BEST.items():
            value = measures.get(measure, math.nan)
            if not math.isfinite(value):
                continue
            before = self.best.get(name)
            sign = 1 if lower_is_better else -1
            if before is None or sign * value < sign * before[0]:
                self.best[name] = (value, self.epoch)
                better.append(name)
        return better

    def epochs_without_improvement(self, choose_by: str) -> int:
        """Epochs from the best value of a measure of ``train.choose_by`` to the last validation.

        Epochs since that validation do not count: they may have been better.
        """
        best = self.best.get(f"best-{choose_by}")
        return self.validated_epoch - (best[1] if best else 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a checkpoint's header."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Return what `to_json` made."""
        best = {name: (float(v), int(epoch)) for name, (v, epoch) in values["best"].items()}
        return cls(**{**values, "best": best})
