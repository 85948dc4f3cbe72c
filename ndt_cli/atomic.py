"""Writing files so that a reader finds the old one or the new one, never a part."""

import os
import re
import secrets
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.part(?P<suffix>\.[^.]*|)")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then move it into place.

    The data reach the disk before the name changes, and the new name does before this returns. A
    failure leaves the old file and no temporary one; a kill may leave a temporary one, which
    `leftovers` knows by its name.

    Parameters
    ----------
    path : Path
        Final name; an existing file is replaced.
    write : callable
        Called with the temporary path, which has the ending of ``path``.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # What stopped the writing is to be reported, not that the rest cannot be removed.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file, UTF-8, in one piece."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def leftovers(folder: Path, names: Container[str] | None = None) -> list[Path]:
    """Find the temporary files that killed processes left in a folder.

    Those of a process that is writing at this moment look the same.

    Parameters
    ----------
    folder : Path
        Where to look.
    names : container of str, optional
        Names of the files whose temporary ones are meant. Default: of all.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        parts = _TEMPORARY.fullmatch(path.name)
        if parts and (names is None or parts["stem"] + parts["suffix"] in names):
            found.append(path)
    return found


def _sync_folder(folder: Path) -> None:
    """Make a change of names last through a loss of power, where the system offers it."""
    if os.name == "nt":  # folders cannot be opened there
        return
    # Some network file systems refuse; the file itself is safe by now.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
