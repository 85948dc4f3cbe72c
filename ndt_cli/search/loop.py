"""The search: one loop that chooses settings, trains members somewhere, and ranks them."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from ndt_cli.atomic import write_text_atomic
from ndt_cli.data.loading import load_recording, load_sessions
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import choose_compute
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.executors import Executor, InTurn, Job, Report, StopRequest
from ndt_cli.engine.inference import reference_scores
from ndt_cli.engine.preflight import check_same_data, check_trainable, load_own_data
from ndt_cli.engine.run_folder import NewMetrics, RunFolder, default_path, hold_run
from ndt_cli.engine.starting import Start
from ndt_cli.engine.trackers import MemberLogger, log_results, require_tensorboard
from ndt_cli.engine.trainer import ignore
from ndt_cli.engine.training import for_trials, make_session_runs
from ndt_cli.errors import NdtError, RunError, RunWarning, SettingsError, called
from ndt_cli.search.folder import Pruner, Sampler, SweepFolder, SweepPlan
from ndt_cli.search.member import Member, train_member
from ndt_cli.search.pbt import MovesWatcher, PopulationStrategy, check_population
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Space, default_space, find_space
from ndt_cli.search.study import OptunaStrategy, check_draws, rung_epochs
from ndt_cli.settings.tree import Settings

# Deaths of a member's workers, after which it is not tried again.
_MAX_DEATHS = 3
_SECONDS_BETWEEN_READS = 1.0


class Strategy(Protocol):
    """Decides what trains next, and with what settings."""

    def ask(self) -> Member | None:
        """Return the next member to train; None if there is none now."""

    def tell(self, member: MemberResult, results: SweepResults) -> None:
        """Learn how a member ended, or that it has come as far as it was asked to."""

    def to_stop(self, member: Member) -> str | None:
        """Say why a running member should be stopped; None if it should not."""


@dataclass(frozen=True)
class Watching:
    """What follows a sweep; all of it may be left out.

    Examples
    --------
    >>> ended = []
    >>> watching = Watching(ended=lambda member, results: ended.append(member.index))
    """

    # Told of the training in this process (`ndt_cli.engine.events`).
    training: Watcher = ignore
    # Told of each member that has ended, and of all results so far.
    ended: Callable[[MemberResult, SweepResults], None] = lambda member, results: None
    # Told about once a second how many epochs each running member has completed, of how many.
    epochs: Callable[[Mapping[int, int], int], None] = lambda epochs, max_epochs: None
    # Told of each ranking of population-based training.
    moves: MovesWatcher = lambda epoch, moves: None
    # Get the settings, epochs and scores of each member.
    loggers: Sequence[MemberLogger] = ()


@dataclass(frozen=True)
class SweepRun:
    """What `sweep` returns: the members, ranked, and whether it was stopped before the last."""

    results: SweepResults
    interrupted: bool  # it was asked to stop
    out_of_time: bool = False


def sweep(
    settings: Settings,
    space: Space | None = None,
    *,
    n_members: int = 20,
    seed: int = 0,
    n_seeds: int = 1,
    sampler: Sampler = "random",
    pruner: Pruner = "none",
    grace_epochs: int | None = None,
    pbt_interval: int | None = None,
    default_run: bool = False,
    time_budget: float | None = None,
    out: Path | str | None = None,
    recording: Recording | None = None,
    executor: Executor | None = None,
    watching: Watching | None = None,
    should_stop: StopRequest = lambda: False,
) -> SweepRun:
    """Search for good settings: train models with settings from a space, and rank them.

    Parameters
    ----------
    settings : Settings
        What the members share. ``train.choose_by`` ranks them; ``train.seed`` is the seed of
        member 0, and each further member takes the next. Of several sessions (``data.files``), a
        score is the mean over them.
    space : Space, optional
        What is drawn (`ndt_cli.search.space.find_space`). Default: `default_space` of the settings.
    n_members, seed, n_seeds, sampler, pruner, grace_epochs, pbt_interval, default_run
        See `ndt_cli.search.folder.SweepPlan`.
    time_budget : float, optional
        Minutes after which everything is saved and the sweep ends; it can be resumed.
    out : Path or str, optional
        A new folder. Default: ``runs/sweep-<data>-<time>``.
    recording : Recording, optional
        Data in memory; otherwise those that ``settings.data`` names.
    executor : Executor, optional
        Where members train: `InTurn`, `Processes` or `RayTasks`. Default: one after another in
        this process.
    watching : Watching, optional
        What follows the sweep.
    should_stop : callable
        Once it returns true, all running members are saved and the sweep returns.

    Raises
    ------
    SettingsError
        If drawn values are not possible together with the settings; nothing is trained then.
    DataError, DeviceError, MissingExtraError, RunError
        Before anything is written, if the data, the device, what is installed or the folder is
        not usable.

    Examples
    --------
    >>> from ndt_cli import find_space, load_settings
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> results = sweep(settings, find_space("generic"), n_members=2, out="runs/new").results
    >>> [member.status for member in results.ranked]
    ['finished', 'finished']
    >>> list(results.ranked[0].scores)
    ['masked-loss', 'unmasked-loss']
    """
    plan = SweepPlan.of(
        members=n_members,
        seed=seed,
        seeds=n_seeds,
        sampler=sampler,
        pruner=pruner,
        grace_epochs=grace_epochs,
        pbt_interval=pbt_interval,
        default_run=default_run,
    )
    # Wherever members train, they are measured here.
    choose_compute(settings.train)
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    settings = for_trials(settings, recording.train)
    space = space or find_space(default_space(settings))
    check_population(plan, settings, space)
    if settings.train.start_from is not None:
        start = Start.load(settings.train.start_from)
        start.check_draws(space.draws, space.name)
        start.match(settings, recording.train, recording.source)
    path = Path(out) if out is not None else default_path(f"sweep-{Path(recording.source).stem}")
    folder = SweepFolder(path, settings, space, plan)
    check_draws(folder)
    check_trainable(recording, settings)
    return _Loop(folder, recording, executor, watching, time_budget, should_stop).run(new=True)


def resume_sweep(
    path: Path | str,
    *,
    n_members: int | None = None,
    time_budget: float | None = None,
    recording: Recording | None = None,
    executor: Executor | None = None,
    watching: Watching | None = None,
    should_stop: StopRequest = lambda: False,
) -> SweepRun:
    """Resume a sweep that was stopped, as if it had never been.

    Members that have ended are kept; those that were training resume exactly from their last
    checkpoint. ``n_members`` may be more than before; for the other arguments see `sweep`. A
    RunError says that it is not a sweep, or that the data have changed.

    Examples
    --------
    >>> results = resume_sweep("runs/sweep", n_members=3).results
    >>> len(results.members), results.to_do
    (3, [])
    """
    folder = SweepFolder.open(Path(path))
    before = folder.plan.members
    members = before if n_members is None else n_members
    if members < before:
        raise SettingsError(
            f"`n_members={n_members}`: {path} has {before} members already",
            "Leave out `n_members`, or ask for more.",
        )
    folder = replace(folder, plan=SweepPlan.of(**{**folder.plan.model_dump(), "members": members}))
    hint = f"Give its new place, as file in the section data of {folder.path / 'base.toml'}."
    recording = recording or load_own_data(folder.path, folder.settings.data, hint)
    loop = _Loop(folder, recording, executor, watching, time_budget, should_stop)
    if members > before:
        check_draws(folder)
        folder.write_plan()
    return loop.run()


class _Loop:
    """Hands members to an executor until the strategy has no more."""

    def __init__(
        self,
        folder: SweepFolder,
        recording: Recording,
        executor: Executor | None,
        watching: Watching | None,
        time_budget: float | None,
        should_stop: StopRequest,
    ) -> None:
        if (n_processes := Ranks.from_environment().world_size) > 1:
            raise SettingsError(
                f"a sweep runs in one process, and torchrun started {n_processes}",
                "Start it without torchrun.",
            )
        if time_budget is not None and not time_budget > 0:
            raise SettingsError(f"`time_budget={time_budget:g}`: expected minutes above 0")
        self._folder, self._recording, self._should_stop = folder, recording, should_stop
        self._executor, self._watching = executor or InTurn(), watching or Watching()
        self._seconds = math.inf if time_budget is None else 60 * time_budget
        train = partial(train_member, rung_epochs(folder))
        self._job = Job(recording, folder.settings, train)
        self._running: dict[int, Member] = {}
        self._again: list[Member] = []
        self._metrics: dict[int, NewMetrics] = {}
        self._deaths: Counter[int] = Counter()
        self._problem: NdtError | None = None  # of one member; the others go on
        self._refusal: NdtError | None = None  # would meet the others too
        self._stopping = self._out_of_time = False
        self._next_read = 0.0

    def run(self, *, new: bool = False) -> SweepRun:
        try:
            self._executor.open(self._job, self._watching.training)
            if new:  # only now: a cluster that cannot be reached leaves no folder
                self._folder.create()
            with hold_run(self._folder.path):
                self._deadline = time.monotonic() + self._seconds
                self._begin()
                while self._start_members() or self._running:
                    for report in self._executor.wait(self._look):
                        self._take(report)
                    self._look()
                self._folder.write_results(self._results)
        finally:
            self._executor.close()
        problem = self._refusal or self._problem
        if problem is not None:
            raise problem
        results = self._folder.results()
        left = bool(results.to_do)
        return SweepRun(results, left and not self._out_of_time, left and self._out_of_time)

    def _begin(self) -> None:
        """Find out what is done; the folder is held."""
        folder, recording = self._folder, self._recording
        folder.remove_leftovers()
        if longer := folder.check_members():
            names = ", ".join(folder.member(index).name for index in longer)
            warnings.warn(
                f"{names}: trained for more epochs than the other members, by hand, which may be "
                "why it ranks higher",
                RunWarning,
                stacklevel=2,
            )
        (folder.path / "members").mkdir(exist_ok=True)
        for run in (*(folder.path / "members").iterdir(), folder.path / "default"):
            if run.suffix == ".stop":
                ended = run.with_suffix("") / "member.json"
                if ended.is_file() or not run.read_bytes():  # otherwise it is still to be stopped
                    run.unlink()
            elif (run / "run.json").is_file():  # members of a sweep share their data
                check_same_data(RunFolder(run), recording)
        results = folder.results()
        for run in [member.folder for member in results.members if member.has_ended]:
            self._split_sessions(run)
        if "smoothing" not in results.references:
            references = reference_scores(recording, folder.settings)
            folder.write_references(references)
            results = replace(results, references=references | results.references)
        self._results = results
        self._strategy: Strategy = (
            OptunaStrategy(folder, results)
            if folder.plan.pbt_interval is None
            else PopulationStrategy(folder, results, recording, self._watching.moves)
        )
        wants_default = folder.plan.default_run and "default run" not in results.references
        self._last = [folder.member(-1)] if wants_default else []

    def _start_members(self) -> bool:
        """Start members wherever there is room; return whether one was started."""
        started = False
        while len(self._running) < self._executor.n_slots and not self._look():
            member = self._again.pop(0) if self._again else self._strategy.ask()
            if member is None and self._last:
                member = self._last.pop()
            if member is None:
                break
            self._running[member.index] = member
            self._metrics[member.index] = NewMetrics(member.folder)
            for logger in self._watching.loggers:
                logger.begin(member.index, member.settings)
            self._executor.submit(member)
            started = True
        return started

    def _look(self) -> bool:
        """Read how far members are, stop those that lag behind; return whether all must stop."""
        if time.monotonic() >= self._next_read:
            self._next_read = time.monotonic() + _SECONDS_BETWEEN_READS
            epochs = {index: self._read(index) for index in self._running}
            self._watching.epochs(epochs, self._folder.settings.train.max_epochs)
        if self._stopping:
            return True
        for member in self._running.values():
            why = self._strategy.to_stop(member) if member.index >= 0 else None
            if why is not None:
                write_text_atomic(member.stop_file, why, overwrite=True)
        self._out_of_time = time.monotonic() >= self._deadline
        self._stopping = self._out_of_time or self._should_stop() or self._refusal is not None
        if self._stopping:
            for member in self._running.values():
                member.stop_file.touch()
        return self._stopping

    def _take(self, report: Report) -> None:
        """Note how a member's training stopped, and rank it if it has ended."""
        member = self._running.pop(report.task.index)
        self._read(member.index)
        for note in report.notes:
            warnings.warn(note, RunWarning, stacklevel=2)
        self._refusal = self._refusal or report.refusal
        if report.died:
            self._lost(member, report.died)
        if report.died or report.refusal:
            return
        result = self._folder.result(member.index)
        member.stop_file.unlink(missing_ok=True)
        if result.has_ended:
            self._end(member, result)
        elif member.until_epoch is not None and result.epochs >= member.until_epoch:
            self._strategy.tell(result, self._results)
        elif not self._stopping:
            self._lost(member, "it was asked to stop")

    def _split_sessions(self, run: Path) -> None:
        """Make a run folder of each session of a member, unless it is there."""
        sessions = self._recording.train.sessions
        if sessions and not (run / "sessions" / sessions.names[-1] / "settings.toml").is_file():
            make_session_runs(RunFolder(run), self._recording, self._alone)

    @cached_property
    def _alone(self) -> list[Recording]:
        return load_sessions(self._folder.settings.data, self._recording)

    def _end(self, member: Member, result: MemberResult) -> None:
        self._split_sessions(member.folder)
        self._results = self._results.with_member(result)
        self._folder.write_results(self._results)
        for logger in self._watching.loggers:
            logger.end(member.index, result.scores, result.status)
        if member.index < 0:
            return
        self._strategy.tell(result, self._results)
        if member.settings.train.tensorboard and result.scores:
            run = RunFolder(member.folder)
            log_results(run, member.settings, result.scores, (), result.epochs)
        self._watching.ended(result, self._results)

    def _lost(self, member: Member, why: str) -> None:
        """Try again a member whose worker died, from its last checkpoint."""
        self._deaths[member.index] += 1
        if self._deaths[member.index] > _MAX_DEATHS:
            self._problem = RunError(
                f"{member.name}: its worker died {_MAX_DEATHS + 1} times, the last time because: "
                f"{why}",
                "Everything up to the last checkpoint is kept; try again: "
                f"{called('resume_sweep', self._folder.path)}",
            )
            return
        warnings.warn(
            f"{member.name}: its worker died ({why}) after {self._metrics[member.index].epoch} "
            "epochs; it resumes from the last checkpoint",
            RunWarning,
            stacklevel=2,
        )
        self._again.append(member)

    def _read(self, index: int) -> int:
        """Pass new epochs of a member to the loggers; return how many are complete."""
        for record in self._metrics[index].read():
            for logger in self._watching.loggers:
                logger.log(index, int(record["epoch"]), record)
        return self._metrics[index].epoch
