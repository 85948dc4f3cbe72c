"""What fuzzing `ndt convert` has found: each input is refused in words, or read rightly."""

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from test_fuzz_findings import COUNTS_BTN, hdf5

from ndt_cli.convert import ConvertOptions, convert, list_contents
from ndt_cli.convert.matlab import check_elements
from ndt_cli.errors import DataError, SettingsError


def test_every_damaged_type_in_a_matlab_file_is_refused_before_scipy_sees_it(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"s": {"word": "left", "x": np.arange(3.0)}})
    check_elements(path)
    content = path.read_bytes()
    at = content.index(b"left") - 4  # the type of the text; scipy looked it up in a table
    path.write_bytes(content[:at] + b"\xa0" + content[at + 1 :])
    with pytest.raises(DataError, match=r"an element of type 160"):
        list_contents(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_part_that_is_larger_than_what_holds_it_is_refused(tmp_path, packed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.arange(3.0)}, do_compression=packed)
    check_elements(path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 132, 2**31)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"an element of 2147483648 bytes where"):
        check_elements(path)


def test_an_array_without_its_values_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.arange(3.0), "y": 1.0})
    content = bytearray(path.read_bytes())
    content[145] |= 0x08  # complex: what follows is no imaginary part, but the next variable
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"an array of class 6 without its values"):
        list_contents(path)


@pytest.mark.parametrize("dtype", ["f8", "i2", "?", "U4", "c16"])
@pytest.mark.parametrize("packed", [False, True])
def test_whole_matlab_files_pass_the_check(tmp_path, dtype, packed):
    path = tmp_path / "a.mat"
    cells = np.empty((2, 2), dtype=object)
    cells[:] = [[np.arange(3.0), "word"], [np.zeros((0, 0)), np.ones(2, bool)]]
    values = {"x": np.ones((2, 3)).astype(dtype), "cells": cells, "st": {"a": {"b": 1.0}}}
    scipy.io.savemat(path, {**values, "sparse": scipy.sparse.eye_array(4)}, do_compression=packed)
    check_elements(path)
    assert any(entry.name == "st/a/b" for entry in list_contents(path).entries)


def test_a_damaged_heading_does_not_spare_a_file_the_check(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.arange(3.0)})
    content = bytearray(path.read_bytes())
    content[0] = ord("7")  # scipy goes by the bytes at the end of the header
    content[content.index(struct.pack("<II", 9, 24))] = 0
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"an element of type 0"):
        list_contents(path)


def test_an_array_without_a_shape_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": "right"})
    content = bytearray(path.read_bytes())
    content[156] = 0  # bytes of the shape; scipy took the two sizes that are in it
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"an array (whose shape has 0 bytes|without a shape)"):
        list_contents(path)


def test_a_million_cells_that_are_not_there_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.array([[1.0, "a"]], dtype=object)})
    content = bytearray(path.read_bytes())
    struct.pack_into("<2i", content, 160, 1000, 1000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"an array of 1000000 cells or structs, with 2 in it"):
        list_contents(path)


def test_cells_with_a_function_among_them_are_listed_and_not_read(tmp_path, monkeypatch):
    cells = np.empty((1, 3), dtype=object)
    cells[0] = ["left", scipy.io.matlab.MatlabFunction(np.zeros(1)), "right"]
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": np.arange(3.0)})
    # scipy writes no functions, so this stands for a file that holds one.
    stored = {"cells": cells, "x": np.arange(3.0)[None]}
    monkeypatch.setattr(scipy.io, "loadmat", lambda path, **how: stored)
    kinds = {entry.name: entry.kind for entry in list_contents(path).entries}
    assert kinds["x"] == "float64"
    assert kinds["cells"].endswith("MATLAB function handle in cell 2, not read")


def test_a_sparse_array_of_nothing_takes_no_memory(tmp_path):
    path = tmp_path / "a.mat"
    shape = (20_000, 20_000)
    scipy.io.savemat(path, {"counts": scipy.sparse.csc_array(([1.0], ([3], [4])), shape=shape)})
    with pytest.raises(DataError, match=r"'counts', a sparse array of shape \(20000, 20000\)"):
        convert(path, ConvertOptions(counts="counts", counts_bin_ms=10))


