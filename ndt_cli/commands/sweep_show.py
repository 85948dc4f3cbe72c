"""``ndt sweep show``, and how a search ends: tables, notes and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import log, out, print_json
from ndt_cli.commands.options import JsonOption

if TYPE_CHECKING:
    from ndt_cli.search.results import SweepResults


def show(
    path: Annotated[Path, typer.Argument(metavar="SWEEP", help="Folder of a sweep.")],
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print a CSV table on standard output, nothing else.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the members of a sweep, best first, and draw them.

    Also while it runs. The pictures are in SWEEP/figures.
    """
    from ndt_cli.search.folder import SweepFolder

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    results = SweepFolder.open(path).results()
    if as_csv:
        out.out(results.to_csv(), end="", highlight=False)
        return
    show_results(results, as_json)


def show_results(results: "SweepResults", as_json: bool) -> None:
    """Draw the members of a sweep, and print them best first."""
    from ndt_cli.commands.sweep_table import sweep_notes, sweep_tables
    from ndt_cli.report.sweep import write_sweep_figures
    from ndt_cli.search.folder import SweepFolder

    draws = SweepFolder.open(results.path).space.draws
    figures = write_sweep_figures(results.path / "figures", results, draws)
    if as_json:
        print_json({**results.to_json(), "figures": [str(figure) for figure in figures]})
        return
    for table in sweep_tables(results, out):
        out.print(table)
    for note in [*sweep_notes(results), *_lineage_notes(results.path)]:
        log.print(note, style="dim", highlight=False, soft_wrap=True)
    for figure in figures:
        out.print(f"picture: {figure}", highlight=False, soft_wrap=True)
    out.print(f"sweep: {results.path}", highlight=False, soft_wrap=True)


def _lineage_notes(sweep: Path) -> list[str]:
    from ndt_cli.search.lineage import Lineage

    lineage = Lineage.read(sweep)
    if lineage is None:
        return []
    return [
        f"population-based: ranked every {lineage.interval_epochs} epochs, {len(lineage.moves)} "
        f"times a member went on from another; who, when and with what: {sweep / 'pbt.json'}",
        "the settings shown are those that each member ended with",
    ]
