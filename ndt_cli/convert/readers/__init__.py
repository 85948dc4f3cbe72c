"""Open a recording of any format that is read; the content tells which, not the name."""

import zipfile
from pathlib import Path

import h5py

from ndt_cli.convert.contents import Contents
from ndt_cli.convert.readers.csv_npz import ENDINGS, open_csv, open_npz
from ndt_cli.convert.readers.hdf5 import as_nwb, hdf5_contents, is_nwb, open_h5
from ndt_cli.convert.readers.matlab import is_mat73, open_mat5, open_mat73
from ndt_cli.errors import DataError


def open_file(path: Path) -> Contents:
    """Open a .npz, MATLAB, HDF5, NWB or CSV file and list what it holds.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Contents
        To be closed, or used in a ``with``.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another kind.
    """
    if path.is_file() and h5py.is_hdf5(path):
        file = open_h5(path)
        if is_mat73(file):
            return open_mat73(path, file)
        contents = hdf5_contents(path, file)
        if is_nwb(file):
            as_nwb(contents, file)
        return contents
    if path.suffix.lower() in ENDINGS:
        return open_csv(path)
    if _is_mat5(path):
        return open_mat5(path)
    if path.is_file() and not _is_like_npz(path):
        raise DataError(
            f"{path}: found neither .npz, MATLAB, HDF5, NWB nor CSV content",
            hint="A text table must end in .csv, .tsv or .txt; save anything else with "
            "numpy.savez.",
        )
    return open_npz(path)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _is_like_npz(path: Path) -> bool:
    """Tell whether `open_npz` can read it, or say what it is: cut short, a pointer."""
    head = _head(path)
    return zipfile.is_zipfile(path) or not head or head.startswith((b"PK", b"version https:"))


def _is_mat5(path: Path) -> bool:
    if not path.is_file():
        return False
    head = _head(path)
    # Version 4 has no mark of its own, so there the name has to tell.
    return head.startswith(b"MATLAB 5.0") or (path.suffix.lower() == ".mat" and len(head) > 0)
