"""Several processes train one model: the same as one process, and one of them writes.

Run as a script, this file is one of those processes.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from builders import NO_DROPOUT, changed, recording, same_tensors, tiny_settings

from ndt_cli.data.sessions import stack_sessions
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.distributed import Ranks, process_group
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import RunError, SettingsError, TrainingError

# Masks draw from one stream in all processes, dropout from one in each: only without dropout
# do two processes compute what one does.
STILL = tiny_settings(
    model=NO_DROPOUT,
    mask={"mode": "full", "token_ratio": 0.5, "max_span": 2},
    train={"learning_rate": 3e-3, "weight_decay": 0.01},
)
NOISY = tiny_settings(train={"optimizer": "muon", "max_epochs": 4, "learning_rate": 0.01})
EVEN, ODD = 10, 9  # in batches of four, the last one has two trials or one


def _train(out, settings, n_train, **options):
    return train(settings, out=out, recording=recording(n_train, rates=True), **options)


def _train_sessions(out):
    """Two sessions, with batches of one trial among theirs."""
    days = [recording(n, n_neurons=n_neurons, rates=True) for n, n_neurons in ((ODD, 3), (EVEN, 2))]
    linear = changed(STILL, "model", embedding="linear", width=16)
    return train(linear, out=out, recording=stack_sessions(days))


def _stop_in_second_process(rank, n_epochs):
    """Return a should_stop that only the second process sets, once asked so many times."""
    asked = []

    def should_stop():
        asked.append(None)
        return rank == 1 and len(asked) >= n_epochs

    return should_stop


def _worker_even(folder, rank):
    result = _train(folder / "still", STILL, EVEN)
    _train(folder / "noisy", NOISY, EVEN)
    should_stop = _stop_in_second_process(rank, 2)
    stopped = _train(folder / "stopped", NOISY, EVEN, should_stop=should_stop)
    n_stopped = len(stopped.history)
    resumed = resume(folder / "stopped", recording=recording(EVEN, rates=True))
    return {
        "losses": [record["valid_masked_loss"] for record in result.history],
        "best": result.best,
        "stopped": [stopped.stopped, n_stopped, resumed.stopped],
    }


def _worker_odd(folder, rank):
    result = _train(folder / "odd", STILL, ODD)
    _train_sessions(folder / "sessions")
    return {"stopped": [result.stopped], "initialized": torch.distributed.is_initialized()}


def _note_writes(folder, writes):
    """Note every file or folder that this process makes, moves or opens to write."""

    def hook(event, args):
        if event == "open":
            path, mode, flags = args
            writing = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else mode != "r"
        else:
            path = args[0] if args else None
            writing = event in ("os.mkdir", "os.rename", "os.remove")
        if writing and isinstance(path, (str, Path)) and str(folder) in str(path):
            writes.append([event, str(path)])

    sys.addaudithook(hook)


def _gloo_threads():
    """Return the names of the threads of a process group, where the system lists them."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that ends meanwhile
            names.append(path.read_text().strip())
    return [name for name in names if "gloo" in name]


def _wait_for_gloo_threads(seconds=10):
    """Return those that are left after so long: the system lists a joined thread a moment more."""
    deadline = time.monotonic() + seconds
    while _gloo_threads() and time.monotonic() < deadline:
        time.sleep(1e-3)
    return _gloo_threads()


