"""``ndt plot``: one figure of a run or a sweep, for a paper or a talk."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands import console
from ndt_cli.commands.report import (
    CheckpointOption,
    DeviceOption,
    MovedDataOption,
    OverwriteOption,
    RunArgument,
    SplitOption,
    check_options,
)


def plot(
    run: RunArgument,
    figure: Annotated[
        str,
        typer.Argument(
            help="Of a run: training, rates, heatmaps, conditions, neurons-r2, neurons-bits, "
            "neurons-heldout, trajectories-2d, trajectories-3d, attention-maps, attention-lags. "
            "Of a sweep: settings, measures, curves.",
            show_default=False,
        ),
    ],
    out: Annotated[
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
    overwrite: OverwriteOption = False,
) -> None:
    """Draw one figure of a run or a sweep.

    The same figures as in ndt report, at the width of two journal columns. The
    caption is printed too.
    """
    from ndt_cli.report.registry import plot as plot_figure

    check_options(run, split, data, checkpoint, device, trial=trial, neuron=neurons)
    drawn = plot_figure(
        run,
        figure,
        out,
        trial=trial,
        neurons=neurons or (),
        split=split.value if split else "valid",
        data=data,
        checkpoint=checkpoint.value if checkpoint else None,
        device=device or "auto",
        overwrite=overwrite,
    )
    console.log.print(drawn.caption, style="dim", highlight=False)
    console.out.print(f"figure: {out}", highlight=False, soft_wrap=True)
