"""How much memory there is, and the refusal of what needs more before any of it is taken.

A few bytes of a file, or one setting, can ask for more than any machine has: HDF5 stores the size
of an array, not its zeros. What is asked for is therefore counted first.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ndt_cli.errors import DataError, NdtError

# Of a container, a job or a service, where it has a limit of its own.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def free_bytes() -> int | None:
    """Return how much memory this process could still take, in bytes.

    On Linux: what is available, with swap, within the limits of the container and of the process.
    Elsewhere all that the machine has; None where the system does not tell.
    """
    return min(_limits(), default=None)


def check_memory(
    n_bytes: int, what: str, hint: str | None = None, kind: type[NdtError] = DataError
) -> None:
    """Refuse what needs more memory than there is.

    Parameters
    ----------
    n_bytes : int
        The least that is needed.
    what : str
        What needs it: the beginning of the message.
    hint : str, optional
        What to change.
    kind : type of NdtError
        The error to raise.

    Raises
    ------
    NdtError
        If more is needed than `free_bytes` says.
    """
    free = free_bytes()
    if free is not None and n_bytes > free:
        raise kind(
            f"{what} needs at least {in_gb(n_bytes)} of memory, and {in_gb(free)} are free", hint
        )


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    # PyTorch says so in a RuntimeError, on a CPU one without a class of its own.
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in said or "out of memory" in said)
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
    yield from _process_limit()


def _process_limit() -> Iterator[int]:
    """Give what `ulimit -v` leaves, where there is such a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    size = _read(Path("/proc/self/statm"))
    if most != resource.RLIM_INFINITY and size is not None:
        yield max(0, most - int(size.split()[0]) * resource.getpagesize())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None
