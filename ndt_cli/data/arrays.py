"""Named arrays in a file, HDF5 or .npz, told apart by content: such files often have no ending."""

import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.data.announced import check_announced
from ndt_cli.data.npy_member import NpyMember
from ndt_cli.data.own_items import Elsewhere, own_item
from ndt_cli.errors import DataError, nearest
from ndt_cli.memory import check_memory

# What h5py, numpy and zipfile raise over damaged content; numpy reads a header as Python text.
DAMAGE = (
    EOFError,
    KeyError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

_LONG_REASON = 300

_Stored: TypeAlias = NpyMember | h5py.Dataset


class ArrayFile:
    """An open file of named arrays.

    Arrays are read when asked for; shape and type come from their headers. Groups and other
    things that are no arrays are passed over.

    Parameters
    ----------
    path : Path
        File to open.

    Raises
    ------
    DataError
        If the file is not there, is damaged, or is neither HDF5 nor .npz.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: h5py.File | zipfile.ZipFile | None = None
        # By key; what is damaged stands there with the reason.
        self._arrays: dict[str, _Stored | Elsewhere | str] = {}
        self._unpacked: tuple[str | None, NDArray[Any]] = None, np.empty(0)
        self.groups: tuple[str, ...] = ()
        _check_exists(path)
        try:
            if h5py.is_hdf5(path):
                self._file = h5py.File(path, "r")
                self._list_hdf5(self._file)
            elif zipfile.is_zipfile(path):
                self._file = zipfile.ZipFile(path)
                self._list_npz(self._file)
            else:
                raise self._unknown_content()
        except PermissionError as error:
            self.close()
            raise DataError(f"{path}: it may not be read ({error.strerror})") from error
        except DAMAGE as error:
            self.close()
            raise self._damaged(str(error)) from error
        self.keys = tuple(self._arrays)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._array(key).shape)

    def dtype(self, key: str) -> np.dtype:
        array = self._array(key)
        try:
            return array.dtype
        except DAMAGE as error:  # HDF5 has types that numpy has not
            raise self._unreadable(key, error) from error

    def read(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return rows ``start:stop`` of an array, all by default.

        Raises
        ------
        DataError
            If there is none of that name, it is damaged or holds Python objects, or there is not
            the memory for it.
        """
        shape = self.shape(key)
        rows = slice(start, stop)
        n_rows = len(range(*rows.indices(shape[0]))) if shape else 1
        array = self._checked(key, n_rows * math.prod(shape[1:]))
        try:
            if not isinstance(array, NpyMember):
                return np.asarray(array[rows] if shape else array[()])
            if self._unpacked[0] != key:
                whole = array.read()
                if (start, stop) == (0, None):
                    return whole
                self._unpacked = key, whole  # rows are asked for piece by piece
            return self._unpacked[1][rows]
        except DAMAGE as error:
            raise self._unreadable(key, error) from error

    def blocks(self, key: str, n_rows: int) -> Iterator[NDArray[Any]]:
        """Read an array so many rows at a time; errors are those of `read`.

        What is given may be read-only.
        """
        shape = self.shape(key)
        array = self._checked(key, min(n_rows, shape[0]) * math.prod(shape[1:]))
        try:
            if isinstance(array, NpyMember):
                yield from array.blocks(n_rows)
            else:
                for start in range(0, shape[0], n_rows):
                    yield np.asarray(array[start : start + n_rows])
        except DAMAGE as error:
            raise self._unreadable(key, error) from error

    def wrong(self, key: str, found: str, expected: str, hint: str | None = None) -> DataError:
        """Return the error for an array that is not as it should be."""
        return DataError(f"{self.path}: `{key}`: found {found}; expected {expected}", hint=hint)

    def missing(self, key: str, known_keys: Iterable[str] = ()) -> DataError:
        """Return the error for an array that is not there, with the nearest name that is.

        ``known_keys`` are never proposed: what they hold is known.
        """
        known = frozenset(known_keys)
        like = nearest(key, [k for k in self.keys if k not in known])
        return DataError(
            f"{self.path}: `{key}`: found no such key; the file has {self.names}",
            hint=f"Rename `{like}` if that is what it holds." if like else None,
        )

    @property
    def names(self) -> str:
        """Keys of the file, for a message."""
        shown = [f"`{key}`" for key in self.keys[:12]] + [f"group `{g}/`" for g in self.groups[:4]]
        more = len(self.keys) + len(self.groups) - len(shown)
        return (", ".join(shown) or "no arrays") + (f" and {more} more" if more else "")

    def _list_hdf5(self, file: h5py.File) -> None:
        groups = []
        for key in file:
            try:
                item = own_item(file, key)
            except DAMAGE:
                item = None
            if isinstance(item, Elsewhere) or (
                isinstance(item, h5py.Dataset) and item.shape is not None
            ):
                self._arrays[key] = item
            else:
                groups.append(key)
        self.groups = tuple(groups)

    def _list_npz(self, archive: zipfile.ZipFile) -> None:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            try:
                member = NpyMember.open(archive, info)
            except DAMAGE as error:
                self._arrays[key] = str(error)
            else:
                if member is not None:
                    self._arrays[key] = member

    def _array(self, key: str) -> _Stored:
        if key not in self._arrays:
            raise self.missing(key)
        array = self._arrays[key]
        if isinstance(array, str):
            raise self._unreadable(key, array)
        if isinstance(array, Elsewhere):
            raise self.wrong(key, array.found, "the array itself", array.hint)
        return array

    def _checked(self, key: str, n_entries: int) -> _Stored:
        """Return an array of which so many entries may be read at once."""
        array, dtype = self._array(key), self.dtype(key)
        if isinstance(array, NpyMember):
            if dtype.hasobject:
                raise self.wrong(key, "Python objects, which could run code", "numbers or text")
            if not array.by_rows:
                n_entries = math.prod(array.shape)
            check_memory(n_entries * dtype.itemsize, f"{self.path}: `{key}`, {array.shape},")
        else:
            check_announced(self.path, array, n_entries)
        return array

    def _unreadable(self, key: str, why: object) -> DataError:
        return self._damaged(f"`{key}` cannot be read: {why}")

    def _damaged(self, why: str) -> DataError:
        if len(why) > _LONG_REASON:  # some quote what they found, whole
            why = why[:_LONG_REASON] + "..."
        return DataError(
            f"{self.path}: the file is damaged or was not written to its end ({why})",
            hint="Copy or write the file again.",
        )

    def _unknown_content(self) -> DataError:
        with self.path.open("rb") as file:
            head = file.read(64)
        if not head:
            return DataError(f"{self.path}: the file is empty", "Copy or write the file again.")
        if head.startswith(b"PK"):
            return self._damaged("an .npz file without its end")
        if head.startswith(np.lib.format.MAGIC_PREFIX):
            return DataError(
                f"{self.path}: found one array without a name (.npy); expected HDF5 or .npz",
                hint="Save it with its bin width: numpy.savez(FILE, spikes=..., bin_ms=...).",
            )
        if head.startswith(b"version https://git-lfs"):
            return DataError(
                f"{self.path}: found a Git LFS pointer, not the data it stands for",
                hint="Run `git lfs pull` where the file came from.",
            )
        if head.startswith(b"MATLAB 5.0"):
            return DataError(
                f"{self.path}: found a MATLAB file before version 7.3; expected HDF5 or .npz",
                hint="Read it with scipy.io.loadmat; save `spikes` and `bin_ms` with numpy.savez.",
            )
        return DataError(
            f"{self.path}: found neither HDF5 nor .npz content",
            hint="Save `spikes` (trials x bins x neurons) and `bin_ms` with numpy.savez.",
        )


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path}: found a folder; expected a spike file")
    if path.is_file():
        return
    if path.exists():
        raise DataError(f"{path}: found a device or pipe; expected a spike file")
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    like = nearest(path.name, names)
    raise DataError(
        f"{path}: there is no such file",
        hint=f"Did you mean {folder / like}?" if like else None,
    )
