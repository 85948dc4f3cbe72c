"""Spike times to trials: windows, what is left out and why, splits, chopping."""

import numpy as np
import pytest
from convert_files import flat, session, write_npz

from ndt_cli.convert import ConvertOptions, bin_spikes, convert, merge
from ndt_cli.data.spike_data import all_trials
from ndt_cli.errors import DataError, SettingsError


@pytest.fixture
def rat(tmp_path):
    """Save the session with arrays changed or added."""

    def write(**changed):
        made = session()
        path = write_npz(tmp_path / "rat.npz", made)
        if changed:
            with np.load(path) as stored:
                arrays = {**stored, **changed}
            np.savez(path, **arrays)
        return path

    return write


def dropped(converted):
    return {(d.what, d.why): (d.n, d.n_all) for d in converted.report.dropped}


def test_what_is_left_out_is_counted_by_reason(rat):
    made = session()
    stop = made.stop.copy()
    stop[0] = made.start[0] + 0.04
    stop[1] = made.start[1] - 1
    start = made.start.copy()
    start[3] = np.nan
    converted = convert(
        rat(start_time=start, stop_time=stop), ConvertOptions(bin_ms=50, where=("success == 1",))
    )
    lost = dropped(converted)
    assert lost["trials", "do not meet 'success == 1'"] == (2, 8)
    assert lost["trials", "have no start_time"] == (1, 6)
    assert lost["trials", "end before they begin"] == (1, 5)
    assert lost["trials", "are shorter than one bin"] == (1, 4)
    whole = all_trials(converted.recording)
    assert whole.trial_ids_B.tolist() == [4, 5, 7]
    n_spikes = sum(len(t) for t in made.times_s)
    n_outside = n_spikes - int(whole.spikes_BTN.sum())
    assert lost["spikes", "are outside the trials' bins"] == (n_outside, n_spikes)


def test_no_trial_left_is_refused_with_the_reason(rat):
    with pytest.raises(DataError, match=r"no trial is left: 8 of 8 trials do not meet"):
        convert(rat(), ConvertOptions(bin_ms=50, where=("side == up",)))


@pytest.mark.parametrize("n_spikes", [50, 400])
def test_spike_times_that_are_all_missing_are_refused_with_the_reason(rat, n_spikes):
    path = rat(spike_times=np.full(n_spikes, np.nan), spike_units=np.arange(n_spikes) % 3)
    with pytest.raises(DataError, match=f"no spike is left: {n_spikes} of {n_spikes} spikes have"):
        convert(path, ConvertOptions(bin_ms=50))


def test_an_event_that_did_not_happen_leaves_its_trial_out(rat):
    go = session().go.copy()
    go[2] = np.nan
    converted = convert(rat(go=go), ConvertOptions(bin_ms=20, align="go", window_ms=(-200, 200)))
    assert dropped(converted)["trials", "have no go"] == (1, 8)
    assert 2 not in all_trials(converted.recording).trial_ids_B


def test_overlapping_trials_keep_all_their_spikes_and_are_pointed_out(rat):
    made = session()
    converted = convert(rat(), ConvertOptions(bin_ms=50, align="go", window_ms=(-2000, 2000)))
    spikes_BTN, _ = bin_spikes(made.times_s, made.go - 2, made.go + 2, 50)
    whole = all_trials(converted.recording)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)
    assert "7 trials begin before an earlier one ends" in converted.report.notes[-1]
    (lost,) = (n for (what, _), (n, _) in dropped(converted).items() if what == "spikes")
    inside = [((t >= made.go[0] - 2) & (t < made.go[-1] + 2)).sum() for t in made.times_s]
    assert lost == sum(len(t) for t in made.times_s) - sum(inside)


