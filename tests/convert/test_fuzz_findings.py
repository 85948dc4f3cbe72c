"""What fuzzing the readers has found: each input is refused in words, or read rightly."""

import os
import struct
import zipfile

import h5py
import numpy as np
import pytest

from ndt_cli.convert import ConvertOptions, convert, list_contents
from ndt_cli.data.files import Elsewhere, check_announced, own_item
from ndt_cli.data.loading import load_file
from ndt_cli.data.spike_data import split_trials
from ndt_cli.errors import DataError
from ndt_cli.nlb.check import Expected, check_group, check_submission, submission_shapes
from ndt_cli.nlb.submission import read_groups
from ndt_cli.settings.tree import DataSettings

COUNTS_BTN = np.random.default_rng(0).poisson(1.0, (6, 5, 3)).astype(np.uint8)
SECRET_BTN = np.full((6, 5, 3), 7, np.uint8)


def hdf5(path, **content):
    """Write an HDF5 file; values are arrays, links, or callables that are given file and key."""
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if callable(value):
                value(file, key)
            else:
                file[key] = value
    return path


def unwritten(shape, **storage):
    """A dataset that announces a shape and holds nothing."""

    def write(file, key):
        file.create_dataset(key, shape=shape, **{"dtype": "u1", **storage})

    return write


def linked(file, key):
    file[key] = h5py.ExternalLink("secret.h5", "/spikes")


def linked_through_a_group(file, key):
    file["far"] = h5py.ExternalLink("secret.h5", "/")
    file[key] = h5py.SoftLink("/far/spikes")


