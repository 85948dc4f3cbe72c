import io
import os
import sys
from pathlib import Path

import pytest

from ndt_cli.errors import SettingsError
from ndt_cli.settings.load import (
    DEFAULT_PRESET,
    find_config,
    load_settings,
    read_preset,
)
from ndt_cli.settings.tree import ModelSettings, Settings, TrainSettings


def write(folder: Path, text: str, name: str = "lab.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(config=None, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, overrides)
    return caught.value.message


# Which config is meant


def test_without_a_config_the_default_preset_is_taken():
    source = find_config(None)
    assert (source.kind, source.name, source.path) == ("preset", DEFAULT_PRESET, None)
    assert load_settings() == read_preset(DEFAULT_PRESET).settings


@pytest.mark.parametrize("name", ["lorenz", "lorenz.toml"])
def test_a_preset_is_found_with_and_without_its_ending(name):
    assert (find_config(name).kind, find_config(name).name) == ("preset", "lorenz")


def test_a_file_goes_before_the_preset_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "[train]\nmax_epochs = 7\n", "lorenz.toml")
    assert find_config("lorenz.toml").kind == "file"
    assert load_settings("lorenz.toml").train.max_epochs == 7
    assert find_config("lorenz").kind == "preset"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lorens.toml", "did you mean the preset lorenz?"),
        ("configs/zzzz.toml", "no config file configs/zzzz.toml"),
        (".", "is a folder"),
    ],
)
def test_a_missing_config_is_named_with_the_nearest_preset(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        find_config(name)
    assert said in caught.value.message
    assert "preset_names()" in caught.value.hint


def test_a_spike_file_is_refused_as_a_config(tmp_path):
    path = tmp_path / "spikes"
    path.write_bytes(b"\x89HDF\r\n\x1a\n\xff")
    assert "byte 0 is not UTF-8" in problems(path)


def test_a_byte_order_mark_is_no_obstacle(tmp_path):
    path = tmp_path / "lab.toml"
    path.write_bytes(b"\xef\xbb\xbf[train]\nseed = 3\n")
    assert load_settings(path).train.seed == 3


def test_the_utf_16_of_powershell_is_read_and_other_bytes_are_not(tmp_path):
    path = tmp_path / "lab.toml"
    path.write_bytes("[train]\r\nseed = 3\r\n".encode("utf-16"))
    assert load_settings(path).train.seed == 3
    path.write_bytes("[train]\nseed = 3\n".encode("utf-16") + b"\x00")
    assert "is not UTF-16 text" in problems(path)
    path.write_bytes(b"#" * 2_000_000)
    assert "more than 1000000 bytes" in problems(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_standard_input_may_hold_what_a_file_may(monkeypatch, encoding):
    content = "[train]\r\nseed = 3\r\n".encode(encoding)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert load_settings("-").train.seed == 3


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80", b" \n", bytes(1_000_001)])
def test_standard_input_without_a_config_is_refused(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(SettingsError, match=r"^standard input is "):
        load_settings("-")


# TOML


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[train]\ndevice = cpu\n", "line 2, column 10"),
        ("[train]\nseed = 1\nseed = 2\n", "line 3"),
        ("[data]\nfile = 'a.h5\n", "line 3, column 1"),
        ("[train", "line 1, column 7"),
    ],
)
def test_a_syntax_error_names_file_line_and_column(tmp_path, text, place):
    path = write(tmp_path, text)
    assert problems(path).startswith(f"{path}, {place}")


def test_a_relative_spike_file_counts_from_the_config_or_from_the_working_directory(
    tmp_path, monkeypatch
):
    folder = tmp_path / "lab"
    folder.mkdir()
    path = write(folder, '[data]\nfile = "a.h5"\n')
    monkeypatch.chdir(tmp_path)
    assert load_settings("lab/lab.toml").data.file == folder / "a.h5"
    assert load_settings(path, ["data.file=b.h5"]).data.file == tmp_path / "b.h5"
    assert load_settings(path, ["data.file=/abs/b.h5"]).data.file == Path("/abs/b.h5").absolute()


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_settings("lorenz", ["data.file=~/a.h5"]).data.file == tmp_path / "a.h5"


# Overrides


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("train.learning_rate=1", "train", "learning_rate", 1.0),
        ("model.dropout=.1", "model", "dropout", 0.1),
        ("train.device=cpu", "train", "device", "cpu"),
        ('train.device="cuda:1"', "train", "device", "cuda:1"),
        (" train.seed = 12 ", "train", "seed", 12),
        ("model.full_context=true", "model", "full_context", True),
        ("data.bin_ms=20", "data", "bin_ms", 20.0),
        ("data.heldout_neurons=[3, 0]", "data", "heldout_neurons", (3, 0)),
    ],
)
def test_an_override_is_a_toml_value_or_bare_text(override, section, name, value):
    found = getattr(getattr(load_settings("lorenz", [override]), section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", ["/a/b.h5", r"C:\new\table.h5", "2024", "true", "my spikes=2.h5"])
def test_any_file_name_can_be_set(name):
    found = load_settings("lorenz", [f"data.file={name}"]).data.file
    assert found == Path(os.path.abspath(name))  # noqa: PTH100


def test_the_last_override_wins():
    assert load_settings("lorenz", ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize("override", ["train.seed", "train.seed=", "train.seed 3"])
def test_an_override_without_a_value_is_refused(override):
    assert f"`overrides` {override} has no value" in problems("lorenz", override)


def test_an_override_without_a_name_is_refused():
    assert "`overrides` =3 has no name" in problems("lorenz", "=3")


# Names


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.learning_rat", "did you mean train.learning_rate?"),
        ("train.dropout", "did you mean model.dropout?"),
        ("trian.seed", "did you mean train.seed?"),
        ("learning_rate", "did you mean train.learning_rate?"),
        ("qq.zzzz", "the sections are data, model, mask, inference, train"),
        ("mask.zzzz", "section mask has mode, ratio,"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(tmp_path, key, said):
    assert f"{key} (`overrides`) is not a setting" in problems("lorenz", f"{key}=1")
    assert said in problems("lorenz", f"{key}=1")
    section, _, name = key.rpartition(".")
    path = write(tmp_path, f"[{section}]\n{name} = 1\n" if section else f"{name} = 1\n")
    in_file = problems(path)
    assert f"({path}) is not a setting" in in_file
    if section in Settings.model_fields or not section:
        assert said in in_file


def test_a_section_must_be_a_section(tmp_path):
    path = write(tmp_path, "train = 5\n")
    assert problems(path) == f"train = 5 ({path}): [train] must be a section"
    assert "[train] must be a section" in problems(path, "train.seed=3")


# Values


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "train.seed=true",
            "train.seed = true (`overrides`): must be a whole number, at least 0, below",
        ),
        ("train.seed=1.5", "must be a whole number"),
        ("train.seed=1.0", "must be a whole number"),
        ('train.seed="1"', 'train.seed = "1" (`overrides`): must be a whole number'),
        ("train.seed=-1", "must be a whole number, at least 0, below 2147483648"),
        ('train.learning_rate="1e-3"', "must be a number, above 0, at most 1"),
        ("train.learning_rate=true", "must be a number, above 0, at most 1"),
        (
            "train.learning_rate=0",
            "train.learning_rate = 0 (`overrides`): must be a number, above",
        ),
        ("train.clip_norm=inf", "train.clip_norm = inf (`overrides`): must be a number, above 0"),
        (
            "data.bin_ms=nan",
            "data.bin_ms = nan (`overrides`): must be a number, at least 0.001",
        ),
        ("model.full_context=1", "must be true or false"),
        ("model.norm_place=poste", "must be one of pre, post; did you mean post?"),
        (
            "data.heldout_neurons=3",
            "= 3 (`overrides`): must be a list of whole numbers, at least",
        ),
        (
            "data.heldout_neurons=[1, -2]",
            "data.heldout_neurons = -2 (`overrides`): must be a list",
        ),
        (
            "data.heldout_neurons=[1.5]",
            "data.heldout_neurons = 1.5 (`overrides`): must be a list",
        ),
        ("train.device=gpu", "must be one of auto, cpu, mps, cuda, cuda:N"),
        ("train.device=cuda:x", "must be one of auto, cpu, mps, cuda, cuda:N"),
    ],
)
def test_a_wrong_value_is_shown_with_what_is_allowed(override, said):
    assert said in problems("lorenz", override)


def test_a_spike_file_must_be_a_path(tmp_path):
    path = write(tmp_path, "[data]\nfile = 3\n")
    assert problems(path) == f"data.file = 3 ({path}): must be a path"
    empty = write(tmp_path, '[data]\nfile = ""\n')
    assert problems(empty) == f'data.file = "" ({empty}): must be a path'


def test_every_problem_is_reported_at_once_with_its_origin(tmp_path):
    path = write(tmp_path, "[train]\nseed = -1\n[model]\nlayers = 4\n")
    lines = problems(path, "model.n_heads=0", "mask.rato=0.2").splitlines()
    assert len(lines) == 4
    for start in (
        "mask.rato (`overrides`) is not a setting",
        f"train.seed = -1 ({path}):",
        f"model.layers ({path}) is not a setting",
        "model.n_heads = 0 (`overrides`):",
    ):
        assert sum(line.startswith(start) for line in lines) == 1


# Combinations


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        (
            ["train.schedule=cosine", "train.warmup_epochs=20001"],
            ["train.schedule=cosine", "train.warmup_epochs=20000"],
            "(max_epochs: preset lorenz, warmup_epochs: `overrides`)",
        ),
        (
            ["train.schedule=inverse-sqrt"],
            ["train.schedule=inverse-sqrt", "train.warmup_epochs=1"],
            "warmup_epochs must be at least 1 (schedule: `overrides`, warmup_epochs: default)",
        ),
        (
            ["mask.mode=neuron", "mask.max_span=2"],
            ["mask.mode=neuron", "mask.max_span=1"],
            "[mask] mode",
        ),
        (
            ["mask.span_ramp_start_epoch=1201"],
            ["mask.span_ramp_start_epoch=1200"],
            "span_ramp_end_epoch (1200) must not be before",
        ),
        (
            ["data.heldout_neurons=[1]", "data.heldout_fraction=0.2"],
            ["data.heldout_neurons=[1]", "data.heldout_fraction=0"],
            "[data] heldout_neurons and heldout_fraction are both given",
        ),
        (
            ["data.heldout_neurons=[1, 2, 1]"],
            ["data.heldout_neurons=[1, 2]"],
            "[data] heldout_neurons names a neuron twice",
        ),
        (
            ["model.context_wrap_initial=true", "model.context_back=0"],
            ["model.context_wrap_initial=true", "model.context_back=1"],
            "[model] context_wrap_initial needs a context_back",
        ),
        (
            ["model.head_spans=[1, 10, 30]", "model.n_heads=2"],
            ["model.head_spans=[1, 10]", "model.n_heads=2"],
            "[model] head_spans has 3 values for 2 heads",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, right, said):
    assert said in problems("lorenz", *wrong)
    load_settings("lorenz", right)


def _lengths(n_trials, n_bins=0, n_neurons=1, **train):
    train = TrainSettings(batch_size=10, schedule="cosine", **train)
    found = Settings(train=train).for_size(n_trials, n_bins, n_neurons).train
    assert (found.max_steps, found.warmup_steps, found.patience_steps) == (None, None, None)
    return found.max_epochs, found.warmup_epochs, found.val_interval_epochs, found.patience_epochs


def test_lengths_in_steps_become_epochs_of_the_data():
    steps = {"max_steps": 200, "warmup_steps": 8, "val_interval_steps": 10, "patience_steps": 40}
    epochs = {"warmup_epochs": 99, "val_interval_epochs": 99, "patience_epochs": 99}
    assert _lengths(40, max_epochs=1000, **steps, **epochs) == (50, 2, 2, 10)
    assert _lengths(41, max_epochs=1000, **steps, **epochs) == (40, 2, 2, 8)  # a fifth, small batch
    assert _lengths(10**4, max_epochs=1000, **steps, **epochs) == (1, 0, 1, 1)
    assert _lengths(40, **steps) == (50, 2, 2, 10)  # the defaults in epochs are no limit
    # The shorter of the two counts, and a warm-up never fills a short training.
    assert _lengths(40, max_epochs=5, **steps, **epochs) == (5, 0, 2, 10)


def test_the_length_of_training_follows_the_size_of_the_data():
    def n_steps(n_trials, n_bins, n_neurons=30):
        wanted = {"max_steps": "auto", "max_epochs": 10**6}
        epochs = _lengths(n_trials, n_trials * n_bins, n_neurons, **wanted)[0]
        return epochs * -(-n_trials // 10)

    assert n_steps(10, 50) == 300  # however few the bins are
    assert n_steps(1000, 60) == 1000  # one per 60 bins
    assert n_steps(4000, 40) == 1200
    assert n_steps(1000, 800) == 300  # steps of 8000 bins
    assert n_steps(400, 10_000) == 160
    assert n_steps(1000, 250, n_neurons=1000) == 200  # of 2.5 million counts


def test_dropout_shrinks_with_the_number_of_bins_where_that_is_asked():
    def dropouts(n_bins, **model):
        settings = Settings(model=ModelSettings(dropout=0.2, dropout_rates=0.1, **model))
        found = settings.for_size(10, n_bins).model
        assert found.dropout_bins is None
        return found.dropout, found.dropout_rates

    assert dropouts(10**7) == (0.2, 0.1)
    assert dropouts(1000, dropout_bins=1000) == (0.2, 0.1)
    assert dropouts(8000, dropout_bins=1000) == pytest.approx((0.1, 0.05))


def test_lengths_in_epochs_stay():
    assert _lengths(40, max_epochs=7, warmup_epochs=2) == (7, 2, 10, 750)


def test_a_width_is_a_number_or_auto(tmp_path):
    assert load_settings("lorenz", ["model.width=64"]).model.width == 64
    assert load_settings("lorenz", ["model.width=auto"]).model.width == "auto"
    for wrong in ("wide", "8"):
        said = problems("lorenz", f"model.width={wrong}")
        assert "must be a whole number or auto, at least 16, at most 16384" in said
        assert said.count("model.width") == 1
