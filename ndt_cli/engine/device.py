"""Device, precision and number of threads of a run; deterministic kernels on a GPU."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ndt_cli.errors import DeviceError
from ndt_cli.model.cpu.processor import cpu_multiplies_bfloat16, torch_threads
from ndt_cli.settings.tree import TrainSettings

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


_NAME = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")

# More threads than this only wait for each other at the sizes that NDT has.
MAX_THREADS = 8


@dataclass(frozen=True)
class Compute:
    """Where and how a run computes."""

    device: torch.device  # of the weights and the data
    dtype: torch.dtype  # of the matrix products; weights and sums are float32

    @property
    def name(self) -> str:
        """Device and precision, as in "cuda:0 (NVIDIA H200), bfloat16"."""
        label = str(self.device)
        if self.device.type == "cuda":
            label += f" ({torch.cuda.get_device_name(self.device)})"
        return f"{label}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def cpu_capability(self) -> str:
        """Vector instructions that torch computes with, such as "AVX2"; empty on a GPU."""
        return torch.backends.cpu.get_cpu_capability() if self.device.type == "cpu" else ""


def choose_compute(settings: TrainSettings, local_rank: int = 0) -> Compute:
    """Pick the device and precision that the settings ask for."""
    device = _choose_device(settings.device, local_rank)
    if device.type == "cuda":
        allow_deterministic_products()
    fast_bfloat16 = multiplies_bfloat16(device)
    if settings.precision == "auto":
        return Compute(device, torch.bfloat16 if fast_bfloat16 else torch.float32)
    if settings.precision == "bfloat16" and device.type == "mps":
        raise DeviceError(
            'train.precision = "bfloat16" is not supported on Apple MPS',
            'use `train.precision=float32` (or "auto")',
        )
    return Compute(device, getattr(torch, settings.precision))


def _choose_device(wanted: str, local_rank: int) -> torch.device:
    if not _NAME.fullmatch(wanted):
        raise DeviceError(
            f'there is no device "{wanted}"',
            "use auto, cpu, mps, cuda, or cuda:N for one of several",
        )
    if wanted == "auto":
        if torch.cuda.is_available():
            return _check_gpu(torch.device("cuda", local_rank), wanted)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if wanted.startswith("cuda"):
        if not torch.cuda.is_available():
            raise DeviceError(
                f'train.device = "{wanted}", but PyTorch {torch.__version__} sees no CUDA GPU here',
                "use `train.device=auto`, or install a CUDA build of PyTorch",
            )
        device = torch.device("cuda", local_rank) if wanted == "cuda" else torch.device(wanted)
        return _check_gpu(device, wanted)
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            'train.device = "mps", but this machine has no Apple GPU that PyTorch can use',
            "use `train.device=auto`",
        )
    return torch.device(wanted)


def _check_gpu(device: torch.device, wanted: str) -> torch.device:
    n_gpus = torch.cuda.device_count()
    if device.index >= n_gpus:
        raise DeviceError(
            f'train.device = "{wanted}" asks for {device}, but there are {n_gpus} CUDA GPUs',
            f"use cuda:0 to cuda:{n_gpus - 1}, and at most {n_gpus} processes on this machine",
        )
    return device


def free_gpu_bytes(device: torch.device) -> int:
    """Return how much memory of a GPU this process could still take, what torch holds included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16 products."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and cpu_multiplies_bfloat16()


def n_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus(wanted: str) -> tuple[str, ...]:
    """Return the names of the GPUs that runs may be spread over, as CUDA_VISIBLE_DEVICES has them.

    None if ``wanted``, the setting ``train.device``, is the CPU or one GPU.
    """
    if wanted not in ("auto", "cuda") or not torch.cuda.is_available():
        return ()
    n_gpus, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(n_gpus))
    return tuple(names)[:n_gpus]


@contextmanager
def cpu_threads(n_threads: int) -> Iterator[int]:
    """Compute with this many CPU threads (0: as many as help), and restore the number after."""
    # What torch would take: the cores that this process may use, or OMP_NUM_THREADS.
    wanted = n_threads or min(torch.get_num_threads(), MAX_THREADS)
    with torch_threads(wanted):
        yield wanted
