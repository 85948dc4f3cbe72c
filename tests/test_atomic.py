"""Atomic writes: the old file or the new one, and nothing left behind."""

import errno
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from ndt_cli.atomic import leftovers, write_atomic, write_text_atomic


def test_text_is_written_and_replaces_an_older_file(tmp_path):
    path = tmp_path / "settings.toml"
    write_text_atomic(path, "old\n", overwrite=True)
    write_text_atomic(path, "µs\nnew\n", overwrite=True)
    assert path.read_bytes() == "µs\nnew\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
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
def test_the_new_name_reaches_the_disk_before_the_writer_goes_on(tmp_path, monkeypatch):
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
