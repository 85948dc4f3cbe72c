"""What is measured: settings, and trials of a size, made in memory."""

from dataclasses import dataclass, replace

import numpy as np

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import SettingsError
from ndt_cli.nlb.catalog import DATASETS, FORWARD_MS
from ndt_cli.settings.tree import DataSettings, Settings

# A typical cortical neuron in bins of 20 ms. Times hardly depend on the counts.
_SPIKES_PER_BIN = 0.2

# Enough batches that the trials of a step are not those of the step before.
_BATCHES = 8


@dataclass(frozen=True)
class Workload:
    """A training run's settings, and the size of its trials.

    Attributes
    ----------
    name : str
        Of the preset or config.
    settings : Settings
        Of the run; ``train.batch_size`` is the number of trials in a step.
    n_bins, n_neurons : int
        Of a trial, with the ``n_forward`` bins and ``n_heldout`` neurons that are never seen.
    """

    name: str
    settings: Settings
    n_bins: int
    n_neurons: int
    n_heldout: int = 0
    n_forward: int = 0

    @property
    def n_trials(self) -> int:
        """Trials in a step."""
        return self.settings.train.batch_size

    @property
    def n_made_trials(self) -> int:
        """Trials that `spikes` makes: those of several steps."""
        return _BATCHES * self.n_trials

    def resized(
        self,
        n_trials: int | None = None,
        n_bins: int | None = None,
        n_neurons: int | None = None,
    ) -> "Workload":
        """Return the workload at another size; the unseen parts keep their share."""
        bins, neurons = n_bins or self.n_bins, n_neurons or self.n_neurons
        sized = replace(
            self,
            n_bins=bins,
            n_neurons=neurons,
            n_heldout=round(self.n_heldout * neurons / self.n_neurons),
            n_forward=round(self.n_forward * bins / self.n_bins),
        )
        return sized if n_trials is None else sized.with_setting("train", batch_size=n_trials)

    def with_setting(self, section: str, **values: object) -> "Workload":
        """Return the workload with some settings of a section changed."""
        fields = getattr(self.settings, section).model_copy(update=values)
        return replace(self, settings=self.settings.model_copy(update={section: fields}))

    def spikes(self) -> SpikeData:
        """Make Poisson counts for several steps; the same each time."""
        rng = np.random.default_rng(self.settings.train.seed)
        shape = (self.n_made_trials, self.n_bins, self.n_neurons)
        return SpikeData(
            spikes_BTN=rng.poisson(_SPIKES_PER_BIN, shape).astype(np.uint8),
            bin_ms=self.settings.data.bin_ms or 10.0,
            lengths_B=np.full(shape[0], self.n_bins),
            n_heldout=self.n_heldout,
            n_forward=self.n_forward,
        )


def workload_of(
    name: str, settings: Settings, n_bins: int | None = None, n_neurons: int | None = None
) -> Workload:
    """Return settings with the size of the data that they are for.

    Parameters
    ----------
    name : str
        Of the preset or config: the sets of the Neural Latents Benchmark are known by it.
    settings : Settings
        With ``data.file`` the size is that file's.
    n_bins, n_neurons : int, optional
        Another size.

    Raises
    ------
    SettingsError
        When neither the settings nor the caller say how large the trials are.
    DataError
        When ``data.file`` cannot be read.
    """
    size = _size_of(name, settings.data)
    if size is not None:
        return Workload(name, settings, *size).resized(n_bins=n_bins, n_neurons=n_neurons)
    if n_bins is None or n_neurons is None:
        raise SettingsError(
            f"{name} does not say how large its trials are",
            "give --bins and --neurons, or a spike file: --set data.file=FILE",
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
    # The sets of the paper, as `ndt gen-data` makes them.
    return {"lorenz": (50, 29, 0, 0), "chaotic-rnn": (100, 50, 0, 0)}.get(data.synthetic)
