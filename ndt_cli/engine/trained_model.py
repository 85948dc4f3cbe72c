"""One trained model, and the rates that it infers.

Axes: B trials, T bins, N neurons, D width of the encoder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt_cli.data.by_trial import trial_blocks
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.engine.fast_inference import Inferring, inferring
from ndt_cli.engine.openvino_network import require_openvino
from ndt_cli.engine.run_facts import SplitFacts
from ndt_cli.engine.run_folder import CHECKPOINTS, RunFolder
from ndt_cli.engine.same_neurons import check_same_neurons
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.errors import CheckpointError, DataError
from ndt_cli.model.masking import hide
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import Settings

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class TrainedModel:
    """A model from a run, ready to infer.

    Attributes
    ----------
    run : RunFolder
        Where it is from.
    checkpoint : str
        Which of the run's checkpoints.
    settings : Settings
        Those of the run.
    network : NeuralDataTransformer
        On its device, in evaluation form.
    compute : Compute
        Device and precision.
    trained_on : SplitFacts
        What ``run.json`` says of the training trials: neurons, bins, bin width, held-out part.
    openvino : bool
        Whether single trials are inferred by OpenVINO.
    """

    run: RunFolder
    checkpoint: str
    settings: Settings
    network: NeuralDataTransformer
    compute: Compute
    trained_on: SplitFacts
    openvino: bool = False

    @classmethod
    def load(
        cls,
        run: Path,
        checkpoint: str | None = None,
        device: str = "auto",
        *,
        openvino: bool = False,
    ) -> "TrainedModel":
        """Load the weights of a run; see `ndt_cli.engine.inference.load_trained`."""
        folder = RunFolder.open(run)
        settings = folder.settings()
        checkpoint = checkpoint or f"best-{settings.train.choose_by}"
        if checkpoint not in CHECKPOINTS:
            raise CheckpointError(
                f"{checkpoint!r} is not a checkpoint", f"there are: {', '.join(CHECKPOINTS)}"
            )
        compute = choose_compute(settings.train.model_copy(update={"device": device}))
        if openvino:
            require_openvino(compute.device)
        network = Checkpoint.load(folder.checkpoint(checkpoint)).build_model().to(compute.device)
        network.compute_dtype = compute.dtype
        network.plain = settings.train.plain_layers
        trained_on = folder.facts().data.train
        return cls(folder, checkpoint, settings, network.eval(), compute, trained_on, openvino)

    def check_fits(self, data: SpikeData, source: str, *, other_neurons: bool = False) -> None:
        """Check that the trials are of the kind that the model was trained on.

        Parameters
        ----------
        data : SpikeData
            Trials to infer.
        source : str
            Where they are from, for the message.
        other_neurons : bool
            Take neurons of other names, or in another order, as those of the model.

        Raises
        ------
        DataError
            When neurons, bin width or held-out neurons differ, or trials are longer.
        """
        found = {"n_neurons": data.n_neurons, "n_heldout": data.n_heldout, "bin_ms": data.bin_ms}
        names = {
            "n_neurons": "neurons",
            "n_heldout": "held-out neurons",
            "bin_ms": "ms as bin width",
        }
        for key, value in found.items():
            before = getattr(self.trained_on, key)
            if value != before:
                raise DataError(
                    f"{source} has {value:g} {names[key]}, but {self.run.path} was trained with "
                    f"{before:g}",
                    "evaluate on a file of the same neurons in the same bins "
                    "(--set data.bin_ms=... sums narrower bins)",
                )
        if data.n_bins > self.network.shape.n_bins:
            raise DataError(
                f"{source} has trials of {data.n_bins} bins, but {self.run.path} was trained with "
                f"{self.network.shape.n_bins}",
                "cut the trials into pieces of at most that length",
            )

        if not other_neurons:
            check_same_neurons(self.trained_on, data, source, str(self.run.path))

    @property
    def width(self) -> int:
        """Channels of the activations."""
        return self.network.embedding.width

    def rates(self, data: SpikeData) -> Float32Array:
        """Infer rates with nothing hidden, (B, T, N) in spikes per bin; 0 in padding.

        Counts of held-out neurons and forward bins are never looked at.
        """
        nothing = torch.zeros(1, 1, 1, dtype=torch.bool)
        rates_BTN = np.empty(data.spikes_BTN.shape, dtype=np.float32)
        with self._inferring():
            for rows, batch in self._batches(data):
                rates_BTN[rows] = self._rates(batch, nothing)
        return rates_BTN

    def rates_while_hidden(self, data: SpikeData, fold_BTN: NDArray[np.integer]) -> Float32Array:
        """Infer each rate while its own count is hidden, (B, T, N) in spikes per bin.

        Parameters
        ----------
        data : SpikeData
            Trials.
        fold_BTN : int array that broadcasts to the counts
            Number of the pass in which an entry is hidden (`hiding_folds`).
        """
        rates_BTN = np.zeros(data.spikes_BTN.shape, dtype=np.float32)
        n_folds = int(fold_BTN.max()) + 1
        with self._inferring():
            for rows, batch in self._batches(data):
                here_BTN = fold_BTN if len(fold_BTN) == 1 else fold_BTN[rows]
                for fold in range(n_folds):
                    hidden = here_BTN == fold
                    found_BTN = self._rates(batch, torch.from_numpy(hidden))
                    np.copyto(rates_BTN[rows], found_BTN, where=hidden)
        return rates_BTN

    def activations(self, data: SpikeData) -> Float32Array:
        """Return what the encoder makes of the counts, (B, T, D), nothing hidden."""
        found_BTD = np.empty((data.n_trials, data.n_bins, self.width), dtype=np.float32)
        with self._inferring():
            for rows, batch in self._batches(data):
                encoded_BTD = self._forward.encode(_visible(batch), batch.inside_BT)
                found_BTD[rows] = encoded_BTD.float().cpu().numpy()
        return found_BTD

    def _rates(self, batch: TrialSet, hidden: Tensor) -> Float32Array:
        mask = self.settings.mask.model_copy(update={"token_ratio": 1.0})
        device = self.compute.device
        unused = torch.Generator(device)  # with a token in every hidden place nothing is drawn
        masked = hide(
            batch.counts_BTN,
            batch.visible_1TN,
            batch.scorable,
            hidden.to(device),
            mask,
            self.network.shape.max_count,
            unused,
        )
        output = self._forward(masked.input_BTN, batch.inside_BT)
        rates_BTN = torch.where(batch.scorable, self.network.rates(output), 0)
        found_BTN: Float32Array = rates_BTN.float().cpu().numpy()
        return found_BTN

    @cached_property
    def _forward(self) -> Inferring:
        return inferring(
            self.network, self.settings.train, self.compute.device, openvino=self.openvino
        )

    def _batches(self, data: SpikeData) -> Iterator[tuple[slice, TrialSet]]:
        # What the network gives for an entry: a rate, or a score of each count.
        n_outputs = data.n_neurons * (self.network.readout.n_classes or 1)
        n_entries = data.n_bins * max(n_outputs, self.width)
        for rows in trial_blocks(data.n_trials, n_entries):
            part = data.take(np.arange(data.n_trials)[rows])
            yield rows, TrialSet.load(part, self.compute.device)

    @contextmanager
    def _inferring(self) -> Iterator[None]:
        """Ask for no gradients, and take the run's number of threads."""
        with cpu_threads(self.settings.train.n_threads), torch.inference_mode():
            yield


def _visible(batch: TrialSet) -> Tensor:
    return torch.where(batch.visible_1TN, batch.counts_BTN, 0)
