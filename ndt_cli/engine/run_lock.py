"""One process at a time trains in a run folder.

::

    run.lock        locked by the operating system for as long as the process lives
    running.json    who holds it: process, machine, since when

The lock dies with its process, however that ends, so none is ever left to be removed by hand.
Between machines it holds where the file system passes locks on: NFSv4 does, NFSv3 with its lock
service. Reading a run takes no lock.
"""

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from ndt_cli.atomic import write_text_atomic
from ndt_cli.engine.run_folder import HOLDER_FILE, LOCK_FILE
from ndt_cli.errors import RunError, RunWarning

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def hold_run(path: Path) -> Iterator[None]:
    """Keep every other process from training in a run folder while the block runs.

    Parameters
    ----------
    path : Path
        The folder, which is there.

    Raises
    ------
    RunError
        When another process holds it (the message says which), or it cannot be written.

    Warns
    -----
    RunWarning
        When the file system has no locks, so that nothing keeps a second process out.
    """
    lock = FileLock(path / LOCK_FILE)
    try:
        _acquire(lock, path)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_text_atomic(path / HOLDER_FILE, json.dumps(holder) + "\n")
    except OSError as error:
        lock.release()
        raise RunError(
            f"{path}: the run folder cannot be written ({error.strerror})",
            "check its disk and who may write there; ndt evaluate only reads",
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # one that stays is not believed without the lock
            (path / HOLDER_FILE).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, path: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{path}: {_holder(path)} trains in this run folder already",
            "wait until it is done, or press Ctrl-C there: it saves and stops",
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path}: its file system has no locks; take care that no other process trains here",
            RunWarning,
            stacklevel=3,
        )


def _holder(path: Path) -> str:
    try:
        holder = json.loads((path / HOLDER_FILE).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, TypeError, KeyError):  # it is being written, or just gone
        return "another process"
