"""What the machine that runs a sweep and its workers tell each other while members train."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from ndt_cli.errors import RunWarning

_SECONDS_BETWEEN_CALLS = 1.0


class Monitor:
    """Knows whether the sweep is to stop, and how far each worker is; lives in a Ray actor."""

    def __init__(self) -> None:
        self._stop = False
        self._epochs: dict[str, int] = {}
        self._warnings: list[str] = []

    def call_in(self, members: str, epoch: int) -> bool:
        """Note how far a worker's members are; tell it whether to save and stop."""
        self._epochs[members] = epoch
        return self._stop

    def warn(self, text: str) -> None:
        """Keep a warning for the machine that runs the sweep."""
        self._warnings.append(text)

    def look(self, stop: bool) -> tuple[dict[str, int], list[str]]:
        """Say whether to stop; return the epochs done by members, and the new warnings."""
        self._stop = self._stop or stop
        new, self._warnings = self._warnings, []
        return self._epochs, new


def start_monitor() -> Any:
    """Return the handle of a new monitor, which lasts as long as the handle."""
    # It takes no CPU of those that workers are counted by.
    return ray.remote(num_cpus=0, max_restarts=-1)(Monitor).remote()


class LineToMonitor:
    """A worker's side: a stop request that says how far its members are, once a second.

    Parameters
    ----------
    monitor : actor handle
        From `start_monitor`.
    members : str
        What to call the members that train here.
    """

    def __init__(self, monitor: Any, members: str) -> None:
        self._monitor = monitor
        self._members = members
        self.epoch = 0
        self._next_call = 0.0
        self._reply: Any = self._call()
        self._stop = self._answer()

    def __call__(self) -> bool:
        """Tell whether to save and stop; never waits."""
        if self._stop:
            return True
        if self._reply is None and time.monotonic() >= self._next_call:
            self._reply = self._call()
        if self._reply is not None and ray.wait([self._reply], timeout=0)[0]:
            self._stop = self._answer()
        return self._stop

    def _call(self) -> Any:
        self._next_call = time.monotonic() + _SECONDS_BETWEEN_CALLS
        return self._monitor.call_in.remote(self._members, self.epoch)

    def _answer(self) -> bool:
        reply, self._reply = self._reply, None
        try:
            return bool(ray.get(reply))
        except RayError:  # its machine is gone, and the next call reaches a new one
            return False


@contextmanager
def warnings_sent(monitor: Any) -> Iterator[None]:
    """Send every `RunWarning` of the block to the machine that runs the sweep."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **file: Any) -> None:
            if issubclass(category, RunWarning):
                monitor.warn.remote(str(message))
            else:
                show_others(message, category, *where, **file)

        warnings.showwarning = show
        yield
