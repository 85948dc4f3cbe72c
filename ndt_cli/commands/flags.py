"""Options shared by several commands."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ndt_cli.commands.console import note
from ndt_cli.errors import SettingsError

if TYPE_CHECKING:
    from ndt_cli.settings.tree import Settings

# As `ndt_cli.data.spike_data.Split` and the checkpoints of `ndt_cli.engine.measures`, which take
# longer to import.
SplitChoice = Literal["train", "valid", "all"]
CheckpointChoice = Literal[
    "best-masked-loss", "best-unmasked-loss", "best-rate-r2", "best-co-bps", "last"
]


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE|PRESET",
        help="Settings: a TOML file, - for standard input, or a preset's name (ndt presets).",
        show_default="lorenz-quick",
    ),
]

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one setting, such as train.learning_rate=3e-4. May be repeated.",
        show_default=False,
    ),
]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
]

FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Start from the weights of this run: its encoder, for the same neurons or others.",
        show_default=False,
    ),
]

AcceptChangesOption = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Go on, with a warning, if a run's settings, data, log or checkpoints were changed.",
    ),
]

OtherNeuronsOption = Annotated[
    bool,
    typer.Option(
        "--other-neurons",
        help="Go on even if the file's neurons are known to differ from the run's.",
    ),
]

OtherWindowOption = Annotated[
    bool,
    typer.Option(
        "--other-window",
        help="Go on even if the file's trials are aligned otherwise than the run's.",
    ),
]

CheckpointOption = Annotated[
    CheckpointChoice | None,
    typer.Option("--checkpoint", help="Weights to use.", show_default="best by train.choose_by"),
]

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output file if it exists.")
]

FigureOverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing file of --figure.")
]

ScoredSplitOption = Annotated[
    SplitChoice | None,
    typer.Option("--split", help="Trials to score.", show_default="valid; all of another file"),
]

CsvOption = Annotated[
    bool, typer.Option("--csv", help="Print a CSV table on standard output, nothing else.")
]

DataOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        "-d",
        help="Spike file. Repeated: several sessions, one encoder for all.",
        show_default=False,
    ),
]

_FILES = ("data.file=", "data.files=")


def with_data(changes: list[str] | None, files: list[Path] | None) -> list[str]:
    """Add the spike files of ``--data`` to the changes of ``--set``, as `with_flag` does."""
    if files and len(files) > 1:
        listed = json.dumps([str(file) for file in files])
        return with_flag(changes, "--data", "data.files", listed)
    return with_flag(changes, "--data", "data.file", files[0] if files else None)


def names_files(changes: list[str]) -> bool:
    """Tell whether changes name spike files."""
    return any(change.startswith(_FILES) for change in changes)


def chosen_settings(config: str | None, changes: list[str]) -> "tuple[str, Settings]":
    """Load the settings of ``--config``, or the default ones for spikes, and print which.

    Returns the name of the preset or file, too.
    """
    from ndt_cli.settings.explain import field_table
    from ndt_cli.settings.load import RECORDING_PRESET, find_config, load_settings, parse_config

    chosen = ""
    if config is None and names_files(changes):
        config = RECORDING_PRESET
        chosen = " (the default for a spike file; --config chooses another)"
    source = find_config(config)
    settings = load_settings(source, changes)
    if source.kind == "file":
        n_all, n_own = len(field_table()), sum(map(len, parse_config(source).values()))
        chosen = f" ({n_own} of {n_all} settings; the others have their defaults)"
    note(f"settings: {source.label}{chosen}")
    return Path(source.name).stem, settings


def with_flag(changes: list[str] | None, flag: str, key: str, value: object) -> list[str]:
    """Add the setting that a flag stands for to the changes of ``--set``; not if it is None.

    Raises
    ------
    SettingsError
        If ``--set`` changes the same setting.
    """
    changes = list(changes or [])
    if value is None:
        return changes
    if any(change.partition("=")[0].strip() == key for change in changes):
        raise SettingsError(
            f"{flag} and --set {key} are the same setting", "Leave out one of them."
        )
    return [*changes, f"{key}={value}"]


def settings_from(start: Path, config: str | None, changes: list[str]) -> "Settings":
    """Return the settings of a run that starts from another."""
    if config is not None:
        raise SettingsError(
            "--from takes the settings of its run",
            "Leave out --config; --set changes some of them.",
        )
    made = any(change.startswith("data.synthetic=") for change in changes)
    if not made and not names_files(changes):
        raise SettingsError("--from needs spikes to train on", "Give a spike file: --data FILE.")
    from ndt_cli.engine.starting import Start

    note(f"settings: model, masks and learning rate of {start}, lengths by the size of the data")
    return Start.load(start).settings(changes)
