"""Members of a sweep, and where they train: in this process or in several on this machine.

An executor decides where a member trains, not what. Each member is an ordinary run that resumes
exactly, wherever it is started again. The sweep and its workers talk through files beside the
runs, which also works between machines that share a disk::

    members/003/               the run
    members/003/rungs.json     its score at each epoch at which members are compared
    members/003.stop           a request to save and stop
"""

import math
import multiprocessing
import os
import platform
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol
from unittest.mock import patch

import torch
from filelock import FileLock

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Progress
from ndt_cli.engine.device import MAX_THREADS, choose_compute, cpu_threads, free_gpu_bytes
from ndt_cli.engine.events import EpochDone, Event, Watcher
from ndt_cli.engine.preflight import memory_needs
from ndt_cli.engine.run_folder import LOCK_FILE, RunFolder
from ndt_cli.engine.trainer import Stopped, ignore
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import NdtError, RunError, RunWarning, SettingsError, TrainingError
from ndt_cli.model.network import ModelShape
from ndt_cli.search.results import run_scores
from ndt_cli.settings.tree import Settings

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_FOR_LOCK = 60.0

StopRequest = Callable[[], bool]


@dataclass(frozen=True)
class Member:
    """One model of a sweep, to be trained or resumed in its run folder.

    The number of the run with the default settings is below 0. With ``until_epoch``, training is
    interrupted after that epoch.
    """

    index: int
    settings: Settings
    folder: Path
    until_epoch: int | None = None

    @property
    def has_begun(self) -> bool:
        """True if there is a checkpoint to resume from."""
        return (self.folder / "checkpoints" / "last.safetensors").is_file()

    @property
    def stop_file(self) -> Path:
        """File whose existence asks the worker to save and stop."""
        return self.folder.with_name(f"{self.folder.name}.stop")

    def drop_false_start(self) -> None:
        """Remove what a kill before the first checkpoint left; training needs a new folder."""
        if self.folder.exists() and not self.has_begun:
            shutil.rmtree(self.folder)


@dataclass(frozen=True)
class Outcome:
    """How the training of a member ended.

    Attributes
    ----------
    index : int
        Number of the member.
    status : str
        ``"finished"``; ``"early"``: no improvement for ``train.patience_epochs``; ``"stopped"``:
        worse than other members after as many epochs; ``"diverged"``: loss or gradient not
        finite; ``"interrupted"``: asked to stop, can resume; ``"died"``: its worker did;
        ``"refused"``: an error that another try would meet again.
    best : dict of str to (float, int)
        By checkpoint name: best value during training, and the number of epochs at that time.
    epochs, seconds : int, float
        Complete epochs and training time, over all resumptions.
    message : str
        Why it diverged, was stopped or died.
    notes : tuple of str
        Warnings of the training.
    error : NdtError, optional
        Why it was refused.
    """

    index: int
    status: Stopped | Literal["stopped", "diverged", "died", "refused"]
    best: dict[str, tuple[float, int]]
    epochs: int
    seconds: float
    message: str = ""
    notes: tuple[str, ...] = ()
    error: NdtError | None = None


@dataclass(frozen=True)
class Job:
    """What the members of a sweep share: data, settings to measure by, epochs to compare at."""

    recording: Recording
    settings: Settings
    rungs: tuple[int, ...] = ()


class Executor(Protocol):
    """Trains up to ``n_slots`` members at the same time, somewhere."""

    @property
    def n_slots(self) -> int: ...

    def open(self, job: Job, watch: Watcher) -> None:
        """Get ready for a sweep; ``watch`` is told of training in this process."""

    def submit(self, member: Member) -> None:
        """Start training a member."""

    def wait(self, look: StopRequest) -> list[Outcome]:
        """Return the members that have ended, after a moment at most.

        A member in this process calls ``look`` after every step; true asks it to stop.
        """

    def close(self) -> None:
        """Stop what is still running."""


# ------------------------------------------------------------------------------------------------
# Training one member, wherever that is
# ------------------------------------------------------------------------------------------------


def train_member(
    member: Member, job: Job, watch: Watcher = ignore, should_stop: StopRequest = lambda: False
) -> Outcome:
    """Train or resume a member; an error other than divergence is raised."""
    rungs = _Rungs(member, job)

    def tell(event: Event) -> None:
        watch(event)
        rungs(event)

    how: dict[str, Any] = {
        "recording": job.recording,
        "watch": tell,
        "should_stop": should_stop,
        "until_epoch": member.until_epoch,
    }
    _wait_until_free(member.folder)
    member.drop_false_start()
    try:
        if member.has_begun:
            result = resume(member.folder, **how)
        else:
            result = train(member.settings, out=member.folder, **how)
    except TrainingError as error:
        return outcome_so_far(member, "diverged", error.message)
    return Outcome(member.index, result.stopped, result.best, len(result.history), result.seconds)


