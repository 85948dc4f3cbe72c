"""The run folder: made once, never overwritten, read back whole."""

import json
import math
import os
import sys
from datetime import datetime
from pathlib import Path

import pytest
from builders import tiny_settings

from ndt_cli.engine.run_folder import CHECKPOINTS, RunFolder, default_path
from ndt_cli.errors import ExistingFileError, NdtError, RunError


def _contents(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "first")
    folder.create()
    assert sorted(p.name for p in folder.path.iterdir()) == ["checkpoints", "figures"]


def test_an_empty_folder_may_be_used(tmp_path):
    RunFolder(tmp_path).create()
    assert (tmp_path / "checkpoints").is_dir()


def test_ndt1_fault_runs_an_existing_run_is_never_overwritten(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.safetensors").write_bytes(b"weeks of work")
    before = _contents(tmp_path)
    with pytest.raises(ExistingFileError, match="never overwritten") as caught:
        RunFolder(tmp_path).create()
    assert str(tmp_path) in caught.value.message
    assert "`out`" in caught.value.hint
    assert _contents(tmp_path) == before


def _cut_off_start(path):
    """The folder of a start that was killed before settings.toml made it a run."""
    folder = RunFolder(path)
    folder.create()
    folder.write_json("run.json", {})
    (path / "run.lock").touch()
    (path / "running.json").write_text('{"pid": 1}')
    (path / ".settings.0123abcd.part.toml").write_text("[tra")
    return folder


def test_a_start_that_was_cut_off_may_be_made_again(tmp_path):
    folder = _cut_off_start(tmp_path)
    folder.create()
    folder.remove_leftovers()
    assert not (tmp_path / ".settings.0123abcd.part.toml").exists()


@pytest.mark.parametrize(
    "name",
    [
        "settings.toml",
        "metrics.jsonl",
        "notes.txt",
        "checkpoints/last.safetensors",
        "checkpoints/.last.0123abcd.part.safetensors",
        "figures/mine.png",
        ".thesis.0123abcd.part.tex",
    ],
)
def test_anything_more_than_a_start_is_not_made_again(tmp_path, name):
    folder = _cut_off_start(tmp_path)
    (tmp_path / name).touch()
    before = _contents(tmp_path)
    with pytest.raises(ExistingFileError, match="never overwritten"):
        folder.create()
    assert _contents(tmp_path) == before


def test_only_the_leftovers_of_the_run_itself_are_removed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    names = {
        ".metrics.0123abcd.part.jsonl": False,
        "checkpoints/.last.0123abcd.part.safetensors": False,
        "figures/.rates.0123abcd.part.png": False,
        ".mine.0123abcd.part.h5": True,  # ndt evaluate may be writing it now
        "checkpoints/last.safetensors": True,
        ".git": True,
    }
    for name in names:
        (tmp_path / name).touch()
    folder.remove_leftovers()
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_an_existing_file_is_refused(tmp_path):
    path = tmp_path / "run"
    path.write_text("notes")
    for taken in (path, path / "below"):
        with pytest.raises((ExistingFileError, RunError), match="run"):
            RunFolder(taken).create()
    assert path.read_text() == "notes"


@pytest.mark.parametrize("there", [False, True])
def test_open_refuses_what_is_no_run_folder(tmp_path, there):
    path = tmp_path / "run"
    if there:
        path.mkdir()
    with pytest.raises(RunError, match="not a run folder") as caught:
        RunFolder.open(path)
    assert ("settings.toml" in caught.value.message) is there


def test_a_folder_that_holds_runs_names_them(tmp_path):
    for name in ("seed-0", "ensemble"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.toml").touch()
    with pytest.raises(RunError, match="not a run folder") as caught:
        RunFolder.open(tmp_path)
    assert f"such as {tmp_path / 'ensemble'}, {tmp_path / 'seed-0'}." in caught.value.hint


def test_settings_come_back_as_they_were(tmp_path):
    settings = tiny_settings(model={"context_back": -1}, mask={"ratio": 0.4})
    folder = RunFolder(tmp_path)
    folder.write_settings(settings)
    assert RunFolder.open(tmp_path).settings() == settings
    assert folder.settings(["train.max_epochs=77"]).train.max_epochs == 77


def test_json_that_is_not_finite_becomes_null(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("summary.json", {"r2": math.nan, "list": [1.5, {"x": math.inf}], "n": 3})
    content = folder.read_json("summary.json")
    assert content == {"r2": None, "list": [1.5, {"x": None}], "n": 3}


@pytest.mark.parametrize("text", [None, "{", "[1, 2]", ""])
def test_a_damaged_json_file_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        RunFolder(tmp_path).read_json("run.json")


def test_metrics_come_back_line_by_line(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    records = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in (1, 2, 3)]
    for record in records:
        folder.append_metrics(record)
    assert folder.read_metrics() == records
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_a_metric_that_is_not_finite_is_written_as_null(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"epoch": 1, "valid_rate_r2": math.nan})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"epoch": 1, "valid_rate_r2": None}


def test_a_cut_last_line_is_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch, "train_loss": 0.5})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(len(whole) - 28, len(whole) - 1):
        path.write_text(whole[:cut])
        assert [record["epoch"] for record in folder.read_metrics()] == [1, 2]


