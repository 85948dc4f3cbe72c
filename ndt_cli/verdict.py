"""The verdict on a run: where NDT is better than smoothed spikes, where not, and what to try.

Axes in names: N neurons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import called, count
from ndt_cli.settings.tree import Settings

if TYPE_CHECKING:
    from ndt_cli.evaluation import Scores
    from ndt_cli.metrics import DecodingScores

MODEL, SMOOTHED, MEAN_RATE, TRUE_RATES = "NDT", "smoothed spikes", "mean rate", "true rates"
"""Names of the estimates of the rates."""

FEW_TRAINING_TRIALS = 50
FEW_SCORED_TRIALS = 10
MANY_WEIGHTS_PER_SPIKE = 30
"""With more weights than this per spike of the training trials, a network can learn them by heart.

The preset for recordings has 0.6 million weights and serves recordings of 30,000 spikes."""

# Of what validation gained in the whole training: a rise, or a gain at the end, that matters.
_RISE = 0.1
_LATE_GAIN = 0.02
_LATE = 0.1  # the last tenth of the epochs


class ComparedScore(NamedTuple):
    """A score by which estimates are compared; higher is better for all of them.

    Attributes
    ----------
    label : str
        What is predicted, for people.
    section, field : str
        Where the score is in `ndt_cli.evaluation.Scores`, and in its JSON.
    unit : str
        ``"bits/spike"`` or ``"R2"``.
    """

    label: str
    section: str
    field: str
    unit: str

    def of(self, scores: Any) -> float:
        """Return the score of an estimate, `Scores` or its JSON; NaN where there is none."""
        for name in (self.section, self.field):
            scores = scores.get(name) if isinstance(scores, Mapping) else getattr(scores, name)
            if scores is None:
                return math.nan
        return float(scores)


COMPARED = (
    ComparedScore("hidden bins", "hidden", "bits_per_spike", "bits/spike"),
    ComparedScore("held-out neurons", "heldout", "bits_per_spike", "bits/spike"),
    ComparedScore("forward bins", "forward", "bits_per_spike", "bits/spike"),
    ComparedScore("true rates", "rates", "r2_mean", "R2"),
    ComparedScore("PSTH", "psth", "r2_mean", "R2"),
    ComparedScore("behavior", "behavior", "r2_mean", "R2"),
)
"""The scores by which NDT is compared with smoothed spikes, the most important one first."""


@dataclass(frozen=True)
class Comparison:
    """NDT's, smoothing's and the mean rate's value of one score."""

    score: str
    unit: str
    model: float
    smoothing: float
    mean_rate: float  # NaN if unknown

    @property
    def difference(self) -> float:
        """NDT's value less smoothing's, in the three decimals that are shown."""
        return round(self.model, 3) - round(self.smoothing, 3)

    @property
    def numbers(self) -> str:
        """Both values with their unit, such as "0.284 against 0.129 bits/spike"."""
        return self._with_unit(f"{self.model:.3f} against {self.smoothing:.3f}")

    @property
    def caveat(self) -> str:
        """What the better one of both is worth, if it is worth nothing."""
        best = max(round(self.model, 3), round(self.smoothing, 3))
        return "both worse than the mean rate" if best < round(self.mean_rate, 3) else ""

    @property
    def below_mean_rate(self) -> str:
        """The score and NDT's value, where it is below the mean rate's in the decimals shown."""
        below = round(self.model, 3) < round(self.mean_rate, 3)
        return f"{self.score} ({self._with_unit(f'{self.model:.3f}')})" if below else ""

    def _with_unit(self, values: str) -> str:
        return f"R2 {values}" if self.unit == "R2" else f"{values} {self.unit}"


@dataclass(frozen=True)
class Verdict:
    """Whether NDT is better than smoothed spikes.

    Attributes
    ----------
    sentence : str
        One sentence with the numbers.
    better, worse : tuple of str
        Labels of the scores on which NDT is better and worse than smoothing.
    comparisons : tuple of Comparison
        Every score that both have.
    n_better_neurons, n_neurons : int
        Neurons whose hidden counts NDT predicts better, and neurons compared.
    warnings : tuple of str
        What is wrong with the training or makes the scores uncertain.
    advice : tuple of str
        What to try, the most promising first; empty where NDT is better on every score than
        smoothing, and not worse than the mean rate.
    across_sessions : str
        A sentence about behavior decoded with decoders of other sessions; empty without.
    """

    sentence: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    n_better_neurons: int
    n_neurons: int
    warnings: tuple[str, ...]
    advice: tuple[str, ...]
    across_sessions: str = ""


