"""The refusal of HDF5 arrays that no file of that size can hold, before anything of them is read.

HDF5 keeps the shape of an array, not the entries that nobody wrote: a few kilobytes can announce
a million blocks, or as many gigabytes as there are.
"""

import math
from pathlib import Path

import h5py

from ndt_cli.errors import DataError
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
