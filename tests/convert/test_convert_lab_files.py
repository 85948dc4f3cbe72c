"""Odd files of real laboratories: the counts must be right, or the error must lead on."""

import pickle
import re
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from convert_files import mat_number, references, session, write_nwb

from ndt_cli.convert import ConvertOptions, bin_spikes, convert, list_contents
from ndt_cli.convert.hdf5 import read_dataset
from ndt_cli.data.describe import describe_file
from ndt_cli.data.files import ArrayFile
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import all_trials
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.settings.load import load_settings

START = 1.0 + 2.5 * np.arange(12)
TRIALS = {"start_time": START, "stop_time": START + 1.6, "target": np.arange(12) % 4}
OPTIONS = {"bin_ms": 20.0}


def recording(n_units=4, seconds=35.0, rate_hz=8.0):
    """Spike times of each unit in seconds, whole milliseconds, ascending."""
    rng = np.random.default_rng(0)
    n_spikes = rng.poisson(rate_hz * seconds, n_units)
    return [np.sort(rng.integers(0, int(seconds * 1000), n) / 1000) for n in n_spikes]


def pooled(times_s):
    """All spikes in order of time, and the unit of each."""
    times, units = (
        np.concatenate(times_s),
        np.repeat(np.arange(len(times_s)), list(map(len, times_s))),
    )
    order = np.argsort(times, kind="stable")
    return times[order], units[order]


def expected_counts(times_s, n_bins=80, bin_ms=20):
    """Counts by whole milliseconds, trials x bins x units."""
    counts = np.zeros((len(START), n_bins, len(times_s)), int)
    for unit, times in enumerate(times_s):
        for trial, start in enumerate(START):
            ms = np.rint(times * 1000).astype(int) - round(start * 1000)
            inside = ms[(ms >= 0) & (ms < n_bins * bin_ms)]
            counts[trial, :, unit] = np.bincount(inside // bin_ms, minlength=n_bins)
    return counts


def converted(path, **options):
    return all_trials(convert(path, ConvertOptions(**options)).recording)


# Columns, rows and tables ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (1, -1)])
@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_a_column_or_row_of_spike_times_is_read_with_the_unit_of_each(tmp_path, shape, ending):
    times_s = recording()
    times, units = pooled(times_s)
    arrays = {"spike_times": times.reshape(shape), "spike_clusters": units.reshape(shape)}
    arrays |= {name: column.reshape(shape) for name, column in TRIALS.items()}
    path = tmp_path / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    np.testing.assert_array_equal(converted(path, **OPTIONS).spikes_BTN, expected_counts(times_s))


def test_a_table_with_a_row_per_spike_is_read_by_its_columns(tmp_path):
    times_s = recording()
    times, units = pooled(times_s)
    np.savez(tmp_path / "a.npz", cluster_class=np.stack([units, times], axis=1), **TRIALS)
    with pytest.raises(DataError, match="rows of 2; expected a row of times per unit") as error:
        converted(tmp_path / "a.npz", spike_times="cluster_class", **OPTIONS)
    assert "`spike_times='cluster_class:1'`" in error.value.hint
    columns = {"spike_times": "cluster_class:1", "spike_units": "cluster_class:0"}
    data = converted(tmp_path / "a.npz", **columns, **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))


def test_row_numbers_that_pandas_writes_before_a_table_are_left_out(tmp_path):
    times_s = recording()
    times, units = pooled(times_s)
    spikes, trials = tmp_path / "spikes.csv", tmp_path / "trials.csv"
    rows = [f"{i},{t},{u}" for i, (t, u) in enumerate(zip(times, units, strict=True))]
    spikes.write_text("\n".join([",time,unit", *rows]))
    rows = [f"{i},{start},{start + 1.6}" for i, start in enumerate(START)]
    trials.write_text("\n".join([",start,stop", *rows]))
    assert [entry.name for entry in list_contents(trials).entries] == ["start", "stop"]
    data = converted(spikes, trials=str(trials), **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))


def test_units_that_are_numbered_within_each_channel_are_noted(tmp_path):
    times, units = pooled(recording())
    arrays = {"spike_times": times, "unit": units % 2, **TRIALS}
    for electrodes, n_notes in ((units // 2, 1), (units % 2, 0)):
        np.savez(tmp_path / "a.npz", electrode=electrodes, **arrays)
        notes = convert(tmp_path / "a.npz", ConvertOptions(**OPTIONS)).report.notes
        found = [note for note in notes if "several values of 'electrode'" in note]
        assert len(found) == n_notes


def test_rows_padded_with_zeros_have_no_spikes_there(tmp_path):
    times_s = recording()
    rows = np.zeros((4, max(map(len, times_s))))
    for row, times in zip(rows, times_s, strict=True):
        row[: len(times)] = times
    np.savez(tmp_path / "a.npz", spike_times=rows, start_time=START - 1, stop_time=START)
    data = converted(tmp_path / "a.npz", **OPTIONS)
    n_first = [int((times < 1).sum()) for times in times_s]
    assert data.spikes_BTN[0].sum(axis=0).tolist() == n_first


def test_spike_times_of_one_unit_need_no_units(tmp_path):
    (times,) = recording(n_units=1)
    np.savez(tmp_path / "a.npz", spike_times=times, **TRIALS)
    with pytest.raises(SettingsError, match="spike times without units"):
        converted(tmp_path / "a.npz", **OPTIONS)
    data = converted(tmp_path / "a.npz", spike_units="none", **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts([times]))


def test_rows_of_numbers_and_a_reference_are_no_texts(tmp_path):
    """The column ``timeseries`` of NWB tables: as many bytes per row as a text of any length."""
    path = write_nwb(tmp_path / "a.nwb", session())
    before = converted(path, **OPTIONS)
    row = np.dtype([("idx_start", "i4"), ("count", "i4"), ("timeseries", h5py.ref_dtype)])
    with h5py.File(path, "a") as file:
        trials = file["intervals/trials"]
        rows = np.zeros(len(trials["id"]), row)
        for place in range(len(rows)):
            rows[place] = (place, 7, file["processing/behavior/hand"].ref)
        column = trials.create_dataset("timeseries", data=rows, dtype=row)
        assert column.id.get_storage_size() == 16 * len(rows)
        read = read_dataset(path, column)
    assert read["idx_start"].tolist() == list(range(len(rows)))
    np.testing.assert_array_equal(converted(path, **OPTIONS).spikes_BTN, before.spikes_BTN)


# One matrix of counts per trial ------------------------------------------------------------------


def matrices(lengths=(30, 45, 40, 38, 52, 41, 33, 47), n_neurons=5):
    rng = np.random.default_rng(1)
    return [rng.poisson(0.4, (n, n_neurons)).astype(float) for n in lengths]


def in_cells(parts, shape):
    cells = np.empty(len(parts), dtype=object)
    cells[:] = parts
    return cells.reshape(shape)


def check_trials(data, parts):
    assert data.lengths_B.tolist() == [len(part) for part in parts]
    for own_TN, length, part in zip(data.spikes_BTN, data.lengths_B, parts, strict=True):
        np.testing.assert_array_equal(own_TN[:length], part)
        assert own_TN[length:].sum() == 0


def write_cells73(path, parts):
    with h5py.File(path, "w") as file:
        refs = file.create_group("#refs#")
        file["spikes"] = references([mat_number(refs, part) for part in parts])
        file["spikes"].attrs["MATLAB_class"] = np.bytes_("cell")
        mat_number(file, [[10.0]], "bin_ms")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_cell_of_counts_per_trial_is_read_whichever_axis_is_neurons(tmp_path, version, turned):
    parts, path = matrices(), tmp_path / "a.mat"
    stored = [part.T if turned else part for part in parts]
    if version == "5":
        scipy.io.savemat(path, {"spikes": in_cells(stored, (-1, 1)), "bin_ms": 10.0})
    else:
        write_cells73(path, stored)
    check_trials(converted(path), parts)
    assert convert(path).report.taken["counts"] == "spikes"


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (4, 2)])
def test_an_array_of_structs_of_counts_per_trial_is_read_with_its_columns(tmp_path, shape):
    parts = matrices()
    fields = [("target", "O"), ("result", "O"), ("bin_size", "O"), ("M1_spikes", "O"), ("pos", "O")]
    trials = np.zeros(8, dtype=fields)
    for i, part in enumerate(parts):
        pos = np.stack([np.arange(len(part)), np.full(len(part), i)], axis=1).astype(float)
        trials[i] = (i % 2, "RF"[i == 3], 0.01, part, pos)
    scipy.io.savemat(tmp_path / "a.mat", {"trial_data": trials.reshape(shape)})
    data = converted(tmp_path / "a.mat", condition=("target",), behavior=("trial_data/pos",))
    check_trials(data, parts)
    assert data.bin_ms == 10
    assert data.conditions_B.tolist() == [i % 2 for i in range(8)]
    np.testing.assert_array_equal(data.behavior_BTV[2, :40, 0], np.arange(40))
    assert np.isnan(data.behavior_BTV[2, 40:]).all()
    kept = converted(tmp_path / "a.mat", where=("result == R",), bin_ms=20)
    assert kept.trial_ids_B.tolist() == [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_array_equal(kept.spikes_BTN[0, :15], parts[0].reshape(15, 2, 5).sum(axis=1))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id": [7, 9, 12], "name": ["sig001a", "sig001b", "sig004a"]}, "sig001a sig001b sig004a"),
        ({"id": [7, 9, 12], "name": ["SUA", "SUA", "MUA"]}, "7 9 12"),  # a kind, not a name
        ({"unit": [3, 1, 2], "name": ["a", "", "c"]}, "3 1 2"),
        ({"area": ["M1", "PMd", "S1"]}, "0 1 2"),
    ],
)
def test_an_array_of_structs_of_units_gives_their_names(tmp_path, fields, expected):
    units = np.zeros((1, 3), dtype=[(key, "O") for key in ("times", *fields)])
    for n in range(3):
        times_s = np.sort(np.random.default_rng(n).uniform(0, 8, 40))
        units[0, n] = (times_s, *(values[n] for values in fields.values()))
    trials = {"start": np.arange(8.0), "stop": np.arange(8.0) + 1}
    scipy.io.savemat(tmp_path / "a.mat", {"units": units, "trials": trials})
    data = converted(tmp_path / "a.mat", spike_times="units/times", trials="trials", bin_ms=50)
    assert data.neuron_names == tuple(expected.split())
    where = {"units_where": (f"{next(iter(fields))} == {next(iter(fields.values()))[1]}",)}
    kept = converted(tmp_path / "a.mat", spike_times="units/times", bin_ms=50, **where)
    assert kept.neuron_names == (expected.split()[1],)


