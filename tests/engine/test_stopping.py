"""Signals become a request to save and stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from builders import last_checkpoint, recording

from ndt_cli.commands.console import stop_request
from ndt_cli.data.write import write_recording

needs_hang_up = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_asks_and_the_second_interrupts(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stop_request() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


@contextlib.contextmanager
def _hang_up_handled(how):
    """A shell's way to handle SIGHUP, whatever that of the shell that runs the tests."""
    before = signal.signal(signal.SIGHUP, how)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@needs_hang_up
def test_a_closing_terminal_requests_a_stop_each_time():
    with _hang_up_handled(signal.SIG_DFL), stop_request() as asked:
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert asked()


@needs_hang_up
def test_nohup_is_respected():
    with _hang_up_handled(signal.SIG_IGN), stop_request() as asked:
        signal.raise_signal(signal.SIGHUP)
        assert not asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@needs_hang_up
@pytest.mark.slow
def test_a_run_whose_terminal_closes_is_saved(tmp_path):
    import fcntl
    import termios

    spikes, out = tmp_path / "spikes.h5", tmp_path / "run"
    write_recording(recording(40, 6), spikes)

    def take_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    ours, its = os.openpty()
    changes = ("train.max_epochs=100000", "train.val_interval_epochs=100000", "train.device=cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "ndt_cli", "train", "--data", str(spikes), "--out", str(out)]
        + [word for change in changes for word in ("--set", change)],
        stdin=its,
        stdout=its,
        stderr=its,
        preexec_fn=take_terminal,
    )
    os.close(its)
    os.set_blocking(ours, False)
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 100_000)
    os.close(ours)
    assert process.wait(60) == 130
    assert last_checkpoint(out).progress["epoch"] >= 1
