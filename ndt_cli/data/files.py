"""The refusal of HDF5 arrays that no file of that size can hold, before anything of them is read.

HDF5 keeps the shape of an array, not the entries that nobody wrote: a few kilobytes can announce
a million blocks, or as many gigabytes as there are.
"""

import lzma
import math
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError, nearest
from ndt_cli.memory import check_memory, in_gb

# Below these, whatever the file says costs little.
_FEW_BYTES, _FEW_CHUNKS = 2**26, 50_000
# gzip packs a thousandfold at most. What packs better does not reach this with counts or rates.
_MOST_PACKED = 10_000
# Address and size of a chunk in the file's index, at least.
_CHUNK_BYTES = 8
# An empty text or list in memory, beyond the pointer to it.
_OBJECT_BYTES = 64


def check_announced(path: Path, dataset: h5py.Dataset, n_entries: int | None = None) -> None:
    """Refuse a dataset that is far larger than its file, or than the memory there is.

    Parameters
    ----------
    path : Path
        The file, for the message.
    dataset : h5py.Dataset
        What will be read.
    n_entries : int, optional
        How many of its entries are read at once. Default: all.

    Raises
    ------
    DataError
        If it is.
    """
    shape, chunks = dataset.shape, dataset.chunks
    entry_bytes = dataset.dtype.itemsize + _OBJECT_BYTES * dataset.dtype.hasobject
    n_all = math.prod(shape)
    n_chunks = math.prod(-(-n // k) for n, k in zip(shape, chunks or shape, strict=True) if n)
    chunk_entries = math.prod(chunks or (0,))  # a piece is unpacked whole
    n_bytes = max(n_all, chunk_entries) * entry_bytes
    n_file = dataset.file.id.get_filesize()
    name = (dataset.name or "").lstrip("/")  # none where a reference alone leads to it
    what = f"{path}: `{name}`, {shape},"
    if (n_bytes > max(_FEW_BYTES, _MOST_PACKED * n_file)) or (
        n_chunks > max(_FEW_CHUNKS, n_file // _CHUNK_BYTES)
    ):
        raise DataError(
            f"{what} announces {in_gb(n_bytes)} in {n_chunks} pieces, and the whole file has "
            f"{n_file} bytes; expected what is announced to be there",
            hint="Was the array ever filled? Write the file again.",
        )
    n_read = max(n_all if n_entries is None else n_entries, chunk_entries)
    check_memory(n_read * dataset.dtype.itemsize, what)


# ------------------------------------------------------------------------------------------------
# What an HDF5 file holds itself: its links can lead, and its arrays lie, in other files.
#
# A file from somebody else must not choose which files of this machine are read, so nothing outside
# of it is opened, not even to see what is there.
# ------------------------------------------------------------------------------------------------


# More links that lead to links than anybody makes on purpose.
_MOST_LINKS = 16


@dataclass(frozen=True)
class Elsewhere:
    """Something whose content lies in another file.

    Attributes
    ----------
    file : str
        Name of that file, as the link or the array says it.
    """

    file: str

    @property
    def found(self) -> str:
        """What was found, for a message."""
        return f"a reference to another file, {self.file}, which is not read"

    @property
    def hint(self) -> str:
        """What to do about it."""
        return "Only the file that is given is read: copy the array into it."


Item: TypeAlias = h5py.Group | h5py.Dataset | h5py.Datatype | Elsewhere | None


def own_item(group: h5py.Group, name: str) -> Item:
    """Return what a name in a group stands for.

    Parameters
    ----------
    group : h5py.Group
        A group, or the open file.
    name : str
        A name in it, or a path.

    Returns
    -------
    Group, Dataset, Datatype, Elsewhere or None
        ``Elsewhere`` for what lies in another file; None for a link that leads nowhere or in a
        circle.

    Raises
    ------
    OSError, RuntimeError, KeyError
        Where the file is damaged.
    """
    return _followed(group, name, _MOST_LINKS)


def own_items(group: h5py.Group) -> dict[str, Item]:
    """Return everything right below a group, by name, as `own_item` does."""
    return {name: own_item(group, name) for name in group}


def _followed(group: h5py.Group, path: str, n_links: int) -> Item:
    item: Item = group.file["/"] if path.startswith("/") else group
    for name in path.split("/"):
        if name in ("", "."):
            continue
        if not isinstance(item, h5py.Group):
            return item if isinstance(item, Elsewhere) else None
        link = item.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return Elsewhere(link.filename)
        if isinstance(link, h5py.SoftLink):
            item = _followed(item, link.path, n_links - 1) if n_links else None
        else:
            item = None if link is None else item[name]
    return _stored_elsewhere(item) or item if isinstance(item, h5py.Dataset) else item


def _stored_elsewhere(dataset: h5py.Dataset) -> Elsewhere | None:
    """Tell where the values of a dataset lie, None where they are in its own file."""
    names = [name for name, _, _ in dataset.external or ()]
    if dataset.is_virtual:  # put together of parts of datasets; "." is its own file
        names += [s.file_name for s in dataset.virtual_sources() if s.file_name != "."]
    return Elsewhere(str(names[0])) if names else None


# ------------------------------------------------------------------------------------------------
# One array of an .npz file: its header first, then its rows as they are unpacked.
#
# Reading the header alone costs nothing, and tells what the rest would cost.
# ------------------------------------------------------------------------------------------------


# What numpy.savez and savez_compressed write; others can unpack to far more than their size.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class NpyMember:
    """An array in an .npz archive.

    Attributes
    ----------
    archive : ZipFile
        The open archive.
    name : str
        Name of the member.
    shape : tuple of int
    dtype : numpy.dtype
    by_rows : bool
        Whether the first axis is the slowest one, so that rows can be read one after another.
    """

    archive: zipfile.ZipFile
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_rows: bool

    @classmethod
    def open(cls, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> "NpyMember | None":
        """Read the header of a member; None where it is no array.

        Raises
        ------
        ValueError
            When the header is damaged, or announces more than the archive holds.
        """
        if info.compress_type not in _METHODS:
            raise ValueError("it is packed in a way that numpy does not write")
        with archive.open(info) as stream:
            if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                return None
        with archive.open(info) as stream:
            shape, fortran_order, dtype = _read_header(stream)
            n_there = info.file_size - stream.tell()
        if not all(type(n) is int and 0 <= n <= sys.maxsize for n in shape):
            raise ValueError(f"it announces the shape {shape}")
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes > n_there and not dtype.hasobject:
            raise ValueError(f"it announces {n_bytes} bytes, and {n_there} are there")
        return cls(archive, info.filename, shape, dtype, not fortran_order)

    def read(self) -> NDArray[Any]:
        """Read the whole array; Python objects are never loaded."""
        with self.archive.open(self.name) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    def blocks(self, n_rows: int) -> Iterator[NDArray[Any]]:
        """Read so many rows at a time."""
        if not self.by_rows:  # every row is spread over the whole of it
            whole = self.read()
            yield from (whole[i : i + n_rows] for i in range(0, self.shape[0], n_rows))
            return
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with self.archive.open(self.name) as stream:
            _read_header(stream)
            for start in range(0, self.shape[0], n_rows):
                n = min(n_rows, self.shape[0] - start)
                content = stream.read(n * row_bytes)
                yield np.frombuffer(content, self.dtype).reshape(n, *self.shape[1:])
            stream.read(1)  # at its end the checksum is compared


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    # The third version differs from the second in the letters that names of columns may have.
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"it is of version {'.'.join(map(str, version))} of the .npy format")
    shape, fortran_order, dtype = readers[version](stream)
    return tuple(shape), bool(fortran_order), dtype


# ------------------------------------------------------------------------------------------------
# Named arrays in a file, HDF5 or .npz, told apart by content: such files often have no ending.
# ------------------------------------------------------------------------------------------------


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
