"""``ndt nlb-submit``: make, check and score a submission to the benchmark."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from ndt_cli.commands.flags import JsonOption, SetOption
from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import SettingsError, typed

if TYPE_CHECKING:
    from ndt_cli.nlb.submit import DatasetResult
    from ndt_cli.search.folder import EnsembleChoice


def nlb_submit(
    names: Annotated[list[str], typer.Argument(metavar="DATASET...", help="mc_maze, mc_rtt, ...")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder.", show_default="runs/nlb-<data>-<time>"),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Folder of the NWB files (see: ndt nlb-data).")
    ] = Path("nlb-data"),
    bin_ms: Annotated[int, typer.Option("--bin-ms", help="Bin width: 5 or 20.")] = 5,
    phase: Annotated[
        Literal["val", "test"],
        typer.Option(
            "--phase",
            help="val: train on the train split, score the validation split. test: train on both "
            "for the number of epochs found on validation, and infer the test split.",
        ),
    ] = "val",
    members: Annotated[
        int | None,
        typer.Option(
            "--members",
            min=1,
            help="Number of models to average: seeds, or the best members of --sweep.",
            show_default="1; with --sweep, the number that validates best",
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            help="Use this run or ensemble of the validation phase instead of training; several "
            "--run are averaged.",
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            help="Use the best members of this sweep over a file of nlb-data --spikes.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="The published test labels (eval_data_test.h5), to score --phase test."
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE|PRESET",
            help="Settings: a TOML file or a preset, such as mc_maze (the paper's).",
            show_default="nlb-quick",
        ),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make, check and score a submission to the Neural Latents Benchmark.

    One or more datasets in one file. Training takes minutes on a laptop for the
    small datasets; the paper's presets (--config DATASET) take hours on a GPU.

    To search for settings and average the best models, use three commands:
    nlb-data DATASET --spikes FILE; sweep --choose-by co-bps --set data.file=FILE;
    nlb-submit DATASET --sweep SWEEP.
    """
    from ndt_cli.commands.progress import SubmitProgress
    from ndt_cli.engine.run_folder import default_path
    from ndt_cli.nlb.catalog import Interrupted
    from ndt_cli.nlb.download import verify_label_file
    from ndt_cli.nlb.submission import read_groups
    from ndt_cli.nlb.submit import submit, summary

    if labels is not None and phase != "test":
        raise SettingsError(
            "--labels are for the test trials", "Add --phase test, or leave them out."
        )
    if (runs or sweep is not None) and (config is not None or overrides):
        raise SettingsError(
            "trained models have their own settings",
            "Leave out --config and --set, or --run and --sweep.",
        )
    targets = None
    if labels is not None:
        verify_label_file(labels)
        targets = read_groups(labels)
    folder = out or default_path(f"nlb-{names[0]}")
    try:
        with run_warnings_shown(), stop_request() as stop, SubmitProgress() as progress:
            result = submit(
                names,
                out=folder,
                data_dir=data_dir,
                bin_ms=bin_ms,
                phase=phase,
                config=config,
                overrides=overrides or (),
                members=members,
                runs=runs or (),
                sweep=sweep,
                labels=targets,
                watch=progress.training,
                should_stop=stop,
                progress=progress.stage,
            )
    except Interrupted:
        note(f"Stopped and saved. The same command with --out {typed(folder)} continues.")
        raise typer.Exit(130) from None
    errors = [finding for finding in result.findings if finding.severity == "error"]
    if as_json:
        print_json("nlb-submit/1", summary(result))
    else:
        for made in result.datasets:
            _show(made)
        for finding in result.findings:
            text = as_typed(f"{finding.severity}: {finding}")
            note(text)
        say(f"submission: {result.file}")
    if errors:
        raise typer.Exit(1)
    next_step(f"ndt nlb-check {typed(result.file)}")


def _show(made: "DatasetResult") -> None:
    from ndt_cli.engine.measures import score_text

    epochs = ", ".join(map(str, made.epochs))
    split = "validation split" if made.phase == "val" else "test split"
    members = "one member" if len(made.runs) == 1 else f"{len(made.runs)} members"
    say(f"{made.key}: {split}, {members} trained for {epochs} epochs")
    if made.choice is not None:
        say(_choice_text(made.choice))
    if not made.scores:
        say("not scored: no labels for these trials (see --labels)")
        return
    metrics = list(made.scores["NDT"])
    table = plain_table("", *metrics, numbers=True)
    for estimate, values in made.scores.items():
        table.add_row(estimate, *(score_text(values[metric]) for metric in metrics))
    stdout.print(table)
    if any(math.isnan(values.get("tp corr", 0.0)) for values in made.scores.values()):
        say("-: not defined; tp corr is about speed, and constant rates have none")
    if made.choice is not None and made.phase == "val":
        say("the members were chosen on the same trials, so the scores of NDT are optimistic")


def _choice_text(choice: "EnsembleChoice") -> str:
    number = "the number that validates best" if choice.curve else "the requested number"
    return (
        f"the best {choice.n_members} of {len(choice.ranked)} ranked members of {choice.sweep} "
        f"by {choice.choose_by} on the validation split ({number})"
    )
