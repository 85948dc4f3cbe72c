from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndt_cli.data.bins import rebin, rebin_recording
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.errors import DataError


def make_data(lengths, n_bins, n_neurons=3, seed=0, high=4, **more):
    rng = np.random.default_rng(seed)
    lengths_B = np.array(lengths)
    inside_BT1 = (np.arange(n_bins) < lengths_B[:, None])[..., None]
    spikes = rng.integers(0, high, (len(lengths), n_bins, n_neurons))
    return SpikeData(
        spikes_BTN=(spikes * inside_BT1).astype(np.uint8),
        bin_ms=5.0,
        lengths_B=lengths_B,
        rates_BTN=rng.random(spikes.shape) * inside_BT1,
        latents_BTK=rng.standard_normal((*spikes.shape[:2], 2)),
        **more,
    )


@st.composite
def trials_and_factor(draw):
    k = draw(st.integers(1, 5))
    n_bins = draw(st.integers(k, 30))
    lengths = draw(st.lists(st.integers(k, n_bins), min_size=1, max_size=4))
    return make_data(lengths, n_bins, seed=draw(st.integers(0, 99))), k


@given(trials_and_factor())
def test_no_spike_of_a_whole_bin_is_lost_or_made(case):
    data, k = case
    wide = rebin(data, 5.0 * k)
    for b, length in enumerate(data.lengths_B):
        kept = length // k * k
        assert wide.lengths_B[b] == length // k
        np.testing.assert_array_equal(
            wide.spikes_BTN[b].sum(axis=0), data.spikes_BTN[b, :kept].sum(axis=0)
        )
        np.testing.assert_allclose(
            wide.rates_BTN[b].sum(axis=0), data.rates_BTN[b, :kept].sum(axis=0), atol=1e-12
        )
        assert not wide.spikes_BTN[b, wide.lengths_B[b] :].any()


@given(st.integers(1, 4), st.integers(1, 3))
def test_rebinning_twice_is_rebinning_once(first, second):
    data = make_data([24, 24], 24)
    at_once = rebin(data, 5.0 * first * second)
    in_steps = rebin(rebin(data, 5.0 * first), 5.0 * first * second)
    np.testing.assert_array_equal(at_once.spikes_BTN, in_steps.spikes_BTN)


def test_latents_are_averaged_and_rates_added():
    data = make_data([4], 4)
    wide = rebin(data, 10.0)
    np.testing.assert_allclose(wide.latents_BTK[0, 1], data.latents_BTK[0, 2:].mean(axis=0))
    np.testing.assert_allclose(wide.rates_BTN[0, 1], data.rates_BTN[0, 2:].sum(axis=0))
    assert wide.bin_ms == 10.0


def test_counts_that_no_longer_fit_a_byte_are_kept():
    spikes = np.full((1, 4, 1), 200, np.uint8)
    wide = rebin(SpikeData(spikes, bin_ms=5.0, lengths_B=np.array([4])), 20.0)
    assert wide.spikes_BTN.item() == 800


def test_forward_bins_stay_whole():
    wide = rebin(make_data([12], 12, n_forward=4), 10.0)
    assert (wide.n_bins, wide.n_forward) == (6, 2)
    with pytest.raises(DataError, match="forward bins begin after 9 bins"):
        rebin(make_data([12], 12, n_forward=3), 10.0)


@pytest.mark.parametrize("bin_ms", [12.0, 2.5, 7.0])
def test_only_whole_multiples_are_taken(bin_ms):
    with pytest.raises(DataError, match="expected a whole multiple") as caught:
        rebin(make_data([8], 8), bin_ms)
    assert "5, 10, 20" in caught.value.hint


def test_a_trial_shorter_than_a_bin_is_refused():
    with pytest.raises(DataError, match="trial 1 is only 10 ms long"):
        rebin(make_data([8, 2], 8), 20.0)


def test_a_recording_lists_what_was_dropped():
    data = make_data([8, 7], 8)
    recording = Recording(data, replace(data), source="rat.h5", layout="ndt", notes=("first",))
    wide = rebin_recording(recording, 10.0)
    assert wide.notes == (
        "first",
        "Bins of 5 ms were summed to bins of 10 ms. 2 of 4 trials lost a partial last bin.",
    )
    assert rebin_recording(recording, None) is recording
    with pytest.raises(DataError, match=r"rat\.h5: `data\.bin_ms` is 7 ms"):
        rebin_recording(recording, 7.0)
