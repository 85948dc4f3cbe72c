"""From a TOML file or a preset, and ``--set key=value``, to one checked settings tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from ndt_cli.errors import SettingsError
from ndt_cli.settings.explain import field_table, plain_values
from ndt_cli.settings.problems import describe_problem, shortened, unknown_key
from ndt_cli.settings.sources import (
    DEFAULT_PRESET,
    ConfigSource,
    find_config,
    preset_names,
    read_preset_source,
)
from ndt_cli.settings.toml_text import parse_config, parse_value
from ndt_cli.settings.tree import Settings

__all__ = [
    "DEFAULT_PRESET",
    "ConfigSource",
    "PresetInfo",
    "find_config",
    "load_settings",
    "preset_names",
    "read_preset",
    "settings_to_toml",
]

_HINT = "All settings with their ranges: ndt presets --fields"


@dataclass(frozen=True)
class PresetInfo:
    """A shipped preset.

    Parameters
    ----------
    name : str
        What ``--config`` takes.
    title : str
        What it is for, in one line: the first comment of its file.
    settings : Settings
        Its settings, with the defaults filled in.
    """

    name: str
    title: str
    settings: Settings


def load_settings(config: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read a config or preset, apply the overrides, and check everything together.

    Parameters
    ----------
    config : str or Path, optional
        A TOML file, or a preset's name. Default: the preset ``lorenz-quick``. A relative
        ``data.file`` in a file counts from that file's folder.
    overrides : sequence of str
        ``"section.name=value"``, applied in order; a later one wins. A relative
        ``data.file`` here counts from the working directory.

    Returns
    -------
    Settings
        The checked settings; a ``data.file`` in them is absolute.

    Raises
    ------
    SettingsError
        The config is missing or is not TOML, or settings are wrong: every wrong one is
        named, one a line, with the value found, where it was written and what is allowed.

    Examples
    --------
    >>> settings = load_settings("lorenz-quick", ["train.max_epochs=20", "model.n_layers=4"])
    >>> settings.train.max_epochs, settings.model.n_layers
    (20, 4)
    >>> load_settings(overrides=["train.max_epoch=20"])
    Traceback (most recent call last):
    ndt_cli.errors.SettingsError: train.max_epoch ...
    """
    return _resolve(find_config(config), overrides)


def read_preset(name: str) -> PresetInfo:
    """Return a shipped preset.

    Raises
    ------
    SettingsError
        No preset has that name.
    """
    source = read_preset_source(name)
    title = source.text.partition("\n")[0].removeprefix("#").strip()
    return PresetInfo(source.name, title, _resolve(source, ()))


def settings_to_toml(settings: Settings) -> str:
    """Return the settings as TOML that `load_settings` reads back to the same settings.

    Unset (None) settings are left out, and paths are written absolute.
    """
    return tomli_w.dumps(plain_values(settings))


def _resolve(source: ConfigSource, overrides: Sequence[str]) -> Settings:
    values = parse_config(source)
    folder = source.path.parent if source.path is not None else Path()
    origins = dict.fromkeys(_keys(values), source.label)
    problems = []
    if isinstance(values.get("data"), dict):
        _make_path(values["data"], folder)
    for override in overrides:
        problem = _apply(override, values, origins)
        if problem is not None:
            problems.append(problem)
    try:
        # Strict: true is not a number here, and neither is "1e-3".
        settings = Settings.model_validate(values, strict=True)
    except ValidationError as error:
        problems += [describe_problem(item, origins) for item in error.errors()]
    if problems:
        raise SettingsError("\n".join(problems), _HINT)
    return settings


def _keys(values: dict[str, Any]) -> list[str]:
    keys = list(values)
    for section, fields in values.items():
        if isinstance(fields, dict):
            keys += [f"{section}.{name}" for name in fields]
    return keys


def _apply(override: str, values: dict[str, Any], origins: dict[str, str]) -> str | None:
    """Put one override into the values; return what is wrong with it, if anything."""
    origin = "--set"
    key, equals, text = (part.strip() for part in override.partition("="))
    if not key or not equals or not text:
        missing = "value" if key else "name"
        return f"--set {shortened(override)} has no {missing}: write it as section.name=value"
    field = next((field for field in field_table() if field.key == key), None)
    if field is None:
        return unknown_key(key, origin)
    section, name = key.split(".")
    fields = values.setdefault(section, {})
    if isinstance(fields, dict):  # otherwise the config's own fault, and reported as such
        fields[name] = parse_value(text, wants_text=field.type in ("choice", "path", "text"))
        origins[key] = origin
        if key == "data.file":
            _make_path(fields, Path())
    return None


def _make_path(data: dict[str, Any], folder: Path) -> None:
    # Strict validation takes a Path, not text; what is no text is left for it to refuse.
    if isinstance(data.get("file"), str) and data["file"]:
        data["file"] = (folder / Path(data["file"]).expanduser()).absolute()
