"""Write files in one piece, and replace an existing one only when asked to."""

import errno
import os
import re
import secrets
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from pathlib import Path

from ndt_cli.errors import ExistingFileError, NdtError, SettingsError

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.part(?P<suffix>\.[^.]*|)")


def write_atomic(path: Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let ``write`` make a temporary file beside ``path``, then move it into place.

    A reader finds the old file or the new one, never a part. The data reach the disk before the
    name changes, and the new name does before this returns. A failure leaves the old file and no
    temporary one; a kill may leave a temporary one, which `leftovers` knows by its name.

    Parameters
    ----------
    path : Path
        Final name.
    write : callable
        Called with the temporary path, which has the suffix of ``path``.
    overwrite : bool
        Replace an existing file. Without it, a file that another process creates while this one
        is being written is kept too.

    Raises
    ------
    ExistingFileError
        If ``path`` exists and may not be replaced.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _move_to_free_name(temporary, path)
    except BaseException:
        # Report why the writing failed, not that its temporary file cannot be removed.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomic(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a text file, UTF-8, in one piece; see `write_atomic`."""
    write_atomic(
        path,
        lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"),
        overwrite=overwrite,
    )


def check_may_write(path: Path, overwrite: bool) -> None:
    """Check, before a long computation, that its result can be written to ``path``.

    Raises
    ------
    ExistingFileError
        If ``path`` exists and may not be replaced.
    NdtError
        If ``path`` is a folder, or one of its parents is a file or may not be written to.
    """
    if path.is_dir():
        raise NdtError(f"{path} is a folder; expected the name of a file")
    if not overwrite and os.path.lexists(path):
        raise ExistingFileError(path)
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise NdtError(f"{path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        raise NdtError(f"{path}: no permission to write to the folder {parent}")


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Check that the name of a file to be written ends in one of these suffixes.

    Raises
    ------
    SettingsError
        With the suffix that was found.
    """
    if path.suffix.lower() not in suffixes:
        found = f"the suffix {path.suffix}" if path.suffix else "no suffix"
        raise SettingsError(
            f"{path}: found {found}; expected {', '.join(suffixes)}",
            f"For example: {path.parent / (path.stem + suffixes[0])}",
        )


def _move_to_free_name(temporary: Path, path: Path) -> None:
    """Give a file its final name if that is free: unlike a rename, a link never replaces."""
    try:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            # A file system without hard links: reserve the name first.
            path.open("x").close()
            temporary.replace(path)
        else:
            temporary.unlink()
    except FileExistsError as error:
        raise ExistingFileError(path) from error


def leftovers(folder: Path, names: Container[str] | None = None) -> list[Path]:
    """Find temporary files in a folder, such as killed processes leave.

    Those of a process that is writing at the moment look the same.

    Parameters
    ----------
    folder : Path
        The folder.
    names : container of str, optional
        Only temporary files of the files with these names. Default: all.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        parts = _TEMPORARY.fullmatch(path.name)
        if parts and (names is None or parts["stem"] + parts["suffix"] in names):
            found.append(path)
    return found


def _sync_folder(folder: Path) -> None:
    """Make a change of names survive a loss of power, where the system can."""
    if os.name == "nt":  # folders cannot be opened there
        return
    # Some network file systems refuse; the file itself is safe by now.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
