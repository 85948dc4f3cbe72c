"""``ndt import-ndt1``: a model of the research code as a run, or its config as settings."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.atomic import check_may_write, check_suffix, write_text_atomic
from ndt_cli.commands.console import next_step, print_json, run_warnings_shown, say, warn
from ndt_cli.commands.flags import JsonOption, OverwriteOption, SetOption, with_flag
from ndt_cli.errors import SettingsError, typed


def import_ndt1(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CHECKPOINT]", help="Model that NDT1 saved (.pth).", show_default=False
        ),
    ] = None,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="New run folder; with --config a TOML file.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Instead of a model: a YAML config of NDT1, to make settings of.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="Spike file that the model was trained on; short for --set data.file=FILE.",
            show_default=False,
        ),
    ] = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a model or a config of NDT1, the research code.

    A model becomes a run, which is evaluated like any other. Nothing in the file
    is executed.

    NDT1's files do not contain their bin width: --set data.file_bin_ms=20.
    """
    changes = with_flag(overrides, "--data", "data.file", data)
    if (checkpoint is None) == (config is None):
        raise SettingsError(
            "expected either a model or --config",
            "ndt import-ndt1 MODEL.pth --data FILE --out RUN, or "
            "ndt import-ndt1 --config CONFIG.yaml --out CONFIG.toml",
        )
    from ndt_cli.ndt1 import importing

    if config is not None:
        if changes:
            raise SettingsError(
                "--data and --set are for a model, not for --config",
                "Give them to ndt train, with the new settings.",
            )
        check_suffix(out, (".toml",))
        check_may_write(out, overwrite)
        toml, notes = importing.read_ndt1_config(config)
        write_text_atomic(out, toml, overwrite=overwrite)
    else:
        assert checkpoint is not None
        if overwrite:
            raise SettingsError(
                "--overwrite is for --config; runs are never replaced", "Choose another --out."
            )
        with run_warnings_shown():
            found = importing.import_ndt1(checkpoint, out=out, overrides=changes)
        notes = list(found.notes)
    for text in notes:
        warn(text)
    if as_json:
        print_json("import-ndt1/1", {"out": str(out), "warnings": notes})
    elif config is not None:
        say(f"settings: {out}")
        next_step(f"ndt train --config {typed(out)} --data FILE")
    else:
        say(f"run: {out}")
        next_step(f"ndt evaluate {typed(out)}")
