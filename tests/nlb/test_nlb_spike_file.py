"""A benchmark data set's trials as a spike file: what a submission trains on, for any command."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("nlb_tools", reason="nlb-tools is not installed: see the README, Installing")
pytest.importorskip("pynwb", reason='pynwb is not installed: pip install "ndt-cli[nlb]"')

from builders import tiny_settings
from nlb_nwb import write_maze

from ndt_cli.app import app
from ndt_cli.data.loading import load_file
from ndt_cli.errors import DataError, NdtError, SettingsError
from ndt_cli.nlb.submit import train_members
from ndt_cli.nlb.tensors import make_tensors, to_recording, write_spike_file
from ndt_cli.settings.tree import DataSettings

SETTINGS = tiny_settings(train={"max_epochs": 1, "choose_by": "co-bps"})


def ndt(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("nlb")
    write_maze(root, n_train=6, n_val=4, n_test=3)
    return root


@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_it_reads_back_as_the_trials_of_the_validation_phase(data_dir, tmp_path, ending):
    path = tmp_path / f"spikes.{ending}"
    write_spike_file("mc_maze_small", 20, data_dir, path)
    made = to_recording(make_tensors("mc_maze_small", 20, "val", data_dir))
    read = load_file(path, DataSettings())
    assert read.train.fingerprint == made.train.fingerprint
    assert read.valid.fingerprint == made.valid.fingerprint
    assert (read.train.n_trials, read.valid.n_trials) == (6, 4)
    assert (read.train.n_heldout, read.train.n_forward, read.train.bin_ms) == (2, 10, 20.0)
    assert read.valid.hidden_counts_known


def test_it_is_the_file_that_a_submission_leaves_beside_its_runs(data_dir, tmp_path):
    tensors = make_tensors("mc_maze_small", 20, "val", data_dir)
    train_members(SETTINGS, to_recording(tensors), tmp_path / "runs", 1)
    write_spike_file("mc_maze_small", 20, data_dir, tmp_path / "own.h5")
    beside = tmp_path / "runs" / "spikes.h5"
    assert (tmp_path / "own.h5").read_bytes() == beside.read_bytes()


def test_nothing_is_overwritten_and_a_wrong_ending_is_refused_before_any_work(data_dir, tmp_path):
    mine = tmp_path / "mine.h5"
    mine.write_bytes(b"mine")
    with pytest.raises(NdtError, match=r"mine\.h5"):
        write_spike_file("mc_maze_small", 20, tmp_path / "nowhere", mine)
    assert mine.read_bytes() == b"mine"
    with pytest.raises(DataError, match=r"expected \.npz, \.h5"):
        write_spike_file("mc_maze_small", 20, tmp_path / "nowhere", tmp_path / "spikes.csv")
    with pytest.raises(SettingsError, match="5 and 20 ms, not 10"):
        write_spike_file("mc_maze_small", 10, data_dir, tmp_path / "spikes.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.h5"]


# ------------------------------------------------------------------ the command
def test_the_command_writes_a_file_that_trains(data_dir, tmp_path):
    path = tmp_path / "spikes.h5"
    here = ("--data-dir", data_dir, "--bin-ms", 20)
    made = ndt("nlb-data", "mc_maze_small", "--spikes", path, *here)
    assert made.exit_code == 0, made.output
    said = "6 train + 4 validation trials x 35 + 10 forward bins of 20 ms x 4 + 2 held-out neurons"
    assert said in made.stdout
    assert f"spikes: {path}" in made.stdout
    assert "context_back" in made.stderr  # presets count their window in 5 ms bins
    run = tmp_path / "run"
    small = ("train.max_epochs=2", "train.warmup_epochs=0", "train.device=cpu", "train.n_threads=1")
    changes = [word for change in small for word in ("--set", change)]
    trained = ndt("train", "--config", "nlb-quick", "--data", path, "--out", run, *changes)
    assert trained.exit_code == 0, trained.output
    again = ndt("nlb-data", "mc_maze_small", "--spikes", path, *here)
    assert again.exit_code == 1
    assert str(path) in again.stderr
    before = path.read_bytes()
    assert ndt("nlb-data", "mc_maze_small", "--spikes", path, "--overwrite", *here).exit_code == 0
    assert path.read_bytes() == before


def test_json_lists_the_contents(data_dir, tmp_path):
    path = tmp_path / "spikes.npz"
    made = ndt("nlb-data", "mc_maze_small", "--spikes", path, "--data-dir", data_dir, "--json")
    assert json.loads(made.stdout) == {
        "schema": "ndt/nlb-spikes/1",
        "spikes": str(path),
        "dataset": "mc_maze_small",
        "bin_ms": 5,
        "trials": [6, 4],
        "neurons": [4, 2],
        "bins": [140, 40],
    }
    assert "context_back" not in made.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("mc_maze_small", "mc_rtt", "--spikes", "x.h5"),
        ("--spikes", "x.h5"),
        ("mc_maze_small", "--spikes", "x.h5", "--check"),
        ("mc_maze_small", "--spikes", "x.h5", "--test-labels"),
        ("mc_maze_small", "--bin-ms", 20),
        ("mc_maze_small", "--overwrite"),
    ],
)
def test_trials_are_of_one_data_set_and_nothing_is_fetched_for_them(words, tmp_path):
    refused = ndt("nlb-data", *words, "--data-dir", tmp_path)
    assert refused.exit_code == 2
    assert "--spikes" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_nwb_files_are_named_with_what_fetches_them(tmp_path):
    missing = ndt("nlb-data", "mc_rtt", "--spikes", tmp_path / "x.h5", "--data-dir", tmp_path)
    assert missing.exit_code == 1
    assert "ndt nlb-data mc_rtt" in missing.stderr
