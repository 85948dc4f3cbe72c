"""Wherever members train, killed or stopped: the same members with the same weights."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib.util import find_spec

import pytest
from builders import recording, tiny_settings
from ray_cluster import ray_cluster, ray_environment
from test_sweep_run import assert_same_sweep

from ndt_cli.engine.executors import InTurn, Processes
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import CheckpointError, DeviceError, RunError, RunWarning, SettingsError
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.loop import Watching, resume_sweep, sweep
from ndt_cli.search.space import Space

SPACE = Space.from_tables(
    "test",
    {
        "train": {"learning_rate": {"log-uniform": [1e-4, 1e-2]}},
        "mask": {"ratio": {"uniform": [0.1, 0.4]}, "max_span": {"integer": [1, 3]}},
    },
)
# Long enough that there is a middle.
SETTINGS = tiny_settings(
    train={
        "max_epochs": 120,
        "val_interval_epochs": 10,
        "save_interval_minutes": 0.01,
        "n_threads": 1,
    }
)
N_MEMBERS = 3

# Each starts processes that load PyTorch, and kills some: on a busy machine that takes minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def _data():
    return recording(rates=True)


def _sweep(out, **options):
    if out.exists():
        return resume_sweep(out, recording=_data(), **options)
    return sweep(
        SETTINGS, SPACE, n_members=N_MEMBERS, seed=5, out=out, recording=_data(), **options
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep whose members trained one after another, never stopped."""
    out = tmp_path_factory.mktemp("sweeps") / "whole"
    _sweep(out)
    return out


class KillsWorker(threading.Thread):
    """Kills the process that trains a member, each time that it is seen to have made progress.

    It looks from a thread of its own: on a quiet machine a member may end between two looks of the
    sweep.
    """

    def __init__(self, member, times=1, min_epochs=20):
        super().__init__(daemon=True)
        self.member, self.times, self.min_epochs, self.killed = member, times, min_epochs, []
        self._done = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self.join()

    def run(self):
        while len(self.killed) < self.times and not self._done.wait(0.005):
            with suppress(OSError, ValueError):  # not there yet, or just gone
                pid = json.loads((self.member / "running.json").read_text())["pid"]
                n_epochs = len(RunFolder(self.member).read_metrics())
                if pid not in self.killed and n_epochs >= self.min_epochs:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)


def test_members_that_train_side_by_side_are_those_that_train_in_turn(whole, tmp_path):
    seen = []
    watching = Watching(epochs=lambda epochs, max_epochs: seen.append(len(epochs)))
    done = _sweep(tmp_path / "sweep", executor=Processes(2), watching=watching)
    assert not done.interrupted
    assert max(seen) == 2
    assert_same_sweep(tmp_path / "sweep", whole)


def test_a_member_whose_worker_is_killed_resumes_from_its_last_checkpoint(whole, tmp_path):
    out = tmp_path / "sweep"
    with (
        pytest.warns(RunWarning, match="member 0: its worker died .killed by signal 9"),
        KillsWorker(out / "members/000") as kills,
    ):
        _sweep(out, executor=Processes(2))
    assert len(kills.killed) == 1
    assert_same_sweep(out, whole)


def test_a_member_whose_workers_keep_dying_is_named_and_the_others_end(whole, tmp_path):
    out = tmp_path / "sweep"
    with (
        pytest.warns(RunWarning, match="worker died"),
        pytest.raises(RunError, match="member 1: its worker died 4 times") as caught,
        KillsWorker(out / "members/001", times=9, min_epochs=1),
    ):
        _sweep(out, executor=Processes(2))
    assert "resume_sweep" in caught.value.hint
    _sweep(out)
    assert_same_sweep(out, whole)


def test_a_sweep_asked_to_stop_saves_all_members_and_resumes_elsewhere(whole, tmp_path):
    out = tmp_path / "sweep"

    def under_way():
        return all(len(RunFolder(out / f"members/00{i}").read_metrics()) >= 10 for i in range(2))

    assert _sweep(out, executor=Processes(2), should_stop=under_way).interrupted
    assert not list((out / "members").glob("*.stop"))
    assert not _sweep(out, executor=InTurn()).interrupted
    assert_same_sweep(out, whole)


