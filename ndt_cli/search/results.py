"""The members of a sweep, ranked by scores that can be compared.

During training a member validates under its own mask settings. With a smaller mask ratio its
masked loss is lower without its model being better. So the best checkpoint of each member is
measured again, with the bins hidden that the settings of the sweep hide.
"""

import csv
import io
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import FiniteFloat

from ndt_cli.baselines import constant_rates, mean_rate
from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.engine.measures import MEASURES, measures_of
from ndt_cli.errors import DataError
from ndt_cli.jsonable import jsonable
from ndt_cli.metrics import bits_per_spike, rate_scores
from ndt_cli.search.space import Value
from ndt_cli.settings.tree import Settings

# By names of `train.choose_by`; scores that are not finite are left out.
Scores = dict[str, FiniteFloat]

# "stopped": worse than other members after as many epochs; "early": no improvement for
# `train.patience_epochs`; "unfinished": training has begun and can resume; "waiting": not begun.
Ended = Literal["finished", "early", "stopped", "diverged"]
Status = Literal[Ended, "unfinished", "waiting"]
STATUSES: tuple[Status, ...] = (*get_args(Ended), "unfinished", "waiting")


def run_scores(run: Path, data: SpikeData, settings: Settings) -> Scores:
    """Measure the best checkpoint of a run or ensemble on validation trials.

    The settings say which bins are hidden, and are the same for all that are compared.
    """
    trained = load_trained(run, device=settings.train.device)
    folds_BTN = hiding_folds(data, settings)
    return scores_of_rates(data, trained.rates(data), trained.rates_while_hidden(data, folds_BTN))


def reference_scores(recording: Recording, settings: Settings) -> dict[str, Scores]:
    """Measure each neuron's mean rate in the training trials, and smoothed spikes.

    The kernel is chosen on the training trials, and held-out neurons are predicted from the
    smoothed held-in ones. Without their counts, smoothing is left out.
    """
    train, data = recording.train, recording.valid
    mean_BTN = constant_rates(mean_rate(train), data)
    scores = {"mean rate": scores_of_rates(data, mean_BTN, mean_BTN)}
    with suppress(DataError):
        smoothing = SmoothingReference.fit(train)
        seen_BTN = smoothing.rates(data)
        hidden_BTN = smoothing.rates_while_hidden(data, hiding_folds(data, settings))
        heldout = slice(data.n_neurons - data.n_heldout, None)
        hidden_BTN[:, :, heldout] = seen_BTN[:, :, heldout]
        scores["smoothing"] = scores_of_rates(data, seen_BTN, hidden_BTN)
    return scores


def scores_of_rates(data: SpikeData, seen_BTN: FloatArray, hidden_BTN: FloatArray) -> Scores:
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


@dataclass(frozen=True)
class MemberResult:
    """What is known of a member."""

    index: int  # from 0; below 0: the default run
    folder: Path
    drawn: dict[str, Value]  # by dotted name
    status: Status
    scores: Scores = field(default_factory=dict)  # of its best checkpoint, on validation trials
    best_epoch: int | None = None  # of that checkpoint
    epochs: int = 0  # complete ones
    seconds: FiniteFloat = 0.0  # of training, over all resumptions
    message: str = ""  # why it diverged or was stopped

    @property
    def has_ended(self) -> bool:
        """True unless there is something left to train."""
        return self.status in get_args(Ended)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        values = jsonable(self)
        folder = f"{self.folder.parent.name}/{self.folder.name}"
        return {"member": values.pop("index"), **values, "folder": folder}


