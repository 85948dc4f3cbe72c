"""``ndt convert``: any recording to the project's own layout, or a list of what a file holds.

The options are those of `ConvertOptions`, under the same names; the help of each field is there.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from rich.text import Text

from ndt_cli.commands.console import labeled, next_step, out, plain_table, print_json, say
from ndt_cli.commands.flags import JsonOption, OverwriteOption
from ndt_cli.commands.wording import as_typed
from ndt_cli.convert.contents import Listing
from ndt_cli.convert.options import ConvertOptions
from ndt_cli.errors import SettingsError, typed

# The help page has a panel from each of these fields on.
_PANELS = {
    "bin_ms": "Spikes",
    "trials": "Trials",
    "units": "Units",
    "behavior": "Behavior",
    "chop_ms": "Continuous recordings",
    "split": "Training and validation",
}
_FLAGS = {"window_ms": "--window"}


def _flag(name: str) -> str:
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def _option_type(annotation: Any) -> tuple[Any, str | None]:
    """Return the type that Typer needs for the type of a field, and the word it shows for it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return parts
    if origin is tuple and parts[-1] is ...:
        kind, shown = _option_type(parts[0])
        return list[kind], shown  # type: ignore[valid-type]
    if origin is tuple:
        return annotation, "FROM TO"
    if NoneType in parts:
        kind, shown = _option_type(parts[0])
        return kind | None, shown
    return annotation, None


def _options() -> Iterator[inspect.Parameter]:
    """Give the parameters of the command that are fields of `ConvertOptions`."""
    flags = {name: _flag(name) for name in ConvertOptions.model_fields}
    panel = None
    for name, field in ConvertOptions.model_fields.items():
        panel = _PANELS.get(name, panel)
        kind, shown = _option_type(field.annotation)
        limits = {
            limit: getattr(rule, bound)
            for rule in field.metadata
            for limit, bound in (("min", "ge"), ("max", "le"))
            if hasattr(rule, bound)
        }
        text = as_typed(" ".join((field.description or "").split()), flags)
        option = typer.Option(
            flags[name], help=text, rich_help_panel=panel, metavar=shown, **limits
        )
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if field.default == () else field.default,
            annotation=Annotated[kind, option],
        )


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put the fields of `ConvertOptions` in the place of a function's ``**values``, for Typer."""
    *own, _ = inspect.signature(command).parameters.values()
    command.__signature__ = inspect.Signature([*own, *_options()])  # type: ignore[attr-defined]
    return command


@_with_options
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Recording: .npz, .mat, HDF5, NWB, .csv, .parquet, or a phy folder.",
        ),
    ],
    path: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, .h5 or .npz.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the contents of FILE, and convert nothing.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    **values: Any,
) -> None:
    """Convert a recording to trials of spike counts.

    Reads spike times or counts, cuts them into trials and bins, and
    writes a file that check-data, train and evaluate read. Look into an
    unknown file first:

    ndt convert session.mat --list

    Then name what is what. Usual names (spike_times, units, trials,
    start_time) are found without, and NWB files need few options:

    ndt convert session.nwb --out reach.h5 --bin-ms 20
    --align go_cue_time --window -250 450 --where "result == R"
    --condition target_dir --units-where "quality == good"

    Without trials, chop the recording into windows. Validation windows
    come in blocks that share no bin with training windows, and
    ndt rates merges the rates back:

    ndt convert track.npz --out track.h5 --bin-ms 20 --chop-ms 2000
    --overlap-ms 400 --behavior pos_xy --behavior-times pos_t

    Times are rounded to the microsecond. A spike at the edge of a bin
    belongs to the bin that starts there. Trials may be of unequal
    length: they are padded, and padding is never scored.
    """
    from ndt_cli.convert import convert as convert_file
    from ndt_cli.convert import list_contents

    if show:
        listing = list_contents(file)
        if as_json:
            print_json("contents/1", listing.to_json())
        else:
            _print_listing(listing)
            next_step(_next_command(listing))
        return
    if path is None:
        raise SettingsError(
            "--out: found no file to write",
            hint="Give one, such as --out trials.h5; or look into FILE with --list.",
        )
    from ndt_cli.data.write import check_target, write_recording

    given = {name: value for name, value in values.items() if value is not None}
    options = ConvertOptions(**given)
    if path.exists() and file.exists() and path.samefile(file):
        raise SettingsError(f"--out {path}: found the recording itself; expected another file")
    check_target(path, overwrite=overwrite)
    converted = convert_file(file, options)
    write_recording(converted.recording, path, overwrite=overwrite)
    report = converted.report.to_json()
    report["notes"] = [as_typed(note) for note in converted.report.notes]
    if as_json:
        print_json("convert/1", {"file": str(path), **report})
    else:
        _print_report(path, report)
    next_step(f"ndt check-data {typed(path)}")


