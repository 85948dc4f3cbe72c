"""``ndt train``: from spikes to a run folder with a trained model, scores and figures."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import note, print_json, run_warnings_shown, say
from ndt_cli.commands.evaluate import print_scores
from ndt_cli.commands.flags import ConfigOption, JsonOption, SetOption, with_flag
from ndt_cli.commands.stopping import stop_request
from ndt_cli.errors import SettingsError, typed
from ndt_cli.settings.load import RECORDING_PRESET, find_config, load_settings


def train(
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Spike file; short for --set data.file=FILE."),
    ] = None,
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
    as_json: JsonOption = False,
) -> None:
    """Train a model.

    Without options, it generates the Lorenz dataset and fits it in a few minutes
    on a laptop. For a spike file, the default is the preset recordings.

    Several GPUs: torchrun --nproc-per-node 4 -m ndt_cli train ...
    """
    changes = with_flag(overrides, "--data", "data.file", data)
    if resume is not None and (config is not None or out is not None):
        raise SettingsError(
            "--resume continues in the run's own folder with its own settings",
            "Leave out --config and --out.",
        )
    if resume is None:
        chosen = ""
        if config is None and any(change.startswith("data.file=") for change in changes):
            config = RECORDING_PRESET
            chosen = " (the default for a spike file; --config chooses another)"
        source = find_config(config)
        settings = load_settings(config, changes)
        note(f"settings: {source.label}{chosen}")

    from ndt_cli.commands.progress import TrainingProgress
    from ndt_cli.fitting import fit, resume_fit

    with run_warnings_shown(), TrainingProgress() as progress, stop_request() as stop:
        if resume is not None:
            result = resume_fit(resume, overrides=changes, watch=progress, should_stop=stop)
        else:
            result = fit(settings, out=out, watch=progress, should_stop=stop)
    run = result.training.run
    if result.training.stopped == "interrupted":
        note(f"Stopped and saved. Resume with: ndt train --resume {typed(run)}")
        raise typer.Exit(130)
    if result.evaluation is None:  # another process of a distributed run reports
        return
    if as_json:
        print_json(
            {
                "run": str(run),
                "stopped": result.training.stopped,
                "epochs": len(result.training.history),
                "seconds": result.training.seconds,
                "figures": result.figures,
                "evaluation": result.evaluation.to_json(),
            }
        )
        return
    reasons = {"early": "no improvement within train.patience_epochs"}
    why = reasons.get(result.training.stopped, result.training.stopped)
    note(f"{len(result.training.history)} epochs in {result.training.seconds:.0f} s ({why})")
    print_scores(result.evaluation)
    for figure in result.figures:
        say(f"picture: {figure}")
    say(f"run: {run}")
