"""``ndt train``: from spikes to a run folder with a trained model, scores and figures."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import (
    next_step,
    note,
    plain_table,
    print_json,
    run_warnings_shown,
    say,
    stop_request,
)
from ndt_cli.commands.console import out as stdout
from ndt_cli.commands.evaluate import print_scores, print_verdict
from ndt_cli.commands.flags import (
    AcceptChangesOption,
    ConfigOption,
    DataOption,
    FromOption,
    JsonOption,
    SetOption,
    chosen_settings,
    settings_from,
    with_data,
)
from ndt_cli.errors import SettingsError, count, typed

if TYPE_CHECKING:
    from ndt_cli.fitting import Fit
    from ndt_cli.seeds import SeedsFit


def train(
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="New run folder.",
            show_default="runs/<data>-<time>",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Resume this run from its last checkpoint."),
    ] = None,
    accept_changes: AcceptChangesOption = False,
    start: FromOption = None,
    n_seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=2,
            help="Train with this many seeds, and average the rates of the models.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model.

    Without options, it generates the Lorenz dataset and fits it in a few minutes
    on a laptop. For a spike file, the default is the preset recordings.

    Several GPUs: torchrun --nproc-per-node 4 -m ndt_cli train ...
    """
    changes = with_data(overrides, data)
    others = (config, out, n_seeds, start)
    if resume is not None and any(option is not None for option in others):
        raise SettingsError(
            "--resume continues in the run's own folder with its own settings",
            "Leave out --config, --out, --from and --seeds.",
        )
    if accept_changes and resume is None:
        raise SettingsError("--accept-changes is about a run to --resume, and none is given")
    if start is not None:
        settings = settings_from(start, config, changes)
    elif resume is None:
        _, settings = chosen_settings(config, changes)

    from ndt_cli.commands.progress import TrainingProgress
    from ndt_cli.fitting import fit, resume_fit
    from ndt_cli.seeds import fit_seeds, is_seeds_folder, resume_seeds

    of_seeds: SeedsFit | None = None
    with run_warnings_shown(), TrainingProgress() as progress, stop_request() as stop:
        if resume is not None and is_seeds_folder(resume):
            if changes:
                raise SettingsError(
                    f"{resume} holds the runs of several seeds, which keep their settings",
                    "Leave out --set and --data; for other settings, train in another folder.",
                )
            of_seeds = resume_seeds(resume, watch=progress, should_stop=stop)
        elif n_seeds is not None:
            of_seeds = fit_seeds(settings, n_seeds, out=out, watch=progress, should_stop=stop)
        elif resume is not None:
            result = resume_fit(
                resume,
                overrides=changes,
                watch=progress,
                should_stop=stop,
                accept_changes=accept_changes,
            )
        else:
            result = fit(settings, out=out, watch=progress, should_stop=stop)
    if of_seeds is None:
        run, interrupted = result.training.run, result.training.stopped == "interrupted"
    else:
        run, interrupted = of_seeds.path, not of_seeds.finished
    if interrupted:
        note(f"Stopped and saved. Resume with: ndt train --resume {typed(run)}")
        raise typer.Exit(130)
    if of_seeds is not None:
        _print_seeds(of_seeds, as_json)
        return
    epochs = len(result.training.history)
    about = {
        "run": str(run),
        "stopped": result.training.stopped,
        "epochs": epochs,
        "seconds": result.training.seconds,
        "figures": result.figures,
    }
    if result.sessions and as_json:
        sessions = {name: found.to_json() for name, found in result.sessions.items()}
        print_json("train-sessions/1", {**about, "sessions": sessions})
    elif result.sessions:
        _print_sessions(result)
    elif result.evaluation is not None:  # otherwise another process of a distributed run reports
        if as_json:
            print_json("train/1", {**about, "evaluation": result.evaluation.to_json()})
        else:
            reasons = {"early": "no improvement within train.patience_epochs"}
            why = reasons.get(result.training.stopped, result.training.stopped)
            note(f"{count(epochs, 'epoch')} in {result.training.seconds:.0f} s ({why})")
            print_scores(result.evaluation)
            for figure in result.figures:
                say(f"picture: {figure}")
            say(f"run: {run}")
        next_step(f"ndt report {typed(run)}", f"ndt rates {typed(run)} --out rates.h5")


def _print_sessions(result: "Fit") -> None:
    """Print the scores of each session, and of the neurons of all together."""
    run = result.training.run
    headings = ["trials", "neurons", "NDT", "smoothed spikes"]
    if any(found.data.rates_BTN is not None for found in result.sessions.values()):
        headings += ["R2 of NDT", "of smoothed"]
    table = plain_table("", *headings, numbers=True)
    rows = []
    for found in result.sessions.values():
        scores = [found.scores[name] for name in ("NDT", "smoothed spikes")]
        bits = [score.hidden.bits_per_spike for score in scores]
        r2s = [math.nan if score.rates is None else score.rates.r2_mean for score in scores]
        rows.append([found.data.n_trials, found.data.n_neurons, *bits, *r2s])
    totals: list[float] = [sum(row[place] for row in rows) for place in (0, 1)]
    together = [
        sum(row[1] * row[place] for row in rows) / totals[1] for place in range(2, len(rows[0]))
    ]
    names = [*result.sessions, "together, by neurons"]
    for name, (n_trials, n_neurons, *numbers) in zip(
        names, [*rows, [*totals, *together]], strict=True
    ):
        cells = ["" if math.isnan(number) else f"{number:.4f}" for number in numbers]
        table.add_row(name, str(n_trials), str(n_neurons), *cells[: len(headings) - 2])
    say(f"validation trials of {len(result.sessions)} sessions, bits/spike on hidden bins:")
    stdout.print(table)
    for name, found in result.sessions.items():
        say(f"{name}:")
        print_verdict(found.verdict)
    for name in result.sessions:
        say(f"run of {name}: {run / 'sessions' / name}")
    say(f"run: {run}")


def _print_seeds(found: "SeedsFit", as_json: bool) -> None:
    if as_json:
        print_json("train-seeds/1", found.to_json())
        return
    for name, of_session in found.sessions.items():
        say(f"{name}:")
        _print_seed_scores(of_session)
    if not found.sessions:
        _print_seed_scores(found)
    for run in found.runs:
        say(f"run: {run}")
    ensembles = [one.path for one in found.sessions.values()] or [found.path / "ensemble"]
    for ensemble in ensembles:
        say(f"ensemble: {ensemble}")
    next_step(f"ndt report {typed(ensembles[0])}")


def _print_seed_scores(found: "SeedsFit") -> None:
    table = plain_table("", "mean", "SD", "ensemble", "smoothed spikes", numbers=True)
    for score in found.scores:
        numbers = (score.mean, score.sd, score.ensemble, score.smoothing)
        cells = [f"{number:.4f}" for number in numbers]
        table.add_row(f"{score.label} ({score.unit})", *cells)
    say(f"validation scores of {len(found.runs)} seeds, and of their averaged rates:")
    stdout.print(table)
    if found.evaluation is not None:
        print_verdict(found.evaluation.verdict)
