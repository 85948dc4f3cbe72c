"""Load settings: a TOML file or a shipped preset, with overrides, checked together."""

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

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PRESET = "lorenz-quick"

RECORDING_PRESET = "recordings"
"""What `ndt train` takes for a spike file."""

_MAX_BYTES = 1_000_000  # of a config
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TOML_HINT = 'A setting is written as  name = value  below its [section]; text needs "quotes".'
_OVERRIDES = "`overrides`"  # what an error names as the origin of a value


@dataclass(frozen=True)
class ConfigSource:
    """The text of a config, not yet parsed."""

    name: str  # the file's path as given, or the preset's name
    kind: Literal["file", "preset"]
    text: str
    path: Path | None  # None for a preset

    @property
    def label(self) -> str:
        """Name of the source in a message."""
        return self.name if self.kind == "file" else f"preset {self.name}"


@dataclass(frozen=True)
class PresetInfo:
    """A shipped preset."""

    name: str
    title: str  # the first comment of its file
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
        If the config is missing or is not TOML, or settings are wrong. The message names every
        wrong setting on a line of its own: value found, where it was written, what is allowed.

    Examples
    --------
    >>> settings = load_settings("lorenz-quick", ["train.max_epochs=20", "model.n_layers=4"])
    >>> settings.train.max_epochs, settings.model.n_layers
    (20, 4)
    >>> load_settings(overrides=["train.max_epoch=20"])
    Traceback (most recent call last):
    ndt_cli.errors.SettingsError: train.max_epoch ...
    """
    return resolve_config(find_config(config), overrides)


def settings_to_toml(settings: Settings) -> str:
    """Return the settings as TOML that `load_settings` reads back to the same settings."""
    return tomli_w.dumps(plain_values(settings))


def resolve_config(source: ConfigSource, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of a config with the overrides; see `load_settings`."""
    values = parse_config(source)
    folder = source.path.parent if source.path is not None else Path()
    origins = dict.fromkeys(values, source.label)
    for section, fields in values.items():
        if isinstance(fields, dict):
            origins |= {f"{section}.{name}": source.label for name in fields}
    _make_paths(values, folder)
    problems = [_apply(override, values, origins) for override in overrides]
    try:
        # Strict: neither true nor "1e-3" is a number.
        settings = Settings.model_validate(values, strict=True)
    except ValidationError as error:
        problems += [describe_problem(item, origins) for item in error.errors()]
    # A setting of two kinds is wrong as either: the same problem twice.
    if found := dict.fromkeys(problem for problem in problems if problem is not None):
        raise SettingsError("\n".join(found), "All settings with their ranges: `field_table()`")
    return settings


def _apply(override: str, values: dict[str, Any], origins: dict[str, str]) -> str | None:
    """Put one override into the values; return what is wrong with it, or None."""
    key, _, text = (part.strip() for part in override.partition("="))
    if not key or not text:
        missing = "value" if key else "name"
        return f"{_OVERRIDES} {shortened(override)} has no {missing}; expected section.name=value"
    field = next((field for field in field_table() if field.key == key), None)
    if field is None:
        return unknown_key(key, _OVERRIDES)
    section, name = key.split(".")
    fields = values.setdefault(section, {})
    if isinstance(fields, dict):  # otherwise the config is wrong, which the validation reports
        fields[name] = _parse_value(text, wants_text=field.type in ("choice", "path", "text"))
        origins[key] = _OVERRIDES
        if key in _PATHS:
            _make_paths({section: fields}, Path())
    return None


