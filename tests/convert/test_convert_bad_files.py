"""Damaged, foreign and dangerous files, and names that are not there."""

import numpy as np
import pytest
from convert_files import (
    CHOSEN,
    WRITERS,
    session,
    write_mat5,
    write_npz,
    write_nwb,
)

from ndt_cli.convert import ConvertOptions, convert, list_contents
from ndt_cli.errors import DataError, SettingsError


def test_python_objects_are_never_loaded(tmp_path):
    path = tmp_path / "a.npz"
    times = np.array([np.arange(3.0), np.arange(2.0)], dtype=object)
    np.savez(path, spike_times=times, start=np.arange(3.0))
    entry = next(e for e in list_contents(path).entries if e.name == "spike_times")
    assert entry.kind == "Python objects, not read"
    with pytest.raises(DataError, match="Python objects, which could run code"):
        convert(path, ConvertOptions(bin_ms=10, spike_times="spike_times", spike_units="start"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_cut_short_is_a_clear_error(tmp_path, name):
    path = WRITERS[name][0](tmp_path / name, session())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if name != "rat.csv" else whole[:-3] + b",1,2\n")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        convert(path, ConvertOptions(bin_ms=20, trials=None))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.npz", b"", "empty"),
        ("a.dat", b"\x00\x01\x02", "neither .npz, MATLAB, HDF5, NWB, CSV nor parquet"),
        ("a.csv", b"1,2\n3,4\n", "expected the names of the columns"),
        ("a.csv", b"unit,unit\n3,4\n", "two columns with the name 'unit'"),
        ("a.csv", b"unit,time\n3,4,5\n", "found 3 values in row 2; expected 2"),
        ("a.csv", b"unit,time\n", "found 1 rows"),
        ("a.csv", b"unit,time\n\xff\xfe,1\n", "not UTF-8 text"),
        ("a.mat", b"not a mat file", "cannot be read as a MATLAB file"),
        ("a.npz", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_foreign_content(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list_contents(tmp_path / name)
    assert said in caught.value.message


def test_a_missing_file_has_the_nearest(tmp_path):
    write_npz(tmp_path / "rat.npz", session())
    for name in ("rta.npz", "rat.csv", "rat.mat", "rat.nwb"):
        with pytest.raises(DataError, match="there is no such file") as caught:
            convert(tmp_path / name, ConvertOptions(bin_ms=20))
        assert "rat.npz" in caught.value.hint


def test_a_wrong_name_has_the_nearest(tmp_path):
    path = write_nwb(tmp_path / "rat.nwb", session())
    for options, option, like in (
        ({"spike_times": "units/spike_tims"}, "`spike_times=", "units/spike_times"),
        ({"align": "goo", "window_ms": (0, 100)}, "`align=", "go"),
        ({"where": ("succes == 1",)}, "`where=", "success"),
        ({"condition": ("sides",)}, "`condition=", "side"),
        ({"units_where": ("qality == good",)}, "`units_where=", "quality"),
        ({"trials": "intervals/trial"}, "`trials=", "intervals/trials"),
        ({"behavior": ("hnad",)}, "`behavior=", "processing/behavior/hand"),
    ):
        with pytest.raises(SettingsError, match=option) as caught:
            convert(path, ConvertOptions(bin_ms=20, **options))
        assert f"Did you mean {like}?" in caught.value.hint


def test_the_hint_lists_the_contents_of_the_file(tmp_path):
    path = write_npz(tmp_path / "my session.npz", session())
    with pytest.raises(SettingsError) as caught:
        convert(path, ConvertOptions(counts="qqqqqqq"))
    assert f"`list_contents('{path}')`" in caught.value.hint


def test_matlab_dots_are_paths(tmp_path):
    path = write_mat5(tmp_path / "a.mat", session())
    options = ConvertOptions(spike_times="units.spike_times", trials="trials", **CHOSEN)
    assert convert(path, options).recording.train.n_neurons == 3


def test_only_line_breaks_end_a_row_of_a_text_table(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("unit,note,time\r\n1,a\u2028b\x0bc,0.5\r2,d\x85e,0.7\n", encoding="utf-8")
    (entry,) = [e for e in list_contents(path).entries if e.name == "time"]
    assert entry.shape == (2,)


def test_text_beyond_unicode_is_damage(tmp_path):
    for code in (0xD800, 0x110000):
        words = np.array(["ab", "c"])
        words.view(np.uint32)[0] = code
        np.savez(tmp_path / "a.npz", unit=words, time=np.arange(2.0))
        (entry,) = [e for e in list_contents(tmp_path / "a.npz").entries if e.name == "unit"]
        assert "beyond Unicode" in entry.values
