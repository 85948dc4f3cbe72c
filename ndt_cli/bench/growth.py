"""How a training step's time and memory grow with neurons, bins, trials and layers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ndt_cli.bench.alone import Kind, train_alone
from ndt_cli.bench.cost import StepCost, product_cost, stock_cost
from ndt_cli.bench.limits import check_size
from ndt_cli.bench.machine import Machine
from ndt_cli.bench.workload import Workload
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.engine.preflight import free_bytes_on

Axis = Literal["neurons", "bins", "trials", "layers"]
Line = Literal["ndt", "full context", "stock"]

LINES: tuple[Line, ...] = get_args(Line)
"""What trains; "full context" is this package without a context window."""

AXES: dict[Axis, tuple[int, ...]] = {
    "neurons": (50, 100, 200, 500, 1000),
    "bins": (50, 100, 200, 500, 1000),
    "trials": (16, 64, 256),
    "layers": (2, 6, 12),
}
"""Values of each axis; the others stay as in the workload."""

# Steps expected to take longer than this are left out.
_LONGEST_S: dict[Line, float] = {"ndt": 20.0, "full context": 20.0, "stock": 8.0}

# Peak memory against what the forward pass keeps, as measured on a CPU: 1.6 to 3 times.
_PEAK_PER_SAVED = 2.5

# Each axis is gone along twice, so that a minute in which the machine was busy shows in no point.
_PASSES = 2
_SECONDS = 1.0  # of steps to time at each point, each time
_LONG_S = 3.0  # a step that is long enough to be timed once


@dataclass(frozen=True)
class GrowthPoint:
    """One size on one axis.

    Attributes
    ----------
    axis, value
        What is varied, and to what.
    line : {"ndt", "full context", "stock"}
        What trains, one of `LINES`.
    fastest_ms : float or None
        The fastest of several training steps: processes that follow one another find the machine
        now busy, now idle, and a ratio of medians would show that. None where ``note`` says why
        nothing was measured.
    peak_mb : float or None
        Most memory, in MB; None where it is not known.
    note : str
        Why there is no time; otherwise empty.
    """

    axis: Axis
    value: int
    line: Line
    fastest_ms: float | None
    peak_mb: float | None
    note: str = ""

    @property
    def may_gain(self) -> bool:
        """Whether another measurement could say more."""
        return self.fastest_ms is not None and self.fastest_ms < 1000 * _LONG_S

    def better_of(self, other: "GrowthPoint") -> "GrowthPoint":
        """Return the faster of two measurements of this point."""
        pairs = [point for point in (self, other) if point.fastest_ms is not None]
        return min(pairs, key=lambda point: point.fastest_ms or 0.0, default=self)


@dataclass(frozen=True)
class Growth:
    """Points by axis, value and line, each in a process of its own.

    Attributes
    ----------
    workload : Workload
        What every axis departs from.
    machine : Machine
        Where.
    points : tuple of GrowthPoint
        In the order of the axes, values and lines.
    """

    workload: Workload
    machine: Machine
    points: tuple[GrowthPoint, ...]

    def on(self, axis: Axis, line: Line) -> list[GrowthPoint]:
        """Return the points of a line along an axis."""
        return [point for point in self.points if (point.axis, point.line) == (axis, line)]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "workload": {
                "name": self.workload.name,
                "n_trials": self.workload.n_trials,
                "n_bins": self.workload.n_bins,
                "n_neurons": self.workload.n_neurons,
                "n_layers": self.workload.settings.model.n_layers,
            },
            "machine": asdict(self.machine),
            "points": [asdict(point) for point in self.points],
        }


def measure_growth(
    workload: Workload,
    axes: dict[Axis, tuple[int, ...]] | None = None,
    watch: Callable[[GrowthPoint], None] = lambda point: None,
) -> Growth:
    """Measure training steps along each axis.

    Parameters
    ----------
    workload : Workload
        What every axis departs from; its own value is added to each.
    axes : dict, optional
        Values by axis. Default: `AXES`.
    watch : callable
        Told of each point.

    Raises
    ------
    SettingsError, DeviceError
        As `ndt_cli.bench.run.run_bench`.
    """
    compute = choose_compute(workload.settings.train)
    check_size(workload, compute.device)
    with cpu_threads(workload.settings.train.n_threads) as n_threads:
        machine = Machine.here(compute, n_threads)
    points: list[GrowthPoint] = []
    for axis, chosen in (AXES if axes is None else axes).items():
        values = sorted({*chosen, value_on(axis, workload)})
        found = _along(axis, values, workload, _Measuring(compute, n_threads), watch)
        # By value and line, whatever the order in which they were measured.
        points += [found[value, line] for value in values for line in _lines(axis, workload)]
    return Growth(workload, machine, tuple(points))


def _along(
    axis: Axis,
    values: list[int],
    workload: Workload,
    measuring: "_Measuring",
    watch: Callable[[GrowthPoint], None],
) -> dict[tuple[int, Line], GrowthPoint]:
    """Measure the points of an axis, several times over."""
    found: dict[tuple[int, Line], GrowthPoint] = {}
    for _ in range(_PASSES):
        for value in values:
            for line in _lines(axis, workload):
                before = found.get((value, line))
                if before is None or before.may_gain:
                    point = measuring.point(axis, value, line, _moved(workload, axis, value))
                    found[value, line] = point if before is None else before.better_of(point)
                    watch(found[value, line])
    return found


def value_on(axis: Axis, workload: Workload) -> int:
    """Return the workload's own value on an axis."""
    return {
        "neurons": workload.n_neurons,
        "bins": workload.n_bins,
        "trials": workload.n_trials,
        "layers": workload.settings.model.n_layers,
    }[axis]


