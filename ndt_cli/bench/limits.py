"""What this machine cannot measure, told before any memory is taken.

The sizes are lower bounds, so that nothing is refused that would have worked.
"""

import torch

from ndt_cli.bench.cost import StepCost
from ndt_cli.bench.workload import Workload
from ndt_cli.engine.preflight import free_bytes_on, memory_needs
from ndt_cli.errors import SettingsError
from ndt_cli.memory import in_gb
from ndt_cli.model.network import ModelShape

_HINT = "ask for less: --trials, --bins and --neurons, or a smaller model (--set)"

# Poisson draws of 8 bytes, and the counts that are kept of them.
_BYTES_PER_COUNT = 9


def check_size(workload: Workload, device: torch.device) -> None:
    """Refuse trials or a network that do not fit into memory.

    Raises
    ------
    SettingsError
        With the sizes that were asked for, and how much memory they take.
    """
    entries = workload.n_made_trials * workload.n_bins * workload.n_neurons
    _check(workload, _BYTES_PER_COUNT * entries, torch.device("cpu"))
    shape = ModelShape(workload.n_neurons, workload.n_bins, max_count=1)
    _check(workload, memory_needs(workload.settings, shape, workload.n_trials).total, device)


def check_cost(workload: Workload, cost: StepCost, device: torch.device) -> None:
    """Refuse a step that keeps more than there is memory.

    Raises
    ------
    SettingsError
        As `check_size`.
    """
    _check(workload, cost.saved_bytes, device)


def _check(workload: Workload, n_bytes: int, device: torch.device) -> None:
    free = free_bytes_on(device)
    if free is not None and n_bytes > free:
        raise SettingsError(
            f"steps of {workload.n_trials} trials x {workload.n_bins} bins x "
            f"{workload.n_neurons} neurons need at least {in_gb(n_bytes)} of memory, and "
            f"{in_gb(free)} are free",
            _HINT,
        )
