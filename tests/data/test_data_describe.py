import json

import h5py
import numpy as np
import pytest

from ndt_cli.data.describe import describe_file
from ndt_cli.settings.tree import DataSettings

DEFAULTS = DataSettings()
RNG = np.random.default_rng(0)


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "rat.npz"
        content = {"spikes": RNG.poisson(0.5, (40, 20, 5)), "bin_ms": 10.0, **arrays}
        np.savez(path, **content)
        return path

    return write


def warned(report, words):
    return [line for line in report.warnings if words in line]


def test_facts_of_a_good_file(save):
    spikes = np.zeros((10, 20, 2), int)
    spikes[:, ::2, 0] = 1
    spikes[:, ::4, 1] = 2
    report = describe_file(save(spikes=spikes, conditions=np.arange(10) % 2), DEFAULTS)
    assert report.trainable
    assert (report.layout, report.bin_ms, report.duration_ms) == ("ndt", 10, 200)
    assert [(s.name, s.n_trials, s.n_bins, s.n_neurons) for s in report.splits] == [
        ("train", 8, 20, 2),
        ("valid", 2, 20, 2),
    ]
    # A spike every 20 ms is 50 Hz; two every 40 ms too.
    assert report.splits[0].mean_rate_hz == pytest.approx(50)
    assert report.neuron_rates_hz == pytest.approx((50, 50, 50))
    assert report.splits[1].max_count == 2
    assert report.n_conditions == 2
    assert report.memory_bytes == 10 * 20 * 2
    assert report.uses == ("train", "match to PSTHs")
    assert report.warnings == ()
    assert "10 trials were drawn" in report.notes[0]


def test_the_report_is_of_the_bins_that_are_trained_on(save):
    report = describe_file(save(), DataSettings(bin_ms=20))
    assert (report.bin_ms, report.splits[0].n_bins) == (20, 10)