def test_counts_per_trial_of_one_length_need_the_order_of_their_axes(tmp_path):
    parts = matrices(lengths=(30,) * 6)
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"spikes": in_cells(parts, (-1, 1)), "bin_ms": 10.0})
    with pytest.raises(SettingsError, match="which axis is neurons") as error:
        converted(path)
    assert "`axes='bins,neurons'`" in error.value.hint
    check_trials(converted(path, axes="bins,neurons"), parts)
    scipy.io.savemat(path, {"spikes": in_cells(matrices(), (-1, 1)), "bin_ms": 10.0})
    with pytest.raises(DataError, match="30 to 52 neurons"):
        converted(path, axes="neurons,bins")


def test_counts_per_trial_are_not_taken_as_spike_times(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"spikes": in_cells(matrices(), (-1, 1)), "bin_ms": 10.0})
    with pytest.raises(DataError, match="found matrices; expected lists of times") as error:
        converted(tmp_path / "a.mat", spike_times="spikes", chop_ms=1000, **OPTIONS)
    assert "`counts='spikes'`" in error.value.hint


# MATLAB: axes, objects, sparse arrays ------------------------------------------------------------


def test_a_matlab_file_of_counts_has_its_own_axes_wherever_it_is_read(tmp_path):
    counts = np.random.default_rng(2).poisson(0.5, (9, 30, 4))
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        mat_number(file, counts, "spikes")
        mat_number(file, [[20.0]], "bin_ms")
        mat_number(file, np.arange(9)[:, None], "conditions")
    settings = load_settings().data
    read = all_trials(load_file(path, settings))
    scipy.io.savemat(tmp_path / "old.mat", {"spikes": counts.astype(float), "bin_ms": 20.0})
    for data in (read, converted(path), converted(tmp_path / "old.mat")):
        np.testing.assert_array_equal(data.spikes_BTN, counts)
    assert read.conditions_B.tolist() == list(range(9))
    assert describe_file(path, settings).splits[0].n_neurons == 4
    with ArrayFile(path) as file:
        np.testing.assert_array_equal(file.read("spikes"), counts)
        blocks = np.concatenate(list(file.blocks("spikes", n_rows=2)))
        np.testing.assert_array_equal(blocks, counts)


def mat_object(group, name, class_name):
    """What a string, table or datetime looks like: six numbers that point into the file."""
    group[name] = np.array([[3707764736], [2], [1], [1], [1], [1]], np.uint32)
    group[name].attrs["MATLAB_class"] = np.bytes_(class_name)
    group[name].attrs["MATLAB_object_decode"] = np.int32(3)


def test_an_object_of_matlab_is_named_and_never_read_as_numbers(tmp_path):
    path = tmp_path / "a.mat"
    times_s = recording()
    with h5py.File(path, "w") as file:
        refs = file.create_group("#refs#")
        file["spike_times"] = references([mat_number(refs, t[:, None]) for t in times_s])
        file["spike_times"].attrs["MATLAB_class"] = np.bytes_("cell")
        trials = file.create_group("session")
        trials.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, column in TRIALS.items():
            mat_number(trials, column[:, None], name)
        mat_object(trials, "outcome", "categorical")
        mat_object(file, "trials", "table")
        mat_object(file, "conditions", "string")
    kinds = {entry.name: entry.kind for entry in list_contents(path).entries}
    assert kinds["trials"] == "MATLAB table, not read"
    assert kinds["session/outcome"] == "MATLAB categorical, not read"
    for options, name in (
        ({"trials": "trials"}, "table"),
        ({}, "table"),
        ({"trials": "session", "condition": ("outcome",)}, "categorical"),
        ({"trials": "session", "where": ("outcome == R",)}, "categorical"),
    ):
        with pytest.raises(DataError, match=f"a MATLAB {name}") as error:
            converted(path, **OPTIONS, **options)
        assert "In MATLAB, save it as" in error.value.hint
    data = converted(path, trials="session", condition=("target",), **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))
    with ArrayFile(path) as file, pytest.raises(DataError, match="a MATLAB string"):
        file.read("conditions")


def test_cells_of_several_kinds_are_named(tmp_path):
    cells = in_cells([np.array([[0.1]]), np.array([[0.2], [0.3]]), "no unit"], (3, 1))
    scipy.io.savemat(tmp_path / "a.mat", {"spike_times": cells, **TRIALS})
    with pytest.raises(DataError, match="found cells of numbers, but text in cell 3"):
        converted(tmp_path / "a.mat", **OPTIONS)


def test_a_sparse_array_of_every_matlab_format_is_read(tmp_path):
    counts = np.random.default_rng(3).poisson(0.1, (600, 4)).astype(float)
    sparse = scipy.sparse.csc_array(counts)
    for version, name in (("4", "oldest.mat"), ("5", "old.mat")):
        scipy.io.savemat(tmp_path / name, {"spikes": sparse, "bin_ms": 10.0}, format=version)
    with h5py.File(tmp_path / "new.mat", "w") as file:
        group = file.create_group("spikes")
        group.attrs["MATLAB_class"] = np.bytes_("double")
        group.attrs["MATLAB_sparse"] = np.uint64(600)
        group["data"], group["ir"], group["jc"] = sparse.data, sparse.indices, sparse.indptr
        mat_number(file, [[10.0]], "bin_ms")
    for name in ("oldest.mat", "old.mat", "new.mat"):
        data = converted(tmp_path / name, chop_ms=500.0)
        order = np.argsort(data.start_bins_B)
        np.testing.assert_array_equal(data.spikes_BTN[order].reshape(600, 4), counts)