def _next_command(listing: Listing) -> str:
    """Return the command that would convert what was listed, with a word for what is not known."""
    what, trials = listing.spikes, listing.trials
    words = ["ndt convert", typed(Path(listing.source)), "--out trials.h5"]
    if what is None:
        words.append("--spike-times NAME --spike-units NAME --bin-ms 20")
    elif what[0] == "counts":
        words.append(f"--counts {typed(what[1])}")
    else:
        words.append(f"--spike-times {typed(what[1])} --bin-ms 20")
    if trials:
        words.append(f"--trials {typed(trials)}")
    elif trials is None and (what is None or what[0] == "spike_times"):
        words.append("--trials NAME")
    return " ".join(words)


def _print_listing(listing: Listing) -> None:
    """Print the arrays and tables of a file."""
    title = Text.assemble((listing.source, "bold"), f", {listing.format}")
    say(title)
    table = plain_table("Name", "Shape", "Type", "Values")
    for entry in listing.entries:
        shape = " x ".join(map(str, entry.shape)) or "one"
        table.add_row(entry.name, shape, entry.kind, entry.values)
    out.print(table)
    for name, n_rows in listing.tables.items():
        what = (name, "bold") if name else "The file itself"
        say(Text.assemble(what, f" is a table of {n_rows} rows."))


def _print_report(path: Path, report: dict[str, Any]) -> None:
    """Print what was written to ``path``, and what was used, left out and assumed."""
    say(str(path), style="bold")
    table = plain_table("", "train", "valid")
    splits = (report["train"], report["valid"])
    table.add_row("trials", *(str(s["n_trials"]) for s in splits))
    table.add_row("mean rate, Hz", *(f"{s['mean_rate_hz']:.3g}" for s in splits))
    out.print(table)
    facts = plain_table(show_header=False)
    n_bins, shortest = report["n_bins"], report["shortest_bins"]
    unequal = "" if shortest == n_bins else f", shortest {shortest}"
    facts.add_row("bins", f"{n_bins} of {report['bin_ms']:g} ms{unequal}")
    facts.add_row("neurons", f"{report['n_neurons']}")
    facts.add_row("spikes", f"{report['n_spikes']}")
    named = [f"{name} ({n})" for name, n in report["conditions"].items()]
    more = ", ..." if len(named) > 8 else ""
    conditions = f"{len(named)}: {', '.join(named[:8])}{more}" if named else "none"
    facts.add_row("conditions", conditions)
    facts.add_row("behavior", ", ".join(report["behavior"]) or "none")
    out.print(facts)
    for what, name in report["taken"].items():
        say(labeled("Used", "dim", f"{what}: {name}"))
    for drop in report["dropped"]:
        what = f"{drop['n']} of {drop['n_all']} {drop['what']} {as_typed(drop['why'])}."
        say(labeled("Left out", "yellow", what))
    for note in report["notes"]:
        say(labeled("Note", "dim", note))
