"""What ``ndt convert`` found and did, in words and tables."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ndt_cli.commands.console import labeled, log, out, print_json
from ndt_cli.commands.flags import JsonOption
from ndt_cli.convert.summary import ConvertReport, Listing
from ndt_cli.errors import SettingsError, typed


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
    facts.add_row("behavior", ", ".join(report.behavior) or "no")
    out.print(facts)
    for what, name in report.taken.items():
        out.print(labeled("Taken", "dim", f"{what}: {name}"), soft_wrap=True)
    for drop in report.dropped:
        what = f"{drop.n} of {drop.n_all} {drop.what} {drop.why}."
        out.print(labeled("Left out", "yellow", what), soft_wrap=True)
    for note in report.notes:
        out.print(labeled("Note", "dim", note), soft_wrap=True)


def _conditions(sizes: dict[str, int]) -> str:
    if not sizes:
        return "no"
    named = [f"{name} ({n})" for name, n in sizes.items()]
    return f"{len(named)}: {', '.join(named[:8])}" + (", ..." if len(named) > 8 else "")


# ------------------------------------------------------------------------------------------------
# ``ndt convert``: any recording to the own layout, and what is in an unknown file.
# ------------------------------------------------------------------------------------------------


_SPIKES = "Spikes"
_TRIALS = "Trials"
_UNITS = "Units"
_BEHAVIOR = "Behavior"
_CHOP = "Continuous recordings"
_SPLIT = "Training and validation"


class TimeUnitChoice(str, Enum):
    """Unit of times in a file."""

    s = "s"
    ms = "ms"
    us = "us"
    samples = "samples"


class SplitChoice(str, Enum):
    """How validation trials are drawn."""

    random = "random"
    condition = "condition"
    blocks = "blocks"


def _option(panel: str, flag: str, text: str, **more: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=panel, **more)


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Recording: .npz, .mat, HDF5, NWB or .csv.")
    ],
    path: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write: the ending, .h5 or .npz, says which."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show what FILE holds, and convert nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file to write if it is there.")
    ] = False,
    as_json: JsonOption = False,
    bin_ms: Annotated[
        float | None,
        _option(_SPIKES, "--bin-ms", "Bin width, ms.", show_default="that of the counts"),
    ] = None,
    spike_times: Annotated[
        str | None,
        _option(
            _SPIKES,
            "--spike-times",
            "Spike times: one array for all units, or one array for each (cells, a ragged column, "
            "a group, rows padded with NaN).",
            metavar="NAME",
        ),
    ] = None,
    spike_units: Annotated[
        str | None,
        _option(_SPIKES, "--spike-units", "Unit of each of those spikes.", metavar="NAME"),
    ] = None,
    spike_trials: Annotated[
        str | None,
        _option(
            _SPIKES,
            "--spike-trials",
            "Trial of each of those spikes; their times then count from each trial's own zero.",
            metavar="NAME",
        ),
    ] = None,
    counts: Annotated[
        str | None,
        _option(
            _SPIKES,
            "--counts",
            "Spike counts in bins: trials x bins x neurons, or bins x neurons.",
            metavar="NAME",
        ),
    ] = None,
    axes: Annotated[
        str | None,
        _option(
            _SPIKES,
            "--axes",
            "Order of their axes, such as neurons,bins,trials.",
            show_default="trials,bins,neurons",
        ),
    ] = None,
    counts_bin_ms: Annotated[
        float | None,
        _option(
            _SPIKES,
            "--counts-bin-ms",
            "Bin width of the counts in FILE, ms.",
            show_default="its bin_ms",
        ),
    ] = None,
    counts_times: Annotated[
        str | None,
        _option(
            _SPIKES,
            "--counts-times",
            "When each bin of a continuous recording begins.",
            metavar="NAME",
            show_default="the first at 0",
        ),
    ] = None,
    time_unit: Annotated[
        TimeUnitChoice, _option(_SPIKES, "--time-unit", "Unit of all times in FILE.")
    ] = TimeUnitChoice.s,
    sample_rate_hz: Annotated[
        float | None,
        _option(
            _SPIKES,
            "--sample-rate-hz",
            "Rate, where times are counted in samples.",
            min=1e-3,
            max=1e9,
        ),
    ] = None,
    trials: Annotated[
        str | None,
        _option(
            _TRIALS,
            "--trials",
            "Table of trials: a group or struct in FILE, another file, or none.",
            metavar="NAME|FILE|none",
        ),
    ] = None,
    start: Annotated[
        str | None, _option(_TRIALS, "--start", "When each trial begins.", metavar="COLUMN")
    ] = None,
    stop: Annotated[
        str | None, _option(_TRIALS, "--stop", "When each trial ends.", metavar="COLUMN")
    ] = None,
    align: Annotated[
        str | None,
        _option(
            _TRIALS,
            "--align",
            "Event that --window counts from.",
            metavar="COLUMN",
            show_default="the start",
        ),
    ] = None,
    window_ms: Annotated[
        tuple[float, float] | None,
        _option(
            _TRIALS,
            "--window",
            "Cut this window around the event, ms: --window -250 450.",
            metavar="FROM TO",
            show_default="whole trials",
        ),
    ] = None,
    trials_time_unit: Annotated[
        TimeUnitChoice | None,
        _option(
            _TRIALS,
            "--trials-time-unit",
            "Unit of the times of trials.",
            show_default="--time-unit",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        _option(
            _TRIALS,
            "--where",
            'Keep trials that fulfil this: "success == 1", "block in 1, 3". May be repeated.',
            metavar="CONDITION",
        ),
    ] = None,
    condition: Annotated[
        list[str] | None,
        _option(
            _TRIALS,
            "--condition",
            "Column with the condition of each trial. Repeated: all together name it.",
            metavar="COLUMN",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        _option(_TRIALS, "--lengths", "Bins of each trial of padded counts.", metavar="NAME"),
    ] = None,
    length_ms: Annotated[
        str | None, _option(_TRIALS, "--length-ms", "The same, in ms.", metavar="NAME")
    ] = None,
    units: Annotated[
        str | None,
        _option(
            _UNITS,
            "--units",
            "Table of units: a group or struct in FILE, or another file.",
            metavar="NAME|FILE",
        ),
    ] = None,
    units_where: Annotated[
        list[str] | None,
        _option(
            _UNITS,
            "--units-where",
            'Keep units that fulfil this: "quality == good". May be repeated.',
            metavar="CONDITION",
        ),
    ] = None,
    min_rate_hz: Annotated[
        float,
        _option(
            _UNITS, "--min-rate-hz", "Keep units that fire as much in the trials, Hz.", min=0.0
        ),
    ] = 0.0,
    behavior: Annotated[
        list[str] | None,
        _option(
            _BEHAVIOR,
            "--behavior",
            "Time series to bring along, averaged in each bin. May be repeated.",
            metavar="NAME",
        ),
    ] = None,
    behavior_times: Annotated[
        str | None,
        _option(
            _BEHAVIOR,
            "--behavior-times",
            "Times of its samples.",
            metavar="NAME",
            show_default="its own, in NWB",
        ),
    ] = None,
    chop_ms: Annotated[
        float | None,
        _option(
            _CHOP, "--chop-ms", "Chop the recording, or long trials, into windows of this length."
        ),
    ] = None,
    overlap_ms: Annotated[
        float, _option(_CHOP, "--overlap-ms", "What neighboring windows share.", min=0.0)
    ] = 0.0,
    split: Annotated[
        SplitChoice | None,
        _option(
            _SPLIT,
            "--split",
            "Draw validation trials at random, in proportion within each condition, or in blocks "
            "of neighbors.",
            show_default="condition where there are some, blocks for windows, else random",
        ),
    ] = None,
    valid_where: Annotated[
        str | None,
        _option(
            _SPLIT,
            "--valid-where",
            'Draw none: trials that fulfil this validate, as "split == val".',
            metavar="CONDITION",
        ),
    ] = None,
    valid_fraction: Annotated[
        float, _option(_SPLIT, "--valid-fraction", "Share of the trials that validates.")
    ] = 0.2,
    seed: Annotated[int, _option(_SPLIT, "--seed", "Seed of the draw.", min=0)] = 0,
) -> None:
    """Convert a recording to trials of spike counts.

    Reads spike times or counts, cuts them into trials and bins, and
    writes a file that check-data, train and evaluate read. Look into an
    unknown file first:

    ndt convert session.mat --list

    Then say what is what. Ordinary names (spike_times, units, trials,
    start_time) are found without, and NWB files need hardly any:

    ndt convert session.nwb --out reach.h5 --bin-ms 20
    --align go_cue_time --window -250 450 --where "result == R"
    --condition target_dir --units-where "quality == good"

    Without trials, chop the recording into windows. Validation windows
    come in blocks that share no bin with training windows, and ndt
    evaluate --rates merges the rates back:

    ndt convert track.npz --out track.h5 --bin-ms 20 --chop-ms 2000
    --overlap-ms 400 --behavior pos_xy --behavior-times pos_t

    Times are rounded to the microsecond. A spike at the edge of a bin
    belongs to the bin that begins there. Trials may be of unequal
    length: they are padded, and padding is never scored.
    """
    if show:
        _list(file, as_json)
        return
    if path is None:
        raise SettingsError(
            "--out: found no file to write",
            hint="Give one, such as --out trials.h5; or look into FILE with --list.",
        )
    if split is not None and valid_where is not None:
        raise SettingsError(
            "--split draws validation trials, and --valid-where names them", "leave out one of them"
        )
    from ndt_cli.convert import Choices
    from ndt_cli.convert import convert as convert_file
    from ndt_cli.data.write import check_target, write_recording

    choices = Choices(
        bin_ms=bin_ms,
        spike_times=spike_times,
        spike_units=spike_units,
        spike_trials=spike_trials,
        counts=counts,
        axes=tuple(word.strip() for word in axes.split(",")) if axes else None,
        counts_bin_ms=counts_bin_ms,
        counts_times=counts_times,
        lengths=lengths,
        length_ms=length_ms,
        time_unit=time_unit.value,
        trials_time_unit=trials_time_unit.value if trials_time_unit else None,
        sample_rate_hz=sample_rate_hz,
        trials=trials,
        start=start,
        stop=stop,
        align=align,
        window_ms=window_ms,
        where=tuple(where or ()),
        condition=tuple(condition or ()),
        units=units,
        units_where=tuple(units_where or ()),
        min_rate_hz=min_rate_hz,
        behavior=tuple(behavior or ()),
        behavior_times=behavior_times,
        chop_ms=chop_ms,
        overlap_ms=overlap_ms,
        split=split.value if split else None,
        valid_where=valid_where,
        valid_fraction=valid_fraction,
        seed=seed,
    )
    if path.exists() and file.exists() and path.samefile(file):
        raise SettingsError(f"--out {path}: found the recording itself; expected another file")
    check_target(path, overwrite=overwrite)
    converted = convert_file(file, choices)
    write_recording(converted.recording, path, overwrite=overwrite)
    if as_json:
        print_json({"file": str(path), **converted.report.to_json()})
        return
    print_report(path, converted.report)
    log.print(f"Next:  ndt check-data {typed(path)}", highlight=False, soft_wrap=True, style="dim")


def _list(file: Path, as_json: bool) -> None:
    from ndt_cli.convert import list_contents

    listing = list_contents(file)
    if as_json:
        print_json(listing.to_json())
        return
    print_listing(listing)
