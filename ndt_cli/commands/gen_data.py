"""``ndt gen-data``: write a synthetic set in the own layout."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ndt_cli.commands.console import out, print_json
from ndt_cli.commands.flags import JsonOption
from ndt_cli.commands.output_path import check_folder

if TYPE_CHECKING:
    from ndt_cli.data.spike_data import Recording

gen_data_app = typer.Typer(no_args_is_help=True, help="Make a synthetic set.")

OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="File to write: the ending, .h5 or .npz, says which.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")]
ConditionsOption = Annotated[int, typer.Option(min=1, help="Conditions: initial states.")]
RepeatsOption = Annotated[int, typer.Option(min=1, help="Trials per condition.")]


@gen_data_app.command("chaotic-rnn")
def chaotic_rnn(
    path: OutOption,
    seed: SeedOption = 5,
    duration_s: Annotated[float, typer.Option(min=0, help="Length of a trial, s.")] = 1.0,
    dt_s: Annotated[float, typer.Option(min=1e-6, help="Euler step and bin width, s.")] = 0.01,
    n_conditions: ConditionsOption = 130,
    n_repeats: RepeatsOption = 10,
    n_neurons: Annotated[int, typer.Option(min=1, help="Units of the network.")] = 50,
    n_observed: Annotated[
        int | None, typer.Option(min=1, help="Units that are recorded.", show_default="all")
    ] = None,
    gain: Annotated[float, typer.Option(help="Scale of the weights; above 1: chaos.")] = 1.5,
    tau_s: Annotated[float, typer.Option(min=1e-6, help="Time constant of a unit, s.")] = 0.025,
    x0_std: Annotated[float, typer.Option(min=0, help="Spread of the initial states.")] = 1.0,
    peak_rate_hz: Annotated[float, typer.Option(min=0, help="A unit's peak rate, Hz.")] = 30.0,
    train_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of each condition's repeats that trains.")
    ] = 0.8,
    as_json: JsonOption = False,
) -> None:
    """Make the chaotic RNN set: spikes of a random rate network.

    The defaults give the set of Ye & Pandarinath 2021, count for count.
    """
    from ndt_cli.data.chaotic_rnn import make_chaotic_rnn

    _check_file(path)
    recording = make_chaotic_rnn(
        seed=seed,
        duration_s=duration_s,
        dt_s=dt_s,
        n_conditions=n_conditions,
        n_repeats=n_repeats,
        n_neurons=n_neurons,
        n_observed=n_observed,
        gain=gain,
        tau_s=tau_s,
        x0_std=x0_std,
        peak_rate_hz=peak_rate_hz,
        train_fraction=train_fraction,
    )
    _write_and_show(recording, path, as_json)


@gen_data_app.command("lorenz")
def lorenz(
    path: OutOption,
    seed: SeedOption = 0,
    n_conditions: ConditionsOption = 65,
    n_repeats: RepeatsOption = 24,
    n_bins: Annotated[int, typer.Option(min=1, help="Bins per trial.")] = 50,
    bin_ms: Annotated[float, typer.Option(min=1e-3, help="Bin width, ms.")] = 20.0,
    n_neurons: Annotated[int, typer.Option(min=1, help="Neurons.")] = 29,
    train_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the trials that trains.")
    ] = 0.8,
    base_rate_hz: Annotated[float, typer.Option(min=0, help="Rate at the mean state, Hz.")] = 5.0,
    log_rate_std: Annotated[float, typer.Option(min=0, help="Spread of the log-rates.")] = 1.0,
    sigma: Annotated[float, typer.Option(help="Lorenz parameter.")] = 10.0,
    rho: Annotated[float, typer.Option(help="Lorenz parameter.")] = 28.0,
    beta: Annotated[float, typer.Option(help="Lorenz parameter.")] = 8 / 3,
    lorenz_time_per_s: Annotated[
        float, typer.Option(min=1e-6, help="Lorenz time in a second; a turn takes 0.75.")
    ] = 2.0,
    max_step: Annotated[
        float, typer.Option(min=1e-6, help="Largest integration step, in Lorenz time.")
    ] = 0.005,
    transient: Annotated[
        float, typer.Option(min=0, help="Lorenz time discarded before a trial.")
    ] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Make a Lorenz set: spikes of neurons that read out a Lorenz system.

    The set has the size of the one of Ye & Pandarinath 2021, whose file is not
    public.
    """
    from ndt_cli.data.lorenz import make_lorenz

    _check_file(path)
    recording = make_lorenz(
        seed=seed,
        n_conditions=n_conditions,
        n_repeats=n_repeats,
        n_bins=n_bins,
        bin_ms=bin_ms,
        n_neurons=n_neurons,
        train_fraction=train_fraction,
        base_rate_hz=base_rate_hz,
        log_rate_std=log_rate_std,
        sigma=sigma,
        rho=rho,
        beta=beta,
        lorenz_time_per_s=lorenz_time_per_s,
        max_step=max_step,
        transient=transient,
    )
    _write_and_show(recording, path, as_json)


def _check_file(path: Path) -> None:
    # Before the set is made, which may take minutes.
    from ndt_cli.data.write import check_target

    check_target(path)
    check_folder(path, "--out")


def _write_and_show(recording: "Recording", path: Path, as_json: bool) -> None:
    from ndt_cli.data.write import write_recording

    write_recording(recording, path)
    train, valid = recording.train, recording.valid
    facts: dict[str, Any] = {
        "file": str(path),
        "train_trials": train.n_trials,
        "valid_trials": valid.n_trials,
        "bins": train.n_bins,
        "bin_ms": train.bin_ms,
        "neurons": train.n_neurons,
        "mean_rate_hz": float(train.spikes_BTN.mean()) * 1000 / train.bin_ms,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    if as_json:
        print_json(facts)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for key, value in facts.items():
        name = key.replace("_", " ").replace(" hz", ", Hz").replace("bin ms", "bin width, ms")
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    out.print(table)
