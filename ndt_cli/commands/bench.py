"""``ndt bench``: speed and memory beside a stock implementation, and how they grow."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import log, out, print_json
from ndt_cli.commands.flags import JsonOption, SetOption
from ndt_cli.commands.output_path import PICTURE_ENDINGS, check_new_file
from ndt_cli.errors import SettingsError
from ndt_cli.settings.load import find_config, load_settings

if TYPE_CHECKING:
    from ndt_cli.bench.growth import GrowthPoint
    from ndt_cli.bench.workload import Workload


def bench(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            "--preset",
            metavar="FILE|PRESET",
            help="Settings: a TOML file, or a preset's name (see: ndt presets).",
        ),
    ] = "chaotic-rnn",
    overrides: SetOption = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="auto, cpu, cuda or mps.", show_default="train.device"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=0, help="CPU threads.", show_default="train.n_threads"),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Trials in a step.", show_default="train.batch_size"),
    ] = None,
    bins: Annotated[
        int | None,
        typer.Option("--bins", min=1, help="Bins of a trial.", show_default="those of the data"),
    ] = None,
    neurons: Annotated[
        int | None,
        typer.Option("--neurons", min=1, help="Neurons.", show_default="those of the data"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Training steps to time.", show_default="20"),
    ] = None,
    growth: Annotated[
        bool,
        typer.Option(
            "--growth",
            help="Instead, steps along four axes: neurons, bins, trials, layers. Takes minutes.",
        ),
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="With --growth: draw it to this .png, .svg or .pdf file."),
    ] = None,
    openvino: Annotated[
        bool,
        typer.Option("--openvino", help="Single trials by OpenVINO too; needs that extra."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure speed and memory.

    Training steps and inference, beside the same model of stock PyTorch layers,
    and beside the fastest matrix products of the same device.

    Trials are made in memory, of the size that the preset's own data have.
    """
    if figure is not None and not growth:
        raise SettingsError("--figure draws the growth of time and memory", "add --growth")
    if figure is not None:
        check_new_file(figure, "--figure", PICTURE_ENDINGS)
    if growth and steps is not None:
        raise SettingsError("--growth takes as many steps as fit into seconds", "leave out --steps")
    if growth and openvino:
        raise SettingsError("--growth measures training, --openvino inference", "leave out one")
    source = find_config(config)
    wanted = {"device": device, "n_threads": threads, "batch_size": trials}
    changes = [f"train.{key}={value}" for key, value in wanted.items() if value is not None]
    settings = load_settings(config, [*(overrides or ()), *changes])
    log.print(f"settings: {source.label}", highlight=False, soft_wrap=True)

    from ndt_cli.bench.workload import workload_of

    workload = workload_of(Path(source.name).stem, settings, bins, neurons)
    if growth:
        _growth(workload, figure, as_json)
    else:
        _bench(workload, steps or 20, openvino, as_json)


def _bench(workload: "Workload", n_steps: int, openvino: bool, as_json: bool) -> None:
    from ndt_cli.bench.run import run_bench
    from ndt_cli.commands.bench_table import bench_notes, bench_tables, bench_title

    result = run_bench(workload, n_steps, _tell, openvino=openvino)
    if as_json:
        print_json(result.to_json())
        return
    for line in bench_title(workload, result.machine):
        out.print(line, highlight=False, soft_wrap=True)
    for table in bench_tables(result):
        out.print()
        out.print(table)
    out.print()
    for note in bench_notes(result):
        out.print(note, highlight=False)


def _growth(workload: "Workload", figure: Path | None, as_json: bool) -> None:
    from ndt_cli.bench.growth import measure_growth
    from ndt_cli.commands.bench_table import bench_title, growth_notes, growth_tables

    growth = measure_growth(workload, watch=_tell_point)
    if figure is not None:
        from ndt_cli.report.figures import save_figure
        from ndt_cli.report.growth import growth_curves

        save_figure(growth_curves(growth), figure)
        log.print(f"picture: {figure}", highlight=False, soft_wrap=True)
    if as_json:
        print_json(growth.to_json())
        return
    for line in bench_title(workload, growth.machine):
        out.print(line, highlight=False, soft_wrap=True)
    for table in growth_tables(growth):
        out.print()
        out.print(table)
    out.print()
    for note in growth_notes(growth):
        out.print(note, highlight=False)


def _tell(text: str) -> None:
    log.print(f"measuring {text}", highlight=False)


def _tell_point(point: "GrowthPoint") -> None:
    took = point.note if point.fastest_ms is None else f"{point.fastest_ms:.0f} ms a step"
    log.print(f"{point.value} {point.axis}, {point.line}: {took}", highlight=False)