def outcome_so_far(
    member: Member, status: Literal["stopped", "diverged", "died", "interrupted"], message: str = ""
) -> Outcome:
    """Return the outcome of a member that ended early, from its run folder."""
    progress = Progress()
    for record in RunFolder(member.folder).read_metrics():
        progress.epoch = int(record["epoch"])
        progress.seconds = record["seconds"]
        progress.validated(record)
    return Outcome(member.index, status, progress.best, progress.epoch, progress.seconds, message)


def work(member: Member, job: Job, n_threads: int) -> Outcome:
    """Train a member in a worker process: nothing is raised, nothing is printed."""
    with warnings.catch_warnings(record=True) as caught, cpu_threads(n_threads):
        warnings.simplefilter("always", RunWarning)
        try:
            if not member.folder.parent.is_dir():
                raise RunError(
                    f"{member.folder.parent} does not exist on {platform.node()}",
                    "All machines must see the folder of the sweep under the same path: give an "
                    "`out` that they share.",
                )
            outcome = train_member(member, job, should_stop=_asked_to_stop(member))
        except NdtError as error:
            outcome = replace(outcome_so_far(member, "died"), status="refused", error=error)
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, RunWarning))
    return replace(outcome, notes=notes)


def read_rungs(run: Path) -> dict[int, float]:
    """Return the scores of a member by epoch, NaN where it had none yet."""
    if not (run / "rungs.json").is_file():
        return {}
    content = RunFolder(run).read_json("rungs.json")
    try:
        return {int(e): math.nan if s is None else float(s) for e, s in content.items()}
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{run / 'rungs.json'}: damaged ({error})", "Remove it, or restore a copy."
        ) from error


class _Rungs:
    """Measures a member at the epochs at which members are compared."""

    def __init__(self, member: Member, job: Job) -> None:
        self._member, self._job = member, job
        self._scores = read_rungs(member.folder) if job.rungs else {}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, EpochDone) or "valid_masked_loss" not in event.record:
            return
        epoch, last = int(event.record["epoch"]), max(self._scores, default=0)
        # A member may validate at other epochs than the rest, if that is drawn.
        if any(last < rung <= epoch for rung in self._job.rungs):
            scores = run_scores(self._member.folder, self._job.recording.valid, self._job.settings)
            self._scores[epoch] = scores.get(self._job.settings.train.choose_by, math.nan)
            RunFolder(self._member.folder).write_json(
                "rungs.json", {str(e): score for e, score in self._scores.items()}
            )


def _asked_to_stop(member: Member) -> StopRequest:
    """Return a stop request that looks for the stop file, and whether the sweep still lives."""
    sweep = multiprocessing.parent_process()
    stop, next_look = False, 0.0

    def asked() -> bool:
        nonlocal stop, next_look
        if not stop and time.monotonic() >= next_look:
            next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
            stop = _stopping or member.stop_file.exists()
            stop = stop or (sweep is not None and not sweep.is_alive())
        return stop

    return asked


def _wait_until_free(run: Path) -> None:
    """Wait for a worker of a killed sweep, which saves and stops by itself."""
    if (run / LOCK_FILE).exists():
        with (
            suppress(OSError, NotImplementedError),
            FileLock(run / LOCK_FILE).acquire(timeout=_SECONDS_FOR_LOCK),
        ):
            pass


# ------------------------------------------------------------------------------------------------
# In this process
# ------------------------------------------------------------------------------------------------


class InTurn:
    """Trains one member after another in this process."""

    n_slots = 1

    def open(self, job: Job, watch: Watcher) -> None:
        self._job, self._watch = job, watch
        self._member: Member | None = None

    def submit(self, member: Member) -> None:
        self._member = member

    def wait(self, look: StopRequest) -> list[Outcome]:
        member, self._member = self._member, None
        if member is None:
            return []
        stop_file = member.stop_file
        return [train_member(member, self._job, self._watch, lambda: look() or stop_file.exists())]

    def close(self) -> None:
        pass


# ------------------------------------------------------------------------------------------------
# In several processes of this machine
# ------------------------------------------------------------------------------------------------