class TrainingFacts(NamedTuple):
    """What the verdict needs to know about a run.

    Attributes
    ----------
    run : Path
        The run folder.
    settings : Settings
        Of the run.
    history : sequence of dict
        Records of ``metrics.jsonl``; empty for an ensemble.
    n_weights : int
        Weights of one network.
    n_trials, n_spikes : int
        Of the training trials; 0 spikes where they were not counted.
    n_networks : int
        Networks whose rates are averaged.
    """

    run: Path
    settings: Settings
    history: Sequence[Mapping[str, float]]
    n_weights: int
    n_trials: int
    n_spikes: int
    n_networks: int = 1


def judge(
    scores: Mapping[str, "Scores"],
    training: TrainingFacts,
    n_scored_trials: int,
    across: Mapping[str, "DecodingScores"] | None = None,
) -> Verdict:
    """Compare NDT with smoothed spikes on every score there is.

    Parameters
    ----------
    scores : mapping of str to Scores
        As in `ndt_cli.evaluation.Evaluation`.
    training : TrainingFacts
        About the run.
    n_scored_trials : int
        Trials that the scores come from.
    across : mapping of str to DecodingScores, optional
        As in `ndt_cli.evaluation.Evaluation`.
    """
    model, smoothed, mean_rate = scores[MODEL], scores[SMOOTHED], scores[MEAN_RATE]
    found = (
        Comparison(s.label, s.unit, s.of(model), s.of(smoothed), s.of(mean_rate)) for s in COMPARED
    )
    comparisons = tuple(c for c in found if math.isfinite(c.model) and math.isfinite(c.smoothing))
    better = tuple(c.score for c in comparisons if c.difference > 0)
    worse = tuple(c.score for c in comparisons if c.difference < 0)
    both_2N = np.stack([model.hidden.bits_per_spike_N, smoothed.hidden.bits_per_spike_N])
    both_2N = both_2N[:, np.isfinite(both_2N).all(axis=0)]
    n_better, n_neurons = int((both_2N[0] > both_2N[1]).sum()), both_2N.shape[1]
    overfits = overfitting(training.history)
    longer = still_improving(training)
    below = _listed(list(filter(None, (comparison.below_mean_rate for comparison in comparisons))))
    no_better = f"worse than the mean rate on {below}" if below else None
    warnings = [
        *(warning for warning in (overfits, longer, no_better) if warning),
        *_too_little_data(training, n_scored_trials),
    ]
    wins_all = bool(comparisons) and len(better) == len(comparisons) and not below
    return Verdict(
        sentence=_sentence(comparisons, n_better, n_neurons),
        better=better,
        worse=worse,
        comparisons=comparisons,
        n_better_neurons=n_better,
        n_neurons=n_neurons,
        warnings=tuple(warnings),
        advice=() if wins_all else tuple(_advice(training, bool(overfits), bool(longer))),
        across_sessions=_across_sentence(across or {}),
    )


def _across_sentence(across: Mapping[str, "DecodingScores"]) -> str:
    parts = [f"R2 {found.r2_mean:.3f} fitted in {whose}" for whose, found in across.items()]
    return f"Behavior decoded from the encoder's activations: {_listed(parts)}." if parts else ""


def _sentence(comparisons: Sequence[Comparison], n_better: int, n_neurons: int) -> str:
    if not comparisons:
        return "NDT cannot be compared with smoothing: these trials have no spikes to score."
    first, *others = comparisons
    by_sign: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for c in others:
        numbers = ", ".join(filter(None, [c.numbers, c.caveat]))
        by_sign[int(np.sign(c.difference))].append(f"{c.score} ({numbers})")
    sign = int(np.sign(first.difference))
    words = {1: "better than", 0: "as well as", -1: "worse than"}[sign]
    verb = "matches" if first.unit == "R2" else "predicts"
    sentence = f"NDT {verb} {first.score} {words} smoothing: {first.numbers}"
    sentence += f" ({first.caveat})" if first.caveat else ""
    if first.score == "hidden bins":
        sentence += (
            f", {'' if sign > 0 else 'better for '}{n_better} of {count(n_neurons, 'neuron')}"
        )
    for kind, what in ((1, "better"), (0, "equal"), (-1, "worse")):
        if by_sign[kind]:
            also = "also " if kind == sign else ""
            sentence += f"; {also}{what} on {_listed(by_sign[kind])}"
    return sentence + "."


