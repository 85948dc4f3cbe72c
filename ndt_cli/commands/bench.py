"""``ndt bench``: speed beside the same model of stock PyTorch layers."""

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ndt_cli.commands.console import next_step, note, out, plain_table, print_json, say
from ndt_cli.commands.flags import JsonOption, SetOption, chosen_settings, with_flag
from ndt_cli.errors import typed

if TYPE_CHECKING:
    from ndt_cli.bench.workload import BenchResult
    from ndt_cli.settings.tree import Settings


def bench(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            "--preset",
            metavar="FILE|PRESET",
            help="Settings: a TOML file, or a preset's name (see: ndt presets).",
            show_default="chaotic-rnn; recordings-causal with --stream",
        ),
    ] = None,
    overrides: SetOption = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="auto, cpu, cuda or mps.", show_default="train.device"),
    ] = None,
    n_threads: Annotated[
        int | None,
        typer.Option("--threads", min=0, help="CPU threads.", show_default="train.n_threads"),
    ] = None,
    n_trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, help="Trials per training step.", show_default="train.batch_size"
        ),
    ] = None,
    n_bins: Annotated[
        int | None,
        typer.Option("--bins", min=1, help="Bins per trial.", show_default="as in the data"),
    ] = None,
    n_neurons: Annotated[
        int | None,
        typer.Option("--neurons", min=1, help="Neurons.", show_default="as in the data"),
    ] = None,
    n_steps: Annotated[
        int, typer.Option("--steps", min=1, help="Training steps of each model.")
    ] = 20,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Measure rates bin by bin instead, as by ndt stream."),
    ] = False,
    n_stream_bins: Annotated[
        int, typer.Option("--stream-bins", min=1, help="Bins to measure with --stream.")
    ] = 100_000,
    as_json: JsonOption = False,
) -> None:
    """Measure the speed of training and inference.

    Compares ndt with the same model of stock PyTorch layers, in one process. Both
    get random trials as large as those of the preset's data. On a GPU, memory is
    measured too.

    With --stream, the time from the counts of a bin to its rates, on one CPU
    thread: one bin after the other, at the pace of a recording, and beside busy
    processes on another core and on its own; and of inferring a whole window for
    each new bin. Processor times leave out what
    other programs take. A plain loop as long as a bin shows how much of the
    slowest times is the machine's.
    """
    config = config or ("recordings-causal" if stream else "chaotic-rnn")
    changes = with_flag(overrides, "--device", "train.device", device)
    changes = with_flag(changes, "--threads", "train.n_threads", n_threads)
    changes = with_flag(changes, "--trials", "train.batch_size", n_trials)
    name, settings = chosen_settings(config, changes)
    if stream:
        _bench_stream(name, settings, n_neurons or 100, n_stream_bins, as_json)
        return

    from ndt_cli.bench.measure import run_bench
    from ndt_cli.bench.workload import workload_of

    workload = workload_of(name, settings, n_bins, n_neurons)
    result = run_bench(workload, n_steps, lambda text: note(f"measuring {text}"))
    if as_json:
        print_json("bench/1", result.to_json())
        return
    for line in _title(result):
        say(line)
    for table in (_step_table(result), _inference_table(result)):
        out.print()
        out.print(table)
    next_step(f"ndt train --config {typed(config)} --data spikes.npz")


