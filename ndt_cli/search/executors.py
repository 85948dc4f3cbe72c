"""Where the members of a sweep train: in this process or in several on this machine.

An executor decides where a member trains, not what. Each member is an ordinary run that resumes
exactly, wherever it is started again. The sweep and its workers talk through the files of
`ndt_cli.search.folder`, which also works between machines that share a disk.
"""

import math
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import patch

import torch
from filelock import FileLock

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import MAX_THREADS, choose_compute, cpu_threads, free_gpu_bytes
from ndt_cli.engine.events import EpochDone, Event, Watcher
from ndt_cli.engine.measures import best_checkpoint
from ndt_cli.engine.preflight import memory_needs
from ndt_cli.engine.run_folder import LOCK_FILE, RunFolder
from ndt_cli.engine.trainer import Stopped, ignore
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import NdtError, RunError, RunWarning, SettingsError, TrainingError
from ndt_cli.model.network import ModelShape
from ndt_cli.search.folder import Member, read_rungs, write_member
from ndt_cli.search.results import Ended, Scores, run_scores
from ndt_cli.settings.tree import Settings

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_SAVE = 60.0

StopRequest = Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """What the members of a sweep share: data, settings to measure by, epochs to compare at."""

    recording: Recording
    settings: Settings
    rungs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """Training of a member has stopped; how far it is stands in its folder."""

    member: Member
    notes: tuple[str, ...] = ()  # warnings of the training
    refusal: NdtError | None = None  # an error that another try would meet again
    died: str = ""  # why its worker died: another try goes on from the last checkpoint


class Executor(Protocol):
    """Trains up to ``n_slots`` members at the same time, somewhere."""

    @property
    def n_slots(self) -> int: ...

    def open(self, job: Job, watch: Watcher) -> None:
        """Get ready for a sweep; ``watch`` is told of training in this process."""

    def submit(self, member: Member) -> None:
        """Start training a member."""

    def wait(self, look: StopRequest) -> list[Report]:
        """Return the reports that have come, after a moment at most.

        A member in this process calls ``look`` after every step; true asks it to stop.
        """

    def close(self) -> None:
        """Stop what is still running."""


def train_member(
    member: Member, job: Job, watch: Watcher = ignore, should_stop: StopRequest = lambda: False
) -> None:
    """Train or resume a member; once it has ended, measure it and write ``member.json``.

    An error other than divergence is raised.
    """
    scores = read_rungs(member.folder) if job.rungs else {}

    def tell(event: Event) -> None:
        watch(event)
        if not isinstance(event, EpochDone) or "valid_masked_loss" not in event.record:
            return
        epoch, last = int(event.record["epoch"]), max(scores, default=0)
        # A member may validate at other epochs than the rest, if that is drawn.
        if any(last < rung <= epoch for rung in job.rungs):
            scores[epoch] = _scores(member, job).get(job.settings.train.choose_by, math.nan)
            RunFolder(member.folder).write_json(
                "rungs.json", {str(e): s for e, s in scores.items()}
            )

    how: dict[str, Any] = {
        "recording": job.recording,
        "watch": tell,
        "should_stop": should_stop,
        "until_epoch": member.until_epoch,
    }
    _wait_until_free(member.folder)
    status: Stopped | Ended
    message = ""
    try:
        if (member.folder / "settings.toml").is_file():
            status = resume(member.folder, **how).stopped
        else:
            status = train(member.settings, out=member.folder, **how).stopped
    except TrainingError as error:
        status, message = "diverged", error.message
    if status == "interrupted":
        message = member.stop_file.read_text("utf-8") if member.stop_file.exists() else ""
        if not message:  # to be resumed
            return
        status = "stopped"
    write_member(member, status, message, _scores(member, job))


def work(member: Member, job: Job, n_threads: int) -> Report:
    """Train a member in a worker process: nothing is raised, nothing is printed."""
    refusal = None
    with warnings.catch_warnings(record=True) as caught, cpu_threads(n_threads):
        warnings.simplefilter("always", RunWarning)
        try:
            if not member.folder.parent.is_dir():
                raise RunError(
                    f"{member.folder.parent} does not exist on {platform.node()}",
                    "All machines must see the folder of the sweep under the same path: give an "
                    "`out` that they share.",
                )
            train_member(member, job, should_stop=_asked_to_stop(member))
        except NdtError as error:
            refusal = error
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, RunWarning))
    return Report(member, notes, refusal)


def _scores(member: Member, job: Job) -> Scores:
    """Measure the best checkpoint of a member, if it has one."""
    chosen = best_checkpoint(member.settings.train.choose_by)
    if not RunFolder(member.folder).checkpoint(chosen).is_file():
        return {}
    with cpu_threads(job.settings.train.n_threads):
        return run_scores(member.folder, job.recording.valid, job.settings)