# Clocks ------------------------------------------------------------------------------------------


def write_flat(path, times, units, **trials):
    np.savez(path, spike_times=times, spike_units=units, **(TRIALS | trials))
    return path


@pytest.mark.parametrize(
    ("spikes_per_s", "options", "found"),
    [
        (30_000, {}, "whole numbers, up to .*expected times in seconds"),
        (1.0, {"time_unit": "ms", "trials_time_unit": "s"}, "trials are where there is no spike"),
        (1.0, {"time_unit": "ms", "bin_ms": 0.2}, "spikes per second and unit"),
        (1000 + 1e-9, {}, "spikes are outside of all of them"),
        (1e-3, {}, "trials are where there is no spike"),
    ],
)
def test_spikes_and_trials_in_different_units_are_refused(tmp_path, spikes_per_s, options, found):
    times, units = pooled(recording())
    times = times * spikes_per_s
    if spikes_per_s == 30_000:
        times = np.rint(times).astype(np.uint64)
    path = write_flat(tmp_path / "a.npz", times, units)
    with pytest.raises(DataError, match=found) as error:
        converted(path, **(OPTIONS | options))
    assert "`time_unit" in error.value.hint


def test_a_raster_of_zeros_and_ones_is_no_list_of_times(tmp_path):
    raster = (np.random.default_rng(0).random((4, 3000)) < 0.1).astype(np.uint8)
    np.savez(tmp_path / "a.npz", spike_times=raster, **TRIALS)
    with pytest.raises(DataError, match="expected times in seconds"):
        converted(tmp_path / "a.npz", **OPTIONS)
    with pytest.raises(DataError, match="twice; expected a time per spike"):
        converted(tmp_path / "a.npz", time_unit="ms", trials_time_unit="s", **OPTIONS)


def test_a_clock_that_restarts_is_refused_and_sorted_only_when_asked(tmp_path):
    times_s = recording()
    times_s[1] = np.concatenate([times_s[1], times_s[2]])
    times, units = np.concatenate(times_s), np.repeat(np.arange(4), [len(t) for t in times_s])
    path = write_flat(tmp_path / "a.npz", times, units)
    with pytest.raises(DataError, match="times of unit 1 that step back 1 times") as error:
        converted(path, **OPTIONS)
    assert "`spike_trials=NAME`" in error.value.hint
    result = convert(path, ConvertOptions(sort_spikes=True, **OPTIONS))
    assert any("1 units were out of order, and were sorted" in n for n in result.report.notes)
    np.testing.assert_array_equal(all_trials(result.recording).spikes_BTN, expected_counts(times_s))


def test_spikes_in_no_order_at_all_are_sorted_with_a_note(tmp_path):
    times_s = recording()
    times, units = pooled(times_s)
    order = np.random.default_rng(0).permutation(len(times))
    path = write_flat(tmp_path / "a.npz", times[order], units[order])
    result = convert(path, ConvertOptions(**OPTIONS))
    assert any("out of order, and were sorted" in note for note in result.report.notes)
    np.testing.assert_array_equal(all_trials(result.recording).spikes_BTN, expected_counts(times_s))


def test_trials_that_all_begin_at_zero_are_refused_and_a_repeated_one_left_out(tmp_path):
    times, units = pooled(recording())
    path = write_flat(
        tmp_path / "a.npz", times, units, start_time=np.zeros(12), stop_time=np.full(12, 1.6)
    )
    with pytest.raises(DataError, match="12 trials in 1 different windows"):
        converted(path, **OPTIONS)
    start = np.where(np.arange(12) == 5, START[4], START)
    path = write_flat(tmp_path / "b.npz", times, units, start_time=start, stop_time=start + 1.6)
    result = convert(path, ConvertOptions(**OPTIONS))
    assert all_trials(result.recording).trial_ids_B.tolist() != list(range(12))
    assert [d.n for d in result.report.dropped if "window of another" in d.why] == [1]


# Folders of Kilosort and phy ---------------------------------------------------------------------


@pytest.fixture
def phy(tmp_path):
    """A folder of four clusters, two of them labeled by hand, and a table of trials beside it."""
    folder = tmp_path / "phy"
    folder.mkdir()
    times, units = pooled(recording())
    np.save(folder / "spike_times.npy", np.rint(times * 30_000).astype(np.uint64)[:, None])
    np.save(folder / "spike_clusters.npy", np.array([3, 5, 8, 11], np.int32)[units][:, None])
    (folder / "params.py").write_text(
        "dat_path = 'x.bin'\nsample_rate = 30000.\nraise SystemExit\n"
    )
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n5\tgood\n8\tnoise\n")
    (folder / "cluster_KSLabel.tsv").write_text(
        "cluster_id\tKSLabel\n" + "".join(f"{k}\tgood\n" for k in (3, 5, 8, 11))
    )
    (folder / "cluster_purity.tsv").write_text("cluster_id\tpurity\n")
    lines = [f"{start},{start + 1.6}" for start in START]
    (tmp_path / "trials.csv").write_text("\n".join(["start_time,stop_time", *lines]))
    return folder


def test_a_phy_folder_is_read_in_its_samples_with_its_labels(phy):
    options = {"trials": str(phy.parent / "trials.csv"), **OPTIONS}
    expected = expected_counts(recording())
    result = convert(phy, ConvertOptions(**options))
    np.testing.assert_array_equal(all_trials(result.recording).spikes_BTN, expected)
    assert result.report.neurons == ("3", "5", "8", "11")
    assert result.report.taken["sampling rate"] == "30000 Hz"
    good = convert(phy, ConvertOptions(units_where=("group == good",), **options))
    assert good.report.neurons == ("5",)
    np.testing.assert_array_equal(all_trials(good.recording).spikes_BTN, expected[..., 1:2])
    kept = convert(phy, ConvertOptions(units_where=("KSLabel == good",), **options))
    assert kept.report.n_neurons == 4


@pytest.mark.parametrize("text", ["30_000", "3e4  # Hz", "25000.\nsample_rate = 30000"])
def test_the_sampling_rate_of_a_phy_folder_is_read_as_python_reads_it(phy, text):
    (phy / "params.py").write_text(f"sample_rate = {text}\n")
    data = converted(phy, trials=str(phy.parent / "trials.csv"), **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()))


def test_a_sampling_rate_that_is_computed_is_asked_for(phy):
    (phy / "params.py").write_text("sample_rate = 60000 / 2\n")
    with pytest.raises(SettingsError, match=r"no params\.py with a number as 'sample_rate'"):
        converted(phy, trials=str(phy.parent / "trials.csv"), **OPTIONS)


def test_spike_times_in_seconds_are_no_samples(phy):
    np.save(phy / "spike_times.npy", pooled(recording())[0])
    with pytest.raises(DataError, match=r"found a fraction, .*; expected times in samples"):
        converted(phy, trials=str(phy.parent / "trials.csv"), **OPTIONS)


def test_a_phy_folder_without_a_sampling_rate_needs_one(phy):
    (phy / "params.py").unlink()
    options = {"trials": str(phy.parent / "trials.csv"), **OPTIONS}
    with pytest.raises(SettingsError, match="found no sampling rate"):
        converted(phy, **options)
    data = converted(phy, sample_rate_hz=30_000.0, **options)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()))


def test_files_of_other_formats_get_the_next_step(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"spike_times": [1.0]}))
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "folder").mkdir()
    for name, found, hint in (
        ("a.npy", "without a name", "numpy.savez"),
        ("a.pkl", "a pickle of Python, which could run code", "numpy.savez"),
        ("a.zarr", "a Zarr store", "HDF5 or NWB"),
        ("folder", "a folder without spike_times.npy", "one file in it"),
    ):
        with pytest.raises(DataError, match=found) as error:
            list_contents(tmp_path / name)
        assert hint in error.value.hint


# NWB: when units were observed, and what is invalid ----------------------------------------------


