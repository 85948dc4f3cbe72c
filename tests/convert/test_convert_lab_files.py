"""Odd files of real laboratories: the counts must be right, or the error must lead on."""

import h5py
import numpy as np
import pytest
import scipy.io
from convert_files import mat_number, references

from ndt_cli.convert import ConvertOptions, convert
from ndt_cli.data.spike_data import all_trials
from ndt_cli.errors import DataError, SettingsError

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
