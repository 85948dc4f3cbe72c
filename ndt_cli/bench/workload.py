"""What ``ndt bench`` measures: settings, and random trials of a given size."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.preflight import free_bytes_on, memory_needs
from ndt_cli.errors import SettingsError
from ndt_cli.memory import in_gb
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
    """The settings of a training run, and the size of its trials.

    Attributes
    ----------
    name : str
        Name of the preset or config.
    settings : Settings
        Settings of the run; ``train.batch_size`` is the number of trials in a step.
    n_bins, n_neurons : int
        Size of a trial, including forward bins and held-out neurons.
    n_heldout, n_forward : int
        How many of the neurons and bins are predicted and never seen.
    """

    name: str
    settings: Settings
    n_bins: int
    n_neurons: int
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

        Raises
        ------
        SettingsError
            With the size of the trials, and the memory that they need.
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

    Parameters
    ----------
    name : str
        Name of the preset or config; datasets of the Neural Latents Benchmark are found by it.
    settings : Settings
        With ``data.file``, the size is that of the trials in the file.
    n_bins, n_neurons : int, optional
        Another size.

    Raises
    ------
    SettingsError
        When neither the settings nor the arguments give the size of the trials.
    DataError
        When ``data.file`` cannot be read.
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