def nwb(path, intervals, invalid=None):
    """Add obs_intervals of each unit, and invalid times, to the file of a small session."""
    write_nwb(path, session())
    with h5py.File(path, "a") as file:
        file["units/obs_intervals"] = np.concatenate([np.reshape(i, (-1, 2)) for i in intervals])
        file["units/obs_intervals_index"] = np.cumsum([len(i) for i in intervals])
        if invalid is not None:
            for part, values in zip(
                ("start_time", "stop_time"), np.transpose(invalid), strict=True
            ):
                file[f"intervals/invalid_times/{part}"] = values
    return path


ALL_DAY = [[0.0, 100.0]]


@pytest.mark.parametrize(
    ("odd", "note"),
    [
        ([[0.0, np.inf]], None),
        ([[0.0, np.nan]], "observed all the time, .* units 205"),
        ([], "observed all the time, .* units 205"),
        ([[0.0, 20.0], [15.0, 100.0]], None),
        ([[k, k + 0.9999] for k in range(100)], "gaps between obs_intervals of up to 0.1 ms"),
    ],
)
def test_open_empty_and_hairline_obs_intervals_keep_all_trials(tmp_path, odd, note):
    path = nwb(tmp_path / "a.nwb", [ALL_DAY, odd, ALL_DAY])
    result = convert(path, ConvertOptions(bin_ms=50))
    whole = all_trials(result.recording)
    made = session()
    spikes_BTN, _ = bin_spikes(made.times_s, made.start, made.stop, 50)
    np.testing.assert_array_equal(whole.spikes_BTN, spikes_BTN)
    notes = " ".join(result.report.notes)
    assert (re.search(note, notes) is not None) if note else ("obs_intervals" not in notes)


def test_a_unit_that_was_not_recorded_in_some_trials_is_named(tmp_path):
    path = nwb(tmp_path / "a.nwb", [ALL_DAY, [[0.0, 15.0]], ALL_DAY])
    (dropped,) = [
        d for d in convert(path, ConvertOptions(bin_ms=50)).report.dropped if d.what == "trials"
    ]
    assert dropped.n == 5
    assert "'obs_intervals': unit 205 in 3 of them; `ignore_intervals=True`" in dropped.why
    assert converted(path, bin_ms=50, ignore_intervals=True).n_trials == 8


def test_trials_in_invalid_times_are_left_out(tmp_path):
    path = nwb(tmp_path / "a.nwb", [ALL_DAY] * 3, invalid=[[12.5, 14.1], [23.0, np.inf]])
    result = convert(path, ConvertOptions(bin_ms=50))
    assert all_trials(result.recording).trial_ids_B.tolist() == [0, 3, 4, 5, 6]
    assert [(d.n, d.why) for d in result.report.dropped if d.what == "trials"] == [
        (3, "lie, in part, in 'invalid_times'")
    ]
    assert converted(path, bin_ms=50, ignore_intervals=True).n_trials == 8
    chopped = converted(path, bin_ms=50, chop_ms=500, trials="none")
    starts_s = chopped.start_bins_B * 0.05
    assert not ((starts_s < 14.1) & (starts_s + chopped.lengths_B * 0.05 > 12.5 + 1e-9)).any()
    assert (starts_s < 23).all()


# Other ordinary layouts --------------------------------------------------------------------------


def test_cells_of_channels_and_units_are_read_on_the_clock_of_the_recording(tmp_path):
    times_s = recording()
    cells = np.empty((3, 2), dtype=object)
    cells[:] = [[times_s[0], times_s[1]], [times_s[2], np.zeros(0)], [times_s[3], np.zeros(0)]]
    scipy.io.savemat(tmp_path / "a.mat", {"spike_times": cells, "trials": TRIALS})
    with pytest.raises(DataError, match="3 x 2 lists, and 12 trials") as error:
        converted(tmp_path / "a.mat", **OPTIONS)
    assert "`axes='channels,neurons'`" in error.value.hint
    data = converted(tmp_path / "a.mat", axes="channels,neurons", **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))
    assert data.neuron_names[:3] == ("channel 0 unit 0", "channel 0 unit 1", "channel 1 unit 0")


def test_a_table_with_decimal_commas_and_comments_is_read(tmp_path):
    times_s = recording()
    rows = [f"{u};{t:.3f}".replace(".", ",") for t, u in zip(*pooled(times_s), strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["# rig 2", "unit;time", *rows]))
    trials = [f"{start:g};{start + 1.6:g}".replace(".", ",") for start in START]
    (tmp_path / "b.csv").write_text("\n".join(["start_time;stop_time", *trials, "# end"]))
    result = convert(tmp_path / "a.csv", ConvertOptions(trials=str(tmp_path / "b.csv"), **OPTIONS))
    np.testing.assert_array_equal(all_trials(result.recording).spikes_BTN, expected_counts(times_s))
    assert result.report.neurons == ("0", "1", "2", "3")


def test_commas_that_may_separate_thousands_are_refused(tmp_path):
    rows = [f"{u}\t{1000 * t:,.0f}" for t, u in zip(*pooled(recording()), strict=True)]
    (tmp_path / "a.tsv").write_text("\n".join(["unit\ttime", *rows]))
    with pytest.raises(DataError, match=r"'time': found numbers such as .* expected commas of"):
        list_contents(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        ("side != Left", "no row has the side Left"),
        ("side in left, up, down", "no row has the side up, down"),
        ("side in left, right", ""),
        ("target != 9", "no row has the target 9"),
    ],
)
def test_values_that_no_trial_has_are_noted(tmp_path, rule, note):
    path = write_flat(tmp_path / "a.npz", *pooled(recording()), side=["left", "right"] * 6)
    notes = convert(path, ConvertOptions(where=(rule,), **OPTIONS)).report.notes
    assert any("no row has" in n and note in n for n in notes) == bool(note)


def test_a_listing_shows_what_would_be_used(tmp_path):
    times, units = pooled(recording())
    np.savez(tmp_path / "a.npz", spike_times=times, spike_units=units)
    assert list_contents(tmp_path / "a.npz").spikes == ("spike_times", "spike_times")
    write_nwb(tmp_path / "a.nwb", session())
    listing = list_contents(tmp_path / "a.nwb")
    assert (listing.spikes, listing.trials) == (
        ("spike_times", "units/spike_times"),
        "intervals/trials",
    )


def test_a_group_of_pynapple_is_read_as_it_is_saved(tmp_path):
    times_s = recording()
    times, units = pooled(times_s)
    np.savez(
        tmp_path / "a.npz", t=times, index=units.astype(float), start=[0.0], end=[40.0],
        keys=np.arange(4), rate=np.ones(4), type=np.array(["TsGroup"]),
    )  # fmt: skip
    lines = [f"{start},{start + 1.6}" for start in START]
    (tmp_path / "b.csv").write_text("\n".join(["start_time,stop_time", *lines]))
    data = converted(tmp_path / "a.npz", trials=str(tmp_path / "b.csv"), **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))
    assert data.neuron_names == ("0", "1", "2", "3")


def test_a_number_of_each_spike_is_not_its_unit(tmp_path):
    times, _ = pooled(recording())
    np.savez(tmp_path / "a.npz", t=times, index=np.arange(len(times)), **TRIALS)
    with pytest.raises(DataError, match="expected fewer units than spikes could fill"):
        converted(tmp_path / "a.npz", **OPTIONS)


def test_behavior_is_read_from_another_file_in_its_own_unit(tmp_path):
    times, units = pooled(recording())
    path = write_flat(tmp_path / "a.npz", times, units)
    ms = np.arange(0, 40_000, 10)
    lines = [f"{t},{t / 1000},{-t / 1000},free" for t in ms]
    (tmp_path / "hand.csv").write_text("\n".join(["time,x,y,phase", *lines]))
    hand = str(tmp_path / "hand.csv")
    data = converted(path, behavior=(hand,), behavior_time_unit="ms", **OPTIONS)
    assert data.behavior_names == ("x", "y")
    # Two samples, 10 ms apart, in each bin of 20 ms.
    centers_s = START[:, None] + 0.02 * np.arange(80) + 0.005
    np.testing.assert_allclose(data.behavior_BTV[..., 0], centers_s, atol=1e-9)
    with pytest.raises(DataError, match="found no sample in any trial"):
        converted(path, behavior=(hand,), time_unit="s", behavior_time_unit="us", **OPTIONS)


