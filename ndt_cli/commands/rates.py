"""``ndt rates``: infer rates and write them to a file for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from ndt_cli.commands.console import next_step, print_json, run_warnings_shown, say
from ndt_cli.commands.flags import (
    AcceptChangesOption,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    OtherNeuronsOption,
    OtherWindowOption,
    OverwriteOption,
    SetOption,
    SplitChoice,
)
from ndt_cli.errors import count, typed


def rates(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run or an ensemble.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="File to write: .h5, .npz, .mat, .nwb, .csv or .parquet.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            "-d",
            help="Spike file of the same neurons, bin width and window.",
            show_default="that of the training",
        ),
    ] = None,
    split: Annotated[
        SplitChoice, typer.Option("--split", help="Trials; all are in the order of the file.")
    ] = "all",
    overrides: SetOption = None,
    checkpoint: CheckpointOption = None,
    n_components: Annotated[
        int,
        typer.Option("--pca", min=0, help="Add this many principal components of the activations."),
    ] = 0,
    nwb_source: Annotated[
        Path | None,
        typer.Option(
            "--nwb",
            help="NWB file of the recording: an .nwb file written is a copy of it, with the rates.",
        ),
    ] = None,
    other_neurons: OtherNeuronsOption = False,
    other_window: OtherWindowOption = False,
    accept_changes: AcceptChangesOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write the rates of a run's neurons to a file.

    The file also says which neurons, trials, conditions and times they are of,
    and which run and weights they come from.

    .h5, .npz and .mat hold rates_hz (spikes per second), rates (expected spikes
    per bin) and activations: trials x bins x neurons, in MATLAB too. Trials and
    neurons have the order of the spike file. .csv and .parquet are long tables,
    a row for each trial, bin and neuron. .nwb has the recording's clock.
    """
    from ndt_cli.inferred_rates import infer_rates
    from ndt_cli.rates_file import check_rates_path, write_rates

    check_rates_path(out, n_components, nwb_source, overwrite)  # before minutes of computing
    with run_warnings_shown():
        found = infer_rates(
            run,
            split=split,
            data=data,
            checkpoint=checkpoint,
            overrides=overrides or (),
            device=device,
            other_neurons=other_neurons,
            other_window=other_window,
            accept_changes=accept_changes,
        )
        write_rates(
            out, found, n_components=n_components, nwb_source=nwb_source, overwrite=overwrite
        )
    n_trials, n_bins, n_neurons = found.data.spikes_BTN.shape
    if as_json:
        print_json(
            "rates/1",
            {
                "file": str(out),
                "run": found.run,
                "checkpoint": found.checkpoint,
                "source": found.source,
                "split": split,
                "n_trials": n_trials,
                "n_bins": n_bins,
                "n_neurons": n_neurons,
                "bin_ms": found.data.bin_ms,
                "event": found.data.event or None,
                "start_ms": found.data.start_ms,
            },
        )
        return
    say(
        f"rates: {out} ({count(n_trials, 'trial')} x {count(n_bins, 'bin')} of "
        f"{found.data.bin_ms:g} ms x {count(n_neurons, 'neuron')})"
    )
    next_step(f"ndt report {typed(run)}")