@dataclass(frozen=True)
class SettingsResult:
    """Members with the same settings but for the seed, and their mean score."""

    members: tuple[MemberResult, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class SweepResults:
    """All members of a sweep, by number, and what they are compared with."""

    path: Path
    choose_by: str  # the measure that ranks, as `train.choose_by`
    members: tuple[MemberResult, ...]
    # Scores of the "mean rate" of each neuron, of "smoothing" and of the "default run", which has
    # the settings of the sweep without any draw.
    references: dict[str, Scores]
    n_seeds: int = 1  # consecutive members that differ in the seed alone

    @property
    def ranked(self) -> list[MemberResult]:
        """Members that have ended with a finite score, best first.

        This includes those stopped early: what they reached is a model like any other.
        """
        ended = [m for m in self.members if m.has_ended and m.status != "diverged"]
        scored = [m for m in ended if math.isfinite(self.score(m))]
        return sorted(scored, key=lambda m: (self._sign * self.score(m), m.index))

    @property
    def by_settings(self) -> list[SettingsResult]:
        """Groups of members with the same settings whose seeds are all ranked, best first."""
        ranked, found = self.ranked, []
        for draw in range(len(self.members) // self.n_seeds):
            members = tuple(m for m in ranked if m.index // self.n_seeds == draw)
            if len(members) == self.n_seeds:
                scores = np.array([self.score(member) for member in members])
                sd = float(scores.std(ddof=1)) if len(members) > 1 else 0.0
                found.append(SettingsResult(members, float(scores.mean()), sd))
        return sorted(found, key=lambda group: (self._sign * group.mean, group.members[0].index))

    @property
    def best(self) -> MemberResult | None:
        """The best member of the best settings; None before any has ended."""
        groups = self.by_settings
        return groups[0].members[0] if groups else None

    @property
    def collapsed(self) -> list[MemberResult]:
        """Ranked members that are no better than the mean rate: they have learned nothing."""
        floor = self._sign * self.mean_rate.get(self.choose_by, math.nan)
        return [member for member in self.ranked if self._sign * self.score(member) >= floor]

    @property
    def in_order(self) -> list[MemberResult]:
        """All members: the ranked ones best first, then the others by number."""
        ranked = self.ranked
        places = {member.index for member in ranked}
        return ranked + [member for member in self.members if member.index not in places]

    @property
    def to_do(self) -> list[int]:
        """Numbers of the members that have not ended."""
        return [member.index for member in self.members if not member.has_ended]

    @property
    def mean_rate(self) -> Scores:
        """Scores of each neuron's mean rate."""
        return self.references.get("mean rate", {})

    @property
    def _sign(self) -> int:
        return 1 if MEASURES[self.choose_by].lower_is_better else -1

    def score(self, member: MemberResult) -> float:
        """Return the score that a member is ranked by; NaN if it has none."""
        return member.scores.get(self.choose_by, math.nan)

    def count(self, status: str) -> int:
        """Return the number of members with this status."""
        return sum(member.status == status for member in self.members)

    def with_member(self, known: MemberResult) -> "SweepResults":
        """Return the results with what is now known of a member or of the default run."""
        if known.index < 0:
            return replace(self, references={**self.references, "default run": known.scores})
        members = list(self.members)
        members[known.index] = known
        return replace(self, members=tuple(members))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ranked members first."""
        n_ranked = len(self.ranked)
        content = {
            "sweep": str(self.path),
            "choose_by": self.choose_by,
            "lower_is_better": MEASURES[self.choose_by].lower_is_better,
            "references": self.references,
            "members": [
                {"rank": number if number <= n_ranked else None, **member.to_json()}
                for number, member in enumerate(self.in_order, start=1)
            ],
        }
        if self.n_seeds > 1:
            content["settings"] = [
                {"members": [m.index for m in group.members], "mean": group.mean, "sd": group.sd}
                for group in self.by_settings
            ]
        return {key: jsonable(value) for key, value in content.items()}

    def to_csv(self) -> str:
        """Return a table with one row per member; an undefined value is an empty cell."""
        rows = []
        for row in self.to_json()["members"]:
            scores, drawn = row.pop("scores"), row.pop("drawn")
            tail = {key: row.pop(key) for key in ("seconds", "folder", "message")}
            rows.append({**row, **scores, **drawn, **tail})
        text = io.StringIO()
        columns = dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
