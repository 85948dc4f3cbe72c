"""Where runs train: in this process, in several on this machine, or on a Ray cluster.

An executor decides where a run trains, not what. A run resumes exactly, wherever it is started
again. Workers and the process that started them talk through files beside the run folders, which
also works between machines that share a disk.
"""

import logging
import multiprocessing
import os
import platform
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import patch

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import MAX_THREADS, cpu_threads, n_cores, visible_gpus
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.preflight import runs_that_fit
from ndt_cli.engine.trainer import ignore
from ndt_cli.errors import (
    DeviceError,
    MissingExtraError,
    NdtError,
    RunError,
    RunWarning,
    SettingsError,
)
from ndt_cli.settings.tree import Settings

_SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_SAVE = 60.0

StopRequest = Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """A run to train or to resume, as it is sent to a worker."""

    folder: Path

    @property
    def stop_file(self) -> Path:
        """File that asks the process that trains it to save and stop."""
        return self.folder.with_name(f"{self.folder.name}.stop")


@dataclass(frozen=True)
class Job:
    """What all runs share: data, settings, and the function that trains one of them.

    ``train`` is called with the task, the job, what watches the training, and what asks it to stop.
    """

    recording: Recording
    settings: Settings
    train: Callable[[Any, "Job", Watcher, StopRequest], None]


@dataclass(frozen=True)
class Report:
    """Training of a run has stopped; how far it is stands in its folder."""

    task: Any
    notes: tuple[str, ...] = ()  # warnings of the training
    refusal: NdtError | None = None  # an error that another try would meet again
    died: str = ""  # why its worker died: another try goes on from the last checkpoint


class Executor(Protocol):
    """Trains up to ``n_slots`` runs at the same time, somewhere."""

    @property
    def n_slots(self) -> int: ...

    def open(self, job: Job, watch: Watcher) -> None:
        """Get ready; ``watch`` is told of training in this process."""

    def submit(self, task: Task) -> None:
        """Start training a run."""

    def wait(self, look: StopRequest) -> list[Report]:
        """Return the reports that have come, after a moment at most.

        A run in this process calls ``look`` after every step; true asks it to stop.
        """

    def close(self) -> None:
        """Stop what is still running."""


def _work(task: Task, job: Job, n_threads: int) -> Report:
    """Train a run in a worker process: nothing is raised, nothing is printed."""
    refusal, parent, next_look = None, multiprocessing.parent_process(), 0.0

    def asked_to_stop() -> bool:
        """By SIGTERM, by the stop file, or because the process that started this one is gone."""
        nonlocal next_look
        if _sigterm.is_set() or time.monotonic() < next_look:
            return _sigterm.is_set()
        next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        return task.stop_file.exists() or (parent is not None and not parent.is_alive())

    with warnings.catch_warnings(record=True) as caught, cpu_threads(n_threads):
        warnings.simplefilter("always", RunWarning)
        try:
            if not task.folder.parent.is_dir():
                raise RunError(
                    f"{task.folder.parent} does not exist on {platform.node()}",
                    "All machines must see the folder of the sweep under the same path: give an "
                    "`out` that they share.",
                )
            job.train(task, job, ignore, asked_to_stop)
        except NdtError as error:
            refusal = error
    notes = tuple(str(w.message) for w in caught if issubclass(w.category, RunWarning))
    return Report(task, notes, refusal)


# ------------------------------------------------------------------------------------------------
# On this machine
# ------------------------------------------------------------------------------------------------


class InTurn:
    """Trains one run after another in this process."""

    n_slots = 1

    def open(self, job: Job, watch: Watcher) -> None:
        self._job, self._watch = job, watch
        self._tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, look: StopRequest) -> list[Report]:
        task = self._tasks.pop()
        stop_file = task.stop_file
        self._job.train(task, self._job, self._watch, lambda: look() or stop_file.exists())
        return [Report(task)]

    def close(self) -> None:
        pass


