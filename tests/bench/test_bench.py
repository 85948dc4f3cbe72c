"""``ndt bench``: what is timed is what trains, and every figure follows from what was measured."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from builders import assert_generators_untouched, same_tensors, snapshot, spike_data, tiny_settings
from test_imports import loaded_by

from ndt_cli import app
from ndt_cli.bench import inference_times, peak, run
from ndt_cli.bench.alone import Alone, make_training, train_alone
from ndt_cli.bench.memory import PeakMemory
from ndt_cli.bench.peak import measure_peak
from ndt_cli.bench.product import PARTS, ProductTraining
from ndt_cli.bench.run import run_bench
from ndt_cli.bench.timing import Times, time_in_turn
from ndt_cli.bench.workload import Workload, workload_of
from ndt_cli.data.spike_data import Recording
from ndt_cli.data.write import write_recording
from ndt_cli.engine.device import Compute
from ndt_cli.errors import MissingExtraError, SettingsError
from ndt_cli.settings.load import load_settings

CPU = torch.device("cpu")
FLOAT32 = Compute(CPU, torch.float32)


@pytest.fixture
def quick(monkeypatch):
    """A bench of small matrices, few inferences, and no process but this one."""
    monkeypatch.setattr(peak, "_WIDTHS", {"cpu": (16,)})
    monkeypatch.setattr(peak, "_SECONDS", 0.001)
    monkeypatch.setattr(inference_times, "_TURNS", 2)
    monkeypatch.setattr(inference_times, "_IN_A_ROW", 3)
    n_bytes = {"ndt": 1_000_000, "plain": 2_000_000, "stock": None}

    def alone(workload, kind, n_threads, seconds):
        return Alone(Times((0.1,)), n_bytes[kind])

    monkeypatch.setattr(run, "train_alone", alone)


def tiny(**sections):
    return Workload("tiny", tiny_settings(**sections), n_bins=8, n_neurons=3)


# The size of the trials


@pytest.mark.parametrize(
    ("preset", "changes", "size"),
    [
        ("chaotic-rnn", [], (64, 100, 50, 0, 0)),
        ("lorenz-quick", ["train.batch_size=32"], (32, 50, 29, 0, 0)),
        ("mc_maze", [], (64, 180, 182, 45, 40)),
        ("mc_maze", ["data.bin_ms=20"], (64, 45, 182, 45, 10)),
        ("ablation-rates", [], (64, 180, 182, 45, 40)),
        ("dmfc_rsg", [], (64, 340, 54, 14, 40)),
    ],
)
def test_a_preset_has_the_size_of_its_own_data(preset, changes, size):
    found = workload_of(preset, load_settings(preset, changes))
    got = (found.n_trials, found.n_bins, found.n_neurons, found.n_heldout, found.n_forward)
    assert got == size


def test_another_size_keeps_the_share_of_what_is_never_seen():
    found = workload_of("mc_maze", load_settings("mc_maze"), n_bins=90, n_neurons=364)
    assert (found.n_bins, found.n_neurons) == (90, 364)
    assert (found.n_heldout, found.n_forward) == (90, 20)


def test_a_spike_file_gives_its_own_size(tmp_path):
    data = spike_data(10, 7, 4)
    file = tmp_path / "spikes.npz"
    write_recording(Recording(data, data, source="tiny", layout="ndt"), file)
    found = workload_of("mine", load_settings("lorenz", [f"data.file={file}"]))
    assert (found.n_bins, found.n_neurons) == (7, 4)


def test_settings_without_a_size_ask_for_it():
    settings = load_settings("nlb-quick")
    with pytest.raises(SettingsError, match="nlb-quick") as caught:
        workload_of("nlb-quick", settings, n_bins=10)
    assert "--bins and --neurons" in caught.value.hint
    assert workload_of("nlb-quick", settings, n_bins=10, n_neurons=5).n_neurons == 5


def test_spikes_have_the_size_and_are_the_same_each_time():
    workload = Workload("tiny", tiny_settings(), 8, 5, n_heldout=2, n_forward=3)
    data = workload.spikes()
    assert data.spikes_BTN.shape[1:] == (8, 5)
    assert data.n_trials > workload.n_trials
    assert (data.n_heldout, data.n_forward) == (2, 3)
    assert data.fingerprint == workload.spikes().fingerprint


# Timing


def test_actions_take_turns_and_what_is_not_to_be_timed_is_not():
    calls = []
    actions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = time_in_turn(actions, CPU, n_rounds=2, in_a_row=2, untimed=1, warm_up=1)
    assert "".join(calls) == "ab" + 2 * ("aaa" + "bbb")
    assert {name: len(value.seconds) for name, value in times.items()} == {"a": 4, "b": 4}


def test_percentiles_are_in_milliseconds():
    times = Times(tuple(np.arange(1, 102) / 1000))
    assert times.median_ms == pytest.approx(51)
    assert [times.percentile_ms(p) for p in (0, 10, 99)] == pytest.approx([1, 11, 100])


def test_a_step_taken_apart_is_the_same_step():
    workload = tiny(mask={"max_span": 3})
    whole, in_parts = (ProductTraining(workload, workload.spikes(), FLOAT32) for _ in range(2))
    before = snapshot(whole.network)
    for _ in range(9):  # into a second epoch
        whole.step()
    parts = in_parts.time_parts(9)
    assert same_tensors(snapshot(whole.network), snapshot(in_parts.network))
    assert not same_tensors(snapshot(whole.network), before)
    assert tuple(parts) == PARTS
    assert all(len(times.seconds) == 9 for times in parts.values())


def test_the_plain_path_is_another_path_to_the_same_weights():
    workload = tiny(model={"dropout": 0.0, "dropout_embedding": 0.0, "dropout_rates": 0.0})
    fast, plain = (
        make_training(kind, workload, workload.spikes(), FLOAT32) for kind in ("ndt", "plain")
    )
    assert (fast.network.plain, plain.network.plain) == (False, True)
    fast.step()
    plain.step()
    for ours, theirs in zip(fast.network.parameters(), plain.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_the_fastest_products_are_those_of_the_best_size(monkeypatch):
    monkeypatch.setattr(peak, "_WIDTHS", {"cpu": (8, 16)})
    seconds = iter([(0.5,), (0.25, 0.5), (0.125,), (0.5, 0.5)])
    monkeypatch.setattr(peak, "_times", lambda action, device, n: next(seconds))
    monkeypatch.setattr(peak, "_SECONDS", 1.0)
    assert measure_peak(CPU, torch.float32) == 2 * 16**3 / 0.125


def test_a_device_whose_products_are_slow_is_spared_the_larger_ones(monkeypatch):
    monkeypatch.setattr(peak, "_WIDTHS", {"cpu": (8, 16)})
    widths = []
    monkeypatch.setattr(peak, "_times", lambda action, device, n: widths.append(n) or (2.0,))
    assert measure_peak(CPU, torch.bfloat16) == 2 * 8**3 / 2.0
    assert widths == [1, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process took at most")
def test_the_peak_of_memory_is_seen_also_when_it_is_over():
    memory = PeakMemory(CPU)
    block = np.ones(64_000_000, dtype=np.uint8)
    del block
    peak_bytes = memory.n_bytes()
    assert peak_bytes is not None
    assert 60_000_000 < peak_bytes < 200_000_000
    assert PeakMemory(CPU).n_bytes() < 30_000_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ndt", "plain", "stock"])
def test_steps_in_a_process_of_their_own_are_timed_and_their_memory_is_known(kind):
    # Weights and moments alone: 6 layers of width 400.
    workload = Workload("wide", load_settings("chaotic-rnn", ["train.batch_size=2"]), 4, 200)
    alone = train_alone(workload, kind, n_threads=1, seconds=0.0)
    assert len(alone.times.seconds) == 2
    if sys.platform == "linux":
        assert 16 * 6 * 4 * 400**2 < alone.peak_bytes < 1_000_000_000


# The result


def test_figures_follow_from_what_was_measured(quick):
    result = run_bench(tiny(), n_steps=3)
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(found) == [
        "workload", "machine", "peak_gflop_per_s", "train_step", "parts_ms", "float32_limit",
        "inference",
    ]  # fmt: skip
    assert found["machine"]["n_threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    assert list(found["parts_ms"]) == list(PARTS)
    steps = found["train_step"]
    assert {kind: step["n_steps"] for kind, step in steps.items()} == dict.fromkeys(
        ("ndt", "plain", "stock"), 3
    )
    assert {kind: step["peak_mb"] for kind, step in steps.items()} == {
        "ndt": 1.0, "plain": 2.0, "stock": None,
    }  # fmt: skip
    ndt, stock = steps["ndt"], steps["stock"]
    assert stock["speedup"] == 1
    assert ndt["speedup"] == pytest.approx(stock["median_ms"] / ndt["median_ms"])
    assert ndt["trials_per_s"] == pytest.approx(4 / ndt["median_ms"] * 1000)
    assert ndt["bins_per_s"] == pytest.approx(8 * ndt["trials_per_s"])
    assert ndt["min_ms"] <= ndt["p10_ms"] <= ndt["median_ms"] <= ndt["p90_ms"]
    assert ndt["n_parameters"] == stock["n_parameters"]
    peaks, limit = found["peak_gflop_per_s"], found["float32_limit"]
    assert stock["share_of_peak"] == pytest.approx(stock["gflop_per_s"] / peaks["float32"])
    assert limit["ms"] == pytest.approx(stock["gflop"] / peaks["float32"] * 1000)
    assert limit["ndt_over_limit"] == pytest.approx(ndt["median_ms"] / limit["ms"])
    one = {kind: times["one_trial_p50_ms"] for kind, times in found["inference"].items()}
    ratio = found["inference"]["ndt"]["one_trial_speedup"]
    assert ratio == pytest.approx(one["stock"] / one["ndt"])


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra of that name")
def test_inference_by_openvino_is_one_more_kind_where_it_is_wanted(quick):
    found = run_bench(tiny(), n_steps=1, openvino=True).to_json()["inference"]
    assert list(found) == ["ndt", "openvino", "stock"]
    for times in found.values():
        assert times["one_trial_speedup"] == pytest.approx(
            found["stock"]["one_trial_p50_ms"] / times["one_trial_p50_ms"]
        )
    # Trials at once are not what it infers.
    assert [times["trials_per_s"] is None for times in found.values()] == [False, True, False]


def test_longer_trials_than_openvino_infers_are_refused_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("ndt_cli.bench.run.require_openvino", lambda device: None)
    with pytest.raises(SettingsError, match="up to 256 bins here, and these have 300"):
        run_bench(replace(tiny(), n_bins=300), openvino=True)


def test_openvino_is_missed_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr("ndt_cli.engine.openvino_network.find_spec", lambda name: None)
    told = []
    with pytest.raises(MissingExtraError):
        run_bench(tiny(), watch=told.append, openvino=True)
    assert not told


def test_the_caller_keeps_its_generators_and_its_threads(quick):
    before = torch.get_num_threads()
    with assert_generators_untouched():
        run_bench(tiny(train={"n_threads": before + 1}), n_steps=1)
    assert torch.get_num_threads() == before


# The command


@pytest.fixture
def bench(capsys, quick):
    def run(*args):
        with pytest.raises(SystemExit) as caught:
            app.main(["bench", *args])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run


SMALL = [
    "--trials=4", "--bins=8", "--neurons=3", "--steps=2", "--threads=1", "--device=cpu",
    "--set=model.n_layers=1",
]  # fmt: skip


def test_json_is_all_that_stands_on_standard_output(bench):
    code, out, err = bench(*SMALL, "--json")
    assert code == 0
    found = json.loads(out)
    sizes = ("name", "n_trials", "n_bins", "n_neurons")
    assert [found["workload"][key] for key in sizes] == ["chaotic-rnn", 4, 8, 3]
    assert found["workload"]["model"]["n_layers"] == 1
    assert "measuring training" in err


@pytest.mark.parametrize("option", ["--config", "--preset"])
def test_the_table_says_what_was_measured_where_and_the_ratio(bench, option):
    code, out, _ = bench(*SMALL, option, "mc_maze", "--set", "train.precision=float32")
    assert code == 0
    assert "mc_maze: 4 trials x 8 bins (2 forward) x 3 neurons (1 held out), 1 layer\n" in out
    assert "CPU threads: 1" in out
    assert "products of ndt in float32" in out
    assert "times as fast as stock" in out
    assert all(part in out for part in PARTS)
    assert "float32 limit" in out
    lines = [line.rstrip() for line in out.splitlines() if "CPU threads" not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--figure=a.png"], "add --growth"),
        (["--growth", "--figure=a.jpg"], "--figure a.jpg"),
        (["--growth", "--steps=3"], "leave out --steps"),
        (["--growth", "--openvino"], "leave out one"),
        (["--preset=nlb-quick"], "--bins and --neurons"),
        (["--preset=chaotic"], "did you mean the preset chaotic-rnn?"),
        (["--bins=0"], "--bins"),
        (["--device=tpu"], "train.device"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(bench, args, said):
    code, out, err = bench(*args)
    assert (code, out) == (2, "")
    assert said in err


def test_the_help_of_bench_loads_neither_torch_nor_matplotlib():
    loaded = loaded_by("from ndt_cli.app import main; main(['bench', '--help'])")
    assert loaded.isdisjoint({"torch", "ray", "matplotlib"})
