"""Where a measurement was made."""

from dataclasses import dataclass

import torch

from ndt_cli import __version__
from ndt_cli.engine.device import Compute
from ndt_cli.model.cpu.processor import processor_name


@dataclass(frozen=True)
class Machine:
    """Device and versions, without which a time says nothing.

    Attributes
    ----------
    device : str
        As in "cpu" or "cuda:0 (NVIDIA H200)".
    processor : str
        Name of the CPU.
    n_threads : int
        CPU threads.
    precision : str
        Of this package's matrix products; the reference is in float32.
    torch, ndt : str
        Versions.
    """

    device: str
    processor: str
    n_threads: int
    precision: str
    torch: str
    ndt: str

    @classmethod
    def here(cls, compute: Compute, n_threads: int) -> "Machine":
        """Describe the machine that this runs on."""
        device, _, precision = compute.name.rpartition(", ")
        return cls(device, processor_name(), n_threads, precision, torch.__version__, __version__)
