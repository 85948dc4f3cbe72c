"""Where settings come from: a TOML file, or a preset that ships with the package."""

import codecs
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ValidationError

from ndt_cli.errors import SettingsError, nearest
from ndt_cli.settings.explain import (
    describe_problem,
    field_table,
    plain_values,
    shortened,
    unknown_key,
)
from ndt_cli.settings.tree import Settings

DEFAULT_PRESET = "lorenz-quick"
RECORDING_PRESET = "recordings"

_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class ConfigSource:
    """A config that was found, not yet parsed.

    Parameters
    ----------
    name : str
        The file's path as given, or the preset's name.
    kind : {"file", "preset"}
        Which of the two was taken.
    text : str
        The TOML text.
    path : Path or None
        The file; None for a preset.
    """

    name: str
    kind: Literal["file", "preset"]
    text: str
    path: Path | None

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return self.name if self.kind == "file" else f"preset {self.name}"


def preset_names() -> list[str]:
    """Return the shipped presets: quick ones first, ablations last."""
    names = [
        entry.name.removesuffix(".toml")
        for entry in files("ndt_cli.presets").iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(names, key=lambda n: (n.startswith("ablation"), not n.endswith("-quick"), n))


def read_preset_source(name: str) -> ConfigSource:
    """Return the shipped preset of this name, with or without ``.toml``.

    Raises
    ------
    SettingsError
        No preset has that name.
    """
    stem = name.removesuffix(".toml")
    if stem not in preset_names():
        raise _not_found(f"there is no preset {stem!r}", stem)
    text = files("ndt_cli.presets").joinpath(f"{stem}.toml").read_text(encoding="utf-8")
    return ConfigSource(stem, "preset", text, None)


def find_config(config: str | Path | None = None) -> ConfigSource:
    """Find the config that ``--config`` means: the file if it exists, else the preset.

    Parameters
    ----------
    config : str or Path, optional
        A TOML file, or a preset's name with or without ``.toml``. Default: the preset
        ``lorenz-quick``.

    Raises
    ------
    SettingsError
        There is neither such a file nor such a preset, or the file is not text.
    """
    if config is None:
        return read_preset_source(DEFAULT_PRESET)
    path = Path(config).expanduser()
    name = str(config)
    if path.is_file():
        text = read_toml_text(
            path,
            "a config file",
            "--config takes a TOML file or a preset's name; a spike file goes into "
            "--set data.file=PATH",
        )
        return ConfigSource(name, "file", text, path)
    stem = name.removesuffix(".toml")
    if stem in preset_names():
        return read_preset_source(stem)
    if path.exists():
        what = "folder" if path.is_dir() else "device or pipe"
        raise _not_found(f"{name} is a {what}, not a config file", path.stem)
    raise _not_found(f"there is no config file {name}, and no preset of that name", path.stem)


def read_toml_text(path: Path, what: str, hint: str) -> str:
    """Read the text of a TOML file: UTF-8, or UTF-16 with the mark that Windows begins it with.

    Parameters
    ----------
    path : Path
        The file.
    what, hint : str
        What it should be, and what to try when it is not.

    Raises
    ------
    SettingsError
        It is not text, or far larger than any file that a person writes.
    """
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise SettingsError(f"{path} is not {what}: it has more than {_MOST_BYTES} bytes", hint)
    # PowerShell's > writes UTF-16. Editors on Windows may begin UTF-8 with a mark too, which TOML
    # does not allow.
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if utf16 else "UTF-8"
        raise SettingsError(
            f"{path} is not {what}: byte {error.start} is not {kind} text", hint
        ) from error


def _not_found(message: str, name: str) -> SettingsError:
    close = nearest(name, preset_names())
    suggestion = f"; did you mean the preset {close}?" if close else ""
    return SettingsError(message + suggestion, "List the presets with: ndt presets")


# ------------------------------------------------------------------------------------------------
# TOML in, with the place of a syntax error said.
# ------------------------------------------------------------------------------------------------


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TOML_HINT = 'A setting is written as  name = value  below its [section]; text needs "quotes".'


def parse_config(source: ConfigSource) -> dict[str, Any]:
    """Parse a config's text.

    Raises
    ------
    SettingsError
        The text is not TOML, or more than any config holds; the message names file, line and
        column.
    """
    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        if place and place[1]:
            line, column = int(place[1]), int(place[2])
        else:
            lines = source.text.split("\n")
            line, column = len(lines), len(lines[-1]) + 1
        raise SettingsError(
            f"{source.label}, line {line}, column {column}: {_PLACE.sub('', message)}",
            _TOML_HINT,
        ) from error
    except (RecursionError, ValueError) as error:
        what = "lists or tables in one another" if isinstance(error, RecursionError) else "digits"
        raise SettingsError(f"{source.label}: too many {what}", _TOML_HINT) from error


def parse_value(text: str, *, wants_text: bool) -> Any:
    """Parse the value of ``--set key=value``: a TOML value, or bare text.

    Parameters
    ----------
    text : str
        What follows the equals sign.
    wants_text : bool
        The setting holds text or a path, so that ``2024`` means the file of that name.
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text if wants_text else _shell_number(text)
    except (RecursionError, ValueError):  # brackets, or digits, by the thousand
        return text
    if len(parsed) > 1:  # a line break in the text began a second key
        return text
    value = parsed["value"]
    return text if wants_text and not isinstance(value, str) else value


def _shell_number(text: str) -> float | str:
    # TOML wants digits on both sides of the point; people type .1 and 5. on a command line.
    return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)", text) else text


# ------------------------------------------------------------------------------------------------
# From a TOML file or a preset, and ``--set key=value``, to one checked settings tree.
# ------------------------------------------------------------------------------------------------


__all__ = [
    "DEFAULT_PRESET",
    "RECORDING_PRESET",
    "ConfigSource",
    "PresetInfo",
    "find_config",
    "load_settings",
    "preset_names",
    "read_preset",
    "settings_to_toml",
]

_FIELDS_HINT = "All settings with their ranges: ndt presets --fields"


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
    if problems:  # a setting of two kinds is wrong as either
        raise SettingsError("\n".join(dict.fromkeys(problems)), _FIELDS_HINT)
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
