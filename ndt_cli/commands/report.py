"""``ndt report``: the page of a run, an ensemble or a sweep."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import out
from ndt_cli.commands.evaluate import CheckpointChoice, SplitChoice
from ndt_cli.commands.output_path import check_ending, check_folder
from ndt_cli.errors import SettingsError

SplitOption = Annotated[
    SplitChoice | None,
    typer.Option("--split", help="Trials to score and draw.", show_default="valid"),
]
MovedDataOption = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="The run's data file, where it was moved."),
]
CheckpointOption = Annotated[
    CheckpointChoice | None,
    typer.Option("--checkpoint", help="Weights to use.", show_default="best by train.choose_by"),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or mps.", show_default="auto")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]


def report(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run, an ensemble or a sweep.", show_default=False
        ),
    ],
    page: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write.", show_default="RUN/report.html"),
    ] = None,
    split: SplitOption = None,
    data: MovedDataOption = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    force: ForceOption = False,
) -> None:
    """Write a run's report as a web page.

    One HTML file that needs no network: data, scores beside their references,
    learning curves, rates, single neurons, trajectories, attention, settings,
    how to reproduce. It opens in any browser and prints.
    """
    if page is not None:
        check_ending(page, "--out", (".html", ".htm"))
        check_folder(page, "--out")
    from ndt_cli.report.page.write_report import PAGE_FILE, write_report
    from ndt_cli.search.folder import SweepFolder

    if page is None and run.is_dir():
        check_folder(run / PAGE_FILE, "--out")
    if SweepFolder.is_at(run):
        refuse_for_sweep(split=split, data=data, checkpoint=checkpoint, device=device)
    file = write_report(
        run,
        page,
        split=split.value if split else "valid",
        data=data,
        checkpoint=checkpoint.value if checkpoint else None,
        device=device or "auto",
        overwrite=force,
    )
    out.print(f"page: {file}", highlight=False, soft_wrap=True)


def refuse_for_sweep(**options: object) -> None:
    """Refuse options that choose what of a run is drawn, where a sweep is drawn."""
    given = [f"--{name}" for name, value in options.items() if value not in (None, [])]
    if given:
        raise SettingsError(
            f"{', '.join(given)}: that is for a run, and this is a sweep",
            "give one of its members: SWEEP/members/000",
        )
