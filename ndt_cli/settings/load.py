"""Load settings: a TOML file or a shipped preset, with overrides, checked together."""

import codecs
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

import tomli_w
from pydantic import ValidationError

from ndt_cli.atomic import check_name
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

_PRESETS = files("ndt_cli").joinpath("presets")
_MAX_BYTES = 1_000_000  # of a config
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_TOML_HINT = 'A setting is written as  name = value  below its [section]; text needs "quotes".'
# What an error names as the origin of a value.
_CONFIG, _OVERRIDES = "`config`", "`overrides`"

Overrides: TypeAlias = Sequence[str] | Mapping[str, Any]
"""Changes to settings: ``["train.max_epochs=20"]``, or a mapping, nested or with dotted keys."""


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


def load_settings(
    config: str | Path | Mapping[str, Any] | ConfigSource | None = None, overrides: Overrides = ()
) -> Settings:
    """Read a config or preset, apply the overrides, and check everything together.

    Parameters
    ----------
    config : str, Path, mapping or ConfigSource, optional
        A TOML file (``-`` for standard input), a preset's name, or the settings themselves,
        nested as in a file (``{"train": {"max_epochs": 20}}``) or with dotted keys. Default: the
        preset ``lorenz-quick``. A relative ``data.file`` in a file counts from that file's
        folder.
    overrides : sequence of str, or mapping
        ``"section.name=value"``, applied in order; a later one wins. Or a mapping, as for
        ``config``. A relative ``data.file`` here counts from the working directory.

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
    >>> load_settings("recordings", {"model": {"width": 32}, "mask.ratio": 0.2}).model.width
    32
    >>> load_settings(overrides=["train.max_epoch=20"])
    Traceback (most recent call last):
    ndt_cli.errors.SettingsError: train.max_epoch ...
    """
    if isinstance(config, Mapping):
        return _checked({}, {}, [(config, _CONFIG), (overrides, _OVERRIDES)])
    return resolve_config(find_config(config), overrides)


def settings_to_toml(settings: Settings) -> str:
    """Return the settings as TOML that `load_settings` reads back to the same settings."""
    return tomli_w.dumps(plain_values(settings))


def resolve_config(source: ConfigSource, overrides: Overrides = ()) -> Settings:
    """Return the settings of a config with the overrides; see `load_settings`."""
    values = parse_config(source)
    folder = source.path.parent if source.path is not None else Path()
    origins = dict.fromkeys(values, source.label)
    for section, fields in values.items():
        if isinstance(fields, dict):
            origins |= {f"{section}.{name}": source.label for name in fields}
    _make_paths(values, folder)
    return _checked(values, origins, [(overrides, _OVERRIDES)])


def _checked(
    values: dict[str, Any], origins: dict[str, str], changes: Sequence[tuple[Overrides, str]]
) -> Settings:
    """Apply changes, each with what an error calls it, and check everything together."""
    problems: list[str | None] = []
    for overrides, origin in changes:
        if isinstance(overrides, Mapping):
            pairs = _flat(overrides)
            problems += [_put(key, _plain(value), values, origins, origin) for key, value in pairs]
        else:
            texts = [overrides] if isinstance(overrides, str) else overrides
            problems += [_apply(text, values, origins) for text in texts]
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
    wants_text = field is not None and field.type in ("choice", "path", "text")
    return _put(key, _parse_value(text, wants_text=wants_text), values, origins, _OVERRIDES)


def _put(
    key: str, value: Any, values: dict[str, Any], origins: dict[str, str], origin: str
) -> str | None:
    """Put one setting into the values; return what is wrong with its name, or None."""
    if all(field.key != key for field in field_table()):
        return unknown_key(key, origin)
    section, name = key.split(".")
    fields = values.setdefault(section, {})
    if isinstance(fields, dict):  # otherwise the config is wrong, which the validation reports
        fields[name] = value
        origins[key] = origin
        if key in _PATHS:
            _make_paths({section: fields}, Path())
    return None


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of a mapping that is nested, has dotted keys, or both."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield str(key), value


