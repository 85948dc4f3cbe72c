import h5py
import numpy as np
import pytest
from nlb_arrays import GROUP, N_FORWARD, N_HELDIN, N_HELDOUT, make_example

from ndt_cli.errors import DataError, ExistingFileError
from ndt_cli.nlb.catalog import AXES, GROUPS
from ndt_cli.nlb.submission import (
    SubmissionRates,
    read_groups,
    split_rates,
    write_submission,
)


@pytest.fixture
def rates():
    return make_example().rates


def test_a_submission_comes_back_as_it_was_written(tmp_path, rates):
    path = tmp_path / "submission.h5"
    write_submission(path, {GROUP: rates, "mc_maze_20": rates})
    back = read_groups(path)
    assert set(back) == {GROUP, "mc_maze_20"}
    for key, array in rates.items():
        stored = back[GROUP][key]
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, array, rtol=1e-6)


def test_the_file_has_the_keys_of_the_benchmark_and_nothing_else(tmp_path, rates):
    path = tmp_path / "submission.h5"
    write_submission(path, {GROUP: rates})
    with h5py.File(path) as file:
        assert list(file) == [GROUP]
        assert set(file[GROUP]) == set(AXES)


def test_the_parts_of_all_rates_lie_where_the_benchmark_wants_them():
    # Each entry says which neuron and bin it is.
    bins, neurons = np.meshgrid(np.arange(6), np.arange(5), indexing="ij")
    codes = (10 * bins + neurons)[None].repeat(3, axis=0).astype(float)
    parts = split_rates(codes[:2], codes, n_heldout=2, n_forward=1)
    assert parts["train_rates_heldin"].shape == (2, 5, 3)
    np.testing.assert_array_equal(parts["eval_rates_heldout"][0, :, 0], [3, 13, 23, 33, 43])
    np.testing.assert_array_equal(parts["eval_rates_heldin_forward"][2], [[50, 51, 52]])
    np.testing.assert_array_equal(parts["eval_rates_heldout_forward"][2], [[53, 54]])


def test_train_rates_need_no_forward_bins():
    train, evaluated = np.ones((2, 5, 4)), np.ones((3, 6, 4))
    assert split_rates(train, evaluated, 1, 1)["train_rates_heldin"].shape == (2, 5, 3)
    with pytest.raises(ValueError, match="cannot be split"):
        split_rates(np.ones((2, 4, 4)), evaluated, 1, 1)


@pytest.mark.parametrize(("n_heldout", "n_forward"), [(0, 1), (4, 1), (1, 0), (1, 6)])
def test_every_part_has_something_in_it(n_heldout, n_forward):
    with pytest.raises(ValueError, match="cannot be split"):
        split_rates(np.ones((2, 6, 4)), np.ones((2, 6, 4)), n_heldout, n_forward)


def test_a_file_is_overwritten_only_when_asked(tmp_path, rates):
    path = tmp_path / "submission.h5"
    path.write_text("mine")
    with pytest.raises(ExistingFileError):
        write_submission(path, {GROUP: rates})
    assert path.read_text() == "mine"
    write_submission(path, {GROUP: rates}, overwrite=True)
    assert list(read_groups(path)) == [GROUP]


def _changed(rates: SubmissionRates, key: str, value: float) -> SubmissionRates:
    array = rates[key].copy()
    array[1, 2, 3] = value
    return {**rates, key: array}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.nan, "1 NaN of"),
        (np.inf, "1 infinite of"),
        (-0.1, "1 of 1120 values below 0"),
    ],
)
def test_rates_that_cannot_be_scored_are_not_written(tmp_path, rates, value, what):
    path = tmp_path / "submission.h5"
    bad = _changed(rates, "eval_rates_heldout", value)
    with pytest.raises(DataError, match=what) as caught:
        write_submission(path, {GROUP: bad})
    assert f"{GROUP}/eval_rates_heldout" in caught.value.message
    assert "trial 1, bin 2, neuron 3" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_group_that_the_benchmark_would_skip_is_not_written(tmp_path, rates):
    with pytest.raises(DataError, match="not a group of the benchmark") as caught:
        write_submission(tmp_path / "s.h5", {"mc_maze_smal_20": rates})
    assert GROUP in caught.value.hint
    with pytest.raises(DataError, match="no rates"):
        write_submission(tmp_path / "s.h5", {})


def test_arrays_that_do_not_fit_together_are_not_written(tmp_path, rates):
    bad = {**rates, "eval_rates_heldout": rates["eval_rates_heldout"][1:]}
    with pytest.raises(DataError, match="has 7 eval trials; expected 8"):
        write_submission(tmp_path / "s.h5", {GROUP: bad})


def test_a_failure_leaves_no_part_of_a_file(tmp_path, rates, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="No space"):
        write_submission(tmp_path / "s.h5", {GROUP: rates})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_submission_is_named(tmp_path, rates):
    path = tmp_path / "s.h5"
    with pytest.raises(DataError, match="no such file"):
        read_groups(path)
    path.write_text("text")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read_groups(path)
    with h5py.File(path, "w") as file:
        file["eval_rates_heldin"] = rates["eval_rates_heldin"]
    with pytest.raises(DataError, match="found no groups"):
        read_groups(path)


def test_groups_have_the_names_and_windows_of_the_benchmark():
    assert len(GROUPS) == 14
    assert GROUPS["mc_maze"].sizes == {"bins": 140, "forward bins": 40}
    assert GROUPS["dmfc_rsg_20"].sizes == {"bins": 75, "forward bins": 10}
    assert GROUPS["mc_rtt"].other_width is not None
    assert GROUPS["mc_rtt"].other_width.name == "mc_rtt_20"
    assert make_example().targets["psth"].shape[2] == N_HELDIN + N_HELDOUT
    assert GROUPS[GROUP].sizes["forward bins"] == N_FORWARD
