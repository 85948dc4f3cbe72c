from pathlib import Path

import pytest

from ndt_cli.errors import SettingsError
from ndt_cli.settings.explain import commented_toml, field_table
from ndt_cli.settings.load import load_settings, settings_to_toml
from ndt_cli.settings.tree import DataSettings, Settings, TrainSettings


def write(folder: Path, text: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Out again


def test_settings_written_as_toml_are_read_back_the_same(tmp_path):
    settings = Settings(
        data=DataSettings(file=tmp_path / 'odd "name" é.h5', bin_ms=20.0),
        train=TrainSettings(learning_rate=3e-4, device="cuda:1"),
    )
    assert load_settings(write(tmp_path, settings_to_toml(settings))) == settings
    assert load_settings(write(tmp_path, commented_toml(settings, "Mine"))) == settings


def test_a_relative_spike_file_is_written_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    text = settings_to_toml(Settings(data=DataSettings(file=Path("a.h5"))))
    assert load_settings(write(tmp_path / "run", text)).data.file == tmp_path / "a.h5"


def test_unset_settings_are_left_out_of_toml():
    assert "file_bin_ms" not in settings_to_toml(Settings())
    assert "# file_bin_ms =\n" in commented_toml(Settings(), "Mine")


# The table of settings


def test_every_setting_has_a_doc_and_a_type():
    table = {field.key: field for field in field_table()}
    assert len(table) == sum(len(section) for section in Settings().model_dump().values())
    assert all(field.doc and field.type for field in table.values())
    rate = table["train.learning_rate"]
    assert (rate.type, rate.range, rate.default) == ("number", "above 0, at most 1", 1e-3)
    assert table["data.file"].default is None
    assert table["model.norm_place"].choices == ("pre", "post")


def test_every_default_and_every_choice_is_itself_accepted(tmp_path):
    path = write(tmp_path, "[train]\nwarmup_epochs = 1\n")  # inverse-sqrt needs a warm-up
    for field in field_table():
        for value in (*field.choices, field.default):
            if value is None or value == "cuda:N":
                continue
            text = str(value).lower() if isinstance(value, bool) else str(value)
            section, name = field.key.split(".")
            settings = load_settings(path, [f"{field.key}={text}"])
            found = getattr(getattr(settings, section), name)
            assert (list(found) if isinstance(found, tuple) else found) == value


# Paths


def test_a_path_of_windows_in_double_quotes_is_explained(tmp_path):
    path = write(tmp_path, '[data]\nfile = "C:\\Users\\lab\\spikes.npz"\n')
    with pytest.raises(SettingsError, match="line 2") as caught:
        load_settings(path)
    assert "single quotes: file = 'C:" in caught.value.hint


def test_a_home_that_nobody_has_stays_a_name():
    settings = load_settings(overrides=["data.file=~nosuchuser/spikes.npz"])
    assert settings.data.file == Path.cwd() / "~nosuchuser" / "spikes.npz"
    with pytest.raises(SettingsError, match="no config file ~nosuchuser"):
        load_settings("~nosuchuser")
