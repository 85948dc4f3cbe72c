"""Which member trains next, and with which values."""

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher

from ndt_cli.errors import SettingsError
from ndt_cli.search.draws import Choice, Draw, Integer, LogUniform, Value
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.member import Member
from ndt_cli.search.ray_trials import OfThisProcess
from ndt_cli.search.ray_worker import SCORE, config_of
from ndt_cli.search.results import RANKED
from ndt_cli.search.scoring import lower_is_better

# Members whose values are drawn at random before any are chosen; Optuna's own default.
N_RANDOM = 10
_MOST_REFUSALS = 100


class MembersInOrder(OfThisProcess, Searcher):
    """Hands the members of a sweep to Tune, by number.

    Parameters
    ----------
    members : sequence of Member
        Those to train.
    should_stop : callable
        Once it is true, no more are handed out.

    Attributes
    ----------
    handed_out : dict of str to list of Member
        By name of the trial that trains them.
    """

    def __init__(self, members: Sequence[Member], should_stop: Callable[[], bool]) -> None:
        super().__init__()
        self._left = list(members)
        self._should_stop = should_stop
        self.handed_out: dict[str, list[Member]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial."""
        if self._should_stop() or not self._left:
            return cast("dict[str, Any]", Searcher.FINISHED)  # a word, as Tune has it
        members = self._left[:1]
        del self._left[:1]
        members = [self._with_values(trial_id, member) for member in members]
        self.handed_out[trial_id] = members
        return config_of(members)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn nothing from how a member did."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: all that there is to know is in the sweep's folder."""

    def _with_values(self, trial_id: str, member: Member) -> Member:
        del trial_id
        return member


class ChosenMembers(MembersInOrder):
    """Chooses the values of a member by what those before it scored, with Optuna's TPE.

    The first `N_RANDOM` members are those of a random search with the same seed. What is chosen is
    kept in the sweep's folder, and a sweep that goes on learns from all members that have ended.

    Parameters
    ----------
    folder : SweepFolder
        The sweep.
    members, should_stop
        As of `MembersInOrder`.
    """

    def __init__(
        self, folder: SweepFolder, members: Sequence[Member], should_stop: Callable[[], bool]
    ) -> None:
        super().__init__(members, should_stop)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder = folder
        self._distributions = {
            key: distribution_of(draw) for key, draw in folder.space.draws.items()
        }
        # Another generator for each number of members that are known: one that goes on must not
        # draw again what it drew before.
        results = folder.results()
        ended = [member for member in results.members if member.index not in results.to_do]
        seed = int(np.random.default_rng([folder.seed, len(ended)]).integers(2**31))
        lower = lower_is_better(results.choose_by)
        self._study = optuna.create_study(
            direction=StudyDirection.MINIMIZE if lower else StudyDirection.MAXIMIZE,
            # Of members that are still training, those nearby are assumed to do badly.
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=N_RANDOM, constant_liar=True, seed=seed
            ),
        )
        for member in ended:
            self._tell_past(member.drawn, member.status in RANKED, results.score(member))
        self._open: dict[str, optuna.Trial] = {}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a member's score."""
        score = (result or {}).get(SCORE, math.nan)
        trial = self._open.pop(trial_id)
        if math.isfinite(score) and not error:
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _with_values(self, trial_id: str, member: Member) -> Member:
        for _ in range(_MOST_REFUSALS):
            if self._has_values(member):
                self._study.enqueue_trial(self._folder.drawn(member.index))
            trial = self._study.ask(self._distributions)
            try:
                chosen = self._folder.choose(member.index, trial.params)
            except SettingsError as error:  # values that do not go together
                self._study.tell(trial, state=TrialState.PRUNED)
                refusal = error
            else:
                self._open[trial_id] = trial
                return chosen
        raise refusal

    def _has_values(self, member: Member) -> bool:
        chosen_before = self._folder.is_chosen(member.index) or member.has_begun
        return member.index < N_RANDOM or chosen_before

    def _tell_past(self, drawn: dict[str, Value], is_ranked: bool, score: float) -> None:
        scored = is_ranked and math.isfinite(score)
        # TPE takes a pruned trial for worse than any with a score.
        self._study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if scored else TrialState.PRUNED,
                value=score if scored else None,
                params=drawn,
                distributions=self._distributions,
            )
        )


def distribution_of(draw: Draw) -> BaseDistribution:
    """Return Optuna's word for a draw."""
    if isinstance(draw, Choice):
        return CategoricalDistribution(draw.values)
    if isinstance(draw, Integer):
        return IntDistribution(draw.low, draw.high)
    return FloatDistribution(draw.low, draw.high, log=isinstance(draw, LogUniform))
