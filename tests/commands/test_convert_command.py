"""The command: flags, what is printed, what is never overwritten."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from convert_files import session, write_npz, write_nwb

from ndt_cli.commands import convert as command
from ndt_cli.convert import ConvertOptions, convert, merge
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import all_trials
from ndt_cli.settings.tree import DataSettings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def nwb(tmp_path):
    return write_nwb(tmp_path / "rat.nwb", session())


WINDOW = ("--bin-ms", 20, "--align", "go", "--window", -100, 300, "--condition", "side")


def test_every_option_has_its_flag_default_and_help():
    parameters = inspect.signature(command.convert).parameters
    for name, field in ConvertOptions.model_fields.items():
        default = parameters[name].default
        value = getattr(default, "value", default)
        assert value == field.default or (value is None and field.default == ()), name
        (option,) = parameters[name].annotation.__metadata__
        assert option.help, name


def test_the_help_page_names_flags_and_no_python(ndt, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, page, _ = ndt("convert", "--help")
    assert code == 0
    assert "`" not in page
    assert "Default: --time-unit." in page
    for panel in ("Spikes", "Trials", "Units", "Behavior", "Training and validation"):
        assert f" {panel} " in page


def test_messages_name_what_is_typed(ndt, nwb, tmp_path):
    out = ("--out", tmp_path / "a.h5")
    _, _, err = ndt("convert", nwb, *out, "--bin-ms", 20, "--align", "go")
    assert "--align go: found no window" in err
    assert "--window -250 450" in err
    _, _, err = ndt("convert", nwb, *out, "--bin-ms", 20, "--trials", "qqqqqq")
    assert "--trials qqqqqq: found no such name; there are 'intervals/trials'" in err
    assert f"ndt convert --list {nwb}" in err


def test_the_file_holds_what_the_function_returns(ndt, nwb, tmp_path):
    path = tmp_path / "trials.h5"
    code, out, err = ndt("convert", nwb, "--out", path, *WINDOW, "--where", "success == 1")
    assert code == 0
    assert f"ndt check-data {path}" in err
    assert "Left out: 2 of 8 trials do not meet 'success == 1'." in out
    assert "left (2), right (4)" in out
    options = ConvertOptions(
        bin_ms=20, align="go", window_ms=(-100, 300), condition=("side",), where=("success == 1",)
    )
    made, back = convert(nwb, options).recording, load_file(path, DataSettings())
    assert back.train.fingerprint == made.train.fingerprint
    assert back.valid.fingerprint == made.valid.fingerprint
    assert back.train.neuron_names == ("101", "205", "309")


def test_json_is_all_that_is_printed(ndt, nwb, tmp_path):
    code, out, err = ndt("convert", nwb, "--out", tmp_path / "a.npz", *WINDOW, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["train"]["n_trials"] + facts["valid"]["n_trials"] == 8
    assert (facts["n_bins"], facts["bin_ms"], facts["format"]) == (20, 20, "NWB")
    assert facts["dropped"][0]["what"] == "spikes"


def test_list_shows_names_and_tables(ndt, nwb):
    code, out, _ = ndt("convert", nwb, "--list")
    assert code == 0
    assert "units/quality" in out
    assert "good, mua" in out
    assert "intervals/trials is a table of 8 rows." in out
    code, out, _ = ndt("convert", nwb, "--list", "--json")
    assert json.loads(out)["tables"] == {"intervals/trials": 8, "units": 3}


def test_nothing_is_overwritten_unless_asked(ndt, nwb, tmp_path):
    path = tmp_path / "mine.h5"
    path.write_text("mine")
    code, out, err = ndt("convert", nwb, "--out", path, *WINDOW)
    assert (code, out) == (1, "")
    assert "already exists" in err
    assert "--overwrite" in err
    assert path.read_text() == "mine"
    assert ndt("convert", nwb, "--out", path, "--overwrite", *WINDOW)[0] == 0
    assert load_file(path, DataSettings()).train.n_neurons == 3


def test_the_recording_itself_is_never_overwritten(ndt, tmp_path):
    path = write_npz(tmp_path / "rat.npz", session())
    before = path.read_bytes()
    code, _, err = ndt("convert", path, "--out", path, "--overwrite", *WINDOW)
    assert code == 2
    assert "the recording itself" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "--out: found no file to write"),
        (("--out", "a.csv"), 1, "expected .npz, .h5 or .hdf5"),
        (("--out", "a.h5", "--align", "goo", "--window", 0, 20), 2, "Did you mean go?"),
        (("--out", "a.h5", "--where", "success"), 2, "expected a column, one of"),
        (("--out", "a.h5", "--where", "success == 7"), 1, "no trial is left: 8 of 8 trials"),
    ],
)
def test_mistakes_are_explained(ndt, nwb, tmp_path, monkeypatch, args, code, said):
    monkeypatch.chdir(tmp_path)
    found, out, err = ndt("convert", nwb, "--bin-ms", 20, *args)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rat.nwb"]


# Real recordings


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared recordings")
def test_spike_times_of_a_rat_on_a_track(ndt, tmp_path):
    path = tmp_path / "track.h5"
    code, _, _ = ndt(
        *("convert", SHARED / "hippocampus_linear_track.npz", "--out", path, "--bin-ms", 20),
        *("--chop-ms", 2000, "--overlap-ms", 400),
        *("--behavior", "pos_xy", "--behavior-times", "pos_t"),
    )
    assert code == 0
    whole = all_trials(load_file(path, DataSettings()))
    merged = merge(whole.spikes_BTN, whole.start_bins_B, whole.lengths_B)
    with np.load(SHARED / "hippocampus_linear_track.npz") as stored:
        bins = np.rint(stored["spike_times"] * 1e6).astype(int) // 20_000
        expected = np.zeros(merged.shape, int)
        np.add.at(expected, (bins - whole.start_bins_B.min(), stored["spike_unit"]), 1)
    np.testing.assert_array_equal(merged, expected)
    assert whole.behavior_names == ("pos_xy 0", "pos_xy 1")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared recordings")
def test_trials_of_unequal_length_of_a_monkey(ndt, tmp_path):
    path = tmp_path / "reach.h5"
    source = SHARED / "pmd_reach_1ms.npz"
    code, _, _ = ndt("convert", source, "--out", path, "--bin-ms", 20, "--condition", "condition")
    assert code == 0
    whole = all_trials(load_file(path, DataSettings()))
    with np.load(source) as stored:
        np.testing.assert_array_equal(whole.lengths_B, stored["length_ms"] // 20)
        np.testing.assert_array_equal(whole.conditions_B, stored["condition"])
        last = whole.lengths_B[5] - 1
        expected = stored["spikes"][5, 20 * last : 20 * last + 20].sum(axis=0)
    np.testing.assert_array_equal(whole.spikes_BTN[5, last], expected)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared recordings")
def test_one_long_trial_of_a_monkey(ndt, tmp_path):
    path = tmp_path / "maze.h5"
    source = SHARED / "mc_maze_trial748_1ms.npz"
    code, _, _ = ndt(
        *("convert", source, "--out", path, "--bin-ms", 10, "--chop-ms", 500, "--overlap-ms", 100),
        *("--counts-times", "t", "--behavior", "hand_vel"),
    )
    assert code == 0
    whole = all_trials(load_file(path, DataSettings()))
    merged = merge(whole.spikes_BTN, whole.start_bins_B, whole.lengths_B)
    with np.load(source) as stored:
        np.testing.assert_array_equal(
            merged, stored["spikes"][:3230].reshape(323, 10, 182).sum(axis=1)
        )
        hand = merge(whole.behavior_BTV, whole.start_bins_B, whole.lengths_B)
        expected = stored["hand_vel"][:3230].reshape(323, 10, 2).mean(axis=1)
    np.testing.assert_allclose(hand, expected)
    assert whole.neuron_names[0] == "1011"
