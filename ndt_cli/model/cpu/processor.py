"""The processor: its name, its bfloat16 instructions, and the number of torch's threads."""

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Let this many threads share each operation of this thread; restore the number after."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def processor_name() -> str:
    """Return the name that the CPU gives itself, such as "AMD EPYC 9654 96-Core Processor"."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 faster than float32 at the sizes that NDT has.

    CPUs with AMX tiles do, and AMD's with AVX512-BF16 (on Zen 4 a step takes half the time).
    Intel's with AVX512-BF16 alone do not.
    """
    if cpu_has_tiles():
        return True
    name = processor_name()
    is_amd = name.startswith("AMD ") or name.endswith("AuthenticAMD")  # the latter on Windows
    return is_amd and _has("avx512_bf16")


def cpu_has_tiles() -> bool:
    """Return whether the CPU multiplies whole tiles of bfloat16 (AMX)."""
    return _has("amx_tile")


def _has(instructions: str) -> bool:
    # torch has no public name for the question: one without this name is taken for a no.
    supported = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return bool(supported and supported())
