import logging
import sys
import warnings

import h5py
import numpy as np
import pytest

pytest.importorskip("nlb_tools", reason="nlb_tools is not installed")

from nlb_nwb import write_maze, write_rsg

from ndt_cli.errors import DataError, MissingExtraError, SettingsError
from ndt_cli.nlb import dependencies as extra
from ndt_cli.nlb import nlb_tools as cutting
from ndt_cli.nlb import nlb_tools as tools
from ndt_cli.nlb import tensors
from ndt_cli.nlb import tensors as tensor_cache
from ndt_cli.nlb.tensors import make_tensors, scored_inputs, to_recording


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    return write_maze(tmp_path_factory.mktemp("maze"))


@pytest.fixture(scope="module")
def rsg(tmp_path_factory):
    return write_rsg(tmp_path_factory.mktemp("rsg"))


def made(written, bin_ms=20, phase="val", **options):
    return make_tensors(written.dataset, bin_ms, phase, written.root, cache=False, **options)


def same(first, second):
    """Equal bit for bit, NaN at the same places."""
    if first.dtype == object:
        return len(first) == len(second) and all(map(np.array_equal, first, second))
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=True)


# ------------------------------------------------------------------ what the tensors hold
@pytest.mark.parametrize("bin_ms", [5, 20])
def test_counts_are_the_spikes_of_each_window(maze, bin_ms):
    tensors = made(maze, bin_ms)
    for neurons, heldout in (("heldin", False), ("heldout", True)):
        for half, split in (("train", "train"), ("eval", "val")):
            window = maze.counts(split, -250, 450, bin_ms, heldout)
            forward = maze.counts(split, 450, 650, bin_ms, heldout)
            inputs = getattr(tensors, half)
            assert np.array_equal(inputs[f"{half}_spikes_{neurons}"], window)
            source = tensors.train if half == "train" else tensors.target
            assert np.array_equal(source[f"{half}_spikes_{neurons}_forward"], forward)
    assert np.array_equal(
        tensors.target["eval_spikes_heldout"], tensors.eval["eval_spikes_heldout"]
    )


def test_behavior_lags_behind_the_spikes(maze):
    tensors = made(maze)
    # The hand's velocity is the time of the recording in seconds. mc_maze_small: lag 120 ms.
    start_s = (maze.align_ms[maze.splits == "train"] - 250 + 120) / 1000
    time_s = start_s[:, None] + np.arange(35) * 0.020
    assert np.allclose(tensors.train["train_behavior"][..., 0], time_s, atol=1e-3)
    assert np.allclose(tensors.train["train_behavior"][..., 1], -time_s, atol=1e-3)


def test_the_test_phase_trains_on_train_and_val_and_asks_about_the_test_trials(maze):
    tensors = made(maze, phase="test")
    both = maze.counts(["train", "val"], -250, 450, 20, False)
    assert np.array_equal(tensors.train["train_spikes_heldin"], both)
    asked = maze.counts("test", -250, 450, 20, False)
    assert np.array_equal(tensors.eval["eval_spikes_heldin"], asked)
    assert set(tensors.eval) == {"eval_spikes_heldin"}
    assert tensors.target is None


def test_trial_ids_are_rows_of_the_trial_table(maze):
    tensors = made(maze)
    in_file = maze.splits[maze.splits != "test"]
    assert tensors.train_trial_ids.tolist() == np.flatnonzero(in_file == "train").tolist()
    assert tensors.eval_trial_ids.tolist() == np.flatnonzero(in_file == "val").tolist()


def test_psth_is_the_mean_of_smoothed_trials_of_a_condition(maze):
    target = made(maze).target
    assert target["psth"].shape == (2, 35, 6)
    in_train = [trial for trials in target["train_cond_idx"] for trial in trials]
    assert sorted(in_train) == list(range(6))
    # 20 spikes a second in bins of 20 ms
    assert target["psth"].mean() == pytest.approx(0.4, rel=0.15)


def test_conditions_of_equal_size_stay_lists(tmp_path):
    # Every condition has as many trials as the other, in both splits.
    written = write_maze(tmp_path, n_train=2, n_val=2, n_test=1, seed=_balanced_seed())
    target = made(written).target
    for key in ("train_cond_idx", "eval_cond_idx"):
        assert target[key].shape == (2,)
        assert [len(trials) for trials in target[key]] == [1, 1]