def test_trials_in_another_order_are_put_in_order_of_time(rat):
    made = session()
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    shuffled = {name: column[order] for name, column in made.trials.items()}
    whole = all_trials(convert(rat(**shuffled), ConvertOptions(bin_ms=50)).recording)
    # trial_ids are rows of the table, and all_trials sorts by them.
    spikes_BTN, lengths_B = bin_spikes(made.times_s, made.start[order], made.stop[order], 50)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)
    np.testing.assert_array_equal(whole.lengths_B, lengths_B)
    blocks = convert(
        rat(**shuffled), ConvertOptions(bin_ms=50, split="blocks", valid_fraction=0.5, seed=1)
    )
    # Four sections of two trials each in time, one of which validates.
    in_time = np.searchsorted(made.start, made.start[order][blocks.recording.valid.trial_ids_B])
    assert (in_time // 2).tolist() == [0, 1, 2, 3]


def test_duration_is_a_column_to_choose_by(rat):
    converted = convert(rat(), ConvertOptions(bin_ms=50, where=("duration_ms <= 1000",)))
    assert all_trials(converted.recording).trial_ids_B.tolist() == [0, 2, 3, 4, 6, 7]


def test_much_padding_is_pointed_out(rat):
    stop = session().stop.copy()
    stop[7] += 8
    notes = convert(rat(stop_time=stop), ConvertOptions(bin_ms=50)).report.notes
    assert any("of all bins pad shorter trials" in note for note in notes)


def test_a_slow_unit_is_left_out_and_the_others_keep_their_names(rat):
    made = session()
    times, units = flat(made)
    one = np.flatnonzero(units == 1)[:1]
    kept = np.sort(np.r_[np.flatnonzero(units != 1), one])
    path = rat(spike_times=times[kept], spike_units=units[kept])
    converted = convert(path, ConvertOptions(bin_ms=50, min_rate_hz=1))
    assert converted.report.neurons == ("0", "2")
    assert dropped(converted)["units", "fire less than 1 spikes per second"] == (1, 3)
    with pytest.raises(DataError, match="`min_rate_hz=1000`: found no such unit") as caught:
        convert(path, ConvertOptions(bin_ms=50, min_rate_hz=1000))
    assert "`time_unit`" in caught.value.hint


def test_conditions_of_two_columns_have_one_name(rat):
    converted = convert(rat(), ConvertOptions(bin_ms=50, condition=("side", "success")))
    assert converted.report.conditions == {"left/0": 2, "left/1": 2, "right/1": 4}
    assert all_trials(converted.recording).conditions_B.tolist() == [1, 2, 0, 2, 1, 2, 0, 2]


def test_text_that_is_stored_as_bytes_is_read_as_the_words_that_it_spells(rat):
    _, units = flat(session())
    sides = np.char.encode(["links", "größer"] * 4, "utf-8")
    path = rat(side=sides, spike_units=np.char.encode(np.array(["a", "b", "µ"])[units], "utf-8"))
    options = ConvertOptions(bin_ms=50, condition=("side",), where=("side in links, größer",))
    converted = convert(path, options)
    assert converted.report.conditions == {"größer": 4, "links": 4}
    assert converted.report.neurons == ("a", "b", "µ")
    assert set(converted.recording.train.trial_table["side"]) == {"größer", "links"}


def test_conditions_that_differ_after_six_digits_have_names_of_their_own(rat):
    speeds = np.repeat([1234.5678, 1234.5679], 4)
    converted = convert(rat(speed=speeds), ConvertOptions(bin_ms=50, condition=("speed",)))
    assert converted.report.conditions == {"1234.5678": 4, "1234.5679": 4}


def test_fractions_that_differ_by_rounding_alone_are_one_condition(rat):
    converted = convert(
        rat(speed=np.array([0.1 + 0.2, 0.3, 0.1, 10.0] * 2)),
        ConvertOptions(bin_ms=50, condition=("speed",)),
    )
    assert converted.report.conditions == {"0.1": 2, "0.3": 4, "10": 2}
    assert all_trials(converted.recording).conditions_B.tolist() == [1, 1, 0, 2] * 2


def test_validation_trials_are_drawn_by_seed_or_named(rat):
    path = rat()

    def valid(**options):
        recording = convert(path, ConvertOptions(bin_ms=50, **options)).recording
        assert recording.train.n_trials + recording.valid.n_trials == 8
        return recording.valid.trial_ids_B.tolist()

    assert valid(valid_where="side == left") == [0, 2, 4, 6]
    assert valid(seed=1) == valid(seed=1)
    assert len({tuple(valid(seed=s, valid_fraction=0.5)) for s in range(5)}) > 1
    by_side = valid(condition=("side",), valid_fraction=0.5)
    assert sorted(i % 2 for i in by_side) == [0, 0, 1, 1]
    with pytest.raises(DataError, match="found no training trials"):
        valid(valid_where="success >= 0")


def test_a_chopped_recording_is_whole_and_merged_back(rat):
    made = session()
    converted = convert(
        rat(),
        ConvertOptions(bin_ms=20, trials="none", chop_ms=400, overlap_ms=100, valid_fraction=0.3),
    )
    whole = all_trials(converted.recording)
    merged = merge(whole.spikes_BTN, whole.start_bins_B, whole.lengths_B)
    first = int(whole.start_bins_B.min())
    every, _ = bin_spikes(
        made.times_s, np.array([first * 0.02]), np.array([(first + len(merged)) * 0.02]), 20
    )
    np.testing.assert_array_equal(merged, every[0])
    assert merged.sum() == sum(len(t) for t in made.times_s)
    assert converted.report.dropped == ()
    train, valid = converted.recording.train, converted.recording.valid
    bins = [
        {b for s, n in zip(d.start_bins_B, d.lengths_B, strict=True) for b in range(s, s + n)}
        for d in (train, valid)
    ]
    assert not bins[0] & bins[1]


def test_long_trials_are_chopped_with_their_conditions(rat):
    options = ConvertOptions(bin_ms=20, chop_ms=400, overlap_ms=100, condition=("side",))
    converted = convert(rat(), options)
    whole = all_trials(converted.recording)
    trial = np.searchsorted(session().start, whole.start_bins_B * 0.02 + 1e-6) - 1
    np.testing.assert_array_equal(whole.conditions_B, trial % 2)
    assert whole.n_trials > 8


def test_trials_that_overlap_cannot_be_chopped(rat):
    made = session()
    with pytest.raises(DataError, match="overlap in time") as caught:
        convert(rat(stop_time=made.stop + 3), ConvertOptions(bin_ms=20, chop_ms=400))
    assert "`trials='none'`" in caught.value.hint


def test_behavior_comes_along_in_the_same_bins(rat):
    made = session()
    options = ConvertOptions(bin_ms=50, behavior=("hand",), behavior_times="hand_t")
    whole = all_trials(convert(rat(), options).recording)
    assert whole.behavior_names == ("hand 0", "hand 1")
    for trial, start in enumerate(made.start):
        n_bins = whole.lengths_B[trial]
        # Ten samples a bin, at its beginning and every 5 ms: their mean is 22.5 ms in.
        expected = start + 0.05 * np.arange(n_bins) + 0.0225
        np.testing.assert_allclose(whole.behavior_BTV[trial, :n_bins, 0], expected)
        np.testing.assert_allclose(whole.behavior_BTV[trial, :n_bins, 1], -expected)
        assert np.isnan(whole.behavior_BTV[trial, n_bins:]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "`bin_ms`: found no bin width"),
        ({"bin_ms": 20, "align": "go"}, "`align='go'`: found no window"),
        ({"bin_ms": 20, "window_ms": (0, 50)}, "`window_ms`: found 50 ms, which is 2.5 bins"),
        ({"bin_ms": 20, "window_ms": (100, 0)}, "expected the beginning first"),
        ({"bin_ms": 0}, "`bin_ms`: found 0; expected greater than 0"),
        ({"bin_ms": 20, "chop_ms": 100, "overlap_ms": 100}, "`overlap_ms`: found 100 ms"),
        ({"bin_ms": 20, "overlap_ms": 100}, "without `chop_ms`"),
        (
            {"bin_ms": 20, "chop_ms": 100, "window_ms": (0, 40)},
            "`window_ms` and `chop_ms` were both given",
        ),
        ({"bin_ms": 20, "time_unit": "samples"}, "`time_unit='samples'`: found no sampling rate"),
        ({"bin_ms": 20, "valid_fraction": 1.0}, "`valid_fraction`: found 1; expected less than 1"),
        ({"bin_ms": 20, "counts": "a", "spike_times": "b"}, "both given; expected one"),
        ({"bin_ms": 20, "split": "random", "valid_where": "a == 1"}, "both given; expected one"),
        ({"bin_ms": 20, "split": "blocs"}, "`split`: found 'blocs'; expected 'random'"),
        ({"bin_ms": 20, "where": "a == 1"}, "`where`: found 'a == 1'; expected a valid tuple"),
        ({"bin_m": 20}, "'bin_m' is not an option of convert"),
        ({"bin_ms": 20, "trials": "none"}, "found no trials; expected a table"),
        ({"bin_ms": 20, "trials": "none", "where": ("a == 1",)}, "`where`: found no trials"),
        ({"bin_ms": 20, "behavior": ("hand",)}, "found no times of its samples"),
        ({"bin_ms": 20, "stop": "stopp"}, "`stop='stopp'`: found no such column"),
    ],
)
def test_options_that_contradict_each_other_or_the_file_are_refused(rat, options, said):
    with pytest.raises(SettingsError) as caught:
        convert(rat(), ConvertOptions(**options))
    assert said in caught.value.message


