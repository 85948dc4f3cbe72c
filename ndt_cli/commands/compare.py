"""``ndt compare``: runs side by side, with bootstrap intervals over trials."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ndt_cli.atomic import check_may_write, check_suffix
from ndt_cli.commands.console import (
    next_step,
    note,
    out,
    plain_table,
    print_json,
    run_warnings_shown,
    say,
)
from ndt_cli.commands.flags import (
    AcceptChangesOption,
    CsvOption,
    DeviceOption,
    FigureOverwriteOption,
    JsonOption,
    ScoredSplitOption,
)
from ndt_cli.errors import count, typed

if TYPE_CHECKING:
    from ndt_cli.comparing import ComparedRun, Interval, RunComparison


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs or ensembles.", show_default=False),
    ],
    split: ScoredSplitOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Another file with the same neurons and bin width."),
    ] = None,
    n_resamples: Annotated[
        int, typer.Option("--resamples", min=1, help="Number of bootstrap resamples of the trials.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the resamples.")] = 0,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            help="Draw the scores over the number of training trials to this .png, .svg or .pdf "
            "file.",
        ),
    ] = None,
    overwrite: FigureOverwriteOption = False,
    accept_changes: AcceptChangesOption = False,
    device: DeviceOption = "auto",
    as_csv: CsvOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare runs.

    Scores of the same trials side by side, with 95 % bootstrap intervals over
    trials, and the differences from the first run.
    """
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    if figure is not None:  # before minutes of computing, not after
        check_suffix(figure, (".png", ".svg", ".pdf"))
        check_may_write(figure, overwrite)
    from ndt_cli.comparing import compare_runs

    with run_warnings_shown():
        found = compare_runs(
            runs,
            split=split,
            data=data,
            device=device,
            n_resamples=n_resamples,
            seed=seed,
            accept_changes=accept_changes,
        )
    if figure is not None:
        from ndt_cli.report.curves import trial_curves
        from ndt_cli.report.figures import save_figure

        save_figure(trial_curves(found), figure, overwrite=overwrite)
        note(f"picture: {figure}")
    if as_json:
        print_json("compare/1", found.to_json())
    elif as_csv:
        out.out(found.to_csv(), end="")
    else:
        _print(found)
    next_step(f"ndt report {typed(runs[0])}")


def _print(found: "RunComparison") -> None:
    say(f"{found.split} trials of {found.source}: {count(found.n_trials, 'trial')}")
    for number, run in enumerate(found.runs[:-1], start=1):
        say(f"run {number}: {run.run}")
    say()
    say("Scores, with 95 % intervals:")
    out.print(_table(found, lambda run, label: run.scores[label]))
    if len(found.runs) > 1:
        say()
        say("Differences from run 1, on the same resamples:")
        out.print(_table(found, lambda run, label: run.differences[label], skip=1))
    for line in found.notes:
        note(line, style="dim")


def _table(
    found: "RunComparison",
    interval_of: Callable[["ComparedRun", str], "Interval"],
    skip: int = 0,
) -> Table:
    """Return one row per run, one column per score; the best score of each column is bold."""
    headings = [f"{label}\n({unit})" for label, unit in found.units.items()]
    table = plain_table("", *headings, numbers=True)
    for number, run in list(enumerate(found.runs, start=1))[skip:]:
        name = run.run if number == len(found.runs) else f"run {number}"
        cells = []
        for label in found.units:
            shown = interval_of(run, label)
            values = [round(interval_of(other, label).value, 3) for other in found.runs[skip:]]
            best = max((value for value in values if value == value), default=None)
            style = "bold" if not skip and round(shown.value, 3) == best else ""
            cells.append(Text(_text(shown), style))
        table.add_row(name, *cells)
    return table


def _text(interval: "Interval") -> str:
    if interval.value != interval.value:
        return "-"
    if interval.low != interval.low:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f}\n{interval.low:.3f} to {interval.high:.3f}"
