"""Options that several commands share."""

from typing import Annotated

import typer

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE|PRESET",
        help="Settings: a TOML file, or a preset's name (see: ndt presets).",
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
    bool,
    typer.Option("--json", help="Print one JSON object on standard output, nothing else."),
]
