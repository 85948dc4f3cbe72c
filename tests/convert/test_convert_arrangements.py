"""Spikes and trials in the arrangements that laboratories keep them in."""

import h5py
import numpy as np
import pytest
import scipy.io
from convert_files import (
    CHOSEN,
    flat,
    mat_number,
    references,
    session,
    write_npz,
)

from ndt_cli.convert import ConvertOptions, convert
from ndt_cli.data.spike_data import all_trials
from ndt_cli.errors import DataError, SettingsError


def test_cells_of_trials_and_units_count_from_each_trial(tmp_path):
    cells = np.empty((4, 2), dtype=object)
    for b in range(4):
        cells[b] = [np.array([[0.05 + 0.1 * b]]), np.array([[0.0, 0.3]])]
    scipy.io.savemat(tmp_path / "a.mat", {"spikes": cells, "cue": np.array([1, 1, 2, 2])})
    options = ConvertOptions(bin_ms=100, window_ms=(0, 400), condition=("cue",))
    whole = all_trials(convert(tmp_path / "a.mat", options).recording)
    np.testing.assert_array_equal(whole.spikes_BTN[..., 0], np.eye(4))
    np.testing.assert_array_equal(whole.spikes_BTN[..., 1], [[1, 0, 0, 1]] * 4)
    assert whole.conditions_B.tolist() == [1, 1, 2, 2]

    scipy.io.savemat(tmp_path / "b.mat", {"spikes": cells.T, "cue": np.array([1, 1, 2, 2])})
    turned = convert(
        tmp_path / "b.mat", ConvertOptions(bin_ms=100, window_ms=(0, 400), axes="neurons,trials")
    )
    np.testing.assert_array_equal(all_trials(turned.recording).spikes_BTN, whole.spikes_BTN)


def test_times_of_trials_on_another_clock_are_not_taken_by_their_ordinary_name(tmp_path):
    cells = np.empty((4, 2), dtype=object)
    for b in range(4):
        cells[b] = [np.array([[0.05, 0.15]]), np.array([[0.25]])]
    start = 100.0 + np.arange(4)  # on the recording's clock, which the spikes are not
    trials = {"start_time": start, "stop_time": start + 1, "cue": start - 99.8}
    scipy.io.savemat(tmp_path / "a.mat", {"spikes": cells, "trials": trials})
    whole = convert(
        tmp_path / "a.mat", ConvertOptions(bin_ms=100, trials="trials", window_ms=(0, 300))
    )
    expected = [[1, 0], [1, 0], [0, 1]]
    np.testing.assert_array_equal(all_trials(whole.recording).spikes_BTN, [expected] * 4)
    with pytest.raises(SettingsError, match="no column for the stop of a trial"):
        convert(tmp_path / "a.mat", ConvertOptions(bin_ms=100, trials="trials"))


def test_cells_of_cells_in_a_new_matlab_file(tmp_path):
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        refs = file.create_group("#refs#")
        rows = []
        for b in range(3):
            units = [mat_number(refs, [[0.05 + 0.1 * b]]), mat_number(refs, [[0.25], [0.1]])]
            row = refs.create_dataset(f"row{b}", data=references(units))
            row.attrs["MATLAB_class"] = np.bytes_("cell")
            rows.append(row)
        file["trial_spikes"] = references(rows)
        file["trial_spikes"].attrs["MATLAB_class"] = np.bytes_("cell")
    options = ConvertOptions(bin_ms=100, spike_times="trial_spikes", window_ms=(0, 300))
    whole = all_trials(convert(path, options).recording)
    np.testing.assert_array_equal(whole.spikes_BTN[..., 0], np.eye(3))
    np.testing.assert_array_equal(whole.spikes_BTN[..., 1], [[0, 1, 1]] * 3)


def test_spikes_with_trials_as_columns(tmp_path):
    path = tmp_path / "rat.csv"
    rows = ["trial,unit,t,side"]
    rows += [f"{b},{u},{0.1 * u + 0.05},{'LR'[b % 2]}" for b in (3, 4, 6, 7) for u in (0, 1)]
    path.write_text("\n".join(rows))
    options = ConvertOptions(
        bin_ms=100, spike_trials="trial", window_ms=(0, 200), condition=("side",)
    )
    converted = convert(path, options)
    whole = all_trials(converted.recording)
    np.testing.assert_array_equal(whole.spikes_BTN, [np.eye(2)] * 4)
    assert converted.report.conditions == {"L": 2, "R": 2}
    assert "a trial without any spike is not among them" in converted.report.notes[0]

    (tmp_path / "trials.csv").write_text("trial,cue\n" + "\n".join(f"{b},{b}" for b in range(8)))
    with_table = ConvertOptions(
        bin_ms=100, spike_trials="trial", window_ms=(0, 200), trials=str(tmp_path / "trials.csv")
    )
    whole = all_trials(convert(path, with_table).recording)
    assert whole.spikes_BTN.sum(axis=(1, 2)).tolist() == [0, 0, 0, 2, 2, 0, 2, 2]