def test_a_file_that_another_program_writes_to_is_not_called_damaged(tmp_path):
    path = tmp_path / "a.h5"
    script = "import h5py, sys; f = h5py.File(sys.argv[1], 'w'); print('open', flush=True); input()"
    writer = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(DataError, match="another program has the file open"):
            list_contents(path)
    finally:
        writer.communicate(b"\n")


@pytest.mark.parametrize("missing", [np.nan, np.inf, "", "NaN", "inf"])
def test_a_spike_without_a_unit_makes_no_neuron(tmp_path, missing):
    times_s = recording()
    times, units = pooled(times_s)
    labels = units.astype(str if isinstance(missing, str) else float)
    lost = np.arange(len(times)) % 10 == 3
    labels[lost] = missing
    np.savez(tmp_path / "a.npz", spike_times=times, spike_units=labels, **TRIALS)
    done = convert(tmp_path / "a.npz", ConvertOptions(**OPTIONS))
    kept = [times[(units == unit) & ~lost] for unit in range(len(times_s))]
    data = all_trials(done.recording)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(kept))
    assert data.neuron_names == ("0", "1", "2", "3")
    assert any(d.why == "have no unit" and d.n == lost.sum() for d in done.report.dropped)


# Other arrangements of the same ------------------------------------------------------------------


def test_a_group_with_a_matrix_per_trial_is_read_in_the_order_of_its_numbers(tmp_path):
    rng = np.random.default_rng(0)
    matrices = [rng.poisson(0.5, (n_bins, 5)) for n_bins in rng.integers(20, 40, 12)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i, matrix in enumerate(matrices):
            file[f"spikes/trial_{i + 1}"] = matrix
        file["bin_ms"] = 10.0
    data = converted(tmp_path / "a.h5", counts="spikes")
    assert data.lengths_B.tolist() == [len(matrix) for matrix in matrices]
    for counts_TN, matrix in zip(data.spikes_BTN, matrices, strict=True):
        np.testing.assert_array_equal(counts_TN[: len(matrix)], matrix)


def test_columns_of_a_text_table_can_be_units(tmp_path):
    times_s = recording(3)
    rows = ["unit1,unit2,unit3,note"]
    for i in range(max(map(len, times_s))):
        cells = [f"{times[i]:.3f}" if i < len(times) else "" for times in times_s]
        rows.append(",".join([*cells, "x"]))
    (tmp_path / "a.csv").write_text("\n".join(rows))
    rows = [
        ",".join(TRIALS),
        *(",".join(map(str, row)) for row in zip(*TRIALS.values(), strict=True)),
    ]
    (tmp_path / "trials.csv").write_text("\n".join(rows))
    data = converted(
        tmp_path / "a.csv", spike_times="unit*", trials=str(tmp_path / "trials.csv"), **OPTIONS
    )
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))
    assert data.neuron_names == ("unit1", "unit2", "unit3")


def test_numbers_that_stand_for_words_are_read_as_words(tmp_path):
    times, units = pooled(recording())
    kind = h5py.enum_dtype({"left": 0, "right": 7}, basetype="u1")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["spike_times"], file["spike_units"] = times, units
        for name, values in TRIALS.items():
            file[f"trials/{name}"] = values
        side = file.create_dataset("trials/side", (12,), kind)
        side[...] = np.arange(12) % 2 * 7
    done = convert(
        tmp_path / "a.h5", ConvertOptions(condition=("side",), trials="trials", **OPTIONS)
    )
    assert done.report.conditions == {"left": 6, "right": 6}
    path = write_nwb(tmp_path / "a.nwb", session())
    with h5py.File(path, "r+") as file:
        trials = file["intervals/trials"]
        words = trials.create_dataset("outcome_elements", data=["hit", "miss"])
        codes = trials.create_dataset("outcome", data=np.arange(8, dtype=np.uint8) % 2)
        codes.attrs["elements"] = words.ref
    (entry,) = [e for e in list_contents(path).entries if e.name.endswith("/outcome")]
    assert entry.values == "hit, miss"


def test_counts_whose_labels_are_of_another_axis_are_refused_and_others_noted(tmp_path):
    counts = np.random.default_rng(0).poisson(0.3, (12, 50, 40))
    np.savez(tmp_path / "a.npz", spikes=counts, bin_ms=20, conditions=np.arange(40) % 4)
    with pytest.raises(DataError, match="40 values in 'conditions'") as caught:
        convert(tmp_path / "a.npz", ConvertOptions())
    assert "axes='neurons,bins,trials'" in caught.value.hint
    data = converted(tmp_path / "a.npz", axes="neurons,bins,trials")
    np.testing.assert_array_equal(data.spikes_BTN, counts.transpose(2, 1, 0))
    np.savez(tmp_path / "b.npz", spikes=counts, bin_ms=20)
    notes = convert(tmp_path / "b.npz", ConvertOptions()).report.notes
    assert any("trials x bins x neurons, 12 x 50 x 40" in note for note in notes)


def test_a_unit_at_the_end_of_a_name_is_not_another_unit(tmp_path):
    times, units = pooled(recording())
    ms = {"start_ms": 1000 * START, "stop_ms": 1000 * (START + 1.6)}
    np.savez(tmp_path / "a.npz", time=times, unit=units, **ms)
    with pytest.raises(SettingsError, match="'start_ms': found times that would be read in s"):
        converted(tmp_path / "a.npz", **OPTIONS)
    data = converted(tmp_path / "a.npz", trials_time_unit="ms", **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()))
    np.savez(tmp_path / "a.npz", time_s=times, unit=units, **ms)
    with pytest.raises(SettingsError, match=r"'time_s': .* expected those in s") as error:
        converted(tmp_path / "a.npz", time_unit="ms", **OPTIONS)
    assert "`time_unit='s'`" in error.value.hint
    # An unconditioned stimulus, by its usual letters, or in small ones with the unit given.
    for name, given in (("onset_US", {}), ("onset_us", {"trials_time_unit": "s"})):
        np.savez(tmp_path / "a.npz", time=times, unit=units, **{name: START})
        windows = {"align": name, "window_ms": (0, 1600), "bin_ms": 20}
        data = converted(tmp_path / "a.npz", **windows, **given)
        np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()))


def test_names_that_stand_for_several_values_or_series_say_so(tmp_path):
    with h5py.File(write_nwb(tmp_path / "a.nwb", session()), "a") as file:
        trials = file["intervals/trials"]
        trials["ev"], trials["ev_index"] = np.arange(16.0), 2 * np.arange(1, 9)
        for group in ("acquisition", "processing/eye"):
            file[f"{group}/pupil/data"] = file[f"{group}/pupil/timestamps"] = np.arange(40.0)
    with pytest.raises(DataError, match="ev'`: found a list of values in each row"):
        converted(tmp_path / "a.nwb", align="ev", window_ms=(0, 400), **OPTIONS)
    with pytest.raises(DataError, match="found 2 time series of that name, 'acq"):
        converted(tmp_path / "a.nwb", behavior=("pupil",), **OPTIONS)


def test_a_group_with_an_array_per_unit_has_the_order_of_its_numbers(tmp_path):
    times = recording(n_units=12)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for unit, times_s in enumerate(times):
            file[f"cells/unit_{unit}"] = times_s
        file["info/depth"] = np.arange(12)
        file["info/area"] = ["M1"] * 12
        for name, column in TRIALS.items():
            file[f"trials/{name}"] = column
    options = ConvertOptions(
        spike_times="cells", units="info", units_where=("depth >= 9",), **OPTIONS
    )
    result = convert(tmp_path / "a.h5", options)
    assert result.report.neurons == ("unit_9", "unit_10", "unit_11")
    counts = all_trials(result.recording).spikes_BTN
    np.testing.assert_array_equal(counts, expected_counts(times)[..., 9:])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["unit,time", "#1,0.5", "#2,0.7"], "found a row that begins with #, '#1,0.5'"),
        (["unit time", "1 0.5", "2 0.7"], "found columns separated by blanks, 'unit time'"),
        (["unit,time", "-,s", "1,0.5"], "'time'`: found text, such as 's'; expected numbers"),
    ],
)
def test_rows_of_a_text_table_are_not_lost_quietly(tmp_path, lines, said):
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=re.escape(said)):
        converted(tmp_path / "a.csv", chop_ms=100, **OPTIONS)


