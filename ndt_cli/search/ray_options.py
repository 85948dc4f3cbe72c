"""How a sweep uses Ray; nothing here loads it."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from ndt_cli.errors import MissingExtraError, SettingsError
from ndt_cli.search.draws import extremes
from ndt_cli.search.space import Space
from ndt_cli.settings.tree import Settings

SchedulerName = Literal["none", "asha"]
SearcherName = Literal["random", "optuna"]

# Asynchronous successive halving keeps one member in so many at each rung, and the next rung comes
# after so many times the epochs (Li et al. 2020, https://arxiv.org/abs/1810.05934).
REDUCTION = 3
# Fewest epochs of a member, as a share of all: three rungs.
_FIRST_RUNG = 1 / REDUCTION**3

_NEEDED = ("ray", "pandas", "pyarrow", "optuna")


@dataclass(frozen=True)
class RayOptions:
    """Where and how the members of a sweep train.

    Raises
    ------
    SettingsError
        When the options do not go together.

    Parameters
    ----------
    address : str, optional
        A running cluster: ``"auto"`` for the one of this machine, or ``"host:port"``. Default: the
        environment's ``RAY_ADDRESS``, else a cluster of this machine alone, started for the sweep.
    cpus_per_worker : int, optional
        CPUs that a worker process occupies, and its threads. Default: ``train.n_threads``, else 1.
    gpus_per_worker : float, optional
        GPUs that a worker occupies; below 1, several workers share one. Default: 1 where the
        cluster has GPUs and ``train.device`` allows one, else 0.
    scheduler : {"none", "asha"}
        ``"asha"``: members that do worse than others after as many epochs are stopped.
    searcher : {"random", "optuna"}
        ``"optuna"``: after the first members, values are chosen by what the earlier ones scored.
    grace_epochs : int, optional
        Epochs that every member gets before ``"asha"`` may stop it. Default: a twenty-seventh of
        ``train.max_epochs``, and the longest warm-up at least.
    """

    address: str | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    scheduler: SchedulerName = "none"
    searcher: SearcherName = "random"
    grace_epochs: int | None = None

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker or 0.0
        if gpus > 1 and not gpus.is_integer():
            raise SettingsError(f"--gpus-per-worker {gpus:g}: above 1 it is a whole number")


def require_ray() -> None:
    """Check that Ray Tune and Optuna are installed, before anything is written.

    Raises
    ------
    MissingExtraError
        When they are not.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"a sweep on Ray needs {', '.join(missing)}, not installed here",
            'install it with: pip install "ndt-cli[ray]"',
        )


def cpus_per_worker(options: RayOptions, settings: Settings) -> int:
    """Return the CPUs of a worker.

    Raises
    ------
    SettingsError
        When the settings ask for more threads than it would get.
    """
    n_threads = settings.train.n_threads
    cpus = options.cpus_per_worker or n_threads or 1
    if n_threads > cpus:
        raise SettingsError(
            f"train.n_threads = {n_threads}, but --cpus-per-worker {cpus}",
            "make them equal; train.n_threads = 0 takes as many threads as a worker has CPUs",
        )
    return cpus


def rung_epochs(options: RayOptions, settings: Settings, space: Space) -> list[int]:
    """Return the epochs after which members are compared; none without a scheduler.

    All of them are epochs that validate.

    Raises
    ------
    SettingsError
        When the first is not before the last epoch.
    """
    if options.scheduler == "none":
        return []
    train = settings.train
    first = options.grace_epochs or max(
        math.ceil(train.max_epochs * _FIRST_RUNG), _longest_warmup(settings, space)
    )
    interval = train.val_interval_epochs
    rung = math.ceil(first / interval) * interval
    if rung >= train.max_epochs:
        raise SettingsError(
            f"members would be compared after {rung} epochs for the first time, and train for "
            f"{train.max_epochs}",
            "give fewer --grace-epochs, a smaller train.val_interval_epochs, or --scheduler none",
        )
    rungs = []
    while rung < train.max_epochs:
        rungs.append(rung)
        rung *= REDUCTION
    return rungs


def _longest_warmup(settings: Settings, space: Space) -> int:
    drawn = space.draws.get("train.warmup_epochs")
    if drawn is None:
        return settings.train.warmup_epochs
    return max(int(value) for value in extremes(drawn))
