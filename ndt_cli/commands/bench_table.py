"""What ``ndt bench`` found, as tables that fit a terminal of 80 columns."""

from typing import TYPE_CHECKING, get_args

from rich.table import Table

from ndt_cli.bench.growth import LINES, Axis, Growth, GrowthPoint, value_on
from ndt_cli.bench.inference_times import BATCH_SIZE

if TYPE_CHECKING:
    from ndt_cli.bench.alone import Kind
    from ndt_cli.bench.inference_times import InferenceKind
    from ndt_cli.bench.machine import Machine
    from ndt_cli.bench.result import BenchResult
    from ndt_cli.bench.workload import Workload

_LABELS: "dict[Kind | InferenceKind, str]" = {
    "ndt": "ndt",
    "plain": "ndt, plain",
    "openvino": "ndt, OpenVINO",
    "stock": "stock",
}


def bench_title(workload: "Workload", machine: "Machine") -> list[str]:
    """Return lines that say what was measured, and where."""
    model = workload.settings.model
    heldout = f" ({workload.n_heldout} held out)" if workload.n_heldout else ""
    forward = f" ({workload.n_forward} forward)" if workload.n_forward else ""
    return [
        f"{workload.name}: {workload.n_trials} trials x {workload.n_bins} bins{forward} x "
        f"{workload.n_neurons} neurons{heldout}, "
        f"{model.n_layers} layer{'s' if model.n_layers > 1 else ''}",
        f"{machine.device}, {machine.processor}, CPU threads: {machine.n_threads}",
        f"torch {machine.torch}; products of ndt in {machine.precision}, of stock in float32",
    ]


def bench_tables(result: "BenchResult") -> list[Table]:
    """Return tables of training steps, their parts, and inference."""
    return [_step_table(result), _parts_table(result), _inference_table(result)]


def bench_notes(result: "BenchResult") -> list[str]:
    """Return how far the limit of the device is, and what the words mean."""
    rates = ", ".join(
        f"{name} {'unknown' if peak is None else f'{peak / 1e9:.0f}'} GFLOP/s"
        for name, peak in result.peak_flop_per_s.items()
    )
    limit = result.float32_limit_ms
    ndt, stock = (result.steps[kind].times.median_ms / limit for kind in ("ndt", "stock"))
    return [
        f"fastest matrix products here: {rates}",
        f"float32 limit: stock's {result.steps['stock'].cost.flop / 1e9:.3g} GFLOP at that rate, "
        f"{_number(limit)} ms",
        f"steps against that limit: ndt {_number(ndt)}, stock {_number(stock)} times as long",
        "stock: the same model of PyTorch's own layers; plain: ndt without fast paths",
        "parts: with the device waited for after each",
    ]


def growth_tables(growth: Growth) -> list[Table]:
    """Return a table for each axis."""
    axes = {point.axis for point in growth.points}
    return [_axis_table(growth, axis) for axis in get_args(Axis) if axis in axes]


def growth_notes(growth: Growth) -> list[str]:
    """Return what was not measured, and why."""
    gaps = [
        f"{point.value} {point.axis}, {point.line}: {point.note}"
        for point in growth.points
        if point.note
    ]
    return [*gaps, "* the size that the other axes keep; ms: the fastest of several steps"]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    return table


def _step_table(result: "BenchResult") -> Table:
    steps = result.steps
    n_steps = len(steps["stock"].times.seconds)
    table = _table("training step", *(_LABELS[kind] for kind in steps))

    def row(label: str, *cells: str) -> None:
        table.add_row(label, *cells, style="bold" if label.startswith("times") else "")

    times = [step.times for step in steps.values()]
    per_second = [result.workload.n_trials / (t.median_ms / 1000) for t in times]
    shares = [result.share_of_peak(kind) for kind in steps]
    row(f"ms, median of {n_steps}", *(_number(t.median_ms) for t in times))
    row(
        "ms, 10 to 90 % of them",
        *(f"{_number(t.percentile_ms(10))} to {_number(t.percentile_ms(90))}" for t in times),
    )
    row("times as fast as stock", *(f"{result.speedup(kind):.2f}" for kind in steps))
    row("trials/s", *(f"{rate:,.0f}" for rate in per_second))
    row("bins/s", *(f"{rate * result.workload.n_bins:,.0f}" for rate in per_second))
    row("peak memory, MB", *(_megabytes(step.peak_bytes) for step in steps.values()))
    row("GFLOP", *(f"{step.cost.flop / 1e9:.1f}" for step in steps.values()))
    row("GFLOP/s", *(f"{step.flop_per_s / 1e9:,.0f}" for step in steps.values()))
    row(
        "share of the fastest products",
        *("-" if share is None else f"{share:.0%}" for share in shares),
    )
    return table


def _parts_table(result: "BenchResult") -> Table:
    table = _table("part of ndt's step", *result.parts)
    table.add_row("ms, median", *(_number(times.median_ms) for times in result.parts.values()))
    return table


def _inference_table(result: "BenchResult") -> Table:
    kinds, times = list(result.inference), list(result.inference.values())
    table = _table("inference, whole trials", *(_LABELS[kind] for kind in kinds))

    def row(label: str, found: list[str], ratios: list[float | None]) -> None:
        table.add_row(label, *found)
        cells = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        table.add_row("times as fast as stock", *cells, style="bold")

    for percent in (50, 99):
        row(
            f"one: ms, p{percent}",
            [_number(t.one.percentile_ms(percent)) for t in times],
            [result.one_trial_speedup(kind, percent) for kind in kinds],
        )
    row(
        f"{BATCH_SIZE} at once: trials/s",
        ["-" if t.trials_per_s is None else f"{t.trials_per_s:,.0f}" for t in times],
        [result.batch_speedup(kind) for kind in kinds],
    )
    return table


def _axis_table(growth: Growth, axis: Axis) -> Table:
    lines = {line: growth.on(axis, line) for line in LINES}
    lines = {line: points for line, points in lines.items() if points}
    headings = [f"{line},\n{unit}" for unit in ("ms", "MB") for line in lines]
    table = _table(f"\n{axis}", *headings, "stock/ndt,\ntime")
    base = value_on(axis, growth.workload)
    for points in zip(*lines.values(), strict=True):
        value = points[0].value
        ndt, stock = points[0].fastest_ms, points[-1].fastest_ms
        ratio = f"{stock / ndt:.2f}" if ndt and stock else "-"
        cells = [*map(_ms, points), *map(_mb, points), ratio]
        table.add_row(f"{value}{' *' if value == base else ''}", *cells)
    return table


def _ms(point: GrowthPoint) -> str:
    return "-" if point.fastest_ms is None else _number(point.fastest_ms)


def _mb(point: GrowthPoint) -> str:
    return "-" if point.peak_mb is None else f"{point.peak_mb:,.0f}"


def _megabytes(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else f"{n_bytes / 1e6:,.0f}"


def _number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
