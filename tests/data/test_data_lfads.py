import h5py
import numpy as np
import pytest

from ndt_cli.data.loading import load_file
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings

DEFAULTS = DataSettings()
RNG = np.random.default_rng(0)
RATES = RNG.uniform(0.1, 0.9, (50, 20, 6))  # expected spikes per bin
SPIKES = RNG.poisson(RATES)


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "lfads_set"
        content = {"train_data": SPIKES[:40].astype("f4"), "valid_data": SPIKES[40:], "dt": 0.01}
        with h5py.File(path, "w") as file:
            for key, value in {**content, **arrays}.items():
                if value is not None:
                    file[key] = value
        return path

    return write


def truth(scale):
    return {"train_truth": RATES[:40] * scale, "valid_truth": RATES[40:] * scale}


def test_counts_and_bin_width_are_read(save):
    recording = load_file(save(unrelated=np.arange(3)), DEFAULTS)
    assert recording.layout == "lfads"
    np.testing.assert_array_equal(recording.train.spikes_BTN, SPIKES[:40])
    np.testing.assert_array_equal(recording.valid.spikes_BTN, SPIKES[40:])
    assert recording.train.bin_ms == 10
    assert recording.train.rates_BTN is None


@pytest.mark.parametrize(
    ("scale", "stored", "asked", "said"),
    [
        (100.0, None, None, "taken as Hz and divided by 100"),
        (1.0, None, None, "taken as spikes per bin and divided by 1"),
        (3.3, 3.3, None, "the file's `conversion_factor`"),
        (7.0, 3.3, 7.0, "divided by `data.conversion_factor`, 7"),
    ],
    ids=["hz", "spikes-per-bin", "file", "setting"],
)
def test_true_rates_become_spikes_per_bin(save, scale, stored, asked, said):
    path = save(**truth(scale), conversion_factor=stored)
    recording = load_file(path, DataSettings(conversion_factor=asked))
    np.testing.assert_allclose(recording.train.rates_BTN, RATES[:40])
    np.testing.assert_allclose(recording.valid.rates_BTN, RATES[40:])
    assert said in " ".join(recording.notes)
    assert "looks wrong" not in " ".join(recording.notes)


def test_a_scale_that_fits_no_axis_is_refused(save):
    with pytest.raises(DataError, match=r"`conversion_factor`: found no such key.*expected 1") as e:
        load_file(save(**truth(17.0)), DEFAULTS)
    assert "data.conversion_factor" in e.value.hint


def test_a_stored_factor_that_contradicts_the_counts_is_noted(save):
    recording = load_file(save(**truth(100.0), conversion_factor=1.0), DEFAULTS)
    assert "That factor looks wrong" in recording.notes[-1]


def test_rates_in_hz_tell_the_bin_width(save):
    recording = load_file(save(**truth(50.0), dt=None), DEFAULTS)
    assert recording.train.bin_ms == 20
    np.testing.assert_allclose(recording.train.rates_BTN, RATES[:40])
    assert "No `dt` in the file: bins of 20 ms assumed" in recording.notes[0]


@pytest.mark.parametrize("arrays", [{}, truth(1.0), truth(70.0)], ids=["none", "counts", "odd"])
def test_an_unknown_bin_width_is_asked_for(save, arrays):
    path = save(**arrays, dt=None)
    with pytest.raises(DataError, match="`dt`: found no bin width") as caught:
        load_file(path, DEFAULTS)
    assert "data.file_bin_ms" in caught.value.hint
    known = load_file(path, DataSettings(file_bin_ms=10, conversion_factor=1))
    assert known.train.bin_ms == 10


@pytest.mark.parametrize("first", [0, 1])
def test_trial_ids_count_from_zero(save, first):
    order = RNG.permutation(50)
    path = save(train_inds=order[:40] + first, valid_inds=order[40:, None] + first)
    recording = load_file(path, DEFAULTS)
    np.testing.assert_array_equal(recording.train.trial_ids_B, order[:40])
    np.testing.assert_array_equal(recording.valid.trial_ids_B, order[40:])
    assert any("count from 1" in note for note in recording.notes) == (first == 1)


