"""One run of Ray Tune, in a thread of its own so that outcomes are told as they come."""

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from ndt_cli import errors
from ndt_cli.data.spike_data import Recording
from ndt_cli.errors import NdtError, RunError, RunWarning, typed
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.in_turn import outcome_so_far
from ndt_cli.search.member import Member, Outcome, StopRequest
from ndt_cli.search.ray_asha import reason
from ndt_cli.search.ray_cluster import Share
from ndt_cli.search.ray_monitor import start_monitor
from ndt_cli.search.ray_rungs import read_rungs
from ndt_cli.search.ray_searchers import MembersInOrder
from ndt_cli.search.ray_trials import (
    Begun,
    Ended,
    News,
    Reported,
    StopWhen,
    TellTrials,
    TrialNews,
    TuneEnded,
    WorkerLost,
)
from ndt_cli.search.ray_worker import OUTCOME, REFUSAL, Job, called, train_members

# Workers of a trial that may die, each to be followed by another, before it is given up.
MAX_DEATHS = 3
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_END = 20.0


@dataclass(frozen=True)
class Standing:
    """How far a sweep on Ray is.

    Attributes
    ----------
    epochs : dict of str to int
        Epochs done, by the numbers of the members that a worker trains.
    max_epochs : int
        Epochs of a member that is not stopped before.
    """

    epochs: dict[str, int]
    max_epochs: int


StandingWatcher = Callable[[Standing], None]


class Tuning:
    """A run of Ray Tune.

    Parameters
    ----------
    folder : SweepFolder
        The sweep.
    job : Job
        What the workers need to know.
    share : Share
        What each gets of the cluster.
    tell : callable
        Told about twice a second how far the members are.
    """

    def __init__(self, folder: SweepFolder, job: Job, share: Share, tell: StandingWatcher) -> None:
        self._folder = folder
        self._job = job
        self._share = share
        self._tell = tell
        self._stop = threading.Event()  # members save, and no more begin
        self._abort = threading.Event()  # at once
        self._news: SimpleQueue[News] = SimpleQueue()
        self._running: dict[str, list[Member]] = {}
        self._settled: set[int] = set()
        self._problems: list[NdtError] = []

    def is_stopping(self) -> bool:
        """Tell whether no more members are to begin."""
        return self._stop.is_set()

    def outcomes(
        self,
        searcher: MembersInOrder,
        scheduler: Any,
        recording: Recording,
        should_stop: StopRequest,
    ) -> Iterator[Outcome]:
        """Train what the searcher hands out; yield the outcome of each member.

        Raises
        ------
        NdtError
            After the others have saved, what a worker refused; after all others have ended, that
            a trial's workers died again and again.
        """
        monitor = start_monitor()
        tuner = self._tuner(searcher, scheduler, recording, monitor)
        thread = threading.Thread(target=self._fit, args=(tuner,), name="ray-tune", daemon=True)
        thread.start()
        try:
            while True:
                if should_stop():
                    self._stop.set()
                self._look(monitor)
                for news in self._read_news():
                    if isinstance(news, TuneEnded):
                        self._raise_problems(news)
                        return
                    yield from self._follow(news, searcher.handed_out[news.trial])
        finally:
            self._abort.set()
            thread.join(_SECONDS_TO_END)
            shutil.rmtree(self._storage, ignore_errors=True)

    @property
    def _storage(self) -> Any:
        # Tune's own notes on its trials; nothing reads them again.
        return self._folder.path / "ray"

    def _tuner(
        self, searcher: MembersInOrder, scheduler: Any, recording: Recording, monitor: Any
    ) -> tune.Tuner:
        function = tune.with_parameters(
            train_members, recording=recording, monitor=monitor, job=self._job
        )
        return tune.Tuner(
            tune.with_resources(function, {"cpu": self._share.cpus, "gpu": self._share.gpus}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,  # until the searcher says that there are no more
                reuse_actors=True,  # a new process loads torch for seconds
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._storage.resolve()),
                failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
                stop=StopWhen(self._abort.is_set),
                callbacks=[TellTrials(self._news)],
                verbose=0,
            ),
        )

    def _fit(self, tuner: tune.Tuner) -> None:
        try:
            tuner.fit()
        except Exception as error:  # it is raised again where the outcomes are read
            self._news.put(TuneEnded(error))
        else:
            self._news.put(TuneEnded(None))

    def _look(self, monitor: Any) -> None:
        """Pass the stop request on, and tell what the workers say."""
        try:
            epochs, notes = ray.get(monitor.look.remote(self._stop.is_set()))
        except RayError:  # its machine is gone; it begins again on another
            return
        for note in notes:
            warnings.warn(note, RunWarning, stacklevel=2)
        names = [called(members) for members in self._running.values()]
        running = {name: epochs.get(name, 0) for name in names}
        self._tell(Standing(running, self._folder.settings.train.max_epochs))

    def _read_news(self) -> Iterator[News]:
        try:
            yield self._news.get(timeout=_SECONDS_BETWEEN_LOOKS)
            while True:
                yield self._news.get_nowait()
        except Empty:
            return

    def _follow(self, news: TrialNews, members: list[Member]) -> Iterator[Outcome]:
        if isinstance(news, Begun):
            self._running[news.trial] = members
        elif isinstance(news, Reported):
            yield from self._reported(news, members)
        else:
            self._running.pop(news.trial, None)
            if isinstance(news, Ended):
                yield from self._stopped(members)
            else:
                self._lost(news, members)

    def _reported(self, news: Reported, members: list[Member]) -> Iterator[Outcome]:
        if REFUSAL in news.report:
            kind, message, hint = news.report[REFUSAL]
            self._problems.insert(0, getattr(errors, kind)(message, hint))
            self._settled |= {member.index for member in members}
            self._stop.set()
        elif OUTCOME in news.report:
            outcome = Outcome(**news.report[OUTCOME])
            # A worker that takes over from one that died tells again what had ended by then.
            if outcome.index not in self._settled:
                self._settled.add(outcome.index)
                yield outcome

    def _stopped(self, members: list[Member]) -> Iterator[Outcome]:
        """Yield the members whose trial Tune has stopped: their workers have told no end."""
        choose_by = self._folder.settings.train.choose_by
        for member in members:
            if member.index not in self._settled:
                why = reason(read_rungs(member.folder)[-1], choose_by)
                yield outcome_so_far(member, "stopped", why)

    def _lost(self, news: WorkerLost, members: list[Member]) -> None:
        who = f"member {called(members)}"
        if news.for_good:
            self._problems.append(
                RunError(
                    f"{who}: its worker died {MAX_DEATHS + 1} times, lastly because: {news.reason}",
                    "all that was reached is kept; try again: ndt sweep --resume "
                    f"{typed(self._folder.path)}",
                )
            )
            return
        warnings.warn(
            f"{who}: its worker died ({news.reason}); another one goes on from the last checkpoint",
            RunWarning,
            stacklevel=2,
        )

    def _raise_problems(self, ended: TuneEnded) -> None:
        if isinstance(ended.error, NdtError):
            raise ended.error
        if self._problems:
            raise self._problems[0]
        if ended.error is not None:
            raise RunError(
                f"Ray Tune failed: {ended.error}",
                f"go on: ndt sweep --resume {typed(self._folder.path)}",
            ) from ended.error
