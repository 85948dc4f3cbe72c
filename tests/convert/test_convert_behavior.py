"""Behavior on a clock of its own, in the bins of the spikes."""

import numpy as np
import pytest

from ndt_cli.convert import ConvertOptions, convert
from ndt_cli.convert.behavior import sampled
from ndt_cli.errors import DataError

STARTS = np.array([0])


def cut(times_ms, values, n_bins, bin_ms):
    made = sampled(np.array(times_ms) * 1000, np.array(values, float), "pos")
    return made.cut(STARTS, np.array([n_bins]), bin_ms * 1000)[0, :, 0]


def test_a_bin_has_the_mean_of_its_samples():
    values = cut([0, 5, 10, 15, 20], [1, 3, 10, 20, 7], 3, 10)
    np.testing.assert_array_equal(values, [2, 15, 7])


def test_samples_slower_than_the_bins_are_interpolated_at_the_middle():
    values = cut([0, 20, 40], [0, 20, 40], 5, 10)
    np.testing.assert_array_equal(values, [5, 15, 25, 35, 40])  # at the end, the sample itself


def test_several_samples_of_one_time_are_one_sample():
    times = np.repeat([0, 20, 40], 2)
    np.testing.assert_array_equal(cut(times, times, 4, 10), [5, 15, 25, 35])


def test_a_wide_gap_stays_a_gap():
    times = [0, 10, 20, 30, 130, 140]
    values = cut(times, times, 14, 10)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(values)), np.arange(4, 13))
    # Two lost samples are bridged.
    assert not np.isnan(cut([0, 10, 40, 50, 60], [0] * 5, 6, 10)).any()


def test_before_the_first_sample_and_after_the_last_nothing_is_known():
    values = cut([20, 30], [1, 1], 5, 10)
    np.testing.assert_array_equal(np.isnan(values), [True, True, False, False, True])


def test_a_missing_value_makes_its_bins_unknown_and_no_other():
    values = cut([0, 5, 10, 15, 20, 25], [1, np.nan, 2, 4, 5, 5], 3, 10)
    np.testing.assert_array_equal(values, [np.nan, 3, 5])


def test_samples_out_of_order_are_sorted():
    np.testing.assert_array_equal(cut([10, 0], [2, 1], 2, 10), [1, 2])


def test_behavior_of_another_clock_is_refused(tmp_path):
    def made(first_s):
        np.savez(
            tmp_path / "session.npz",
            spike_times=np.arange(0.005, 10, 0.05),
            spike_units=np.arange(200) % 3,
            speed=np.ones(1000),
            speed_times=first_s + np.arange(1000) / 100,
        )
        options = ConvertOptions(
            bin_ms=20, chop_ms=1000, behavior=("speed",), behavior_times="speed_times"
        )
        return convert(tmp_path / "session.npz", options).recording.train

    assert np.isfinite(made(first_s=0).behavior_BTV).any()
    assert np.isfinite(made(first_s=5).behavior_BTV).any()  # some of it is enough
    with pytest.raises(DataError, match=r"speed: found no sample .* from 60 to 69\.99 s, .* 0 to"):
        made(first_s=60)


def test_samples_on_a_clock_in_another_unit_are_refused(tmp_path):
    times_ms = np.arange(0.0, 60_000.0, 10)
    rng, start = np.random.default_rng(0), 2.0 + 2 * np.arange(20)
    arrays = {"spike_times": np.sort(rng.uniform(0, 60, 2000)), "spike_units": np.zeros(2000, int)}
    arrays |= {"start_time": start, "stop_time": start + 1, "pos": times_ms, "sampled": times_ms}
    np.savez(tmp_path / "a.npz", **arrays)
    options = {"bin_ms": 20, "behavior": ("pos",), "behavior_times": "sampled"}
    with pytest.raises(DataError, match="found samples 10 s apart, from 0 to 59990 s"):
        convert(tmp_path / "a.npz", ConvertOptions(**options))
    options["behavior_time_unit"] = "ms"
    assert convert(tmp_path / "a.npz", ConvertOptions(**options)).report.behavior == ("pos",)