def test_trial_ids_of_a_subset_stay_as_they_are(save):
    recording = load_file(
        save(train_inds=np.arange(40) + 1, valid_inds=np.arange(10) + 60), DEFAULTS
    )
    assert recording.train.trial_ids_B[0] == 1


def test_ids_that_occur_twice_are_not_used(save):
    recording = load_file(save(train_inds=np.arange(40), valid_inds=np.arange(10)), DEFAULTS)
    assert recording.train.trial_ids_B is None
    assert "occur twice" in recording.notes[-1]


def test_a_condition_has_one_number_in_both_splits(save):
    path = save(
        condition_labels_train=np.array([b"left", b"right"] * 20),
        condition_labels_valid=np.array([b"right"] * 10),
    )
    recording = load_file(path, DEFAULTS)
    assert recording.train.conditions_B[:2].tolist() == [0, 1]
    assert set(recording.valid.condition_labels) == {"right"}


def test_conditions_and_latents_are_taken(save):
    latents = RNG.standard_normal((50, 20, 3))
    path = save(
        condition_labels_train=np.arange(40) % 4,
        condition_labels_valid=np.arange(10) % 4,
        train_lowd=latents[:40],
        valid_lowd=latents[40:],
    )
    recording = load_file(path, DEFAULTS)
    np.testing.assert_array_equal(recording.train.conditions_B, np.arange(40) % 4)
    np.testing.assert_array_equal(recording.valid.latents_BTK, latents[40:])


def test_latents_of_another_shape_are_ignored(save):
    recording = load_file(save(train_lowd=np.ones((3, 2)), valid_lowd=np.ones((3, 2))), DEFAULTS)
    assert recording.train.latents_BTK is None
    assert "`train_lowd`" in recording.notes[-1]


def test_rates_of_one_split_alone_are_not_used(save):
    recording = load_file(save(train_truth=RATES[:40]), DEFAULTS)
    assert recording.train.rates_BTN is None
    assert "`train_truth` is not used" in recording.notes[0]


def write_torch(path, **changes):
    """Write a file of lfads-torch: 6 held-in of 8 neurons, 20 of 25 bins."""
    rng = np.random.default_rng(5)
    arrays = {}
    for half, n_trials in (("train", 10), ("valid", 4)):
        recon = rng.poisson(0.5, (n_trials, 25, 8)).astype(float)
        arrays |= {f"{half}_recon_data": recon, f"{half}_encod_data": recon[:, :20, :6]}
        arrays[f"{half}_behavior"] = rng.normal(size=(n_trials, 25, 2))
    with h5py.File(path, "w") as file:
        for key, values in (arrays | changes).items():
            file[key] = values
    return arrays


def test_a_file_of_lfads_torch_keeps_its_heldout_neurons_and_forward_bins(tmp_path):
    arrays = write_torch(tmp_path / "a.h5")
    settings = DataSettings(file_bin_ms=5)
    recording = load_file(str(tmp_path / "a.h5"), settings)
    for half, data in (("train", recording.train), ("valid", recording.valid)):
        np.testing.assert_array_equal(data.spikes_BTN, arrays[f"{half}_recon_data"])
        np.testing.assert_array_equal(data.behavior_BTV, arrays[f"{half}_behavior"])
        assert (data.n_heldout, data.n_forward, data.bin_ms) == (2, 5, 5.0)
    write_torch(tmp_path / "b.h5", train_encod_data=arrays["train_encod_data"][::-1])
    with pytest.raises(DataError, match="the first bins and neurons of `train_recon_data`"):
        load_file(tmp_path / "b.h5", settings)


def test_a_recording_is_sent_to_the_converter(tmp_path):
    np.savez(tmp_path / "a.npz", spike_times=np.arange(5.0), spike_units=np.arange(5))
    np.savez(tmp_path / "b.npz", spiketimes=np.arange(5.0))
    with h5py.File(tmp_path / "c.nwb", "w") as file:
        file["units/spike_times"] = np.arange(5.0)
    (tmp_path / "d.csv").write_text("unit,time\n0,0.5\n")
    for name in ("a.npz", "b.npz", "c.nwb", "d.csv"):
        with pytest.raises(DataError) as error:
            load_file(tmp_path / name, DEFAULTS)
        assert "Convert it: `list_contents(" in error.value.hint
