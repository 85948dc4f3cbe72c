"""What ``run.json`` must say, checked before anything believes it.

A run folder travels between people and machines, so its files are input like any other.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import RunError

_Count = Annotated[int, Field(ge=0)]

# The fingerprint comes last: a difference that can be read is named before it.
_IDENTITY = ("bin_ms", "n_neurons", "n_heldout", "n_forward", "n_bins", "n_trials", "fingerprint")


class _Facts(BaseModel):
    # What else is there is for people, or of a later version.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class SplitFacts(_Facts):
    """What identifies one split of the data, and its neurons.

    Attributes
    ----------
    fingerprint : str
        `SpikeData.fingerprint`.
    neuron_ids_N : list of int
        Place of each neuron in the order of the file; empty where columns stand in that order.
    neuron_names : list of str
        Names of the neurons in the order of the file; empty where nobody named them.
    n_observed_bins : int
        Bins of all trials, without padding and forward bins; 0 in runs of older versions.
    spikes_N : list of int
        Spikes of each neuron in those bins; empty in runs of older versions.
    """

    n_trials: _Count
    n_bins: _Count
    n_neurons: _Count
    n_heldout: _Count
    n_forward: _Count
    bin_ms: float
    fingerprint: str
    neuron_ids_N: list[_Count] = []
    neuron_names: list[str] = []
    n_observed_bins: _Count = 0
    spikes_N: list[_Count] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("neuron_ids_N", "neuron_names", "spikes_N"):
            n_values = len(getattr(self, name))
            if n_values not in (0, self.n_neurons):
                raise ValueError(f"{name} has {n_values} values for {self.n_neurons} neurons")
        if self.neuron_ids_N and sorted(self.neuron_ids_N) != list(range(self.n_neurons)):
            raise ValueError("neuron_ids_N is not a permutation of the neurons")
        return self

    @classmethod
    def of(cls, data: SpikeData) -> "SplitFacts":
        """Return the facts of a split."""
        n_observed_bins, spikes_N = observed_spikes(data)
        return cls(
            n_trials=data.n_trials,
            n_bins=data.n_bins,
            n_neurons=data.n_neurons,
            n_heldout=data.n_heldout,
            n_forward=data.n_forward,
            bin_ms=float(data.bin_ms),
            fingerprint=data.fingerprint,
            neuron_ids_N=[] if data.neuron_ids_N is None else data.neuron_ids_N.tolist(),
            neuron_names=list(data.neuron_names),
            n_observed_bins=n_observed_bins,
            spikes_N=spikes_N.tolist(),
        )

    def difference(self, other: "SplitFacts") -> str | None:
        """Return the name of the first fact in which other trials differ; None for the same."""
        differs = (key for key in _IDENTITY if getattr(self, key) != getattr(other, key))
        return next(differs, None)


def observed_spikes(data: SpikeData) -> tuple[int, NDArray[np.int64]]:
    """Return the bins of all trials without padding and forward bins, and each neuron's spikes."""
    window = slice(0, data.n_bins - data.n_forward)
    # Counts in padding are zero.
    spikes_N = data.spikes_BTN[:, window].sum(axis=(0, 1), dtype=np.int64)
    return int(data.inside_BT[:, window].sum()), spikes_N


class DataFacts(_Facts):
    """Of the training and the validation trials."""

    train: SplitFacts
    valid: SplitFacts


class RunFacts(_Facts):
    """The part of ``run.json`` that the program goes by."""

    data: DataFacts
    device: str = Field(pattern=r"^(cpu|mps|cuda)(:\d+)?$")
    precision: str = Field(pattern=r"^(float32|bfloat16)$")
    n_threads: int = Field(ge=1, le=1024)
    packages: dict[str, str | None] = {}


def check_run_facts(content: dict[str, Any], path: Path) -> RunFacts:
    """Check the content of a ``run.json``.

    Raises
    ------
    RunError
        When something is missing or of another type; the message names the first such key.
    """
    try:
        return RunFacts.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{path}: {key}: {first['msg'].lower()}",
            "the file was changed by hand or damaged; put back the one that ndt train wrote",
        ) from error
