"""``ndt bench --stream``: a new bin, beside inferring a window for it."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders import tiny_settings
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.bench import bin_by_bin
from ndt_cli.bench.bin_by_bin import run_stream_bench
from ndt_cli.bench.workload import Workload
from ndt_cli.errors import SettingsError


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(bin_by_bin, "_N_ROUNDS", 2)
    monkeypatch.setattr(bin_by_bin, "_WINDOWS_IN_A_ROW", 3)


def tiny(**model):
    model = {"positions": "relative", "context_back": 3, "n_layers": 2, **model}
    return Workload("tiny", tiny_settings(model=model), n_bins=8, n_neurons=3)


def test_windows_hold_the_bins_that_matter_to_one():
    result = run_stream_bench(tiny(context_forward=1), n_bins=51)
    assert result.lag_bins == 2
    assert result.window_bins == {
        "ndt, all": 9, "stock, all": 9, "ndt, of a layer": 5, "stock, of a layer": 5,
    }  # fmt: skip
    assert len(result.times["stream"].seconds) == len(result.times["plain loop"].seconds) == 51
    assert {len(result.times[name].seconds) for name in result.window_bins} == {6}
    assert result.times.keys() == result.processor_times.keys()
    assert all(min(times.seconds) > 0 for times in result.times.values())
    assert result.speedup("stream") == 1
    assert result.speedup("ndt, all") > 1


def test_bins_at_the_pace_of_a_recording_wait_for_their_moment(monkeypatch):
    times = run_stream_bench(tiny(), n_bins=401).times
    assert len(times["stream, one every 20 ms"].seconds) == 3  # of 200 bins, one
    now, called = [0.0], []

    def sleep(seconds):
        now[0] += seconds

    def action(t):
        called.append(round(now[0], 6))
        now[0] += 0.005 if t else 0.03  # the first takes longer than the pause

    clock = SimpleNamespace(sleep=sleep, perf_counter=lambda: now[0], thread_time=lambda: 0.0)
    monkeypatch.setattr(bin_by_bin, "time", clock)
    seconds = bin_by_bin._paced(action, 0.02, 4)
    assert called == [0, 0.03, 0.04, 0.06]
    assert seconds[:, 0] == pytest.approx([0.03, 0.005, 0.005, 0.005])


def test_a_turn_begins_with_bins_that_are_not_timed(monkeypatch):
    called = []
    monkeypatch.setattr(bin_by_bin, "_WARM_UP", 0)
    seconds, _ = bin_by_bin._timed({"stream": called.append}, 16)
    assert called == [0, 1, *range(8), 8, 9, *range(8, 16)]
    assert np.isfinite(seconds["stream"]).all()


@pytest.mark.parametrize("model", [{"positions": "learned"}, {"context_back": -1}])
def test_a_model_that_ends_with_the_trial_is_not_measured(model):
    with pytest.raises(SettingsError, match="ends with the trained trial"):
        run_stream_bench(tiny(**model), n_bins=5)


def test_the_command_prints_times_ratios_and_bytes():
    small = [
        "--neurons", "5", "--stream-bins", "40", "--set", "model.width=16",
        "--set", "model.context_back=4",
    ]  # fmt: skip
    printed = CliRunner().invoke(app, ["bench", "--stream", *small])
    assert printed.exit_code == 0, printed.output
    for words in ("5 neurons, 4 layers, 4 bins back and 0 ahead", "p99.9", "the last 17 bins again",
                  "stock: the last 5 bins again", "MB; grown over 40 bins"):  # fmt: skip
        assert words in printed.stdout
    found = json.loads(CliRunner().invoke(app, ["bench", "--stream", "--json", *small]).stdout)
    assert found["times"]["stream"]["n"] == 40
    assert found["times"]["ndt, all"]["window_bins"] == 17
    assert found["lag_bins"] == 0


def _children():
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_busy_neighbor_is_on_the_core_that_is_named_and_gone_afterwards():
    before = os.sched_getaffinity(0)
    result = run_stream_bench(tiny(), n_bins=21)
    places = ["another core", "the same core"] if len(before) > 1 else ["the same core"]
    for place in places:
        assert len(result.times[f"stream, {place} busy"].seconds) == 6
        assert len(result.times[f"plain loop, {place} busy"].seconds) == 6
    assert os.sched_getaffinity(0) == before
    own, cpus = bin_by_bin._neighbors()["the same core"]
    others = _children()
    with bin_by_bin._busy_neighbor(own, cpus):
        assert os.sched_getaffinity(0) == cpus == {own}
        (child,) = _children() - others
        assert os.sched_getaffinity(int(child)) == {own}
    assert not Path(f"/proc/{child}").exists()
