"""Where settings come from: a TOML file, or a preset that ships with the package."""

import codecs
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from ndt_cli.errors import SettingsError, nearest

DEFAULT_PRESET = "lorenz-quick"

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
