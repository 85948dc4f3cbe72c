"""Ctrl-C, a closing terminal and a scheduler's signal, as a request to save and stop."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ndt_cli.commands.console import note

# Windows has no SIGHUP.
_HANG_UP: int | None = getattr(signal, "SIGHUP", None)


@contextmanager
def stop_request() -> "Iterator[StopFlag]":
    """Turn signals into a request to stop; a second SIGINT or SIGTERM interrupts.

    SIGHUP never interrupts, and stays ignored where it is, as under nohup.
    """
    flag = StopFlag()
    signals: list[int] = [signal.SIGINT, signal.SIGTERM]
    if _HANG_UP is not None and signal.getsignal(_HANG_UP) != signal.SIG_IGN:
        signals.append(_HANG_UP)
    before = {number: signal.signal(number, flag.set) for number in signals}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopFlag:
    """True, when called, once the user has asked to stop."""

    def __init__(self) -> None:
        self._asked = False
        # Now, because a stream whose terminal has closed no longer counts as one.
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def set(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == _HANG_UP:
            # The shell and the system may each send one: a second is not impatience.
            self._leave_terminals()
        elif self._asked:
            raise KeyboardInterrupt
        else:
            note("Stopping after this step; press Ctrl-C again to stop at once.")
        self._asked = True

    def _leave_terminals(self) -> None:
        """Discard further output: an error from a closed terminal would interrupt the saving."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)

    def __call__(self) -> bool:
        return self._asked