def test_values_with_slashes_in_two_columns_are_no_one_condition(rat):
    n = len(np.load(rat())["start_time"])
    first, second = np.array(["a/b", "a"] * n)[:n], np.array(["c", "b/c"] * n)[:n]
    converted = convert(
        rat(first=first, second=second), ConvertOptions(bin_ms=50, condition=("first", "second"))
    )
    assert len(converted.report.conditions) == 2
    assert sum(converted.report.conditions.values()) == n


def test_trials_without_a_condition_are_noted(rat):
    path = rat(condition=[0.0, 1.0, np.nan, 1.0] * 2)
    report = convert(path, ConvertOptions(bin_ms=20, condition=("condition",))).report
    assert report.conditions == {"0": 2, "1": 4, "nan": 2}
    assert "2 trials have no condition, and are a condition of their own" in report.notes[-1]


def test_conditions_whose_numbers_differ_have_names_that_differ(rat):
    path = rat(condition=[1000001.5, 1000002.5] * 4)
    report = convert(path, ConvertOptions(bin_ms=20, condition=("condition",))).report
    assert report.conditions == {"1000001.5": 4, "1000002.5": 4}


def test_events_that_count_from_the_start_of_each_trial_are_refused(rat):
    made, options = session(), {"bin_ms": 20, "align": "go", "window_ms": (-20, 40)}
    with pytest.raises(DataError, match="`align='go'`: found times that count from the start"):
        convert(rat(go=made.go - made.start), ConvertOptions(**options))
    go = np.where(np.arange(len(made.go)) == 3, 0.0, made.go)  # where it did not happen
    notes = convert(rat(go=go), ConvertOptions(**options)).report.notes
    assert any(n.startswith("1 of 8 trials have their go before start_time") for n in notes)
    assert not convert(rat(), ConvertOptions(**options)).report.notes
    path = rat(go=made.go - made.start)
    arrays = {name: array for name, array in np.load(path).items() if name != "stop_time"}
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="8 of 8 trials have their go before start_time; expected"):
        convert(path, ConvertOptions(**options))
    np.savez(path, **{**arrays, "go": made.go, "start_time": made.go + 0.1})
    assert convert(path, ConvertOptions(**options)).recording.train.n_trials


