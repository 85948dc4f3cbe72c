"""The report on a spike file, as values."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ArrayFacts:
    """One array as the file stores it."""

    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SplitFacts:
    """Training or validation trials as they would be trained on."""

    name: str
    n_trials: int
    n_bins: int
    n_neurons: int
    shortest_bins: int
    mean_rate_hz: float
    max_count: int


@dataclass(frozen=True)
class FileReport:
    """All that `describe_file` found; fields are None where a problem hides them.

    Parameters
    ----------
    path : str
        The file.
    layout : str or None
        ``"lfads"``, ``"nlb"`` or ``"ndt"``.
    arrays : tuple of ArrayFacts
        What is stored.
    bin_ms, duration_ms : float or None
        Bin width and length of a full trial, in milliseconds.
    splits : tuple of SplitFacts
        Training, then validation trials.
    neuron_rates_hz : tuple of float or None
        Lowest, median and highest mean rate of a neuron over the training trials.
    silent_neurons : tuple of int
        Neurons without a spike in the training trials.
    n_conditions : int or None
        Conditions, where they are known.
    n_heldout, n_forward : int
        Held-out neurons and forward bins.
    has_rates, has_latents, has_behavior : bool
        Whether both splits have them.
    memory_bytes : int or None
        Memory that the loaded trials take.
    uses : tuple of str
        What the file is good for.
    problems, warnings, notes : tuple of str
        What prevents training; what to look at first; what was assumed.
    """

    path: str
    layout: str | None = None
    arrays: tuple[ArrayFacts, ...] = ()
    bin_ms: float | None = None
    duration_ms: float | None = None
    splits: tuple[SplitFacts, ...] = ()
    neuron_rates_hz: tuple[float, float, float] | None = None
    silent_neurons: tuple[int, ...] = ()
    n_conditions: int | None = None
    n_heldout: int = 0
    n_forward: int = 0
    has_rates: bool = False
    has_latents: bool = False
    has_behavior: bool = False
    memory_bytes: int | None = None
    uses: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def trainable(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as what JSON can hold."""
        return {**asdict(self), "trainable": self.trainable}