def _balanced_seed():
    """A seed for which both splits have one trial of each condition: even and odd position."""
    for seed in range(100):
        names = ["train", "train", "val", "val", "test"]
        splits = np.random.default_rng(seed).permutation(names)
        odd = [set(np.flatnonzero(splits == name) % 2) for name in ("train", "val")]
        if odd == [{0, 1}, {0, 1}]:
            return seed
    raise AssertionError


def test_windows_of_dmfc_rsg_are_moved_by_a_jitter_that_is_always_the_same(rsg):
    first, second = made(rsg), made(rsg)
    moved_ms = first.target["train_jitter"] * 20
    assert moved_ms.any()
    assert np.array_equal(first.target["train_jitter"], second.target["train_jitter"])
    counts = rsg.counts("train", -1500, 0, 20, False, moved_ms)
    assert np.array_equal(first.train["train_spikes_heldin"], counts)


def test_test_windows_of_dmfc_rsg_are_not_moved(rsg):
    asked = rsg.counts("test", -1500, 0, 20, False)
    assert np.array_equal(made(rsg, phase="test").eval["eval_spikes_heldin"], asked)


# ------------------------------------------------------------------ how they are made
@pytest.mark.parametrize("name", ["maze", "rsg"])
def test_loading_few_units_at_a_time_changes_nothing(name, request, monkeypatch):
    written = request.getfixturevalue(name)
    at_once = made(written)
    seen = []
    monkeypatch.setattr(tools, "_CELLS_AT_A_TIME", 2**10)
    in_parts = made(written, progress=lambda what, done, total: seen.append((what, done, total)))
    assert ("reading spikes", 2, 6) in seen
    assert ("smoothing spikes for the PSTHs", 2, 6) in seen
    for part in ("train", "eval", "target"):
        first, second = getattr(at_once, part), getattr(in_parts, part)
        assert first.keys() == second.keys()
        assert all(same(first[key], second[key]) for key in first)


def test_nothing_of_the_process_is_changed(rsg, capfd):
    import pandas
    from nlb_tools import make_tensors as module
    from nlb_tools import nwb_interface

    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    made(rsg)
    assert np.random.random() == expected
    assert module.NWBDataset is nwb_interface.NWBDataset
    assert nwb_interface.np is np
    assert nwb_interface.pd is pandas
    assert logging.getLogger("nlb_tools").level == logging.NOTSET
    assert capfd.readouterr() == ("", "")


def test_a_trial_that_nlb_tools_would_leave_out_is_an_error(tmp_path):
    # It asks for a sample of every series in training trials, also of those that are no target,
    # and leaves a trial out of the counts, not of the behavior.
    written = write_maze(tmp_path, no_eye_in=2)
    row = np.flatnonzero(written.splits[written.splits != "test"] == "train")[2]
    with pytest.raises(DataError, match=f"cuts 5 of 6 train trials; row {row} of the trial table"):
        made(written)


def test_a_trial_without_a_time_to_align_it_to_is_named(tmp_path):
    written = write_maze(tmp_path)
    (train,) = tmp_path.rglob("*train*.nwb")
    with h5py.File(train, "r+") as file:
        file["intervals/trials/move_onset_time"][3] = np.nan
    with pytest.raises(DataError, match="1 trials have no move_onset_time, the first in row 3"):
        made(written)


def test_a_file_of_another_size_than_the_public_one_is_noted(maze):
    assert made(maze).notes[0] == (
        "4 held-in and 2 held-out neurons; the public mc_maze_small has 107 and 35."
    )


# ------------------------------------------------------------------ the cache
@pytest.fixture
def own_maze(tmp_path):
    return write_maze(tmp_path, n_train=4, n_val=2, n_test=1)


def counted(monkeypatch):
    calls = []
    cut = cutting.cut_tensors
    monkeypatch.setattr(cutting, "cut_tensors", lambda *a: calls.append(a) or cut(*a))
    return calls


def test_tensors_are_made_once(own_maze, monkeypatch):
    calls = counted(monkeypatch)
    first, second = (make_tensors("mc_maze_small", 20, "val", own_maze.root) for _ in range(2))
    assert len(calls) == 1
    assert first.notes == second.notes
    for part in ("train", "eval", "target"):
        kept = getattr(second, part)
        assert all(same(array, kept[key]) for key, array in getattr(first, part).items())
    (path,) = (own_maze.train.parent / "tensors").iterdir()
    assert path.name.startswith("mc_maze_small_20ms_val_nlb0.0.4_pandas")