def test_few_spikes_outside_of_all_trials_are_on_another_clock(tmp_path):
    trials = {"start": [1000.0, 3000.0], "stop": [1500.0, 3500.0]}
    np.savez(tmp_path / "a.npz", spike_times=[1.25, 3.25], **trials)
    with pytest.raises(DataError, match=r"found spikes from .* and trials from 1000 to"):
        convert(tmp_path / "a.npz", ConvertOptions(bin_ms=20, spike_units="none"))


@pytest.mark.parametrize(("first_ms", "n_beyond"), [(-2000, 1), (-300, 0)])
def test_windows_that_reach_beyond_the_recording_are_noted(rat, first_ms, n_beyond):
    options = ConvertOptions(bin_ms=50, align="go", window_ms=(first_ms, 200))
    notes = [note for note in convert(rat(), options).report.notes if "not recorded" in note]
    assert len(notes) == bool(n_beyond)
    assert all(note.startswith(f"{n_beyond} trials begin before the first") for note in notes)


def test_a_single_trial_that_is_left_comes_with_the_reasons(rat):
    options = ConvertOptions(bin_ms=50, where=("start_time <= 10",))
    with pytest.raises(DataError, match=r"one trial, .* is left: 7 of 8 trials do not meet"):
        convert(rat(), options)


def test_a_draw_within_conditions_needs_conditions():
    with pytest.raises(SettingsError, match="`split='condition'`: found no condition"):
        ConvertOptions(bin_ms=50, split="condition")


def test_values_that_differ_by_blanks_or_case_alone_are_noted(rat):
    path = rat(side=["Left", "left", "right", "NA"] * 2)
    alike = "'Left' and 'left' differ by blanks or case alone, and are kept apart."
    options = ConvertOptions(bin_ms=20, condition=("side",), where=("side != right",))
    notes = convert(path, options).report.notes
    assert {f"Conditions {alike}", f"Values of side {alike}"} <= set(notes)
    assert any(note.startswith("2 trials have no side") for note in notes)


def test_trials_may_be_the_rows_of_one_array_of_their_starts_and_stops(rat):
    made = session()
    path = rat(epochs=np.stack([made.start, made.stop], axis=1))
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in ("spike_times", "spike_units", "epochs")}
    np.savez(path, **arrays)
    with pytest.raises(SettingsError, match="found no trials") as error:
        convert(path, ConvertOptions(bin_ms=50))
    assert "`start='NAME:0'` and `stop='NAME:1'`" in error.value.hint
    options = ConvertOptions(bin_ms=50, start="epochs:0", stop="epochs:1")
    spikes_BTN, _ = bin_spikes(made.times_s, made.start, made.stop, 50)
    whole = all_trials(convert(path, options).recording)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)
