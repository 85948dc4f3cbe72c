"""The connection to a Ray cluster, or one of this machine alone for as long as a sweep runs."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from ndt_cli.errors import DeviceError, RunError, SettingsError
from ndt_cli.search.ray_options import RayOptions, cpus_per_worker
from ndt_cli.settings.tree import Settings

# What a sweep keeps in Ray's memory is one recording; what does not fit goes to the disk. Ray
# itself would set aside a third of the machine's memory.
_STORE_BYTES = 200 * 2**20
_SECONDS_TO_ANSWER = 5.0

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Tune's own result files say nothing that the run folders do not.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints to standard output even when told not to
    # A member that was interrupted reports no score.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
# As `ndt` sets it for itself: threads that spin while they wait starve those of other members.
_WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Share:
    """What a worker occupies, and how many fit.

    Attributes
    ----------
    cpus : int
        CPUs, and threads.
    gpus : float
        GPUs.
    n_workers : int
        Workers that fit at the same time.
    n_machines : int
        Machines of the cluster.
    """

    cpus: int
    gpus: float
    n_workers: int
    n_machines: int


@contextmanager
def connected(options: RayOptions, settings: Settings) -> Iterator[Share]:
    """Connect to the cluster, or start one; give what each worker gets of it.

    A connection that was there already is used and kept.

    Raises
    ------
    SettingsError
        When the address is none that can be used, or threads and CPUs do not agree.
    RunError
        When the cluster cannot be reached.
    DeviceError
        When no machine of it has what a worker needs.
    """
    cpus = cpus_per_worker(options, settings)
    with _environment(_ENVIRONMENT):
        started = not ray.is_initialized()
        if started:
            _start(options.address)
        try:
            yield _share(options, settings, cpus)
        finally:
            if started:
                ray.shutdown()


def _start(address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise SettingsError(
            f"--ray-address {address}: a sweep does not run through Ray Client",
            "run ndt on a machine of the cluster, with --ray-address auto",
        )
    if address not in ("auto", "local"):
        _check_listens(address)
    own: dict[str, Any] = {}
    if address == "local":
        own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        with _signals_kept():
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                runtime_env={"env_vars": _WORKER_ENVIRONMENT},
                **own,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(
            address,
            str(error).strip().splitlines()[0],
            "; one that is running may want its token: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN_PATH where the file is not ~/.ray/auth_token",
        ) from error


def _check_listens(address: str) -> None:
    """Ask at the address first: Ray itself tries for minutes, and then ends the program."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(
            f"--ray-address {address}: expected HOST:PORT or auto",
            "ray start --head says the address of the cluster; its port is 6379 by default",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, why: str, also: str = "") -> RunError:
    return RunError(
        f"Ray at {address} cannot be reached: {why}",
        f"start one with: ray start --head; then give --ray-address auto, or HOST:6379{also}",
    )


def _share(options: RayOptions, settings: Settings, cpus: int) -> Share:
    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    machines = [node["Resources"] for node in nodes() if node["Alive"]]
    gpus = options.gpus_per_worker
    if gpus is None:
        device = settings.train.device
        has_gpus = any(machine.get("GPU") for machine in machines)
        gpus = float(device.startswith("cuda") or (device == "auto" and has_gpus))
    n_workers = sum(_fitting(machine, cpus, gpus) for machine in machines)
    if not n_workers:
        most = {
            kind: max((machine.get(kind, 0) for machine in machines), default=0)
            for kind in ("CPU", "GPU")
        }
        raise DeviceError(
            f"a worker needs a machine with CPU: {cpus}, GPU: {gpus:g}, and the Ray cluster has "
            f"none; the most of each on one is CPU: {most['CPU']:g}, GPU: {most['GPU']:g}",
            "lower --cpus-per-worker or --gpus-per-worker, or add machines to the cluster",
        )
    return Share(cpus, gpus, n_workers, len(machines))


def _fitting(machine: Mapping[str, float], cpus: int, gpus: float) -> int:
    n = int(machine.get("CPU", 0) // cpus)
    if gpus >= 1:
        return min(n, int(machine.get("GPU", 0) // gpus))
    # Shares of a GPU are never put together across GPUs.
    return min(n, int(machine.get("GPU", 0)) * int(1 / gpus)) if gpus else n


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put the SIGTERM handler back that Ray replaces with one that exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
