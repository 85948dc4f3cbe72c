"""What a command shares with its terminal: where it prints, and how Ctrl-C stops it.

Results go to standard output, and everything else to standard error.

`say` and `note` print a line; `out` and `log` are the consoles, for tables and progress bars. The
option ``-q`` leaves only warnings and errors on `log`; ``-v`` adds log messages of the package.

Progress and notes never raise, whatever becomes of standard error: a closed pipe or a full disk
must not end a training. Results that cannot be printed raise `OutputError`, unless a reader such
as head has closed the pipe.
"""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any, cast

from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import NdtError, RunWarning
from ndt_cli.jsonable import json_text

# Control characters: a name in a file may hold some that command the terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


_format_warning = warnings.formatwarning


def plain_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return the text of a warning of a library, which may quote names of a file."""
    return _CONTROL.sub("\ufffd", _format_warning(message, category, filename, lineno, line))


class OutputError(NdtError):
    """Results that cannot be printed: standard output is closed, or its disk is full."""


class _Stream:
    """Standard output or error, as it is at the moment of writing; a closed one is None."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reader_left = False  # such as head, which has seen enough

    def write(self, text: str) -> int:
        stream = getattr(sys, self._name)
        if self._name == "stderr":
            with suppress(OSError, ValueError, AttributeError):
                stream.write(_encodable(text, stream))
            return len(text)
        try:
            stream.write(_encodable(text, stream))
            stream.flush()
        except (OSError, ValueError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or "it is closed"
            with suppress(OSError, ValueError, AttributeError):  # Python flushes it again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if isinstance(error, BrokenPipeError):
                self.reader_left = True
                return len(text)
            raise OutputError(f"cannot print the results on standard output: {reason}") from error
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            getattr(sys, self._name).flush()

    def isatty(self) -> bool:
        stream = getattr(sys, self._name)
        return stream is not None and not stream.closed and stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(sys, self._name), name)


def _encodable(text: str, stream: Any) -> str:
    """Replace characters that the encoding of a stream does not have."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


class _PlainConsole(Console):
    """A console on which text cannot command the terminal."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        clean = (
            part if part.control else part._replace(text=_CONTROL.sub("\ufffd", part.text))
            for part in buffer
        )
        return super()._render_buffer(clean)


def make_console(**options: Any) -> Console:
    """Return a console that prints text as it is: no markup, no emoji, no colored numbers."""
    return _PlainConsole(emoji=False, markup=False, highlight=False, **options)


def _standard(name: str) -> Console:
    stream = _Stream(name)
    # Without a terminal Rich wraps at 80 columns, which breaks tables in a log file.
    columns = os.environ.get("COLUMNS", "")
    is_set = columns.isdecimal() and int(columns) > 0
    width = None if stream.isatty() or is_set else 120
    return make_console(width=width, file=cast(IO[str], stream))


out = _standard("stdout")
"""Results: tables, values, JSON."""

log = _standard("stderr")
"""Progress, notes, warnings and errors."""


def say(text: str | Text = "", style: str = "") -> None:
    """Print a line of the result; paths in it are not broken at the edge of the terminal."""
    out.print(text, style=style, soft_wrap=True)


def plain_table(*headings: str, numbers: bool = False, **options: Any) -> Table:
    """Return a table without lines; with ``numbers``, all columns but the first align right."""
    table = Table(box=None, pad_edge=False, **options)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if numbers and place else "left")
    return table


def note(text: str | Text = "", style: str = "", *, always: bool = False) -> None:
    """Print a line on standard error; paths in it are not broken at the edge of the terminal.

    ``always``: even where only results, warnings and errors are wanted.
    """
    quiet = log.quiet
    log.quiet = quiet and not always
    try:
        log.print(text, style=style, soft_wrap=True)
    finally:
        log.quiet = quiet


def warn(text: str) -> None:
    """Print a warning on standard error."""
    note(labeled("Warning", "bold yellow", text), always=True)


_next_steps = {"wanted": True}


def want_next_steps(wanted: bool) -> None:
    """Choose whether `next_step` prints; it does not for a program, which reads JSON."""
    _next_steps["wanted"] = wanted


def next_step(*commands: str) -> None:
    """Print what to type next, on standard error."""
    if not _next_steps["wanted"]:
        return
    for number, command in enumerate(commands):
        note(f"{'Next: ' if number == 0 else '      '} {command}", style="dim")


class _LogLines(logging.Handler):
    """Shows log messages as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.name}: {record.getMessage()}", style="dim", always=True)


_log_lines = _LogLines()


def set_verbosity(level: int) -> None:
    """Print less than usual on standard error (-1), as usual (0), or log messages too (1, 2).

    ``1`` shows what the package does, ``2`` the details too.
    """
    log.quiet = level < 0
    logger = logging.getLogger("ndt_cli")
    logger.removeHandler(_log_lines)
    logger.setLevel({1: logging.INFO, 2: logging.DEBUG}.get(level, logging.NOTSET))
    if level > 0:
        logger.addHandler(_log_lines)


def labeled(label: str, style: str, text: str) -> Text:
    """Return a line that begins with a colored word, such as "Warning:"."""
    return Text.assemble((f"{label}:", style), f" {text}")


def print_json(schema: str, content: Mapping[str, Any]) -> None:
    """Print one JSON object as the result; numbers that are not finite become null.

    Parameters
    ----------
    schema : str
        Name and version of what is printed, such as ``"train/1"``. The version changes when a key
        changes its meaning or goes, not when one is added. The user guide lists all.
    content : mapping
        Keys and values.
    """
    out.out(json_text({"schema": f"ndt/{schema}", **content}))


@contextmanager
def run_warnings_shown() -> Iterator[None]:
    """Print each `RunWarning` as one line; other warnings are shown as before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **file: Any) -> None:
            if issubclass(category, RunWarning):
                warn(as_typed(str(message)))
            else:
                show_others(message, category, *where, **file)

        warnings.showwarning = show
        yield


# Ctrl-C, a closing terminal and a scheduler's signal, as a request to save and stop ---------------


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
