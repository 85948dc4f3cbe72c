"""Counts that are binned already: in trials, or one continuous recording."""

import numpy as np
import pytest

from ndt_cli.convert import ConvertOptions, convert, merge
from ndt_cli.data.describe import describe_file
from ndt_cli.data.spike_data import all_trials
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.settings.tree import DataSettings


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "rat.npz", **arrays)
        return tmp_path / "rat.npz"

    return write


def counts(*shape, seed=0):
    return np.random.default_rng(seed).poisson(0.7, shape)


def test_trials_of_counts_are_summed_to_wider_bins(save):
    stored = counts(6, 11, 3)
    path = save(spikes=stored, bin_ms=5, condition=np.arange(6) % 2)
    converted = convert(path, ConvertOptions(bin_ms=10, condition=("condition",)))
    whole = all_trials(converted.recording)
    np.testing.assert_array_equal(whole.spikes_BTN, stored[:, :10].reshape(6, 5, 2, 3).sum(2))
    assert whole.bin_ms == 10
    assert whole.conditions_B.tolist() == [0, 1] * 3
    (lost,) = converted.report.dropped
    assert (lost.what, lost.n) == ("spikes", int(stored[:, 10].sum()))


@pytest.mark.parametrize("how", ["nan", "lengths", "length_ms"])
def test_padding_is_padding_however_it_is_marked(save, how):
    stored = counts(4, 10, 2).astype(float) + 1
    lengths = np.array([10, 7, 4, 9])
    padding = np.arange(10) >= lengths[:, None]
    stored[padding] = np.nan if how == "nan" else 0
    arrays = {"lengths": lengths} if how == "lengths" else {}
    if how == "length_ms":
        arrays = {"length_ms": lengths * 5.0}
    path = save(spikes=stored, bin_ms=5, hand=np.ones((4, 10)), **arrays)
    whole = all_trials(convert(path, ConvertOptions(behavior=("hand",))).recording)
    np.testing.assert_array_equal(np.isnan(whole.behavior_BTV[..., 0]), padding)
    np.testing.assert_array_equal(whole.lengths_B, lengths)
    np.testing.assert_array_equal(whole.spikes_BTN, np.where(padding[..., None], 0, stored))


def test_a_window_counts_from_an_event_within_the_trial(save):
    stored = counts(4, 20, 2)
    path = save(spikes=stored, bin_ms=10, go=[0.05, 0.08, np.nan, 0.15], lengths=[20, 20, 20, 16])
    converted = convert(path, ConvertOptions(bin_ms=20, align="go", window_ms=(-40, 80)))
    whole = all_trials(converted.recording)
    assert whole.trial_ids_B.tolist() == [0, 1]
    first = stored[0, 1:13].reshape(6, 2, 2).sum(1)
    second = stored[1, 4:16].reshape(6, 2, 2).sum(1)
    np.testing.assert_array_equal(whole.spikes_BTN, [first, second])
    whys = {d.why for d in converted.report.dropped if d.what == "trials"}
    assert whys == {"have no go", "do not hold the whole window"}


def test_axes_in_any_order(save):
    stored = counts(6, 10, 3)
    path = save(spikes=stored.transpose(2, 1, 0), bin_ms=5, hand=stored.transpose(2, 1, 0) / 2)
    options = ConvertOptions(axes="neurons,bins,trials", behavior=("hand",))
    whole = all_trials(convert(path, options).recording)
    np.testing.assert_array_equal(whole.spikes_BTN, stored)
    np.testing.assert_array_equal(whole.behavior_BTV, stored / 2)
    for wrong in ("neurons,bins", "neurons,bins,cells", "bins,bins,trials"):
        with pytest.raises(SettingsError, match="a word for each of them"):
            convert(path, ConvertOptions(axes=wrong))


@pytest.mark.parametrize("turned", [False, True])
def test_neurons_on_the_first_axis_are_noted_by_their_unequal_rates(save, turned):
    rates_N = np.array([0.02, 0.1, 0.3, 0.5, 1.5, 3.0])
    stored = np.random.default_rng(0).poisson(rates_N, (20, 30, 6))
    path = save(spikes=stored.transpose(2, 1, 0) if turned else stored, bin_ms=20)
    noted = [note for note in convert(path).report.notes if "along the first axis" in note]
    warned = [w for w in describe_file(path, DataSettings()).warnings if "first axis" in w]
    assert (len(noted), len(warned)) == (int(turned), int(turned))
    if turned:
        named = convert(path, ConvertOptions(axes="neurons,bins,trials"))
        np.testing.assert_array_equal(all_trials(named.recording).spikes_BTN, stored)


def test_times_under_the_name_of_counts_are_no_counts(save):
    path = save(spikes=np.stack([np.arange(9.0) / 7, np.zeros(9)], axis=1))
    with pytest.raises(DataError, match="expected whole numbers") as caught:
        convert(path, ConvertOptions(bin_ms=20))
    assert "`spike_times`" in caught.value.hint