def _parse_value(text: str, *, wants_text: bool) -> Any:
    """Parse the value of an override: TOML, or bare text; ``2024`` may be the name of a file."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        # TOML wants digits on both sides of the point; people type .1 and 5. on a command line.
        is_number = not wants_text and re.fullmatch(r"[+-]?(\d+\.|\.\d+)", text)
        return float(text) if is_number else text
    except (RecursionError, ValueError):  # thousands of brackets or digits
        return text
    if len(parsed) > 1:  # a line break in the text began a second key
        return text
    value = parsed["value"]
    return text if wants_text and not isinstance(value, str) else value


_PATHS = ("data.file", "data.files", "train.start_from")


def _make_paths(values: dict[str, Any], folder: Path) -> None:
    # Strict validation takes a Path, not text, and refuses anything else.
    for section, _, name in (key.partition(".") for key in _PATHS):
        fields = values.get(section)
        if not isinstance(fields, dict):
            continue
        if isinstance(fields.get(name), str) and fields[name]:
            fields[name] = _absolute(fields[name], folder)
        elif isinstance(fields.get(name), list):
            fields[name] = [
                _absolute(path, folder) if isinstance(path, str) else path for path in fields[name]
            ]


def _absolute(path: str, folder: Path) -> Path:
    return (folder / Path(path).expanduser()).absolute()


# Configs and presets -----------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Return the shipped presets: quick ones first, ablations last."""
    names = [
        entry.name.removesuffix(".toml")
        for entry in files("ndt_cli.presets").iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(names, key=lambda n: (n.startswith("ablation"), not n.endswith("-quick"), n))


def read_preset(name: str) -> PresetInfo:
    """Return a shipped preset; `SettingsError` if no preset has that name."""
    source = _preset_source(name)
    title = source.text.partition("\n")[0].removeprefix("#").strip()
    return PresetInfo(source.name, title, resolve_config(source))


def find_config(config: str | Path | None = None) -> ConfigSource:
    """Find a config: the file of this name if there is one, else the preset.

    Raises
    ------
    SettingsError
        If there is neither, or the file is not text.
    """
    if config is None:
        return _preset_source(DEFAULT_PRESET)
    path, name = Path(config).expanduser(), str(config)
    if path.is_file():
        hint = (
            "`config` takes a TOML file or a preset's name; for a spike file, set `data.file=PATH`"
        )
        return ConfigSource(name, "file", read_toml_text(path, "a config file", hint), path)
    if name.removesuffix(".toml") in preset_names():
        return _preset_source(name)
    if path.exists():
        what = "folder" if path.is_dir() else "device or pipe"
        raise _no_config(f"{name} is a {what}, not a config file", path.stem)
    raise _no_config(f"there is no config file {name}, and no preset of that name", path.stem)


def _preset_source(name: str) -> ConfigSource:
    stem = name.removesuffix(".toml")
    if stem not in preset_names():
        raise _no_config(f"there is no preset {stem!r}", stem)
    text = files("ndt_cli.presets").joinpath(f"{stem}.toml").read_text(encoding="utf-8")
    return ConfigSource(stem, "preset", text, None)


def _no_config(message: str, name: str) -> SettingsError:
    close = nearest(name, preset_names())
    suggestion = f"; did you mean the preset {close}?" if close else ""
    return SettingsError(message + suggestion, "List the presets with: `preset_names()`")


def read_toml_text(path: Path, what: str, hint: str) -> str:
    """Read the text of a TOML file: UTF-8, or UTF-16 with a byte order mark.

    Raises
    ------
    SettingsError
        If the file is not text, or larger than 1 MB; it names ``what`` was expected, and ``hint``.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise SettingsError(f"{path} is not {what}: it has more than {_MAX_BYTES} bytes", hint)
    # PowerShell's > writes UTF-16. Editors on Windows may begin UTF-8 with a mark, which TOML
    # does not allow.
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if utf16 else "UTF-8"
        raise SettingsError(
            f"{path} is not {what}: byte {error.start} is not {kind} text", hint
        ) from error


def parse_config(source: ConfigSource) -> dict[str, Any]:
    """Parse the text of a config.

    Raises
    ------
    SettingsError
        If the text is not TOML; the message names file, line and column.
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
            f"{source.label}, line {line}, column {column}: {_PLACE.sub('', message)}", _TOML_HINT
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"{source.label}: too many lists or tables nested", _TOML_HINT
        ) from error
    except ValueError as error:
        raise SettingsError(f"{source.label}: a number has too many digits", _TOML_HINT) from error
