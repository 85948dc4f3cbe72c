"""``ndt sweep show`` and ``ndt sweep spaces``: what was found, and what is drawn."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from ndt_cli.commands.console import next_step, note, out, plain_table, print_json, say
from ndt_cli.commands.flags import CsvOption, JsonOption
from ndt_cli.engine.measures import MEASURES, score_text
from ndt_cli.errors import count, typed
from ndt_cli.settings.explain import heading, value_text
from ndt_cli.settings.load import at_home

if TYPE_CHECKING:
    from ndt_cli.search.results import SweepResults


def spaces(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="Show this one. Your own file is checked.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the search spaces, or show one.

    The output for one space is a file that you can edit:

    ndt sweep spaces generic > mine.toml
    """
    from ndt_cli.search.space import SPACE_OF_PRESET, find_space, space_names, space_text

    if name is not None:
        found = find_space(name)
        shipped = found.name in space_names() and not at_home(name).is_file()
        text = space_text(found.name) if shipped else found.to_toml()
        if as_json:
            draws = {key: {draw.kind: draw.values} for key, draw in found.draws.items()}
            print_json(
                "space/1", {"name": found.name, "draws": draws, "conditions": found.conditions}
            )
        else:
            out.out(text, end="")
        return
    rows = {}
    for space in space_names():
        title = space_text(space).partition("\n")[0].removeprefix("#").strip()
        presets = [preset for preset, its in SPACE_OF_PRESET.items() if its == space]
        rows[space] = {"title": title, "presets": presets}
    if as_json:
        print_json("spaces/1", {"spaces": [{"name": space, **row} for space, row in rows.items()]})
        return
    table = plain_table("Space", "What it is for", "Taken by default with")
    for space, row in rows.items():
        table.add_row(space, str(row["title"]), ", ".join(row["presets"]) or "all others")
    out.print(table)


# The members of a sweep as tables that fit the terminal -------------------------------------------


def sweep_tables(results: "SweepResults", console: Console) -> list[Table]:
    """Return one table, best member first; several if one would be wider than the console.

    All of them have the same rows in the same order. Members that have not begun are left out.
    """
    shown = [member for member in results.in_order if member.status != "waiting"]
    n_ranked = len(results.ranked)
    first = {
        "rank": [str(row) if row <= n_ranked else "-" for row in range(1, len(shown) + 1)],
        "member": [str(member.index) for member in shown],
    }
    outcome = {
        _label(name): [score_text(member.scores.get(name)) for member in shown]
        for name in _measures(results)
    }
    outcome["epochs"] = [str(member.epochs) for member in shown]
    outcome["status"] = [member.status for member in shown]
    drawn = {
        heading(key): [value_text(member.drawn.get(key)) for member in shown]
        for key in dict.fromkeys(key for member in shown for key in member.drawn)
    }
    unlimited = console.options.update(max_width=10_000)

    def fits(columns: dict[str, list[str]]) -> bool:
        table = _table({**first, **columns})
        return console.measure(table, options=unlimited).maximum <= console.width

    if fits({**outcome, **drawn}):
        return [_table({**first, **outcome, **drawn})]
    parts = [outcome, {}]
    for title, cells in drawn.items():
        if parts[-1] and not fits({**parts[-1], title: cells}):
            parts.append({})
        parts[-1][title] = cells
    return [_table({**first, **part}) for part in parts if part]


def _label(measure: str) -> str:
    return MEASURES[measure].label


def _measures(results: "SweepResults") -> list[str]:
    """Return the measures that some member has, the one that ranks first."""
    known = [name for name in MEASURES if any(name in m.scores for m in results.members)]
    return list(dict.fromkeys([results.choose_by, *known]))


def _table(columns: dict[str, list[str]]) -> Table:
    """Return a table of columns of cells by heading, the ranks first."""
    table = plain_table(padding=(0, 1, 0, 0))
    for name in columns:
        side: Literal["left", "right"] = "left" if name == "status" else "right"
        table.add_column(name.replace(" ", "\n"), justify=side, no_wrap=True)
    for rank, *cells in zip(*columns.values(), strict=True):
        style = {"1": "bold", "-": "dim"}.get(rank, "")
        table.add_row(rank, *cells, style=style)
    return table


def seeds_table(results: "SweepResults") -> Table:
    """Return one row per drawn settings, best mean over seeds first."""
    label = _label(results.choose_by)
    table = plain_table("rank", "members", f"mean {label}", "sd")
    for rank, group in enumerate(results.by_settings, start=1):
        members = ", ".join(str(index) for index in sorted(m.index for m in group.members))
        table.add_row(str(rank), members, score_text(group.mean), score_text(group.sd))
    return table


