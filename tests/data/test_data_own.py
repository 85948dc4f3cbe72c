import re
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.convert import convert
from ndt_cli.data import write
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import Recording, SpikeData, all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.errors import DataError, ExistingFileError
from ndt_cli.settings.tree import DataSettings

DEFAULTS = DataSettings()


@st.composite
def recordings(draw):
    """Small recordings with any combination of what a file may hold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n_bins, n_neurons = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    high = draw(st.sampled_from([3, 255, 60000]))
    keys = ("rates", "conditions", "latents", "behavior", "labels")
    has = {key: draw(st.booleans()) for key in keys}
    n_heldout, n_forward = draw(st.integers(0, 1)), draw(st.integers(0, 1))

    sizes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    places = rng.permutation(sum(sizes))

    def split(first_id, n_trials, places_B, known):
        lengths_B = rng.integers(1, n_bins + 1, n_trials)
        inside = (np.arange(n_bins) < lengths_B[:, None])[..., None]
        counts = rng.integers(0, high, (n_trials, n_bins, n_neurons)) * inside
        counts[0, 0, :2] = high, 1  # few large counts could share a factor, and pass for rates
        return SpikeData(
            spikes_BTN=counts.astype(np.uint16),
            bin_ms=5.0,
            lengths_B=lengths_B,
            rates_BTN=(counts + rng.random(counts.shape)) * inside if has["rates"] else None,
            # Each condition has trials: of others, a file does not keep the name.
            conditions_B=np.arange(n_trials) % min(sizes) if has["conditions"] else None,
            latents_BTK=rng.standard_normal((n_trials, n_bins, 2)) if has["latents"] else None,
            behavior_BTV=np.full((n_trials, n_bins, 2), np.nan) if has["behavior"] else None,
            behavior_names=("hand x", "Größe") if has["behavior"] else (),
            trial_ids_B=np.arange(n_trials) + first_id,
            places_B=np.sort(places_B),
            **(labels(n_trials) if has["labels"] else {}),
            n_heldout=n_heldout,
            n_forward=n_forward,
            hidden_counts_known=known,
        )

    def labels(n_trials):
        names = {n: f"to {90 * n}°" for n in range(min(sizes))} if has["conditions"] else {}
        columns = {
            "go cue (s)": rng.random(n_trials),
            "side": np.array(["links", "rechts"] * 4)[:n_trials],
            "correct": rng.random(n_trials) < 0.5,
            "block": rng.integers(0, 9, n_trials),
        }
        return {
            "condition_names": names, "trial_table": columns, "event": "go cue", "start_ms": -300.0,
            "start_times_s_B": rng.random(n_trials),
        }  # fmt: skip

    return Recording(
        split(0, sizes[0], places[: sizes[0]], True),
        split(10, sizes[1], places[sizes[0] :], draw(st.booleans())),
        "made",
        "synthetic",
    )


def assert_equal(one: SpikeData, other: SpikeData):
    for field in fields(SpikeData):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "trial_table":
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


@settings(max_examples=40, deadline=None)
@given(recordings(), st.sampled_from([".npz", ".h5"]))
def test_what_is_written_is_read_back(recording, ending):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rat{ending}"
        write_recording(recording, path)
        back = load_file(path, DEFAULTS)
        assert list(Path(folder).iterdir()) == [path]
    assert_equal(back.train, recording.train)
    assert_equal(back.valid, recording.valid)
    assert (back.layout, back.notes) == ("ndt", ())


def test_trials_come_in_the_order_of_the_file_whatever_their_numbers(tmp_path):
    """Files of earlier versions hold the training trials first, with their numbers."""
    ids = np.array([0, 3, 4, 1, 2])
    spikes = np.arange(1, 6)[:, None, None] * np.ones((5, 4, 2), int)
    split = np.array(["train"] * 3 + ["valid"] * 2)
    np.savez(tmp_path / "old.npz", spikes=spikes, bin_ms=20, trial_ids=ids, split=split)
    recording = load_file(tmp_path / "old.npz", DEFAULTS)
    whole = all_trials(recording)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes)
    assert whole.trial_ids_B.tolist() == ids.tolist()
    assert whole.is_valid_B.tolist() == [False] * 3 + [True] * 2
    assert recording.trials("valid").is_valid_B.tolist() == [True, True]


@pytest.mark.parametrize("first", [2**60, -(2**60)])
def test_numbers_of_trials_above_53_bits_stay_as_they_are(tmp_path, first):
    """Such as times in nanoseconds since 1970, or hashes."""
    ids = first + 7 * np.arange(5)
    spikes = np.ones((5, 4, 2), int)
    np.savez(tmp_path / "ids.npz", spikes=spikes, bin_ms=20, trial_ids=ids, conditions=ids)
    whole = all_trials(load_file(tmp_path / "ids.npz", DEFAULTS))
    assert whole.trial_ids_B.tolist() == whole.conditions_B.tolist() == ids.tolist()


def test_names_of_conditions_are_those_of_the_file(tmp_path):
    spikes = np.ones((4, 5, 2), int)
    for conditions, names in (
        ({"conditions": np.array(["up", "down", "up", "up"])}, ("up", "down", "up", "up")),
        ({"conditions": [90, 0, 90, 0]}, ("90", "0", "90", "0")),
        (
            {"conditions": [90, 0, 90, 0], "condition_names": ["right", "up"]},
            ("up", "right", "up", "right"),
        ),
    ):
        np.savez(tmp_path / "rat.npz", spikes=spikes, bin_ms=20, **conditions)
        assert all_trials(load_file(tmp_path / "rat.npz", DEFAULTS)).condition_labels == names


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"conditions": [0, 1, 0, 1], "condition_names": ["a"]}, "`condition_names`: found 1"),
        ({"event": np.array(["go", "cue"]), "start_ms": 0.0}, "`event`: .*expected one text"),
        ({"event": "go", "start_ms": [1.0, 2.0]}, "`start_ms`: .*expected one finite number"),
        ({"start_times_s": [0.0, 1.0, np.nan, 2.0]}, "`start_times_s`: .*times in seconds"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "rat.npz", spikes=np.ones((4, 5, 2), int), bin_ms=20, **arrays)
    with pytest.raises(DataError, match=message):
        load_file(tmp_path / "rat.npz", DEFAULTS)


def test_a_column_that_does_not_fit_is_left_out_with_a_note(tmp_path):
    with h5py.File(tmp_path / "rat.h5", "w") as file:
        file["spikes"], file["bin_ms"] = np.ones((4, 5, 2), int), 20.0
        file["trial_table/side"] = ["l", "r", "l", "r"]
        file["trial_table/short"] = [1, 2]
        file["trial_table/pointers"] = np.array([file["spikes"].ref] * 4, dtype=h5py.ref_dtype)
    recording = load_file(tmp_path / "rat.h5", DEFAULTS)
    table = all_trials(recording).trial_table
    assert {name: column.tolist() for name, column in table.items()} == {"side": list("lrlr")}
    assert re.search("not used: .*`trial_table/pointers`: found cells", recording.notes[-2])
    assert "`trial_table/short`: found shape (2,)" in recording.notes[-1]


@pytest.fixture
def small():
    rng = np.random.default_rng(0)
    data = SpikeData(
        rng.poisson(1, (6, 5, 3)).astype(np.uint8), bin_ms=10.0, lengths_B=np.full(6, 5)
    )
    return Recording(data, data.take(np.arange(2)), source="made", layout="synthetic")


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_the_same_recording_gives_the_same_bytes(small, tmp_path, ending):
    first, second = (tmp_path / f"{name}{ending}" for name in "ab")
    write_recording(small, first)
    write_recording(small, second)
    assert first.read_bytes() == second.read_bytes()


def test_an_existing_file_is_replaced_only_when_asked(small, tmp_path):
    path = tmp_path / "rat.npz"
    path.write_text("mine")
    with pytest.raises(ExistingFileError, match=r"rat\.npz already exists"):
        write_recording(small, path)
    assert path.read_text() == "mine"
    write_recording(small, path, overwrite=True)
    assert load_file(path, DEFAULTS).train.n_trials == 6


def test_a_failed_write_leaves_nothing(small, tmp_path, monkeypatch):
    def full_disk(file, arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "_write_npz", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        write_recording(small, tmp_path / "rat.npz")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(small, tmp_path):
    with pytest.raises(DataError, match=r"found the ending '\.csv'; expected \.npz"):
        write_recording(small, tmp_path / "rat.csv")


def test_folders_on_the_way_are_made(small, tmp_path):
    write_recording(small, tmp_path / "new/deep/rat.h5")
    assert load_file(tmp_path / "new/deep/rat.h5", DEFAULTS).valid.n_trials == 2


def save(path, **arrays):
    defaults = {"spikes": np.ones((10, 6, 3)), "bin_ms": 10.0}
    np.savez(path, **{k: v for k, v in {**defaults, **arrays}.items() if v is not None})
    return path


def test_two_keys_are_enough(tmp_path):
    recording = load_file(save(tmp_path / "rat.npz"), DEFAULTS)
    assert (recording.train.n_trials, recording.valid.n_trials) == (8, 2)
    assert recording.train.spikes_BTN.dtype == np.uint8
    assert "2 of 10 trials were drawn for validation" in recording.notes[0]
    together = np.concatenate([recording.train.trial_ids_B, recording.valid.trial_ids_B])
    np.testing.assert_array_equal(np.sort(together), range(10))


def test_lengths_in_ms_drop_a_partial_bin(tmp_path):
    length_ms = np.array([60, 59, 30, 35, 60, 60, 60, 60, 60, 10])
    path = save(tmp_path / "rat.npz", length_ms=length_ms)
    recording = load_file(path, DEFAULTS)
    by_id = {}
    for data in (recording.train, recording.valid):
        by_id |= dict(zip(data.trial_ids_B.tolist(), data.lengths_B.tolist(), strict=True))
        assert not data.spikes_BTN[~data.inside_BT].any()
        assert data.spikes_BTN[data.inside_BT].all()
    assert [by_id[i] for i in range(10)] == [6, 5, 3, 3, 6, 6, 6, 6, 6, 1]
    assert any("2 of 10 trials lost a partial last bin" in note for note in recording.notes)
    assert any("past the end of their trial were set to 0" in note for note in recording.notes)


def test_nan_rates_in_padding_are_no_error(tmp_path):
    rates = np.full((10, 6, 3), 0.5)
    rates[4, 3:] = np.nan
    lengths = np.full(10, 6)
    lengths[4] = 3
    recording = load_file(save(tmp_path / "rat.npz", rates=rates, lengths=lengths), DEFAULTS)
    assert all(np.isfinite(d.rates_BTN).all() for d in (recording.train, recording.valid))


def test_rates_follow_an_explicit_factor(tmp_path):
    path = save(tmp_path / "rat.npz", rates=np.full((10, 6, 3), 100.0))
    recording = load_file(path, DataSettings(conversion_factor=100))
    assert (recording.train.rates_BTN == 1).all()
    assert "divided by `data.conversion_factor`, 100" in " ".join(recording.notes)


def test_named_conditions_are_numbered(tmp_path):
    names = np.array(["left", "right"] * 5)
    recording = load_file(save(tmp_path / "rat.npz", condition=names), DEFAULTS)
    assert set(recording.train.conditions_B.tolist()) == {0, 1}
    np.testing.assert_array_equal(np.sort(recording.valid.conditions_B), [0, 1])


def test_text_of_variable_length_is_read_from_hdf5(tmp_path):
    path = tmp_path / "rat"  # no ending: the content tells
    with h5py.File(path, "w") as file:
        file["spikes"] = np.ones((4, 3, 2), np.int64)
        file["bin_ms"] = 5
        file["split"] = ["train", "valid", "train", "train"]
    recording = load_file(path, DEFAULTS)
    np.testing.assert_array_equal(recording.valid.trial_ids_B, [1])


def test_bin_width_comes_from_the_file_then_from_the_settings(tmp_path):
    path = save(tmp_path / "rat.npz", bin_ms=None)
    with pytest.raises(DataError, match=r"rat\.npz: `bin_ms`: found no bin width") as caught:
        load_file(path, DEFAULTS)
    assert "data.file_bin_ms" in caught.value.hint
    assert load_file(path, DataSettings(file_bin_ms=5)).train.bin_ms == 5
    both = load_file(save(tmp_path / "rat.npz"), DataSettings(file_bin_ms=5))
    assert both.train.bin_ms == 10
    assert "is not used" in both.notes[0]


def test_wider_bins_are_made_on_the_way(tmp_path):
    recording = load_file(save(tmp_path / "rat.npz"), DataSettings(bin_ms=20))
    assert recording.train.spikes_BTN.shape == (8, 3, 3)
    assert (recording.train.spikes_BTN == 2).all()


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 5, 1), (3, 1, 4)])
def test_one_bin_and_one_neuron_are_ordinary(tmp_path, shape):
    recording = load_file(save(tmp_path / "rat.npz", spikes=np.ones(shape)), DEFAULTS)
    assert recording.train.spikes_BTN.shape[1:] == shape[1:]


def test_what_only_one_split_has_is_left_out(small, tmp_path):
    train = replace(small.train, conditions_B=np.arange(6))
    write_recording(replace(small, train=train), tmp_path / "rat.h5")
    assert load_file(tmp_path / "rat.h5", DEFAULTS).train.conditions_B is None


@pytest.mark.parametrize("key", ["behavior", "behaviour"])
def test_behavior_comes_with_its_names(tmp_path, key):
    velocity = np.arange(120.0).reshape(10, 6, 2)
    velocity[:, 0] = np.nan
    path = save(tmp_path / "rat.npz", **{key: velocity, f"{key}_names": ["x", "y"]})
    recording = load_file(path, DataSettings(bin_ms=20))
    assert recording.valid.behavior_names == ("x", "y")
    whole = all_trials(recording)
    assert whole.behavior_names == ("x", "y")
    # Wider bins have the mean of the narrow ones; with a gap in one of them, a gap.
    assert np.isnan(whole.behavior_BTV[:, 0]).all()
    np.testing.assert_array_equal(whole.behavior_BTV[:, 1], velocity[:, 2:4].mean(axis=1))


def test_behavior_has_one_name_per_variable(tmp_path):
    arrays = {"behavior": np.zeros((10, 6, 2)), "behavior_names": ["x", "y", "z"]}
    with pytest.raises(DataError, match=r"`behavior_names`: found 3 values .* expected 2 names"):
        load_file(save(tmp_path / "rat.npz", **arrays), DEFAULTS)
    arrays["behavior_names"] = np.arange(2)
    with pytest.raises(DataError, match="`behavior_names`: found 2 values of type int"):
        load_file(save(tmp_path / "rat.npz", **arrays), DEFAULTS)


def test_there_must_be_memory_for_the_counts_and_their_two_splits(small, tmp_path, monkeypatch):
    path = tmp_path / "rat.npz"
    write_recording(small, path)
    n_bytes = sum(split.spikes_BTN.size for split in (small.train, small.valid))
    monkeypatch.setattr("ndt_cli.memory.free_bytes", lambda: int(1.5 * n_bytes))
    with pytest.raises(DataError, match=r"trials x .* needs at least"):
        load_file(path, DEFAULTS)


def test_trials_without_a_condition_are_noted(tmp_path):
    spikes = np.ones((6, 5, 2), int)
    for conditions in ([0, 1, np.nan] * 2, ["0", "1", ""] * 2):
        np.savez(tmp_path / "rat.npz", spikes=spikes, bin_ms=20, conditions=conditions)
        recording = load_file(tmp_path / "rat.npz", DEFAULTS)
        assert set(all_trials(recording).condition_labels) in ({"0", "1", "nan"}, {"0", "1", ""})
        assert recording.notes[0].startswith("2 trials have no condition")


@pytest.mark.parametrize("ids", [["b2", "a10", "a9"], [10, 2, np.nan], [0.5, 1, 2], [4, 4, 7]])
def test_trials_without_whole_numbers_are_counted_in_the_order_of_the_file(tmp_path, ids):
    """And not in that of the words, by which a10 comes before a9; their names are kept."""
    np.savez(tmp_path / "rat.npz", spikes=np.ones((3, 5, 2), int), bin_ms=20, trial_ids=ids)
    recording = load_file(tmp_path / "rat.npz", DEFAULTS)
    whole = all_trials(recording)
    assert whole.trial_ids_B.tolist() == [0, 1, 2]
    assert whole.trial_table["trial_ids"].astype(str).tolist() == [str(v) for v in ids]
    assert "`trial_ids` are not whole numbers" in recording.notes[0]


@pytest.mark.parametrize("ending", [".npz", ".h5"])
@pytest.mark.parametrize("names", [("a/b", "a.b"), ("a.b", "a/b")])
def test_columns_whose_names_differ_by_a_slash_are_both_kept(tmp_path, ending, names):
    table = {names[0]: np.arange(3), names[1]: np.arange(3) + 10}
    counts, lengths = np.ones((3, 4, 2), np.uint8), np.full(3, 4)
    half = SpikeData(spikes_BTN=counts, bin_ms=20, lengths_B=lengths, trial_table=table)
    write_recording(Recording(half, half, "x", "ndt"), tmp_path / f"a{ending}")
    read = load_file(tmp_path / f"a{ending}", DEFAULTS).train.trial_table
    slash, dot = table["a/b"], table["a.b"]
    assert {name: column.tolist() for name, column in read.items()} == {
        "a.b": dot.tolist(), "a.b_": slash.tolist()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "like"),
    [("condtions", "conditions"), ("Lengths", "lengths"), ("behaviors", "behavior"), ("area", "")],
)
def test_a_key_that_is_nearly_one_of_the_layout_is_noted(tmp_path, key, like):
    np.savez(tmp_path / "a.npz", **{"spikes": np.ones((4, 5, 2), int), "bin_ms": 20, key: [1] * 4})
    notes = load_file(tmp_path / "a.npz", DEFAULTS).notes
    assert (f"`{key}` is not read. If it is `{like}`, rename it." in notes) == bool(like)


@pytest.mark.parametrize(("rate", "n_notes"), [(1.2, 0), (50.0, 1), (0.02, 1)])
def test_true_rates_in_another_unit_are_noted(tmp_path, rate, n_notes):
    counts = np.ones((4, 20, 3), int)
    np.savez(tmp_path / "a.npz", spikes=counts, bin_ms=20, rates=np.full(counts.shape, rate))
    notes = load_file(tmp_path / "a.npz", DEFAULTS).notes
    assert len([note for note in notes if "times the counts on average" in note]) == n_notes


def test_lengths_are_given_once_or_agree_and_other_spellings_of_a_key_are_noted(tmp_path):
    arrays = {"spikes": np.ones((4, 5, 2), int), "bin_ms": 20, "lengths": [5, 4, 5, 5]}
    np.savez(tmp_path / "a.npz", **arrays, length_ms=[100, 79, 100, 119])
    with pytest.raises(DataError, match="`length_ms`: found other lengths"):
        load_file(tmp_path / "a.npz", DEFAULTS)
    words = {"conditions": ["Left", "left", "right", "right "], "condition": [1, 2, 3, 3]}
    np.savez(tmp_path / "a.npz", **arrays, length_ms=[100, 99, 100, 100], **words)
    notes = load_file(tmp_path / "a.npz", DEFAULTS).notes
    assert "`condition` is not read beside `conditions`." in notes
    assert any("'Left' and 'left', 'right' and 'right ' differ by blanks" in n for n in notes)


def test_cells_of_matlab_are_no_labels(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["spikes"], file["bin_ms"] = np.ones((2, 5, 4)), 20.0
        words = [file.create_dataset(f"#refs#/{word}", data=[1]) for word in "ab"]
        file["conditions"] = np.array([[words[i % 2].ref for i in range(2)]], dtype=h5py.ref_dtype)
    with pytest.raises(DataError, match="`conditions`: found cells of MATLAB") as error:
        load_file(tmp_path / "a.mat", DEFAULTS)
    assert "`list_contents(" in error.value.hint


def test_whole_numbers_may_be_floats_as_matlab_saves_them(tmp_path):
    numbers = {"neuron_names": [101.0, 205.0], "n_heldout": 1.0, "start_bins": [0.0, 4.0, 8.0]}
    np.savez(tmp_path / "a.npz", spikes=np.ones((3, 5, 2), int), bin_ms=20.0, **numbers)
    data = all_trials(load_file(tmp_path / "a.npz", DEFAULTS))
    assert (data.neuron_names, data.n_heldout) == (("101", "205"), 1)
    assert data.start_bins_B.tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    ("rate", "lengths", "n_notes"),
    [(0.7, 15, 0), (0.1, 15, 0), (0.7, [15, 12, 9, 6], 1), (0.1, [15, 9, 6, 3], 1), (0.7, 10, 1)],
)
def test_padding_with_zeros_that_is_not_marked_is_noted(tmp_path, rate, lengths, n_notes):
    inside = np.arange(15) < np.resize(lengths, 40)[:, None]
    spikes = np.random.default_rng(0).poisson(rate, (40, 15, 4)) * inside[..., None]
    np.savez(tmp_path / "rat.npz", spikes=spikes, bin_ms=20)
    notes = load_file(tmp_path / "rat.npz", DEFAULTS).notes
    converted = convert(tmp_path / "rat.npz").report.notes
    assert sum("If they pad shorter trials" in note for note in notes) == n_notes
    assert sum("If they pad shorter trials" in note for note in converted) == n_notes
    np.savez(tmp_path / "rat.npz", spikes=spikes, bin_ms=20, lengths=inside.sum(axis=1))
    assert not any("pad" in note for note in load_file(tmp_path / "rat.npz", DEFAULTS).notes)