class Processes:
    """Trains several members at the same time, each in a process of its own.

    CPU threads are shared out; on a machine with GPUs the processes are spread over them.

    Parameters
    ----------
    jobs : int
        Processes. 0: one for each CPU core or, on GPUs, as many as their memory holds.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 0:
            raise SettingsError(f"`jobs={jobs}`: expected 0 or more processes")
        self._n_jobs = jobs

    @property
    def n_slots(self) -> int:
        return self._n_jobs

    def open(self, job: Job, watch: Watcher) -> None:
        gpus = _gpus(job.settings)
        self._n_jobs = self._n_jobs or jobs_that_fit(job)
        n_threads = job.settings.train.n_threads or min(
            max(1, _n_cores() // self._n_jobs), MAX_THREADS
        )
        self._environment = [
            {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
            for slot in range(self._n_jobs)
        ]
        self._arguments = (job, n_threads)
        self._workers: list[_Worker | None] = [None] * self._n_jobs

    def submit(self, member: Member) -> None:
        for slot, worker in enumerate(self._workers):
            if worker is None or worker.member is None:
                worker = worker or _Worker(self._arguments, self._environment[slot])
                self._workers[slot] = worker
                worker.submit(member)
                return
        raise RuntimeError("all processes are busy")

    def wait(self, look: StopRequest) -> list[Outcome]:
        busy = {w.connection: slot for slot, w in enumerate(self._workers) if w and w.member}
        outcomes = []
        for connection in wait(list(busy), timeout=_SECONDS_BETWEEN_LOOKS):
            slot = busy[connection]  # type: ignore[index]
            worker = self._workers[slot]
            assert worker is not None
            outcome = worker.receive()
            if outcome.status == "died":
                self._workers[slot] = None
            outcomes.append(outcome)
        return outcomes

    def close(self) -> None:
        workers = [worker for worker in getattr(self, "_workers", []) if worker is not None]
        for worker in workers:
            worker.process.terminate()  # one that is training saves first
        for worker in workers:
            worker.process.join(_SECONDS_FOR_LOCK)
            worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.connection.close()


class _Worker:
    """A process that trains one member after another."""

    def __init__(self, arguments: tuple[Job, int], environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.member: Member | None = None
        self.process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        # Threads that spin while they wait would slow down the other workers.
        with patch.dict(os.environ, {"OMP_WAIT_POLICY": "PASSIVE", **environment}), _no_main():
            self.process.start()
        theirs.close()

    def submit(self, member: Member) -> None:
        self.member = member
        with suppress(OSError):  # if it is dead, `receive` says so
            self.connection.send(member)

    def receive(self) -> Outcome:
        member, self.member = self.member, None
        assert member is not None
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            self.connection.close()
            self.process.close()
            return outcome_so_far(member, "died", how)
        return outcome


_stopping = False


def _serve(connection: "Connection[Any, Any]", job: Job, n_threads: int) -> None:
    """Train the members that come through a pipe, until it closes."""

    def stop(*signal_and_frame: object) -> None:
        global _stopping
        _stopping = True

    # Ctrl-C reaches all processes of a terminal; the sweep alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)
    with suppress(EOFError, OSError):
        while not _stopping:
            # A signal does not end a blocking read.
            if connection.poll(_SECONDS_BETWEEN_LOOKS):
                connection.send(work(connection.recv(), job, n_threads))


@contextmanager
def _no_main() -> Iterator[None]:
    """Hide the main script from new processes, which would run it again without a guard."""
    with patch.dict("sys.modules", {"__main__": ModuleType("__main__")}):
        yield


def jobs_that_fit(job: Job) -> int:
    """Return how many members can train here at once: by GPU memory, or by CPU cores."""
    settings, train = job.settings, job.recording.train
    device = choose_compute(settings.train).device
    if device.type != "cuda":
        return _n_cores()
    shape = ModelShape(train.n_neurons, train.n_bins, train.max_count)
    needs = memory_needs(settings, shape, min(settings.train.batch_size, train.n_trials))
    counts = train.n_trials * train.n_bins * train.n_neurons
    # The estimate is a lower bound; torch itself and captured graphs come on top.
    one = 3 * needs.total + 8 * counts + 2**30
    on_one_gpu = int(0.8 * free_gpu_bytes(device) // one)
    return max(1, min(on_one_gpu * len(_gpus(settings)), _n_cores()))


def _gpus(settings: Settings) -> Sequence[str]:
    """Return the names of the GPUs that members may be spread over; none on a CPU."""
    if settings.train.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return tuple(names)[: torch.cuda.device_count()]


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