def _plain(value: Any) -> Any:
    """Return a value as a TOML file would give it: NumPy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, (tuple, range)) else value


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
        given = fields.get(name)
        if isinstance(given, (str, Path)) and given:
            fields[name] = _absolute(given, folder)
        elif isinstance(given, list):
            fields[name] = [
                _absolute(path, folder) if isinstance(path, (str, Path)) else path for path in given
            ]


def _absolute(path: str | Path, folder: Path) -> Path:
    found = (folder / at_home(path)).absolute()
    check_name(found)
    return found


def at_home(path: str | Path) -> Path:
    """Return a path with a ``~`` at its beginning as a folder; one of an unknown user stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (which raises for an unknown user)


# Configs and presets -----------------------------------------------------------------------------


def preset_names() -> list[str]:
    """Return the shipped presets: quick ones first, ablations last."""
    names = [
        entry.name.removesuffix(".toml")
        for entry in _PRESETS.iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(names, key=lambda n: (n.startswith("ablation"), not n.endswith("-quick"), n))


def read_preset(name: str) -> PresetInfo:
    """Return a shipped preset; `SettingsError` if no preset has that name."""
    source = _preset_source(name)
    title = source.text.partition("\n")[0].removeprefix("#").strip()
    return PresetInfo(source.name, title, resolve_config(source))


def find_config(config: str | Path | ConfigSource | None = None) -> ConfigSource:
    """Find a config: the file of this name if there is one, else the preset; ``-`` is read.

    ``-`` stands for standard input; a source that was found before is returned as it is.

    Raises
    ------
    SettingsError
        If there is neither, or the file is not text.
    """
    if config is None:
        return _preset_source(DEFAULT_PRESET)
    if isinstance(config, ConfigSource):
        return config
    if str(config) == "-":
        # Relative paths count from the working directory, as in the overrides.
        text = _decoded(_read_standard_input(), "standard input", "a config", _TOML_HINT)
        if not text.strip():  # the command before the pipe has failed
            raise SettingsError("standard input is empty; expected a config", _TOML_HINT)
        return ConfigSource("standard input", "file", text, Path("-"))
    path, name = at_home(config), str(config)
    if path.is_file():
        hint = (
            "`config` takes a TOML file or a preset's name; give a spike file as `data.file=FILE`"
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
    text = _PRESETS.joinpath(f"{stem}.toml").read_text(encoding="utf-8")
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
        return _decoded(file.read(_MAX_BYTES + 1), str(path), what, hint)


def _read_standard_input() -> bytes:
    """Return what standard input holds; a stream of text, as in a notebook, has no bytes."""
    stream: Any = getattr(sys.stdin, "buffer", sys.stdin)
    content = b"" if stream is None else stream.read(_MAX_BYTES + 1)
    return content.encode() if isinstance(content, str) else content


def _decoded(content: bytes, name: str, what: str, hint: str) -> str:
    """Return the text of a file, or raise as `read_toml_text` does."""
    if len(content) > _MAX_BYTES:
        raise SettingsError(f"{name} is not {what}: it has more than {_MAX_BYTES} bytes", hint)
    # PowerShell's > writes UTF-16. Editors on Windows may begin UTF-8 with a mark, which TOML
    # does not allow.
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if utf16 else "UTF-8"
        raise SettingsError(
            f"{name} is not {what}: byte {error.start} is not {kind} text", hint
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
        message, hint = str(error), _TOML_HINT
        place = _PLACE.search(message)
        if place and place[1]:
            line, column = int(place[1]), int(place[2])
        else:
            lines = source.text.split("\n")
            line, column = len(lines), len(lines[-1]) + 1
        if "\\" in source.text.split("\n")[line - 1]:
            hint = "Put a path of Windows in single quotes: file = 'C:\\data\\spikes.npz'"
        raise SettingsError(
            f"{source.label}, line {line}, column {column}: {_PLACE.sub('', message)}", hint
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"{source.label}: too many lists or tables nested", _TOML_HINT
        ) from error
    except ValueError as error:
        raise SettingsError(f"{source.label}: a number has too many digits", _TOML_HINT) from error