def test_a_changed_file_width_or_phase_is_converted_again(own_maze, monkeypatch):
    calls = counted(monkeypatch)
    make_tensors("mc_maze_small", 20, "val", own_maze.root)
    make_tensors("mc_maze_small", 5, "val", own_maze.root)
    make_tensors("mc_maze_small", 20, "test", own_maze.root)
    own_maze.train.touch()  # the same content
    make_tensors("mc_maze_small", 20, "val", own_maze.root)
    assert len(calls) == 3
    with h5py.File(own_maze.train, "r+") as file:
        file["session_description"][()] = "another one"
    make_tensors("mc_maze_small", 20, "val", own_maze.root)
    assert len(calls) == 4


@pytest.mark.parametrize("damage", ["cut short", "a byte changed"])
def test_a_damaged_cache_is_rebuilt(own_maze, monkeypatch, damage):
    first = make_tensors("mc_maze_small", 20, "val", own_maze.root)
    (path,) = (own_maze.train.parent / "tensors").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    else:
        start = content.find(b"x\x01")  # a compressed chunk
        content[start + 20] ^= 0xFF
    path.write_bytes(content)
    calls = counted(monkeypatch)
    again = make_tensors("mc_maze_small", 20, "val", own_maze.root)
    assert len(calls) == 1
    assert same(first.train["train_spikes_heldin"], again.train["train_spikes_heldin"])


def test_a_folder_that_cannot_be_written_is_no_error(own_maze, monkeypatch):
    def refuse(path, write, overwrite):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(tensor_cache, "write_stream_atomic", refuse)
    tensors = make_tensors("mc_maze_small", 20, "val", own_maze.root)
    assert "cannot be written" in tensors.notes[-1]


# ------------------------------------------------------------------ what can be wrong
def test_a_truncated_file_is_named(own_maze):
    content = own_maze.train.read_bytes()
    own_maze.train.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError) as caught:
        made(own_maze)
    assert str(own_maze.train) in caught.value.message
    assert "76," not in caught.value.message  # the size of mc_maze_medium
    assert "cannot be read as an NWB file" in caught.value.message
    # Where it is fetched to, so that the same command finds it.
    assert f"`fetch_dataset('mc_maze_small', data_dir='{own_maze.root}')`" in caught.value.hint


def test_a_missing_file_is_downloaded_into_the_searched_folder(own_maze):
    flat = own_maze.root / "flat"
    flat.mkdir()
    path = own_maze.train.rename(flat / own_maze.train.name)
    path.write_text("404 not found")
    with pytest.raises(DataError) as caught:
        make_tensors("mc_maze_small", 20, "val", flat)
    assert f"data_dir='{flat}'" in caught.value.hint


def test_a_file_that_is_not_nwb_is_named(own_maze):
    own_maze.train.write_text("404 not found")
    with pytest.raises(DataError, match=r"cannot be read as an NWB file .*found 13 bytes"):
        made(own_maze)


def test_a_train_file_without_behavior_is_refused(tmp_path):
    written = write_maze(tmp_path, n_train=2, n_val=1, n_test=1, behavior=False)
    with pytest.raises(DataError, match=r"no time series 'hand_vel' \(the behavior\); found none"):
        made(written)


def test_a_train_file_of_another_data_set_is_refused(own_maze, rsg):
    own_maze.train.write_bytes(rsg.train.read_bytes())
    with pytest.raises(DataError, match=r"has no column 'move_onset_time'; found .*go_time"):
        made(own_maze)


def test_a_test_file_in_the_place_of_the_train_file_is_refused(own_maze):
    own_maze.train.write_bytes(own_maze.test.read_bytes())
    with pytest.raises(DataError, match="no trial has the split 'train'; found test"):
        made(own_maze)


