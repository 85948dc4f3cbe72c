"""A file that cannot be trained on is refused by a message that names file, key and finding."""

import h5py
import numpy as np
import pytest

from ndt_cli.data import arrays
from ndt_cli.data.loading import load_file, load_recording
from ndt_cli.data.spike_data import Recording, SpikeData, check_recording, compact_counts
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings

DEFAULTS = DataSettings()


def counts(value=None, dtype=float):
    spikes = np.ones((10, 6, 3), dtype)
    if value is not None:
        spikes[7, 2, 1] = value
    return spikes


@pytest.mark.parametrize(
    ("arrays", "key", "found"),
    [
        ({"spikes": counts(np.nan)}, "spikes", "found nan at trial 7, bin 2, neuron 1"),
        ({"spikes": counts(np.inf)}, "spikes", "found inf at trial 7"),
        ({"spikes": counts(-1)}, "spikes", "found -1 at trial 7, bin 2, neuron 1.*negative"),
        ({"spikes": counts(-1, int)}, "spikes", "negative"),
        ({"spikes": counts(0.5)}, "spikes", "found 0.5 .* is a fraction"),
        ({"spikes": counts(65536)}, "spikes", "found 65536 .* too large"),
        ({"spikes": np.ones((6, 3))}, "spikes", "found 2 axes"),
        ({"spikes": np.ones((0, 6, 3))}, "spikes", "found an empty array"),
        ({"spikes": np.ones((1, 6, 3))}, "spikes", "found 1 trial"),
        ({"spikes": np.array([[["a"]]])}, "spikes", "values of type <U1"),
        ({"spikes": np.zeros((10, 6, 3))}, "", "found no spike in 8 training trials"),
        ({"bin_ms": 0.0}, "bin_ms", "found 0; expected a finite number above 0"),
        ({"bin_ms": np.ones(3)}, "bin_ms", r"shape \(3,\)"),
        ({"lengths": np.full(10, 7)}, "lengths", "found 7 at trial 0; expected 1 to 6"),
        ({"lengths": np.full(10, 0)}, "lengths", "found 0 at trial 0"),
        ({"lengths": np.full(10, 2.5)}, "lengths", "found 2.5 at trial 0"),
        ({"lengths": np.full(10, np.nan)}, "lengths", "found nan at trial 0"),
        ({"lengths": np.full(3, 6)}, "lengths", r"found shape \(3,\); expected 10 values"),
        ({"length_ms": np.full(10, 70)}, "length_ms", "found 70 at .* expected 10 to 60 ms"),
        ({"conditions": np.arange(6)}, "conditions", "expected 10 values, one per trial"),
        ({"rates": np.ones((10, 6, 2))}, "rates", r"expected the shape of the counts, \(10, 6, 3"),
        ({"rates": -counts()}, "rates", "found -1 at trial 0"),
        ({"rates": counts(np.nan)}, "rates", "found nan at trial 7"),
        ({"latents": np.ones((10, 5, 2))}, "latents", "expected 10 trials x 6 bins"),
        ({"split": np.array(["train"] * 10)}, "split", "found `train`; expected `train` and"),
        ({"split": np.array(["train", "test"] * 5)}, "split", "found `test`, `train`"),
        ({"n_heldout": 3}, "n_heldout", r"found \[3\]; expected one whole number from 0 to 2"),
        ({"n_forward": 1.5}, "n_forward", r"found \[1.5\]"),
    ],
)
def test_the_own_layout(tmp_path, arrays, key, found):
    path = tmp_path / "rat.npz"
    np.savez(path, **{"spikes": counts(), "bin_ms": 10.0, **arrays})
    with pytest.raises(DataError, match=found) as caught:
        load_file(path, DEFAULTS)
    assert str(path) in caught.value.message
    assert not key or f"`{key}`" in caught.value.message


@pytest.mark.parametrize(
    ("arrays", "message", "hint"),
    [
        ({"valid_data": None, "valid_dat": counts()}, "`valid_data`: found no such", "`valid_dat`"),
        ({"train_data": None}, "`train_data`: found no such key", None),
        ({"valid_data": np.ones((4, 3, 6))}, "`valid_data`: found 3 bins x 6 neurons", "swapped"),
        ({"valid_data": np.ones((10, 6, 4))}, "expected 6 x 3 as in `train_data`", "last axis"),
        ({"valid_data": np.ones((4, 7, 5))}, "expected 6 x 3 as in `train_data`", None),
        ({"valid_data": np.ones((0, 6, 3))}, "`valid_data`: found an empty array", None),
        ({"valid_truth": np.ones((4, 6, 2))}, "`valid_truth`: found shape", None),
        ({"valid_truth": -np.ones((4, 6, 3))}, "`valid_truth`: found -1", "log-rates"),
        ({"train_inds": np.arange(3)}, "`train_inds`: found shape", "trials x bins x neurons"),
        ({"dt": -1.0}, "`dt`: found -1", None),
        ({"conversion_factor": 0.0}, "`conversion_factor`: found 0", None),
    ],
)
def test_the_lfads_layout(tmp_path, arrays, message, hint):
    good = {"train_data": counts(), "valid_data": np.ones((4, 6, 3)), "dt": 0.01}
    good |= {"train_truth": counts(), "valid_truth": np.ones((4, 6, 3))}
    good |= {"train_inds": np.arange(10), "valid_inds": np.arange(10, 14)}
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        for key, value in {**good, **arrays}.items():
            if value is not None:
                file[key] = value
    with pytest.raises(DataError, match=message) as caught:
        load_file(path, DEFAULTS)
    assert str(path) in caught.value.message
    assert hint is None or hint in caught.value.hint


