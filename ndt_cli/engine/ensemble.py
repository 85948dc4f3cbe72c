"""Several trained models as one: the mean of their rates.

Averaging rates over the best members of a search is how the published ensembles of NDT on the
Neural Latents Benchmark were made.

Axes: B trials, T bins, N neurons, D width of all encoders together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.run_facts import SplitFacts
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trained_model import Float32Array, TrainedModel
from ndt_cli.errors import CheckpointError, RunError
from ndt_cli.settings.tree import Settings

FILE = "ensemble.json"
FORMAT = "ndt-ensemble"
VERSION = 1


@dataclass(frozen=True)
class Ensemble:
    """Models of the same trials, ready to infer together; the methods are those of one model.

    Attributes
    ----------
    run : RunFolder
        The ensemble's folder.
    checkpoint : str
        Which of the members' checkpoints; several names where they differ.
    settings : Settings
        Those that its rates are measured with: data, and which bins are hidden.
    members : tuple of TrainedModel
        Best first.
    trained_on : SplitFacts
        What ``run.json`` says of the training trials: neurons, bins, bin width, held-out part.
    """

    run: RunFolder
    checkpoint: str
    settings: Settings
    members: tuple[TrainedModel, ...]
    trained_on: SplitFacts

    @staticmethod
    def is_at(path: Path) -> bool:
        """Tell whether a folder holds an ensemble."""
        return (path / FILE).is_file()

    @classmethod
    def load(
        cls,
        path: Path,
        checkpoint: str | None = None,
        device: str = "auto",
        *,
        openvino: bool = False,
    ) -> "Ensemble":
        """Load an ensemble; see `ndt_cli.engine.inference.load_trained`."""
        folder = RunFolder.open(path)
        about = folder.read_json(FILE)
        members = tuple(
            TrainedModel.load(path / member, None, device, openvino=openvino)
            for member in _member_folders(path, about)
        )
        held = ", ".join(dict.fromkeys(member.checkpoint for member in members))
        if checkpoint not in (None, held):
            raise CheckpointError(
                f"{path}: it is an ensemble and holds one checkpoint a member: {held}",
                "leave out --checkpoint, or make the ensemble of other runs",
            )
        return cls(folder, held, folder.settings(), members, members[0].trained_on)

    def check_fits(self, data: SpikeData, source: str, *, other_neurons: bool = False) -> None:
        """Check that the trials are of the kind that the members were trained on.

        Parameters and errors as in `TrainedModel.check_fits`.
        """
        first = replace(self.members[0], run=self.run)
        first.check_fits(data, source, other_neurons=other_neurons)

    @property
    def width(self) -> int:
        """Channels of the activations."""
        return sum(member.width for member in self.members)

    def rates(self, data: SpikeData) -> Float32Array:
        """Return the mean of the members' rates, nothing hidden, (B, T, N) in spikes per bin."""
        return self._mean(lambda member: member.rates(data))

    def rates_while_hidden(self, data: SpikeData, fold_BTN: NDArray[np.integer]) -> Float32Array:
        """Return the mean of the members' rates, each inferred while its own count is hidden.

        Parameters
        ----------
        data : SpikeData
            Trials.
        fold_BTN : int array that broadcasts to the counts
            Number of the pass in which an entry is hidden (`hiding_folds`).
        """
        return self._mean(lambda member: member.rates_while_hidden(data, fold_BTN))

    def activations(self, data: SpikeData) -> Float32Array:
        """Return the activations of all encoders side by side, (B, T, D), nothing hidden."""
        return np.concatenate([member.activations(data) for member in self.members], axis=2)

    def _mean(self, rates_of: Callable[[TrainedModel], Float32Array]) -> Float32Array:
        total_BTN = rates_of(self.members[0]).astype(np.float64)
        for member in self.members[1:]:
            total_BTN += rates_of(member)
        return (total_BTN / len(self.members)).astype(np.float32)


def _member_folders(path: Path, about: dict[str, Any]) -> list[str]:
    refused = RunError(f"{path / FILE}: it does not describe an ensemble")
    members, version = about.get("members"), about.get("version")
    if about.get("format") != FORMAT or type(version) is not int:
        raise refused
    if version > VERSION:
        raise RunError(
            f"{path / FILE}: ensemble format {version}; this ndt reads up to {VERSION}",
            "update ndt-cli",
        )
    if not isinstance(members, list) or not members:
        raise refused
    folders = [member.get("folder") if isinstance(member, dict) else None for member in members]
    # A file from elsewhere must not lead out of the ensemble's own folder.
    for folder in folders:
        if not isinstance(folder, str) or not _is_inside(folder, path):
            raise RunError(f"{path / FILE}: {folder!r} is no folder of a member in it")
    return [str(folder) for folder in folders]


def _is_inside(folder: str, path: Path) -> bool:
    try:
        return (path / folder).resolve().is_relative_to(path.resolve())
    except ValueError:  # no name that a file can have
        return False
