"""Writing files so that a reader finds the old one or the new one, never a part."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file beside ``path``, then move it into place.

    The data reach the disk before the name changes; a failure leaves the old file and no
    temporary one.

    Parameters
    ----------
    path : Path
        Final name; an existing file is replaced.
    write : callable
        Called with the temporary path, which has the ending of ``path``.
    """
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file, UTF-8, in one piece."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))
