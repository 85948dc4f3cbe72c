"""``ndt report`` and ``ndt plot``: the page of a run, an ensemble or a sweep, or one figure."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import log, next_step, print_json, run_warnings_shown, say
from ndt_cli.commands.flags import (
    AcceptChangesOption,
    CheckpointOption,
    JsonOption,
    OverwriteOption,
    SplitChoice,
)
from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import SettingsError, typed

RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of a run, an ensemble or a sweep.", show_default=False
    ),
]
SplitOption = Annotated[
    SplitChoice | None,
    typer.Option("--split", help="Trials to score and draw.", show_default="valid"),
]
MovedDataOption = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="The run's data file, if it was moved."),
]
# Not the option of other commands: a sweep has a page too, and refuses a device that is given.
DeviceIfRunOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or mps.", show_default="auto")
]


def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write.", show_default="RUN/report.html"),
    ] = None,
    split: SplitOption = None,
    data: MovedDataOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceIfRunOption = None,
    overwrite: OverwriteOption = False,
    accept_changes: AcceptChangesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a report of a run as a web page.

    One HTML file that needs no network: data, scores beside those of baselines,
    learning curves, rates, single neurons, trajectories, attention, settings,
    how to reproduce. It opens in any browser and prints.
    """
    from ndt_cli.report.page import write_report

    check_options(run, split=split, data=data, checkpoint=checkpoint, device=device)
    with run_warnings_shown():
        file = write_report(
            run,
            out,
            split=split or "valid",
            data=data,
            checkpoint=checkpoint,
            device=device or "auto",
            overwrite=overwrite,
            accept_changes=accept_changes,
            as_typed=as_typed,
        )
    if as_json:
        print_json("report/1", {"page": file})
    else:
        say(f"page: {file}")
    next_step(f"ndt plot {typed(run)} all --out figures")


def plot(
    run: RunArgument,
    figure: Annotated[
        str,
        typer.Argument(
            help="Of a run: training, rates, heatmaps, conditions, neurons-r2, neurons-bits, "
            "neurons-heldout, psth, behavior, trajectories-2d, trajectories-3d, attention-maps, "
            "attention-lags. Of a sweep: settings, measures, importance, parallel, curves. Or all.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File to write: .png, .svg or .pdf. For all: a folder, of .png files.",
            show_default=False,
        ),
    ],
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial",
            min=0,
            help="Trial to draw, by its place among those scored, from 0: rates, heatmaps.",
            show_default="a typical one",
        ),
    ] = None,
    neurons: Annotated[
        list[str] | None,
        typer.Option(
            "--neuron",
            metavar="NAME|N",
            help="Neuron to draw, by its name in the recording or its place in the file, from 0: "
            "rates, conditions, psth. May be repeated.",
            show_default="the most modulated",
        ),
    ] = None,
    split: SplitOption = None,
    data: MovedDataOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceIfRunOption = None,
    overwrite: OverwriteOption = False,
    accept_changes: AcceptChangesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw one figure of a run or a sweep, or all.

    The same figures as in ndt report, at the width of two journal columns. The
    caption is printed too.
    """
    from ndt_cli.report.registry import plot as plot_figures

    check_options(
        run,
        trial=trial,
        neuron=neurons,
        split=split,
        data=data,
        checkpoint=checkpoint,
        device=device,
    )
    with run_warnings_shown():
        drawn = plot_figures(
            run,
            figure,
            out,
            trial=trial,
            neurons=neurons or (),
            split=split or "valid",
            data=data,
            checkpoint=checkpoint,
            device=device or "auto",
            overwrite=overwrite,
            accept_changes=accept_changes,
        )
    if as_json:
        records = [{"file": file, "caption": one.caption} for file, one in drawn.items()]
        print_json("plot/1", {"figures": records})
        return
    for file, one in drawn.items():
        log.print(one.caption, style="dim")
        say(f"figure: {file}")
    next_step(f"ndt report {typed(run)}")


def check_options(path: Path, **options: object) -> None:
    """Refuse options that select something in a run if the folder is a sweep."""
    from ndt_cli.search.folder import SweepFolder

    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given and SweepFolder.is_at(path):
        raise SettingsError(
            f"{', '.join(given)}: only for a run, but {path} is a sweep",
            f"Give one of its members: {path / 'members' / '000'}.",
        )
