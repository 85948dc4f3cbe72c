"""Training in processes that are killed, forked from a server that has torch loaded already.

Run as a script, with the variables that torchrun sets, this file is one of several processes.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from builders import changed, recording, tiny_settings

from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import Started, StepDone
from ndt_cli.engine.run_folder import CHECKPOINTS, RunFolder
from ndt_cli.engine.training import resume, train
from ndt_cli.settings.tree import Settings

KILLED = -signal.SIGTERM if sys.platform == "win32" else -signal.SIGKILL

SHORT = tiny_settings(
    mask={"max_span": 3, "token_ratio": 0.6, "span_ramp_end_epoch": 3},
    train={
        "max_epochs": 4,
        "val_interval_epochs": 2,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "learning_rate": 0.01,
        "weight_decay": 0.01,
    },
)
LONG = changed(SHORT, "train", max_epochs=60)
STEPS_PER_EPOCH = 3
INTERVAL_STEPS = STEPS_PER_EPOCH * SHORT.train.val_interval_epochs


def data():
    """Ten training trials: three steps an epoch."""
    return recording(rates=True)


def go_on(out, settings, watch=None):
    """Resume a run, or begin it where nothing can be resumed, as a user would."""
    if (out / "settings.toml").exists():
        return resume(out, recording=data(), watch=watch)
    return train(settings, out=out, recording=data(), watch=watch)


def shared_number(value=0):
    """A number that a killed process leaves behind."""
    return _processes().Value("q", value, lock=False)


def train_in_sight(out, settings, steps_done):
    """Train, and tell the number of steps that are done; negative before the first of them."""

    def watch(event):
        if isinstance(event, Started):
            steps_done.value = event.first_epoch * STEPS_PER_EPOCH
        if isinstance(event, StepDone):
            steps_done.value = event.epoch * STEPS_PER_EPOCH + event.step

    go_on(out, settings, watch)


def train_until_write(out, settings, n_writes, report=None):
    """Train, and die at the n-th time that something is about to change in the run folder."""
    seen = 0

    def count():
        nonlocal seen
        seen += 1
        if seen == n_writes:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, args):
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, writes = next(iter(args), None), event in ("os.mkdir", "os.rename", "os.remove")
        if writes and isinstance(path, str | Path) and str(path).startswith(str(out)):
            count()

    sync = os.fsync

    def counted_sync(descriptor):
        count()
        sync(descriptor)

    sys.addaudithook(hook)
    os.fsync = counted_sync
    go_on(out, settings)
    if report is not None:
        report.value = seen


def run_killed(target, *args, after_s=None, started=lambda: True):
    """Run a function in a process; kill it so many seconds after it has started.

    Returns its exit code.
    """
    process = _processes().Process(target=target, args=args)
    process.start()
    if after_s is not None:
        while not started() and process.is_alive():
            time.sleep(0.001)
        process.join(after_s)
        process.kill()
    process.join()
    return process.exitcode


def steps_on_disk(out):
    """Steps that a resumed run would not have to take again."""
    last = RunFolder(out).checkpoint("last")
    if not last.exists():
        return 0
    progress = Checkpoint.load(last).progress
    return progress["epoch"] * STEPS_PER_EPOCH + progress["step"]


def assert_readable(out, settings):
    """Check that every file of a killed run is whole, or is not there."""
    folder = RunFolder(out)
    if not (out / "settings.toml").exists():
        return
    assert folder.settings() == settings
    folder.read_json("run.json")
    for name in CHECKPOINTS:
        if folder.checkpoint(name).exists():
            Checkpoint.load(folder.checkpoint(name)).build_model()
    epochs = [record["epoch"] for record in folder.read_metrics()]
    assert epochs == list(range(1, len(epochs) + 1))


def _processes():
    context = multiprocessing.get_context("forkserver")
    # The second is what the first optimizer of a process imports.
    context.set_forkserver_preload(["ndt_cli.engine.training", "torch._dynamo"])
    return context


def train_in_two(out, settings, kill_after_epochs=None):
    """Train or resume in two processes; kill both once so many epochs are done.

    Returns their exit codes.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    both = [
        subprocess.Popen(
            [sys.executable, __file__, str(out), settings.model_dump_json()],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]
    while any(process.poll() is None for process in both):
        done = len(RunFolder(out).read_metrics()) if out.exists() else 0
        enough = kill_after_epochs is not None and done >= kill_after_epochs
        if enough or any(process.poll() for process in both):
            for process in both:
                process.kill()
        time.sleep(0.05)
    return [process.wait() for process in both]


if __name__ == "__main__":
    go_on(Path(sys.argv[1]), Settings.model_validate_json(sys.argv[2]))
