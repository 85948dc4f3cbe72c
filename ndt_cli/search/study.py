"""Which settings the members of a sweep get, and which members are stopped early, with Optuna.

The study lies in the folder of the sweep, ``study.journal``; ``optuna-dashboard study.journal``
shows it. It repeats what the run folders hold, and is made again from them whenever a sweep
starts or resumes.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import SettingsError
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.member import Member, read_rungs
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Draw, Value

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
    warmups = [train.warmup_epochs] if drawn is None else [int(v) for v in drawn.values]
    first = plan.grace_epochs or max(math.ceil(train.max_epochs * _FIRST_RUNG), *warmups)
    rungs = [math.ceil(first / train.val_interval_epochs) * train.val_interval_epochs]
    if rungs[0] >= train.max_epochs:
        raise SettingsError(
            f"members would be compared for the first time after {rungs[0]} epochs, and train for "
            f"{train.max_epochs}",
            "Use a smaller `grace_epochs`, a smaller train.val_interval_epochs, or `pruner=none`.",
        )
    while rungs[-1] * _REDUCTION < train.max_epochs:
        rungs.append(rungs[-1] * _REDUCTION)
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

    def __init__(self, folder: SweepFolder, results: SweepResults) -> None:
        self._folder, self._pending = folder, results.to_do
        file = folder.path / "study.journal"
        for path in (file, file.with_name(f"{file.name}.lock")):  # a kill leaves its lock
            path.unlink(missing_ok=True)
        self._study = _new_study(
            results.choose_by,
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(file))),
            pruner=_pruner(folder),
        )
        self._trials: dict[int, Any] = {}  # by draw, which several seeds share
        self._reported: dict[int, int] = {}  # by member: the last epoch that its trial knows of
        self._lagging: dict[int, tuple[int, float]] = {}  # by member: where it lags behind
        for member in results.members:
            if member.status != "waiting":
                self._trial(member.index, member.drawn)
                self._report(member)
                self.tell(member, results)

    def ask(self) -> Member | None:
        """Return the next member, with values that are chosen now unless they were before."""
        if not self._pending:
            return None
        index = self._pending.pop(0)
        plan, draw = self._folder.plan, index // self._folder.plan.seeds
        if draw not in self._trials and plan.sampler == "tpe" and draw >= N_RANDOM:
            self._trials[draw] = self._chosen(index)
        trial = self._trial(index, self._folder.space.draw(plan.seed, draw))
        return self._folder.member(index, dict(trial.params))

    def tell(self, member: MemberResult, results: SweepResults) -> None:
        """Learn the score of a member, or the mean of its seeds once all have ended."""
        n_seeds, draw = results.n_seeds, member.index // results.n_seeds
        group = results.members[draw * n_seeds : (draw + 1) * n_seeds]
        if not all(one.has_ended for one in group):
            return
        trial = self._trials[draw].number
        scores = [results.score(one) for one in group]
        if any(m.status in ("stopped", "diverged") for m in group) or np.isnan(scores).any():
            # Of a member that diverged a sampler learns that it was worse than the others.
            self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(trial, float(np.mean(scores)), skip_if_finished=True)

    def to_stop(self, member: Member) -> str | None:
        """Say that a member's newest score is not among the best of those that got as far."""
        lagging = None if self._folder.plan.pruner == "none" else self._report(member)
        return lagging and (
            f"{self._folder.settings.train.choose_by} {lagging[1]:.4f} after {lagging[0]} epochs, "
            f"not among the best 1 in {_REDUCTION} of those that reached it"
        )

    def _report(self, member: Member | MemberResult) -> tuple[int, float] | None:
        """Report a member's new scores; return the epoch and score at which it lags behind."""
        trial = self._trials[member.index // self._folder.plan.seeds]
        worst = math.inf if self._study.direction.name == "MINIMIZE" else -math.inf
        for epoch, score in sorted(read_rungs(member.folder).items()):
            if epoch > self._reported.get(member.index, 0):
                self._reported[member.index] = epoch
                trial.report(score if math.isfinite(score) else worst, epoch)
                if trial.should_prune():
                    self._lagging.setdefault(member.index, (epoch, score))
        return self._lagging.get(member.index)

    def _trial(self, index: int, drawn: Mapping[str, Value]) -> Any:
        """Return the trial of a member; a new one has values that Optuna did not choose."""
        draw = index // self._folder.plan.seeds
        if draw not in self._trials:
            self._trials[draw] = _known_trial(self._study, drawn, self._folder.space.draws)
        return self._trials[draw]

    def _chosen(self, index: int) -> Any:
        """Return a trial with values chosen by what earlier members scored."""
        folder, draw = self._folder, index // self._folder.plan.seeds
        for attempt in range(_MOST_REFUSALS):
            rng = np.random.default_rng([folder.plan.seed, draw, attempt])
            seed = int(rng.integers(2**32))
            self._study.sampler = (
                optuna.samplers.RandomSampler(seed=seed)
                if attempt  # TPE knows nothing of values that are not possible together
                else optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
            )
            trial, drawn = self._study.ask(), dict[str, Value]()
            for key, how in folder.space.draws.items():  # in order: some depend on earlier ones
                if folder.space.applies(key, drawn):
                    drawn[key] = _suggest(trial, key, how)
            try:
                folder.space.settings_with(folder.settings, drawn, index)
            except SettingsError as error:
                refusal = error
                self._study.tell(trial.number, state=TrialState.FAIL)
            else:
                return trial
        raise refusal


def _pruner(folder: SweepFolder) -> Any:
    if folder.plan.pruner == "none":
        return optuna.pruners.NopPruner()
    how = {"min_resource": rung_epochs(folder)[0], "reduction_factor": _REDUCTION}
    if folder.plan.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(**how)
    return optuna.pruners.HyperbandPruner(max_resource=folder.settings.train.max_epochs, **how)


def _new_study(choose_by: str, **options: Any) -> Any:
    # Optuna announces every trial otherwise.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lower = MEASURES[choose_by].lower_is_better
    return optuna.create_study(direction="minimize" if lower else "maximize", **options)


def _known_trial(study: Any, drawn: Mapping[str, Value], draws: Mapping[str, Draw]) -> Any:
    """Add a trial with known values to a study."""
    study.enqueue_trial(dict(drawn))
    trial = study.ask()
    for key in drawn:
        _suggest(trial, key, draws[key])
    return trial


def _suggest(trial: Any, key: str, draw: Draw) -> Any:
    if draw.kind == "choice":
        return trial.suggest_categorical(key, draw.values)
    if draw.kind == "integer":
        return trial.suggest_int(key, *draw.values)
    return trial.suggest_float(key, *draw.values, log=draw.kind == "log-uniform")


# Of five settings of which one decides, importance finds that one in 35 % of searches of 4 draws,
# in 68 % of 10 and in 98 % of 20. Where none matters, the largest share is 0.4 to 0.6 all the same.
_FEW_DRAWS = 20


def importance_caveat(results: SweepResults) -> str:
    """Say that chance decides importance if few settings were drawn; empty if they were not."""
    n_draws = len({member.index // results.n_seeds for member in results.ranked})
    if n_draws >= _FEW_DRAWS:
        return ""
    return f"uncertain: {n_draws} draws of the settings, expected {_FEW_DRAWS} or more"


def importance(results: SweepResults, draws: Mapping[str, Draw]) -> dict[str, float]:
    """Return the share of each setting in what makes members good, largest first.

    PED-ANOVA (Watanabe et al. 2023): how much the better half of the members differs from all of
    them in the distribution of each setting. Shares add up to 1; those of settings that depend on
    others are left out. Below 4 ranked members nothing is returned.
    """
    ranked = results.ranked
    if len(ranked) < 4:
        return {}
    study = _new_study(results.choose_by)
    for member in ranked:
        drawn = {key: value for key, value in member.drawn.items() if key in draws}
        trial = _known_trial(study, drawn, draws)
        study.tell(trial.number, results.score(member))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {str(key): float(share) for key, share in found.items() if math.isfinite(share)}
