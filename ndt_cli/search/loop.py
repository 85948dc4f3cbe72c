"""The search: one loop that chooses settings, trains members somewhere, and ranks them."""

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import choose_compute, cpu_threads
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.preflight import check_same_data, check_trainable
from ndt_cli.engine.run_folder import RunFolder, default_path, hold_run
from ndt_cli.engine.tensorboard import log_results, require_tensorboard
from ndt_cli.engine.trainer import ignore
from ndt_cli.engine.training import for_trials
from ndt_cli.errors import DataError, NdtError, RunError, RunWarning, SettingsError, called
from ndt_cli.search.executors import (
    Executor,
    InTurn,
    Job,
    Member,
    Outcome,
    StopRequest,
    outcome_so_far,
)
from ndt_cli.search.folder import Pruner, Sampler, SweepFolder, SweepPlan
from ndt_cli.search.loggers import MemberLogger
from ndt_cli.search.pbt import MovesWatcher, PopulationStrategy, check_population
from ndt_cli.search.results import (
    MemberResult,
    Scores,
    SweepResults,
    mean_rate_scores,
    run_scores,
    smoothing_scores,
)
from ndt_cli.search.space import Space
from ndt_cli.search.study import OptunaStrategy, check_draws, rung_epochs
from ndt_cli.settings.tree import Settings

# Deaths of a member's workers, after which it is not tried again.
_MAX_DEATHS = 3
_SECONDS_BETWEEN_READS = 1.0

# Told of each member that has ended, and of all results so far.
MemberWatcher = Callable[[MemberResult, SweepResults], None]
# Told now and then how many epochs each running member has completed, by its number, of how many.
EpochWatcher = Callable[[Mapping[int, int], int], None]


class Strategy(Protocol):
    """Decides what trains next, and with what settings."""

    def ask(self) -> Member | None:
        """Return the next member to train; None if there is none now."""

    def retry(self, member: Member) -> None:
        """Hand a member out once more, whose worker died."""

    def tell_end(self, member: Member, outcome: Outcome) -> bool:
        """Take note that training has ended; return whether the member has."""

    def tell(self, member: MemberResult, results: SweepResults) -> None:
        """Learn the scores of a member that has ended."""

    def to_stop(self, member: Member) -> str | None:
        """Say why a running member should be stopped; None if it should not."""


@dataclass(frozen=True)
class Watching:
    """What follows a sweep; all of it may be left out.

    Parameters
    ----------
    training : callable
        Told of the training in this process (`ndt_cli.engine.events`).
    ended : callable
        Told of each member that has ended.
    epochs : callable
        Told about once a second how far the running members are.
    moves : callable
        Told of each ranking of population-based training.
    loggers : sequence of MemberLogger
        Get the settings, epochs and scores of each member.

    Examples
    --------
    >>> ended = []
    >>> watching = Watching(ended=lambda member, results: ended.append(member.index))
    """

    training: Watcher = ignore
    ended: MemberWatcher = lambda member, results: None
    epochs: EpochWatcher = lambda epochs, max_epochs: None
    moves: MovesWatcher = lambda epoch, moves: None
    loggers: Sequence[MemberLogger] = ()


@dataclass(frozen=True)
class SweepRun:
    """What `sweep` returns.

    Attributes
    ----------
    results : SweepResults
        Every member, ranked.
    interrupted : bool
        True if it was asked to stop before the last member had ended.
    out_of_time : bool
        True if the time budget ended it.
    """

    results: SweepResults
    interrupted: bool
    out_of_time: bool = False