def test_lines_past_an_epoch_are_dropped_for_a_resumed_run(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2, 3, 4):
        folder.append_metrics({"epoch": epoch, "train_loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 5, "tra')
    folder.sync_metrics()
    kept = folder.keep_metrics(2)
    assert [record["epoch"] for record in kept] == [1, 2]
    assert folder.read_metrics() == kept
    folder.append_metrics({"epoch": 3, "train_loss": 0.1})
    assert [record["epoch"] for record in folder.read_metrics()] == [1, 2, 3]


def test_checkpoints_are_found_by_name(tmp_path):
    paths = [RunFolder(tmp_path).checkpoint(name) for name in CHECKPOINTS]
    assert [path.name for path in paths] == [
        "best-masked-loss.safetensors",
        "best-unmasked-loss.safetensors",
        "best-rate-r2.safetensors",
        "best-co-bps.safetensors",
        "last.safetensors",
    ]
    assert {path.parent for path in paths} == {tmp_path / "checkpoints"}


def test_the_default_folder_is_fresh_also_within_one_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 1, 31, 14, 25, 0)
    paths = []
    for _ in range(3):
        path = default_path("lorenz", now)
        RunFolder(path).create()
        paths.append(path)
    stem = Path("runs") / "lorenz-20260131-142500"
    assert paths == [stem, Path(f"{stem}-2"), Path(f"{stem}-3")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_run_folder_whose_name_is_not_utf8_is_refused_at_once(tmp_path):
    with pytest.raises(NdtError, match="not UTF-8"):
        RunFolder(tmp_path / os.fsdecode(b"run-\xff")).create()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_in_place_of_a_file_of_a_run_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match="device or pipe"):
        RunFolder(tmp_path).facts()
    assert RunFolder(tmp_path).read_metrics() == []


@pytest.mark.parametrize(
    "line", ['{"epoch": 0}', '{"epoch": %s}' % 10**400, '{"epoch": 1, "loss": %s}' % 10**400]
)
def test_numbers_that_no_epoch_has_are_no_record(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(line + '\n{"epoch": 1, "train_loss": 0.5}\n')
    assert RunFolder(tmp_path).read_metrics() == [{"epoch": 1, "train_loss": 0.5}]


def test_json_that_is_large_or_beyond_unicode_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"a": "\\ud800"}')
    with pytest.raises(RunError, match="cannot be read"):
        RunFolder(tmp_path).read_json("run.json")
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(2**26)
    with pytest.raises(RunError, match="bytes"):
        RunFolder(tmp_path).read_json("run.json")


def test_a_run_is_opened_by_a_path_in_any_form(tmp_path):
    (tmp_path / "settings.toml").touch()
    assert RunFolder.open(str(tmp_path)).path == RunFolder.open(tmp_path).path == tmp_path
    with pytest.raises(RunError, match="there is no such folder"):
        RunFolder.open(str(tmp_path / "absent"))
