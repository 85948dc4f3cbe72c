"""Windows along a recording, and back."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.convert import ConvertOptions, chop, merge
from ndt_cli.convert.trials import draw_blocks, draw_valid, plan_pieces
from ndt_cli.data.bins import chop_windows, rebin_recording
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import Recording, SpikeData, all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.errors import DataError
from ndt_cli.inferred_rates import Rates
from ndt_cli.rates_file import write_rates
from ndt_cli.settings.tree import DataSettings


@st.composite
def windows(draw):
    window = draw(st.integers(1, 40))
    return draw(st.integers(1, 200)), window, draw(st.integers(0, window - 1))


@settings(max_examples=200, deadline=None)
@given(windows(), st.sampled_from([np.float32, np.float64, np.uint8]), st.integers(1, 3))
def test_what_is_chopped_is_merged_back_exactly(sizes, dtype, n_channels):
    n_bins, window, overlap = sizes
    rng = np.random.default_rng(n_bins)
    values = (rng.standard_normal((n_bins, n_channels)) * 1e3).astype(dtype)
    back = merge(*chop(values, window, overlap))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, values)


@settings(max_examples=100, deadline=None)
@given(windows())
def test_windows_cover_the_stretch_and_overlap_as_asked(sizes):
    n_bins, window, overlap = sizes
    starts, lengths = chop_windows(*sizes)
    assert starts[0] == 0
    assert starts[-1] + lengths[-1] == n_bins
    assert (lengths[:-1] == window).all()
    assert (starts[1:] == starts[:-1] + window - overlap).all()
    if len(starts) > 1:
        assert lengths[-1] > overlap  # a last window brings something new


def test_the_last_window_is_padded():
    chopped, starts, lengths = chop(np.arange(1, 6), 4, 2)
    np.testing.assert_array_equal(chopped, [[1, 2, 3, 4], [3, 4, 5, 0]])
    assert (starts.tolist(), lengths.tolist()) == ([0, 2], [4, 3])


def test_windows_that_disagree_are_faded_from_one_to_the_next():
    merged = merge(np.array([[0.0] * 5, [4.0] * 5]), np.array([0, 2]), np.array([5, 5]))
    np.testing.assert_allclose(merged, [0, 0, 1, 2, 3, 4, 4])


def test_order_of_windows_does_not_matter_and_gaps_are_nan():
    rates = np.array([[5.0, 6.0], [1.0, 2.0]])
    merged = merge(rates, np.array([103, 100]), np.array([2, 2]))
    np.testing.assert_array_equal(merged, [1, 2, np.nan, 5, 6])


def test_a_short_window_inside_a_long_one_ends_nothing():
    windows_BT = np.array([[1.0] * 6, [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    merged = merge(windows_BT, np.array([0, 1, 4]), np.array([6, 2, 2]))
    np.testing.assert_array_equal(merged, np.ones(6))
    # The third window fades with the first, which still lasts when the second has ended.
    windows_BT[2, :2] = 4
    merged = merge(windows_BT, np.array([0, 1, 4]), np.array([6, 2, 2]))
    np.testing.assert_allclose(merged, [1, 1, 1, 1, 2, 3])


def test_padding_is_never_merged():
    merged = merge(np.array([[1.0, 99.0], [2.0, 99.0]]), np.array([0, 1]), np.array([1, 1]))
    np.testing.assert_array_equal(merged, [1, 2])


@pytest.mark.parametrize(("n_bins", "window", "overlap"), [(0, 4, 1), (10, 4, 4), (10, 4, -1)])
def test_impossible_windows_are_refused(n_bins, window, overlap):
    with pytest.raises(DataError, match="overlap shorter than the window"):
        chop_windows(n_bins, window, overlap)
    with pytest.raises(DataError, match="no windows"):
        merge(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, int))


@settings(max_examples=100, deadline=None)
@given(windows(), st.integers(0, 5), st.floats(0.1, 0.9))
def test_no_bin_is_in_training_and_in_validation(sizes, seed, fraction):
    n_bins, window, overlap = sizes
    # Two stretches; neither begins at an edge of the grid.
    stretches = np.array([[7, 7 + 10 * n_bins], [10_003, 10_003 + 10 * (n_bins + 60)]])
    pieces = plan_pieces(
        stretches,
        10,
        window,
        overlap,
        lambda cells: draw_blocks(len(cells), valid_fraction=fraction, seed=seed),
    )
    bins = [
        {
            bin_
            for start, n, valid in zip(
                pieces.start_bins_B, pieces.n_bins_B, pieces.is_valid_B, strict=True
            )
            if valid == wanted
            for bin_ in range(start, start + n)
        }
        for wanted in (False, True)
    ]
    assert not bins[0] & bins[1]
    whole = {b for start, stop in stretches for b in range(-(-start // 10), stop // 10)}
    assert bins[0] | bins[1] == whole
    assert bins[1]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 9))
def test_blocks_have_the_share_asked_for_and_are_few(n_trials, fraction, seed):
    is_valid = draw_blocks(n_trials, valid_fraction=fraction, seed=seed)
    assert len(is_valid) == n_trials
    assert is_valid.sum() == min(max(round(fraction * n_trials), 1), n_trials - 1)
    n_blocks = np.count_nonzero(np.diff(np.r_[0, is_valid.astype(int)]) == 1)
    assert 1 <= n_blocks <= 5
    np.testing.assert_array_equal(
        is_valid, draw_blocks(n_trials, valid_fraction=fraction, seed=seed)
    )


def test_the_seed_moves_the_blocks():
    drawn = {draw_blocks(100, valid_fraction=0.2, seed=s).tobytes() for s in range(5)}
    assert len(drawn) == 5


def test_drawn_by_condition_each_gives_its_share():
    conditions = np.repeat([0, 1], [80, 20])
    options = ConvertOptions(valid_fraction=0.25, seed=1)
    is_valid = draw_valid(100, "condition", options, conditions_B=conditions)
    assert [int(is_valid[conditions == c].sum()) for c in (0, 1)] == [20, 5]


def test_one_trial_cannot_be_split():
    for by in ("random", "condition", "blocks"):
        with pytest.raises(DataError, match="found 1 trial"):
            draw_valid(1, by, ConvertOptions(), source="rat.npz")


@pytest.fixture
def chopped():
    """Windows of a recording of 95 bins that begins at bin 200 of its clock."""
    spikes_TN = np.random.default_rng(0).poisson(1, (95, 3)).astype(np.uint8)
    spikes_BTN, starts_B, lengths_B = chop(spikes_TN, 20, 8)
    whole = SpikeData(spikes_BTN, 10.0, lengths_B, start_bins_B=200 + starts_B)
    recording = Recording(whole.take(np.arange(4)), whole.take(np.arange(4, 8)), "made", "ndt")
    return spikes_TN, recording


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_the_place_of_windows_is_written_and_read(chopped, tmp_path, ending):
    spikes_TN, recording = chopped
    write_recording(recording, tmp_path / f"rat{ending}")
    back = all_trials(load_file(tmp_path / f"rat{ending}", DataSettings()))
    merged = merge(back.spikes_BTN, back.start_bins_B, back.lengths_B)
    np.testing.assert_array_equal(merged, spikes_TN)
    assert back.start_bins_B[0] == 200


def test_wider_bins_keep_the_place_of_windows_that_fit_them(chopped):
    spikes_TN, recording = chopped
    wider = all_trials(rebin_recording(recording, 40.0))
    merged = merge(wider.spikes_BTN, wider.start_bins_B, wider.lengths_B)
    np.testing.assert_array_equal(merged, spikes_TN[:92].reshape(23, 4, 3).sum(1))
    other = rebin_recording(recording, 50.0)
    assert other.train.start_bins_B is None
    assert "Windows begin inside these bins" in other.notes[0]


def test_a_place_that_is_no_whole_number_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", spikes=np.ones((4, 3, 2)), bin_ms=5, start_bins=[0, 1.5, 3, 4])
    with pytest.raises(DataError, match="`start_bins`: found values of type float64"):
        load_file(tmp_path / "a.npz", DataSettings())


def test_rates_of_windows_are_written_merged(chopped, tmp_path):
    _, recording = chopped
    whole = all_trials(recording)
    times = (whole.start_bins_B[:, None] + np.arange(20))[..., None]
    rates_BTN = (np.repeat(times, 3, axis=2) / 100).astype(np.float32)
    rates_BTN[~whole.inside_BT] = 0
    write_rates(tmp_path / "rates.h5", Rates(whole, rates_BTN, rates_BTN))
    with h5py.File(tmp_path / "rates.h5") as file:
        np.testing.assert_array_equal(
            file["continuous_rates"][:, 0], (np.arange(200, 295) / 100).astype(np.float32)
        )
        assert file["continuous_rates_hz"].shape == (95, 3)
        assert file["continuous_start_ms"][()] == 2000
    alone = replace(whole, start_bins_B=None)
    write_rates(tmp_path / "trials.h5", Rates(alone, rates_BTN, rates_BTN))
    with h5py.File(tmp_path / "trials.h5") as file:
        assert not any(key.startswith("continuous") for key in file)
