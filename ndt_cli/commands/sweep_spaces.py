"""``ndt sweep spaces``: what a search draws from."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import out, print_json
from ndt_cli.commands.options import JsonOption


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="Show this one. A file of your own is checked.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the search spaces, or show one.

    A shown space is a file to change: ndt sweep spaces generic > mine.toml
    """
    from rich.table import Table

    from ndt_cli.search.draws import written
    from ndt_cli.search.find_space import SPACE_OF_PRESET, find_space, space_names, space_text

    if name is not None:
        found = find_space(name)
        shipped = found.name in space_names() and not Path(name).expanduser().is_file()
        text = space_text(found.name) if shipped else found.to_toml()
        if as_json:
            print_json(
                {"name": found.name, "draws": {k: written(d) for k, d in found.draws.items()}}
            )
        else:
            out.out(text, end="", highlight=False)
        return
    rows = {}
    for space in space_names():
        title = space_text(space).partition("\n")[0].removeprefix("#").strip()
        presets = [preset for preset, its in SPACE_OF_PRESET.items() if its == space]
        rows[space] = {"title": title, "presets": presets}
    if as_json:
        print_json({"spaces": [{"name": space, **row} for space, row in rows.items()]})
        return
    table = Table("Space", "What it is for", "Taken by default with", box=None, pad_edge=False)
    for space, row in rows.items():
        table.add_row(space, str(row["title"]), ", ".join(row["presets"]) or "all others")
    out.print(table)