def test_comments_and_names_with_blanks_are_no_rows(tmp_path):
    text = "# unit, 1\nspike time,unit\n0.1,1\n# moved, later\n0.2,1\n"
    (tmp_path / "a.csv").write_text(text)
    assert [entry.shape for entry in list_contents(tmp_path / "a.csv").entries] == [(2,), (2,)]


def cells(parts, shape):
    """A cell array of MATLAB with a column of numbers in each cell."""
    held = np.empty(len(parts), dtype=object)
    held[:] = [np.asarray(part)[:, None] for part in parts]
    return held.reshape(shape)


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4], [3, 2, 1, 0]])
@pytest.mark.parametrize("how", ["lists", "rows", "counts"])
def test_units_without_names_have_the_rows_of_their_table_in_order(tmp_path, numbers, how):
    times = [part[:200] for part in recording()]
    spikes = {
        "lists": {"spike_times": cells(times, (1, 4))},
        "rows": {"spike_times": np.array(times)},
        "counts": {"spikes": expected_counts(times), "bin_ms": 20.0},
    }[how]
    quality = np.array(["good", "mua", "good", "mua"], dtype=object)
    units = {"id": np.array(numbers), "quality": quality}
    trials = {} if how == "counts" else {"trials": TRIALS}
    scipy.io.savemat(tmp_path / "a.mat", spikes | trials | {"units": units})
    options = ConvertOptions(units_where=("quality == good",), **OPTIONS)
    result = convert(tmp_path / "a.mat", options)
    counts = all_trials(result.recording).spikes_BTN
    np.testing.assert_array_equal(counts, expected_counts(times)[..., ::2])
    assert any("matched in order: the spikes have no names" in note for note in result.report.notes)


def test_cells_of_trials_and_units_without_labels_are_noted(tmp_path):
    parts = [np.array([0.1, 0.3 + 0.01 * k]) for k in range(15)]
    scipy.io.savemat(tmp_path / "a.mat", {"spikes": cells(parts, (5, 3))})
    note = "taken as 5 trials x 3 units"
    options = ConvertOptions(window_ms=(0, 400), **OPTIONS)
    assert any(note in text for text in convert(tmp_path / "a.mat", options).report.notes)
    options = ConvertOptions(window_ms=(0, 400), axes="trials,neurons", **OPTIONS)
    assert not any(note in text for text in convert(tmp_path / "a.mat", options).report.notes)


@pytest.mark.parametrize("unit", ["(ms)", "[ms]", "in ms", "msec", "(milliseconds)"])
def test_a_unit_in_the_header_of_a_text_table_is_not_another_unit(tmp_path, unit):
    times, units = pooled(recording())
    spikes = [f"{u},{1000 * t:.0f}" for u, t in zip(units, times, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join([f"unit,time {unit}", *spikes]))
    trials = [f"{1000 * s},{1000 * s + 1600}" for s in START]
    (tmp_path / "b.csv").write_text("\n".join([f"start {unit},stop {unit}", *trials]))
    options = {
        "spike_times": f"time {unit}", "start": f"start {unit}", "stop": f"stop {unit}",
        "trials": str(tmp_path / "b.csv"), **OPTIONS,
    }  # fmt: skip
    with pytest.raises(SettingsError, match="would be read in s; expected those in ms"):
        converted(tmp_path / "a.csv", **options)
    data = converted(tmp_path / "a.csv", time_unit="ms", **options)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()))


def test_text_that_numpy_stores_as_bytes_is_text(tmp_path):
    times, units = pooled(recording())
    names = np.char.encode(np.char.add("\u00fc", units.astype(str)), "utf-8")
    side = np.char.encode(np.array(["links", "r\u00fcck"] * 6), "utf-8")
    np.savez(tmp_path / "a.npz", spike_times=times, spike_units=names, side=side, **TRIALS)
    options = ConvertOptions(condition=("side",), where=("side == r\u00fcck",), **OPTIONS)
    report = convert(tmp_path / "a.npz", options).report
    assert report.neurons == ("\u00fc0", "\u00fc1", "\u00fc2", "\u00fc3")
    assert report.conditions == {"r\u00fcck": 6}


def test_names_of_neurons_in_a_spike_file_stay_when_it_is_converted(tmp_path):
    names = np.array([b"u7", b"u3"])
    spikes = np.ones((4, 6, 2), int)
    np.savez(tmp_path / "a.npz", spikes=spikes, bin_ms=10, neuron_names=names)
    assert converted(tmp_path / "a.npz", bin_ms=20).neuron_names == ("u7", "u3")


@pytest.mark.parametrize(("delimiter", "point"), [(",", "."), (";", ",")])
def test_a_missing_number_is_missing_however_it_is_written(tmp_path, delimiter, point):
    go = [f"{start + 0.5:.2f}".replace(".", point) for start in START]
    go[3:6] = ["NA", "", "N/A"]
    notes = ["NA", "None"] * 6  # words, where there is no number
    rows = [delimiter.join(row) for row in zip(go, notes, strict=True)]
    (tmp_path / "trials.csv").write_text("\n".join([delimiter.join(["go", "note"]), *rows]))
    times, units = pooled(recording())
    np.savez(tmp_path / "a.npz", spike_times=times, spike_units=units)
    options = {"trials": str(tmp_path / "trials.csv"), "align": "go", "window_ms": (-100, 300)}
    data = converted(tmp_path / "a.npz", **options, **OPTIONS)
    assert data.trial_ids_B.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert data.trial_table["note"].tolist()[:2] == ["NA", "None"]


def test_a_spreadsheet_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "trials.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(DataError, match="found a spreadsheet"):
        list_contents(tmp_path / "trials.xlsx")


def test_names_of_units_that_python_would_read_as_one_number_are_several_units(tmp_path):
    for names in (("11_2", "1_12"), ("01", "1"), ("720575940621039145", "720575940621039146")):
        rows = [f"{name},{t}" for name in names for t in (0.05, 0.15)]
        (tmp_path / "a.csv").write_text("\n".join(["unit,time", *rows]))
        assert converted(tmp_path / "a.csv", chop_ms=50, bin_ms=10.0).neuron_names == names


@pytest.mark.parametrize("front", ["", "\n", "sep=;\n"])
def test_a_text_table_may_begin_as_a_spreadsheet_writes_it(tmp_path, front):
    (tmp_path / "a.csv").write_text(f'{front}"unit"; "time (s)"\n"a"; "0,5"\n"b"; "0,7"\n')
    assert [(e.name, e.values) for e in list_contents(tmp_path / "a.csv").entries] == [
        ("unit", "a, b"),
        ("time (s)", "0.5, 0.7"),
    ]


def test_units_in_groups_of_their_own_are_named_by_what_differs_and_may_be_silent(tmp_path):
    times = [*recording(2), np.zeros((0, 0)), np.array([1.5])]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for unit, own in zip(("u1", "u2", "u10", "u11"), times, strict=True):
            file[f"units/{unit}/times"] = own
        for name, column in TRIALS.items():
            file[f"trials/{name}"] = column
    with pytest.raises(SettingsError) as error:
        converted(tmp_path / "a.h5", spike_times="units", **OPTIONS)
    assert "`spike_times='units/*/NAME'`" in error.value.hint
    data = converted(tmp_path / "a.h5", spike_times="units/*/times", **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts([np.ravel(t) for t in times]))
    assert data.neuron_names == ("u1", "u2", "u10", "u11")


def test_labels_that_neurons_share_are_not_their_names(tmp_path):
    arrays = {"counts": np.ones((4, 5, 2), int), "bin_ms": 10.0, "unit": ["M1", "M1"]}
    np.savez(tmp_path / "a.npz", **arrays)
    assert converted(tmp_path / "a.npz").neuron_names == ("0", "1")


