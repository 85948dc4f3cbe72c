import json

import h5py
import numpy as np
import pytest
from nlb_arrays import GROUP, N_EVAL, N_TRAIN, errors, only, warned

from ndt_cli.errors import DataError
from ndt_cli.nlb.catalog import RATE_KEYS, nearest_group
from ndt_cli.nlb.check import check_group, check_submission, submission_shapes

SWAP = (0, 2, 1)
EVERY_KEY = ", ".join(RATE_KEYS)


def test_right_rates_pass_with_and_without_targets(arrays, expected):
    findings = check_group(GROUP, arrays, expected)
    assert [finding.severity for finding in findings] == ["note"]
    assert "differs from the released recording" in findings[0].message
    assert {finding.severity for finding in check_group(GROUP, arrays)} == {"note"}


def test_the_released_sizes_leave_nothing_to_note():
    shapes = [(75, 35, 107), (75, 35, 35), (25, 35, 107), (25, 35, 35), (25, 10, 107), (25, 10, 35)]
    rng = np.random.default_rng(0)
    arrays = {
        key: rng.uniform(0.01, 0.4, shape).astype("float32")
        for key, shape in zip(RATE_KEYS, shapes, strict=True)
    }
    assert all("order of train and eval trials" in f.message for f in check_group(GROUP, arrays))
    arrays = {key: array[:24] for key, array in arrays.items()}
    assert any("24 train and 24 eval trials" in f.message for f in check_group(GROUP, arrays))


# Groups and keys


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MC_Maze", "mc_maze"),
        ("mc-maze-20", "mc_maze_20"),
        ("mc_maze_5", "mc_maze"),
        ("mc_maze_20ms", "mc_maze_20"),
        ("area2bump", "area2_bump"),
        ("area2_bump_5ms", "area2_bump"),
        ("mc_rtt_5", "mc_rtt"),
        ("MC_RTT 20 ms", "mc_rtt_20"),
        ("dmfc_rsg_20_ms", "dmfc_rsg_20"),
        ("mc_maze_smal", "mc_maze_small"),
        ("dmfc", "dmfc_rsg"),
    ],
)
def test_a_misspelled_group_is_recognized(name, meant):
    assert nearest_group(name).name == meant


def test_a_group_of_another_name_would_be_skipped(arrays, expected):
    finding = only(errors(check_group("mc_maze_smal_20", arrays, expected)))
    assert "would be skipped" in finding.message
    assert GROUP in finding.hint
    assert (
        "A group is one of mc_maze, mc_maze_20"
        in only(errors(check_group("lorenz", arrays, expected))).hint
    )


def test_a_misspelled_group_gets_the_name_that_fits_its_bins(arrays):
    finding = only(errors(check_group("mc-maze-small", arrays)))
    assert f"`{GROUP}`" in finding.hint  # its bins are those of 20 ms


def test_the_suffix_of_a_group_must_fit_its_bins(arrays):
    finding = only(errors(check_group("mc_maze_small", arrays)))
    assert "has 35 bins per trial, as for bins of 20 ms" in finding.message
    assert f"`{GROUP}`" in finding.hint


def test_a_missing_key_is_named_with_its_axes(arrays):
    del arrays["eval_rates_heldout"]
    finding = only(errors(check_group(GROUP, arrays)))
    assert (finding.key, finding.message) == ("eval_rates_heldout", "is missing")
    assert "eval trials x bins x held-out neurons" in finding.hint


def test_a_misspelled_key_is_distinguished_from_a_missing_one(arrays):
    arrays["eval_rates_held_out"] = arrays.pop("eval_rates_heldout")
    findings = check_group(GROUP, arrays)
    assert "Rename `eval_rates_held_out`" in only(errors(findings)).hint
    assert warned(findings) == []


def test_spikes_are_not_taken_for_misspelled_rates(arrays, example):
    arrays["eval_spikes_heldout"] = example.tensors["eval_spikes_heldout"]
    del arrays["eval_rates_heldout"]
    findings = check_group(GROUP, arrays)
    assert only(errors(findings)).message == "is missing"
    assert only(warned(findings)).key == "eval_spikes_heldout"


def test_forward_rates_may_be_missing_but_only_both(arrays):
    del arrays["eval_rates_heldin_forward"]
    assert only(errors(check_group(GROUP, arrays))).key == "eval_rates_heldin_forward"
    del arrays["eval_rates_heldout_forward"]
    findings = check_group(GROUP, arrays)
    assert errors(findings) == []
    assert all("fp-bps will not be scored" in finding.message for finding in warned(findings))


def test_train_rates_of_dmfc_rsg_are_not_needed(arrays):
    del arrays["train_rates_heldin"], arrays["train_rates_heldout"]
    assert len(errors(check_group(GROUP, arrays))) == 2
    wide = {key: np.repeat(array, 3, axis=1)[:, :75] for key, array in arrays.items()}
    wide |= {key: arrays[key] for key in arrays if key.endswith("forward")}
    findings = check_group("dmfc_rsg_20", wide)
    assert errors(findings) == []
    assert len(warned(findings)) == 2


# Types and shapes