def stored_outside(file, key):
    parts = [("secret.bin", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(key, shape=SECRET_BTN.shape, dtype="u1", external=parts)


def virtual(file, key):
    layout = h5py.VirtualLayout(SECRET_BTN.shape, "u1")
    layout[:] = h5py.VirtualSource("secret.h5", "spikes", SECRET_BTN.shape)
    file.create_virtual_dataset(key, layout)


ELSEWHERE = [linked, linked_through_a_group, stored_outside, virtual]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with somebody's files in it."""
    monkeypatch.chdir(tmp_path)
    hdf5("secret.h5", spikes=SECRET_BTN, bin_ms=20.0)
    (tmp_path / "secret.bin").write_bytes(SECRET_BTN.tobytes())
    return tmp_path


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_file_does_not_choose_which_other_files_are_read(folder, elsewhere):
    path = hdf5(folder / "a.h5", bin_ms=20.0, spikes=elsewhere)
    chosen = ConvertOptions(counts="spikes")
    for use in (lambda: load_file(path, DataSettings()), lambda: convert(path, chosen)):
        with pytest.raises(
            DataError, match=r"[`']spikes[`']: found .*another file, secret\..*not read"
        ):
            use()
    shown = {entry.name: entry.kind for entry in list_contents(path).entries}
    assert shown["spikes"].startswith("in another file, secret")
    assert not any(name.startswith("far/") for name in shown)


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_a_submission_does_not_either(folder, elsewhere):
    path = hdf5(folder / "a.h5", **{"mc_rtt/eval_rates_heldout": elsewhere})
    said = [str(finding) for finding in check_submission(path)]
    assert any("another file, secret" in text for text in said)
    assert submission_shapes(path) == {"mc_rtt": {}}
    assert read_groups(path) == {"mc_rtt": {}}


def test_a_group_of_another_file_is_an_error(folder):
    path = hdf5(folder / "a.h5", mc_rtt=h5py.ExternalLink("secret.h5", "/"))
    (finding,) = check_submission(path)
    assert finding.severity == "error"
    assert "another file, secret.h5" in finding.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_the_target_of_a_link_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")  # opening it waits for ever
    path = hdf5(tmp_path / "a.h5", far=h5py.ExternalLink("pipe.h5", "/"), bin_ms=20.0)
    assert [entry.name for entry in list_contents(path).entries] == ["bin_ms", "far"]
    assert submission_shapes(path) == {}


def test_links_and_parts_within_a_file_are_read(tmp_path):
    def mosaic(file, key):
        layout = h5py.VirtualLayout(COUNTS_BTN.shape, "u1")
        layout[:] = h5py.VirtualSource(file["counts"])
        file.create_virtual_dataset(key, layout)

    linked_path = hdf5(
        tmp_path / "a.h5", counts=COUNTS_BTN, spikes=h5py.SoftLink("counts"), bin_ms=20.0
    )
    virtual_path = hdf5(tmp_path / "b.h5", counts=COUNTS_BTN, spikes=mosaic, bin_ms=20.0)
    for path in (linked_path, virtual_path):
        recording = load_file(path, DataSettings())
        n_spikes = recording.train.spikes_BTN.sum() + recording.valid.spikes_BTN.sum()
        assert n_spikes == COUNTS_BTN.sum()


def test_links_in_a_circle_lead_nowhere(tmp_path):
    path = hdf5(tmp_path / "a.h5", a=h5py.SoftLink("/b"), b=h5py.SoftLink("/a"), x=1.0)
    with h5py.File(path) as file:
        assert own_item(file, "a") is None
        assert own_item(file, "none") is None
        assert not isinstance(own_item(file, "x"), Elsewhere | None)
    assert [entry.name for entry in list_contents(path).entries] == ["x"]
    assert check_submission(path)[0].severity == "warning"


@pytest.mark.parametrize(
    "content",
    [
        unwritten((2**20, 1000, 1)),
        unwritten((1_000_000, 1, 1), chunks=(1, 1, 1)),
        unwritten((1, 1, 2_000_000), dtype=h5py.string_dtype()),
        unwritten((1, 1, 1), chunks=(2**10, 2**10, 2**8), maxshape=(None, None, None)),
    ],
    ids=["a gigabyte", "a million pieces", "texts", "one piece"],
)
def test_a_few_kilobytes_do_not_announce_what_takes_memory_or_minutes(tmp_path, content):
    path = hdf5(tmp_path / "a.h5", x=content, **{"mc_rtt/eval_rates_heldout": content})
    with h5py.File(path) as file, pytest.raises(DataError, match=r"declares .* GB"):
        check_announced(path, file["x"])
    with pytest.raises(DataError):
        convert(path, ConvertOptions(counts="x", counts_bin_ms=10))
    with pytest.raises(DataError):
        read_groups(path)
    assert any(finding.key == "eval_rates_heldout" for finding in check_submission(path))


def test_large_arrays_that_pack_well_are_read(tmp_path):
    zeros = np.zeros((100, 1000, 100), np.float64)  # 80 MB
    path = hdf5(
        tmp_path / "a.h5",
        x=lambda file, key: file.create_dataset(key, data=zeros, compression="gzip"),
    )
    assert path.stat().st_size < 1_000_000
    with h5py.File(path) as file:
        check_announced(path, file["x"])


def test_many_conditions_are_split_at_once():
    # One pass over all trials for each condition took minutes.
    conditions_B = np.repeat(np.arange(40_000), 2)
    train, valid = split_trials(80_000, valid_fraction=0.25, seed=0, conditions_B=conditions_B)
    assert len(valid) == 20_000
    assert np.bincount(conditions_B[train]).min() == 1


def test_forward_counts_of_held_out_neurons_need_their_window(tmp_path):
    keys = {}
    for half in ("train", "eval"):
        for part, n_neurons in (("heldin", 3), ("heldin_forward", 3), ("heldout_forward", 2)):
            keys[f"{half}_spikes_{part}"] = COUNTS_BTN[:, :, :n_neurons]
    path = hdf5(tmp_path / "a.h5", bin_ms=5.0, **keys)
    with pytest.raises(DataError, match=r"`train_spikes_heldout`: found no such key"):
        load_file(path, DataSettings())


@pytest.mark.parametrize(
    "shape", ["(True, 5, 3)", "(6.0, 5, 3)", f"({10**20}, 0, 3)", "(-6, 5, 3)"]
)
def test_an_invalid_shape_is_refused(tmp_path, shape):
    path = tmp_path / "a.npz"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("spikes.npy", magic + header + bytes(90))
    with pytest.raises(DataError, match=r"`spikes` cannot be read"):
        load_file(path, DataSettings(file_bin_ms=20.0))


def test_every_kind_of_nan_is_refused_without_a_warning(tmp_path):
    counts_BTN = COUNTS_BTN.astype(np.float64)
    counts_BTN.view(np.uint64)[0, 0, 0] = 0x7FF0000000000001  # a signalling one
    path = tmp_path / "a.npz"
    np.savez(path, spikes=counts_BTN, bin_ms=20.0)
    with pytest.raises(DataError, match=r"which is not finite"):
        load_file(path, DataSettings())


def test_counts_in_half_precision_are_counts(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, spikes=COUNTS_BTN.astype(np.float16), bin_ms=20.0)
    recording = load_file(path, DataSettings())
    n_spikes = recording.train.spikes_BTN.sum() + recording.valid.spikes_BTN.sum()
    assert n_spikes == COUNTS_BTN.sum()
    assert convert(path).report.n_spikes == n_spikes


@pytest.mark.parametrize("spikes", [np.ones((3, 4)), np.full((2, 3, 4), "x"), np.float64(1)])
def test_targets_that_are_no_counts_are_refused(spikes):
    with pytest.raises(DataError, match=r"`eval_spikes_heldout`: found shape"):
        Expected.of({"eval_spikes_heldout": np.asarray(spikes)})


def test_targets_without_a_known_count_leave_the_scale_open():
    arrays = {"eval_rates_heldout": np.full((4, 35, 2), 0.1)}
    unknown = Expected.of({"eval_spikes_heldout": np.full((4, 35, 2), np.nan)})
    findings = check_group("mc_maze_small_20", arrays, unknown)
    assert not [f for f in findings if "times the mean spike count" in f.message]


def test_rates_near_the_largest_number_are_checked_without_a_warning():
    rates_BTN = np.full((4, 35, 2), 1e308)
    rates_BTN[0, 0, 0] = -1.0
    findings = check_group("mc_maze_small_20", {"eval_rates_heldout": rates_BTN})
    assert any("below 0, the lowest -1" in finding.message for finding in findings)
