"""Read named arrays of HDF5 and .npz files safely.

Spike files come from other people: nothing in them is executed, no other file is opened because
they refer to it, and no memory is taken only because a header asks for it.
"""

import lzma
import math
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.errors import DataError, called, nearest
from ndt_cli.memory import check_memory, in_gb

# What h5py, numpy and zipfile raise for damaged content; numpy parses a header as Python text.
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
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

# Sizes that are harmless whatever the size of the file.
_SMALL_BYTES, _FEW_CHUNKS = 2**26, 50_000
# gzip compresses a thousandfold at most; counts and rates stay far below that.
_MAX_COMPRESSION = 10_000
_CHUNK_BYTES = 8  # of a chunk's address and size in the file's index, at least
_MOST_OBJECTS = 20  # times the size of the file that texts and lists may take in memory
_OBJECT_BYTES = 64  # of an empty text or list in memory, besides the pointer to it
# Global heaps of HDF5: their mark, and how files are searched for them.
_HEAP, _LEAST_HEAP_BYTES = b"GCOL\x01", 4096
_BLOCK_BYTES, _MOST_SEARCHED = 2**22, 2**31
# Headers of objects in HDF5: kinds of messages, and how much of them is read.
_ATTRIBUTE, _CONTINUED, _MOST_HEADER_BYTES, _MOST_BLOCKS = 0x0C, 0x10, 2**20, 100
_MAX_REASON = 300  # characters of a library's error message
# What numpy.savez and savez_compressed write; other methods compress without a useful limit.
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


TRIAL_TABLE = "trial_table/"
"""Keys that begin so are columns of the table of trials; in HDF5, they lie in that group."""


# HDF5: declared sizes, links and arrays that lie in other files -----------------------------------


