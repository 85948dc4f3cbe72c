"""One array of an .npz file: its header first, then its rows as they are unpacked.

Reading the header alone costs nothing, and tells what the rest would cost.
"""

import math
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

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