def test_an_entry_outside_of_a_sparse_array_is_refused(tmp_path):
    path = tmp_path / "a.mat"
    counts = scipy.sparse.csc_array(np.eye(4))
    counts.indices[0] = 3_000_000
    scipy.io.savemat(path, {"counts": counts})
    with pytest.raises(DataError, match=r"sparse array of shape \(4, 4\): it is damaged"):
        convert(path, ConvertOptions(counts="counts", counts_bin_ms=10))


def test_groups_that_hold_one_another_are_refused_at_once(tmp_path):
    def write(file, key):
        group = file.create_group(key)
        group["a"] = group["b"] = group

    path = hdf5(tmp_path / "a.h5", s=write, bin_ms=20.0)
    with pytest.raises(DataError, match=r"found more than 5000 names"):
        list_contents(path)


def test_cells_that_hold_one_another_are_refused_at_once(tmp_path):
    def write(file, key):
        group = file.create_group(key)
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        group["a"] = group
        group["b"] = group  # two ways at each level: a million after twenty
        group["n"] = np.arange(3.0)

    path = hdf5(tmp_path / "a.mat", s=write)
    with pytest.raises(DataError, match=r"more than .*; do its cells refer to one another"):
        list_contents(path)


def nwb(path, ends, *, rate=None):
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        file["units/spike_times"] = np.arange(30) / 10
        file["units/spike_times_index"] = ends
        file["intervals/trials/start_time"] = np.arange(3.0)
        file["intervals/trials/stop_time"] = np.arange(3.0) + 0.9
        if rate is not None:
            series = file.create_group("acquisition/hand")
            series["data"] = np.arange(40.0)
            series["starting_time"] = 0.0
            series["starting_time"].attrs["rate"] = rate
    return path


@pytest.mark.parametrize("ends", [[20, 10], [10, 40], [10, 20], [-5, 30], [10.0, 30.0]])
def test_an_index_that_does_not_part_the_spikes_is_refused(tmp_path, ends):
    # Spikes went to another unit, or to none.
    with pytest.raises(DataError, match=r"'units/spike_times_index': found .*ascending"):
        convert(nwb(tmp_path / "a.nwb", ends), ConvertOptions(bin_ms=100))


def test_an_index_that_parts_the_spikes_is_taken(tmp_path):
    path = nwb(tmp_path / "a.nwb", [10, 30])
    assert convert(path, ConvertOptions(bin_ms=100)).recording.train.n_neurons == 2


@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan, "fast"])
def test_samples_without_a_rate_are_refused(tmp_path, rate):
    path = nwb(tmp_path / "a.nwb", [10, 30], rate=rate)
    with pytest.raises(DataError, match=r"'acquisition/hand': .*rate cannot be read"):
        convert(path, ConvertOptions(bin_ms=100, behavior=("acquisition/hand",)))


def continuous(path, **more):
    """Three neurons, half a second each trial, in bins of 10 ms."""
    counts_TN = np.random.default_rng(0).poisson(0.5, (300, 3))
    start = np.arange(6) * 0.5
    content = {"counts": counts_TN, "bin_ms": 10.0, "start": start, "stop": start + 0.4, **more}
    np.savez(path, **content)
    return path


def test_samples_at_no_time_are_left_out(tmp_path):
    times = np.arange(300) / 100
    behavior = {"hand": np.arange(300.0), "hand_t": np.where(times == 1.0, np.nan, times)}
    path = continuous(tmp_path / "a.npz", **behavior)
    made = convert(path, ConvertOptions(behavior=("hand",), behavior_times="hand_t"))
    dropped = [d for d in made.report.dropped if d.what == "samples"]
    assert [(d.n, d.n_all) for d in dropped] == [(1, 300)]


@pytest.mark.parametrize("start", [1e300, 2e13, -2e13])
def test_an_invalid_time_is_refused_without_a_warning(tmp_path, start):
    starts = np.array([0.0, 0.5, start])
    path = continuous(tmp_path / "a.npz", start=starts, stop=starts + 0.4)
    with pytest.raises(SettingsError, match=r"found a time of .*e.* s"):
        convert(path)


