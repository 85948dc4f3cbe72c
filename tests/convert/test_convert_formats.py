"""One session in every format gives the same trials."""

import json

import h5py
import numpy as np
import pytest
from convert_files import (
    CHOSEN,
    WRITERS,
    references,
    session,
    write_nwb,
)

from ndt_cli.convert import ConvertOptions, bin_spikes, convert, list_contents
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import all_trials
from ndt_cli.data.write import write_recording
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings


@pytest.fixture(params=WRITERS)
def written(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, more = WRITERS[request.param]
    return write(tmp_path / request.param, session()), more


def test_every_format_gives_the_same_trials(written):
    path, more = written
    made = session()
    whole = all_trials(convert(path, ConvertOptions(**CHOSEN, **more)).recording)
    kept = np.flatnonzero(made.success == 1)
    spikes_BTN, lengths_B = bin_spikes(made.times_s, made.start[kept], made.stop[kept], 50)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)
    np.testing.assert_array_equal(whole.lengths_B, lengths_B)
    np.testing.assert_array_equal(whole.trial_ids_B, kept)
    np.testing.assert_array_equal(whole.conditions_B, kept % 2)
    assert len(set(lengths_B.tolist())) > 1


def test_every_format_has_a_window_around_an_event(written):
    path, more = written
    made = session()
    options = ConvertOptions(bin_ms=20, align="go", window_ms=(-100, 300), **more)
    whole = all_trials(convert(path, options).recording)
    spikes_BTN, _ = bin_spikes(made.times_s, made.go - 0.1, made.go + 0.3, 20)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)


@pytest.mark.parametrize("ending", [".npz", ".h5"])
def test_every_format_keeps_its_labels_and_times(written, tmp_path, ending):
    path, more = written
    made = session()
    options = ConvertOptions(align="go", window_ms=(-100, 300), **{**CHOSEN, **more})
    write_recording(convert(path, options).recording, tmp_path / f"spikes{ending}")
    whole = all_trials(load_file(tmp_path / f"spikes{ending}", DataSettings()))
    kept = np.flatnonzero(made.success == 1)
    assert whole.trial_ids_B.tolist() == kept.tolist()
    assert whole.condition_labels == tuple(made.side[i] for i in kept)
    assert (whole.event, whole.start_ms, whole.times_ms_T[0]) == ("go", -100, -75)
    np.testing.assert_allclose(whole.start_times_s_B, made.go[kept] - 0.1)
    for name, column in made.trials.items():
        assert whole.trial_table[name].tolist() == column[kept].tolist()
    names = ("101", "205", "309") if path.suffix == ".nwb" else ("0", "1", "2")
    assert whole.column_names == names


def test_trials_are_written_in_the_order_of_the_recording(tmp_path):
    options = ConvertOptions(bin_ms=50, valid_where="trial_number in 3, 1", trials="trials.csv")
    path, _ = WRITERS["rat.csv"][0](tmp_path / "rat.csv", session()), None
    table = path.with_name("trials.csv")
    first, *rows = table.read_text().splitlines()
    numbered = [f"{row};{number}" for number, row in enumerate(rows)]
    table.write_text("\n".join([f"{first};trial_number", *reversed(numbered)]))
    options = options.model_copy(update={"trials": str(table)})
    recording = convert(path, options).recording
    assert recording.valid.trial_ids_B.tolist() == [1, 3]  # in order of time
    write_recording(recording, tmp_path / "spikes.npz")
    with np.load(tmp_path / "spikes.npz") as file:
        assert file["trial_ids"].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
        assert file["split"].tolist() == [b"train"] * 4 + [b"valid", b"train", b"valid", b"train"]
        np.testing.assert_array_equal(file["spikes"], all_trials(recording).spikes_BTN)


def test_every_format_can_be_listed(written):
    path, _ = written
    listing = list_contents(path)
    names = [entry.name for entry in listing.entries]
    assert any(name.endswith(("spike_times", "time")) for name in names)
    assert not any("#refs#" in name or "_index" in name for name in names)
    json.dumps(listing.to_json())


