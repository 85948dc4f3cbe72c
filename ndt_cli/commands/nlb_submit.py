"""``ndt nlb-submit``: from public files to a checked, scored submission."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ndt_cli.commands.console import log, out, print_json
from ndt_cli.commands.options import JsonOption, SetOption

if TYPE_CHECKING:
    from ndt_cli.nlb.submit import DatasetResult


class PhaseChoice(str, Enum):
    """Which trials are inferred and scored."""

    val = "val"
    test = "test"


def nlb_submit(
    names: Annotated[list[str], typer.Argument(metavar="DATASET...", help="mc_maze, mc_rtt, ...")],
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder.", show_default="runs/nlb-<data>-<time>"),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="Folder of the NWB files (see: ndt nlb-data).")
    ] = Path("nlb-data"),
    bin_ms: Annotated[int, typer.Option("--bin-ms", help="Bin width: 5 or 20.")] = 5,
    phase: Annotated[
        PhaseChoice,
        typer.Option(
            "--phase",
            help="val: train on the train split, score the validation split. test: train on both, "
            "for as long as validation chose, and infer the test split.",
        ),
    ] = PhaseChoice.val,
    members: Annotated[
        int, typer.Option("--members", min=1, help="Models whose rates are averaged.")
    ] = 1,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Use this run of the validation phase; train none for it."),
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
            help="Settings: a TOML file, or a preset's name, such as nlb-quick.",
            show_default="the preset of each dataset",
        ),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make, check and score a submission to the Neural Latents Benchmark.

    One dataset or several, in one file. With the presets of the paper training takes hours on a
    GPU; --config nlb-quick takes minutes on a laptop.
    """
    from ndt_cli.commands.progress import TrainingProgress
    from ndt_cli.commands.stopping import stop_request
    from ndt_cli.engine.run_folder import default_path
    from ndt_cli.nlb.scores import verify_label_file
    from ndt_cli.nlb.submission import read_groups
    from ndt_cli.nlb.submit import Interrupted, submit, summary

    targets = None
    if labels is not None:
        verify_label_file(labels)
        targets = read_groups(labels)
    folder = out_folder or default_path(f"nlb-{names[0]}")
    with stop_request() as stop, TrainingProgress() as training:
        try:
            result = submit(
                names,
                out=folder,
                data_dir=data_dir,
                bin_ms=bin_ms,
                phase=phase.value,
                config=config,
                overrides=overrides or (),
                members=members,
                run=run,
                labels=targets,
                watch=training,
                should_stop=stop,
                progress=_Lines(),
            )
        except Interrupted:
            log.print(f"Stopped. The runs so far are in {folder}.", soft_wrap=True)
            raise typer.Exit(130) from None
    errors = [finding for finding in result.findings if finding.severity == "error"]
    if as_json:
        print_json(summary(result))
    else:
        for made in result.datasets:
            _show(made)
        for finding in result.findings:
            log.print(f"{finding.severity}: {finding}", highlight=False, soft_wrap=True)
        out.print(f"submission: {result.file}", highlight=False, soft_wrap=True)
    if errors:
        raise typer.Exit(1)


class _Lines:
    """Says on standard error what begins; how far it is, would tell little."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        del done, total
        if what != self._said:
            log.print(what, highlight=False, soft_wrap=True)
        self._said = what


def _show(made: "DatasetResult") -> None:
    epochs = ", ".join(map(str, made.epochs))
    split = "validation split" if made.phase == "val" else "test split"
    out.print(
        f"{made.key}: {split}, {len(made.runs)} members trained for {epochs} epochs",
        highlight=False,
    )
    if not made.scores:
        out.print("not scored: there are no labels for these trials (see --labels)")
        return
    metrics = list(made.scores["NDT"])
    table = Table("", *metrics, box=None, pad_edge=False)
    for estimate, values in made.scores.items():
        table.add_row(estimate, *(f"{values[metric]:.4f}" for metric in metrics))
    out.print(table)
