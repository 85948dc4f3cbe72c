"""Exceptions for problems the user can fix.

::

    NdtError              exit code 1   base: a message, and the next thing to try
    |- SettingsError      exit code 2   a key, value or combination of settings
    |- DataError          exit code 1   a spike file: layout, shape, counts
    |- RunError           exit code 1   a run folder: missing, in use, damaged, of another version
    |  `- CheckpointError exit code 1   a checkpoint: truncated, of another shape, not one at all
    |- TrainingError      exit code 1   training cannot continue: loss or gradient not finite
    |- DeviceError        exit code 2   a device or precision that this machine does not have
    |- ExistingFileError  exit code 1   an output file or folder that already exists
    `- MissingExtraError  exit code 1   an optional package that is not installed

A command prints ``message`` and ``hint``, and a traceback only in debug mode.

Messages are written for Python: arguments, settings and calls stand in backticks (`bin_ms`,
`train.batch_size=32`, `resume('runs/a')`). The command line shows them as they are typed there
(`ndt_cli.commands.wording`), so that no module below the commands names a flag.
"""

import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any


class NdtError(Exception):
    """Base of all errors that are meant for the user.

    Parameters
    ----------
    message : str
        What is wrong, in which file, key or argument, and what was found there.
    hint : str, optional
        The next command or change to try.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class SettingsError(NdtError):
    """A settings key, value or combination that cannot be used."""

    exit_code = 2


class DataError(NdtError):
    """A spike file that cannot be read or trained on."""


class RunError(NdtError):
    """A run folder that is missing, in use or damaged."""


class CheckpointError(RunError):
    """A checkpoint that is truncated, of another shape, or not a checkpoint."""


class TrainingError(NdtError):
    """Training that cannot continue, such as a loss that is not finite."""


class DeviceError(NdtError):
    """A device or precision that this machine does not have."""

    exit_code = 2


class ExistingFileError(NdtError):
    """An output file or folder that already exists, and may not be replaced.

    Parameters
    ----------
    path : Path
        The file or folder.
    hint : str, optional
        What to do instead. Default: choose another name, or ask to overwrite.
    """

    def __init__(self, path: Path, hint: str | None = None) -> None:
        super().__init__(
            f"{path} already exists",
            hint or "Choose another name, or replace it with `overwrite=True`.",
        )


class MissingExtraError(NdtError):
    """An optional package that is not installed."""


def needed(package: str) -> Any:
    """Import a package that only some need; the error says how to install it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {package}, which is not installed",
            'Install it: pip install "ndt-cli[rates]"',
        ) from error


class RunWarning(UserWarning):
    """A problem that does not stop a run but that its owner should know about."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most similar to ``name``, or None if none is close."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def count(n: int, noun: str) -> str:
    """Return such text as "1 trial" or "2 trials".

    Examples
    --------
    >>> count(1, "trial"), count(2, "trial"), count(0, "held-out neuron")
    ('1 trial', '2 trials', '0 held-out neurons')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def called(function: str, *arguments: object, **keywords: object) -> str:
    """Return a Python call in backticks, for a hint; the command line shows its own command.

    Examples
    --------
    >>> called("resume", Path("runs/a"), until_epoch=5)
    "`resume('runs/a', until_epoch=5)`"
    """
    values = [repr(str(a) if isinstance(a, Path) else a) for a in arguments]
    named = [
        f"{name}={(str(value) if isinstance(value, Path) else value)!r}"
        for name, value in keywords.items()
    ]
    return f"`{function}({', '.join(values + named)})`"


def typed(path: Path | str) -> str:
    """Return a path as it is typed in a shell, quoted if necessary, and never as an option.

    Examples
    --------
    >>> typed("my run"), typed("-run")
    ("'my run'", './-run')
    """
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