def check_announced(path: Path, dataset: h5py.Dataset, n_entries: int | None = None) -> None:
    """Refuse a dataset whose declared size exceeds what its file can hold, or the free memory.

    HDF5 stores the shape of an array but not the entries that were never written, so a few
    kilobytes can declare any number of gigabytes or chunks.

    ``n_entries`` of its entries are to be read at once; default: all.
    """
    shape, chunks = dataset.shape, dataset.chunks
    n_all = math.prod(shape)
    n_chunks = math.prod(-(-n // k) for n, k in zip(shape, chunks or shape, strict=True) if n)
    chunk_entries = math.prod(chunks or (0,))  # a chunk is decompressed as a whole
    entry_bytes = dataset.dtype.itemsize + _OBJECT_BYTES * dataset.dtype.hasobject
    n_bytes = max(n_all, chunk_entries) * entry_bytes
    file_bytes = dataset.file.id.get_filesize()
    name = (dataset.name or "").lstrip("/")  # a dataset reached by a reference may have no name
    what = f"{path}: `{name}`, {shape},"
    if n_bytes > max(_SMALL_BYTES, _MAX_COMPRESSION * file_bytes) or n_chunks > max(
        _FEW_CHUNKS, file_bytes // _CHUNK_BYTES
    ):
        raise DataError(
            f"{what} declares {in_gb(n_bytes)} in {n_chunks} chunks, but the file has only "
            f"{file_bytes} bytes: the array was never written",
            hint="Write the file again.",
        )
    n_read = max(n_all if n_entries is None else n_entries, chunk_entries)
    check_memory(n_read * dataset.dtype.itemsize, what)


def damaged(path: Path, why: str) -> DataError:
    """Return the error for a file that a library cannot open, by what it says."""
    if "unable to lock file" in why:
        return DataError(
            f"{path}: another program has the file open to write to it ({why})",
            hint="Close it there, or read a copy.",
        )
    return DataError(
        f"{path}: the file is damaged or incomplete ({why})", hint="Copy or write the file again."
    )


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file to read it; an error of `DAMAGE` if one of its heaps is damaged.

    Texts and lists of any length lie in heaps, and HDF5 does not return from some that are damaged
    (a program could only be killed), wherever it meets them: values, attributes, virtual datasets.
    So they are found first. Larger files than 2 GiB are not searched, which would take long.

    A heap is "GCOL", its version, three bytes, its size, then its objects, each of a number, six
    bytes, its size and its bytes, padded to 8 (HDF5 file format, III.E).
    """
    n_bytes, n_checked = path.stat().st_size, 0
    with path.open("rb") as file:
        for start in range(0, n_bytes if n_bytes <= _MOST_SEARCHED else 0, _BLOCK_BYTES):
            file.seek(start)
            block = file.read(_BLOCK_BYTES + len(_HEAP) - 1)
            at = block.find(_HEAP)
            while at >= 0:
                file.seek(start + at + 8)
                size = int.from_bytes(file.read(8), "little")
                # Other sizes are refused by HDF5 itself, or are no heap.
                if _LEAST_HEAP_BYTES <= size <= n_bytes - start - at:
                    n_checked += size
                    if n_checked > n_bytes:
                        raise ValueError("its heaps of texts and lists overlap")
                    _check_heap(file.read(size - 16))
                at = block.find(_HEAP, at + 1)
    return h5py.File(path, "r")


def _check_heap(objects: bytes) -> None:
    """Refuse the objects of a heap if one of them does not end within it."""
    at = 0
    while at + 16 <= len(objects):
        size = int.from_bytes(objects[at + 8 : at + 16], "little")
        is_free = objects[at : at + 2] == bytes(2)  # its size counts these 16 bytes, too
        at += size if is_free else 16 + -(-size // 8) * 8
        if at > len(objects) or (is_free and size < 16):
            raise ValueError("a heap of texts and lists is damaged")


def read_objects(dataset: h5py.Dataset) -> NDArray[Any]:
    """Read texts or lists of any length, which are Python objects, unless they take too much.

    Entries may share one object in the file, so their number and the size of the file say nothing
    about their sum; but none is larger than the file.
    """
    file_bytes = dataset.file.id.get_filesize()
    most_bytes = max(_SMALL_BYTES, _MOST_OBJECTS * file_bytes)
    _check_entries(dataset, file_bytes)
    n_at_once, n_bytes = max(1, most_bytes // file_bytes), 0
    values = np.empty(dataset.shape, dataset.dtype)
    if not values.ndim:
        return np.asarray(dataset[()])
    longest = int(np.argmax(values.shape))
    axes: list[Sequence[int | slice]] = [range(n) for n in values.shape]
    axes[longest] = [slice(i, i + n_at_once) for i in range(0, values.shape[longest], n_at_once)]
    for place in product(*axes):
        values[place] = part = dataset[place]
        n_bytes += sum(map(_object_bytes, part.reshape(-1).tolist()))
        if n_bytes > most_bytes:
            raise ValueError(
                f"its entries take more than {in_gb(most_bytes)}, and the file has only "
                f"{in_gb(file_bytes)}"
            )
    return values


def _check_entries(dataset: h5py.Dataset, file_bytes: int) -> None:
    """Refuse texts or lists that announce more than the file has: HDF5 takes that memory first."""
    inner, text = h5py.check_vlen_dtype(dataset.dtype), h5py.check_string_dtype(dataset.dtype)
    item_bytes = inner.itemsize if isinstance(inner, np.dtype) else 1
    if inner is None and text is None:  # references, or rows of several fields
        return
    longest = int(_stored_entries(dataset)["n_items"].max(initial=0)) * item_bytes
    if longest > file_bytes:
        raise ValueError(f"an entry announces {longest} bytes, and the file has {file_bytes}")


def _stored_entries(dataset: h5py.Dataset) -> NDArray[Any]:
    """Return entries of variable length as the file has them: lengths, and where the items lie."""
    layout = np.dtype([("n_items", "<u4"), ("heap", "<u8"), ("index", "<u4")])
    offset, n_bytes = dataset.id.get_offset(), dataset.id.get_storage_size()
    if dataset.chunks is None:
        if offset is None or n_bytes != layout.itemsize * dataset.size:  # nothing was written
            return np.zeros(0, layout)
        with Path(dataset.file.filename).open("rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(n_bytes), layout)
    # The chunks, as packed as they are, become those of a dataset of numbers in memory.
    with h5py.File("chunks", "w", driver="core", backing_store=False) as memory:
        space, how = dataset.id.get_space(), dataset.id.get_create_plist()
        how.set_fill_value(np.zeros((), layout))
        stored = h5py.h5d.create(memory.id, b"entries", h5py.h5t.py_create(layout), space, how)
        places: list[tuple[int, ...]] = []
        dataset.id.chunk_iter(lambda chunk: places.append(chunk.chunk_offset))
        for at in places:
            filters, chunk = dataset.id.read_direct_chunk(at)
            stored.write_direct_chunk(at, chunk, filters)
        return np.asarray(memory["entries"][()])


def _object_bytes(value: Any) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, tuple):  # a row of a table
        return sum(map(_object_bytes, value))
    return int(getattr(value, "nbytes", 0))


def attribute(item: h5py.Group | h5py.Dataset, name: str, default: Any = None) -> Any:
    """Return an attribute: numbers, references or text; an error of `DAMAGE` for anything else."""
    if name not in item.attrs:
        return default
    dtype = item.attrs.get_id(name).dtype
    if dtype.hasobject and h5py.check_ref_dtype(dtype) is None:
        if h5py.check_string_dtype(dtype) is None:
            raise ValueError(f"its attribute {name} holds {dtype}; expected numbers or text")
        _check_text_attribute(item, name)
    return item.attrs[name]


def _check_text_attribute(item: h5py.Group | h5py.Dataset, name: str) -> None:
    """Refuse a text that announces more than its file has, for the reason of `_check_entries`."""
    file_bytes, shift = item.file.id.get_filesize(), item.file.userblock_size
    key = name.encode() + b"\0"
    with Path(item.file.filename).open("rb") as file:
        for message in _attribute_messages(file, h5py.h5o.get_info(item.id).addr, shift):
            version, *sizes = struct.unpack_from("<BxHHH", message)  # of its name, type and shape
            start, step = (9 if version == 3 else 8), (8 if version == 1 else 1)
            entries = message[start + sum(-(-size // step) * step for size in sizes) :]
            if message[start : start + len(key)] == key:
                n_bytes = max((n for n, _, _ in struct.iter_unpack("<IQI", entries)), default=0)
                if n_bytes <= file_bytes:
                    return
    raise ValueError(f"its attribute {name} is damaged, or stored among many")


def _attribute_messages(file: IO[bytes], address: int, shift: int) -> Iterator[bytes]:
    """Yield what the header of an object has as attributes (HDF5 file format, IV.A)."""
    file.seek(address + shift)
    head = file.read(64)
    is_new = head.startswith(b"OHDR")
    if is_new:
        flags = head[5]
        start, width = 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16), 1 << (flags & 3)
        blocks = [(address + start + width, int.from_bytes(head[start : start + width], "little"))]
        message_head = 4 + 2 * bool(flags & 4)
    else:
        blocks, message_head = [(address + 16, int.from_bytes(head[8:12], "little"))], 8
    for address, n_bytes in blocks:  # which grows
        file.seek(address + shift)
        block, at = file.read(min(n_bytes, _MOST_HEADER_BYTES)), 0
        while at + message_head <= len(block):
            kind, (size,) = block[at], struct.unpack_from("<H", block, at + (1 if is_new else 2))
            at += message_head + size
            message = block[at - size : at]
            if kind == _ATTRIBUTE:
                yield message
            elif kind == _CONTINUED and len(message) >= 16 and len(blocks) < _MOST_BLOCKS:
                address, n_bytes = struct.unpack_from("<QQ", message)
                # Newer ones have a mark before their messages, and a checksum after them.
                blocks.append((address + 4, n_bytes - 8) if is_new else (address, n_bytes))


def text_array(where: str, words: Sequence[str]) -> NDArray[np.str_]:
    """Return words as an array, in which each takes the memory of the longest; bound that."""
    width, n_characters = max(map(len, words), default=1), sum(map(len, words))
    if 4 * width * len(words) > max(_SMALL_BYTES, _MOST_OBJECTS * n_characters):
        raise DataError(
            f"{where}: found {len(words)} texts, one of them of {width} characters; expected names "
            "or short notes",
            hint="Shorten it, or leave the column out.",
        )
    return np.array(words, dtype=str)


def check_text(values: Any) -> None:
    """Raise a ValueError for an array of text beyond Unicode, which cannot be written again."""
    if getattr(values, "dtype", None) is None or values.dtype.kind != "U" or not values.size:
        return
    codes = np.ascontiguousarray(values).view(f"{values.dtype.byteorder}u4")
    if codes.max() > sys.maxunicode or ((codes >= 0xD800) & (codes < 0xE000)).any():
        raise ValueError("it holds text beyond Unicode")


@dataclass(frozen=True)
class Elsewhere:
    """An HDF5 link or array whose values are in another file, which is not opened."""

    file: str
    hint = "Copy the array into this file: only the given file is read."

    @property
    def found(self) -> str:
        """What was found, for a message."""
        return f"a reference to another file, {self.file}, which is not read"


@dataclass(frozen=True)
class MatlabObject:
    """An object of MATLAB: an HDF5 dataset of numbers that point into the file, not its values."""

    class_name: str

    @property
    def found(self) -> str:
        """What was found, for a message."""
        return f"a MATLAB {self.class_name}, which is stored in a way that only MATLAB reads"

    @property
    def hint(self) -> str:
        """The next step."""
        text = "cells of text: cellstr(X)."
        table = "a struct: table2struct(X, 'ToScalar', true), with its text columns as"
        kinds = {
            "string": text,
            "categorical": text,
            "table": f"{table} cellstr(X.NAME).",
            "datetime": "numbers: posixtime(X).",
            "duration": "numbers: seconds(X).",
        }
        if self.class_name in kinds:
            return f"In MATLAB, save it as {kinds[self.class_name]}"
        return "In MATLAB, save what it holds as numbers, text, cells or a struct."


def matlab_class(item: h5py.Group | h5py.Dataset) -> str:
    """Return the class that MATLAB noted at an HDF5 item; empty if MATLAB did not write it."""
    name = attribute(item, "MATLAB_class", b"")
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def matlab_object(item: h5py.Group | h5py.Dataset) -> MatlabObject | None:
    """Return what stands for an HDF5 item that is an object of MATLAB, or a function."""
    name = matlab_class(item)
    if "MATLAB_object_decode" in item.attrs:
        return MatlabObject(name or "object")
    return MatlabObject("function handle") if name == "function_handle" else None


Item: TypeAlias = h5py.Group | h5py.Dataset | h5py.Datatype | Elsewhere | None


def own_item(group: h5py.Group, name: str, max_links: int = 16) -> Item:
    """Return an item of an HDF5 group by name or path, without opening any other file.

    `Elsewhere` stands for content of another file; None for a missing item, or a link that leads
    nowhere, in a circle, or over more than ``max_links`` links. Damage raises an error of `DAMAGE`.
    """
    item: Item = group.file["/"] if name.startswith("/") else group
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if not isinstance(item, h5py.Group):
            return item if isinstance(item, Elsewhere) else None
        link = item.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return Elsewhere(link.filename)
        if isinstance(link, h5py.SoftLink):
            item = own_item(item, link.path, max_links - 1) if max_links else None
        else:
            item = None if link is None else item[part]
    if isinstance(item, h5py.Dataset):
        files = [file for file, _, _ in item.external or ()]
        if item.is_virtual:  # assembled from parts of datasets; "." is the file itself
            files += [s.file_name for s in item.virtual_sources() if s.file_name != "."]
        return Elsewhere(str(files[0])) if files else item
    return item


def own_names(group: h5py.Group) -> list[str]:
    """Return the names in a group; one that is not UTF-8, which h5py gives as bytes, as text."""
    return [n if isinstance(n, str) else bytes(n).decode(errors="replace") for n in group]


def own_items(group: h5py.Group) -> dict[str, Item]:
    """Return the items of a group by name, each as `own_item` does."""
    return {name: own_item(group, name) for name in own_names(group)}


def refuse_elsewhere(path: Path) -> None:
    """Refuse an HDF5 file of which a part lies in another, for libraries that would open that.

    Raises
    ------
    DataError
        If there is such a part, or the file is damaged.
    """
    try:
        with open_hdf5(path) as file:
            groups, seen = [file["/"]], set()
            while groups:
                group = groups.pop()
                address = h5py.h5o.get_info(group.id).addr
                if address in seen:
                    continue
                seen.add(address)
                for name in group:
                    if isinstance(group.get(name, getlink=True), h5py.SoftLink):
                        continue  # what it leads to in this file has a link of its own
                    item = own_item(group, name)
                    if isinstance(item, h5py.Group):
                        groups.append(item)
                    elif isinstance(item, Elsewhere):
                        raise DataError(
                            f"{path}: `{group.name.rstrip('/')}/{name}`: found {item.found}; "
                            "expected its values",
                            item.hint,
                        )
    except DAMAGE as error:
        raise damaged(path, str(error)) from error


# Arrays of either format: the header shows what reading would take --------------------------------


@dataclass(frozen=True)
class _NpyArray:
    """An array in an open .npz archive."""

    path: Path
    archive: zipfile.ZipFile
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_rows: bool  # False: in Fortran order, where every row is spread over the whole array

    @classmethod
    def open(
        cls, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
    ) -> "_NpyArray | None":
        """Read the header of a member; None if it is no array; an error of `DAMAGE` if damaged."""
        if info.compress_type not in _ZIP_METHODS:
            raise ValueError("it is compressed in a way that numpy does not write")
        with archive.open(info) as stream:
            if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                return None
        with archive.open(info) as stream:
            shape, fortran_order, dtype = _read_header(stream)
            stored_bytes = info.file_size - stream.tell()
        if not all(type(n) is int and 0 <= n <= sys.maxsize for n in shape):
            raise ValueError(f"it declares the shape {shape}")
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes > stored_bytes and not dtype.hasobject:
            raise ValueError(f"it declares {n_bytes} bytes, but has {stored_bytes}")
        return cls(path, archive, info.filename, shape, dtype, not fortran_order)

    def check(self, n_rows: int | None = None) -> None:
        """Refuse Python objects, and rows (default: all) that the free memory cannot hold."""
        key = self.name.removesuffix(".npy")
        if self.dtype.hasobject:
            raise DataError(
                f"{self.path}: `{key}`: found Python objects, which could run code; expected "
                "numbers or text",
                "Save all times in one array and the unit of each in another, or MATLAB cells.",
            )
        shape = self.shape if n_rows is None or not self.by_rows else (n_rows, *self.shape[1:])
        n_bytes = math.prod(shape) * self.dtype.itemsize
        check_memory(n_bytes, f"{self.path}: `{key}`, {self.shape},")

    def read(self) -> NDArray[Any]:
        with self.archive.open(self.name) as stream:
            values = np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
        check_text(values)
        return values

    def blocks(self, n_rows: int) -> Iterator[NDArray[Any]]:
        if not self.by_rows:
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
            stream.read(1)  # zipfile compares the checksum at the end


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    # Version 3 differs from 2 only in the characters that names of columns may have.
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of version {'.'.join(map(str, version))} of the .npy format")
    read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, fortran_order, dtype = read(stream)
    return tuple(shape), bool(fortran_order), dtype


@dataclass(frozen=True)
class _H5Array:
    """A dataset of an open HDF5 file; one that MATLAB wrote has its axes reversed there."""

    path: Path
    dataset: h5py.Dataset
    dtype: np.dtype[Any]
    is_turned: bool

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.dataset.shape)
        return shape[::-1] if self.is_turned else shape

    def check(self, n_rows: int | None = None) -> None:
        """Refuse what was never written, and rows (default: all) that free memory cannot hold."""
        n_entries = None if n_rows is None else n_rows * math.prod(self.shape[1:])
        check_announced(self.path, self.dataset, n_entries)

    def read(self) -> NDArray[Any]:
        values = read_objects(self.dataset) if self.dtype.hasobject else self.dataset[()]
        return np.asarray(values.T if self.is_turned else values)

    def blocks(self, n_rows: int) -> Iterator[NDArray[Any]]:
        for start in range(0, self.shape[0], n_rows):
            rows = slice(start, start + n_rows)
            yield self.dataset[..., rows].T if self.is_turned else self.dataset[rows]


class ArrayFile:
    """An open HDF5 or .npz file of named arrays; the content decides which, not the ending.

    Arrays are read on request; their shapes and types come from their headers. Groups and other
    content are listed by name only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.groups: tuple[str, ...] = ()
        self._file: h5py.File | zipfile.ZipFile | None = None
        # By key; a text is the reason why an array cannot be read.
        self._arrays: dict[str, _NpyArray | _H5Array | Elsewhere | MatlabObject | str] = {}
        _check_exists(path)
        try:
            if h5py.is_hdf5(path):
                self._file = open_hdf5(path)
                self._list_hdf5(self._file)
            elif zipfile.is_zipfile(path):
                self._file = zipfile.ZipFile(path)
                self._list_npz(self._file)
            else:
                raise self._unknown_content()
        except PermissionError as error:
            self.close()
            raise DataError(f"{path}: no permission to read it ({error.strerror})") from error
        except DAMAGE as error:
            self.close()
            raise self._damaged(str(error)) from error
        self.keys = tuple(self._arrays)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def shape(self, key: str) -> tuple[int, ...]:
        return self._array(key).shape

    def dtype(self, key: str) -> np.dtype[Any]:
        return self._array(key).dtype

    def read(self, key: str) -> NDArray[Any]:
        """Return a whole array."""
        array = self._array(key)
        array.check()
        try:
            return array.read()
        except DAMAGE as error:
            raise self._unreadable(key, error) from error

    def blocks(self, key: str, n_rows: int) -> Iterator[NDArray[Any]]:
        """Yield an array this many rows at a time, with the errors of `read`; maybe read-only."""
        array = self._array(key)
        array.check(min(n_rows, array.shape[0]))
        try:
            yield from array.blocks(n_rows)
        except DAMAGE as error:
            raise self._unreadable(key, error) from error

    def wrong(self, key: str, found: str, expected: str, hint: str | None = None) -> DataError:
        """Return the error for an array that is not what was expected."""
        return DataError(f"{self.path}: `{key}`: found {found}; expected {expected}", hint=hint)

    def missing(self, key: str, known_keys: Iterable[str] = ()) -> DataError:
        """Return the error for a missing array, with the nearest existing name.

        Names among ``known_keys`` have a meaning of their own and are not suggested.
        """
        known = frozenset(known_keys)
        like = nearest(key, [k for k in self.keys if k not in known])
        return DataError(
            f"{self.path}: `{key}`: found no such key; the file has {self.names}",
            hint=f"Rename `{like}` if it holds that array." if like else None,
        )

    @property
    def names(self) -> str:
        """Keys of the file, for a message."""
        shown = [f"`{key}`" for key in self.keys[:12]] + [f"group `{g}/`" for g in self.groups[:4]]
        more = len(self.keys) + len(self.groups) - len(shown)
        return (", ".join(shown) or "no arrays") + (f" and {more} more" if more else "")

    def _list_hdf5(self, file: h5py.File) -> None:
        names, table, groups = own_names(file), TRIAL_TABLE.rstrip("/"), []
        if table in names:
            item = own_item(file, table)
            if isinstance(item, h5py.Group):
                names.remove(table)
                names += [TRIAL_TABLE + name for name in own_names(item)]
        for key in names:
            try:
                item = own_item(file, key)
            except DAMAGE:
                item = None
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                self._arrays[key] = matlab_object(item) or self._h5_array(item)
            elif isinstance(item, Elsewhere):
                self._arrays[key] = item
            else:
                groups.append(key)
        self.groups = tuple(groups)

    def _h5_array(self, dataset: h5py.Dataset) -> _H5Array | str:
        try:
            dtype = dataset.dtype
        except DAMAGE as error:  # HDF5 has types that numpy lacks
            return str(error)
        is_turned = dataset.ndim > 1 and bool(matlab_class(dataset))
        return _H5Array(self.path, dataset, dtype, is_turned)

    def _list_npz(self, archive: zipfile.ZipFile) -> None:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            try:
                member = _NpyArray.open(self.path, archive, info)
            except DAMAGE as error:
                self._arrays[key] = str(error)
            else:
                if member is not None:
                    self._arrays[key] = member

    def _array(self, key: str) -> _NpyArray | _H5Array:
        if key not in self._arrays:
            raise self.missing(key)
        array = self._arrays[key]
        if isinstance(array, str):
            raise self._unreadable(key, array)
        if isinstance(array, Elsewhere | MatlabObject):
            raise self.wrong(key, array.found, "the array itself", array.hint)
        if h5py.check_ref_dtype(array.dtype) is not None:
            hint = f"Conversion reads cells: {called('list_contents', self.path)}"
            raise self.wrong(key, "cells of MATLAB, or other references", "numbers or text", hint)
        return array

    def _unreadable(self, key: str, why: object) -> DataError:
        return self._damaged(f"`{key}` cannot be read: {why}")

    def _damaged(self, why: str) -> DataError:
        return damaged(self.path, why if len(why) <= _MAX_REASON else why[:_MAX_REASON] + "...")

    def _unknown_content(self) -> DataError:
        with self.path.open("rb") as file:
            head = file.read(64)
        if not head:
            return DataError(f"{self.path}: the file is empty", "Copy or write the file again.")
        if head.startswith(b"PK"):
            return self._damaged("an .npz file without its end")
        found = "neither HDF5 nor .npz content"
        hint = f"Convert it: {called('list_contents', self.path)} shows what is in it, and how."
        if head.startswith(np.lib.format.MAGIC_PREFIX):
            found = "one array without a name (.npy); expected HDF5 or .npz"
            hint = "Save it with its bin width: numpy.savez(FILE, spikes=..., bin_ms=...)."
        elif head.startswith(b"version https://git-lfs"):
            found = "a Git LFS pointer instead of the data"
            hint = "Run git lfs pull in the repository that the file comes from."
        elif head.startswith(b"MATLAB 5.0"):
            found = "a MATLAB file before version 7.3; expected HDF5 or .npz"
        elif self.path.suffix.lower() not in (".csv", ".tsv", ".txt", ".mat"):
            hint = "Save `spikes` (trials x bins x neurons) and `bin_ms` with numpy.savez."
        return DataError(f"{self.path}: found {found}", hint)


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    if path.exists():
        what = "a folder" if path.is_dir() else "a device or pipe"
        hint = f"Of Kilosort or phy: {called('list_contents', path)}" if path.is_dir() else None
        raise DataError(f"{path}: found {what}; expected a spike file", hint)
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    like = nearest(path.name, names)
    raise DataError(
        f"{path}: there is no such file", hint=f"Did you mean {folder / like}?" if like else None
    )
