"""The members of a sweep as tables that fit the terminal."""

import math
from typing import Literal

from rich.console import Console
from rich.table import Table

from ndt_cli.errors import typed
from ndt_cli.search.draws import Value
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.scoring import MEASURES


def sweep_tables(results: SweepResults, console: Console) -> list[Table]:
    """Return one table, best member first; several where one is wider than the console.

    All of them have the same rows in the same order.
    """
    outcome = {
        MEASURES[name].label: [_number(m.scores.get(name)) for m in results.in_order]
        for name in _measures(results)
    }
    outcome["epochs"] = [str(member.epochs) for member in results.in_order]
    outcome["status"] = [member.status for member in results.in_order]
    drawn = {
        _heading(key): [_value(member.drawn[key]) for member in results.in_order]
        for key in results.members[0].drawn
    }
    if _fits(results, {**outcome, **drawn}, console):
        return [_table(results, {**outcome, **drawn})]
    parts = [outcome, {}]
    for heading, cells in drawn.items():
        if parts[-1] and not _fits(results, {**parts[-1], heading: cells}, console):
            parts.append({})
        parts[-1][heading] = cells
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
        floor = _number(results.mean_rate.get(results.choose_by))
        numbers = ", ".join(str(member.index) for member in results.collapsed)
        notes.append(f"collapsed, no better than the mean rate ({floor}): members {numbers}")
    if results.to_do:
        notes.append(f"where nothing trains it now: ndt sweep --resume {typed(results.path)}")
    return notes


def _divergence(member: MemberResult) -> str:
    return f"member {member.index} diverged: {member.message}"


def _heading(key: str) -> str:
    section, _, name = key.partition(".")
    # "ratio" alone would not say of what.
    return name.replace("_", " ") if "_" in name else f"{section} {name}"


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
