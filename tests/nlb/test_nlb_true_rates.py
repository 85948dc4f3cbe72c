"""True rates are cut from the bins that the spikes were counted in.

The spikes of a recording, taken for its rates, must then come out as the counts.
"""

import numpy as np
import pytest

pytest.importorskip("nlb_tools", reason="nlb_tools is not installed")

from nlb_nwb import write_maze, write_rsg

from ndt_cli.errors import DataError
from ndt_cli.nlb.tensors import make_tensors
from ndt_cli.nlb.true_rates import true_rates


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    written = write_maze(tmp_path_factory.mktemp("maze"))
    written.write_truth(written.spikes_hz())
    return written


@pytest.fixture(scope="module")
def late_maze(tmp_path_factory):
    written = write_maze(tmp_path_factory.mktemp("late"), late_ms=7)
    written.write_truth(written.spikes_hz())
    return written


@pytest.fixture(scope="module")
def rsg(tmp_path_factory):
    written = write_rsg(tmp_path_factory.mktemp("rsg"))
    written.write_truth(written.spikes_hz())
    return written


@pytest.fixture
def own_maze(tmp_path):
    return write_maze(tmp_path, n_train=3, n_val=2, n_test=1)


def made(written, bin_ms=20, phase="val"):
    return make_tensors(written.dataset, bin_ms, phase, written.root, cache=False)


def cut(written, bin_ms=20, phase="val"):
    return true_rates(made(written, bin_ms, phase), written.root).arrays()


@pytest.mark.parametrize("bin_ms", [5, 20])
@pytest.mark.parametrize("name", ["maze", "late_maze", "rsg"])
def test_rates_are_cut_as_the_spikes_are(name, bin_ms, request):
    # late_maze: windows begin off the grid of bins; rsg: they are moved by a jitter.
    written = request.getfixturevalue(name)
    tensors = made(written, bin_ms)
    rates = true_rates(tensors, written.root).arrays()
    counts = tensors.train | tensors.target | tensors.eval
    for key, array in rates.items():
        spikes = counts[key.replace("_rates_", "_spikes_")].astype(float)
        assert spikes.any()
        np.testing.assert_allclose(array, spikes, atol=1e-9, err_msg=key)


def test_test_trials_are_found_by_the_times_that_the_truth_tells(maze):
    # Those of the test file are of windows that follow one another.
    rates = cut(maze, phase="test")
    for key, split, window_ms in (
        ("train_rates_held{}", ["train", "val"], (-250, 450)),
        ("eval_rates_held{}", "test", (-250, 450)),
        ("eval_rates_held{}_forward", "test", (450, 650)),
    ):
        for neurons, heldout in (("in", False), ("out", True)):
            counts = maze.counts(split, *window_ms, 20, heldout)
            np.testing.assert_allclose(rates[key.format(neurons)], counts, atol=1e-9)


def test_units_may_come_in_any_order_with_their_ids(own_maze):
    rates_hz = own_maze.spikes_hz()
    own_maze.write_truth(rates_hz)
    sorted_by_id = cut(own_maze)
    order = np.array([4, 0, 5, 2, 1, 3])
    own_maze.write_truth(
        rates_hz[:, order], heldout=own_maze.is_heldout[order], unit_ids=10 * order + 1
    )
    for key, array in cut(own_maze).items():
        np.testing.assert_array_equal(array, sorted_by_id[key])


def test_a_truth_beside_the_train_file_is_found_too(own_maze):
    path = own_maze.write_truth(own_maze.spikes_hz())
    path.rename(own_maze.train.with_name("truth.npz"))
    assert cut(own_maze)["train_rates_heldin"].any()


def test_without_true_rates_there_are_none_and_nothing_is_said(own_maze, capfd):
    assert true_rates(made(own_maze), own_maze.root) is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates_hz": None}, r"`rates`: found no such key"),
        ({"rates_hz": np.ones((100, 5))}, r"`rates`: .*\(100, 5\).*expected numbers.* x 6 units"),
        (
            {"rates_hz": np.ones((100, 6))},
            r"`rates`: found 100 ms; expected all of trial",
        ),
        ({"heldout": np.ones(6, bool)}, r"`heldout`: found 6 held-out units; expected 2"),
        ({"heldout": np.ones(5, bool)}, r"`heldout`: .*expected true or false for each of 6"),
        ({"unit_ids": np.arange(5)}, r"`unit_ids`: found shape \(5,\); expected 6 ids"),
    ],
)
def test_a_truth_that_does_not_fit_is_refused(own_maze, change, message):
    path = own_maze.write_truth(**{"rates_hz": own_maze.spikes_hz()} | change)
    with pytest.raises(DataError, match=message) as caught:
        cut(own_maze)
    assert str(path) in caught.value.message
    assert "move it away" in caught.value.hint


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_a_rate_that_is_none_is_refused_with_its_place(own_maze, value):
    rates_hz = own_maze.spikes_hz()
    at_ms = int(own_maze.align_ms[own_maze.splits == "train"][0])
    rates_hz[at_ms, 3] = value
    own_maze.write_truth(rates_hz)
    with pytest.raises(DataError, match=f"found {value:g} at {at_ms} ms, unit 3; expected finite"):
        cut(own_maze)


@pytest.mark.parametrize("damage", ["cut short", "not npz"])
def test_a_damaged_truth_is_named(own_maze, damage):
    path = own_maze.write_truth(own_maze.spikes_hz())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"404 not found")
    with pytest.raises(DataError, match=r"damaged|neither HDF5 nor .npz") as caught:
        cut(own_maze)
    assert str(path) in caught.value.message
    assert "move it away" in caught.value.hint


def test_the_test_phase_needs_to_know_when_its_trials_were(own_maze):
    own_maze.write_truth(own_maze.spikes_hz(), split=None, align_ms=None)
    assert cut(own_maze)["eval_rates_heldin"].any()
    with pytest.raises(DataError, match="`split`: found no such key"):
        cut(own_maze, phase="test")
    own_maze.write_truth(own_maze.spikes_hz(), split=np.full(6, "train"))
    with pytest.raises(DataError, match="`split`: found 0 trials `test`; expected 1"):
        cut(own_maze, phase="test")
    own_maze.write_truth(own_maze.spikes_hz(), align_ms=np.full(6, np.nan))
    with pytest.raises(DataError, match="`align_ms`: found a test trial without a time"):
        cut(own_maze, phase="test")
