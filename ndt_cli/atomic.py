"""Write files in one piece, and replace an existing one only when asked to."""

import _thread
import errno
import io
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, cast

from ndt_cli.errors import ExistingFileError, NdtError, SettingsError

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

_HOUR_S = 3_600.0  # no writer lets its temporary file lie that long

_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.part(?P<suffix>\.[^.]*|)")


def write_atomic(path: Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Let ``write`` make a temporary file beside ``path``, then move it into place.

    A reader finds the old file or the new one, never a part. The data reach the disk before the
    name changes, and the new name does before this returns. A failure leaves the old file and no
    temporary one; a kill may leave a temporary one, which the next writer of the file removes an
    hour later, and `leftovers` knows by its name.

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
    # Not the whole of a long name: file systems allow 255 bytes.
    temporary = path.with_name(f".{path.stem[:50]}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _move_to_free_name(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # for the message
        # Report why the writing failed, not that its temporary file cannot be removed.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    for left in leftovers(path.parent, (path.name,)):
        with suppress(OSError):  # another writer may remove it too
            if time.time() - left.stat().st_mtime > _HOUR_S:
                left.unlink()


class _SteadyFile(io.RawIOBase):
    """A file that keeps its first error for later, and takes whatever is written after it.

    HDF5 crashes, and zipfile hides the reason, when a write fails, as on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x+b", buffering=0)
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        n_read = self._file.readinto(buffer) or 0
        if self.error is not None:  # what could not be written
            memoryview(buffer)[n_read:] = bytes(len(buffer) - n_read)
            return len(buffer)
        return n_read

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        n_bytes = len(left)
        try:
            while left and self.error is None:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            self.error = error
        self._file.seek(len(left), os.SEEK_CUR)
        return n_bytes

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.error is None:
                return self._file.truncate(size)
        except OSError as error:
            self.error = error
        return self.tell() if size is None else size

    def close(self) -> None:
        self._file.close()
        super().close()


# HDF5 calls these, and drops what they raise.
_CALLED = {
    method.__code__
    for method in (_SteadyFile.seek, _SteadyFile.readinto, _SteadyFile.write, _SteadyFile.truncate)
}


@contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Put off a signal that comes while HDF5 calls the file until it does not."""

    def put_off(number: int, frame: FrameType | None) -> None:
        inner = frame
        while inner is not None and inner.f_code not in _CALLED:
            inner = inner.f_back
        if inner is None:
            before[number](number, frame)
        else:
            threading.Timer(0.05, _thread.interrupt_main, [number]).start()

    here = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM) if here}
    before: dict[int, Any] = {n: handler for n, handler in handlers.items() if callable(handler)}
    try:
        for number in before:
            signal.signal(number, put_off)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_stream_atomic(
    path: Path, write: Callable[[BinaryIO], object], *, overwrite: bool
) -> None:
    """Let ``write`` fill an open file, for libraries that do not survive a full disk.

    As `write_atomic`, but the first error in writing is raised after ``write`` has returned.
    """

    def fill(temporary: Path) -> None:
        with _SteadyFile(temporary) as file, _interrupts_put_off():
            try:
                write(cast(BinaryIO, file))
            finally:
                if file.error is not None:
                    raise file.error

    write_atomic(path, fill, overwrite=overwrite)


def write_text_atomic(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a text file, UTF-8, in one piece; see `write_atomic`."""
    write_atomic(
        path,
        lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"),
        overwrite=overwrite,
    )


def check_name(path: Path) -> None:
    """Refuse a path that is no UTF-8 text: settings and reports could not name it."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise NdtError(f"{path}: its name is not UTF-8 text", "Choose another name.") from error


def check_may_write(path: Path, overwrite: bool) -> None:
    """Check, before a long computation, that its result can be written to ``path``.

    Raises
    ------
    ExistingFileError
        If ``path`` exists and may not be replaced.
    NdtError
        If ``path`` is a folder, or one of its parents is a file or may not be written to.
    """
    check_name(path)
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


def remove_leftovers(folder: Path, names: Container[str] | None = None) -> None:
    """Remove what `leftovers` finds; only for the one process that writes there."""
    for path in leftovers(folder, names):
        path.unlink(missing_ok=True)


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