def test_trials_without_conditions_are_explained(own_maze, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("trial_type")

    from nlb_tools import make_tensors as module

    monkeypatch.setattr(module, "make_eval_target_tensors", fail)
    with pytest.raises(DataError, match=r"cannot make tensors of mc_maze_small .*trial_type"):
        made(own_maze)


def test_bins_of_another_width_are_refused(maze):
    with pytest.raises(SettingsError, match="5 and 20 ms, not 10"):
        made(maze, 10)


def test_missing_packages_are_named_with_the_command_to_install_them(monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "nlb_tools" else name)
    with pytest.raises(MissingExtraError) as caught:
        extra.require_nlb_extra("nlb_tools", "pandas")
    assert caught.value.message == "This needs nlb_tools, which is not installed"
    line = caught.value.hint
    assert "\n" not in line
    assert f'"{sys.executable}" -m pip install --no-deps nlb-tools==0.0.4' in line
    assert '"pandas' in line


def test_an_environment_made_by_uv_has_no_pip(monkeypatch):
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        extra.require_nlb_extra("pynwb")
    assert "-m pip" not in caught.value.hint
    assert f'uv pip install --python "{sys.executable}" --no-deps nlb-tools' in caught.value.hint


def test_another_release_of_nlb_tools_is_refused(monkeypatch):
    monkeypatch.setattr(extra, "package_version", lambda name: "0.0.3")
    with pytest.raises(MissingExtraError, match=r"needs nlb-tools 0\.0\.4; found 0\.0\.3"):
        extra.require_nlb_extra("nlb_tools")


def test_a_source_tree_that_was_never_installed_is_installed_with_the_extra(monkeypatch):
    def refuse(name):
        raise extra.PackageNotFoundError(name)

    monkeypatch.setattr(extra, "requires", refuse)
    assert 'pip install ".[nlb]" && ' in extra.install_line()


def test_nlb_tools_is_not_needed_to_import_this():
    assert "nlb_tools" not in vars(tensors)


# ------------------------------------------------------------------ for the engine
def test_heldout_neurons_come_last_and_forward_bins_last(maze):
    tensors = made(maze)
    recording = to_recording(tensors)
    for half, split in (("train", recording.train), ("eval", recording.valid)):
        assert split.spikes_BTN.dtype == np.uint8
        assert (split.n_heldout, split.n_forward, split.bin_ms) == (2, 10, 20.0)
        assert split.spikes_BTN.shape[1:] == (45, 6)
        assert split.hidden_counts_known
        inputs = getattr(tensors, half)
        window, forward = split.spikes_BTN[:, :35], split.spikes_BTN[:, 35:]
        assert np.array_equal(window[..., :4], inputs[f"{half}_spikes_heldin"])
        assert np.array_equal(window[..., 4:], inputs[f"{half}_spikes_heldout"])
        known = tensors.train if half == "train" else tensors.target
        assert np.array_equal(forward[..., :4], known[f"{half}_spikes_heldin_forward"])
        assert np.array_equal(forward[..., 4:], known[f"{half}_spikes_heldout_forward"])


def test_hidden_counts_of_test_trials_are_unknown(maze):
    tensors = made(maze, phase="test")
    recording = to_recording(tensors)
    assert recording.train.hidden_counts_known
    assert recording.train.n_trials == 10
    assert not recording.valid.hidden_counts_known
    assert recording.valid.n_trials == 3
    assert recording.valid.spikes_BTN.shape[1:] == recording.train.spikes_BTN.shape[1:]
    assert not recording.valid.spikes_BTN[:, :, 4:].any()
    assert not recording.valid.spikes_BTN[:, 35:].any()


def test_scored_inputs_hold_nothing_that_is_to_be_predicted(maze):
    tensors = made(maze)
    inputs = scored_inputs(tensors)
    assert not inputs.hidden_counts_known
    assert np.array_equal(inputs.spikes_BTN[:, :35, :4], tensors.eval["eval_spikes_heldin"])
    assert not inputs.spikes_BTN[:, 35:].any()
    assert not inputs.spikes_BTN[..., 4:].any()


def test_target_windows_of_dmfc_rsg_are_blank_where_the_recording_is_not(rsg):
    # The benchmark scores dmfc_rsg from the set cue on; a model is trained on the whole window.
    tensors = made(rsg)
    assert np.isnan(tensors.target["eval_spikes_heldout"]).any()
    valid = to_recording(tensors).valid
    moved_ms = tensors.target["eval_jitter"] * 20
    whole = rsg.counts("val", -1500, 0, 20, True, moved_ms)
    assert np.array_equal(valid.spikes_BTN[:, :75, 4:], whole)


def test_warnings_of_others_are_not_swallowed(maze):
    with tools.repaired(), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
