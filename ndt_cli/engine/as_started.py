"""Computing as a run began: a resumed run stays the same run on its own machine only."""

import warnings
from pathlib import Path

import torch

from ndt_cli.engine.device import Compute, choose_compute
from ndt_cli.engine.provenance import package_version
from ndt_cli.engine.run_facts import RunFacts
from ndt_cli.errors import DeviceError, RunWarning
from ndt_cli.settings.tree import TrainSettings


def compute_as_started(
    settings: TrainSettings, facts: RunFacts, run: Path, local_rank: int
) -> tuple[Compute, int]:
    """Return device and precision, and the number of threads, that a run began with.

    What the settings leave to the machine ("auto", 0 threads) is taken as it was, not as this
    machine would choose.

    Raises
    ------
    DeviceError
        When there is no such device here: the random streams of another kind cannot go on.

    Warns
    -----
    RunWarning
        When what follows may differ by rounding: fewer threads are to be had, or torch is another.
    """
    kind = facts.device.partition(":")[0]
    device = kind if settings.device == "auto" else settings.device
    as_before = settings.model_copy(update={"device": device, "precision": facts.precision})
    try:
        compute = choose_compute(as_before, local_rank)
    except DeviceError as error:
        raise DeviceError(
            f"{run} was trained on {facts.device} in {facts.precision}: {error.message}",
            "a run is resumed on the kind of device that it began on; start a new one here",
        ) from error
    n_threads = settings.n_threads or facts.n_threads
    unlike = []
    if compute.device.type == "cpu" and not settings.n_threads:
        n_available = torch.get_num_threads()
        if n_threads > n_available:
            unlike.append(f"{n_threads} CPU threads, and there are {n_available}")
            n_threads = n_available
    # As it was installed: torch's own name of its version may say more.
    before, now = facts.packages.get("torch"), package_version("torch")
    if before not in (None, now):
        unlike.append(f"torch {before}, and this is {now}")
    if unlike:
        warnings.warn(
            f"{run} began with {' and with '.join(unlike)}: from here on its numbers differ by "
            "rounding from those of a run that was never stopped",
            RunWarning,
            stacklevel=3,
        )
    return compute, n_threads
