"""Named arrays in a file, HDF5 or .npz, told apart by content: such files often have no ending."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError, nearest

# What h5py, numpy and zipfile raise over damaged content; numpy reads a header as Python text.
_DAMAGE = (
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class ArrayFile:
    """An open file of named arrays.

    Arrays of an HDF5 file are read when asked for, those of an .npz file when first touched.
    Groups and other things in an HDF5 file are no arrays and are passed over.

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
        self._h5: h5py.File | None = None
        self._npz: np.lib.npyio.NpzFile | None = None
        self._read: dict[str, NDArray[Any]] = {}
        _check_exists(path)
        try:
            if h5py.is_hdf5(path):
                self._h5 = h5py.File(path, "r")
                # get() gives None for a link that leads nowhere.
                is_array = {k: _is_array(self._h5.get(k)) for k in self._h5}
                self.keys = tuple(k for k, yes in is_array.items() if yes)
                self.groups = tuple(k for k, yes in is_array.items() if not yes)
            elif zipfile.is_zipfile(path):
                self._npz = np.load(path, allow_pickle=False)
                self.keys = tuple(self._npz.files)
                self.groups = ()
            else:
                raise self._unknown_content()
        except _DAMAGE as error:
            self.close()
            raise self._damaged(str(error)) from error

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
        for handle in (self._h5, self._npz):
            if handle is not None:
                handle.close()
        self._read.clear()

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of an array; an .npz file has to read it for that."""
        return tuple(self._array(key).shape)

    def dtype(self, key: str) -> np.dtype:
        return self._array(key).dtype

    def read(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return rows ``start:stop`` of an array, all by default."""
        array = self._array(key)
        try:
            return np.asarray(array[()] if array.ndim == 0 else array[start:stop])
        except _DAMAGE as error:
            raise self._damaged(f"`{key}` cannot be read: {error}") from error

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

    def _array(self, key: str) -> NDArray[Any]:
        if key not in self.keys:
            raise self.missing(key)
        if self._h5 is not None:
            dataset: NDArray[Any] = self._h5[key]  # an h5py.Dataset, which slices like an array
            return dataset
        assert self._npz is not None
        if key not in self._read:
            try:
                self._read[key] = self._npz[key]
            except _DAMAGE as error:
                raise self._damaged(f"`{key}` cannot be read: {error}") from error
        return self._read[key]

    def _damaged(self, why: str) -> DataError:
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


def _is_array(item: object) -> bool:
    return isinstance(item, h5py.Dataset) and item.shape is not None


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path}: found a folder; expected a spike file")
    if path.is_file():
        return
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    like = nearest(path.name, names)
    raise DataError(
        f"{path}: there is no such file",
        hint=f"Did you mean {folder / like}?" if like else None,
    )