@pytest.mark.parametrize("name", ["rat.npz", "rat.h5", "old.mat", "new.mat", "rat.nwb"])
def test_units_are_filtered_by_quality(tmp_path, name):
    made = session()
    path = WRITERS[name][0](tmp_path / name, made)
    converted = convert(path, ConvertOptions(units_where=("quality == good",), **CHOSEN))
    kept = np.flatnonzero(made.success == 1)
    spikes_BTN, _ = bin_spikes(made.times_s[::2], made.start[kept], made.stop[kept], 50)
    np.testing.assert_array_equal(all_trials(converted.recording).spikes_BTN, spikes_BTN)
    names = ("101", "309") if name.endswith("nwb") else ("0", "2")
    assert converted.report.neurons == converted.recording.train.neuron_names == names


def test_the_listing_shows_arrays_shapes_and_uses(tmp_path):
    listing = list_contents(write_nwb(tmp_path / "rat.nwb", session()))
    by_name = {entry.name: entry for entry in listing.entries}
    assert listing.format == "NWB"
    assert listing.tables == {"intervals/trials": 8, "units": 3}
    assert by_name["units/quality"].values == "good, mua"
    assert by_name["processing/behavior/hand"].kind == "time series, m"
    assert by_name["units/spike_times"].shape == (3,)
    assert "general/institution" not in by_name


@pytest.mark.parametrize(
    ("how", "n_others"),
    [({}, 0), ({}, 40), ({"libver": "latest"}, 5), ({"userblock_size": 512}, 40)],
)
def test_the_unit_of_a_series_is_shown_wherever_its_header_has_it(tmp_path, how, n_others):
    path = tmp_path / "a.nwb"
    with h5py.File(path, "w", **how) as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["hand/timestamps"] = np.arange(3.0)
        file["hand/data"] = np.zeros(3)
        for i in range(n_others):  # which the header of the first attributes has no room for
            file["hand/data"].attrs[f"unit{i}"] = f"of {i}"
        file["hand/data"].attrs["unit"] = "µm"
    (entry,) = list_contents(path).entries
    assert entry.kind == "time series, µm"


@pytest.mark.parametrize("name", ["processing/behavior/hand", "hand"])
def test_a_time_series_of_nwb_has_its_own_clock_and_unit(tmp_path, name):
    path = write_nwb(tmp_path / "rat.nwb", session())
    whole = all_trials(convert(path, ConvertOptions(behavior=(name,), **CHOSEN)).recording)
    assert whole.behavior_names == ("hand 0", "hand 1")
    np.testing.assert_allclose(whole.behavior_BTV[0, 0], [10.0225, -10.0225])


@pytest.mark.parametrize("gains", [[2.0, 3.0], [1.0, 0.5]])
def test_channels_of_a_series_of_nwb_have_factors_of_their_own(tmp_path, gains):
    path = write_nwb(tmp_path / "rat.nwb", session())
    with h5py.File(path, "a") as file:
        file["processing/behavior/hand/channel_conversion"] = gains
        file["processing/behavior/hand/data"].attrs["offset"] = 1.0
    whole = all_trials(convert(path, ConvertOptions(behavior=("hand",), **CHOSEN)).recording)
    expected = np.array([10.0225, -10.0225]) * gains + 1
    np.testing.assert_allclose(whole.behavior_BTV[0, 0], expected)
    with h5py.File(path, "a") as file:
        del file["processing/behavior/hand/channel_conversion"]
        file["processing/behavior/hand/channel_conversion"] = [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match=r"channel_conversion of shape \(3,\)"):
        convert(path, ConvertOptions(behavior=("hand",), **CHOSEN))


def test_a_column_whose_name_ends_like_an_index_is_a_column_if_it_says_so(tmp_path):
    path = write_nwb(tmp_path / "rat.nwb", session())
    with h5py.File(path, "a") as file:
        trials = file["intervals/trials"]
        trials["target"] = np.linspace(0, 1, 8)
        trials["target_index"] = [0, 1, 2, 3] * 2
        trials["target_index"].attrs["neurodata_type"] = "VectorData"
        file["units/spike_times_index"].attrs["neurodata_type"] = "VectorIndex"
    listed = {entry.name: entry for entry in list_contents(path).entries}
    assert listed["intervals/trials/target_index"].values == "0, 1, 2, 3"
    assert listed["units/spike_times"].shape == (3,)
    options = ConvertOptions(bin_ms=50, condition=("target_index",))
    assert convert(path, options).report.conditions == {"0": 2, "1": 2, "2": 2, "3": 2}