def test_behavior_that_is_missing_in_a_split_cannot_be_decoded(save):
    split = np.array(["train", "valid"])[np.arange(40) // 30]
    behavior = np.where((split == "valid")[:, None, None], np.nan, np.ones((40, 20, 1)))
    report = describe_file(save(split=split, behavior=behavior), DEFAULTS)
    assert report.uses == ("train",)
    assert warned(report, "100 % of the validation trials' behavior is NaN")


def test_a_split_within_conditions_is_noted_only_where_they_have_several_trials(save):
    for n_conditions, is_within in ((40, False), (4, True)):
        (note,) = describe_file(save(conditions=np.arange(40) % n_conditions), DEFAULTS).notes
        assert ("in proportion within each condition" in note) == is_within


def test_uses_follow_from_what_the_file_holds(save):
    spikes = RNG.poisson(0.5, (40, 20, 5))
    everything = {"rates": np.full(spikes.shape, 0.5), "n_heldout": 1, "n_forward": 2}
    report = describe_file(save(spikes=spikes, **everything), DEFAULTS)
    assert report.uses == (
        "train",
        "evaluate against true rates",
        "co-smoothing",
        "forward prediction",
    )
    hidden = np.zeros(40, bool)
    report = describe_file(save(spikes=spikes, **everything, hidden_known=hidden), DEFAULTS)
    assert report.uses == ("train", "evaluate against true rates")


def test_behavior_and_repeated_conditions_have_their_uses(save):
    velocity = RNG.standard_normal((40, 20, 2))
    assert describe_file(save(behavior=velocity), DEFAULTS).uses == ("train", "decode behavior")
    # With a condition of its own for each trial there is nothing to average.
    assert describe_file(save(conditions=np.arange(40)), DEFAULTS).uses == ("train",)


def test_unknown_counts_are_no_drop_of_the_rate(tmp_path):
    with h5py.File(tmp_path / "nlb", "w") as file:
        file["train_spikes_heldin"] = np.ones((4, 10, 2))
        file["train_spikes_heldout"] = np.ones((4, 10, 2))
        file["eval_spikes_heldin"] = np.ones((4, 10, 2))
    report = describe_file(tmp_path / "nlb", DataSettings(file_bin_ms=5))
    assert report.splits[0].mean_rate_hz == report.splits[1].mean_rate_hz == 200
    assert not warned(report, "Mean rates differ")


def test_unusual_data_raise_a_warning(save):
    spikes = RNG.poisson(0.5, (40, 200, 6))
    spikes[..., 1] = 0
    spikes[..., 2] = 1
    spikes[..., 3] = 0
    spikes[0, 0, 3] = spikes[1, 0, 3] = spikes[2, 0, 3] = 1
    spikes[..., 4] *= 40
    split = np.repeat([b"train", b"valid"], [30, 10])
    spikes[30:, :, 0] *= 20
    lengths = np.full(40, 200)
    lengths[:20] = 100
    spikes[:20, 100:] = 0
    report = describe_file(
        save(
            spikes=spikes,
            split=split,
            lengths=lengths,
            behavior=np.where(np.arange(200) < 50, np.nan, np.zeros((40, 200))),
        ),
        DEFAULTS,
    )
    assert report.trainable
    assert report.silent_neurons == (1,)
    assert warned(report, "1 of 6 neurons never fire in the training trials: 1")
    assert warned(report, "have the same count in every bin: 2")
    assert warned(report, "fire less than 0.1 spikes per second: 3")
    assert warned(report, "fire more than 500 spikes per second: is the bin width right?: 4")
    assert warned(report, "Mean rates differ")
    assert warned(report, "25 % of all bins are padding")
    assert warned(report, "37.5 % of the training trials' behavior is NaN")


def test_unusual_neurons_are_those_of_the_file_whichever_are_held_out(save):
    spikes = RNG.poisson(0.5, (40, 20, 5))
    spikes[:, :, 3] = 0
    settings = DataSettings(heldout_neurons=(0, 1))
    report = describe_file(save(spikes=spikes), settings)
    assert report.silent_neurons == (3,)
    assert warned(report, "1 of 5 neurons never fire in the training trials: 3")
    named = describe_file(save(spikes=spikes, neuron_names=np.array([*"abcde"])), settings)
    assert warned(named, "1 of 5 neurons never fire in the training trials: unit d")


def test_a_small_share_is_not_shown_as_nothing(save):
    behavior, split = np.ones((200, 20, 1)), np.array(["train", "valid"])[np.arange(200) // 160]
    behavior[0, 0] = np.nan
    report = describe_file(save(spikes=behavior > 0, behavior=behavior, split=split), DEFAULTS)
    assert warned(report, "0.0312 % of the training trials' behavior is NaN")


def test_every_broken_array_is_named_at_once(tmp_path):
    path = tmp_path / "lfads"
    with h5py.File(path, "w") as file:
        file["train_data"] = np.full((4, 5, 6), np.nan)
        file["valid_data"] = np.full((4, 5, 6), -1.0)
    report = describe_file(path, DEFAULTS)
    assert not report.trainable
    assert report.layout == "lfads"
    assert report.splits == ()
    assert [(a.key, a.shape) for a in report.arrays] == [
        ("train_data", (4, 5, 6)),
        ("valid_data", (4, 5, 6)),
    ]
    assert len(report.problems) == 2
    assert "`train_data`: found nan" in report.problems[0]
    assert "`valid_data`: found -1" in report.problems[1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x89HDF\r\n\x1a\n torn", None])
def test_a_file_that_cannot_be_opened_is_a_problem_not_an_error(tmp_path, content):
    path = tmp_path / "rat.h5"
    if content is not None:
        path.write_bytes(content)
    report = describe_file(path, DEFAULTS)
    assert not report.trainable
    assert str(path) in report.problems[0]
    assert report.arrays == ()


def test_a_file_without_a_bin_width_is_refused_with_the_next_step(tmp_path):
    np.savez(tmp_path / "rat.npz", spikes=np.ones((4, 5, 6)))
    report = describe_file(tmp_path / "rat.npz", DEFAULTS)
    assert len(report.problems) == 1
    assert "data.file_bin_ms" in report.problems[0]


def test_the_report_is_json(save):
    for path in (save(), save(spikes=np.zeros((4, 5, 6)))):
        report = describe_file(path, DEFAULTS)
        text = json.dumps(report.to_json(), allow_nan=False)
        assert json.loads(text)["trainable"] == report.trainable
