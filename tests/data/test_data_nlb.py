import h5py
import numpy as np
import pytest

from ndt_cli.data.loading import load_file
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings

FIVE_MS = DataSettings(file_bin_ms=5)
RNG = np.random.default_rng(0)
# 8 held-in and 3 held-out neurons, 10 bins of the window and 4 after it.
WHOLE = {"train": RNG.poisson(1.0, (12, 14, 11)), "eval": RNG.poisson(1.0, (5, 14, 11))}


def parts(half, stem="spikes"):
    counts = WHOLE[half]
    return {
        f"{half}_{stem}_heldin": counts[:, :10, :8],
        f"{half}_{stem}_heldout": counts[:, :10, 8:],
        f"{half}_{stem}_heldin_forward": counts[:, 10:, :8],
        f"{half}_{stem}_heldout_forward": counts[:, 10:, 8:],
    }


@pytest.fixture
def save(tmp_path):
    def write(arrays):
        path = tmp_path / "nlb.h5"
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value
        return path

    return write


@pytest.mark.parametrize("stem", ["spikes", "data"])
def test_held_out_neurons_and_forward_bins_come_last(save, stem):
    recording = load_file(save({**parts("train", stem), **parts("eval", stem)}), FIVE_MS)
    assert recording.layout == "nlb"
    for data, half in ((recording.train, "train"), (recording.valid, "eval")):
        np.testing.assert_array_equal(data.spikes_BTN, WHOLE[half])
        assert (data.n_heldout, data.n_forward, data.bin_ms) == (3, 4, 5)
        assert data.hidden_counts_known


def test_a_test_phase_file_has_unknown_counts(save):
    heldin = {"eval_spikes_heldin": parts("eval")["eval_spikes_heldin"]}
    recording = load_file(save({**parts("train"), **heldin}), FIVE_MS)
    assert recording.train.hidden_counts_known
    assert not recording.valid.hidden_counts_known
    assert recording.valid.spikes_BTN.shape == (5, 14, 11)
    np.testing.assert_array_equal(recording.valid.spikes_BTN[:, :10, :8], WHOLE["eval"][:, :10, :8])
    assert not recording.valid.spikes_BTN[:, 10:].any()
    assert not recording.valid.spikes_BTN[..., 8:].any()
    assert "`eval_spikes_heldout`" in recording.notes[0]


def test_held_in_neurons_alone_are_a_plain_set(save):
    arrays = {k: v for half in WHOLE for k, v in parts(half).items() if k.endswith("heldin")}
    recording = load_file(save(arrays), FIVE_MS)
    assert (recording.valid.n_heldout, recording.valid.n_forward) == (0, 0)
    assert recording.valid.hidden_counts_known


def test_a_file_without_forward_bins_is_read(save):
    arrays = {**parts("train"), **parts("eval")}
    arrays = {k: v for k, v in arrays.items() if not k.endswith("forward")}
    recording = load_file(save(arrays), FIVE_MS)
    assert (recording.train.n_heldout, recording.train.n_forward) == (3, 0)


def test_the_bin_width_must_be_given(save):
    with pytest.raises(DataError, match="found no bin width") as caught:
        load_file(save({**parts("train"), **parts("eval")}), DataSettings())
    assert "data.file_bin_ms" in caught.value.hint


def test_behavior_ends_with_the_window(save):
    velocity = RNG.standard_normal((12, 10, 2))
    arrays = {**parts("train"), **parts("eval"), "train_behavior": velocity}
    arrays["eval_behavior"] = np.ones((5, 1))  # one value a trial, as dmfc_rsg has
    recording = load_file(save(arrays), FIVE_MS)
    np.testing.assert_array_equal(recording.train.behavior_BTV[:, :10], velocity)
    assert np.isnan(recording.train.behavior_BTV[:, 10:]).all()
    assert recording.valid.behavior_BTV is None
    assert "`eval_behavior`" in recording.notes[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_spikes_heldin": None}, "`eval_spikes_heldin`: found no such key"),
        ({"train_spikes_heldin": None}, "`train_spikes_heldin`: found no such key"),
        ({"train_spikes_heldout": None}, "`train_spikes_heldout`: found no such key"),
        ({"train_spikes_heldout_forward": None}, "`train_spikes_heldout_forward`: found no such"),
        ({"eval_spikes_heldin": WHOLE["eval"][:, :10, :7]}, "`eval_spikes_heldin`: found 10 bins"),
        ({"eval_spikes_heldout": WHOLE["eval"][:, :10, :2]}, "found 10 bins x 2 neurons"),
        ({"eval_spikes_heldout": WHOLE["eval"][:4, :10, 8:]}, "`eval_spikes_heldout`: found 4 tri"),
        (
            {"train_spikes_heldin_forward": WHOLE["train"][:, :3, :8]},
            "found 4 bins x 8 neurons; expected 3 x",
        ),
        ({"train_spikes_heldout": WHOLE["train"][:11, :10, 8:]}, "found 11 trials; expected 12"),
    ],
)
def test_parts_that_do_not_fit_are_refused(save, change, message):
    arrays = {**parts("train"), **parts("eval"), **change}
    path = save({k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(DataError, match=message) as caught:
        load_file(path, FIVE_MS)
    assert str(path) in caught.value.message