def test_a_continuous_recording_is_chopped_and_merged_back(save):
    stored, hand = counts(500, 3), np.arange(500.0)
    path = save(spikes=stored, bin_ms=1, hand=hand, unit=[5, 9, 11])
    options = ConvertOptions(bin_ms=5, chop_ms=100, overlap_ms=25, behavior=("hand",))
    converted = convert(path, options)
    whole = all_trials(converted.recording)
    expected = stored.reshape(100, 5, 3).sum(1)
    merged = merge(whole.spikes_BTN, whole.start_bins_B, whole.lengths_B)
    np.testing.assert_array_equal(merged, expected)
    behavior = merge(whole.behavior_BTV, whole.start_bins_B, whole.lengths_B)
    np.testing.assert_array_equal(behavior[:, 0], hand.reshape(100, 5).mean(1))
    assert converted.report.neurons == ("5", "9", "11")


def test_a_continuous_recording_is_cut_into_trials_on_its_clock(save):
    stored = counts(400, 2)
    # Where in a bin a spike was is lost, so a trial begins at the nearest edge of one.
    start = np.array([100.0497, 100.1004, 100.3, 100.39])
    path = save(
        counts=stored, t=100 + np.arange(400) / 1000, bin_ms=1, start=start, stop=start + 0.0604
    )
    converted = convert(path, ConvertOptions(bin_ms=10, counts_times="t"))
    whole = all_trials(converted.recording)
    expected = [stored[k : k + 60].reshape(6, 10, 2).sum(1) for k in (50, 100, 300)]
    np.testing.assert_array_equal(whole.spikes_BTN, expected)
    assert any("outside of the counts, 100 to 100.4 s" in d.why for d in converted.report.dropped)


@pytest.mark.parametrize(
    ("arrays", "options", "error", "said"),
    [
        ({"spikes": counts(4, 9, 2)}, {}, SettingsError, "found no bin width of the counts"),
        ({"spikes": counts(4, 9, 2), "bin_ms": 4}, {"bin_ms": 10}, SettingsError, "whole multiple"),
        ({"spikes": counts(4, 9, 2), "bin_ms": 4}, {"chop_ms": 8}, SettingsError, "trials already"),
        ({"spikes": counts(4, 9, 2) - 1, "bin_ms": 4}, {}, DataError, "expected whole numbers"),
        ({"spikes": counts(4, 9, 2) / 2, "bin_ms": 4}, {}, DataError, "expected whole numbers"),
        ({"spikes": counts(90, 2), "bin_ms": 4}, {}, SettingsError, "found no trials"),
        (
            {"spikes": counts(4, 9, 2), "bin_ms": 4, "lengths": [1, 2]},
            {},
            DataError,
            "`lengths='lengths'`: found shape (2,); expected 4 values",
        ),
        (
            {"spikes": counts(4, 9, 2), "bin_ms": 4, "hand": np.zeros((4, 8))},
            {"behavior": ("hand",)},
            DataError,
            "4 trials x 9 bins x variables",
        ),
        ({"a": np.zeros(3)}, {}, DataError, "found no spikes under a usual name"),
    ],
)
def test_counts_that_are_unusable_are_refused(save, arrays, options, error, said):
    with pytest.raises(error) as caught:
        convert(save(**arrays), ConvertOptions(**options))
    assert said in caught.value.message


def test_bins_of_continuous_counts_are_where_their_times_say(save):
    arrays = {"counts": counts(100, 3), "start_time": [0.2, 0.6], "stop_time": [0.4, 0.8]}
    times_s = 0.01 * np.arange(100)
    wrong = {
        "bin 50 5000 ms": times_s + 5 * (times_s > 0.495),
        "bin 1 10 ms": 2 * times_s,
        "bin 6 6 ms": 1.1 * times_s,
        "bin 1 -20 ms": times_s[::-1],
    }
    options = ConvertOptions(counts_times="t", counts_bin_ms=10)
    for found, wrong_s in wrong.items():
        with pytest.raises(DataError, match=f"`counts_times='t'`: found the time of {found}"):
            convert(save(t=wrong_s, **arrays), options)
    times_s += np.random.default_rng(0).uniform(-0.002, 0.002, 100)
    assert convert(save(t=times_s, **arrays), options).recording.train.n_bins == 20


def test_a_continuous_recording_has_more_bins_than_neurons(save):
    stored = counts(200, 6)
    options = {"chop_ms": 500, "counts_bin_ms": 10}
    with pytest.raises(DataError, match="found 6 bins x 200 neurons") as error:
        convert(save(counts=stored.T), ConvertOptions(**options))
    assert "`axes='neurons,bins'`" in error.value.hint
    whole = all_trials(convert(save(counts=stored), ConvertOptions(**options)).recording)
    turned = ConvertOptions(axes="neurons,bins", **options)
    same = all_trials(convert(save(counts=stored.T), turned).recording)
    np.testing.assert_array_equal(same.spikes_BTN, whole.spikes_BTN)