def _bench_stream(
    name: str, settings: "Settings", n_neurons: int, n_bins: int, as_json: bool
) -> None:
    # As in `ndt stream`: threads take longer to wake than such products take.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from ndt_cli.bench.bin_by_bin import run_stream_bench
    from ndt_cli.bench.workload import Workload

    workload = Workload(name, settings, n_bins=100, n_neurons=n_neurons)
    result = run_stream_bench(workload, n_bins, lambda text: note(f"measuring {text}"))
    if as_json:
        print_json("bench-stream/1", result.to_json())
        return
    model, machine = settings.model, result.machine
    say(
        f"{name}: {n_neurons} neurons, {model.n_layers} layers, {model.context_back} bins back and "
        f"{model.context_forward} ahead; the rates of a bin are known {result.lag_bins} bins later"
    )
    say(f"{machine.processor}, one thread, torch {machine.torch}")
    out.print()
    heads = ["p50", "p99", "p99.9", "max", "processor: p50", "p99", "times bin by bin"]
    table = plain_table("ms for a new bin", *heads, numbers=True)
    for what, times in result.times.items():
        row = [_number(times.percentile_ms(percent)) for percent in (50, 99, 99.9, 100)]
        processor = result.processor_times[what]
        row += [_number(processor.percentile_ms(percent)) for percent in (50, 99)]
        kind, _, place = what.partition(", ")
        if n_window := result.window_bins.get(what):
            label, speedup = f"{kind}: the last {n_window} bins again", result.speedup(what)
        else:
            label = f"ndt: bin by bin, {place}" if kind == "stream" else f"{kind}, {place}"
            label, speedup = label.rstrip(", "), None
        table.add_row(label, *row, "" if speedup is None else f"{speedup:.1f}")
    out.print(table)
    out.print()
    say("plain loop: products of a matrix and a vector that take as long as a bin, to compare with")
    grown = result.grown_bytes
    say(
        f"weights and memory of the stream: {result.n_bytes / 1e6:.2f} MB"
        + ("" if grown is None else f"; grown over {n_bins} bins: {grown / 1e6:.2f} MB")
    )
    next_step(f"ndt train --config {typed(name)} --data spikes.npz", "ndt stream RUN")


def _title(result: "BenchResult") -> list[str]:
    """Return lines that say what was measured, and where."""
    workload, machine = result.workload, result.machine
    n_layers = workload.settings.model.n_layers
    heldout = f" ({workload.n_heldout} held out)" if workload.n_heldout else ""
    forward = f" ({workload.n_forward} forward)" if workload.n_forward else ""
    return [
        f"{workload.name}: {workload.n_trials} trials x {workload.n_bins} bins{forward} x "
        f"{workload.n_neurons} neurons{heldout}, {n_layers} layer{'s' if n_layers > 1 else ''}",
        f"{machine.device}, {machine.processor}, CPU threads: {machine.n_threads}",
        f"torch {machine.torch}; ndt computes in {machine.precision}, stock layers in float32",
    ]


def _step_table(result: "BenchResult") -> Table:
    steps = result.steps
    table = plain_table("training step", *steps, numbers=True)
    n_steps = len(steps["stock"].seconds)
    table.add_row(f"ms, median of {n_steps}", *(_number(t.median_ms) for t in steps.values()))
    table.add_row(
        "ms, 10th to 90th percentile",
        *(
            f"{_number(t.percentile_ms(10))} to {_number(t.percentile_ms(90))}"
            for t in steps.values()
        ),
    )
    _add_speedups(table, [result.step_speedup(kind) for kind in steps])
    table.add_row("trials/s", *(f"{result.trained_per_s(kind):,.0f}" for kind in steps))
    if any(n_bytes is not None for n_bytes in result.peak_bytes.values()):
        peaks = result.peak_bytes.values()
        table.add_row("peak memory, MB", *(f"{(n_bytes or 0) / 1e6:,.0f}" for n_bytes in peaks))
    return table


def _inference_table(result: "BenchResult") -> Table:
    from ndt_cli.bench.workload import INFERENCE_BATCH_SIZE

    one_trial = result.one_trial
    table = plain_table("inference", *one_trial, numbers=True)
    for percent in (50, 99):
        times = (_number(t.percentile_ms(percent)) for t in one_trial.values())
        table.add_row(f"one trial: ms, p{percent}", *times)
        _add_speedups(table, [result.one_trial_speedup(kind, percent) for kind in one_trial])
    table.add_row(
        f"{INFERENCE_BATCH_SIZE} trials at once: trials/s",
        *(f"{result.inferred_per_s(kind):,.0f}" for kind in one_trial),
    )
    _add_speedups(table, [result.batch_speedup(kind) for kind in one_trial])
    return table


def _add_speedups(table: Table, speedups: list[float]) -> None:
    table.add_row("times as fast as stock", *(f"{s:.2f}" for s in speedups), style="bold")


def _number(value: float) -> str:
    """Return a value with three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
