"""The free memory, and a check of what needs more than that before any of it is taken."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ndt_cli.errors import DataError, NdtError

# Limit and use of the container, job or service (control groups, versions 2 and 1).
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def free_bytes() -> int | None:
    """Return the memory that this process can still take, in bytes.

    On Linux, the available memory and swap within the limits of container and process; elsewhere
    all memory of the machine, or None if the system does not report it.
    """
    return min(_limits(), default=None)


def check_memory(
    n_bytes: int, what: str, hint: str | None = None, kind: type[NdtError] = DataError
) -> None:
    """Raise an error of this kind if ``what``, as the message begins, needs more than is free.

    It needs at least ``n_bytes``; the hint says what to change.
    """
    free = free_bytes()
    if free is not None and n_bytes > free:
        raise kind(
            f"{what} needs at least {in_gb(n_bytes)} of memory, and {in_gb(free)} are free", hint
        )


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error was raised for lack of memory."""
    # PyTorch raises a RuntimeError, on a CPU without a class of its own.
    message = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in message or "out of memory" in message)
    )


def in_gb(n_bytes: int) -> str:
    """Return a number of bytes in GB, for a message."""
    return f"{n_bytes / 1e9:.3g} GB"


def _limits() -> Iterator[int]:
    info = _read(Path("/proc/meminfo"))
    if info is not None:
        found = dict(re.findall(r"^(\w+): +(\d+) kB$", info, re.MULTILINE))
        if "MemAvailable" in found:
            yield 1024 * (int(found["MemAvailable"]) + int(found.get("SwapFree", 0)))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for most, used in _CGROUPS:
        texts = _read(most), _read(used)
        if all(text is not None and text.strip().isdigit() for text in texts):
            yield max(0, int(texts[0] or 0) - int(texts[1] or 0))
    # What the limit of `ulimit -v` leaves.
    size = _read(Path("/proc/self/statm"))
    if size is not None:
        import resource  # not on Windows

        most_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most_bytes != resource.RLIM_INFINITY:
            yield max(0, most_bytes - int(size.split()[0]) * resource.getpagesize())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None