class Processes:
    """Trains several runs at the same time, each in a process of its own.

    CPU threads are shared out, and processes spread over the GPUs. ``jobs=0``: one process for
    each CPU core or, on GPUs, as many as their memory holds.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 0:
            raise SettingsError(f"`jobs={jobs}`: expected 0 or more processes")
        self.n_slots = jobs
        self._running: dict[Any, tuple[Task, Any, int]] = {}

    def open(self, job: Job, watch: Watcher) -> None:
        self.n_slots = self.n_slots or runs_that_fit(job.settings, job.recording.train)
        share = min(max(1, n_cores() // self.n_slots), MAX_THREADS)
        self._job, self._n_threads = job, job.settings.train.n_threads or share
        self._gpus = visible_gpus(job.settings.train.device)
        # A server that has loaded PyTorch once starts processes at once.
        self._context: Any = multiprocessing.get_context(
            "forkserver" if sys.platform == "linux" else "spawn"
        )
        if sys.platform == "linux":
            self._context.set_forkserver_preload([__name__, "torch._dynamo"])

    def submit(self, task: Task) -> None:
        ours, theirs = self._context.Pipe()
        slots = {slot for _, _, slot in self._running.values()}
        slot = min(set(range(self.n_slots)) - slots)
        # Threads that spin while they wait would slow down the other processes.
        environment = {"OMP_WAIT_POLICY": "PASSIVE"}
        if len(self._gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        arguments = (theirs, environment, task, self._job, self._n_threads)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        # The main script must not run again in the new process, where it may lack a guard.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            with patch.dict(os.environ, environment):
                process.start()
        finally:
            sys.modules["__main__"] = main
        theirs.close()
        self._running[ours] = task, process, slot

    def wait(self, look: StopRequest) -> list[Report]:
        reports = []
        ended: list[Any] = wait(list(self._running), timeout=_SECONDS_BETWEEN_LOOKS)
        for connection in ended:
            task, process, _ = self._running.pop(connection)
            report: Report | None = None
            with suppress(EOFError, OSError):
                report = connection.recv()
            process.join()
            code = process.exitcode or 0
            how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            reports.append(report or Report(task, died=how))
            process.close()
            connection.close()
        return reports

    def close(self) -> None:
        for _, process, _ in self._running.values():
            process.terminate()  # it saves first
        for connection, (_, process, _) in self._running.items():
            process.join(SECONDS_TO_SAVE)
            process.kill()
            process.join()
            process.close()
            connection.close()
        self._running.clear()


_sigterm = threading.Event()


def _serve(
    connection: "Connection[Any, Any]", environment: dict[str, str], *arguments: Any
) -> None:
    """Train a run in a new process, and send its report."""
    os.environ.update(environment)
    # Ctrl-C reaches all processes of a terminal; the one that started this decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *signal_and_frame: _sigterm.set())
    report = _work(*arguments)
    with suppress(OSError):  # nobody may listen any more
        connection.send(report)


# ------------------------------------------------------------------------------------------------
# On a Ray cluster. All machines must see the run folders under the same path.
# ------------------------------------------------------------------------------------------------


# What is kept in Ray's memory is one recording; what does not fit goes to the disk. Ray
# itself would set aside a third of the machine's memory.
_STORE_BYTES = 200 * 2**20
# Ray's sockets lie 68 letters below it, and no path of a socket has more than 107.
_LONGEST_TMPDIR = 38
_SECONDS_TO_ANSWER = 5.0


class RayTasks:
    """Trains runs on a Ray cluster.

    Parameters
    ----------
    ray_address : str, optional
        A running cluster: ``"auto"`` for the one of this machine, or ``"host:port"``. Default:
        ``RAY_ADDRESS``, otherwise a cluster of this machine alone, started for these runs.
    cpus_per_worker, gpus_per_worker : int, float, optional
        CPUs of a run, and its threads (default: ``train.n_threads``, or 1), and GPUs: below 1,
        several runs share one (default: 1 if there are any and ``train.device`` allows them).
    """

    def __init__(
        self,
        ray_address: str | None = None,
        cpus_per_worker: int | None = None,
        gpus_per_worker: float | None = None,
    ) -> None:
        if find_spec("ray") is None:
            raise MissingExtraError(
                "A sweep on Ray needs the package ray, which is not installed.",
                'Install it with: pip install "ndt-cli[ray]"',
            )
        if (gpus_per_worker or 0) > 1 and gpus_per_worker != int(gpus_per_worker or 0):
            raise SettingsError(
                f"`gpus_per_worker={gpus_per_worker}`: above 1 it is a whole number"
            )
        self._address, self._cpus, self._gpus = ray_address, cpus_per_worker, gpus_per_worker
        self._tasks: dict[Any, Task] = {}
        self._started = False

    @property
    def n_slots(self) -> int:
        """Runs that fit on the machines that the cluster has now."""
        return sum(map(self._fitting, _machines()))

    def open(self, job: Job, watch: Watcher) -> None:
        """Connect to the cluster, or start one, and check that a run fits on some machine."""
        import ray

        n_threads = job.settings.train.n_threads
        self.cpus = self._cpus or n_threads or 1
        if n_threads > self.cpus:
            raise SettingsError(
                f"train.n_threads is {n_threads}, but `cpus_per_worker={self.cpus}`",
                "Make them equal; `train.n_threads=0` takes as many threads as a member has CPUs.",
            )
        self._started = not ray.is_initialized()
        if self._started:
            _start_ray(self._address)
        device, machines = job.settings.train.device, _machines()
        most = {kind: max(m.get(kind, 0) for m in machines) for kind in ("CPU", "GPU")}
        wants_gpu = device.startswith("cuda") or (device == "auto" and most["GPU"] > 0)
        self.gpus = float(wants_gpu) if self._gpus is None else self._gpus
        if not self.n_slots:
            raise DeviceError(
                f"a member needs a machine with CPU: {self.cpus}, GPU: {self.gpus:g}; the Ray "
                f"cluster has at most CPU: {most['CPU']:g}, GPU: {most['GPU']:g} on one machine",
                "Lower `cpus_per_worker` or `gpus_per_worker`, or add machines to the cluster.",
            )
        self._job = ray.put(job)
        # Whoever submitted it starts a run again whose worker died.
        self._work: Any = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_work)

    def submit(self, task: Task) -> None:
        task = replace(task, folder=task.folder.absolute())
        self._tasks[self._work.remote(task, self._job, self.cpus)] = task

    def wait(self, look: StopRequest) -> list[Report]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        reports = []
        for ended in ray.wait(list(self._tasks), timeout=_SECONDS_BETWEEN_LOOKS)[0]:
            task = self._tasks.pop(ended)
            try:
                reports.append(ray.get(ended))
            except RayError as error:
                # An exception of the task comes last, after its traceback.
                why = str(error).strip().splitlines()[-1 if isinstance(error, RayTaskError) else 0]
                reports.append(Report(task, died=why))
        return reports

    def close(self) -> None:
        import ray

        for running in self._tasks:
            with suppress(Exception):
                ray.cancel(running, force=True)
        self._tasks.clear()
        if self._started:
            ray.shutdown()

    def _fitting(self, machine: dict[str, float]) -> int:
        """Return how many runs fit on a machine."""
        by_cpus, gpus = int(machine.get("CPU", 0) // self.cpus), machine.get("GPU", 0)
        if not self.gpus:
            return by_cpus
        # Shares of different GPUs do not add up.
        by_gpus = int(1 / self.gpus) * int(gpus) if self.gpus < 1 else int(gpus // self.gpus)
        return min(by_cpus, by_gpus)


def _machines() -> list[dict[str, float]]:
    import ray

    nodes: Any = ray.nodes()
    return [node["Resources"] for node in nodes if node["Alive"]]


def _start_ray(address: str | None) -> None:
    """Connect to the cluster at an address, or start one of this machine."""
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address not in ("auto", "local"):
        _check_answers(address)
    own: dict[str, Any] = {}
    environment = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address == "local":
        own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        # At Ray's own niceness, 15, runs hardly train beside anything else that runs.
        environment |= {"RAY_worker_niceness": "0", **os.environ}
        if len(os.environ.get("TMPDIR", "")) > _LONGEST_TMPDIR:
            environment.setdefault("RAY_TMPDIR", "/tmp")
    # Workers look for modules in the folder that Ray takes for the current one: those that lie
    # where the sweep was started must not stand in for installed ones.
    installed = str(Path(__file__).parents[2])
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with patch.dict(os.environ, environment), patch.object(os.path, "curdir", installed):
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                # Threads that spin while they wait would slow down the other workers.
                runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
                **own,
            )
    except (OSError, RuntimeError, ValueError) as error:
        token = (
            " A cluster may want its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH if "
            "the file is not ~/.ray/auth_token."
        )
        raise _unreachable(address, str(error).strip().splitlines()[0], token) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's would exit at once


def _check_answers(address: str) -> None:
    """Check that something listens: Ray itself tries for minutes, and then ends the program."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise SettingsError(
            f"`ray_address={address}`: a sweep does not run through Ray Client",
            "Run it on a machine of the cluster, with `ray_address=auto`.",
        )
    if not host or not port.isdigit():
        raise SettingsError(
            f"`ray_address={address}`: expected HOST:PORT or auto",
            "Ray prints the address of a cluster when it starts one; its port is 6379 by default.",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, why: str, also: str = "") -> RunError:
    return RunError(
        f"Ray at {address} cannot be reached: {why}",
        "Start a cluster (ray start), then use `ray_address=auto`, or HOST:6379 from another "
        f"machine.{also}",
    )
