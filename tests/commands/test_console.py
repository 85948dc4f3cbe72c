"""What is printed, whatever standard output and standard error are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import recording, run_metrics

from ndt_cli.commands.console import make_console
from ndt_cli.data.write import write_recording

SETTINGS = {
    "train.max_epochs": 3,
    "train.warmup_epochs": 0,
    "train.device": "cpu",
    "model.n_layers": 1,
}
SHORT = ["--config", "lorenz-quick", *(f"--set={key}={value}" for key, value in SETTINGS.items())]
FULL = Path("/dev/full")


def _ndt(arguments, **streams):
    command = [sys.executable, "-m", "ndt_cli", *map(str, arguments)]
    return subprocess.run(command, text=True, check=False, **streams)


def _train(tmp_path, **streams):
    write_recording(recording(), tmp_path / "spikes.h5")
    arguments = ["train", "--data", tmp_path / "spikes.h5", "--out", tmp_path / "run", *SHORT]
    done = _ndt(arguments, **streams)
    assert len(run_metrics(tmp_path / "run")) == 3  # trained to the end, whatever was printed
    assert (tmp_path / "run" / "summary.json").is_file()
    return done


def _closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def test_training_ends_well_when_nobody_reads_its_progress(tmp_path):
    done = _train(tmp_path, stdout=subprocess.PIPE, stderr=_closed_pipe())
    assert done.returncode == 0
    assert "run: " in done.stdout


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_results_that_cannot_be_printed_end_in_a_message_after_all_is_saved(tmp_path):
    with FULL.open("w") as full:
        done = _train(tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "Error: cannot print the results on standard output: No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_does_not_end_training(tmp_path):
    with FULL.open("w") as full:
        assert _train(tmp_path, stdout=subprocess.PIPE, stderr=full).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="closes a descriptor in a POSIX shell")
@pytest.mark.parametrize(("closed", "code"), [(">&-", 1), ("2>&-", 0), (">&- 2>&-", 1)])
def test_closed_streams_give_an_exit_code_and_no_traceback(closed, code):
    line = f"{sys.executable} -m ndt_cli presets {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_control_characters_in_names_do_not_reach_the_terminal():
    console = make_console(force_terminal=True, width=60)
    with console.capture() as captured:
        console.print("unit \x1b]0;title\x07\x9b31m \u202eend", style="red")
    text = captured.get()
    assert "title" in text
    assert "\x1b]" not in text
    assert not {"\x07", "\x9b", "\u202e"} & set(text)
    assert "\x1b[31m" in text  # its own color is printed


def test_a_warning_of_a_library_does_not_command_the_terminal_either():
    probe = (
        "import warnings; from ndt_cli.app import main\n"
        "try: main(['presets'])\n"
        "except SystemExit: pass\n"
        "warnings.warn('Glyph 27 (\\x1b]0;title\\x07) is missing')"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert "title" in done.stderr
    assert not {"\x1b", "\x07"} & set(done.stderr)


def test_a_stream_without_the_characters_shows_others():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = _ndt(["presets", "mc_maze"], env=environment, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("columns", ["0", "-3", "wide"])
def test_an_invalid_width_is_ignored(columns):
    environment = {**os.environ, "COLUMNS": columns}
    done = _ndt(["presets"], env=environment, capture_output=True)
    assert "lorenz-quick" in done.stdout


def test_json_is_ascii():
    done = _ndt(["presets", "lorenz-quick", "--json"], capture_output=True)
    assert done.stdout.isascii()
    assert json.loads(done.stdout)
