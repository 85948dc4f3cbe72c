"""Warnings about a run as lines on standard error, not as Python prints them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ndt_cli.commands.console import labelled, log
from ndt_cli.errors import RunWarning


@contextmanager
def run_warnings_shown() -> Iterator[None]:
    """Show every `RunWarning` of the block; other warnings go where they went before."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **file: Any) -> None:
            if issubclass(category, RunWarning):
                log.print(labelled("Warning", "bold yellow", str(message)), soft_wrap=True)
            else:
                show_others(message, category, *where, **file)

        warnings.showwarning = show
        yield
