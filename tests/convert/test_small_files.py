"""A small file takes little memory, whatever it says; measured in a process of its own."""

import json
import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the memory of a process is measured in units of Linux"
)

MEASURE = """
import resource, sys, json
from pathlib import Path
from ndt_cli.convert import list_contents
from ndt_cli.convert.reading import open_file
from ndt_cli.errors import NdtError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before, found = peak(), []
for path in sys.argv[1:]:
    try:
        list_contents(path)
        with open_file(Path(path)) as contents:
            for item in list(contents.items.values()):
                item.read()
        found.append("")
    except NdtError as error:
        found.append(error.message)
print(json.dumps([peak() - before, found]))
"""


def _text_of_one_object(path):
    """A million texts that are all the same 4 MB in the file."""
    n_texts = 1_000_000
    with h5py.File(path, "w") as file:
        names = file.create_dataset("names", (n_texts,), h5py.string_dtype(), chunks=(n_texts,))
        names[0] = "x" * 4_000_000
        file.flush()
        where, at = names.id.get_chunk_info(0).byte_offset, 16
    content = bytearray(path.read_bytes())
    content[where : where + at * n_texts] = content[where : where + at] * n_texts
    path.write_bytes(content)


def _announced_text(path, **layout):
    """Three texts, of which the second is said to be 3 GB long."""
    with h5py.File(path, "w") as file:
        names = file.create_dataset("names", (3,), h5py.string_dtype(), **layout)
        names[...] = ["a", "b", "c"]
    content = bytearray(path.read_bytes())
    where = content.index((1).to_bytes(4, "little") + content.index(b"GCOL").to_bytes(8, "little"))
    content[where + 16 : where + 20] = (3_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)


def _announced_text_in_chunks(path):
    _announced_text(path, chunks=(3,))


def _announced_attribute(path):
    """A time series with a unit that is said to be 4 GB long."""
    _series_with_unit(path)
    content = bytearray(path.read_bytes())
    where = content.index((1).to_bytes(4, "little") + content.index(b"GCOL").to_bytes(8, "little"))
    content[where : where + 4] = b"\xff" * 4
    path.write_bytes(content)


def _series_with_unit(path):
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = np.bytes_("2.7.0")
        file["processing/hand/data"] = np.zeros(3)
        file["processing/hand/data"].attrs["unit"] = "m"
        file["processing/hand/timestamps"] = np.arange(3.0)


def _damaged_heap(path, free=False):
    """A heap with an object, or free space, whose size leads back to it: HDF5 never returns."""
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    size_at = heap + 24
    while free and any(content[size_at - 8 : size_at - 6]):
        size_at += 16 + -(-content[size_at] // 8) * 8
    size = 0 if free else 2**64 - 16
    content[size_at : size_at + 8] = size.to_bytes(8, "little")
    path.write_bytes(content)


def _heap_of_texts(path):
    with h5py.File(path, "w") as file:
        file["names"] = ["a", "b", "c"]
    _damaged_heap(path)


def _heap_of_texts_in_chunks(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("names", data=["a", "b", "c"], chunks=(2,), dtype=h5py.string_dtype())
    _damaged_heap(path, free=True)


def _heap_of_an_attribute(path):
    _series_with_unit(path)
    _damaged_heap(path, free=True)


def _heap_of_a_virtual_dataset(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3.0)
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(".", "x", (3,))
        file.create_virtual_dataset("virtual", layout)
    _damaged_heap(path, free=True)


def _cells_of_one_text(path):
    with h5py.File(path, "w") as file:
        text = file.create_dataset("#refs#/a", data=np.full((500_000, 1), 120, np.uint16))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        cells = file.create_dataset("names", (1, 20_000), h5py.ref_dtype)
        cells[...] = np.full((1, 20_000), text.ref, dtype=h5py.ref_dtype)
        cells.attrs["MATLAB_class"] = np.bytes_("cell")


def _packed_zeros(path):
    """Half a gigabyte of zeros in a compressed element of half a megabyte."""
    scipy.io.savemat(path, {"x": np.zeros((100, 100))}, do_compression=False)
    content = path.read_bytes()
    n_bytes = 2**29
    packer, parts = zlib.compressobj(9), []
    parts.append(packer.compress(content[128:136]))
    zeros = bytes(2**24)
    for _ in range(n_bytes // len(zeros)):
        parts.append(packer.compress(zeros))
    packed = b"".join([*parts, packer.flush()])
    path.write_bytes(content[:128] + np.array([15, len(packed)], "<u4").tobytes() + packed)


def _one_long_text(path):
    with h5py.File(path, "w") as file:
        file["notes"] = ["a"] * 20_000 + ["x" * 100_000]


def _long_cell(path):
    path.write_text("name,time\n" + "a,1\n" * 20_000 + "x" * 100_000 + ",1\n")


def _many_columns(path):
    path.write_text(",".join(f"n{i}" for i in range(10**6)) + "\n" + "1," * (10**6 - 1) + "1\n")


def _sparse(path):
    made = scipy.sparse.csc_array(([1.0], ([0], [0])), shape=(100_000, 100_000))
    scipy.io.savemat(path, {"counts": made})


FILES = {
    "a.h5": (_text_of_one_object, "its entries take more than"),
    "c.h5": (_announced_text, "an entry announces 3000000000 bytes"),
    "d.h5": (_announced_text_in_chunks, "an entry announces 3000000000 bytes"),
    "e.h5": (_heap_of_texts, "a heap of texts and lists is damaged"),
    "f.h5": (_heap_of_texts_in_chunks, "a heap of texts and lists is damaged"),
    "g.h5": (_heap_of_an_attribute, "a heap of texts and lists is damaged"),
    "h.h5": (_announced_attribute, ""),
    "i.h5": (_heap_of_a_virtual_dataset, "a heap of texts and lists is damaged"),
    "a.mat": (_cells_of_one_text, "its cells and text take more than"),
    "b.mat": (_packed_zeros, "unpacks to more than"),
    "b.h5": (_one_long_text, "20001 texts, one of them of 100000 characters"),
    "a.csv": (_long_cell, "20001 texts, one of them of 100000 characters"),
    "b.csv": (_many_columns, "1000000 columns"),
    "c.mat": (_sparse, "found 1 entries; expected more in so large an array"),
}


def test_a_small_file_takes_little_memory(tmp_path):
    for name, (make, _) in FILES.items():
        make(tmp_path / name)
    paths = [tmp_path / name for name in FILES]
    assert max(path.stat().st_size for path in paths) < 25_000_000
    command = [sys.executable, "-c", MEASURE, *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    peak_mb, messages = json.loads(done.stdout)
    for message, (_, found) in zip(messages, FILES.values(), strict=True):
        assert found in message
    assert peak_mb < 800, peak_mb
