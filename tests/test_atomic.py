"""Atomic writes: the old file or the new one, nothing left behind, nothing replaced unasked."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ndt_cli.atomic import (
    _SteadyFile,
    check_may_write,
    check_suffix,
    leftovers,
    write_atomic,
    write_stream_atomic,
    write_text_atomic,
)
from ndt_cli.errors import ExistingFileError, NdtError, SettingsError


def test_text_is_written_and_replaces_an_older_file(tmp_path):
    path = tmp_path / "settings.toml"
    write_text_atomic(path, "old\n", overwrite=True)
    write_text_atomic(path, "µs\nnew\n", overwrite=True)
    assert path.read_bytes() == "µs\nnew\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_kept_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "rates.npz"
    path.write_bytes(b"old")

    def write(temporary):
        assert temporary.parent == path.parent  # a rename must not cross file systems
        assert temporary.suffix == ".npz"
        temporary.write_bytes(b"ne")
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"new")

    write_atomic(path, write, overwrite=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path, error):
    path = tmp_path / "last.safetensors"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_atomic(path, write, overwrite=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_reach_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("os.fsync", lambda descriptor: order.append("fsync"))
    replace = type(tmp_path).replace

    def traced(self, target):
        order.append("replace")
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", traced)
    write_text_atomic(tmp_path / "run.json", "{}", overwrite=True)
    assert order[:2] == ["fsync", "replace"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be opened there")
def test_the_new_name_reaches_the_disk_before_the_writer_continues(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    write_text_atomic(tmp_path / "run.json", "{}", overwrite=True)
    assert synced == [False, True]


def test_a_file_system_that_cannot_sync_a_folder_is_written_all_the_same(tmp_path, monkeypatch):
    sync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", files_only)
    write_text_atomic(tmp_path / "run.json", "{}", overwrite=True)
    assert (tmp_path / "run.json").read_text() == "{}"


def test_what_stopped_the_writing_is_reported_not_that_the_rest_cannot_be_removed(
    tmp_path, monkeypatch
):
    def refuse(path, missing_ok=False):
        raise PermissionError(errno.EROFS, "Read-only file system")

    def write(temporary):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "run.json", write, overwrite=True)


def test_what_a_kill_leaves_is_found_and_nothing_else_is(tmp_path):
    left = []

    class Killed(BaseException):
        pass

    def write(temporary):
        temporary.write_bytes(b"half")
        shutil.copy(temporary, tmp_path / "copy")
        left.append(temporary)
        raise Killed

    names = ("last.safetensors", "run.json", "rates", ".hidden", "a.b.npz")
    for name in names:
        with pytest.raises(Killed):
            write_atomic(tmp_path / name, write, overwrite=True)
        shutil.move(tmp_path / "copy", left[-1])  # as if the process had not cleaned up
    for kept in ("last.safetensors", ".notes.txt", ".last.part", ".a.12345678.part.d.e", "x.part"):
        (tmp_path / kept).touch()
    assert sorted(leftovers(tmp_path)) == sorted(left)
    assert sorted(leftovers(tmp_path, ("run.json", "rates"))) == sorted(left[1:3])
    assert leftovers(tmp_path / "none") == []


def _content(text):
    return lambda temporary: temporary.write_text(text)


def test_an_existing_file_is_kept_unless_it_may_be_replaced(tmp_path):
    path = tmp_path / "rates.h5"
    path.write_text("old")
    with pytest.raises(ExistingFileError, match=r"rates\.h5 already exists"):
        write_atomic(path, _content("new"), overwrite=False)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(params=["hard links", "no hard links"])
def file_system(request, monkeypatch):
    """A file system with hard links, and one without, such as exFAT."""
    if request.param == "no hard links":

        def refuse(source, target):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("os.link", refuse)


def test_a_new_file_is_written_whole(tmp_path, file_system):
    path = tmp_path / "rates.h5"
    write_atomic(path, _content("new"), overwrite=False)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_during_the_writing_is_kept(tmp_path, file_system):
    path = tmp_path / "rates.h5"

    def write(temporary):
        temporary.write_text("mine")
        path.write_text("theirs")

    with pytest.raises(ExistingFileError):
        write_atomic(path, write, overwrite=False)
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_of_five_writers_to_one_name_exactly_one_succeeds(tmp_path, file_system):
    path = tmp_path / "rates.h5"
    together = threading.Barrier(5)
    won, lost = [], []

    def write(n):
        def content(temporary):
            temporary.write_text(str(n))
            together.wait(timeout=30)

        try:
            write_atomic(path, content, overwrite=False)
        except ExistingFileError:
            lost.append(n)
        else:
            won.append(n)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 4)
    assert path.read_text() == str(won[0])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_dangling_link_counts_as_an_existing_file(tmp_path, file_system):
    path, target = tmp_path / "rates.h5", tmp_path / "elsewhere.h5"
    path.symlink_to(target)
    with pytest.raises(ExistingFileError):
        check_may_write(path, overwrite=False)
    with pytest.raises(ExistingFileError):
        write_atomic(path, _content("new"), overwrite=False)
    assert path.is_symlink()
    assert not target.exists()


def test_a_path_is_checked_before_its_content_is_made(tmp_path):
    file = tmp_path / "a.h5"
    file.write_text("old")
    for path, overwrite, cause in (
        (tmp_path, True, "is a folder; expected the name of a file"),
        (file, False, "already exists"),
        (file / "b.h5", True, "is a file, not a folder"),
    ):
        with pytest.raises(NdtError, match=cause):
            check_may_write(path, overwrite)
    check_may_write(file, overwrite=True)
    check_may_write(tmp_path / "new" / "folder" / "b.h5", overwrite=False)
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_without_write_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(NdtError, match="no permission to write to the folder"):
        check_may_write(tmp_path / "a.h5", overwrite=False)


@pytest.mark.parametrize("name", ["a.csv", "a", "a.h5.txt", ".h5"])
def test_a_suffix_names_the_format(name):
    check_suffix(Path("A.H5"), (".h5", ".npz"))
    with pytest.raises(SettingsError, match=r"found .*; expected \.h5, \.npz"):
        check_suffix(Path(name), (".h5", ".npz"))


FULL_DISK = """
import resource, signal, sys
import numpy as np
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
from ndt_cli.app import main
from ndt_cli.data.spike_data import ByTrial, SpikeData
from ndt_cli.inferred_rates import Rates
from ndt_cli.nlb import tensors
from ndt_cli.rates_file import write_rates
from ndt_cli.report.figures import save_figure
from matplotlib.figure import Figure
rng = np.random.default_rng(0)
data = SpikeData(rng.poisson(1, (300, 20, 20)).astype(np.uint8), 20.0, np.full(300, 20))
values = rng.random((300, 20, 20), dtype=np.float32)
figure = Figure()
figure.subplots().imshow(rng.random((500, 500)))

