"""What ``ndt bench`` measures: settings and random trials of a given size, and its results."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from ndt_cli import __version__
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.device import Compute
from ndt_cli.engine.preflight import free_bytes_on, memory_needs
from ndt_cli.errors import SettingsError
from ndt_cli.memory import in_gb
from ndt_cli.model.cpu.processor import processor_name
from ndt_cli.model.network import ModelShape
from ndt_cli.nlb.catalog import DATASETS, FORWARD_MS
from ndt_cli.settings.tree import DataSettings, Settings

# A typical cortical neuron in bins of 20 ms. Step times hardly depend on the counts.
_SPIKES_PER_BIN = 0.2

# Enough batches that consecutive steps use different trials.
_N_BATCHES = 8

# Poisson draws of 8 bytes, and the counts of one byte that are kept.
_BYTES_PER_COUNT = 9


@dataclass(frozen=True)
class Workload:
    """The settings of a training run, and the size of its trials."""

    name: str
    settings: Settings
    n_bins: int  # with forward bins
    n_neurons: int  # with held-out neurons
    n_heldout: int = 0
    n_forward: int = 0

    @property
    def n_trials(self) -> int:
        """Trials in a training step."""
        return self.settings.train.batch_size

    @property
    def n_trials_made(self) -> int:
        """Trials that `spikes` makes: several batches."""
        return _N_BATCHES * self.n_trials

    def resized(self, n_bins: int | None = None, n_neurons: int | None = None) -> "Workload":
        """Return the workload at another size, with the same share of held-out neurons and bins."""
        bins, neurons = n_bins or self.n_bins, n_neurons or self.n_neurons
        return replace(
            self,
            n_bins=bins,
            n_neurons=neurons,
            n_heldout=round(self.n_heldout * neurons / self.n_neurons),
            n_forward=round(self.n_forward * bins / self.n_bins),
        )

    def spikes(self) -> SpikeData:
        """Draw Poisson counts for several batches; the same ones each time."""
        rng = np.random.default_rng(self.settings.train.seed)
        shape = (self.n_trials_made, self.n_bins, self.n_neurons)
        return SpikeData(
            spikes_BTN=rng.poisson(_SPIKES_PER_BIN, shape).astype(np.uint8),
            bin_ms=self.settings.data.bin_ms or 10.0,
            lengths_B=np.full(shape[0], self.n_bins),
            n_heldout=self.n_heldout,
            n_forward=self.n_forward,
        )

    def check_memory(self, device: torch.device) -> None:
        """Refuse trials or a network that do not fit in memory, before anything is allocated.

        The estimate is a lower bound, so nothing that would have fit is refused.
        """
        counts = _BYTES_PER_COUNT * self.n_trials_made * self.n_bins * self.n_neurons
        self._check_fits(counts, torch.device("cpu"))
        # The stock layers compute attention between all bins, whatever the context window.
        model = self.settings.model.model_copy(update={"full_context": True})
        settings = self.settings.model_copy(update={"model": model})
        shape = ModelShape(self.n_neurons, self.n_bins, max_count=1)
        self._check_fits(memory_needs(settings, shape, self.n_trials).total, device)

    def _check_fits(self, n_bytes: int, device: torch.device) -> None:
        free = free_bytes_on(device)
        if free is not None and n_bytes > free:
            raise SettingsError(
                f"Training steps of {self.n_trials} trials x {self.n_bins} bins x "
                f"{self.n_neurons} neurons need at least {in_gb(n_bytes)} of memory; "
                f"{in_gb(free)} are free.",
                "Reduce `n_trials`, `n_bins` or `n_neurons`, or use a smaller model.",
            )


def workload_of(
    name: str, settings: Settings, n_bins: int | None = None, n_neurons: int | None = None
) -> Workload:
    """Return the workload of some settings, with trials as large as those of their data.

    Without ``data.file``, ``name`` may be that of a benchmark dataset.
    """
    size = _size_of(name, settings.data)
    if size is not None:
        return Workload(name, settings, *size).resized(n_bins, n_neurons)
    if n_bins is None or n_neurons is None:
        raise SettingsError(
            f"{name} does not give the size of its trials.",
            "Give `n_bins` and `n_neurons`, or a spike file: `data.file=FILE`.",
        )
    return Workload(name, settings, n_bins, n_neurons)


def _size_of(name: str, data: DataSettings) -> tuple[int, int, int, int] | None:
    """Return bins, neurons, held-out neurons and forward bins of a trial."""
    if data.file is not None:
        from ndt_cli.data.loading import load_recording

        train = load_recording(data).train
        return train.n_bins, train.n_neurons, train.n_heldout, train.n_forward
    dataset = DATASETS.get("mc_maze" if name.startswith("ablation-") else name)
    if dataset is not None:
        bin_ms = data.bin_ms or data.file_bin_ms or 5
        start_ms, end_ms = dataset.window_ms
        n_bins, n_forward = round((end_ms - start_ms) / bin_ms), round(FORWARD_MS / bin_ms)
        n_neurons = dataset.n_heldin + dataset.n_heldout
        return n_bins + n_forward, n_neurons, dataset.n_heldout, n_forward
    # The synthetic datasets of the paper, as `ndt gen-data` makes them.
    return {"lorenz": (50, 29, 0, 0), "chaotic-rnn": (100, 50, 0, 0)}.get(data.synthetic)


# ------------------------------------------------------------------------------------------------
# What is measured, and the ratios that follow from it.
# ------------------------------------------------------------------------------------------------


Kind = Literal["ndt", "stock"]
"""What is measured: this package, or the same model of stock PyTorch layers."""

INFERENCE_BATCH_SIZE = 256
"""Trials that are inferred at once."""


@dataclass(frozen=True)
class Times:
    """Repeated measurements of the same thing."""

    seconds: tuple[float, ...]

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile, in ms."""
        return float(np.percentile(self.seconds, percent)) * 1000

    @property
    def median_ms(self) -> float:
        return self.percentile_ms(50)


@dataclass(frozen=True)
class Machine:
    """Device and versions, without which a time means nothing."""

    device: str
    processor: str
    n_threads: int
    precision: str  # of ndt; the stock model computes in float32
    torch: str
    ndt: str

    @classmethod
    def here(cls, compute: Compute, n_threads: int) -> "Machine":
        """Describe the machine that this runs on."""
        device, _, precision = compute.name.rpartition(", ")
        return cls(device, processor_name(), n_threads, precision, torch.__version__, __version__)


@dataclass(frozen=True)
class BenchResult:
    """Training steps and inference of ndt and of the stock model, measured in one process."""

    workload: Workload
    machine: Machine
    steps: dict[Kind, Times]
    # Inference of one trial and of `INFERENCE_BATCH_SIZE` at once, from and to host memory.
    one_trial: dict[Kind, Times]
    batch: dict[Kind, Times]
    peak_bytes: dict[Kind, int | None]  # of GPU memory while training; None on other devices

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
