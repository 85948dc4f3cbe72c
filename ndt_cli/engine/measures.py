"""The validation measures: what chooses the best checkpoint, stops training and ranks sweeps.

This is the one list of them; the log, checkpoints, options, figures and sweeps read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.settings.tree import ChooseBy


@dataclass(frozen=True)
class Measure:
    """A validation measure."""

    name: ChooseBy
    key: str  # in ``metrics.jsonl``
    label: str  # of a column
    axis: str  # label of an axis, with the unit
    lower_is_better: bool
    needs: str = ""  # what the validation trials must have; empty if it is always defined

    def is_better(self, value: float, than: float) -> bool:
        """Return whether one value is better than another."""
        return value < than if self.lower_is_better else value > than

    def is_defined(self, valid: SpikeData) -> bool:
        """Return whether it can be measured on these validation trials."""
        if self.name == "rate-r2":
            return valid.rates_BTN is not None
        if self.name == "co-bps":
            return bool(valid.n_heldout) and valid.hidden_counts_known
        return True


MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        # Mean loss of hidden entries.
        Measure(
            "masked-loss",
            "valid_masked_loss",
            "loss hidden",
            "loss, hidden bins (nats per bin)",
            lower_is_better=True,
        ),
        # Mean loss with nothing hidden, of the entries that the model sees: held-out neurons and
        # forward bins are in neither input nor loss.
        Measure(
            "unmasked-loss",
            "valid_unmasked_loss",
            "loss seen",
            "loss, nothing hidden (nats per bin)",
            lower_is_better=True,
        ),
        # R2 of the rates, mean over neurons.
        Measure(
            "rate-r2",
            "valid_rate_r2",
            "R2 mean",
            "R² of the rate",
            lower_is_better=False,
            needs="true rates",
        ),
        # Bits per spike of the held-out neurons, forward bins left out.
        Measure(
            "co-bps",
            "valid_co_bps",
            "co-bps",
            "co-bps (bits per spike)",
            lower_is_better=False,
            needs="held-out neurons whose counts are known",
        ),
    )
}
assert tuple(MEASURES) == get_args(ChooseBy)


def best_checkpoint(measure: str) -> str:
    """Return the name of the checkpoint with the best value of a measure."""
    return f"best-{measure}"


BEST_CHECKPOINTS = {best_checkpoint(name): measure for name, measure in MEASURES.items()}
"""By checkpoint name, the measure that chooses it."""

CHECKPOINTS = (*BEST_CHECKPOINTS, "last")
"""Names of the checkpoints of a run."""


def measures_of(valid: SpikeData) -> list[Measure]:
    """Return the measures that are defined on these validation trials."""
    return [measure for measure in MEASURES.values() if measure.is_defined(valid)]
