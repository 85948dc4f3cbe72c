"""What ``ndt bench`` finds, and the figures that follow from it."""

from dataclasses import asdict, dataclass
from typing import Any

from ndt_cli.bench.alone import Kind
from ndt_cli.bench.cost import StepCost
from ndt_cli.bench.inference_times import BATCH_SIZE, InferenceKind, InferenceTimes
from ndt_cli.bench.machine import Machine
from ndt_cli.bench.timing import Times
from ndt_cli.bench.workload import Workload


@dataclass(frozen=True)
class StepResult:
    """Training steps of one kind.

    Attributes
    ----------
    precision : str
        Of the matrix products.
    times : Times
        Of the steps, taken in turn with the other kinds.
    cost : StepCost
        Of a step.
    peak_bytes : int or None
        Most memory taken, measured in a process of its own; None where it is not known.
    """

    precision: str
    times: Times
    cost: StepCost
    peak_bytes: int | None

    @property
    def flop_per_s(self) -> float:
        return self.cost.flop / (self.times.median_ms / 1000)


@dataclass(frozen=True)
class BenchResult:
    """What was measured, in one process but for the memory.

    Attributes
    ----------
    workload : Workload
        Settings and size.
    machine : Machine
        Where.
    steps : dict
        Training steps by kind.
    parts : dict of Times
        Of this package's step, with the device waited for after each.
    inference : dict
        By kind; ``"openvino"`` where it was wanted.
    peak_flop_per_s : dict of float or None
        Fastest matrix products, by precision; None where the device lacks it.
    """

    workload: Workload
    machine: Machine
    steps: dict[Kind, StepResult]
    parts: dict[str, Times]
    inference: dict[InferenceKind, InferenceTimes]
    peak_flop_per_s: dict[str, float | None]

    def speedup(self, kind: Kind) -> float:
        """Return how often a step of this kind fits into one of the stock reference."""
        return self.steps["stock"].times.median_ms / self.steps[kind].times.median_ms

    def share_of_peak(self, kind: Kind) -> float | None:
        """Return the achieved share of the fastest products in the step's precision."""
        step = self.steps[kind]
        peak = self.peak_flop_per_s[step.precision]
        return None if peak is None else step.flop_per_s / peak

    @property
    def float32_limit_ms(self) -> float:
        """Time of the stock step's products at the fastest float32 rate, in ms."""
        peak = self.peak_flop_per_s["float32"]
        assert peak is not None  # every device has float32
        return self.steps["stock"].cost.flop / peak * 1000

    def one_trial_speedup(self, kind: InferenceKind, percent: float = 50) -> float:
        """Return how many times as fast as stock a single trial is inferred, at a percentile."""
        stock, mine = (self.inference[k].one.percentile_ms(percent) for k in ("stock", kind))
        return stock / mine

    def batch_speedup(self, kind: InferenceKind) -> float | None:
        """Return the same of trials in batches."""
        stock, mine = (self.inference[k].trials_per_s for k in ("stock", kind))
        return None if stock is None or mine is None else mine / stock

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not known is None."""
        workload = self.workload
        return {
            "workload": {
                "name": workload.name,
                "n_trials": workload.n_trials,
                "n_bins": workload.n_bins,
                "n_neurons": workload.n_neurons,
                "n_heldout": workload.n_heldout,
                "n_forward": workload.n_forward,
                "model": workload.settings.model.model_dump(mode="json"),
            },
            "machine": asdict(self.machine),
            "peak_gflop_per_s": {
                name: None if peak is None else peak / 1e9
                for name, peak in self.peak_flop_per_s.items()
            },
            "train_step": {kind: self._step_json(kind) for kind in self.steps},
            "parts_ms": {part: times.median_ms for part, times in self.parts.items()},
            "float32_limit": {
                "ms": self.float32_limit_ms,
                **{
                    f"{kind}_over_limit": step.times.median_ms / self.float32_limit_ms
                    for kind, step in self.steps.items()
                },
            },
            "inference": {kind: self._inference_json(kind) for kind in self.inference},
        }

    def _step_json(self, kind: Kind) -> dict[str, Any]:
        step = self.steps[kind]
        seconds = step.times.median_ms / 1000
        return {
            "precision": step.precision,
            "n_steps": len(step.times.seconds),
            "median_ms": step.times.median_ms,
            "p10_ms": step.times.percentile_ms(10),
            "p90_ms": step.times.percentile_ms(90),
            "min_ms": step.times.percentile_ms(0),
            "speedup": self.speedup(kind),
            "trials_per_s": self.workload.n_trials / seconds,
            "bins_per_s": self.workload.n_trials * self.workload.n_bins / seconds,
            "peak_mb": None if step.peak_bytes is None else step.peak_bytes / 1e6,
            "gflop": step.cost.flop / 1e9,
            "gflop_per_s": step.flop_per_s / 1e9,
            "share_of_peak": self.share_of_peak(kind),
            "n_parameters": step.cost.n_parameters,
        }

    def _inference_json(self, kind: InferenceKind) -> dict[str, Any]:
        times = self.inference[kind]
        return {
            "one_trial_p50_ms": times.one.median_ms,
            "one_trial_p99_ms": times.one.percentile_ms(99),
            "one_trial_speedup": self.one_trial_speedup(kind),
            "batch_size": BATCH_SIZE,
            "batch_ms": None if times.many is None else times.many.median_ms,
            "trials_per_s": times.trials_per_s,
            "batch_speedup": self.batch_speedup(kind),
        }
