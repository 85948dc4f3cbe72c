"""Ctrl-C as a request to save and stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ndt_cli.commands.console import log


@contextmanager
def stop_request() -> "Iterator[StopFlag]":
    """Turn the first Ctrl-C (or SIGTERM) into a request; a second one interrupts at once."""
    flag = StopFlag()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, flag.set) for number in signals}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopFlag:
    """Says whether the user has asked to stop."""

    def __init__(self) -> None:
        self._asked = False

    def set(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        log.print("Stopping after this step; press Ctrl-C again to stop at once.")

    def __call__(self) -> bool:
        return self._asked