@pytest.mark.parametrize("padding", [np.nan, 0.0])
def test_columns_are_units_where_times_ascend_along_them(tmp_path, padding):
    times_s = recording(6)
    matrix = np.full((max(map(len, times_s)), 6), padding)
    for unit, own in enumerate(times_s):
        matrix[: len(own), unit] = own
    np.savez(tmp_path / "a.npz", spike_times=matrix, **TRIALS)
    result = convert(tmp_path / "a.npz", ConvertOptions(**OPTIONS))
    np.testing.assert_array_equal(all_trials(result.recording).spikes_BTN, expected_counts(times_s))
    assert result.report.notes[0] == "Each of the 6 columns of 'spike_times' was taken as a unit."


def lists_of_trials(clock_of_recording):
    """Spike times of the first unit, one list per trial."""
    times = recording()[0]
    lists = [times[(times >= start) & (times < start + 1.6)] for start in START]
    return [own - start * (not clock_of_recording) for own, start in zip(lists, START, strict=True)]


def test_lists_in_the_table_of_trials_are_of_trials_or_of_units_as_they_are_said_to_be(tmp_path):
    rows = np.zeros((1, 12), dtype=[("spikes", "O"), ("start", "O")])
    rows[0] = list(zip(lists_of_trials(False), START, strict=True))
    scipy.io.savemat(tmp_path / "a.mat", {"run": rows})
    options = {"spike_times": "run.spikes", "trials": "run", "window_ms": (0, 1600), **OPTIONS}
    with pytest.raises(SettingsError, match="is each of a trial, or of a unit") as error:
        converted(tmp_path / "a.mat", **options)
    assert error.value.hint == "Say so: `axes='trials'` or `axes='neurons'`."
    data = converted(tmp_path / "a.mat", axes="trials", **options)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()[:1]))


def test_trials_and_their_spikes_count_from_the_same_time(tmp_path):
    cells = np.empty((12, 1), object)
    cells[:, 0] = lists_of_trials(clock_of_recording=True)
    scipy.io.savemat(tmp_path / "a.mat", {"spike_times": cells, "start": START})
    options = {"axes": "trials", "window_ms": (0, 1600), **OPTIONS}
    with pytest.raises(DataError, match="found 11 of 12 trials without a spike where they are cut"):
        converted(tmp_path / "a.mat", **options)
    data = converted(tmp_path / "a.mat", align="start", **options)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()[:1]))


def test_the_table_of_trials_may_have_another_order_than_their_spikes(tmp_path):
    lists = lists_of_trials(clock_of_recording=False)
    trial = np.repeat(np.arange(12), list(map(len, lists)))
    np.savez(tmp_path / "a.npz", spike_times=np.concatenate(lists), of=trial, spike_units=0 * trial)
    (tmp_path / "b.csv").write_text("\n".join(["id,note", *(f"{11 - i},x" for i in range(12))]))
    options = {"spike_trials": "of", "trials": str(tmp_path / "b.csv"), "window_ms": (0, 1600)}
    data = converted(tmp_path / "a.npz", **options, **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN[::-1], expected_counts(recording()[:1]))


def test_empty_text_among_cells_of_text_is_text_in_old_matlab_files(tmp_path):
    cells = np.array(["hit", "", "miss"] * 4, dtype=object)[:, None]
    mixed = np.array(["hit", np.ones(2)] * 6, dtype=object)[:, None]
    trials = {**TRIALS, "outcome": cells, "mixed": mixed}
    scipy.io.savemat(tmp_path / "a.mat", {"spike_times": recording()[0], "trials": trials})
    options = {"spike_units": "none", **OPTIONS}
    data = converted(tmp_path / "a.mat", condition=("trials.outcome",), **options)
    assert list(data.condition_names.values()) == ["", "hit", "miss"]
    with pytest.raises(DataError, match="found cells of numbers, but text in cell 1"):
        converted(tmp_path / "a.mat", condition=("trials.mixed",), **options)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_empty_among_single_numbers_of_structs_is_a_missing_number(tmp_path, version):
    go = [np.zeros((0, 0)) if trial in (3, 8) else np.array([[t]]) for trial, t in enumerate(START)]
    if version == "7.3":
        with h5py.File(tmp_path / "a.mat", "w") as file:
            mat_number(file, recording()[0][:, None], "t")
            file["run/go"] = references([mat_number(file.require_group("#r#"), v) for v in go])
            file["run"].attrs["MATLAB_class"] = np.bytes_("struct")
    else:
        rows = np.zeros((1, 12), dtype=[("go", "O")])
        rows["go"][0] = [*go]
        scipy.io.savemat(tmp_path / "a.mat", {"t": recording()[0], "run": rows})
    options = {"spike_times": "t", "spike_units": "none", "trials": "run", "align": "go"}
    data = converted(tmp_path / "a.mat", window_ms=(0, 1600), **options, **OPTIONS)
    happened = np.delete(np.arange(12), [3, 8])
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()[:1])[happened])


@pytest.mark.parametrize("factor", [1, 1000])
def test_times_all_in_another_unit_are_noted_by_their_rate(tmp_path, factor):
    times, units = pooled(recording())
    trials = {"start": factor * START, "stop": factor * (START + 1.6)}
    np.savez(tmp_path / "a.npz", spike_times=factor * times + 0.25, spike_units=units, **trials)
    notes = convert(tmp_path / "a.npz", ConvertOptions(**OPTIONS)).report.notes
    assert any("spikes per second and unit" in note for note in notes) == (factor > 1)


def test_few_spikes_of_each_trial_beside_its_number_count_from_its_start(tmp_path):
    made = {"time": [0.9, 0.5, 0.1, 0.7, 0.2, 0.6], "unit": [1] * 6, "trial": [1, 2, 3, 3, 4, 4]}
    rows = [",".join(map(str, row)) for row in zip(*made.values(), strict=True)]
    (tmp_path / "a.csv").write_text("\n".join([",".join(made), *rows]))
    with pytest.raises(DataError, match="that step back 3 times") as error:
        converted(tmp_path / "a.csv", chop_ms=200, bin_ms=100.0)
    assert "`spike_trials=NAME`" in error.value.hint
    data = converted(tmp_path / "a.csv", spike_trials="trial", window_ms=(0, 1000), bin_ms=100.0)
    assert [np.flatnonzero(own).tolist() for own in data.spikes_BTN] == [[9], [5], [1, 7], [2, 6]]


@pytest.mark.parametrize("nested", ["spikes", "unit.t"])
def test_trials_that_are_structs_with_cells_of_units_keep_their_columns(tmp_path, nested):
    times_s = recording()
    trials = np.zeros(12, dtype=[(nested.partition(".")[0], "O"), ("side", "O")])
    for row, start in zip(trials, START, strict=True):
        own = [t[(t >= start) & (t < start + 1.6)] - start for t in times_s]
        units = np.zeros(4, dtype=[("t", "O")])
        units["t"] = in_cells(own, (4,))
        row[0] = units if nested == "unit.t" else in_cells(own, (1, 4))
        row["side"] = "left" if start > 10 else "right"
    scipy.io.savemat(tmp_path / "a.mat", {"trial": trials})
    chosen = {"spike_times": f"trial.{nested}", "window_ms": (0, 1600), "condition": ("side",)}
    data = converted(tmp_path / "a.mat", **chosen, **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))
    assert data.condition_labels == tuple(np.where(START > 10, "left", "right"))


@pytest.mark.parametrize("order", ["trials,neurons", "neurons,trials"])
def test_times_of_trials_and_units_may_be_one_array_padded_with_nan(tmp_path, order):
    times_s = recording()
    padded = np.full((12, 4, 40), np.nan)
    for trial, start in enumerate(START):
        for unit, times in enumerate(times_s):
            own = times[(times >= start) & (times < start + 1.6)] - start
            padded[trial, unit, : len(own)] = own
    if order == "neurons,trials":
        padded = padded.transpose(1, 0, 2)
    np.savez(tmp_path / "a.npz", spike_times=padded)
    data = converted(tmp_path / "a.npz", axes=order, window_ms=(0, 1600), **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))


