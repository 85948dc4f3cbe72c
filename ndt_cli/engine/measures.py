"""The validation measures: what chooses the best checkpoint, stops training and ranks sweeps.

This is the one list of them; the log, checkpoints, options, figures and sweeps read it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from pydantic import FiniteFloat

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.metrics import bits_per_spike, rate_scores
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


ValidationScores = dict[str, FiniteFloat]
"""By names of `MEASURES`; those that are not finite are left out."""


def scores_of_rates(
    data: SpikeData, seen_BTN: FloatArray, hidden_BTN: FloatArray
) -> ValidationScores:
    """Measure rates in every way that the trials allow.

    Parameters
    ----------
    data : SpikeData
        Trials.
    seen_BTN, hidden_BTN : (trials, bins, neurons) float array
        Rates in spikes per bin, inferred from all counts, and each while its own count is
        hidden.

    Returns
    -------
    dict of str to float
        ``"masked-loss"``: rate - y log rate, mean over all entries with a known count.
        ``"unmasked-loss"``: the same with nothing hidden, of the entries that the model sees.
        ``"rate-r2"``, where true rates are known: R2, mean over neurons. ``"co-bps"``, where
        held-out neurons have counts: their bits per spike in the window. Empty if a rate is not
        finite.
    """
    if not (np.isfinite(seen_BTN).all() and np.isfinite(hidden_BTN).all()):
        return {}
    window = slice(0, data.n_bins - data.n_forward)
    heldout = slice(data.n_neurons - data.n_heldout, None)
    inside_BTN = np.broadcast_to(data.inside_BT[:, :, None], data.spikes_BTN.shape)
    visible_BTN = inside_BTN.copy()
    visible_BTN[:, :, heldout] = visible_BTN[:, window.stop :] = False
    known_BTN = inside_BTN if data.hidden_counts_known else visible_BTN

    def measured(name: str) -> float:
        if name == "masked-loss":
            return bits_per_spike(hidden_BTN, data.spikes_BTN, known_BTN).poisson_loss
        if name == "unmasked-loss":
            return bits_per_spike(seen_BTN, data.spikes_BTN, visible_BTN).poisson_loss
        if name == "rate-r2":
            assert data.rates_BTN is not None
            return rate_scores(seen_BTN, data.rates_BTN, data.inside_BT).r2_mean
        return bits_per_spike(
            seen_BTN[:, window, heldout],
            data.spikes_BTN[:, window, heldout],
            data.inside_BT[:, window],
        ).bits_per_spike

    scores = {measure.name: measured(measure.name) for measure in measures_of(data)}
    return {name: score for name, score in scores.items() if math.isfinite(score)}


def mean_scores(
    sessions: Sequence[SpikeData], scores: Sequence[ValidationScores]
) -> ValidationScores:
    """Return the mean of each measure over the sessions whose trials define it.

    One that is not finite in some of them is left out: the mean of the others would look better.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> days = [make_lorenz(n_conditions=2, n_repeats=5, n_neurons=n).valid for n in (5, 7)]
    >>> scores = [{"masked-loss": 0.4, "rate-r2": 0.7}, {"masked-loss": 0.8}]
    >>> mean_scores(days, scores) == {"masked-loss": (0.4 + 0.8) / 2}
    True
    """
    means = {}
    for name, measure in MEASURES.items():
        found = [
            own.get(name, math.nan)
            for data, own in zip(sessions, scores, strict=True)
            if measure.is_defined(data)
        ]
        if found and math.isfinite(sum(found)):
            means[name] = sum(found) / len(found)
    return means


def score_text(score: float | None) -> str:
    """Return a score with four decimals; a dash if there is none."""
    return "-" if score is None or not math.isfinite(score) else f"{score:.4f}"
