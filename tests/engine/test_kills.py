"""A run that is killed, at whatever moment, goes on as if it had not been, and loses little."""

import random
import shutil
import sys

import pytest
from builders import changed, run_files
from killing import (
    INTERVAL_STEPS,
    KILLED,
    LONG,
    SHORT,
    assert_readable,
    data,
    go_on,
    run_killed,
    shared_number,
    steps_on_disk,
    train_in_sight,
    train_in_two,
    train_until_write,
)
from same_run import assert_same_run

from ndt_cli.engine.training import train

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by SIGKILL")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The folder of a short run that was never stopped."""
    out = tmp_path_factory.mktemp("short") / "run"
    train(SHORT, out=out, recording=data())
    return out


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """The folder of a longer run that was never stopped."""
    out = tmp_path_factory.mktemp("long") / "run"
    train(LONG, out=out, recording=data())
    return out


def _kill_at_random(folder, whole, n_kills, seed):
    """Kill runs at random moments until so many were; return the most steps that a kill cost."""
    rng = random.Random(seed)
    killed = n_runs = most_lost = n_early = 0
    while killed < n_kills:
        out = folder / f"run{n_runs}"
        n_runs += 1
        finished = False
        while not finished and killed < n_kills:
            steps_done = shared_number(-1)
            early = rng.random() < 0.2  # while it loads, reads and makes the folder
            code = run_killed(
                train_in_sight,
                out,
                LONG,
                steps_done,
                after_s=rng.uniform(0, 1.0 if early else 0.3),
                started=lambda n=steps_done, early=early: early or n.value >= 0,
            )
            assert code in (0, KILLED)
            finished = code == 0
            killed += code == KILLED
            n_early += steps_done.value < 0
            assert_readable(out, LONG)
            most_lost = max(most_lost, steps_done.value - steps_on_disk(out))
        go_on(out, LONG)
        assert_same_run(out, whole)
        assert run_files(out) == run_files(whole)
        shutil.rmtree(out)
    said = f"{killed} kills ({n_early} before a step) in {n_runs} runs; {most_lost} steps lost"
    sys.stdout.write(f"\n{said}\n")  # pytest -s shows it
    return most_lost


def test_a_run_killed_at_random_moments_resumes_exactly(tmp_path, long):
    assert _kill_at_random(tmp_path, long, n_kills=3, seed=0) <= INTERVAL_STEPS


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_kills_cost_no_run_and_at_most_a_checkpoint_interval_each(tmp_path, long):
    assert _kill_at_random(tmp_path, long, n_kills=100, seed=1) <= INTERVAL_STEPS


def _count_writes(out):
    report = shared_number()
    assert run_killed(train_until_write, out, SHORT, 0, report) == 0
    shutil.rmtree(out)
    return report.value


def _kill_at_write(out, whole, n):
    assert run_killed(train_until_write, out, SHORT, n) == KILLED
    assert_readable(out, SHORT)
    go_on(out, SHORT)
    assert_same_run(out, whole)
    assert run_files(out) == run_files(whole)
    shutil.rmtree(out)


def test_a_run_killed_at_a_write_resumes_exactly(tmp_path, short):
    n_writes = _count_writes(tmp_path / "run")
    assert n_writes > 50
    # As the folder is made, as the first checkpoint is, and between the best ones and the last.
    for n in (5, 20, n_writes - 4):
        _kill_at_write(tmp_path / "run", short, n)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_each_of_its_writes_resumes_exactly(tmp_path, short):
    for n in range(1, _count_writes(tmp_path / "run") + 1):
        _kill_at_write(tmp_path / "run", short, n)


@pytest.mark.slow
def test_two_killed_processes_resume_exactly(tmp_path):
    settings = changed(SHORT, "train", max_epochs=12)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_in_two(whole, settings) == [0, 0]
    for n_epochs in (3, 8):
        assert train_in_two(killed, settings, kill_after_epochs=n_epochs) == [KILLED, KILLED]
        assert_readable(killed, settings)
    assert train_in_two(killed, settings) == [0, 0]
    assert_same_run(killed, whole)
    assert run_files(killed) == run_files(whole)
