"""The fastest that the device multiplies matrices: what any step is measured against."""

from collections.abc import Callable

import torch

from ndt_cli.bench.timing import time_in_turn

# Widths of square matrices. A GPU needs large ones to be busy, a CPU is at its best within caches.
_WIDTHS = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192), "mps": (1024, 2048, 4096)}

_SECONDS = 0.4  # to spend on each size


def measure_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the best rate of products of square matrices, in FLOP/s.

    The number of CPU threads is the one that is set. None where the device lacks the dtype.

    Parameters
    ----------
    device : torch.device
        Where to multiply.
    dtype : torch.dtype
        float32 as torch is set up (by default without TF32), or bfloat16.
    """
    if device.type == "mps" and dtype != torch.float32:
        return None
    best = 0.0
    for width in _WIDTHS[device.type]:
        a, b = (torch.rand(width, width, device=device).to(dtype) for _ in range(2))
        product = torch.empty_like(a)

        def multiply(
            a: torch.Tensor = a, b: torch.Tensor = b, product: torch.Tensor = product
        ) -> None:
            torch.mm(a, b, out=product)

        first = min(_times(multiply, device, 1))
        times = _times(multiply, device, max(1, min(200, int(_SECONDS / first))))
        best = max(best, 2 * width**3 / min(first, *times))
        if first > _SECONDS:  # no such instructions: a larger product would only take longer
            break
    return best


def _times(action: Callable[[], None], device: torch.device, n: int) -> tuple[float, ...]:
    return time_in_turn({"": action}, device, n_rounds=n, warm_up=1)[""].seconds