def sweep_notes(results: "SweepResults") -> list[str]:
    """Return what a reader of the table needs to know, one line each."""
    n_ranked = len(results.ranked)
    words = [f"{n_ranked} of {count(len(results.members), 'member')} ranked"]
    for status in ("stopped", "diverged", "unfinished", "waiting"):
        if n := results.count(status):
            words.append(f"{n} {'stopped early' if status == 'stopped' else status}")
    notes = [", ".join(words)]
    if n_ranked:
        notes.append("loss hidden: the same bins are hidden for all, whatever they trained with")
    diverged = [member for member in results.members if member.status == "diverged"]
    notes += [f"member {member.index} diverged: {member.message}" for member in diverged]
    if results.collapsed:
        floor = score_text(results.mean_rate.get(results.choose_by))
        numbers = ", ".join(str(member.index) for member in results.collapsed)
        who = f"{'member' if len(results.collapsed) == 1 else 'members'} {numbers}"
        notes.append(f"collapsed, no better than the mean rate ({floor}): {who}")
    if results.to_do:
        notes.append(f"if it is not running: ndt sweep --resume {typed(results.path)}")
    return notes


def best_lines(results: "SweepResults") -> list[str]:
    """Return the best settings, their score beside the references, and the command to use them."""
    best = results.best
    if best is None:
        return []
    groups, label = results.by_settings, _label(results.choose_by)
    score = f"{label} {score_text(groups[0].mean)}"
    if results.n_seeds > 1:
        score += f" (mean of {results.n_seeds} seeds)"
    beside = [
        f"{name} {score_text(scores[results.choose_by])}"
        for name in ("default run", "smoothing", "mean rate")
        if results.choose_by in (scores := results.references.get(name, {}))
    ]
    file = best.folder / "settings.toml"
    default = results.references.get("default run", {}).get(results.choose_by, math.nan)
    if MEASURES[results.choose_by].is_better(default, groups[0].mean):
        beside[0] += " (better)"
    return [
        f"best settings: {file}",
        f"  {score}" + (f"; {', '.join(beside)}" if beside else ""),
        f"  use them: ndt train --config {typed(file)}",
    ]


# ``ndt sweep show``, and how a search ends: tables, notes and figures -----------------------------


def show(
    path: Annotated[Path, typer.Argument(metavar="SWEEP", help="Folder of a sweep.")],
    as_csv: CsvOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the members of a sweep, best first, and draw figures.

    Also while it runs. The figures are in SWEEP/figures.
    """
    from ndt_cli.search.folder import SweepFolder

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    results = SweepFolder.open(path).results()
    if as_csv:
        out.out(results.to_csv(), end="")
        return
    show_results(results, as_json)


def show_results(results: "SweepResults", as_json: bool) -> None:
    """Draw the members of a sweep, and print them best first."""
    from ndt_cli.report.sweep_figures import write_sweep_figures
    from ndt_cli.search.folder import SweepFolder
    from ndt_cli.search.study import importance, importance_caveat

    draws = SweepFolder.open(results.path).space.draws
    figures = write_sweep_figures(results.path / "figures", results, draws)
    shares = importance(results, draws)
    if as_json:
        best = results.best
        print_json(
            "sweep/1",
            {
                **results.to_json(),
                "best_settings": best and str(best.folder / "settings.toml"),
                "importance": shares,
                "figures": [str(figure) for figure in figures],
            },
        )
        next_step(f"ndt ensemble {typed(results.path)}")
        return
    for table in sweep_tables(results, out):
        out.print(table)
    if results.n_seeds > 1:
        out.print(seeds_table(results))
    for line in [*sweep_notes(results), *_lineage_notes(results.path)]:
        note(line, style="dim")
    if shares:
        words = ", ".join(f"{heading(key)} {share:.0%}" for key, share in shares.items())
        caveat = importance_caveat(results)
        say(f"importance: {words}" + (f" ({caveat})" if caveat else ""))
    for figure in figures:
        say(f"picture: {figure}")
    for line in best_lines(results):
        say(line)
    say(f"sweep: {results.path}")
    next_step(f"ndt ensemble {typed(results.path)}")


def _lineage_notes(sweep: Path) -> list[str]:
    from ndt_cli.search.pbt import Lineage

    lineage = Lineage.read(sweep)
    if lineage is None:
        return []
    return [
        f"population-based: ranked every {lineage.interval_epochs} epochs, {len(lineage.moves)} "
        f"times a member was replaced by a copy of another; all of them: {sweep / 'pbt.json'}",
        "the settings shown are those that each member ended with",
    ]
