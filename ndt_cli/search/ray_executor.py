"""Training the members of a sweep on a Ray cluster: one task for each member.

Ray decides where a member trains, not what: the tasks run the same function as the processes of
one machine do. All machines must see the folder of the sweep under the same path.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ndt_cli.engine.events import Watcher
from ndt_cli.errors import DeviceError, MissingExtraError, RunError, SettingsError
from ndt_cli.search.executors import Job, Report, StopRequest, work
from ndt_cli.search.folder import Member

# What a sweep keeps in Ray's memory is one recording; what does not fit goes to the disk. Ray
# itself would set aside a third of the machine's memory.
_STORE_BYTES = 200 * 2**20
# Ray's sockets lie 68 letters below it, and no path of a socket has more than 107.
_LONGEST_TMPDIR = 38
_SECONDS_TO_ANSWER = 5.0
_SECONDS_BETWEEN_LOOKS = 0.3


class RayTasks:
    """Trains members on a Ray cluster.

    Parameters
    ----------
    ray_address : str, optional
        A running cluster: ``"auto"`` for the one of this machine, or ``"host:port"``. Default:
        ``RAY_ADDRESS``, otherwise a cluster of this machine alone, started for the sweep.
    cpus_per_worker, gpus_per_worker : int, float, optional
        CPUs of a member, and its threads (default: ``train.n_threads``, or 1), and GPUs: below 1,
        several members share one (default: 1 if there are any and ``train.device`` allows them).
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
        self._members: dict[Any, Member] = {}
        self._started = False

    @property
    def n_slots(self) -> int:
        """Members that fit on the machines that the cluster has now."""
        n = 0
        for machine in _machines():
            fitting, gpus = int(machine.get("CPU", 0) // self.cpus), machine.get("GPU", 0)
            if self.gpus:  # shares of different GPUs do not add up
                share = int(1 / self.gpus) * int(gpus) if self.gpus < 1 else int(gpus // self.gpus)
                fitting = min(fitting, share)
            n += fitting
        return n

    def open(self, job: Job, watch: Watcher) -> None:
        """Connect to the cluster, or start one, and check that a member fits on some machine."""
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
            _start(self._address)
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
        # The sweep itself starts members again whose worker died.
        self._task: Any = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(work)

    def submit(self, member: Member) -> None:
        member = replace(member, folder=member.folder.absolute())
        self._members[self._task.remote(member, self._job, self.cpus)] = member

    def wait(self, look: StopRequest) -> list[Report]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        reports = []
        for task in ray.wait(list(self._members), timeout=_SECONDS_BETWEEN_LOOKS)[0]:
            member = self._members.pop(task)
            try:
                reports.append(ray.get(task))
            except RayError as error:
                # An exception of the task comes last, after its traceback.
                why = str(error).strip().splitlines()[-1 if isinstance(error, RayTaskError) else 0]
                reports.append(Report(member, died=why))
        return reports

    def close(self) -> None:
        import ray

        for task in self._members:
            with suppress(Exception):
                ray.cancel(task, force=True)
        self._members.clear()
        if self._started:
            ray.shutdown()


def _start(address: str | None) -> None:
    """Connect to the cluster at an address, or start one of this machine."""
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise SettingsError(
            f"`ray_address={address}`: a sweep does not run through Ray Client",
            "Run it on a machine of the cluster, with `ray_address=auto`.",
        )
    if address not in ("auto", "local"):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(
                f"`ray_address={address}`: expected HOST:PORT or auto",
                "Ray prints the address of a cluster when it starts one; its port is 6379 by "
                "default.",
            )
        try:  # Ray itself tries for minutes, and then ends the program
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
        except OSError as error:
            raise _unreachable(address, error.strerror or str(error)) from error
    own: dict[str, Any] = {}
    environment = {"RAY_USAGE_STATS_ENABLED": "0"}
    if address == "local":
        own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        # At Ray's own niceness, 15, members hardly train beside anything else that runs.
        environment |= {"RAY_worker_niceness": "0", **os.environ}
        if len(os.environ.get("TMPDIR", "")) > _LONGEST_TMPDIR:
            environment.setdefault("RAY_TMPDIR", "/tmp")
    # Workers look for modules in the folder that Ray takes for the current one: those that lie
    # where the sweep was started must not stand in for installed ones.
    installed = str(Path(__file__).parents[2])
    try:
        with (
            _sigterm_kept(),
            patch.dict(os.environ, environment),
            patch.object(os.path, "curdir", installed),
        ):
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                # Threads that spin while they wait would slow down the other workers.
                runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
                **own,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(
            address,
            str(error).strip().splitlines()[0],
            " A cluster may want its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH "
            "if the file is not ~/.ray/auth_token.",
        ) from error


def _unreachable(address: str, why: str, also: str = "") -> RunError:
    return RunError(
        f"Ray at {address} cannot be reached: {why}",
        "Start a cluster (ray start), then use `ray_address=auto`, or HOST:6379 from another "
        f"machine.{also}",
    )


def _machines() -> list[Mapping[str, float]]:
    import ray

    nodes: Any = ray.nodes()
    return [node["Resources"] for node in nodes if node["Alive"]]


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the SIGTERM handler, which Ray replaces by one that exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
