"""``ndt presets``: list or show the presets, and describe the settings."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.syntax import Syntax
from rich.table import Table

from ndt_cli.commands.console import next_step, out, plain_table, print_json
from ndt_cli.commands.flags import JsonOption
from ndt_cli.errors import typed
from ndt_cli.settings.explain import commented_toml, field_table
from ndt_cli.settings.load import preset_names, read_preset


def presets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="PRESET", help="Show this preset.", show_default=False),
    ] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="List all settings: range, default, description.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the presets, show one, or explain every setting.

    A shown preset is a complete config: ndt presets lorenz > mine.toml
    """
    if name is not None and fields:
        raise typer.BadParameter("give a preset's name or --fields, not both")
    if fields:
        _show_fields(as_json)
    elif name is not None:
        _show_preset(name, as_json)
    else:
        _list_presets(as_json)


def _list_presets(as_json: bool) -> None:
    infos = [read_preset(name) for name in preset_names()]
    if as_json:
        print_json(
            "presets/1", {"presets": [{"name": info.name, "title": info.title} for info in infos]}
        )
        return
    table = plain_table("Preset", "What it is")
    for info in infos:
        table.add_row(info.name, info.title)
    out.print(table)
    next_step("ndt presets recordings", "ndt presets --fields")


def _show_preset(name: str, as_json: bool) -> None:
    info = read_preset(name)
    if as_json:
        settings = info.settings.model_dump(mode="json")
        print_json("preset/1", {"name": info.name, "title": info.title, "settings": settings})
        return
    text = commented_toml(info.settings, info.title)
    if out.file.isatty():  # not a file, even if FORCE_COLOR is set
        out.print(
            Syntax(text, "toml", theme="ansi_dark", background_color="default", word_wrap=True)
        )
    else:
        out.out(text, end="")
    data = "" if info.settings.data.synthetic != "none" else " --data spikes.npz"
    next_step(f"ndt train --config {typed(name)}{data}", f"ndt presets {typed(name)} > mine.toml")


def _show_fields(as_json: bool) -> None:
    if as_json:
        print_json("settings/1", {"fields": [asdict(field) for field in field_table()]})
        return
    table = Table("Setting", "Takes", "Default", "What it does", show_lines=True)
    table.columns[0].no_wrap, table.columns[0].overflow = True, "fold"
    for field in field_table():
        default = "" if field.default is None else json.dumps(field.default)
        table.add_row(field.key, field.expected, default, field.doc)
    out.print(table)
    next_step("ndt train --set train.max_epochs=10")
