"""The members of a sweep, ranked by scores that can be compared.

During training a member validates under its own mask settings. With a smaller mask ratio its
masked loss is lower without its model being better. So the best checkpoint of each member is
measured again, with the bins hidden that the settings of the sweep hide.
"""

import csv
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ndt_cli.baselines import HeldoutRegression, Smoother, constant_rates, mean_rate
from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.engine.measures import MEASURES
from ndt_cli.jsonable import jsonable
from ndt_cli.metrics import bits_per_spike, rate_scores
from ndt_cli.search.space import Value
from ndt_cli.settings.tree import Settings

Scores = dict[str, float]


def run_scores(run: Path, data: SpikeData, settings: Settings) -> Scores:
    """Measure the best checkpoint of a run or ensemble on validation trials.

    The settings say which bins are hidden, and are the same for all that are compared.
    """
    trained = load_trained(run, device=settings.train.device)
    folds_BTN = hiding_folds(data, settings)
    return scores_of_rates(data, trained.rates(data), trained.rates_while_hidden(data, folds_BTN))


def mean_rate_scores(recording: Recording) -> Scores:
    """Measure what every model must beat: each neuron's mean rate in the training trials."""
    rates_BTN = constant_rates(mean_rate(recording.train), recording.valid)
    return scores_of_rates(recording.valid, rates_BTN, rates_BTN)


def smoothing_scores(recording: Recording, settings: Settings) -> Scores:
    """Measure smoothed spikes, with the kernel chosen on the training trials.

    Held-out neurons are predicted from the smoothed held-in ones.

    Raises
    ------
    DataError
        If the counts of held-out neurons are not known.
    """
    train, data = recording.train, recording.valid
    smoother, folds_BTN = Smoother.fit(train), hiding_folds(data, settings)
    seen_BTN, hidden_BTN = smoother.rates(data), np.zeros(data.spikes_BTN.shape)
    for fold in range(int(folds_BTN.max()) + 1):
        in_fold_BTN = np.broadcast_to(folds_BTN == fold, hidden_BTN.shape)
        np.copyto(hidden_BTN, smoother.rates_hidden(data, in_fold_BTN), where=in_fold_BTN)
    if data.n_heldout:
        predicted_BTN = HeldoutRegression.fit(train, smoother).rates(data)
        for rates_BTN in (seen_BTN, hidden_BTN):
            rates_BTN[:, :, data.n_neurons - data.n_heldout :] = predicted_BTN
    return scores_of_rates(data, seen_BTN, hidden_BTN)


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
        held-out neurons have counts: their bits per spike in the window.
    """
    window = slice(0, data.n_bins - data.n_forward)
    heldout = slice(data.n_neurons - data.n_heldout, None)
    visible_BTN = np.broadcast_to(data.inside_BT[:, :, None], data.spikes_BTN.shape).copy()
    known_BTN = visible_BTN.copy()
    visible_BTN[:, :, heldout] = False
    visible_BTN[:, window.stop :] = False
    if not data.hidden_counts_known:
        known_BTN = visible_BTN
    names = ["masked-loss", "unmasked-loss"]
    names += ["rate-r2"] if data.rates_BTN is not None else []
    names += ["co-bps"] if data.n_heldout and data.hidden_counts_known else []
    if not (np.isfinite(seen_BTN).all() and np.isfinite(hidden_BTN).all()):
        return dict.fromkeys(names, np.nan)
    scores = {
        "masked-loss": bits_per_spike(hidden_BTN, data.spikes_BTN, known_BTN).poisson_loss,
        "unmasked-loss": bits_per_spike(seen_BTN, data.spikes_BTN, visible_BTN).poisson_loss,
    }
    if data.rates_BTN is not None:
        scores["rate-r2"] = rate_scores(seen_BTN, data.rates_BTN, data.inside_BT).r2_mean
    if "co-bps" in names:
        scores["co-bps"] = bits_per_spike(
            seen_BTN[:, window, heldout],
            data.spikes_BTN[:, window, heldout],
            data.inside_BT[:, window],
        ).bits_per_spike
    return scores


# ------------------------------------------------------------------------------------------------
# What a sweep has found so far: its members, ranked.
# ------------------------------------------------------------------------------------------------


# "unfinished": training has begun and can resume; "waiting": not begun.
_RANKED = ("finished", "early", "stopped")
_ENDED = (*_RANKED, "diverged")
STATUSES = (*_ENDED, "unfinished", "waiting")


@dataclass(frozen=True)
class MemberResult:
    """What is known of a member.

    Parameters
    ----------
    index : int
        Its number, from 0.
    folder : Path
        Its run folder.
    drawn : dict of str to value
        What was drawn for it, by dotted name.
    status : str
        One of `STATUSES`.
    scores : dict of str to float
        Of its best checkpoint on the validation trials, by names of ``train.choose_by``.
    best_epoch : int or None
        Epoch of that checkpoint.
    epochs : int
        Complete epochs.
    seconds : float
        Training time.
    message : str
        Why it diverged or was stopped.
    """

    index: int
    folder: Path
    drawn: dict[str, Value]
    status: str
    scores: Scores
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a score that is not finite is None."""
        values = {
            "member": self.index,
            "folder": f"{self.folder.parent.name}/{self.folder.name}",
            "status": self.status,
            "scores": self.scores,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "seconds": round(self.seconds, 3),
            "message": self.message,
            "drawn": self.drawn,
        }
        return {key: jsonable(value) for key, value in values.items()}

    @classmethod
    def from_json(cls, sweep: Path, row: dict[str, Any]) -> "MemberResult":
        """Return what `to_json` made; anything else is a ValueError, LookupError or TypeError."""
        values = {**row, "index": row["member"], "folder": str(sweep / row["folder"]), "scores": {}}
        del values["member"]
        values.pop("rank", None)
        # As JSON: the strict check of Python values takes no dict for a dataclass.
        result = _ROW.validate_json(json.dumps(values, allow_nan=False), strict=True)
        result = replace(result, scores=scores_from_json(row["scores"]))
        # A file from elsewhere must not lead out of the folder of the sweep.
        if result.folder.parent != sweep / "members" or result.folder.name == "..":
            raise ValueError(f"folder {row['folder']!r} is not in members/")
        if result.status not in STATUSES:
            raise ValueError(f"status {result.status!r}")
        return result


