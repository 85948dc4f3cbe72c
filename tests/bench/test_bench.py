"""``ndt bench``: what is timed is what trains, and ratios follow from the times."""

import json

import numpy as np
import pytest
import torch
from builders import assert_generators_untouched, same_tensors, snapshot, spike_data, tiny_settings

from ndt_cli import app
from ndt_cli.bench import measure
from ndt_cli.bench.measure import NdtTraining, run_bench, time_in_turn
from ndt_cli.bench.workload import Times, Workload, workload_of
from ndt_cli.data.spike_data import Recording
from ndt_cli.data.write import write_recording
from ndt_cli.engine.device import Compute
from ndt_cli.errors import SettingsError
from ndt_cli.settings.load import load_settings

CPU = torch.device("cpu")
FLOAT32 = Compute(CPU, torch.float32)


@pytest.fixture
def quick(monkeypatch):
    """Few repeats of each measurement."""
    monkeypatch.setattr(measure, "_N_ROUNDS", 2)
    monkeypatch.setattr(measure, "_IN_A_ROW", 3)


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


def test_another_size_keeps_the_share_of_held_out_neurons_and_forward_bins():
    found = workload_of("mc_maze", load_settings("mc_maze"), n_bins=90, n_neurons=364)
    assert (found.n_bins, found.n_neurons) == (90, 364)
    assert (found.n_heldout, found.n_forward) == (90, 20)


def test_a_spike_file_gives_its_own_size(tmp_path):
    data = spike_data(10, 7, 4)
    file = tmp_path / "spikes.npz"
    write_recording(Recording(data, data, source="tiny", layout="ndt"), file)
    found = workload_of("mine", load_settings("lorenz", [f"data.file={file}"]))
    assert (found.n_bins, found.n_neurons) == (7, 4)


def test_settings_without_a_trial_size_ask_for_it():
    settings = load_settings("nlb-quick")
    with pytest.raises(SettingsError, match="nlb-quick") as caught:
        workload_of("nlb-quick", settings, n_bins=10)
    assert "`n_bins` and `n_neurons`" in caught.value.hint
    assert workload_of("nlb-quick", settings, n_bins=10, n_neurons=5).n_neurons == 5


def test_spikes_have_the_size_and_are_the_same_each_time():
    workload = Workload("tiny", tiny_settings(), 8, 5, n_heldout=2, n_forward=3)
    data = workload.spikes()
    assert data.spikes_BTN.shape[1:] == (8, 5)
    assert data.n_trials > workload.n_trials
    assert (data.n_heldout, data.n_forward) == (2, 3)
    assert data.fingerprint == workload.spikes().fingerprint


# Timing


def test_actions_take_turns_and_untimed_repeats_are_not_timed():
    calls = []
    actions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = time_in_turn(actions, CPU, n_rounds=2, in_a_row=2, untimed=1)
    assert "".join(calls) == 2 * ("aaa" + "bbb")
    assert {name: len(value.seconds) for name, value in times.items()} == {"a": 4, "b": 4}


def test_percentiles_are_in_milliseconds():
    times = Times(tuple(np.arange(1, 102) / 1000))
    assert times.median_ms == pytest.approx(51)
    assert [times.percentile_ms(p) for p in (0, 10, 99)] == pytest.approx([1, 11, 100])


def test_steps_change_the_weights_and_are_the_same_each_time():
    workload = tiny(mask={"max_span": 3})
    one, other = (NdtTraining(workload, workload.spikes(), FLOAT32) for _ in range(2))
    before = snapshot(one.network)
    for _ in range(9):  # into a second epoch
        one.step()
        other.step()
    assert not same_tensors(snapshot(one.network), before)
    assert same_tensors(snapshot(one.network), snapshot(other.network))


# The result


def test_ratios_follow_from_the_times(quick):
    result = run_bench(tiny(), n_steps=3)
    found = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert list(found) == ["workload", "machine", "train_step", "inference"]
    assert found["machine"]["n_threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    ndt, stock = found["train_step"]["ndt"], found["train_step"]["stock"]
    assert (ndt["n_steps"], stock["n_steps"]) == (3, 3)
    assert stock["speedup"] == 1
    assert ndt["speedup"] == pytest.approx(stock["median_ms"] / ndt["median_ms"])
    assert ndt["trials_per_s"] == pytest.approx(4 / ndt["median_ms"] * 1000)
    assert ndt["p10_ms"] <= ndt["median_ms"] <= ndt["p90_ms"]
    assert ndt["peak_mb"] is None  # measured on a GPU alone
    ndt, stock = found["inference"]["ndt"], found["inference"]["stock"]
    ratio = stock["one_trial_p50_ms"] / ndt["one_trial_p50_ms"]
    assert ndt["one_trial_speedup"] == pytest.approx(ratio)
    assert ndt["batch_speedup"] == pytest.approx(stock["batch_ms"] / ndt["batch_ms"])
    assert ndt["trials_per_s"] == pytest.approx(ndt["batch_size"] / ndt["batch_ms"] * 1000)


@pytest.mark.gpu
def test_the_memory_of_a_gpu_is_measured(quick):
    # Weights, gradients and moments alone: 6 layers of width 400.
    changes = ["train.batch_size=2", "train.device=cuda"]
    workload = Workload("wide", load_settings("chaotic-rnn", changes), 4, 200)
    for step in run_bench(workload, n_steps=1).to_json()["train_step"].values():
        assert 16 * 6 * 4 * 400**2 < 1e6 * step["peak_mb"] < 1e9


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


def test_only_json_is_printed_on_standard_output(bench):
    code, out, err = bench(*SMALL, "--json")
    assert code == 0
    found = json.loads(out)
    sizes = ("name", "n_trials", "n_bins", "n_neurons")
    assert [found["workload"][key] for key in sizes] == ["chaotic-rnn", 4, 8, 3]
    assert found["workload"]["model"]["n_layers"] == 1
    assert "measuring training" in err


@pytest.mark.parametrize("option", ["--config", "--preset"])
def test_the_tables_say_what_was_measured_where_and_the_ratios(bench, option):
    code, out, _ = bench(*SMALL, option, "mc_maze", "--set", "train.precision=float32")
    assert code == 0
    assert "mc_maze: 4 trials x 8 bins (2 forward) x 3 neurons (1 held out), 1 layer\n" in out
    assert "CPU threads: 1" in out
    assert "ndt computes in float32" in out
    assert out.count("times as fast as stock") == 4
    assert "peak memory" not in out
    lines = [line.rstrip() for line in out.splitlines() if "CPU threads" not in line]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--threads=1", "--set=train.n_threads=2"], "the same setting"),
        (["--preset=nlb-quick"], "Give --bins and --neurons"),
        (["--preset=chaotic"], "did you mean the preset chaotic-rnn?"),
        (["--bins=0"], "--bins"),
        (["--device=tpu"], "train.device"),
    ],
)
def test_an_impossible_measurement_is_refused_before_it_starts(bench, args, said):
    code, out, err = bench(*args)
    assert (code, out) == (2, "")
    assert said in err
