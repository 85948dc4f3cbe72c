"""Spike times to bins: exact at the edges, whatever the floats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndt_cli.convert import bin_spikes
from ndt_cli.convert.clock import Clock, common_intervals, contained, merge_intervals, ms_to_us
from ndt_cli.convert.spikes import SpikeTimes
from ndt_cli.errors import DataError, SettingsError


def counts(spikes_s, start_s, stop_s, bin_ms):
    spikes_BTN, _ = bin_spikes(
        [np.array(spikes_s)], np.array([start_s]), np.array([stop_s]), bin_ms
    )
    return spikes_BTN[0, :, 0].tolist()


def test_a_spike_at_an_edge_belongs_to_the_bin_that_begins_there():
    assert counts([0.0, 0.1, 0.2], 0.0, 0.3, 100) == [1, 1, 1]
    assert counts([0.3], 0.0, 0.3, 100) == [0, 0, 0]  # the end is not inside


def test_floating_point_does_not_move_a_spike():
    # 3 * 0.1 is above 0.3 and 0.7 - 0.4 is below it; both mean 0.3.
    assert 3 * 0.1 > 0.3 > 0.7 - 0.4
    assert counts([3 * 0.1, 0.7 - 0.4], 0.0, 0.5, 100) == [0, 0, 0, 2, 0]
    assert counts([1234.3], 1234.0, 1234.5, 100) == [0, 0, 0, 1, 0]


def test_half_a_microsecond_is_the_tolerance():
    assert counts([0.1 - 0.4e-6], 0.0, 0.2, 100) == [0, 1]
    assert counts([0.1 - 0.6e-6], 0.0, 0.2, 100) == [1, 0]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**10),
    st.lists(st.integers(-50_000, 250_000), min_size=1, max_size=40),
    st.integers(1, 50_000),
    st.integers(0, 200_000),
    st.sampled_from(["divided", "added", "multiplied"]),
)
def test_counts_equal_integer_arithmetic(start_us, offsets_us, bin_us, long_us, how):
    spikes_us = start_us + np.array(offsets_us)
    spikes_s = {
        "divided": spikes_us / 1e6,
        "added": start_us / 1e6 + np.array(offsets_us) / 1e6,
        "multiplied": spikes_us * 1e-6,
    }[how]
    spikes_BTN, lengths_B = bin_spikes(
        [spikes_s], np.array([start_us / 1e6]), np.array([(start_us + long_us) / 1e6]), bin_us / 1e3
    )
    n_bins = long_us // bin_us
    assert lengths_B.tolist() == [n_bins]
    expected = [sum(o // bin_us == k for o in offsets_us) for k in range(n_bins)]
    assert spikes_BTN[0, :, 0].tolist() == expected


@pytest.mark.parametrize("bin_ms", [0, -20, 1e-7])
def test_a_bin_has_a_width(bin_ms):
    with pytest.raises(SettingsError, match=r"`bin_ms`: found .* ms; expected 0.001 ms or more"):
        counts([0.1], 0.0, 0.3, bin_ms)


def test_trials_of_unequal_length_are_zero_past_their_end():
    spikes_BTN, lengths_B = bin_spikes(
        [np.arange(0, 1, 0.1), np.array([])], np.array([0.0, 0.5]), np.array([0.45, 0.7]), 100
    )
    assert lengths_B.tolist() == [4, 2]  # a partial last bin is left out
    np.testing.assert_array_equal(spikes_BTN[..., 0], [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert not spikes_BTN[..., 1].any()


def test_a_spike_in_two_trials_counts_in_both():
    spikes = SpikeTimes((np.array([50, 150, 900]),), np.array([0]))
    starts, n_bins = np.array([0, 100]), np.array([2, 2])
    assert spikes.count(starts, n_bins, 100).sum() == 3
    assert spikes.n_inside(starts, starts + 200) == 2


def test_too_many_spikes_in_a_bin_are_an_error():
    with pytest.raises(DataError, match="70000"):
        bin_spikes([np.zeros(70_000)], np.array([0.0]), np.array([1.0]), 1000)


@pytest.mark.parametrize(
    ("clock", "number"),
    [
        (Clock("s"), 1.5),
        (Clock("ms"), 1500),
        (Clock("us"), 1_500_000),
        (Clock("samples", 30_000), 45_000),
    ],
)
def test_every_unit_of_time_means_the_same(clock, number):
    assert clock.to_us(np.array([number])).tolist() == [1_500_000]


def test_a_time_centuries_away_is_refused():
    with pytest.raises(SettingsError, match="a time in a recording") as caught:
        Clock("s").to_us(np.array([1e15]))
    assert "`time_unit`" in caught.value.hint


def test_durations_are_whole_microseconds():
    assert ms_to_us(16.667, "bin_ms") == 16_667
    with pytest.raises(SettingsError, match=r"`bin_ms`: found 16\.6666667 ms") as caught:
        ms_to_us(100 / 6, "bin_ms")
    assert "16.667" in caught.value.hint


interval_sets = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: (min(p), max(p))), max_size=6
).map(lambda pairs: np.array(pairs, dtype=np.int64).reshape(-1, 2))


def members(intervals):
    return {t for start, stop in intervals.tolist() for t in range(start, stop)}


@settings(max_examples=100, deadline=None)
@given(st.lists(interval_sets, min_size=1, max_size=4), st.integers(0, 30), st.integers(1, 5))
def test_common_intervals_hold_what_is_in_every_set(sets, start, length):
    common = common_intervals(sets)
    expected = set.intersection(*(members(s) for s in sets))
    assert members(common) == expected
    np.testing.assert_array_equal(common, merge_intervals(common))
    inside = contained(np.array([start]), np.array([start + length]), common)[0]
    assert inside == (set(range(start, start + length)) <= expected)


def test_single_precision_stands_for_the_time_that_it_prints():
    times_us = np.random.default_rng(0).integers(0, 8_000_000, 2000) * 1000
    times_s = (times_us / 1e6).astype(np.float32)
    np.testing.assert_array_equal(Clock().to_us(times_s), times_us)
    uneven_s = times_s + np.float32(1 / 3)
    far_us = np.abs(Clock().to_us(uneven_s) - 1e6 * uneven_s.astype(np.float64))
    assert (far_us <= 1e6 * np.spacing(uneven_s) / 2 + 0.5).all()