_ROW = TypeAdapter(MemberResult)


def scores_from_json(scores: dict[str, float | None]) -> Scores:
    """Return scores with NaN for null; anything else is a TypeError or AttributeError."""
    for name, score in scores.items():
        if score is not None and type(score) not in (int, float):
            raise TypeError(f"the score {name} is {score!r}")
    return {name: math.nan if score is None else score for name, score in scores.items()}


@dataclass(frozen=True)
class SettingsResult:
    """Members with the same settings but for the seed, and their mean score."""

    members: tuple[MemberResult, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class SweepResults:
    """All members of a sweep.

    Parameters
    ----------
    path : Path
        Folder of the sweep.
    choose_by : str
        The measure that ranks, as ``train.choose_by``.
    members : tuple of MemberResult
        By number.
    references : dict of str to dict of str to float
        Scores on the same trials of each neuron's ``"mean rate"``, of ``"smoothing"`` and of the
        ``"default run"``, which has the settings of the sweep without any draw.
    n_seeds : int
        Consecutive members that differ in the seed alone.
    """

    path: Path
    choose_by: str
    members: tuple[MemberResult, ...]
    references: dict[str, Scores]
    n_seeds: int = 1

    @property
    def ranked(self) -> list[MemberResult]:
        """Members that have ended with a finite score, best first.

        This includes those stopped early: what they reached is a model like any other.
        """
        scored = [m for m in self.members if m.status in _RANKED and math.isfinite(self.score(m))]
        return sorted(scored, key=lambda member: (self._sign * self.score(member), member.index))

    @property
    def by_settings(self) -> list[SettingsResult]:
        """Groups of members with the same settings whose seeds are all ranked, best first."""
        groups: dict[int, list[MemberResult]] = {}
        for member in self.ranked:
            groups.setdefault(member.index // self.n_seeds, []).append(member)
        found = []
        for members in groups.values():
            if len(members) == self.n_seeds:
                scores = [self.score(member) for member in members]
                mean = math.fsum(scores) / len(scores)
                sd = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / max(1, len(scores) - 1))
                found.append(SettingsResult(tuple(members), mean, sd))
        return sorted(found, key=lambda group: (self._sign * group.mean, group.members[0].index))

    @property
    def best(self) -> MemberResult | None:
        """The best member of the best settings; None before any has ended."""
        groups = self.by_settings
        return groups[0].members[0] if groups else None

    @property
    def collapsed(self) -> list[MemberResult]:
        """Ranked members that are no better than the mean rate."""
        floor = self._sign * self.mean_rate.get(self.choose_by, math.nan)
        return [member for member in self.ranked if self._sign * self.score(member) >= floor]

    @property
    def in_order(self) -> list[MemberResult]:
        """All members: the ranked ones best first, then the others by number."""
        ranked = self.ranked
        return ranked + [member for member in self.members if member not in ranked]

    @property
    def to_do(self) -> list[int]:
        """Numbers of the members that have not ended."""
        return [member.index for member in self.members if member.status not in _ENDED]

    @property
    def mean_rate(self) -> Scores:
        """Scores of each neuron's mean rate: a model that is no better has learned nothing."""
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

    def with_member(self, ended: MemberResult) -> "SweepResults":
        """Return the results with what is now known of a member."""
        members = tuple(ended if m.index == ended.index else m for m in self.members)
        return replace(self, members=members)

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
        columns = dict.fromkeys(key for row in rows for key in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
