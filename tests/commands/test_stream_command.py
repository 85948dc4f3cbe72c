"""``ndt stream`` as a user sees it: lines in, lines out."""

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from builders import recording, tiny_settings
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.data.loading import load_recording
from ndt_cli.data.write import write_recording
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.training import train
from ndt_cli.fitting import fit
from ndt_cli.settings.tree import DataSettings

CAUSAL = {"positions": "relative", "context_forward": 0, "context_back": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A causal run with behavior, one that looks two bins ahead, and one that ends with a trial."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for name, model in (
        ("causal", CAUSAL),
        ("ahead", {**CAUSAL, "context_forward": 2}),
        ("trials", {**CAUSAL, "positions": "learned"}),
    ):
        data = recording(12, 6, n_bins=8, rates=name != "causal")
        if name == "causal":
            from dataclasses import replace

            data = replace(data, **{
                split: replace(
                    getattr(data, split),
                    behavior_BTV=rng.normal(size=(*getattr(data, split).spikes_BTN.shape[:2], 2)),
                    behavior_names=("hand x", "hand y"),
                )
                for split in ("train", "valid")
            })  # fmt: skip
        file = folder / f"{name}.h5"
        write_recording(data, file)
        settings = tiny_settings(model=model)
        settings = settings.model_copy(update={"data": DataSettings(file=file)})
        train(settings, out=folder / name, recording=load_recording(settings.data))
    return folder


def stream(run, text, *options):
    return CliRunner().invoke(app, ["stream", str(run), *options], input=text)


def numbers(result):
    assert result.exit_code == 0, result.output
    return np.array([[float(x) for x in line.split()] for line in result.stdout.splitlines()])


def whole(run, counts_TN):
    model = load_trained(run)
    data = recording(1, 1, n_bins=len(counts_TN)).train
    data.spikes_BTN[0] = counts_TN
    return model.rates(data)[0] * 100  # bins of 10 ms


COUNTS = np.random.default_rng(3).integers(0, 5, (20, 3))
LINES = "".join(" ".join(map(str, row)) + "\n" for row in COUNTS)


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace(" ", ", "),
        "".join(json.dumps(row) + "\n" for row in COUNTS.tolist()),
        "\ufeff" + LINES.replace("\n", "\r\n"),
        LINES.replace(" ", "\t").rstrip(),
    ],
)
def test_every_bin_gives_a_line_of_rates_whatever_separates_the_counts(runs, text):
    found_TN = numbers(stream(runs / "causal", text))
    np.testing.assert_allclose(found_TN, whole(runs / "causal", COUNTS), rtol=1e-4)


def test_a_model_that_looks_ahead_says_how_late_it_is_and_prints_every_bin(runs):
    result = stream(runs / "ahead", LINES, "--json")
    assert "3 channels, bins of 10 ms; rates in Hz of 2 bins before, 20 ms late" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["bin"] for line in lines] == list(range(20))
    assert lines[7]["time_ms"] == 70.0
    assert "these are rates of one pass" not in result.stderr
    rates_TN = [line["rates_hz"] for line in lines]
    np.testing.assert_allclose(rates_TN, whole(runs / "ahead", COUNTS), rtol=1e-4)
    provisional = stream(runs / "ahead", LINES, "--provisional")
    assert "rates in Hz, provisional" in provisional.stderr
    last_N = numbers(provisional)[-1]
    np.testing.assert_allclose(last_N, rates_TN[-1], rtol=1e-4)
    assert len(numbers(provisional)) == 20


@pytest.mark.parametrize("lost", ["-", "", "null", "  "])
def test_a_lost_bin_is_a_bin_without_counts(runs, lost):
    counts_TN = COUNTS[:6].copy()
    counts_TN[2] = 0
    lines = LINES.splitlines()[:6]
    lines[2] = lost
    found_TN = numbers(stream(runs / "causal", "\n".join(lines) + "\n"))
    np.testing.assert_allclose(found_TN, whole(runs / "causal", counts_TN), rtol=1e-4)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 2", "line 3 has 2 counts; expected 3, one for each channel"),
        ("1 2 3 4", "line 3 has 4 counts; expected 3"),
        ("1 nan 3", "line 3: the count of channel 1 is not a number: nan"),
        ("1 2 -3", "line 3: the count of channel 2 is negative: -3"),
        ("0.5 2 3", "line 3: the count of channel 0 is not a whole number: 0.5"),
        ("1 two 3", "line 3 has 'two' as the count of channel 1; expected a whole number"),
        ("1, , 3", "line 3 has '' as the count of channel 1; expected a whole number"),
        ("1,2,,3", "line 3 has 4 counts; expected 3"),
        ("1 1_0 3", "line 3 has '1_0' as the count of channel 1; expected a whole number"),
        ("1 99999999999999999999 3", "line 3 has '99999999999999999999' as the count of channel 1"),
        ("[1, null, 3]", "line 3 has 'null' as the count of channel 1"),
        ("[1, [2], 3]", "line 3 has '[2]' as the count of channel 1"),
        ("[1, 2", "line 3 is not a JSON list"),
    ],
)
def test_a_wrong_line_is_named_and_the_bins_before_it_are_printed(runs, line, words):
    result = stream(runs / "causal", LINES[:12] + line + "\n" + LINES)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_a_model_that_knows_bins_by_their_place_in_a_trial_needs_a_reset_for_each(runs):
    result = stream(runs / "trials", LINES)
    assert result.exit_code == 1
    assert "line 9: " in result.stderr
    assert 'Write a line "reset" at the start of each trial' in result.stderr
    lines = LINES.splitlines()
    trials = stream(runs / "trials", "\n".join([*lines[:8], "reset", *lines[:8]]) + "\n")
    found_TN = numbers(trials)
    np.testing.assert_array_equal(found_TN[:8], found_TN[8:])


