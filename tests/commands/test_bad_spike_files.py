"""Spike files that are wrong: check-data and train say so, name file and key, and end."""

import pickle

import h5py
import numpy as np
import pytest
from bad_inputs import (
    Case,
    announced,
    check,
    counts,
    cut,
    folder,
    h5,
    lfads,
    limit_memory,
    links,
    nlb,
    nothing,
    npy_header,
    npz,
    npz_members,
    raw,
    unreadable,
)

pytestmark = pytest.mark.timeout(60)

A = "a.npz"
H = "a.h5"


def _np_save(here):
    np.save(here / "b.npy", counts())
    (here / "b.npy").rename(here / A)


def _headless(here):
    h5(spikes=counts(), bin_ms=10.0)(here)
    content = bytearray((here / H).read_bytes())
    content[:64] = bytes(64)
    (here / H).write_bytes(content)


def _named(name):
    def make(here):
        np.savez(here / "b.npz", spikes=counts(-1), bin_ms=10.0)
        (here / "b.npz").rename(here / name)

    return make


# What is bad, the file, what must be said, who makes it.
FILES = [
    ("no such file", A, r"a\.npz: there is no such file", nothing),
    ("a name that is nearly right", "b.npz", r"Did you mean .*a\.npz", npz()),
    ("a folder", A, r"a\.npz: found a folder", folder(A)),
    ("an empty file", A, r"a\.npz: the file is empty", raw(A, b"")),
    ("a text file", A, r"a\.npz: found neither HDF5 nor \.npz", raw(A, b"0 1 0 2\n" * 99)),
    ("a pickle named .npz", A, "found neither", raw(A, pickle.dumps([counts()]))),
    ("a pickle named .h5", H, r"a\.h5: found neither", raw(H, pickle.dumps([counts()]))),
    ("safetensors named .h5", H, "found neither", raw(H, b"\x10" + bytes(7) + b'{"a":1}' * 9)),
    ("one .npy array named .npz", A, r"a\.npz: found one array", _np_save),
    ("an .npz cut short", A, r"a\.npz: .*damaged", cut(npz(), A)),
    ("an HDF5 file cut short", H, r"a\.h5: .*damaged", cut(h5(spikes=counts()), H)),
    ("an HDF5 file without its head", H, r"a\.h5: found neither", _headless),
    ("a file nobody may read", A, "Permission denied", unreadable(npz(), A)),
    ("a Git LFS pointer", H, "Git LFS pointer", raw(H, b"version https://git-lfs.github.com/\n")),
    ("MATLAB before 7.3", H, "MATLAB file before", raw(H, b"MATLAB 5.0 MAT-file" + bytes(200))),
    ("a zip of other files", A, r"found no arrays", npz_members(spikes=b"<xml/>")),
    ("Python objects", A, "`spikes`.* Python objects", npz(spikes=np.array([[1, 2], [3]], object))),
    (
        "an .npz header of 10^12 trials",
        A,
        "`spikes`.*declares",
        npz_members(
            spikes=npy_header("{'descr':'|u1','fortran_order':False,'shape':(1000000000000,6,3)}")
        ),
    ),
    (
        "an .npz header that is code",
        A,
        "`spikes`.*damaged|damaged.*`spikes`",
        npz_members(spikes=npy_header("{'descr': __import__('os').system('touch owned')}")),
    ),
    (
        "an .npz header of negative size",
        A,
        "`spikes`",
        npz_members(spikes=npy_header("{'descr':'|u1','fortran_order':False,'shape':(-1,6,3)}")),
    ),
    ("an .npy version of the future", A, "`spikes`", npz_members(spikes=npy_header("{}", (9, 0)))),
    (
        "10^9 bins announced in HDF5",
        H,
        r"`spikes`.* memory",
        h5(spikes=announced((200, 10**9, 20)), bin_ms=10.0),
    ),
    (
        "10^9 neurons announced in HDF5",
        H,
        r"`spikes`.* memory",
        h5(spikes=announced((2000, 10, 10**9)), bin_ms=10.0),
    ),
    (
        "10^15 trials announced in HDF5",
        H,
        r"`spikes`.* memory",
        h5(spikes=announced((10**15, 6, 3)), bin_ms=10.0),
    ),
    (
        "HDF5 in pieces of 3 GB",
        H,
        "`spikes`.* memory",
        h5(spikes=announced((2, 10**9, 3), "u1", (1, 10**9, 3)), bin_ms=10.0),
    ),
    ("counts of one trial x bins", A, "`spikes`.*found 2 axes.*None", npz(spikes=np.ones((6, 3)))),
    ("counts with four axes", A, "found 4 axes", npz(spikes=np.ones((2, 6, 3, 1)))),
    ("counts that are one number", A, "found 0 axes", npz(spikes=3)),
    ("no trials", A, r"empty array, \(0, 6, 3\)", npz(spikes=np.ones((0, 6, 3)))),
    ("no bins", A, "empty array", npz(spikes=np.ones((10, 0, 3)))),
    ("no neurons", A, "empty array", npz(spikes=np.ones((10, 6, 0)))),
    ("one trial", A, "found 1 trial; training needs at least 2", npz(spikes=counts()[:1])),
    ("NaN counts", A, "found nan at trial 7, bin 2, neuron 1", npz(spikes=counts(np.nan))),
    ("infinite counts", A, "found inf at trial 7", npz(spikes=counts(np.inf))),
    ("negative counts", A, "found -1 .*negative", npz(spikes=counts(-1))),
    ("fractions of spikes", A, "found 0.5 .*fraction.*`rates`", npz(spikes=counts(0.5))),
    ("counts of 65536", A, "found 65536 .*too large", npz(spikes=counts(65536, np.int64))),
    ("counts of 10^300", A, r"found 1e\+300 .*too large", npz(spikes=counts(1e300))),
    ("counts of 2^64-1", A, r"found 1.84467e\+19", npz(spikes=counts(2**64 - 1, np.uint64))),
    ("counts as text", A, "`spikes`: found values of type <U1", npz(spikes=np.array([[["1"]]]))),
    ("complex counts", A, "type complex128", npz(spikes=counts(dtype=complex))),
    ("counts as times of day", A, "type datetime64", npz(spikes=np.zeros((2, 2, 2), "M8[s]"))),
    ("counts as records", A, r"type \[\('a'", npz(spikes=np.zeros((2, 2, 2), [("a", "i4")]))),
    ("no spike at all", A, "found no spike in 8 training trials", npz(spikes=np.zeros((10, 6, 3)))),
    (
        "no key `spikes`",
        A,
        "`spike` looks like `spikes`: rename it",
        npz(spikes=None, spike=counts()),
    ),
    ("nothing that looks like counts", A, "found `bin_ms`, `x`", npz(spikes=None, x=counts())),
    ("no bin width", A, "`bin_ms`: found no bin width.*data.file_bin_ms", npz(bin_ms=None)),
    ("a bin width of 0", A, "`bin_ms`: found 0", npz(bin_ms=0.0)),
    ("a bin width of -10", A, "`bin_ms`: found -10", npz(bin_ms=-10)),
    ("a bin width that is NaN", A, "`bin_ms`: found nan", npz(bin_ms=np.nan)),
    ("a bin width in words", A, "`bin_ms`: .*type <U5", npz(bin_ms="20 ms")),
    ("three bin widths", A, r"`bin_ms`: found shape \(3,\)", npz(bin_ms=np.ones(3))),
    ("bins of a picosecond", A, "`bin_ms`: found 1e-09.*milliseconds", npz(bin_ms=1e-9)),
    ("bins of 32 years", A, r"`bin_ms`: found 1e\+12.*milliseconds", npz(bin_ms=1e12)),
    ("bins of 10^-320 ms", A, "`bin_ms`: found", npz(bin_ms=1e-320)),
    ("lengths beyond the bins", A, "`lengths`: found 7 at trial 0", npz(lengths=np.full(10, 7))),
    ("lengths of 0", A, "`lengths`: found 0 at trial 0", npz(lengths=np.zeros(10))),
    ("lengths that are NaN", A, "`lengths`: found nan", npz(lengths=np.full(10, np.nan))),
    ("lengths of 10^300", A, r"`lengths`: found 1e\+300", npz(lengths=np.full(10, 1e300))),
    ("lengths of 3 of 10 trials", A, r"`lengths`: found shape \(3,\)", npz(lengths=np.ones(3))),
    ("lengths in words", A, "`lengths`: found values of type", npz(lengths=np.array(["6"] * 10))),
    ("an empty validation split", A, "`split`: found `train`", npz(split=np.array(["train"] * 10))),
    ("a split of other words", A, "`test`", npz(split=np.array(["train", "test"] * 5))),
    ("a split of numbers", A, "`split`: found `0`, `1`", npz(split=np.arange(10) % 2)),
    ("a split that is no text", A, "`split`", npz(split=np.array([b"\xff\xfe", b"train"] * 5))),
    ("conditions of other trials", A, "`conditions`: .*10 values", npz(conditions=np.arange(6))),
    ("rates of other neurons", A, "`rates`: found shape", npz(rates=np.ones((10, 6, 2)))),
    ("negative rates", A, "`rates`: found -1.*log-rates", npz(rates=-counts())),
    ("rates that are NaN", A, "`rates`: found nan", npz(rates=counts(np.nan))),
    ("rates of 10^300", A, r"`rates`: found a rate of 1e\+300", npz(rates=counts(1e300))),
    ("rates in words", A, "`rates`: found values of type", npz(rates=np.full((10, 6, 3), "1"))),
    ("latents of other bins", A, "`latents`: found shape", npz(latents=np.ones((10, 5, 2)))),
    ("infinite latents", A, "`latents`: found inf", npz(latents=counts(np.inf))),
    ("infinite behavior", A, "`behavior`: found -inf", npz(behavior=counts(-np.inf))),
    ("behavior of 10^300", A, r"`behavior`: found 1e\+300", npz(behavior=counts(1e300))),
    ("behavior of one trial", A, "`behavior`: found shape", npz(behavior=np.ones((1, 6, 2)))),
    (
        "names for two of three variables",
        A,
        "`behavior_names`: found 2 values",
        npz(behavior=counts(), behavior_names=np.array(["x", "y"])),
    ),
    ("two neurons of one name", A, "`neuron_names`", npz(neuron_names=np.array(["a", "a", "b"]))),
    ("all neurons held out", A, r"`n_heldout`: found \[3\]", npz(n_heldout=3)),
    ("half a neuron held out", A, r"`n_heldout`: found \[0.5\]", npz(n_heldout=0.5)),
    ("-1 forward bins", A, r"`n_forward`: found \[-1\]", npz(n_forward=-1)),
    ("only forward bins", A, r"`n_forward`: found \[6\]", npz(n_forward=6)),
    ("start bins that are fractions", A, "`start_bins`", npz(start_bins=np.full(10, 0.5))),
    ("LFADS without validation", H, "`valid_data`: found no such key", lfads(valid_data=None)),
    (
        "LFADS of other neurons",
        H,
        "`valid_data`: found 6 bins x 4 neurons",
        lfads(valid_data=counts(shape=(8, 6, 4))),
    ),
    (
        "LFADS with swapped axes",
        H,
        "look swapped",
        lfads(valid_data=counts(shape=(8, 3, 6)).astype(float)),
    ),
    ("LFADS without a bin width", H, "`dt`: found no bin width", lfads(dt=None)),
    ("LFADS with dt in ms", H, "`dt`: found 1200; .*in seconds", lfads(dt=1200)),
    (
        "LFADS rates of no scale",
        H,
        "`conversion_factor`: found no such key.*data.conversion_factor",
        lfads(train_truth=17 * counts(), valid_truth=17 * counts(shape=(4, 6, 3))),
    ),
    (
        "a conversion factor of 0",
        H,
        "`conversion_factor`: found 0",
        lfads(train_truth=counts(), valid_truth=counts(shape=(4, 6, 3)), conversion_factor=0.0),
    ),
    (
        "a conversion factor of 10^-300",
        H,
        r"a rate of 1e\+300 spikes per bin.*conversion_factor",
        lfads(train_truth=counts(), valid_truth=counts(shape=(4, 6, 3)), conversion_factor=1e-300),
    ),
    ("NLB without a bin width", H, "`bin_ms`: found no bin width", nlb(bin_ms=None)),
    ("NLB without evaluation", H, "`eval_spikes_heldin`", nlb(eval_spikes_heldin=None)),
    (
        "NLB held-out neurons of other trials",
        H,
        "`train_spikes_heldout`: found 9 trials",
        nlb(train_spikes_heldout=counts(shape=(9, 6, 2))),
    ),
    (
        "a link that leads nowhere",
        H,
        "found .*group `spikes/`",
        links(spikes=h5py.SoftLink("/nowhere")),
    ),
    (
        "a link to a file that is gone",
        H,
        "`spikes`.*another file, gone.h5, which is not read",
        links(spikes=h5py.ExternalLink("gone.h5", "/spikes")),
    ),
    ("a link to itself", H, "group `spikes/`", links(spikes=h5py.SoftLink("/spikes"))),
    ("counts without a value", H, "found .*`bin_ms`", links(spikes=h5py.Empty("u1"))),
    ("a name in brackets", "[red]a.npz", r"\[red\]a\.npz", _named("[red]a.npz")),
    ("a name that closes markup", "[_]a.npz", r"\[_\]a\.npz", _named("[_]a.npz")),
    ("a name with a line break", "a\nb.npz", r"a b\.npz.*negative", _named("a\nb.npz")),
    ("a name with an emoji's word", ":smile:.npz", ":smile:.npz.*negative", _named(":smile:.npz")),
    ("a name of 300 letters", "a" * 300, "File name too long|no such file", nothing),
    ("a device", "/dev/zero", "/dev/zero: found a device or pipe", nothing),
]


@pytest.fixture(autouse=True)
def _limited():
    undo = limit_memory()
    yield
    undo()


CASES = [
    Case(what, command, said, 1, make)
    for what, file, said, make in FILES
    for command in (
        ("check-data", file),
        ("train", "--data", file, "--set", "train.max_epochs=1", "--set", "train.warmup_epochs=0"),
    )
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.words[0]}: {case.what}")
def test_an_invalid_spike_file_is_an_error_message(case, tmp_path, monkeypatch, capsys):
    check(case, tmp_path, monkeypatch, capsys)
    # Nothing was made of it, and no code in it has run.
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "owned").exists()