_DRIVER = """
import sys
from pathlib import Path
from test_executors import Processes, _sweep
if __name__ != "__main__":
    raise SystemExit("a worker has run the main script again")
_sweep(Path(sys.argv[1]), executor=Processes(2))
"""


def test_a_sweep_that_was_killed_with_all_or_none_of_its_workers_resumes(whole, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER)
    for name, with_workers in (("driver", False), ("machine", True)):
        out = tmp_path / name
        process = subprocess.Popen(
            [sys.executable, str(script), str(out)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while len(RunFolder(out / "members/000").read_metrics()) < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if with_workers:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        assert not _sweep(out).interrupted
        assert_same_sweep(out, whole)


def test_what_a_worker_refuses_is_raised_as_it_is(tmp_path):
    out = tmp_path / "sweep"
    run = RunFolder(out / "members/000")
    assert _sweep(out, should_stop=lambda: len(run.read_metrics()) >= 2).interrupted
    run.checkpoint("last").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"members/000/checkpoints/last\.safetensors"):
        _sweep(out, executor=Processes(2))


def test_fewer_than_no_processes_are_refused():
    with pytest.raises(SettingsError, match="expected 0 or more"):
        Processes(-1)


# On Ray


def needs_ray(test):
    missing = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")
    return pytest.mark.slow(missing(test))


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(n_cpus=2) as address:
        yield address


@needs_ray
def test_members_on_ray_are_those_that_train_in_turn(cluster, whole, tmp_path):
    from ndt_cli.engine.executors import RayTasks

    executor = RayTasks()
    assert not _sweep(tmp_path / "sweep", executor=executor).interrupted
    assert executor.n_slots == 2
    assert_same_sweep(tmp_path / "sweep", whole)


@needs_ray
def test_a_member_on_ray_whose_worker_is_killed_resumes(cluster, whole, tmp_path):
    from ndt_cli.engine.executors import RayTasks

    out = tmp_path / "sweep"
    with (
        pytest.warns(RunWarning, match="member 0: its worker died"),
        KillsWorker(out / "members/000") as kills,
    ):
        _sweep(out, executor=RayTasks())
    assert len(kills.killed) == 1
    assert_same_sweep(out, whole)


@needs_ray
def test_a_sweep_on_ray_asked_to_stop_resumes_without_ray(cluster, whole, tmp_path):
    from ndt_cli.engine.executors import RayTasks

    out = tmp_path / "sweep"

    def under_way():
        return len(RunFolder(out / "members/000").read_metrics()) >= 10

    assert _sweep(out, executor=RayTasks(), should_stop=under_way).interrupted
    assert not _sweep(out).interrupted
    assert_same_sweep(out, whole)


@needs_ray
def test_more_than_any_machine_of_the_cluster_has_is_refused(cluster, tmp_path):
    from ndt_cli.engine.executors import RayTasks

    with pytest.raises(DeviceError, match="CPU: 64"):
        _sweep(tmp_path / "sweep", executor=RayTasks(cpus_per_worker=64))


_RAY_DRIVER = """
import sys
from pathlib import Path
from test_executors import _sweep
from ndt_cli.engine.executors import RayTasks
_sweep(Path(sys.argv[1]), executor=RayTasks())
"""
_CODE = "raise SystemExit('a module of the working folder was imported')"


@needs_ray
def test_workers_of_ray_import_nothing_from_the_folder_of_the_sweep(tmp_path):
    (tmp_path / "ndt_cli").mkdir()
    for name in ("pandas.py", "numpy.py", "ndt_cli/__init__.py"):
        (tmp_path / name).write_text(_CODE)
    script = tmp_path / "elsewhere" / "driver.py"
    script.parent.mkdir()
    script.write_text(_RAY_DRIVER)
    with ray_environment() as folder:
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path / "sweep")],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_TMPDIR": str(folder)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert len(SweepFolder.open(tmp_path / "sweep").results().ranked) == N_MEMBERS