def sweep(
    settings: Settings,
    space: Space,
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
        member 0, and each further member takes the next.
    space : Space
        What is drawn (`ndt_cli.search.space.find_space`).
    n_members : int
        Settings to draw.
    seed : int
        Seed of the draws.
    n_seeds : int
        Members trained with each of these settings; they are ranked by the mean.
    sampler, pruner, grace_epochs, pbt_interval
        See `ndt_cli.search.folder.SweepPlan`.
    default_run : bool
        Also train with ``settings`` themselves, to compare the best member with.
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

    Returns
    -------
    SweepRun

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
    check_one_process()
    # Wherever members train, they are measured here.
    choose_compute(settings.train)
    if settings.train.tensorboard:
        require_tensorboard()
    if settings.data.files:
        raise SettingsError(
            "a sweep searches settings on one session, not on several",
            "Search on one file, then train all sessions with the settings found.",
        )
    recording = recording or load_recording(settings.data)
    settings = for_trials(settings, recording.train)
    if plan.pbt_interval is not None:
        check_population(plan, settings)
    name = f"sweep-{Path(recording.source).stem}"
    path = Path(out) if out is not None else default_path(name)
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

    Members that have ended are kept. Those that were training resume exactly from their last
    checkpoint, or start again if they have none.

    Parameters
    ----------
    path : Path or str
        Folder of the sweep.
    n_members : int, optional
        More members than before.
    time_budget, recording, executor, watching, should_stop
        As in `sweep`.

    Raises
    ------
    SettingsError
        If fewer members are asked for than there are.
    RunError
        If it is not a sweep, or the data have changed.

    Examples
    --------
    >>> results = resume_sweep("runs/sweep", n_members=3).results
    >>> len(results.members), results.to_do
    (3, [])
    """
    check_one_process()
    folder = SweepFolder.open(Path(path))
    plan = folder.plan
    if n_members is not None and n_members < plan.members:
        raise SettingsError(
            f"`n_members={n_members}`: {path} has {plan.members} members already",
            "Leave out `n_members`, or ask for more.",
        )
    recording = recording or load_recording(folder.settings.data)
    if n_members is not None and n_members > plan.members:
        values = {**plan.model_dump(), "members": n_members}
        folder = replace(folder, plan=SweepPlan.of(**values))
        check_draws(folder)
        folder.write_plan()
    return _Loop(folder, recording, executor, watching, time_budget, should_stop).run()


def check_one_process() -> None:
    """Refuse to run a sweep under torchrun."""
    n_processes = Ranks.from_environment().world_size
    if n_processes > 1:
        raise SettingsError(
            f"a sweep runs in one process, and torchrun started {n_processes}",
            "Start it without torchrun.",
        )


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
        if time_budget is not None and not time_budget > 0:
            raise SettingsError(f"`time_budget={time_budget:g}`: expected minutes above 0")
        self._folder, self._recording, self._should_stop = folder, recording, should_stop
        self._executor = executor or InTurn()
        self._watching = watching or Watching()
        self._seconds = None if time_budget is None else 60 * time_budget
        self._job = Job(recording, folder.settings, rung_epochs(folder))
        self._running: dict[int, Member] = {}
        self._lines: dict[int, _NewLines] = {}
        self._why_stopped: dict[int, str] = {}
        self._deaths: dict[int, int] = {}
        self._problem: NdtError | None = None
        self._refusal: NdtError | None = None
        self._stopping = self._out_of_time = self._wants_default = False
        self._next_read = 0.0

    def run(self, *, new: bool = False) -> SweepRun:
        try:
            self._executor.open(self._job, self._watching.training)
            if new:  # only now: a cluster that cannot be reached leaves no folder
                self._folder.create()
            with hold_run(self._folder.path):
                self._deadline = time.monotonic() + (self._seconds or float("inf"))
                self._begin()
                while self._start_members() or self._running:
                    for outcome in self._executor.wait(self._look):
                        self._take(outcome)
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
        for run in (*(folder.path / "members").iterdir(), folder.path / "default"):
            if run.suffix == ".stop":
                run.unlink()
            elif (run / "run.json").is_file():  # members of a sweep share their data
                check_same_data(RunFolder(run), recording)
        results = folder.results()
        references = dict(results.references)
        if "smoothing" not in references:
            references |= {"mean rate": mean_rate_scores(recording)}
            with suppress(DataError):  # hidden counts are not known: nothing to choose a kernel by
                references["smoothing"] = smoothing_scores(recording, folder.settings)
        self._wants_default = folder.plan.default_run and "default run" not in references
        self._results = replace(results, references=references)
        to_do = results.to_do
        self._strategy: Strategy = (
            OptunaStrategy(folder, to_do, results)
            if folder.plan.pbt_interval is None
            else PopulationStrategy(folder, to_do, recording, self._watching.moves)
        )

    def _start_members(self) -> bool:
        """Start members wherever there is room; return whether one was started."""
        started = False
        while len(self._running) < self._executor.n_slots and not self._look():
            member = self._strategy.ask()
            if member is None and self._wants_default:
                self._wants_default, member = False, self._folder.default_run()
            if member is None:
                break
            member.stop_file.unlink(missing_ok=True)
            self._running[member.index] = member
            self._lines[member.index] = _NewLines(member.folder / "metrics.jsonl")
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
        for index, member in self._running.items():
            why = None if index < 0 or self._stopping else self._strategy.to_stop(member)
            if why is not None:
                self._why_stopped[index] = why
                member.stop_file.touch()
        if not self._stopping:
            self._out_of_time = time.monotonic() >= self._deadline
            self._stopping = self._out_of_time or self._should_stop() or self._refusal is not None
            if self._stopping:
                for member in self._running.values():
                    member.stop_file.touch()
        return self._stopping

    def _take(self, outcome: Outcome) -> None:
        """Note how a member's training ended, and rank it if the member has."""
        member = self._running.pop(outcome.index)
        member.stop_file.unlink(missing_ok=True)
        self._read(outcome.index)
        for note in outcome.notes:
            warnings.warn(note, RunWarning, stacklevel=2)
        if outcome.status == "refused":
            self._refusal = outcome.error
        elif outcome.status == "died":
            self._lost(member, outcome.message)
        elif outcome.status == "interrupted" and outcome.index in self._why_stopped:
            why = self._why_stopped.pop(outcome.index)
            self._end(member, replace(outcome, status="stopped", message=why))
        elif outcome.status != "interrupted" or (
            member.until_epoch is not None and outcome.epochs >= member.until_epoch
        ):
            if member.index < 0:
                self._end_default(member)
            elif self._strategy.tell_end(member, outcome):
                self._end(member, outcome)

    def _end(self, member: Member, outcome: Outcome) -> None:
        chosen = f"best-{member.settings.train.choose_by}"
        ended = MemberResult(
            index=member.index,
            folder=self._folder.member_folder(member.index),
            drawn=self._folder.drawn(member.index),
            status=outcome.status,
            scores=self._scores(member),
            best_epoch=outcome.best[chosen][1] if chosen in outcome.best else None,
            epochs=outcome.epochs,
            seconds=outcome.seconds,
            message=outcome.message,
        )
        self._results = self._results.with_member(ended)
        self._folder.write_results(self._results)
        self._strategy.tell(ended, self._results)
        if member.settings.train.tensorboard and ended.scores:
            run = RunFolder(member.folder)
            log_results(run, member.settings, ended.scores, (), ended.epochs)
        for logger in self._watching.loggers:
            logger.end(member.index, ended.scores, ended.status)
        self._watching.ended(ended, self._results)

    def _end_default(self, member: Member) -> None:
        references = {**self._results.references, "default run": self._scores(member)}
        self._results = replace(self._results, references=references)
        self._folder.write_results(self._results)
        for logger in self._watching.loggers:
            logger.end(member.index, references["default run"], "finished")

    def _scores(self, member: Member) -> Scores:
        chosen = f"best-{member.settings.train.choose_by}"
        if not RunFolder(member.folder).checkpoint(chosen).is_file():
            return {}
        with cpu_threads(self._folder.settings.train.n_threads):
            return run_scores(member.folder, self._recording.valid, self._folder.settings)

    def _lost(self, member: Member, why: str) -> None:
        """Try again a member whose worker died, from its last checkpoint."""
        who = f"member {member.index}" if member.index >= 0 else "the default run"
        deaths = self._deaths[member.index] = self._deaths.get(member.index, 0) + 1
        if deaths > _MAX_DEATHS:
            self._problem = RunError(
                f"{who}: its worker died {deaths} times, the last time because: {why}",
                "Everything up to the last checkpoint is kept; try again: "
                f"{called('resume_sweep', self._folder.path)}",
            )
            return
        epochs = outcome_so_far(member, "died").epochs
        warnings.warn(
            f"{who}: its worker died ({why}) after {epochs} epochs; it resumes from the last "
            "checkpoint",
            RunWarning,
            stacklevel=2,
        )
        if member.index < 0:
            self._wants_default = True
        else:
            self._strategy.retry(member)

    def _read(self, index: int) -> int:
        """Pass new epochs of a member to the loggers; return how many are complete."""
        for record in self._lines[index].read():
            for logger in self._watching.loggers:
                logger.log(index, int(record["epoch"]), record)
        return self._lines[index].epoch


class _NewLines:
    """The lines that a ``metrics.jsonl`` has got since it was last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.epoch = 0

    def read(self) -> list[dict[str, float]]:
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:  # a resumed run has dropped lines
                    self._offset = 0
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        new = new[: new.rfind(b"\n") + 1]
        self._offset += len(new)
        found = []
        for line in new.splitlines():
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                values = json.loads(line).items()
                record = {k: float("nan") if v is None else float(v) for k, v in values}
                if record["epoch"] > self.epoch:
                    self.epoch = int(record["epoch"])
                    found.append(record)
        return found
