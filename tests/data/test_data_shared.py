"""Recordings that others made; they are not part of a clone."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from ndt_cli.data.describe import describe_file
from ndt_cli.data.loading import load_file
from ndt_cli.settings.tree import DataSettings

SHARED = Path(__file__).resolve().parents[3] / "shared/data"


def shared(name):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"shared/data/{name} is not here")
    return path


def test_the_lorenz_file_of_others_has_its_rates_in_hz():
    path = shared("lfads_lorenz.h5")
    recording = load_file(path, DataSettings())
    train = recording.train
    assert (train.spikes_BTN.shape, recording.valid.n_trials) == ((640, 100, 60), 160)
    assert train.bin_ms == 10
    with h5py.File(path) as file:
        np.testing.assert_allclose(train.rates_BTN, file["train_truth"][:] / 100, rtol=1e-6)
        np.testing.assert_array_equal(train.trial_ids_B, file["train_inds"][:])
        np.testing.assert_array_equal(train.latents_BTK, file["train_lowd"][:])
    assert train.rates_BTN.mean() == pytest.approx(train.spikes_BTN.mean(), rel=0.02)
    assert len(recording.notes) == 2


def test_real_trials_of_unequal_length_are_binned():
    path = shared("pmd_reach_1ms.npz")
    recording = load_file(path, DataSettings(bin_ms=20))
    train, valid = recording.train, recording.valid
    assert (train.n_trials + valid.n_trials, train.n_bins, train.n_neurons) == (112, 76, 61)
    with np.load(path) as raw:
        length_ms, spikes = raw["length_ms"], raw["spikes"]
    for data in (train, valid):
        np.testing.assert_array_equal(data.lengths_B, length_ms[data.trial_ids_B] // 20)
        first = data.trial_ids_B[0]
        kept_ms = int(data.lengths_B[0]) * 20
        np.testing.assert_array_equal(
            data.spikes_BTN[0].sum(axis=0), spikes[first, :kept_ms].sum(axis=0)
        )
    assert any("109 of 112 trials lost a partial last bin" in note for note in recording.notes)


def test_one_trial_without_its_axis_is_explained():
    report = describe_file(shared("mc_maze_trial748_1ms.npz"), DataSettings())
    assert not report.trainable
    assert "`spikes`: found 2 axes, (3236, 182)" in report.problems[0]
    assert "`spikes[None]`" in report.problems[0]
