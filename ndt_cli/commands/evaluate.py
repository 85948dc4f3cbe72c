"""``ndt evaluate``: score a run, draw one trial."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ndt_cli.atomic import check_may_write, check_suffix
from ndt_cli.commands.console import (
    log,
    next_step,
    note,
    out,
    plain_table,
    print_json,
    run_warnings_shown,
    say,
    warn,
)
from ndt_cli.commands.flags import (
    AcceptChangesOption,
    CheckpointOption,
    DeviceOption,
    FigureOverwriteOption,
    JsonOption,
    OtherNeuronsOption,
    OtherWindowOption,
    ScoredSplitOption,
    SetOption,
)
from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import SettingsError, typed

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation
    from ndt_cli.score_text import ScoreTable
    from ndt_cli.verdict import Verdict

_FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
# Of the behavioral variables, as many as fit; --json prints all of them.
_SHOWN_VARIABLES = 5
_WIDEST_COLUMN = 16


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    split: ScoredSplitOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="Another file with the same neurons, bin width and window; or the run's own "
            "file in its new place.",
        ),
    ] = None,
    overrides: SetOption = None,
    checkpoint: CheckpointOption = None,
    rates_file: Annotated[Path | None, typer.Option("--rates", hidden=True)] = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Draw one trial to this .png, .svg or .pdf file."),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(
            "--trial",
            min=0,
            help="Trial to draw, by its place among those scored, from 0.",
            show_default="a typical one",
        ),
    ] = None,
    neurons: Annotated[
        list[str] | None,
        typer.Option(
            "--neuron",
            metavar="NAME|N",
            help="Neuron to draw, by its name or its place in the file, from 0. May be repeated.",
            show_default="the most modulated",
        ),
    ] = None,
    lags_ms: Annotated[
        list[float] | None,
        typer.Option(
            "--lag-ms",
            help="Lag from rates to behavior, for decoding. If repeated, cross-validation "
            "chooses one.",
            show_default="several from -80 to 160",
        ),
    ] = None,
    other_neurons: OtherNeuronsOption = False,
    other_window: OtherWindowOption = False,
    accept_changes: AcceptChangesOption = False,
    overwrite: FigureOverwriteOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run.

    Scores its rates, next to the mean rate, smoothed spikes and, if known, the
    true rates.

    They are scored on spikes and, if the data have them, on held-out neurons,
    behavior and condition averages.
    """
    if rates_file is not None:
        raise SettingsError(
            "--rates: rates have a command of their own",
            f"ndt rates {typed(run)} --out {typed(rates_file)}",
        )
    if figure is None and (trial is not None or neurons):
        raise SettingsError(
            "--trial and --neuron choose what --figure draws, and it is not given",
            "add --figure FILE.png",
        )
    from ndt_cli.evaluation import evaluate as evaluate_run

    if figure is not None:  # before minutes of computing, not after
        check_suffix(figure, _FIGURE_SUFFIXES)
        check_may_write(figure, overwrite)
    with run_warnings_shown():
        evaluation = evaluate_run(
            run,
            split=split,
            data=data,
            checkpoint=checkpoint,
            overrides=overrides or (),
            device=device,
            lags_ms=lags_ms,
            other_neurons=other_neurons,
            other_window=other_window,
            accept_changes=accept_changes,
        )
    if figure is not None:
        from ndt_cli.report.figures import save_figure
        from ndt_cli.report.trial import draw_rates

        drawn = draw_rates(evaluation, trial, neurons or ())
        save_figure(drawn.figure, figure, overwrite=overwrite)
        note(f"picture: {figure}")
    if as_json:
        print_json("evaluate/1", evaluation.to_json())
    else:
        print_scores(evaluation)
    next_step(f"ndt report {typed(run)}")


def print_scores(evaluation: "Evaluation") -> None:
    """Print the tables of scores, notes on them, and the verdict; the same after training."""
    from ndt_cli.score_text import score_notes, score_tables, score_title

    say(score_title(evaluation))
    for index, table in enumerate(score_tables(evaluation, _SHOWN_VARIABLES)):
        if index:
            say()
        out.print(_rendered(table, evaluation.smoothing_ms))
    for line in score_notes(evaluation, _SHOWN_VARIABLES):
        log.print(line, style="dim")  # wrapped between words
    print_verdict(evaluation.verdict)


def print_verdict(verdict: "Verdict") -> None:
    """Print whether NDT is better than smoothing, and what to try if it is not."""
    for warning in verdict.warnings:
        warn(as_typed(warning))
    say(verdict.sentence, style="bold")
    if verdict.across_sessions:
        say(verdict.across_sessions)
    if verdict.advice:
        say("What to try, in this order:")
    for number, advice in enumerate(verdict.advice, start=1):
        say(f"{number}. {as_typed(advice)}")


def _rendered(scores: "ScoreTable", smoothing_ms: float) -> Table:
    """Lay out a table for a terminal of 80 columns: headers and labels have two lines.

    The best score of each column is bold.
    """
    from ndt_cli.engine.measures import score_text
    from ndt_cli.verdict import SMOOTHED

    table = plain_table(scores.corner, padding=(0, 1, 0, 0))
    for name in scores.columns:
        header = name.replace(" ", "\n") if scores.corner else name
        table.add_column(header, justify="right", max_width=_WIDEST_COLUMN, overflow="fold")
    for estimate, values in scores.rows.items():
        label = f"{estimate}\n({smoothing_ms:.0f} ms)" if estimate == SMOOTHED else estimate
        cells = [
            Text(score_text(value), "bold" if scores.is_best(estimate, column) else "")
            for column, value in enumerate(values)
        ]
        table.add_row(label, *cells)
    return table