def test_unsigned_microseconds_do_not_wrap(tmp_path):
    starts = np.array([0, 500_000, 2**64 - 500_000], dtype=np.uint64)
    path = continuous(tmp_path / "a.npz", start=starts, stop=starts + np.uint64(400_000))
    with pytest.raises(SettingsError, match=r"found a time of 1.8"):
        convert(path, ConvertOptions(time_unit="us"))


@pytest.mark.parametrize("bin_ms", [0.0, -10.0, "wide"])
def test_a_bin_width_of_zero_or_less_is_refused(tmp_path, bin_ms):
    with pytest.raises(DataError, match=r"'bin_ms': found .*expected (a width|numbers)"):
        convert(continuous(tmp_path / "a.npz", bin_ms=bin_ms))


def test_one_time_that_is_far_off_does_not_make_years_of_bins(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, spike_times=np.array([0.1, 0.2, 9e6]), spike_units=np.array([0, 1, 0]))
    with pytest.raises(DataError, match=r"3 spikes of 2 units in 9e\+06 seconds"):
        convert(path, ConvertOptions(bin_ms=20, chop_ms=1000))


def test_a_fraction_of_a_bin_is_no_length(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, counts=COUNTS_BTN, bin_ms=10.0, lengths=np.full(6, 4.5))
    with pytest.raises(
        DataError, match=r"`lengths='lengths'`: found 4.5; expected whole numbers of bins"
    ):
        convert(path)


def test_what_pads_a_trial_is_not_counted(tmp_path):
    values = COUNTS_BTN.astype(np.float64)
    values[:, 4] = 1e300
    path = tmp_path / "a.npz"
    np.savez(path, counts=values, bin_ms=10.0, lengths=np.full(6, 4))
    assert convert(path).report.n_spikes == COUNTS_BTN[:, :4].sum()


def test_conditions_beyond_64_bits_stay_apart(tmp_path):
    side = np.array([2**64 - 1, 2**64 - 2] * 3, dtype=np.uint64)
    path = continuous(tmp_path / "a.npz", side=side)
    sizes = convert(path, ConvertOptions(condition=("side",))).report.conditions
    assert sizes == {str(2**64 - 2): 3, str(2**64 - 1): 3}


def test_a_table_in_the_file_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trials").write_text("not a table")
    starts = np.arange(3.0)
    path = hdf5(
        "a.h5",
        counts=COUNTS_BTN.reshape(30, 3),
        bin_ms=100.0,
        **{"trials/start": starts, "trials/stop": starts + 0.9},
    )
    assert convert(path).report.taken["trials"] == "trials"


def test_a_column_of_small_arrays_has_their_shape(tmp_path):
    rows = np.zeros(4, dtype=[("v", "f8", (2, 2)), ("t", "f8")])
    for path in (hdf5(tmp_path / "a.h5", table=rows), tmp_path / "a.npz"):
        if path.suffix == ".npz":
            np.savez(path, table=rows)
        shapes = {entry.name: entry.shape for entry in list_contents(path).entries}
        assert shapes == {"table/v": (4, 2, 2), "table/t": (4,)}


def test_lists_in_rows_are_listed(tmp_path):
    rows = np.zeros(2, dtype=[("side", h5py.vlen_dtype(np.float64)), ("n", "i4")])
    for row in range(2):
        rows[row]["side"] = np.arange(2.0)
    entries = list_contents(hdf5(tmp_path / "a.h5", x=rows)).entries
    assert [entry.name for entry in entries] == ["x/side", "x/n"]


def test_a_column_of_lists_names_no_condition(tmp_path):
    rows = np.zeros(6, dtype=[("side", h5py.vlen_dtype(np.float64)), ("n", "i4")])
    for row in range(6):
        rows[row]["side"] = np.arange(2.0)
    with pytest.raises(DataError, match=r"`condition='x/side'`: found values of type object"):
        convert(
            hdf5(tmp_path / "a.h5", counts=COUNTS_BTN, bin_ms=10.0, x=rows),
            ConvertOptions(condition=("x/side",)),
        )