@pytest.mark.parametrize(
    ("change", "severity", "message"),
    [
        (lambda a: a.astype(complex), "error", "has the type complex128"),
        (lambda a: a.astype("S4"), "error", "expected floating-point numbers"),
        (lambda a: a.astype("float16"), "warning", "is float16"),
        (lambda a: np.ceil(a).astype("int32"), "warning", "whole numbers (int32)"),
        (lambda a: a.reshape(-1, a.shape[2]), "error", "has 2 axes; expected 3"),
        (lambda a: a[:0], "error", "is empty, of shape 0 x 35 x 4"),
    ],
)
def test_the_type_of_an_array_is_checked(arrays, change, severity, message):
    arrays["eval_rates_heldout"] = change(arrays["eval_rates_heldout"])
    findings = [f for f in check_group(GROUP, arrays) if f.key == "eval_rates_heldout"]
    assert any(f.severity == severity and message in f.message for f in findings)


@pytest.mark.parametrize("with_targets", [True, False])
@pytest.mark.parametrize("keys", [["eval_rates_heldin"], list(RATE_KEYS)])
def test_swapped_axes_are_recognized(arrays, expected, keys, with_targets):
    for key in keys:
        arrays[key] = arrays[key].transpose(SWAP)
    findings = errors(check_group(GROUP, arrays, expected if with_targets else None))
    assert [finding.key for finding in findings] == keys
    for finding in findings:
        assert "its axes are trials x neurons x bins" in finding.message
        assert f"numpy.transpose(rates, {SWAP})" in finding.hint
        assert np.transpose(arrays[finding.key], SWAP).shape[1] in (35, 10)


def test_time_first_is_recognized(arrays):
    for key in RATE_KEYS:
        arrays[key] = arrays[key].transpose(1, 0, 2)
    findings = errors(check_group(GROUP, arrays))
    assert len(findings) == len(RATE_KEYS)
    assert all("bins x trials x neurons" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("key", "cut", "message", "hint"),
    [
        ("eval_rates_heldout", np.s_[1:], "has 7 eval trials; expected 8", "every evaluated trial"),
        ("train_rates_heldin", np.s_[1:], "has 15 train trials; expected 16", "train and val"),
        ("eval_rates_heldin", np.s_[:, 1:], "has 34 bins; expected 35", "every bin"),
        ("eval_rates_heldin_forward", np.s_[:, 1:], "has 9 forward bins", "200 ms"),
        ("eval_rates_heldin", np.s_[:, :, 1:], "has 5 held-in neurons; expected 6", "neuron"),
    ],
)
def test_a_wrong_length_is_named(arrays, expected, key, cut, message, hint):
    arrays[key] = arrays[key][cut]
    for known in (expected, None):
        found = errors(check_group(GROUP, arrays, known))
        at_key = only([finding for finding in found if finding.key == key] or found)
        if known is not None:
            assert message in at_key.message
            assert hint in at_key.hint


def test_arrays_of_a_group_are_compared_with_each_other(arrays):
    arrays["eval_rates_heldin"] = arrays["eval_rates_heldin"][:, :, 1:]
    finding = only(errors(check_group(GROUP, arrays)))
    assert finding.key == "eval_rates_heldin"
    assert "as in `train_rates_heldin`, `eval_rates_heldin_forward`" in finding.message


def test_the_window_of_the_dataset_holds_without_targets(arrays):
    for key in RATE_KEYS[:4]:
        arrays[key] = arrays[key][:, :30]
    findings = errors(check_group(GROUP, arrays))
    assert len(findings) == 4
    assert all("expected 35, the benchmark's window" in f.message for f in findings)


def test_forward_bins_left_in_the_window_are_recognized(arrays):
    joined = np.concatenate([arrays["eval_rates_heldin"], arrays["eval_rates_heldin_forward"]], 1)
    finding = only(errors(check_group(GROUP, arrays | {"eval_rates_heldin": joined})))
    assert "the first 35 bins go here, the last 10 under" in finding.hint
    finding = only(errors(check_group(GROUP, arrays | {"eval_rates_heldin_forward": joined})))
    assert "keep the last 10" in finding.hint


def test_swapped_neurons_are_recognized(arrays, expected):
    first, second = "eval_rates_heldin", "eval_rates_heldout"
    arrays[first], arrays[second] = arrays[second], arrays[first]
    findings = errors(check_group(GROUP, arrays, expected))
    assert [finding.key for finding in findings] == [first, second]
    assert all("swapped" in finding.hint for finding in findings)


def test_all_neurons_in_one_array_are_recognized(arrays, expected):
    both = np.concatenate([arrays["eval_rates_heldin"], arrays["eval_rates_heldout"]], axis=2)
    finding = only(errors(check_group(GROUP, arrays | {"eval_rates_heldin": both}, expected)))
    assert "split them" in finding.hint


# Files


def write(path, groups):
    with h5py.File(path, "w") as file:
        for name, arrays in groups.items():
            for key, array in arrays.items():
                file[f"{name}/{key}"] = array
    return path


def test_a_missing_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        check_submission(tmp_path / "none.h5")