def test_one_array_a_unit_in_a_group_and_rows_padded_with_nan(tmp_path):
    made = session()
    longest = max(len(t) for t in made.times_s)
    rows = np.full((3, longest), np.nan)
    arrays = dict(made.trials)
    for i, times in enumerate(made.times_s):
        rows[i, : len(times)] = times
    np.savez(tmp_path / "rows.npz", spike_times=rows, **arrays)
    with h5py.File(tmp_path / "group.h5", "w") as file:
        for i, times in enumerate(made.times_s):
            file[f"cells/unit{i}"] = times
        for name, column in arrays.items():
            file[f"trials/{name}"] = column.tolist() if column.dtype.kind == "U" else column
    by_row = all_trials(convert(tmp_path / "rows.npz", ConvertOptions(**CHOSEN)).recording)
    grouped = convert(tmp_path / "group.h5", ConvertOptions(spike_times="cells", **CHOSEN))
    np.testing.assert_array_equal(by_row.spikes_BTN, all_trials(grouped.recording).spikes_BTN)
    assert grouped.report.neurons == ("unit0", "unit1", "unit2")

    names = {"names": ["M1-2", "M1-7", "PMd-1"], "twice": [4, 4, 9], "short": [4, 9]}
    np.savez(tmp_path / "named.npz", spike_times=rows, **arrays, **names)
    named = convert(tmp_path / "named.npz", ConvertOptions(spike_units="names", **CHOSEN))
    assert named.report.neurons == ("M1-2", "M1-7", "PMd-1")
    np.testing.assert_array_equal(by_row.spikes_BTN, all_trials(named.recording).spikes_BTN)
    for wrong, why in (("twice", "occur twice"), ("short", "shape"), ("none", "of 3 units")):
        with pytest.raises(DataError, match=rf"spike_units='{wrong}'`: found .*{why}"):
            convert(tmp_path / "named.npz", ConvertOptions(spike_units=wrong, **CHOSEN))


def test_times_in_samples(tmp_path):
    made = session()
    times, units = flat(made)
    np.savez(
        tmp_path / "phy.npz",
        spike_times=np.rint(times * 30_000).astype(np.int64),
        spike_clusters=units,
        **made.trials,
    )
    options = ConvertOptions(
        time_unit="samples", sample_rate_hz=30_000, trials_time_unit="s", **CHOSEN
    )
    in_samples = all_trials(convert(tmp_path / "phy.npz", options).recording)
    in_seconds = convert(write_npz(tmp_path / "s.npz", made), ConvertOptions(**CHOSEN)).recording
    np.testing.assert_array_equal(in_samples.spikes_BTN, all_trials(in_seconds).spikes_BTN)


def test_units_of_another_table_are_matched_by_their_names(tmp_path):
    made = session()
    times, units = flat(made)
    path = tmp_path / "phy.npz"
    np.savez(path, spike_times=times, spike_clusters=np.array([7, 40, 12])[units], **made.trials)
    table = tmp_path / "cluster_info.tsv"
    table.write_text("cluster_id\tgroup\n12\tgood\n40\tnoise\n99\tgood\n7\tgood\n")
    options = ConvertOptions(units=str(table), units_where=("group == good",), **CHOSEN)
    assert convert(path, options).report.neurons == ("7", "12")


def _clusters(tmp_path, table_text):
    """Spikes of the clusters 3, 5 and 9, beside a table."""
    made = session()
    times, units = flat(made)
    np.savez(
        tmp_path / "phy.npz", spike_times=times, spike_clusters=np.array([3, 5, 9])[units],
        **made.trials,
    )  # fmt: skip
    (tmp_path / "table.tsv").write_text(table_text)
    options = ConvertOptions(
        units=str(tmp_path / "table.tsv"), units_where=("group == good",), **CHOSEN
    )
    return convert(tmp_path / "phy.npz", options).report


def test_a_table_that_lacks_some_of_the_units_is_refused(tmp_path):
    with pytest.raises(DataError, match="no row for 3 in its column 'cluster_id'"):
        _clusters(tmp_path, "cluster_id\tgroup\n9\tgood\n5\tbad\n4\tbad\n")


@pytest.mark.parametrize("column", ["", "cluster_id\t"])
def test_a_table_without_the_names_of_units_is_matched_in_order_with_a_note(tmp_path, column):
    rows = [f"{10 + i}\t" if column else "" for i in range(3)]
    report = _clusters(
        tmp_path, f"{column}depth\tgroup\n{rows[0]}1\tgood\n{rows[1]}2\tbad\n{rows[2]}3\tgood\n"
    )
    assert report.neurons == ("3", "9")
    assert any("matched in order" in note for note in report.notes)


def test_single_precision_times_are_pointed_out(tmp_path):
    made = session()
    times, units = flat(made)
    trials = {**made.trials, "start_time": made.start + 4000, "stop_time": made.stop + 4000}
    np.savez(
        tmp_path / "a.npz",
        spike_times=(times + 4000).astype(np.float32),
        spike_units=units,
        **trials,
    )
    notes = convert(tmp_path / "a.npz", ConvertOptions(**CHOSEN)).report.notes
    assert any("single precision: steps of 0.24 ms" in note for note in notes)