def test_a_clock_of_samples_that_restarts_is_refused(tmp_path):
    spikes = {"spike_times": np.arange(0.05, 12, 0.1), "spike_units": np.zeros(120)}
    trials = {"start": np.arange(12.0), "stop": np.arange(12) + 0.9}
    block_s = np.arange(0, 6, 0.02)
    hand = {"hand": np.repeat([0.0, 1.0], 300)}
    options = ConvertOptions(bin_ms=100, behavior=("hand",), behavior_times="hand_t")
    np.savez(tmp_path / "a.npz", hand_t=np.tile(block_s, 2), **hand, **spikes, **trials)
    with pytest.raises(DataError, match=r"step back 1 times, the furthest from 5\.98 to 0 s"):
        convert(tmp_path / "a.npz", options)
    times_s = np.concatenate([block_s, 6 + block_s])
    np.savez(tmp_path / "a.npz", hand_t=times_s, **hand, **spikes, **trials)
    assert convert(tmp_path / "a.npz", options).report.behavior == ("hand",)


def test_times_of_trials_and_samples_in_single_precision_are_noted(tmp_path):
    late_s = 500_000
    times_s, start = late_s + np.arange(0.05, 12, 0.1), late_s + np.arange(12.0)
    arrays = {
        "spike_times": times_s, "spike_units": np.zeros(120), "start": start.astype(np.float32),
        "stop": start + 0.9, "hand": np.zeros(120), "hand_t": times_s.astype(np.float32),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    options = ConvertOptions(bin_ms=100, behavior=("hand",), behavior_times="hand_t")
    notes = convert(tmp_path / "a.npz", options).report.notes
    noted = [name for name in ("start", "stop", "hand") if any(f"'{name}'" in n for n in notes)]
    assert noted == ["start", "hand"]


def test_samples_far_apart_are_noted_for_they_may_be_events(tmp_path):
    times = {"spike_times": np.arange(0, 30, 0.013), "licks_t": np.arange(0.0, 30.0, 2.0)}
    np.savez(tmp_path / "a.npz", **times, licks=np.ones(15), start=[1.0, 11.0], stop=[9.0, 19.0])
    options = {"spike_units": "none", "behavior": ("licks",), "behavior_times": "licks_t"}
    notes = convert(tmp_path / "a.npz", ConvertOptions(bin_ms=20, **options)).report.notes
    assert any(note.startswith("Samples of licks are 2 s apart") for note in notes)


def converted_hand(tmp_path, times_s, hand):
    times = {"spike_times": np.arange(0, 30, 0.013), "hand": hand, "hand_t": times_s}
    np.savez(tmp_path / "a.npz", **times, start=[1.0, 11.0], stop=[9.0, 19.0])
    options = {"spike_units": "none", "behavior": ("hand",), "behavior_times": "hand_t"}
    return convert(tmp_path / "a.npz", ConvertOptions(bin_ms=20, **options))


def test_infinite_behavior_is_missing(tmp_path):
    times_s = np.arange(0, 30, 0.01)
    hand = np.where(times_s.round(2) == 2.0, np.inf, times_s)
    made = converted_hand(tmp_path, times_s, hand)
    assert np.isnan(made.recording.train.behavior_BTV).sum() <= 1
    assert "1 values of hand are beyond 1e+30, and are missing." in made.report.notes


@pytest.mark.parametrize(
    ("hand", "n_notes"),
    [
        (lambda t: np.angle(np.exp(3j * t)), 1),
        (lambda t: np.degrees(3 * t) % 360, 1),
        (lambda t: np.sin(3 * t), 0),
        (lambda t: np.floor(t) % 2, 0),  # a switch
        (lambda t: np.where(np.arange(len(t)) % 50, np.cos(t) / 50, 1.0), 0),  # single peaks
    ],
)
def test_an_angle_that_wraps_is_noted(tmp_path, hand, n_notes):
    times_s = np.arange(0, 30, 0.01)
    notes = converted_hand(tmp_path, times_s, hand(times_s)).report.notes
    assert sum("If it is an angle" in note for note in notes) == n_notes