@pytest.mark.parametrize(
    ("content", "what"), [(b"PK\x03\x04rest", "a zip or .npz file"), (b"", "empty"), (b"x", "else")]
)
def test_a_file_that_is_not_hdf5_is_named(tmp_path, content, what):
    path = tmp_path / "s.h5"
    path.write_bytes(content)
    finding = only(check_submission(path))
    assert finding.severity == "error"
    assert what in finding.message


def test_a_file_that_is_cut_short_is_damaged(tmp_path, arrays):
    path = write(tmp_path / "s.h5", {GROUP: arrays})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged" in only(check_submission(path)).hint


def test_a_damaged_array_is_named_and_the_others_are_checked(tmp_path, arrays):
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.create_dataset(f"{GROUP}/{key}", data=array, chunks=array.shape, fletcher32=True)
        start = file[f"{GROUP}/eval_rates_heldin"].id.get_chunk_info(0).byte_offset
    with path.open("rb+") as file:
        file.seek(start)
        file.write(b"damaged!")
    finding = only(errors(check_submission(path)))
    assert finding.key == "eval_rates_heldin"
    assert "cannot be read" in finding.message
    assert "damaged" in finding.hint


def test_arrays_outside_any_group_are_recognized(tmp_path, arrays):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for key, array in arrays.items():
            file[key] = array
    finding = only(check_submission(tmp_path / "s.h5"))
    assert "outside any group" in finding.message
    assert "mc_maze_small_20" in finding.hint


def test_a_file_without_groups_is_an_error(tmp_path):
    write(tmp_path / "s.h5", {})
    assert only(check_submission(tmp_path / "s.h5")).message == "the file holds no group"


def test_a_finding_shared_by_several_arrays_is_reported_once(tmp_path, arrays):
    flat = {key: np.ones_like(array) for key, array in arrays.items()}
    path = write(tmp_path / "s.h5", {GROUP: flat})
    assert only(warned(check_submission(path))).key == EVERY_KEY


def test_each_group_is_compared_with_its_own_targets(tmp_path, arrays, expected):
    path = write(tmp_path / "s.h5", {GROUP: arrays, "mc_maze_20": arrays})
    findings = check_submission(path, {GROUP: expected})
    assert errors(findings) == []
    assert any(
        "targets do not have this group" in f.message for f in findings if f.group == "mc_maze_20"
    )
    assert not any("cannot be checked" in f.message for f in findings if f.group == GROUP)


# The command


def test_the_command_lists_the_arrays_of_a_valid_file(tmp_path, arrays, example, ndt):
    path = write(tmp_path / "s.h5", {GROUP: arrays})
    known = {key: a for key, a in example.targets.items() if key != "eval_cond_idx"}
    targets = write(tmp_path / "t.h5", {GROUP: known})
    code, out, err = ndt("nlb-check", path, "--targets", targets)
    assert (code, err) == (0, "")
    assert f"{N_TRAIN} x 35 x 6" in out
    assert "Valid submission." in out


def test_an_invalid_file_exits_with_code_1(tmp_path, arrays, ndt):
    arrays["eval_rates_heldin"][0, 0, 0] = np.nan
    path = write(tmp_path / "s.h5", {GROUP: arrays})
    code, out, _ = ndt("nlb-check", path)
    assert code == 1
    assert f"Error: {GROUP}/eval_rates_heldin: 1 NaN of" in out
    assert "Invalid: 1 error." in out


def test_the_command_prints_one_json_object(tmp_path, arrays, ndt):
    path = write(tmp_path / "s.h5", {GROUP: {k: 50 * a for k, a in arrays.items()}})
    code, out, err = ndt("nlb-check", path, "--json")
    report = json.loads(out)
    assert (code, err, report["ok"]) == (1, "", False)
    assert report["groups"][GROUP]["eval_rates_heldout"] == [N_EVAL, 35, 4]
    assert [f["hint"] for f in report["findings"] if f["severity"] == "error"] == [
        "Divide by 50 (1000 / bin_ms)."
    ]


def test_targets_that_cannot_be_read_are_an_error(tmp_path, arrays, ndt):
    path = write(tmp_path / "s.h5", {GROUP: arrays})
    bad = tmp_path / "t.h5"
    bad.write_text("text")
    code, out, err = ndt("nlb-check", path, "--targets", bad)
    assert (code, out) == (1, "")
    assert "cannot be read as HDF5" in err


def test_a_file_of_arrays_without_a_group_is_no_submission(tmp_path):
    path = tmp_path / "spikes.h5"
    with h5py.File(path, "w") as file:
        file["spikes"] = np.ones((3, 4, 5))
    findings = check_submission(path)
    assert [f.message for f in findings if f.severity == "error"] == ["the file holds no group"]


def test_a_file_whose_names_cannot_be_listed_is_damaged(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["mc_maze/train_rates_heldin"] = np.ones((2, 3, 4))
    content = path.read_bytes()
    assert b"SNOD" in content  # a node of the table of names
    path.write_bytes(content.replace(b"SNOD", b"SNOX"))
    with pytest.raises(DataError, match="damaged"):
        check_submission(path)
    assert submission_shapes(path) == {}
