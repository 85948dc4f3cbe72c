"""How long work reports what it does, so that a command or a notebook can show it."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and how much there is."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