def _asked_to_stop(member: Member) -> StopRequest:
    """Return a stop request of a worker: a stop file, SIGTERM, or a sweep that is gone."""
    sweep, next_look = multiprocessing.parent_process(), 0.0

    def asked() -> bool:
        nonlocal next_look
        if _sigterm.is_set() or time.monotonic() < next_look:
            return _sigterm.is_set()
        next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return member.stop_file.exists() or (sweep is not None and not sweep.is_alive())

    return asked


def _wait_until_free(run: Path) -> None:
    """Wait for a worker of a killed sweep, which saves and stops by itself."""
    if (run / LOCK_FILE).exists():
        with (
            suppress(OSError, NotImplementedError),
            FileLock(run / LOCK_FILE).acquire(timeout=_SECONDS_TO_SAVE),
        ):
            pass


class InTurn:
    """Trains one member after another in this process."""

    n_slots = 1

    def open(self, job: Job, watch: Watcher) -> None:
        self._job, self._watch = job, watch
        self._members: list[Member] = []

    def submit(self, member: Member) -> None:
        self._members.append(member)

    def wait(self, look: StopRequest) -> list[Report]:
        member = self._members.pop()
        stop_file = member.stop_file
        train_member(member, self._job, self._watch, lambda: look() or stop_file.exists())
        return [Report(member)]

    def close(self) -> None:
        pass


class Processes:
    """Trains several members at the same time, each in a process of its own.

    CPU threads are shared out, and processes spread over the GPUs. ``jobs=0``: one process for
    each CPU core or, on GPUs, as many as their memory holds.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 0:
            raise SettingsError(f"`jobs={jobs}`: expected 0 or more processes")
        self.n_slots = jobs
        self._running: dict[Any, tuple[Member, Any, int]] = {}

    def open(self, job: Job, watch: Watcher) -> None:
        self.n_slots = self.n_slots or jobs_that_fit(job)
        share = min(max(1, _n_cores() // self.n_slots), MAX_THREADS)
        self._job, self._n_threads = job, job.settings.train.n_threads or share
        self._gpus = _gpus(job.settings)
        # A server that has loaded PyTorch once starts processes at once.
        self._context: Any = multiprocessing.get_context(
            "forkserver" if sys.platform == "linux" else "spawn"
        )
        if sys.platform == "linux":
            self._context.set_forkserver_preload([__name__, "torch._dynamo"])

    def submit(self, member: Member) -> None:
        ours, theirs = self._context.Pipe()
        slots = {slot for _, _, slot in self._running.values()}
        slot = min(set(range(self.n_slots)) - slots)
        # Threads that spin while they wait would slow down the other processes.
        environment = {"OMP_WAIT_POLICY": "PASSIVE"}
        if len(self._gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        arguments = (theirs, environment, member, self._job, self._n_threads)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        # The main script must not run again in the new process, where it may lack a guard.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            with patch.dict(os.environ, environment):
                process.start()
        finally:
            sys.modules["__main__"] = main
        theirs.close()
        self._running[ours] = member, process, slot

    def wait(self, look: StopRequest) -> list[Report]:
        reports = []
        ended: list[Any] = wait(list(self._running), timeout=_SECONDS_BETWEEN_LOOKS)
        for connection in ended:
            member, process, _ = self._running.pop(connection)
            report: Report | None = None
            with suppress(EOFError, OSError):
                report = connection.recv()
            process.join()
            code = process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            reports.append(report or Report(member, died=how))
            process.close()
            connection.close()
        return reports

    def close(self) -> None:
        for _, process, _ in self._running.values():
            process.terminate()  # it saves first
        for connection, (_, process, _) in self._running.items():
            process.join(_SECONDS_TO_SAVE)
            process.kill()
            process.join()
            process.close()
            connection.close()
        self._running.clear()


_sigterm = threading.Event()


def _serve(
    connection: "Connection[Any, Any]", environment: dict[str, str], *arguments: Any
) -> None:
    """Train a member in a new process, and send its report."""
    os.environ.update(environment)
    # Ctrl-C reaches all processes of a terminal; the sweep alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *signal_and_frame: _sigterm.set())
    report = work(*arguments)
    with suppress(OSError):  # the sweep may be gone
        connection.send(report)


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


def _gpus(settings: Settings) -> tuple[str, ...]:
    """Return the names of the GPUs that members may be spread over; none on a CPU."""
    if settings.train.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return tuple(names)[: torch.cuda.device_count()]


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
