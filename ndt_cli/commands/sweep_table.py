"""The members of a sweep as tables that fit the terminal."""

from typing import Literal

from rich.console import Console
from rich.table import Table

from ndt_cli.errors import typed
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.scoring import MEASURES
from ndt_cli.search.words import heading, score_text, value_text


def sweep_tables(results: SweepResults, console: Console) -> list[Table]:
    """Return one table, best member first; several where one is wider than the console.

    All of them have the same rows in the same order.
    """
    outcome = {
        MEASURES[name].label: [score_text(m.scores.get(name)) for m in results.in_order]
        for name in _measures(results)
    }
    outcome["epochs"] = [str(member.epochs) for member in results.in_order]
    outcome["status"] = [member.status for member in results.in_order]
    drawn = {
        heading(key): [value_text(member.drawn[key]) for member in results.in_order]
        for key in results.members[0].drawn
    }
    if _fits(results, {**outcome, **drawn}, console):
        return [_table(results, {**outcome, **drawn})]
    parts = [outcome, {}]
    for title, cells in drawn.items():
        if parts[-1] and not _fits(results, {**parts[-1], title: cells}, console):
            parts.append({})
        parts[-1][title] = cells
    return [_table(results, part) for part in parts]


def _fits(results: SweepResults, columns: dict[str, list[str]], console: Console) -> bool:
    unlimited = console.options.update(max_width=10_000)
    table = _table(results, columns)
    return console.measure(table, options=unlimited).maximum <= console.width


def _measures(results: SweepResults) -> list[str]:
    """Names of the measures that some member has, the one that ranks first."""
    known = [name for name in MEASURES if any(name in m.scores for m in results.members)]
    return list(dict.fromkeys([results.choose_by, *known]))


def _table(results: SweepResults, columns: dict[str, list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("rank", "member", *columns):
        side: Literal["left", "right"] = "left" if name == "status" else "right"
        table.add_column(name.replace(" ", "\n"), justify=side, no_wrap=True)
    n_ranked = len(results.ranked)
    for row, member in enumerate(results.in_order):
        rank = str(row + 1) if row < n_ranked else "-"
        style = "bold" if rank == "1" else "" if row < n_ranked else "dim"
        cells = [values[row] for values in columns.values()]
        table.add_row(rank, str(member.index), *cells, style=style)
    return table


def sweep_notes(results: SweepResults) -> list[str]:
    """Return what a reader of the table needs to know, one line each."""
    n_ranked = len(results.ranked)
    counts = {
        "stopped before their end": results.count("stopped"),
        "diverged": results.count("diverged"),
        "unfinished": results.count("unfinished"),
        "waiting": results.count("waiting"),
    }
    words = [f"{n_ranked} of {len(results.members)} members ranked"]
    words += [f"{n} {status}" for status, n in counts.items() if n]
    notes = [", ".join(words)]
    if n_ranked:
        notes.append("loss hidden: the same bins are hidden for all, whatever they trained with")
    notes += [_divergence(m) for m in results.members if m.status == "diverged"]
    if results.collapsed:
        floor = score_text(results.mean_rate.get(results.choose_by))
        numbers = ", ".join(str(member.index) for member in results.collapsed)
        notes.append(f"collapsed, no better than the mean rate ({floor}): members {numbers}")
    if results.to_do:
        notes.append(f"where nothing trains it now: ndt sweep --resume {typed(results.path)}")
    return notes


def _divergence(member: MemberResult) -> str:
    return f"member {member.index} diverged: {member.message}"