def test_lengths_beyond_the_bins_are_refused_for_they_may_be_in_ms(save):
    path = save(spikes=counts(4, 10, 2), bin_ms=5, lengths=[50, 35, 20, 45])
    with pytest.raises(DataError, match="found 50 bins; expected at most 10") as caught:
        convert(path, ConvertOptions())
    assert "`length_ms='lengths'`" in caught.value.hint
    whole = all_trials(convert(path, ConvertOptions(length_ms="lengths")).recording)
    assert whole.lengths_B.tolist() == [10, 7, 4, 9]


@pytest.mark.parametrize(("width", "shown"), [({"dt": 20}, "20 seconds"), ({"bin_ms": 10}, "")])
def test_a_bin_width_that_looks_like_another_unit_is_noted(save, width, shown):
    notes = convert(save(spikes=counts(4, 10, 2), **width), ConvertOptions()).report.notes
    assert any(f"bins of {shown}: is its unit right?" in note for note in notes) == bool(shown)


def test_lengths_in_bins_and_in_ms_agree_or_one_is_named(save):
    lengths = {"lengths": [10, 7, 4, 9], "length_ms": [50.0, 39.0, 20.0, 45.0]}
    path = save(spikes=counts(4, 10, 2), bin_ms=5, **lengths)
    whole = all_trials(convert(path, ConvertOptions()).recording)
    assert whole.lengths_B.tolist() == [10, 7, 4, 9]
    lengths["length_ms"][0] = 34.0
    path = save(spikes=counts(4, 10, 2), bin_ms=5, **lengths)
    with pytest.raises(DataError, match="`length_ms='length_ms'`: found other lengths"):
        convert(path, ConvertOptions())
    whole = all_trials(convert(path, ConvertOptions(length_ms="length_ms")).recording)
    assert whole.lengths_B.tolist() == [6, 7, 4, 9]


@pytest.mark.parametrize(
    ("bad", "hint"), [(-1, "`lengths=NAME`"), (np.nan, "`lengths=NAME`"), (0.5, "`spike_times`")]
)
def test_what_is_no_count_comes_with_what_it_may_be(save, bad, hint):
    values = counts(4, 10, 2).astype(float)
    values[1, 3, 0] = bad
    with pytest.raises(DataError, match=r"found \S+ at \(1, 3, 0\)") as error:
        convert(save(spikes=values, bin_ms=5), ConvertOptions())
    assert hint in error.value.hint


def test_rates_that_are_whole_numbers_are_no_counts(save):
    hz = 50 * counts(4, 10, 2)
    with pytest.raises(DataError, match="found multiples of 50 alone; expected counts"):
        convert(save(spikes=hz, bin_ms=20), ConvertOptions())


def test_trials_of_counts_have_the_rows_of_another_table_by_their_numbers(save, tmp_path):
    stored, ids = counts(5, 10, 3), np.array([7, 3, 9, 4, 5])
    path = save(spikes=stored, bin_ms=10, trial_ids=ids)
    rows = "\n".join(f"{number},{number % 3},{number / 100}" for number in range(12))
    (tmp_path / "t.csv").write_text(f"trial,side,go\n{rows}")
    options = {"trials": str(tmp_path / "t.csv"), "condition": ("side",)}
    whole = all_trials(convert(path, ConvertOptions(**options)).recording)
    assert whole.trial_ids_B.tolist() == ids.tolist()
    assert whole.conditions_B.tolist() == (ids % 3).tolist()
    np.testing.assert_array_equal(whole.spikes_BTN, stored)
    window = {"align": "go", "window_ms": (-30, 10), "where": ("trial < 9",), **options}
    cut = all_trials(convert(path, ConvertOptions(**window)).recording)
    assert cut.trial_ids_B.tolist() == [7, 3, 4, 5]
    kept = [(stored[i], number - 3) for i, number in enumerate(ids) if number < 9]
    np.testing.assert_array_equal(cut.spikes_BTN, [own[at : at + 4] for own, at in kept])
    (tmp_path / "t.csv").write_text("\n".join(["trial,side", *(f"{n},0" for n in range(1, 6))]))
    with pytest.raises(DataError, match="found no row for 7, 9 in its column 'trial'"):
        convert(path, ConvertOptions(**options))


def test_a_spike_file_that_is_converted_again_keeps_the_numbers_of_its_trials(save):
    path = save(spikes=counts(4, 10, 3), bin_ms=10, trial_ids=[7, 3, 9, 4])
    whole = all_trials(convert(path, ConvertOptions(bin_ms=20)).recording)
    assert whole.trial_ids_B.tolist() == [7, 3, 9, 4]