def _listed(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


# Warnings -----------------------------------------------------------------------------------------


def overfitting(history: Sequence[Mapping[str, float]]) -> str | None:
    """Return a warning if validation loss rises while training loss falls.

    The loss of hidden bins must have risen, in the second half of the validations after its
    minimum, by a tenth of what it had fallen before.
    """
    valid = _curve(history, "valid_masked_loss")
    if len(valid) < 3:
        return None
    epochs, losses = (np.array(values) for values in zip(*valid, strict=True))
    best = int(losses.argmin())
    late = losses[best + 1 :][len(losses[best + 1 :]) // 2 :]
    if len(late) < 2 or late.mean() - losses[best] <= max(_RISE * (losses[0] - losses[best]), 1e-6):
        return None
    span = epochs[-1] - epochs[best]
    training = dict(_curve(history, "train_loss"))
    at_best = [loss for epoch, loss in training.items() if abs(epoch - epochs[best]) <= span / 8]
    at_end = [loss for epoch, loss in training.items() if epoch >= epochs[-1] - span / 4]
    if not at_best or not at_end or np.mean(at_end) >= np.mean(at_best):
        return None
    return (
        f"overfitting: from epoch {epochs[best]:.0f} on, the validation loss rises "
        f"({losses[best]:.4f} to {late.mean():.4f}) while the training loss falls"
    )


def still_improving(training: TrainingFacts) -> str | None:
    """Return a warning if the best epoch is the last one, and was much better than those before.

    A learning rate that falls to zero often puts the best epoch at the end, where little is
    gained any more; so the last tenth of the epochs must have brought a fiftieth of the gain.
    """
    measure = MEASURES[training.settings.train.choose_by]
    curve = _curve(training.history, measure.key)
    if not curve:
        return None
    last_epoch, last = curve[-1]
    if any(not measure.is_better(last, value) for _, value in curve[:-1]):
        return None
    start = curve[0][1]
    if measure.key == "valid_masked_loss":
        # Most is gained before the first validation; the training loss of hidden bins shows it.
        start = max([start, *(loss for _, loss in _curve(training.history, "train_loss")[:1])])
    gain = abs(start - last)
    before = float(np.interp((1 - _LATE) * last_epoch, *np.transpose(curve)))
    if len(curve) > 1 and abs(before - last) <= _LATE_GAIN * gain:
        return None
    return (
        f"validation was still improving in the last epoch ({last_epoch:.0f}): train longer, "
        f"{_longer(training)}"
    )


def _longer(training: TrainingFacts) -> str:
    twice = f"train.max_epochs={2 * training.settings.train.max_epochs}"
    return called("resume", training.run, overrides=[twice])


def _curve(history: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """Return epochs and finite values of a measure."""
    found = ((record["epoch"], record.get(key, math.nan)) for record in history)
    return [(epoch, value) for epoch, value in found if math.isfinite(value)]


def _too_little_data(training: TrainingFacts, n_scored_trials: int) -> list[str]:
    warnings = []
    if 0 < training.n_spikes * MANY_WEIGHTS_PER_SPIKE < training.n_weights:
        warnings.append(
            f"far more weights than spikes: {training.n_weights:,} weights for "
            f"{training.n_spikes:,} spikes in the training trials"
        )
    if training.n_trials < FEW_TRAINING_TRIALS:
        warnings.append(
            f"too few trials: {training.n_trials} to train on; expected {FEW_TRAINING_TRIALS} or "
            "more"
        )
    if n_scored_trials < FEW_SCORED_TRIALS:
        warnings.append(
            f"too few trials: these scores come from {n_scored_trials}, so that chance decides "
            "small differences"
        )
    return warnings


# What to try --------------------------------------------------------------------------------------


def _advice(training: TrainingFacts, overfits: bool, longer: bool) -> list[str]:
    """Return what to try, in order; a command at the end has no period, which would be copied."""
    settings, model, mask = training.settings, training.settings.model, training.settings.mask

    def loaded(source: Path | str, *changes: str) -> str:
        return called("load_settings", source, *([list(changes)] if changes else [])).strip("`")

    own = training.run / "settings.toml"
    advice = []
    if mask.empty_ratio == 0 and settings.data.synthetic == "none":
        file = settings.data.file
        recordings = loaded("recordings", *([f"data.file={file}"] if file else []))
        advice.append(
            "The preset recordings, which hides whole bins in training as the scores do: "
            f"`train({recordings})`{'' if file else ', with the same data'}"
        )
    if longer:
        advice.append(f"Longer training: {_longer(training)}")
    if overfits or not longer:
        higher = f"model.dropout={round(min(model.dropout + 0.2, 0.6), 2):g}"
        other = "" if overfits or not model.dropout else ", or none, `model.dropout=0`"
        advice.append(f"More dropout: `train({loaded(own, higher)})`{other}")
    if not (model.full_context or min(model.context_back, model.context_forward) >= 20):
        wider = loaded(own, "model.context_back=20", "model.context_forward=20")
        advice.append(f"A wider context window for signals that change slowly: `train({wider})`")
    if mask.empty_ratio > 0 and settings.inference.passes == 1:
        passes = loaded(own, "inference.passes=8")
        advice.append(f"Rates averaged over several passes: `train({passes})`")
    if training.n_networks == 1:
        advice.append(f"The mean of several networks: `fit_seeds({loaded(own)}, n_seeds=5)`")
    advice.append(f"A search for better settings: `sweep({loaded(own)})`")
    return advice
