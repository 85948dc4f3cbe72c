"""A disk that is full, or a folder that may not be written: training says so and loses nothing."""

import errno
import os
import shutil
import sys
import warnings

import pytest
from builders import build_network, changed, run_files, same_tensors, snapshot
from killing import SHORT, data
from same_run import assert_same_run, timeless_metrics
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.data.write import write_recording
from ndt_cli.engine.checkpoint import Checkpoint, Progress, Saver
from ndt_cli.engine.events import EpochDone
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import RunError, RunWarning, called

STOP = changed(SHORT, "train", on_save_error="stop")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run whose disk was never full."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(SHORT, out=out, recording=data())
    return out


class Disk:
    """Fails every wait for the disk while ``full`` is set; counts them."""

    def __init__(self, monkeypatch):
        self.full = lambda: False
        self.n_syncs = 0
        self.code = errno.ENOSPC
        sync = os.fsync

        def maybe_full(descriptor):
            self.n_syncs += 1
            if self.full():
                raise OSError(self.code, os.strerror(self.code))
            sync(descriptor)

        monkeypatch.setattr("os.fsync", maybe_full)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def _epochs(disk, first, last=10**9):
    """Watch training; the disk is full while epochs ``first`` to ``last`` are trained and saved."""
    done = [0]

    def watch(event):
        if isinstance(event, EpochDone):
            done[0] = event.record["epoch"]

    disk.full = lambda: first <= done[0] + 1 <= last
    return watch


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path, whole, disk, code):
    disk.code = code
    watch = _epochs(disk, 2, 3)  # the save of epoch 2 fails, that of epoch 4 does not
    with pytest.warns(RunWarning, match="continues") as caught:
        train(SHORT, out=tmp_path, recording=data(), watch=watch)
    (said,) = (str(w.message) for w in caught)  # once, not at each attempt
    assert str(tmp_path / "checkpoints") in said
    assert os.strerror(code) in said
    assert_same_run(tmp_path, whole)
    assert run_files(tmp_path) == run_files(whole)


def test_a_disk_that_stays_full_keeps_the_last_good_checkpoint(tmp_path, whole, disk):
    watch = _epochs(disk, 3)
    with pytest.warns(RunWarning), pytest.raises(RunError, match="cannot be written") as caught:
        train(SHORT, out=tmp_path, recording=data(), watch=watch)
    assert caught.value.exit_code == 1
    assert called("resume", tmp_path) in caught.value.hint
    last = Checkpoint.load(RunFolder(tmp_path).checkpoint("last"))
    assert last.progress["epoch"] == 2
    assert len(timeless_metrics(tmp_path)) == 4  # training itself went on
    disk.full = lambda: False
    resume(tmp_path, recording=data())
    assert_same_run(tmp_path, whole)


def test_training_stops_at_the_first_failure_when_asked(tmp_path, whole, disk):
    watch = _epochs(disk, 2)
    with pytest.raises(RunError, match="cannot be written"):
        train(STOP, out=tmp_path, recording=data(), watch=watch)
    assert len(timeless_metrics(tmp_path)) == 2
    disk.full = lambda: False
    resume(tmp_path, recording=data())
    assert_same_run(tmp_path, whole)


def test_a_disk_full_at_any_one_write_costs_nothing(tmp_path, whole, disk):
    train(SHORT, out=tmp_path / "counted", recording=data())
    n_syncs = disk.n_syncs
    assert n_syncs >= 20
    n_refused = n_warned = 0
    for n in range(1, n_syncs + 1, 2):
        out = tmp_path / f"run{n}"
        disk.n_syncs = 0
        disk.full = lambda n=n: disk.n_syncs == n
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                train(SHORT, out=out, recording=data())
            except (RunError, OSError):  # before the first step
                n_refused += 1
                disk.full = lambda: False
                if (out / "settings.toml").exists():
                    resume(out, recording=data())
                else:
                    train(SHORT, out=out, recording=data())
        # None where only the wait for the names in a folder failed, which costs nothing.
        assert {warning.category for warning in caught} <= {RunWarning}
        n_warned += len(caught)
        assert_same_run(out, whole)
        assert run_files(out) == run_files(whole)
    assert n_refused >= 2
    assert n_warned >= 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_file_that_is_cut_while_it_is_written_is_never_seen(tmp_path, whole):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = RunFolder(whole).checkpoint("last").stat().st_size

    def watch(event):
        # From epoch 2 on no file may grow so large: the system itself cuts it.
        if isinstance(event, EpochDone) and event.record["epoch"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))

    try:
        with pytest.warns(RunWarning), pytest.raises(RunError, match="cannot be written"):
            train(SHORT, out=tmp_path, recording=data(), watch=watch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run_files(tmp_path) == run_files(whole)
    resume(tmp_path, recording=data())
    assert_same_run(tmp_path, whole)


def test_a_line_of_the_log_that_was_cut_is_written_again(tmp_path, whole, monkeypatch):
    append = RunFolder.append_metrics

    def cut(folder, record):
        append(folder, record)
        if record["epoch"] == 3:
            path = folder.path / "metrics.jsonl"
            path.write_text(path.read_text()[:-20])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunFolder, "append_metrics", cut)
    with pytest.warns(RunWarning, match=r"metrics\.jsonl"):
        train(SHORT, out=tmp_path, recording=data())
    assert_same_run(tmp_path, whole)


