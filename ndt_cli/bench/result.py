"""What ``ndt bench`` measures, and the ratios that follow from it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from ndt_cli import __version__
from ndt_cli.bench.workload import Workload
from ndt_cli.engine.device import Compute
from ndt_cli.model.cpu.processor import processor_name

Kind = Literal["ndt", "stock"]
"""What is measured: this package, or the same model of stock PyTorch layers."""

INFERENCE_BATCH_SIZE = 256
"""Trials that are inferred at once."""


@dataclass(frozen=True)
class Times:
    """Repeated measurements of the same thing.

    Attributes
    ----------
    seconds : tuple of float
        One value per repeat.
    """

    seconds: tuple[float, ...]

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile, in ms."""
        return float(np.percentile(self.seconds, percent)) * 1000

    @property
    def median_ms(self) -> float:
        return self.percentile_ms(50)


@dataclass(frozen=True)
class Machine:
    """Device and versions, without which a time means nothing.

    Attributes
    ----------
    device : str
        As in "cpu" or "cuda:0 (NVIDIA H200)".
    processor : str
        Name of the CPU.
    n_threads : int
        CPU threads.
    precision : str
        Precision of this package's matrix products; the stock model computes in float32.
    torch, ndt : str
        Versions.
    """

    device: str
    processor: str
    n_threads: int
    precision: str
    torch: str
    ndt: str

    @classmethod
    def here(cls, compute: Compute, n_threads: int) -> "Machine":
        """Describe the machine that this runs on."""
        device, _, precision = compute.name.rpartition(", ")
        return cls(device, processor_name(), n_threads, precision, torch.__version__, __version__)


@dataclass(frozen=True)
class BenchResult:
    """Training steps and inference of ndt and of the stock model, measured in one process.

    Attributes
    ----------
    workload : Workload
        Settings and size of the trials.
    machine : Machine
        Where it was measured.
    steps : dict of Times
        Training steps, by kind.
    one_trial, batch : dict of Times
        Inference of one trial, and of `INFERENCE_BATCH_SIZE` trials at once: from counts to rates,
        both in host memory.
    peak_bytes : dict of int or None
        Peak GPU memory of a training run: weights, optimizer, trials and training steps. None on
        other devices, where it is not measured.
    """

    workload: Workload
    machine: Machine
    steps: dict[Kind, Times]
    one_trial: dict[Kind, Times]
    batch: dict[Kind, Times]
    peak_bytes: dict[Kind, int | None]

    def step_speedup(self, kind: Kind) -> float:
        """Return how many times as fast as stock a training step is (medians)."""
        return self.steps["stock"].median_ms / self.steps[kind].median_ms

    def one_trial_speedup(self, kind: Kind, percent: float = 50) -> float:
        """Return how many times as fast as stock one trial is inferred, at a percentile."""
        stock, this = (self.one_trial[k].percentile_ms(percent) for k in ("stock", kind))
        return stock / this

    def batch_speedup(self, kind: Kind) -> float:
        """Return how many times as fast as stock trials are inferred in batches (medians)."""
        return self.batch["stock"].median_ms / self.batch[kind].median_ms

    def trained_per_s(self, kind: Kind) -> float:
        """Return the trials that are trained on per second."""
        return self.workload.n_trials / (self.steps[kind].median_ms / 1000)

    def inferred_per_s(self, kind: Kind) -> float:
        """Return the trials that are inferred per second, in batches."""
        return INFERENCE_BATCH_SIZE / (self.batch[kind].median_ms / 1000)

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
            "train_step": {kind: self._step_json(kind) for kind in self.steps},
            "inference": {kind: self._inference_json(kind) for kind in self.one_trial},
        }

    def _step_json(self, kind: Kind) -> dict[str, Any]:
        times, peak = self.steps[kind], self.peak_bytes[kind]
        return {
            "n_steps": len(times.seconds),
            "median_ms": times.median_ms,
            "p10_ms": times.percentile_ms(10),
            "p90_ms": times.percentile_ms(90),
            "speedup": self.step_speedup(kind),
            "trials_per_s": self.trained_per_s(kind),
            "peak_mb": None if peak is None else peak / 1e6,
        }

    def _inference_json(self, kind: Kind) -> dict[str, Any]:
        return {
            "one_trial_p50_ms": self.one_trial[kind].median_ms,
            "one_trial_p99_ms": self.one_trial[kind].percentile_ms(99),
            "one_trial_speedup": self.one_trial_speedup(kind),
            "batch_size": INFERENCE_BATCH_SIZE,
            "batch_ms": self.batch[kind].median_ms,
            "trials_per_s": self.inferred_per_s(kind),
            "batch_speedup": self.batch_speedup(kind),
        }
