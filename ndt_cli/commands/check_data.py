"""``ndt check-data``: check a spike file and describe it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import labeled, next_step, out, plain_table, print_json, say
from ndt_cli.commands.flags import ConfigOption, JsonOption, SetOption
from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import typed

if TYPE_CHECKING:
    from ndt_cli.data.describe import FileReport


def check_data(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Spike file: LFADS or NLB HDF5, or .npz or .h5 (see above)."
        ),
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a spike file.

    Show what the file holds, what is assumed about it, what it can be used for
    and what looks unusual. The exit code is 1 if it cannot be trained on. Only
    the data settings matter here, such as --set data.bin_ms=20.

    The own layout is an .npz or .h5 file with spikes (trials x bins x neurons)
    and bin_ms. Optional keys: lengths (in bins) or length_ms, split (train or
    valid), conditions (numbers or text), condition_names, trial_ids,
    trial_table/NAME (further columns), event and start_ms (what the trials are
    aligned to, and when the first bin begins), start_times_s, rates (true
    rates, in spikes per bin), latents, behavior (trials x bins x variables),
    behavior_names, neuron_names, start_bins (of windows of one recording),
    n_heldout and n_forward.
    """
    from ndt_cli.data.describe import describe_file
    from ndt_cli.settings.load import load_settings

    report = describe_file(file, load_settings(config, overrides or ()).data)
    if as_json:
        print_json("check-data/1", report.to_json())
    else:
        _show(report)
    if not report.trainable:
        raise typer.Exit(1)
    next_step(f"ndt train --data {typed(file)}")


def _show(report: "FileReport") -> None:
    say(report.path, style="bold")
    if report.splits:
        _show_facts(report)
    else:
        _show_arrays(report)
    for title, style, lines in (
        ("Problem", "bold red", report.problems),
        ("Warning", "yellow", report.warnings),
        ("Note", "dim", report.notes),
    ):
        for line in lines:
            say(labeled(title, style, as_typed(line)))
    if report.trainable:
        say(labeled("Good for", "green", ", ".join(report.uses)))
    else:
        say("This file cannot be trained on.")


def _show_arrays(report: "FileReport") -> None:
    if not report.arrays:
        return
    table = plain_table("Key", "Shape", "Type")
    for array in report.arrays:
        table.add_row(array.key, " x ".join(map(str, array.shape)), array.dtype)
    out.print(table)


def _show_facts(report: "FileReport") -> None:
    table = plain_table("", *(split.name for split in report.splits))
    for label, cells in (
        ("trials", [f"{s.n_trials}" for s in report.splits]),
        ("bins", [f"{s.n_bins}" for s in report.splits]),
        ("shortest trial, bins", [f"{s.shortest_bins}" for s in report.splits]),
        ("neurons", [f"{s.n_neurons}" for s in report.splits]),
        ("mean rate, Hz", [f"{s.mean_rate_hz:.3g}" for s in report.splits]),
        ("largest count in a bin", [f"{s.max_count}" for s in report.splits]),
    ):
        table.add_row(label, *cells)
    out.print(table)
    facts = plain_table(show_header=False)
    facts.add_row("layout", report.layout)
    most = "up to " if any(s.shortest_bins < s.n_bins for s in report.splits) else ""
    facts.add_row("bin width", f"{report.bin_ms:g} ms, {most}{report.duration_ms:g} ms per trial")
    if report.neuron_rates_hz is not None:
        low, middle, high = report.neuron_rates_hz
        facts.add_row("neurons' rates", f"{low:.3g} to {high:.3g} Hz, median {middle:.3g}")
    facts.add_row("true rates", _yes(report.has_rates))
    facts.add_row("conditions", "no" if report.n_conditions is None else f"{report.n_conditions}")
    facts.add_row("latents", _yes(report.has_latents))
    facts.add_row("behavior", _yes(report.has_behavior))
    facts.add_row("held-out neurons", f"{report.n_heldout}")
    facts.add_row("forward bins", f"{report.n_forward}")
    facts.add_row("memory when loaded", f"{(report.memory_bytes or 0) / 1e6:.1f} MB")
    out.print(facts)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