def main(rank, what, folder, store=None):
    warnings.simplefilter("error")
    writes = []
    _note_writes(folder, writes)
    if store is not None:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=2
        )
    report = {"even": _worker_even, "odd": _worker_odd}[what](folder, rank)
    report["writes"] = list(writes)
    if store is not None:
        torch.distributed.destroy_process_group()
        report["gloo_threads"] = _wait_for_gloo_threads()
    (folder.parent / f"{what}-{rank}.json").write_text(json.dumps(report))


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _launch(what, folder, store=None):
    """Run two processes as torchrun would; return what each reports."""
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": "1",
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
    }
    folder.mkdir()
    arguments = [what, folder, *([] if store is None else [store])]
    logs = [folder.parent / f"{what}-{rank}.log" for rank in range(2)]
    processes = []
    for rank, log in enumerate(logs):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, str(rank), *arguments],
                    env={**environment, **ranks},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    deadline = time.monotonic() + 200
    # One that fails leaves the other waiting: stop both at the first failure.
    while any(process.poll() is None for process in processes):
        failed = any(process.poll() for process in processes)
        if failed or time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    codes = [process.wait() for process in processes]
    output = "\n".join(log.read_text()[-3000:] for log in logs)
    assert codes == [0, 0], output
    assert output.strip() == "", output  # the engine prints nothing
    return [json.loads((folder.parent / f"{what}-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """Two processes that meet through a file; their folder and reports."""
    folder = tmp_path_factory.mktemp("distributed") / "even"
    return folder, _launch("even", folder, store=folder.parent / "store")


def _close(found, expected):
    """Tell whether two runs have the same weights up to rounding."""
    ours, theirs = (
        Checkpoint.load(RunFolder(run).checkpoint("last")).model for run in (found, expected)
    )
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        if name.endswith("qkv.bias"):
            # A bias of the keys moves all scores of a row alike, and softmax forgets it: its
            # gradient is rounding error, which AdamW scales up.
            weight, theirs[name] = (
                torch.cat([third for i, third in enumerate(bias.chunk(3)) if i != 1])
                for bias in (weight, theirs[name])
            )
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-5, msg=name)


def _assert_losses_close(found, expected):
    found, expected = RunFolder(found).read_metrics(), RunFolder(expected).read_metrics()
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for key in ("train_loss", "valid_masked_loss", "valid_unmasked_loss", "valid_rate_r2"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-5), key


def test_two_processes_give_the_losses_and_weights_of_one(even, tmp_path):
    folder, reports = even
    _train(tmp_path / "one", STILL, EVEN)
    _assert_losses_close(folder / "still", tmp_path / "one")
    _close(folder / "still", tmp_path / "one")
    # Every process knows the validation, and so takes the same decisions.
    assert reports[0]["losses"] == reports[1]["losses"]
    assert reports[0]["best"] == reports[1]["best"]


def test_only_the_first_process_writes(even):
    _, (first, second) = even
    assert any("metrics.jsonl" in path for _, path in first["writes"])
    assert second["writes"] == []


def test_no_thread_of_a_process_group_outlives_it(even):
    # One that does may abort the process while Python shuts down.
    _, reports = even
    assert [report["gloo_threads"] for report in reports] == [[], []]


def test_processes_stop_together_and_a_resumed_run_is_the_whole_run(even):
    folder, reports = even
    for report in reports:
        assert report["stopped"] == ["interrupted", 2, "finished"]
    stopped, whole = (
        Checkpoint.load(RunFolder(folder / name).checkpoint("last"))
        for name in ("stopped", "noisy")
    )
    assert same_tensors(stopped.model, whole.model)
    assert same_tensors(stopped.optimizer, whole.optimizer)
    assert same_tensors(stopped.streams, whole.streams)
    metrics = [
        [{**record, "seconds": None} for record in RunFolder(folder / name).read_metrics()]
        for name in ("stopped", "noisy")
    ]
    assert metrics[0] == metrics[1]
    # Each process has dropout of its own, and masks and order in common.
    streams = whole.streams
    assert not torch.equal(streams["rank0.dropout"], streams["rank1.dropout"])
    assert torch.equal(streams["rank0.mask"], streams["rank1.mask"])
    assert torch.equal(streams["rank0.order"], streams["rank1.order"])


def test_a_batch_smaller_than_the_processes_trains(tmp_path):
    # Also the way by which processes that torchrun started find each other.
    folder = tmp_path / "odd"
    reports = _launch("odd", folder)
    _train(tmp_path / "one", STILL, ODD)
    _assert_losses_close(folder / "odd", tmp_path / "one")
    _close(folder / "odd", tmp_path / "one")
    assert [report["initialized"] for report in reports] == [False, False]
    _train_sessions(tmp_path / "one-sessions")
    _assert_losses_close(folder / "sessions", tmp_path / "one-sessions")
    _close(folder / "sessions", tmp_path / "one-sessions")


def test_more_processes_than_saved_a_run_are_refused(tmp_path, monkeypatch):
    _train(tmp_path, STILL, EVEN)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr(Ranks, "from_first", lambda ranks, values, device: values)
    monkeypatch.setattr("ndt_cli.engine.trainer.DistributedDataParallel", lambda network: network)
    with pytest.raises(RunError, match="processes"):
        resume(tmp_path, recording=recording(EVEN, rates=True))


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = Ranks.from_environment()
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.is_first) == (0, 1, 0, True)
    rows = torch.arange(5)
    assert torch.equal(ranks.share(rows), rows)
    assert ranks.any(True, torch.device("cpu"))
    assert not ranks.any(False, torch.device("cpu"))


def test_what_a_scheduler_left_behind_makes_no_second_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Ranks.from_environment() == Ranks()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; expected 1 or more"),
        ({"WORLD_SIZE": "2"}, "RANK is not set; expected 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2'; expected 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
    ],
)
def test_variables_that_do_not_fit_one_another_are_named(monkeypatch, variables, said):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        Ranks.from_environment()


def test_shares_cover_a_batch_once_and_differ_by_a_row_at_most(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    for n_rows in (1, 2, 3, 7, 64):
        shares = []
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            shares.append(Ranks.from_environment().share(torch.arange(n_rows)).tolist())
        assert sorted(row for share in shares for row in share) == list(range(n_rows))
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_processes_that_cannot_find_each_other_are_told_what_is_missing(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(SettingsError, match="MASTER_ADDR is not set"),
        process_group(Ranks(0, 2), torch.device("cpu")),
    ):
        pass


def test_a_process_that_lost_the_others_says_so_and_other_errors_stay_what_they_are(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: None)

    def fails(text):
        with process_group(Ranks(1, 2), torch.device("cpu")):
            raise RuntimeError(text)

    with pytest.raises(TrainingError, match=r"process 1 of 2 lost the others: .*closed by peer"):
        fails("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1\nmore")
    with pytest.raises(RuntimeError, match="shapes"):
        fails("shapes do not fit")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *(Path(path) for path in sys.argv[3:]))
