"""``ndt evaluate``: scores of a run, its rates as a file, and pictures of chosen trials."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import log, out, print_json
from ndt_cli.commands.flags import JsonOption, SetOption
from ndt_cli.commands.output_path import PICTURE_ENDINGS, check_new_file
from ndt_cli.errors import SettingsError

# A quarter of an hour; behavior follows rates within a second.
_LONGEST_LAG_MS = 1e6


class SplitChoice(str, Enum):
    """Which trials to score."""

    train = "train"
    valid = "valid"
    all = "all"


class CheckpointChoice(str, Enum):
    """Which weights of the run."""

    best_masked_loss = "best-masked-loss"
    best_unmasked_loss = "best-unmasked-loss"
    best_rate_r2 = "best-rate-r2"
    best_co_bps = "best-co-bps"
    last = "last"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder.", show_default=False)],
    split: Annotated[
        SplitChoice | None,
        typer.Option("--split", help="Trials to score.", show_default="valid; all of another file"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Another file of the same neurons and bin width."),
    ] = None,
    overrides: SetOption = None,
    checkpoint: Annotated[
        CheckpointChoice | None,
        typer.Option(
            "--checkpoint", help="Weights to use.", show_default="best by train.choose_by"
        ),
    ] = None,
    rates: Annotated[
        Path | None,
        typer.Option(
            "--rates",
            help="Write rates (spikes per bin and Hz) and activations to this .h5 or .npz file.",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Draw one trial to this .png, .svg or .pdf file."),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option("--trial", min=0, help="Trial to draw.", show_default="a typical one"),
    ] = None,
    neurons: Annotated[
        list[int] | None,
        typer.Option(
            "--neuron",
            min=0,
            help="Neuron to draw. May be repeated.",
            show_default="the most modulated",
        ),
    ] = None,
    lags_ms: Annotated[
        list[float] | None,
        typer.Option(
            "--lag-ms",
            help="Lag from rates to behavior, for decoding. May be repeated: cross-validation "
            "chooses one.",
            show_default="several from -80 to 160",
        ),
    ] = None,
    other_neurons: Annotated[
        bool,
        typer.Option(
            "--other-neurons",
            help="Evaluate though the file's neurons are known to be others than the run's.",
        ),
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run.

    Scores its rates beside the mean rate, smoothed spikes and, where known, the
    true rates.

    They are scored on the spikes and, where the data have them, on held-out
    neurons, behavior and condition averages.
    """
    _check_options(data, overrides or (), figure, trial, neurons, lags_ms)
    # Before minutes of computing, not after.
    if rates is not None:
        check_new_file(rates, "--rates", (".h5", ".npz"))
    if figure is not None:
        check_new_file(figure, "--figure", PICTURE_ENDINGS)
    from ndt_cli.commands.score_table import score_notes, score_table, score_title
    from ndt_cli.evaluation import evaluate as evaluate_run
    from ndt_cli.rates_file import write_rates

    weights = checkpoint.value if checkpoint else None
    evaluation = evaluate_run(
        run,
        split=split.value if split else None,
        data=data,
        checkpoint=weights,
        overrides=tuple(overrides or ()),
        device=device,
        lags_ms=lags_ms,
        other_neurons=other_neurons,
    )
    if rates is not None:
        write_rates(rates, evaluation.data, evaluation.inferred, evaluation.activations)
        log.print(f"rates: {rates}", highlight=False, soft_wrap=True)
    if figure is not None:
        from ndt_cli.report.figures import save_figure
        from ndt_cli.report.trial import draw_trial

        drawn = draw_trial(evaluation, trial, list(dict.fromkeys(neurons or ())))
        save_figure(drawn, figure)
        log.print(f"picture: {figure}", highlight=False, soft_wrap=True)
    if as_json:
        print_json(evaluation.to_json())
        return
    out.print(score_title(evaluation), highlight=False, soft_wrap=True)
    out.print(score_table(evaluation))
    for note in score_notes(evaluation):
        log.print(note, style="dim", highlight=False)


def _check_options(
    data: Path | None,
    overrides: Sequence[str],
    figure: Path | None,
    trial: int | None,
    neurons: Sequence[int] | None,
    lags_ms: Sequence[float] | None,
) -> None:
    """Refuse options that would change nothing, and lags that are no times."""
    if overrides and data is None:
        raise SettingsError(
            "--set changes how the file of --data is read, and none was given",
            "add --data FILE, or leave out --set",
        )
    for override in overrides:
        if not override.strip().startswith("data."):
            raise SettingsError(
                f"--set {override}: the run was trained with its own settings; only those of "
                "[data] can change",
                "such as --set data.file_bin_ms=5",
            )
    if figure is None and (trial is not None or neurons):
        raise SettingsError(
            "--trial and --neuron say what --figure draws, and it was not given",
            "add --figure FILE.png",
        )
    for lag_ms in lags_ms or ():
        if not abs(lag_ms) <= _LONGEST_LAG_MS:
            raise SettingsError(
                f"--lag-ms {lag_ms:g}: expected a time in ms, shorter than the trials",
                "such as --lag-ms 80",
            )
