"""Print results on standard output, and everything else on standard error.

`say` and `note` print a line; `out` and `log` are the consoles, for tables and progress bars.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import RunWarning
from ndt_cli.jsonable import json_text


def _width(stream: TextIO) -> int | None:
    # Without a terminal Rich wraps at 80 columns, which breaks tables in a log file.
    if stream.isatty() or "COLUMNS" in os.environ:
        return None
    return 120


def make_console(**options: Any) -> Console:
    """Return a console that prints text as it is: no markup, no emoji, no colored numbers."""
    return Console(emoji=False, markup=False, highlight=False, **options)


out = make_console(width=_width(sys.stdout))
"""Results: tables, values, JSON."""

log = make_console(width=_width(sys.stderr), stderr=True)
"""Progress, notes, warnings and errors."""


def say(text: str | Text = "", style: str = "") -> None:
    """Print a line of the result; paths in it are not broken at the edge of the terminal."""
    out.print(text, style=style, soft_wrap=True)


def note(text: str | Text = "", style: str = "") -> None:
    """Print a line on standard error; paths in it are not broken at the edge of the terminal."""
    log.print(text, style=style, soft_wrap=True)


def labeled(label: str, style: str, text: str) -> Text:
    """Return a line that begins with a colored word, such as "Warning:"."""
    return Text.assemble((f"{label}:", style), f" {text}")


def print_json(value: Any) -> None:
    """Print one JSON value as the result; numbers that are not finite become null."""
    out.out(json_text(value), highlight=False)


@contextmanager
def run_warnings_shown() -> Iterator[None]:
    """Print each `RunWarning` as one line; other warnings are shown as before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **file: Any) -> None:
            if issubclass(category, RunWarning):
                note(labeled("Warning", "bold yellow", as_typed(str(message))))
            else:
                show_others(message, category, *where, **file)

        warnings.showwarning = show
        yield
