"""Which settings the members of a sweep get, and which members are stopped early, with Optuna.

The study lies in the folder of the sweep, ``study.journal``; ``optuna-dashboard study.journal``
shows it. It mirrors what the run folders and ``results.json`` hold: a sweep whose study is lost
goes on without it.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import SettingsError
from ndt_cli.search.executors import Member, Outcome, read_rungs
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Draw, Integer, LogUniform, OneOf, Value, extremes

_FILE = "study.journal"
_NAME = "sweep"

# Settings drawn at random before the first are chosen; Optuna's own default.
N_RANDOM = 10
_MOST_REFUSALS = 100

# Successive halving keeps one member in three at each rung, and the next rung comes after three
# times the epochs (Li et al. 2020, https://arxiv.org/abs/1810.05934).
_REDUCTION = 3
# Fewest epochs of a member, as a share of all: three rungs.
_FIRST_RUNG = 1 / _REDUCTION**3


def rung_epochs(folder: SweepFolder) -> tuple[int, ...]:
    """Return the epochs at which members are compared, all of which validate; none if never."""
    plan, train = folder.plan, folder.settings.train
    if plan.pruner == "none":
        return ()
    drawn = folder.space.draws.get("train.warmup_epochs")
    # A member whose learning rate still rises is not judged.
    warmups = [train.warmup_epochs] if drawn is None else [int(v) for v in extremes(drawn)]
    first = plan.grace_epochs or max(math.ceil(train.max_epochs * _FIRST_RUNG), *warmups)
    interval = train.val_interval_epochs
    rung = math.ceil(first / interval) * interval
    if rung >= train.max_epochs:
        raise SettingsError(
            f"members would be compared for the first time after {rung} epochs, and train for "
            f"{train.max_epochs}",
            "Use a smaller `grace_epochs`, a smaller train.val_interval_epochs, or `pruner=none`.",
        )
    rungs = []
    while rung < train.max_epochs:
        rungs.append(rung)
        rung *= _REDUCTION
    return tuple(rungs)


def check_draws(folder: SweepFolder) -> None:
    """Check, before any member trains, that the settings of those drawn at random are possible."""
    plan = folder.plan
    n_random = plan.members if plan.sampler == "random" else min(plan.members, N_RANDOM)
    for draw in range(n_random):
        drawn = folder.space.draw(plan.seed, draw)
        folder.space.settings_with(folder.settings, drawn, draw * plan.seeds)


class OptunaStrategy:
    """A strategy of `loop.Strategy`: random or TPE, with or without stopping members early."""

    def __init__(self, folder: SweepFolder, pending: Sequence[int], results: SweepResults) -> None:
        self._folder = folder
        self._pending = list(pending)
        self._lower = MEASURES[folder.settings.train.choose_by].lower_is_better
        rungs = rung_epochs(folder)
        self._study = _open_study(folder.path / _FILE, _direction(self._lower), self._pruner(rungs))
        self._trials: dict[int, Any] = {}
        for trial in self._study.get_trials(deepcopy=False):
            draw = trial.user_attrs.get("draw")
            if type(draw) is int:
                self._trials[draw] = optuna.trial.Trial(self._study, trial._trial_id)
            elif trial.state == TrialState.RUNNING:  # killed before it was known whose it is
                self._study.tell(trial.number, state=TrialState.FAIL)
        for member in results.members:
            if member.index not in self._pending:
                self.tell(member, results)
        self._seen: dict[int, tuple[int, int]] = {}

    def ask(self) -> Member | None:
        if not self._pending:
            return None
        index = self._pending.pop(0)
        return self._folder.member(index, self._values(index))

    def retry(self, member: Member) -> None:
        self._pending.insert(0, member.index)

    def tell_end(self, member: Member, outcome: Outcome) -> bool:
        return True

    def tell(self, member: MemberResult, results: SweepResults) -> None:
        """Learn the score of a member, or the mean of its seeds once all have ended."""
        n_seeds, draw = self._folder.plan.seeds, member.index // self._folder.plan.seeds
        group = results.members[draw * n_seeds : (draw + 1) * n_seeds]
        ended = [m for m in group if m.index not in results.to_do]
        if len(ended) < n_seeds:
            return
        trial = self._trials.get(draw) or self._trial(draw, member.drawn)
        scores = [results.score(m) for m in ended]
        failed = any(m.status in ("stopped", "diverged") for m in ended)
        if failed or not np.isfinite(scores).all():
            # Of a member that diverged a sampler learns that it was worse than the others.
            self._study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(trial.number, math.fsum(scores) / n_seeds, skip_if_finished=True)

    def to_stop(self, member: Member) -> str | None:
        if self._folder.plan.pruner == "none":
            return None
        file = member.folder / "rungs.json"
        if not file.is_file():
            return None
        about = file.stat()
        if self._seen.get(member.index) == (about.st_mtime_ns, about.st_size):
            return None
        self._seen[member.index] = about.st_mtime_ns, about.st_size
        scores = read_rungs(member.folder)
        trial = self._trials[member.index]
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        why = None
        for epoch, score in sorted(scores.items()):
            if epoch in known:
                continue
            trial.report(score if math.isfinite(score) else self._worst, epoch)
            if trial.should_prune():
                why = (
                    f"{self._folder.settings.train.choose_by} {score:.4f} after {epoch} epochs, "
                    f"not among the best 1 in {_REDUCTION} of those that reached it"
                )
                break
        return why

    @property
    def _worst(self) -> float:
        return math.inf if self._lower else -math.inf

    def _pruner(self, rungs: Sequence[int]) -> Any:
        if not rungs:
            return optuna.pruners.NopPruner()
        if self._folder.plan.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=rungs[0],
                max_resource=self._folder.settings.train.max_epochs,
                reduction_factor=_REDUCTION,
            )
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rungs[0], reduction_factor=_REDUCTION
        )

    def _values(self, index: int) -> dict[str, Value]:
        """Return the values of a member, chosen now unless they were before."""
        folder, draw = self._folder, index // self._folder.plan.seeds
        drawn = folder.drawn(index)  # at random, or in the settings of a run that has begun
        if not drawn and draw in self._trials:
            drawn = self._suggested(self._trials[draw])
        if drawn:
            if draw not in self._trials:
                self._trial(draw, drawn)
            return drawn
        if draw < N_RANDOM:
            drawn = folder.space.draw(folder.plan.seed, draw)
            self._trial(draw, drawn)
            return drawn
        seed = int(np.random.default_rng([folder.plan.seed, draw]).integers(2**32))
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
        for _ in range(_MOST_REFUSALS):
            trial = self._study.ask()
            drawn = self._suggested(trial)
            try:
                folder.space.settings_with(folder.settings, drawn, index)
            except SettingsError as error:  # values that are not possible together
                refusal = error
                # Worse than any member, so that the sampler turns elsewhere.
                self._study.tell(trial.number, state=TrialState.PRUNED)
                continue
            self._keep(draw, trial)
            return drawn
        raise refusal

    def _trial(self, draw: int, drawn: dict[str, Value]) -> Any:
        """Add a trial with values that were not chosen by Optuna."""
        self._study.enqueue_trial(dict(drawn))
        trial = self._study.ask()
        self._suggested(trial)
        return self._keep(draw, trial)

    def _keep(self, draw: int, trial: Any) -> Any:
        trial.set_user_attr("draw", draw)
        self._trials[draw] = trial
        return trial

    def _suggested(self, trial: Any) -> dict[str, Value]:
        """Return the values of a trial, setting by setting: some depend on earlier ones."""
        drawn: dict[str, Value] = {}
        for key, draw in self._folder.space.draws.items():
            if self._folder.space.applies(key, drawn):
                drawn[key] = _suggest(trial, key, draw)
        return drawn


def _suggest(trial: Any, key: str, draw: Draw) -> Any:
    if isinstance(draw, OneOf):
        return trial.suggest_categorical(key, draw.values)
    if isinstance(draw, Integer):
        return trial.suggest_int(key, draw.low, draw.high)
    return trial.suggest_float(key, draw.low, draw.high, log=isinstance(draw, LogUniform))


def importance(results: SweepResults, draws: Mapping[str, Draw]) -> dict[str, float]:
    """Return the share of each setting in what makes members good, largest first.

    PED-ANOVA (Watanabe et al. 2023): how much the better half of the members differs from all of
    them in the distribution of each setting. Shares add up to 1.

    Parameters
    ----------
    results : SweepResults
        At least 4 ranked members; otherwise nothing is returned.
    draws : dict of str to Draw
        The draws of the space. Those that depend on others are left out.
    """
    ranked = results.ranked
    if len(ranked) < 4:
        return {}
    study = _new_study(_direction(MEASURES[results.choose_by].lower_is_better))
    for member in ranked:
        its = {key: _distribution(draws[key]) for key in member.drawn}
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(member.drawn), distributions=its, value=results.score(member)
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {str(key): float(share) for key, share in found.items() if math.isfinite(share)}


def _direction(lower: bool) -> Literal["minimize", "maximize"]:
    return "minimize" if lower else "maximize"


def _new_study(direction: Literal["minimize", "maximize"], **options: Any) -> Any:
    # Optuna announces every trial otherwise.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction=direction, **options)


def _open_study(file: Path, direction: Any, pruner: Any) -> Any:
    # A kill may have left half a line, and its lock. This process holds the sweep.
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if file.exists():
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            file.write_bytes(whole)
    return _new_study(
        direction,
        study_name=_NAME,
        storage=JournalStorage(JournalFileBackend(str(file))),
        pruner=pruner,
        load_if_exists=True,
    )


def _distribution(draw: Draw) -> BaseDistribution:
    if isinstance(draw, OneOf):
        return CategoricalDistribution(draw.values)
    if isinstance(draw, Integer):
        return IntDistribution(draw.low, draw.high)
    return FloatDistribution(draw.low, draw.high, log=isinstance(draw, LogUniform))