def failed(write):
    try:
        write()
    except SystemExit as stop:
        return stop.code
    except OSError as error:
        assert error.filename == name
        return error.strerror

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
for name in sys.argv[1:]:
    path = Path(name)
    if path.name.startswith("rates"):
        rates = Rates(data, values, values)
        print(failed(lambda: write_rates(path, rates, overwrite=True)))
    elif path.name.startswith("figure"):
        print(failed(lambda: save_figure(figure, path, overwrite=True)))
    elif path.name.startswith("cache"):
        parts = {part: {"x": values} for part in tensors._PARTS}
        print(tensors.write_cache(path, {**parts, **dict.fromkeys(tensors._PER_TRIAL, values),
                                         "notes": ()}))
    else:
        print(failed(lambda: main(["gen-data", "lorenz", "--out", name, "--overwrite"])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_a_full_disk_ends_every_writer_with_its_reason_and_leaves_the_old_file(tmp_path):
    names = [
        "rates.h5",
        "rates.npz",
        "rates.mat",
        "rates.csv",
        "figure.png",
        "figure.svg",
        "figure.pdf",
        "cache.h5",
    ]
    paths = [tmp_path / name for name in [*names, "lorenz.h5", "lorenz.npz"]]
    for path in paths:
        path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *paths], capture_output=True, text=True, timeout=100
    )
    why = os.strerror(errno.EFBIG)
    assert done.returncode == 0, done.stderr  # no crash of HDF5 as the process ends
    assert done.stdout.split("\n")[:-1] == [*[why] * 7, "False", "1", "1"], done.stderr
    for path in paths[-2:]:
        assert f"Error: {path}: cannot be written: {why}" in done.stderr
    assert "HDF5" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "bug in ndt" not in done.stderr
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert {path.read_bytes() for path in paths} == {b"old"}


@pytest.mark.parametrize("nth", range(1, 20, 3))
def test_an_interrupt_inside_hdf5_is_an_interrupt_and_no_crash(tmp_path, monkeypatch, nth):
    path = tmp_path / "x.h5"
    path.write_text("old")
    writes = []

    class Interrupted:
        """A file in whose n-th write, which HDF5 has called, Ctrl-C is pressed."""

        def __init__(self, file):
            self.file = file

        def write(self, content):
            writes.append(content)
            if len(writes) == nth:
                signal.raise_signal(signal.SIGINT)
            return self.file.write(content)

        def __getattr__(self, name):
            return getattr(self.file, name)

    made = _SteadyFile.__init__

    def with_interrupt(self, path):
        made(self, path)
        self._file = Interrupted(self._file)

    def write(stream):
        with h5py.File(stream, "w") as file:
            file["rates"] = np.ones(1000)
            file.create_group("group").attrs["unit"] = "Hz"
            file["group"].create_dataset("counts", data=np.arange(5000), compression="gzip")
            file["names"] = ["a", "b"]
        for _ in range(1000):  # what else is computed
            time.sleep(0.01)

    monkeypatch.setattr(_SteadyFile, "__init__", with_interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_stream_atomic(path, write, overwrite=True)
    assert len(writes) > nth
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".txt")
    write_text_atomic(path, "x", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_computed(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.h5")
    with pytest.raises(NdtError, match="not UTF-8"):
        check_may_write(path, overwrite=True)


def test_what_a_kill_left_an_hour_ago_is_removed_and_what_may_be_written_now_is_not(tmp_path):
    old, new, other = (
        tmp_path / name
        for name in (".a.01234567.part.h5", ".a.89abcdef.part.h5", ".b.01234567.part.h5")
    )
    for path in (old, new, other):
        path.write_bytes(b"half")
    now = time.time()
    for path, minutes_ago in ((old, 61), (new, 59), (other, 61)):
        os.utime(path, (now, now - 60 * minutes_ago))
    write_atomic(tmp_path / "a.h5", lambda part: part.write_bytes(b"whole"), overwrite=False)
    assert sorted(tmp_path.iterdir()) == sorted([new, other, tmp_path / "a.h5"])
