"""``ndt train``: from spikes to a run folder with rates, scores and pictures."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import log, out, print_json, run_warnings_shown
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
    out_folder: Annotated[
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
        typer.Option("--resume", help="Go on with this run folder, exactly where it stopped."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a model.

    Without options it makes the Lorenz set and fits it in a few minutes on a
    laptop; a spike file without a config takes the preset recordings.

    Several GPUs: torchrun --nproc-per-node 4 -m ndt_cli train ...
    """
    changes = with_flag(overrides, "--data", "data.file", data)
    if resume is not None and (config is not None or out_folder is not None):
        raise SettingsError(
            "--resume goes on in the run's own folder with its own settings",
            "leave out --config and --out",
        )
    if resume is None:
        chosen = ""
        if config is None and any(change.startswith("data.file=") for change in changes):
            config = RECORDING_PRESET
            chosen = " (for a file of spikes; --config chooses another)"
        source = find_config(config)
        settings = load_settings(config, changes)
        log.print(f"settings: {source.label}{chosen}", highlight=False, soft_wrap=True)

    from ndt_cli.commands.progress import TrainingProgress
    from ndt_cli.commands.score_table import score_notes, score_table, score_title
    from ndt_cli.fit import fit, resume_fit

    with run_warnings_shown(), TrainingProgress() as progress, stop_request() as stop:
        if resume is not None:
            result = resume_fit(resume, overrides=changes, watch=progress, should_stop=stop)
        else:
            result = fit(settings, out=out_folder, watch=progress, should_stop=stop)
    run = result.training.run
    if result.training.stopped == "interrupted":
        words = f"Stopped and saved. Go on with: ndt train --resume {typed(run)}"
        log.print(words, soft_wrap=True)
        raise typer.Exit(130)
    if result.evaluation is None:  # another process of a distributed run writes and reports
        return
    if as_json:
        print_json(
            {
                "run": str(run),
                "stopped": result.training.stopped,
                "epochs": len(result.training.history),
                "seconds": result.training.seconds,
                "figures": [str(path) for path in result.figures],
                "evaluation": result.evaluation.to_json(),
            }
        )
        return
    reasons = {"early": "no improvement for so long as patience_epochs says"}
    why = reasons.get(result.training.stopped, result.training.stopped)
    log.print(
        f"{len(result.training.history)} epochs in {result.training.seconds:.0f} s ({why})",
        highlight=False,
    )
    out.print(score_title(result.evaluation), highlight=False, soft_wrap=True)
    out.print(score_table(result.evaluation))
    for note in score_notes(result.evaluation):
        log.print(note, style="dim", highlight=False)
    for figure in result.figures:
        out.print(f"picture: {figure}", highlight=False, soft_wrap=True)
    out.print(f"run: {run}", highlight=False, soft_wrap=True)
