"""Bad inputs as rows of a table: the command, the files, what the message must name.

Each row runs in its own folder, so that files have short names.
"""

import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from ndt_cli import app

# On top of what the process has when a row begins. All rows together need far less.
MEMORY_BYTES = 3 * 2**30


def nothing(folder):
    """Make no file."""
    del folder


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes
    ----------
    what : str
        The fault.
    args : str or tuple of str
        Arguments of ``ndt``; a text is split at spaces.
    said : str
        Regular expression that the message must match: the cause.
    code : int
        Exit code: 0 if it works, 1 for a file or a run, 2 for usage or settings.
    make : callable
        Makes the files in a folder.
    """

    what: str
    args: str | tuple[str, ...]
    said: str
    code: int = 1
    make: Callable[[Path], object] = nothing

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(self.args.split()) if isinstance(self.args, str) else self.args


def run_ndt(words, capsys):
    """Return exit code and everything printed."""
    with pytest.raises(SystemExit) as caught:
        app.main(words)
    printed = capsys.readouterr()
    return caught.value.code, printed.out + printed.err


def check(case, folder, monkeypatch, capsys):
    """Run a row and check exit code and message."""
    monkeypatch.chdir(folder)
    case.make(folder)
    capsys.readouterr()
    code, printed = run_ndt(case.words, capsys)
    assert "This is a bug" not in printed, printed
    assert "Traceback" not in printed, printed
    assert code == case.code, printed
    assert re.search(case.said, printed.replace("\n", " ")), printed


def limit_memory():
    """Limit the process to `MEMORY_BYTES` more; return a function that removes the limit."""
    import matplotlib.figure  # noqa: F401
    import torch  # noqa: F401

    resource = pytest.importorskip("resource")
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return lambda: None
    size = int(statm.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_AS, before)


# Spike files


def counts(value=None, dtype=float, shape=(10, 6, 3)):
    """Ones, and one entry of another value."""
    spikes = np.ones(shape, dtype)
    if value is not None:
        spikes[7, 2, 1] = value
    return spikes


def npz(name="a.npz", **arrays):
    """Write the own layout: counts of 10 trials x 6 bins x 3 neurons in bins of 10 ms."""

    def make(folder):
        content = {"spikes": counts(), "bin_ms": 10.0, **arrays}
        np.savez(folder / name, **{k: v for k, v in content.items() if v is not None})

    return make


def h5(name="a.h5", **arrays):
    """Write arrays into an HDF5 file; nothing else."""

    def make(folder):
        with h5py.File(folder / name, "w") as file:
            for key, value in arrays.items():
                if callable(value):
                    value(file, key)
                else:
                    file[key] = value

    return make


def lfads(**arrays):
    """Write the LFADS layout."""
    halves = {"train_data": counts(), "valid_data": counts(shape=(4, 6, 3)), "dt": 0.01}
    given = {k: v for k, v in {**halves, **arrays}.items() if v is not None}
    if "valid_data" in given and callable(given["valid_data"]):
        given["valid_data"] = given["valid_data"]()
    return h5(**given)


def nlb(**arrays):
    """Write the layout of the Neural Latents Benchmark, window alone, with held-out neurons."""
    parts = {"heldin": counts(), "heldout": counts(shape=(10, 6, 2))}
    content = {f"{half}_spikes_{p}": a for half in ("train", "eval") for p, a in parts.items()}
    given = {**content, "bin_ms": 10.0, **arrays}
    return h5(**{k: v for k, v in given.items() if v is not None})


def announced(shape, dtype="u1", chunks=None):
    """Return a writer of a dataset that declares a size and stores nothing."""

    def make(file, key):
        small = chunks or tuple(min(n, 64) for n in shape)
        file.create_dataset(key, shape=shape, dtype=dtype, chunks=small)

    return make


def raw(name, content):
    """Write bytes."""

    def make(folder):
        (folder / name).write_bytes(content)

    return make


def folder(name):
    """Make a folder."""

    def make(here):
        (here / name).mkdir()

    return make


def cut(write, name, share=0.5):
    """Write a file and truncate it."""

    def make(here):
        write(here)
        path = here / name
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return make


def npz_members(name="a.npz", method=zipfile.ZIP_DEFLATED, **members):
    """Write a zip archive whose members are the bytes given."""

    def make(here):
        with zipfile.ZipFile(here / name, "w", method) as archive:
            for key, content in members.items():
                archive.writestr(f"{key}.npy", content)
            if any(content.startswith(b"\x93NUMPY") for content in members.values()):
                archive.writestr("bin_ms.npy", npy_header(_ONE_NUMBER) + np.float64(10).tobytes())

    return make


_ONE_NUMBER = "{'descr':'<f8','fortran_order':False,'shape':()}"


def npy_header(text, version=(1, 0)):
    """Return the bytes of an .npy file with this header and no data."""
    padded = text.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(padded).to_bytes(2, "little") + padded


def links(**targets):
    """Write an HDF5 file of links beside what the own layout needs."""

    def make(here):
        with h5py.File(here / "a.h5", "w") as file:
            file["bin_ms"] = 10.0
            for key, link in targets.items():
                file[key] = link

    return make


def unreadable(write, name):
    """Write a file without permission to read it."""

    def make(here):
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        write(here)
        (here / name).chmod(0)

    return make
