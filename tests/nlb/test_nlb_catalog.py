import json
from pathlib import Path

import pytest

from ndt_cli.errors import DataError, SettingsError
from ndt_cli.nlb.catalog import DATASETS, TEST_LABELS, find_dataset, submission_key
from ndt_cli.nlb.download import locate

FILES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "nlb_files.json"


# ------------------------------------------------------------------ the catalog
def test_there_are_seven_data_sets_of_two_files():
    assert len(DATASETS) == 7
    files = [file for dataset in DATASETS.values() for file in dataset.files]
    assert len({file.sha256 for file in files}) == 14
    assert len({file.name for file in files}) == 14
    for file in files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert all(url.startswith("https://") for url in file.urls)


@pytest.mark.skipif(not FILES.is_file(), reason=f"{FILES} is not there")
def test_files_are_those_of_the_archive():
    records = json.loads(FILES.read_text())
    for dataset in DATASETS.values():
        record = records[dataset.name]
        assert dataset.dandiset == record["dandiset"]
        archived = {file["path"]: file for file in record["files"]}
        assert set(archived) == {file.path for file in dataset.files}
        for file in dataset.files:
            found = archived[file.path]
            assert (file.n_bytes, file.sha256) == (found["bytes"], found["sha256"])
            assert list(file.urls) == found["content_url"]
    labels = records["test_labels"]
    assert (TEST_LABELS.n_bytes, TEST_LABELS.sha256) == (labels["bytes"], labels["sha256"])


@pytest.mark.parametrize(
    ("name", "bin_ms", "n_bins"),
    [("mc_maze", 5, 140), ("mc_rtt", 20, 30), ("area2_bump", 5, 120), ("dmfc_rsg", 5, 300)],
)
def test_windows_have_the_benchmarks_number_of_bins(name, bin_ms, n_bins):
    assert DATASETS[name].n_bins(bin_ms) == n_bins


def test_windows_are_those_of_nlb_tools():
    make_tensors = pytest.importorskip("nlb_tools.make_tensors", reason="it is not installed")
    for dataset in DATASETS.values():
        params = make_tensors.PARAMS[dataset.name]
        assert params["make_params"]["align_field"] == dataset.align_field
        assert params["make_params"]["align_range"] == dataset.window_ms
        in_series = params["behavior_source"] == "data"
        assert dataset.behavior_series == (params["behavior_field"] if in_series else None)


def test_the_group_of_five_millisecond_bins_has_no_suffix():
    assert submission_key("mc_maze", 5) == "mc_maze"
    assert submission_key("mc_maze", 20) == "mc_maze_20"
    with pytest.raises(SettingsError, match="5 and 20 ms, not 10"):
        submission_key("mc_maze", 10)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mc_maze", None),
        ("MC_Maze", "Did you mean mc_maze?"),
        ("area2", "Did you mean area2_bump?"),
        ("xyz", "There are mc_maze, mc_rtt"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(name, hint):
    if hint is None:
        assert find_dataset(name).name == name
        return
    with pytest.raises(SettingsError) as caught:
        find_dataset(name)
    assert caught.value.hint.startswith(hint)


# ------------------------------------------------------------------ files on disk
def put(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("folder", ["000140/sub-Jenkins", "000140", "sub-Jenkins", "."])
def test_public_files_are_found_with_the_folders_of_the_archive_or_without(tmp_path, folder):
    dataset = DATASETS["mc_maze_small"]
    train, test = (tmp_path / folder / file.name for file in dataset.files)
    put(train, test)
    assert locate(dataset, tmp_path) == (train, test)


def test_files_of_other_names_are_found_by_train_and_test(tmp_path):
    dataset = DATASETS["mc_rtt"]
    put(tmp_path / "my_train_file.nwb", tmp_path / "my_test_file.nwb")
    found = locate(dataset, tmp_path)
    assert (found.train.name, found.test.name) == ("my_train_file.nwb", "my_test_file.nwb")


def test_the_public_name_goes_before_another(tmp_path):
    dataset = DATASETS["mc_rtt"]
    public = [tmp_path / file.name for file in dataset.files]
    put(*public, tmp_path / "a_train.nwb", tmp_path / "a_test.nwb")
    assert list(locate(dataset, tmp_path)) == public


def test_the_validation_phase_needs_no_test_file(tmp_path):
    dataset = DATASETS["mc_rtt"]
    put(tmp_path / dataset.train_file.name)
    assert locate(dataset, tmp_path, "val").test is None
    with pytest.raises(DataError, match="desc-test"):
        locate(dataset, tmp_path, "test")


def test_files_of_one_maze_do_not_pass_for_those_of_another(tmp_path):
    put(*(tmp_path / file.name for file in DATASETS["mc_maze_small"].files))
    with pytest.raises(DataError, match="found no NWB files of mc_maze"):
        locate(DATASETS["mc_maze"], tmp_path)


def test_several_candidates_are_refused(tmp_path):
    put(tmp_path / "a_train.nwb", tmp_path / "b_train.nwb", tmp_path / "a_test.nwb")
    with pytest.raises(DataError, match=r"several files .*a_train\.nwb, b_train\.nwb"):
        locate(DATASETS["mc_rtt"], tmp_path)


def test_missing_files_are_named_with_size_address_and_command(tmp_path):
    dataset = DATASETS["mc_maze"]
    with pytest.raises(DataError) as caught:
        locate(dataset, tmp_path)
    for file in dataset.files:
        assert file.name in caught.value.message
        assert file.urls[0] in caught.value.message
    assert "690.6 MB" in caught.value.message
    assert f"`fetch_dataset('mc_maze', data_dir='{tmp_path}')`" in caught.value.hint


def test_only_what_is_missing_is_asked_for(tmp_path):
    dataset = DATASETS["mc_maze"]
    put(tmp_path / dataset.test_file.name)
    with pytest.raises(DataError) as caught:
        locate(dataset, tmp_path)
    assert dataset.train_file.name in caught.value.message
    assert dataset.test_file.name not in caught.value.message
