"""The most memory that something took."""

import re
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory taken since this was made, beyond what was taken then.

    On a GPU, of PyTorch's allocator. On Linux, of the process. Elsewhere it is not known.

    Parameters
    ----------
    device : torch.device
        Whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before: int | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif device.type == "cpu" and _reset_high_water():
            self._before = _status_bytes("VmRSS")

    def n_bytes(self) -> int | None:
        """Return the peak so far, in bytes; None where the system does not tell."""
        if self._before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self._before
        peak = _status_bytes("VmHWM")
        return None if peak is None else peak - self._before


def _reset_high_water() -> bool:
    try:
        _CLEAR.write_text("5", encoding="ascii")  # see proc_pid_clear_refs(5)
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int | None:
    return _kib(_STATUS.read_text(encoding="utf-8"), key)


def _kib(text: str, key: str) -> int | None:
    found = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    return None if found is None else 1024 * int(found[1])