def _moved(workload: Workload, axis: Axis, value: int) -> Workload:
    if axis == "layers":
        return workload.with_setting("model", n_layers=value)
    return workload.resized(**{f"n_{axis}": value})


def _lines(axis: Axis, workload: Workload) -> tuple[Line, ...]:
    model = workload.settings.model
    limited = not model.full_context and (model.context_back >= 0 or model.context_forward >= 0)
    return LINES if axis == "bins" and limited else ("ndt", "stock")


class _Measuring:
    """Measures points of an axis, and leaves out what would take too long."""

    def __init__(self, compute: Compute, n_threads: int) -> None:
        self.compute = compute
        self.n_threads = n_threads
        self._flop_per_s: dict[Line, float] = {}  # at the last size

    def point(self, axis: Axis, value: int, line: Line, workload: Workload) -> GrowthPoint:
        if line == "full context":
            workload = workload.with_setting("model", full_context=True)
        cost = self._cost(workload, line)
        note = self._objection(cost, line)
        if note:
            return GrowthPoint(axis, value, line, None, None, note)
        kind: Kind = "stock" if line == "stock" else "ndt"
        alone = train_alone(workload, kind, self.n_threads, _SECONDS)
        if alone is None:
            return GrowthPoint(axis, value, line, None, None, "memory ran out")
        fastest_ms = alone.times.percentile_ms(0)
        self._flop_per_s[line] = cost.flop / (fastest_ms / 1000)
        peak_mb = None if alone.peak_bytes is None else alone.peak_bytes / 1e6
        return GrowthPoint(axis, value, line, fastest_ms, peak_mb)

    def _cost(self, workload: Workload, line: Line) -> StepCost:
        if line == "stock":
            return stock_cost(workload)
        return product_cost(workload, self.compute.dtype, self.compute.device)

    def _objection(self, cost: StepCost, line: Line) -> str:
        """Say why a step is not to be tried; empty where it is."""
        rate = self._flop_per_s.get(line)
        if rate is not None and cost.flop / rate > _LONGEST_S[line]:
            return f"left out: a step would take about {cost.flop / rate:.0f} s"
        free, needed = free_bytes_on(self.compute.device), _PEAK_PER_SAVED * cost.saved_bytes
        if free is not None and needed > free:
            return f"left out: would take about {needed / 1e9:.1f} GB of memory"
        return ""
