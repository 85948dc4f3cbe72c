"""The two consoles: results go to standard output, everything else to standard error."""

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
    # Rich folds at 80 columns where there is no terminal, which breaks tables in a log file.
    if stream.isatty() or "COLUMNS" in os.environ:
        return None
    return 120


def make_console(**options: Any) -> Console:
    """Return a console that prints text as it is: brackets in names are no markup."""
    return Console(emoji=False, markup=False, **options)


out = make_console(width=_width(sys.stdout))
"""What the user asked for: tables, values, JSON."""

log = make_console(width=_width(sys.stderr), stderr=True)
"""Progress, notes, warnings and errors."""


def labeled(label: str, style: str, text: str) -> Text:
    """Return a line that begins with a colored word, such as "Warning:"."""
    return Text.assemble((f"{label}:", style), f" {text}")


def print_json(value: Any) -> None:
    """Print one JSON value on standard output; numbers that are not finite become null."""
    out.out(json_text(value), highlight=False)


# ------------------------------------------------------------------------------------------------
# Warnings about a run as lines on standard error, not as Python prints them.
# ------------------------------------------------------------------------------------------------


@contextmanager
def run_warnings_shown() -> Iterator[None]:
    """Show every `RunWarning` of the block; other warnings go where they went before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **file: Any) -> None:
            if issubclass(category, RunWarning):
                log.print(labeled("Warning", "bold yellow", as_typed(str(message))), soft_wrap=True)
            else:
                show_others(message, category, *where, **file)

        warnings.showwarning = show
        yield
