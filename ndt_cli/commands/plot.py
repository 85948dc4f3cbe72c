"""``ndt plot``: one figure of a run or a sweep, for a paper or a talk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import log, out
from ndt_cli.commands.output_path import check_folder
from ndt_cli.commands.report import (
    CheckpointOption,
    DeviceOption,
    ForceOption,
    MovedDataOption,
    SplitOption,
    refuse_for_sweep,
)

if TYPE_CHECKING:
    from ndt_cli.report.run_contents import Drawn


def plot(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, an ensemble or a sweep.", show_default=False
        ),
    ],
    figure: Annotated[
        str,
        typer.Argument(
            help="Of a run: training, rates, heatmaps, conditions, neurons-r2, neurons-bits, "
            "neurons-heldout, trajectories-2d, trajectories-3d, attention-maps, attention-lags. "
            "Of a sweep: settings, measures, curves.",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path,
        typer.Option("--out", "-o", help="File to write: .png, .svg or .pdf.", show_default=False),
    ],
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial", min=0, help="Trial to draw: rates, heatmaps.", show_default="a typical one"
        ),
    ] = None,
    neurons: Annotated[
        list[int] | None,
        typer.Option(
            "--neuron",
            min=0,
            help="Neuron to draw, by its place in the file: rates, conditions. May be repeated.",
            show_default="the most modulated",
        ),
    ] = None,
    split: SplitOption = None,
    data: MovedDataOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    force: ForceOption = False,
) -> None:
    """Draw one figure of a run or a sweep.

    The same figures as on the page of ndt report, at the width of a journal's
    two columns.
    """
    from ndt_cli.commands.output_path import refuse_to_replace
    from ndt_cli.report.figures import check_ending, save_figure
    from ndt_cli.report.registry import draw
    from ndt_cli.report.run_contents import Choice, RunContents
    from ndt_cli.report.sweep_figures import draw_sweep
    from ndt_cli.search.folder import SweepFolder

    # Before minutes of computing, not after.
    check_ending(file)
    refuse_to_replace(file, force)
    check_folder(file, "--out")
    if SweepFolder.is_at(run):
        refuse_for_sweep(
            trial=trial,
            neuron=neurons,
            split=split,
            data=data,
            checkpoint=checkpoint,
            device=device,
        )
        drawn: Drawn = draw_sweep(SweepFolder.open(run), figure)
    else:
        contents = RunContents(
            run,
            split=split.value if split else "valid",
            data=data,
            checkpoint=checkpoint.value if checkpoint else None,
            device=device or "auto",
        )
        drawn = draw(contents, figure, Choice(trial, tuple(dict.fromkeys(neurons or ()))))
    save_figure(drawn.figure, file)
    log.print(drawn.caption, style="dim", highlight=False)
    out.print(f"picture: {file}", highlight=False, soft_wrap=True)