def test_behavior_is_decoded_in_columns_of_its_own(runs):
    found_TN = numbers(stream(runs / "causal", LINES, "--decode"))
    assert found_TN.shape == (20, 5)
    result = stream(runs / "causal", LINES, "--decode", "--json")
    assert "then hand x, hand y" in result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert set(last["decoded"]) == {"bin", "time_ms", "hand x", "hand y"}
    assert last["decoded"]["hand y"] == pytest.approx(found_TN[-1, 4], rel=1e-4)
    refused = stream(runs / "ahead", LINES, "--decode")
    assert refused.exit_code == 1
    assert "has no behavior to decode" in refused.stderr


def test_behavior_is_decoded_by_the_decoder_stored_with_the_run(runs, tmp_path):
    run = tmp_path / "run"
    settings = tiny_settings(model=CAUSAL, inference={"passes": 1})
    file = runs / "causal.h5"
    settings = settings.model_copy(update={"data": DataSettings(file=file)})
    fit(settings, out=run, draw=False)
    fitted = numbers(stream(runs / "causal", LINES, "--decode"))  # same data, no stored decoder
    moved = file.rename(tmp_path / "moved.h5")
    try:
        found_TN = numbers(stream(run, LINES, "--decode"))
        assert stream(runs / "causal", LINES, "--decode").exit_code == 1
    finally:
        moved.rename(file)
    np.testing.assert_allclose(found_TN, fitted, rtol=1e-4)


def test_a_channel_that_falls_silent_is_reported_once(runs):
    silent = "".join(f"{1 + t % 2} 0 1\n" for t in range(400))
    result = stream(runs / "causal", silent)
    assert result.exit_code == 0
    assert result.stderr.count("has been silent") == 1
    assert "channel 1 has been silent for 0." in result.stderr
    assert "400 bins; a bin took" in result.stderr


def _process(run):
    return subprocess.Popen(
        [sys.executable, "-m", "ndt_cli", "stream", str(run)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_in_a_pipe_each_bin_is_answered_before_the_next_is_written_until_ctrl_c(runs):
    with _process(runs / "causal") as process:
        for line in LINES.splitlines()[:5]:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert len(process.stdout.readline().split()) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == b""
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert re.search("[45] bins", said)  # it may come before the fifth is counted


def test_bins_that_come_late_are_named(runs, monkeypatch):
    # Bins of 10 ms. Nothing is late at the start and around a reset, nor by less than a bin.
    waits_ms = {0: 500, 3: 15, 4: 60, 5: 300, 6: 500, 9: 19, 11: 90}
    lines, now_s = LINES.splitlines()[:12], 0.0
    lines[5] = "reset"

    def source():
        nonlocal now_s
        for number, line in enumerate(lines):
            now_s += waits_ms.get(number, 10) / 1000
            yield line.encode() + b"\n"

    command = "ndt_cli.commands.stream"
    stdin = SimpleNamespace(stdin=SimpleNamespace(buffer=source()))
    monkeypatch.setattr(f"{command}.sys", stdin)
    monkeypatch.setattr(f"{command}.time", SimpleNamespace(perf_counter=lambda: now_s))
    result = stream(runs / "causal", "")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("in bins of 10 ms") == 1
    assert "line 5 came 50 ms late" in result.stderr
    assert "2 came late, by 80 ms at most" in result.stderr


def test_when_the_reader_has_gone_it_stops(runs):
    with _process(runs / "causal") as process:
        process.stdin.write(LINES.encode())
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        for _ in range(3):
            try:
                process.stdin.write(LINES.encode())
                process.stdin.flush()
            except BrokenPipeError:
                break
        assert process.wait(60) == 0
