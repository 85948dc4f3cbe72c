"""Two processes never train in one run folder, and a lock never outlives its process."""

import errno
import os
import socket
import sys

import pytest
from builders import last_checkpoint, run_files
from killing import LONG, SHORT, data, go_on, run_killed, shared_number, train_in_sight
from same_run import assert_same_run

from ndt_cli.engine.events import EpochDone, StepDone
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import HOLDER_FILE, RunFolder, hold_run
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import ExistingFileError, RunError, RunWarning


def _held(path):
    with hold_run(path):
        pass


def test_a_folder_that_is_held_is_refused_with_who_holds_it_since_when(tmp_path):
    with hold_run(tmp_path):
        assert (tmp_path / HOLDER_FILE).exists()
        for _ in range(2):  # being refused changes nothing
            with pytest.raises(RunError, match="already training in this run folder") as caught:
                _held(tmp_path)
            assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in str(caught.value)
            assert "Ctrl-C" in caught.value.hint
    assert not (tmp_path / HOLDER_FILE).exists()
    _held(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\x00"])
def test_a_locked_folder_is_refused_whatever_its_note_contains(tmp_path, text):
    with hold_run(tmp_path):
        (tmp_path / HOLDER_FILE).write_text(text)
        with pytest.raises(RunError, match="another process is already training"):
            _held(tmp_path)


def test_a_note_without_a_lock_is_not_believed(tmp_path):
    # As a kill leaves it.
    (tmp_path / HOLDER_FILE).write_text('{"pid": 1, "host": "lab", "since": "2026"}')
    (tmp_path / "run.lock").touch()
    _held(tmp_path)


def test_a_run_cannot_be_resumed_while_it_trains_but_can_be_read(tmp_path):
    seen = []

    def try_to_join(event):
        if isinstance(event, EpochDone) and event.record["epoch"] == 3:
            with pytest.raises(RunError, match="already"):
                resume(tmp_path, recording=data())
            with pytest.raises(ExistingFileError):
                train(SHORT, out=tmp_path, recording=data())
            load_trained(tmp_path, "last")
            seen.append(event)

    train(SHORT, out=tmp_path, recording=data(), watch=try_to_join)
    assert seen
    train(SHORT, out=tmp_path.parent / "whole", recording=data())
    assert_same_run(tmp_path, tmp_path.parent / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="kills by SIGKILL")
def test_another_process_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    steps_done = shared_number(-1)
    out = tmp_path / "run"
    refused = []

    def started():
        if steps_done.value > 20 and not refused:
            with pytest.raises(RunError, match="already") as caught:
                resume(out, recording=data())
            refused.append(caught.value)
        return bool(refused)

    run_killed(train_in_sight, out, LONG, steps_done, after_s=0, started=started)
    assert str(os.getpid()) not in refused[0].message
    assert (out / HOLDER_FILE).exists()
    go_on(out, LONG)
    assert last_checkpoint(out).progress["epoch"] == LONG.train.max_epochs
    assert HOLDER_FILE not in run_files(out)


def test_two_runs_that_start_in_the_same_second_take_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []

    def start_another(event):
        if isinstance(event, StepDone) and not results:
            results.append(None)
            results[0] = train(SHORT, recording=data()).run

    # The clock stands still.
    monkeypatch.setattr("ndt_cli.engine.run_folder.datetime", _Noon)
    first = train(SHORT, recording=data(), watch=start_another).run
    assert first != results[0]
    assert_same_run(first, results[0])


class _Noon:
    @staticmethod
    def now(tz=None):
        from datetime import datetime

        return datetime(2026, 1, 31, 12, 0, 0, tzinfo=tz)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    tmp_path, monkeypatch, code
):
    train(SHORT, out=tmp_path, recording=data())
    before = {name: (tmp_path / name).read_bytes() for name in run_files(tmp_path)}

    def refused(lock, timeout):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(RunError, match="cannot be written") as caught:
        resume(tmp_path, recording=data())
    assert os.strerror(code) in caught.value.message
    assert "evaluating a run only reads it" in caught.value.hint
    assert {name: (tmp_path / name).read_bytes() for name in run_files(tmp_path)} == before


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks"), NotImplementedError()])
def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, error):
    def none(lock, timeout):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with pytest.warns(RunWarning, match="no locks"):
        train(SHORT, out=tmp_path, recording=data())
    assert not (tmp_path / HOLDER_FILE).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    target = tmp_path / "thesis.tex"
    target.write_text("years of work")
    folder = RunFolder(tmp_path / "run")
    folder.create()
    (folder.path / "run.lock").symlink_to(target)
    with pytest.raises(RunError):
        _held(folder.path)
    assert target.read_text() == "years of work"


def test_a_lock_file_that_was_removed_lets_no_second_process_in(tmp_path):
    with hold_run(tmp_path):
        (tmp_path / "run.lock").unlink()
        for _ in range(2):
            with pytest.raises(RunError, match=r"run\.lock was removed") as caught:
                _held(tmp_path)
            assert str(tmp_path / HOLDER_FILE) in caught.value.hint
