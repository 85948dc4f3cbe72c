"""``ndt sweep --backend ray`` as a user sees it: a cluster of its own, or one that runs."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from builders import recording
from ray_cluster import ray_cluster, ray_environment
from test_sweep_run import assert_same_sweep

from ndt_cli.data.write import write_recording
from ndt_cli.search.pbt import Lineage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
]

SMALL = (
    "model.n_layers=1", "model.feedforward_size=8", "train.val_interval_epochs=10",
    "train.n_threads=1", "train.device=cpu", "train.warmup_epochs=0", "train.batch_size=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "spikes.h5"
    write_recording(recording(12, 6, rates=True, n_bins=8), path)
    return path


def _command(spikes, out, n_epochs, *args):
    settings = (*SMALL, f"data.file={spikes}", f"train.max_epochs={n_epochs}")
    words = [word for change in settings for word in ("--set", change)]
    return [
        sys.executable, "-m", "ndt_cli", "sweep", "--members", "2", "--no-default-run",
        "--out", str(out), *words, *args,
    ]  # fmt: skip


def _epochs(out):
    file = out / "members/000/metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def _wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sweep_on_a_cluster_of_its_own_prints_its_results_alone(spikes, tmp_path):
    out = tmp_path / "ray"
    with ray_environment():
        process = subprocess.Popen(
            _command(spikes, out, 300, "--backend", "ray", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_for(lambda: _epochs(out) >= 20)
        os.kill(json.loads((out / "members/000/running.json").read_text())["pid"], signal.SIGKILL)
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [row["rank"] for row in json.loads(printed)["members"]] == [1, 2]
    assert "member 0: its worker died" in said
    assert "Traceback" not in said
    subprocess.run(_command(spikes, tmp_path / "here", 300), check=True, capture_output=True)
    assert_same_sweep(out, tmp_path / "here")


def test_generations_on_a_cluster_of_its_own_are_those_of_a_sweep_here(spikes, tmp_path):
    generations = (
        "--pbt-interval", "2", "--members", "4", "--set", "train.val_interval_epochs=1", "--json"
    )  # fmt: skip
    with ray_environment():
        on_ray = subprocess.run(
            _command(spikes, tmp_path / "ray", 4, *generations, "--backend", "ray"),
            capture_output=True,
            text=True,
        )
    assert on_ray.returncode == 0, on_ray.stderr
    assert on_ray.stderr.count("is replaced by a copy of") == 1
    here = subprocess.run(
        _command(spikes, tmp_path / "here", 4, *generations), check=True, capture_output=True
    )
    assert json.loads(on_ray.stdout)["members"]
    assert json.loads(here.stdout)["members"]
    assert Lineage.read(tmp_path / "ray").moves
    assert Lineage.read(tmp_path / "ray") == Lineage.read(tmp_path / "here")
    assert_same_sweep(tmp_path / "ray", tmp_path / "here")


def test_ctrl_c_saves_prints_the_resume_command_and_leaves_a_running_cluster_alone(
    spikes, tmp_path
):
    out = tmp_path / "ray"
    with ray_cluster(n_cpus=2) as address:
        import ray

        process = subprocess.Popen(
            _command(spikes, out, 100_000, "--backend", "ray", "--ray-address", address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_for(lambda: _epochs(out) >= 20)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=300)
        assert process.returncode == 130, said
        assert printed == ""
        assert f"ndt sweep --resume {out} --backend ray --ray-address {address}" in said
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
    assert (out / "members/000/checkpoints/last.safetensors").is_file()


def test_a_missing_cluster_is_reported_within_seconds(spikes, tmp_path):
    begun = time.monotonic()
    for address, code, words in (
        ("127.0.0.1:1", 1, "127.0.0.1:1 cannot be reached"),
        ("nowhere", 2, "expected HOST:PORT or auto"),
        ("ray://127.0.0.1:10001", 2, "Ray Client"),
    ):
        command = _command(spikes, tmp_path / "x", 2, "--backend", "ray", "--ray-address", address)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "x").exists()