@pytest.mark.parametrize("missing", [np.nan, -1])
@pytest.mark.parametrize("of", ["trial", "unit"])
def test_spikes_between_trials_are_of_no_trial_and_unsorted_ones_of_no_unit(tmp_path, missing, of):
    times_s = recording()
    times, units = pooled(times_s)
    trials = np.searchsorted(START, times, side="right") - 1.0
    within = times - START[trials.astype(int)]
    is_out = (trials < 0) | (within >= 1.6)
    arrays = {"spike_times": within, "unit": units.astype(float), "trial": trials}
    arrays[of][is_out] = missing
    if of == "unit":
        arrays["trial"][trials < 0] = 0
    arrays = {name: array[np.argsort(trials, kind="stable")] for name, array in arrays.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    chosen = {"spike_trials": "trial", "window_ms": (0, 1600), **OPTIONS}
    made = convert(tmp_path / "a.npz", ConvertOptions(**chosen))
    data = all_trials(made.recording)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s))
    assert made.report.dropped[0].why == f"have no {of}"
    assert made.report.dropped[0].n == is_out.sum()


def test_times_of_all_trials_side_by_side_are_not_on_one_clock(tmp_path):
    times, units = pooled(recording())
    trials = np.searchsorted(START, times, side="right")
    within = times - np.concatenate([[0.0], START])[trials]
    order = np.argsort(within, kind="stable")
    arrays = {"spike_units": units[order], "trial": trials[order]}
    np.savez(tmp_path / "a.npz", spike_times=within[order], **arrays)
    with pytest.raises(DataError, match="times of the 13 trials in 'trial' side by side") as error:
        converted(tmp_path / "a.npz", chop_ms=400, **OPTIONS)
    assert "`spike_trials='trial'`" in error.value.hint
    np.savez(tmp_path / "b.npz", spike_times=times, spike_units=units, trial=trials, **TRIALS)
    data = converted(tmp_path / "b.npz", **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(recording()))


# Structs of FieldTrip: the trial of each spike beside its time, in lists of their own -------------


@pytest.fixture
def fieldtrip():
    """Spikes in whole milliseconds from a trigger; every third trial ends half a second early."""
    rng = np.random.default_rng(3)
    limits = np.stack([np.full(9, -0.5), np.where(np.arange(9) % 3, 1.499, 0.999)], axis=1)
    times, trials = [], []
    for _ in range(3):
        trial = np.sort(rng.integers(0, 9, 200))
        trials.append(trial + 1.0)
        of_trial = np.round(rng.uniform(*limits[trial].T), 3)
        times.append(of_trial[np.lexsort([of_trial, trial])])
    return {
        "label": in_cells(["sig1a", "sig1b", "sig2a"], (1, 3)),
        "timestamp": in_cells([np.uint64(1e9 + 1e6 * (t + 9))[None] for t in times], (1, 3)),
        "time": in_cells([t[None] for t in times], (1, 3)),
        "trial": in_cells([t[None] for t in trials], (1, 3)),
        "trialtime": limits,
        "trialinfo": np.stack([np.arange(9) % 2, np.arange(9) + 10], axis=1),
        "dimord": "{chan}_lead_time_spike",
    }


def test_a_struct_of_fieldtrip_is_cut_around_its_trigger(tmp_path, fieldtrip):
    scipy.io.savemat(tmp_path / "a.mat", {"sts": fieldtrip})
    data = converted(
        tmp_path / "a.mat", window_ms=(-400, 900), condition=("trialinfo:0",), **OPTIONS
    )
    counts = np.zeros((9, 65, 3), int)
    for unit in range(3):
        times, trials = (fieldtrip[key][0, unit][0] for key in ("time", "trial"))
        ms = np.rint(1000 * times).astype(int) + 400
        held = (ms >= 0) & (ms < 1300)
        np.add.at(counts[..., unit], (trials[held].astype(int) - 1, ms[held] // 20), 1)
    np.testing.assert_array_equal(data.spikes_BTN, counts)
    assert data.neuron_names == ("sig1a", "sig1b", "sig2a")
    assert data.trial_ids_B.tolist() == list(range(1, 10))
    assert data.conditions_B.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert (data.event, data.start_ms) == ("the trigger", -400)


def test_a_window_that_a_trial_of_fieldtrip_does_not_hold_leaves_it_out(tmp_path, fieldtrip):
    scipy.io.savemat(tmp_path / "a.mat", {"spike": fieldtrip})
    long = converted(tmp_path / "a.mat", window_ms=(-500, 1500), **OPTIONS)
    assert long.trial_ids_B.tolist() == [2, 3, 5, 6, 8, 9]  # up to the last sample of the others
    whole = converted(tmp_path / "a.mat", **OPTIONS)
    assert whole.lengths_B.tolist() == [74, 99, 99] * 3
    assert whole.event == "trial_start"


def test_trials_of_fieldtrip_have_the_rows_of_a_table_by_their_numbers(tmp_path, fieldtrip):
    scipy.io.savemat(tmp_path / "a.mat", {"spike": fieldtrip})
    window = {"window_ms": (-400, 900), **OPTIONS}
    plain = converted(tmp_path / "a.mat", **window)
    order = np.random.default_rng(0).permutation(9) + 1
    rows = [f"{number},{number % 4}" for number in order]
    (tmp_path / "trials.csv").write_text("\n".join(["trial,side", *rows]))
    table = {"trials": str(tmp_path / "trials.csv"), "condition": ("side",)}
    data = converted(tmp_path / "a.mat", **table, **window)
    assert data.trial_ids_B.tolist() == order.tolist()
    assert data.conditions_B.tolist() == (order % 4).tolist()
    np.testing.assert_array_equal(data.spikes_BTN, plain.spikes_BTN[order - 1])


@pytest.mark.parametrize("named", [{}, {"name": in_cells(["a", "b", "c", "d"], (1, 4))}])
def test_units_are_chosen_by_what_stands_beside_their_times(tmp_path, named):
    times_s = recording()
    units = {"times": in_cells([t[None] for t in times_s], (1, 4)), "depth": [3, 1, 4, 2], **named}
    scipy.io.savemat(tmp_path / "a.mat", {"day": {"cells": units}, **TRIALS})
    chosen = {"spike_times": "day.cells.times", "units_where": ("depth > 2",)}
    data = converted(tmp_path / "a.mat", **chosen, **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, expected_counts(times_s)[..., [0, 2]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trial": [[1.0, 2.0]] * 3}, "lists of other lengths"),
        ({"trialtime": np.zeros((4, 2))}, "found trial [5-9]; expected 1 to 4"),
        ({"trialtime": np.zeros((9, 3))}, r"shape \(9, 3\); expected start and end"),
    ],
)
def test_a_damaged_struct_of_fieldtrip_is_refused(tmp_path, fieldtrip, change, said):
    changed = {n: in_cells(v, (1, 3)) if isinstance(v, list) else v for n, v in change.items()}
    scipy.io.savemat(tmp_path / "a.mat", {"spike": fieldtrip | changed})
    with pytest.raises(DataError, match=said):
        converted(tmp_path / "a.mat", **OPTIONS)


def test_timestamps_of_fieldtrip_are_read_on_the_clock_of_the_recording(tmp_path, fieldtrip):
    only = {key: fieldtrip[key] for key in ("label", "timestamp")}
    scipy.io.savemat(tmp_path / "a.mat", {"spike": only})
    chosen = {"spike_times": "spike.timestamp", "time_unit": "us", "sort_spikes": True}
    data = converted(tmp_path / "a.mat", chop_ms=500, **chosen, **OPTIONS)
    assert data.neuron_names == ("sig1a", "sig1b", "sig2a")
    assert data.spikes_BTN.sum() == 600


def test_lists_of_times_may_stand_beside_lists_of_their_trials(tmp_path, fieldtrip):
    arrays = {"times": fieldtrip["time"], "of_trial": fieldtrip["trial"]}
    scipy.io.savemat(tmp_path / "a.mat", arrays)
    chosen = {"spike_times": "times", "spike_trials": "of_trial", "window_ms": (-400, 900)}
    data = converted(tmp_path / "a.mat", **chosen, **OPTIONS)
    scipy.io.savemat(tmp_path / "b.mat", {"spike": fieldtrip})
    whole = converted(tmp_path / "b.mat", window_ms=(-400, 900), **OPTIONS)
    np.testing.assert_array_equal(data.spikes_BTN, whole.spikes_BTN)