def _run_folder(path, whole):
    folder = RunFolder(path)
    folder.create()
    shutil.copy(whole / "run.json", path)
    return folder


def test_what_waits_for_the_disk_is_what_was_to_be_written(tmp_path, disk, whole):
    # Training goes on to change the very tensors that could not be written.
    folder = _run_folder(tmp_path, whole)
    network, saver = build_network(), Saver(folder, SHORT.train)
    before = snapshot(network)
    progress = Progress().to_json()
    disk.full = lambda: True
    with pytest.warns(RunWarning):
        saver.save("best-masked-loss", Checkpoint.of_model(network, progress), [])
    assert saver.is_behind
    network.readout.last.bias.data.add_(1)
    disk.full = lambda: False
    saver.save("last", Checkpoint.of_model(network, progress), [])
    assert not saver.is_behind
    best, last = (Checkpoint.load(folder.checkpoint(n)) for n in ("best-masked-loss", "last"))
    assert same_tensors(best.model, before)
    assert same_tensors(last.model, snapshot(network))


def test_the_last_checkpoint_never_claims_a_best_one_that_is_not_there(
    tmp_path, whole, monkeypatch
):
    folder = _run_folder(tmp_path, whole)
    write = Checkpoint.save

    def no_best(checkpoint, path):
        if path.stem != "last":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "save", no_best)
    saver = Saver(folder, SHORT.train)
    checkpoint = Checkpoint.of_model(build_network(), Progress().to_json())
    with pytest.warns(RunWarning):
        saver.save("best-masked-loss", checkpoint, [])
    saver.save("last", checkpoint, [])
    assert not folder.checkpoint("last").exists()


def test_a_user_reads_of_a_full_disk_in_one_line(tmp_path, disk):
    spikes, out = tmp_path / "spikes.h5", tmp_path / "run"
    write_recording(data(), spikes)
    changes = ("train.max_epochs=2", "train.val_interval_epochs=1", "train.n_threads=1")
    small = ("model.n_layers=1", "train.device=cpu", "train.warmup_epochs=0")
    disk.n_syncs = 0
    # What makes the folder is written; later nothing is.
    disk.full = lambda: (out / "metrics.jsonl").exists()
    words = [word for change in (*changes, *small) for word in ("--set", change)]
    command = ["train", "--data", str(spikes), "--out", str(out), *words]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    text = " ".join(result.stderr.split())
    assert "Warning: " in text
    assert "(No space left on device). The checkpoints that were saved before are whole" in text
    assert f"Error: {out}/checkpoints/" in text
    assert f"free some space, then resume: ndt train --resume {out}" in text
    assert "Traceback" not in text


def _after_epoch(number, action):
    """Watch training; act once this epoch is done."""

    def watch(event):
        if isinstance(event, EpochDone) and event.record["epoch"] == number:
            action()

    return watch


def test_a_folder_that_is_moved_while_it_trains_is_said_to_be_gone_and_resumes(tmp_path, whole):
    out, other = tmp_path / "run", tmp_path / "other"
    with (
        pytest.warns(RunWarning, match="run is not there: it was moved, renamed or removed"),
        pytest.raises(RunError, match="is not there") as refused,
    ):
        train(SHORT, out=out, recording=data(), watch=_after_epoch(2, lambda: out.rename(other)))
    assert "put it back, then resume" in refused.value.hint
    assert not out.exists()
    resume(other, recording=data())
    assert_same_run(other, whole)
    shutil.rmtree(other)

    # It may come back in time.
    def away_and_back(event):
        if isinstance(event, EpochDone) and event.record["epoch"] in (1, 3):
            first, second = (out, other) if event.record["epoch"] == 1 else (other, out)
            first.rename(second)

    with pytest.warns(RunWarning, match="is not there"):
        train(SHORT, out=out, recording=data(), watch=away_and_back)
    assert_same_run(out, whole)


def test_a_run_never_writes_into_another_run_that_took_its_place(tmp_path, whole):
    out = tmp_path / "run"

    def replaced():
        out.rename(tmp_path / "other")
        shutil.copytree(whole, out)

    with pytest.raises(RunError, match="holds another run now"):
        train(SHORT, out=out, recording=data(), watch=_after_epoch(2, replaced))
    assert_same_run(out, whole)
    assert run_files(out) == run_files(whole)
    resume(tmp_path / "other", recording=data())
    assert_same_run(tmp_path / "other", whole)