def test_a_bad_count_far_into_the_file_is_named_rightly(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_BLOCK_ENTRIES", 2 * 6 * 3)
    path = tmp_path / "rat.npz"
    np.savez(path, spikes=counts(0.5), bin_ms=10.0)
    with pytest.raises(DataError, match="at trial 7, bin 2, neuron 1"):
        load_file(path, DEFAULTS)


def test_counts_above_a_byte_are_kept_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_BLOCK_ENTRIES", 2 * 6 * 3)
    path = tmp_path / "rat.npz"
    np.savez(path, spikes=counts(300), bin_ms=10.0, split=["train"] * 9 + ["valid"])
    train = load_file(path, DEFAULTS).train
    np.testing.assert_array_equal(train.spikes_BTN, counts(300)[:9])
    assert train.spikes_BTN.dtype == np.uint16


def write_own_h5(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("spikes", data=np.ones((50, 60, 30)), compression="gzip")
        file["bin_ms"] = 10.0


def write_own_npz(path):
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        np.savez_compressed(file, spikes=rng.poisson(1, (50, 60, 30)), bin_ms=10.0)


@pytest.mark.parametrize("write", [write_own_h5, write_own_npz])
def test_a_truncated_file_is_damaged(tmp_path, write):
    path = tmp_path / "rat"
    write(path)
    assert load_file(path, DEFAULTS).train.n_trials == 40
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match="damaged or incomplete") as caught:
        load_file(path, DEFAULTS)
    assert str(path) in caught.value.message


def test_a_flipped_byte_in_an_npz_is_damage(tmp_path):
    path = tmp_path / "rat.npz"
    write_own_npz(path)
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="`spikes` cannot be read"):
        load_file(path, DEFAULTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:d0", "Git LFS pointer"),
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "before version 7.3"),
        (b"trial,bin,neuron\n1,2,3\n", "neither HDF5 nor .npz"),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    path = tmp_path / "rat.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_file(path, DEFAULTS)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_pickled_objects_are_never_loaded(tmp_path):
    path = tmp_path / "rat.npz"
    np.savez(path, spikes=np.array([[[object()]]]), bin_ms=10.0)
    with pytest.raises(DataError, match="`spikes`: found Python objects"):
        load_file(path, DEFAULTS)


def test_a_missing_file_and_a_folder(tmp_path):
    (tmp_path / "monkey.npz").touch()
    with pytest.raises(DataError, match="no such file") as caught:
        load_file(tmp_path / "monky.npz", DEFAULTS)
    assert "monkey.npz" in caught.value.hint
    with pytest.raises(DataError, match="found a folder"):
        load_file(tmp_path, DEFAULTS)


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        (("spike",), "`spike` looks like `spikes`"),
        (("trian_data",), "`trian_data` looks like `train_data`"),
        (("spike_times", "trials"), "Convert it: "),
    ],
)
def test_a_file_of_no_layout(tmp_path, keys, hint):
    path = tmp_path / "rat.npz"
    np.savez(path, **{key: np.ones(3) for key in keys})
    with pytest.raises(DataError, match=f"found `{keys[0]}`.*expected `spikes`") as caught:
        load_file(path, DEFAULTS)
    assert hint in caught.value.hint


def test_arrays_inside_groups_are_not_guessed_at(tmp_path):
    path = tmp_path / "rat.h5"
    with h5py.File(path, "w") as file:
        file["mc_maze/train_spikes_heldin"] = np.ones((2, 2, 2))
    with pytest.raises(DataError, match="found group `mc_maze/`"):
        load_file(path, DEFAULTS)


def make_split(n_trials=2, n_bins=4, value=1):
    spikes = np.full((n_trials, n_bins, 3), value, np.uint8)
    return SpikeData(spikes, bin_ms=5.0, lengths_B=np.full(n_trials, n_bins))


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        (make_split(0), make_split(), "no training trials"),
        (make_split(), make_split(0), "no validation trials"),
        (make_split(), make_split(n_bins=5), "differ in bins"),
        (make_split(value=0), make_split(), "found no spike in 2 training trials"),
    ],
)
def test_a_recording_made_in_a_notebook(train, valid, message):
    check_recording(Recording(make_split(), make_split(), "made", "synthetic"))
    with pytest.raises(DataError, match=message):
        check_recording(Recording(train, valid, "made", "synthetic"))


def test_counts_that_fit_no_bin():
    assert compact_counts(np.array([255])).dtype == np.uint8
    assert compact_counts(np.array([256])).dtype == np.uint16
    with pytest.raises(DataError, match="spike count of 65536"):
        compact_counts(np.array([65536]))


def test_neither_file_nor_synthetic_set():
    with pytest.raises(DataError, match="no spike file was given") as caught:
        load_recording(DataSettings(synthetic="none"))
    assert "data.file=FILE" in caught.value.hint
