"""What ``ndt convert`` found and did, in words and tables."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from ndt_cli.commands.console import labelled, out
from ndt_cli.convert.listing import Listing
from ndt_cli.convert.report import ConvertReport


def print_listing(listing: Listing) -> None:
    """Print the arrays and tables of a file."""
    title = Text.assemble((listing.source, "bold"), f", {listing.format}")
    out.print(title, soft_wrap=True)
    table = Table("Name", "Shape", "Type", "Values", box=None, pad_edge=False)
    for entry in listing.entries:
        shape = " x ".join(map(str, entry.shape)) or "one"
        table.add_row(entry.name, shape, entry.kind, entry.values)
    out.print(table)
    for name, n_rows in listing.tables.items():
        what = (name, "bold") if name else "The file itself"
        out.print(Text.assemble(what, f" is a table of {n_rows} rows."), soft_wrap=True)


def print_report(path: Path, report: ConvertReport) -> None:
    """Print what was written to ``path``, and what was taken and left out."""
    out.print(str(path), style="bold", soft_wrap=True)
    table = Table("", "train", "valid", box=None, pad_edge=False)
    splits = (report.train, report.valid)
    table.add_row("trials", *(str(s.n_trials) for s in splits))
    table.add_row("mean rate, Hz", *(f"{s.mean_rate_hz:.3g}" for s in splits))
    out.print(table)
    facts = Table("", "", box=None, pad_edge=False, show_header=False)
    shortest = "" if report.shortest_bins == report.n_bins else f", shortest {report.shortest_bins}"
    facts.add_row("bins", f"{report.n_bins} of {report.bin_ms:g} ms{shortest}")
    facts.add_row("neurons", f"{report.n_neurons}")
    facts.add_row("spikes", f"{report.n_spikes}")
    facts.add_row("conditions", _conditions(report.conditions))
    facts.add_row("behaviour", ", ".join(report.behaviour) or "no")
    out.print(facts)
    for what, name in report.taken.items():
        out.print(labelled("Taken", "dim", f"{what}: {name}"), soft_wrap=True)
    for drop in report.dropped:
        what = f"{drop.n} of {drop.n_all} {drop.what} {drop.why}."
        out.print(labelled("Left out", "yellow", what), soft_wrap=True)
    for note in report.notes:
        out.print(labelled("Note", "dim", note), soft_wrap=True)


def _conditions(sizes: dict[str, int]) -> str:
    if not sizes:
        return "no"
    named = [f"{name} ({n})" for name, n in sizes.items()]
    return f"{len(named)}: {', '.join(named[:8])}" + (", ..." if len(named) > 8 else "")