@pytest.mark.parametrize("ragged", [True, False])
def test_units_of_nwb_are_chosen_by_the_area_of_their_electrodes(tmp_path, ragged):
    path = write_nwb(tmp_path / "rat.nwb", session())
    with h5py.File(path, "a") as file:
        electrodes = file.create_group("general/extracellular_ephys/electrodes")
        electrodes["id"] = [7, 8, 9, 10]
        electrodes["location"] = ["M1", "PMd", "M1", "S1"]
        electrodes["quality"] = ["electrodes have one", "of their own", "", ""]
        file["units/electrodes"] = [2, 0, 1, 2, 3] if ragged else [2, 0, 1]
        if ragged:
            file["units/electrodes_index"] = [2, 3, 5]
        probes = [file.create_group(f"general/extracellular_ephys/probe{i}") for i in (0, 1)]
        file["units/electrode_group"] = references([probes[1], probes[0], probes[1]])[:, 0]
    areas = ["M1", "PMd", "M1/S1"] if ragged else ["M1", "M1", "PMd"]
    listed = {entry.name: entry.values for entry in list_contents(path).entries}
    assert listed["units/location"] == ", ".join(dict.fromkeys(areas))
    assert listed["units/quality"] == "good, mua"  # that of the units
    assert listed["units/electrode_group"] == "probe1, probe0"
    data = convert(path, ConvertOptions(bin_ms=50, units_where=("location == M1",)))
    assert data.report.neurons == tuple(
        str(name) for name, area in zip((101, 205, 309), areas, strict=True) if area == "M1"
    )
    with h5py.File(path, "a") as file:
        file["units/electrodes"][0] = 4
    with pytest.raises(DataError, match="found rows outside of the 4 electrodes"):
        convert(path, ConvertOptions(bin_ms=50, units_where=("location == M1",)))


def test_an_nwb_file_of_pynwb(tmp_path):
    pynwb = pytest.importorskip("pynwb", reason="needs the extra nlb")
    from datetime import datetime, timezone

    made = session()
    nwb = pynwb.NWBFile("test", "rat", datetime(2021, 9, 1, tzinfo=timezone.utc))
    nwb.add_unit_column("quality", "by eye")
    nwb.add_trial_column("success", "rewarded")
    nwb.add_trial_column("side", "of the target")
    seen = [[9.0, 21.0], [21.5, 27.0]]  # the trial at 20.0 lasts to 21.5
    for times, quality in zip(made.times_s, made.quality, strict=True):
        nwb.add_unit(spike_times=times, quality=quality, obs_intervals=seen)
    for i in range(8):
        nwb.add_trial(
            start_time=made.start[i],
            stop_time=made.stop[i],
            success=made.success[i],
            side=made.side[i],
        )
    hand = pynwb.TimeSeries(name="hand", data=made.hand, unit="m", rate=200.0, starting_time=9.0)
    position = pynwb.behavior.BehavioralTimeSeries(time_series=hand, name="Position")
    nwb.create_processing_module("behavior", "hand").add(position)
    path = tmp_path / "rat.nwb"
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    options = ConvertOptions(behavior=("processing/behavior/Position/hand",), **CHOSEN)
    converted = convert(path, options)
    whole = all_trials(converted.recording)
    kept = np.array([0, 1, 3, 4, 7])  # a unit that was not recorded would look silent
    assert ("trials", 1) in [(d.what, d.n) for d in converted.report.dropped if "recorded" in d.why]
    spikes_BTN, _ = bin_spikes(made.times_s, made.start[kept], made.stop[kept], 50)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)
    first = whole.behavior_BTV[0, 0]
    np.testing.assert_allclose(first, [10.0225, -10.0225])  # mean of 10.000, 10.005 .. 10.045
