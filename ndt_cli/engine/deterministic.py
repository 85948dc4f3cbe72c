"""The same bits each time on a GPU, where it is asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def allow_deterministic_products() -> None:
    """Set what CUDA's matrix products need to repeat; it costs nothing.

    It is read once, at the first product of the process, so a GPU is not used before this.
    """
    os.environ.setdefault(_CUBLAS, ":4096:8")


@contextmanager
def deterministic_kernels(wanted: bool, device: torch.device) -> Iterator[None]:
    """Let torch use only kernels that give the same bits each time, and put its mode back.

    On a CPU nothing is changed: training there is exact as it is. What CUDA's matrix products
    need is an environment variable that is read when they are first used, so it must be set
    before anything else multiplies on that GPU in this process.

    Parameters
    ----------
    wanted : bool
        ``train.deterministic``.
    device : torch.device
        Where the run computes.
    """
    if not wanted or device.type == "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, config = torch.backends.cudnn.benchmark, os.environ.get(_CUBLAS)
    allow_deterministic_products()
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        if config is None:
            del os.environ[_CUBLAS]
