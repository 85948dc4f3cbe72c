"""A trained model, the rates that it infers, and the check that they are of the right neurons.

Axes: B trials, T bins, N neurons, D width of the encoder.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt_cli.data.spike_data import SpikeData, trial_blocks
from ndt_cli.engine.backend import Inference, choose_backend
from ndt_cli.engine.batches import TrialSet, mean_over_passes, pass_inputs, stream_seed
from ndt_cli.engine.checkpoint import Checkpoint, Origin, digest_weights
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.engine.measures import CHECKPOINTS, best_checkpoint
from ndt_cli.engine.run_folder import RunFolder, SplitFacts, observed_spikes
from ndt_cli.engine.streaming import RateStream
from ndt_cli.errors import CheckpointError, DataError, RunError
from ndt_cli.metrics.decoding import Decoder
from ndt_cli.model.masking import hide, scoring_mask
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import Settings

Float32Array = NDArray[np.float32]

_log = logging.getLogger(__name__)

# Fewer neurons than these tell nothing by their rates.
_FEWEST = 8
# Of the variance of the log-rates between neurons, what may be chance.
_MOST_NOISE = 0.25
# Shuffled neurons correlate less than this, and once both sides are sorted by rate, little is
# left of their differences. Where neurons truly changed their rates, as in one condition of many,
# more is left.
_LEAST_CORRELATION = 0.5
_MOST_LEFT = 0.12


class Model(Protocol):
    """A trained model, or an ensemble of them: what evaluation, figures and the benchmark use."""

    @property
    def run(self) -> RunFolder:
        """The folder that it was loaded from."""

    @property
    def checkpoint(self) -> str:
        """Name of the checkpoint; several names where members differ."""

    @property
    def settings(self) -> Settings:
        """Settings that its rates are measured with: data, and which bins are hidden."""

    @property
    def trained_on(self) -> SplitFacts:
        """Neurons, bins, bin width and held-out part of the training trials."""

    @property
    def members(self) -> "tuple[TrainedModel, ...]":
        """The models whose rates are averaged, best first; a single model is its only member."""

    @property
    def weights_digest(self) -> str:
        """A digest of the weights: the same checkpoint has others after more training."""

    @property
    def width(self) -> int:
        """Channels of the activations."""

    def check_fits(
        self,
        data: SpikeData,
        source: str,
        *,
        other_neurons: bool = False,
        other_window: bool = False,
    ) -> None:
        """Refuse trials of another kind than it was trained on; see `TrainedModel.check_fits`."""

    def rates(self, data: SpikeData) -> Float32Array:
        """Infer rates from all counts, (B, T, N) in spikes per bin; see `TrainedModel.rates`."""

    def rates_while_hidden(self, data: SpikeData, fold_BTN: NDArray[np.integer]) -> Float32Array:
        """Infer each rate while its own count is hidden; see `TrainedModel.rates_while_hidden`."""

    def activations(self, data: SpikeData) -> Float32Array:
        """Return the encoder's activations, (B, T, D), nothing hidden."""

    def stream(self, *, provisional: bool = False, decoder: Decoder | None = None) -> RateStream:
        """Infer rates bin by bin; see `ndt_cli.engine.streaming.RateStream`."""


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
        On its device.
    compute : Compute
        Device and precision.
    trained_on : SplitFacts
        Neurons, bins, bin width and held-out part of the training trials, from ``run.json``.
    """

    run: RunFolder
    checkpoint: str
    settings: Settings
    network: NeuralDataTransformer
    compute: Compute
    trained_on: SplitFacts

    @classmethod
    def load(
        cls,
        run: Path | str,
        checkpoint: str | None = None,
        device: str = "auto",
        *,
        accept_changes: bool = False,
        session: NDArray[np.integer] | None = None,
    ) -> "TrainedModel":
        """Load the weights of a run; see `ndt_cli.engine.inference.load_trained`.

        Of a run of several sessions, ``session`` are the neurons of the one whose model is wanted.
        """
        folder = RunFolder.open(run)
        settings = folder.settings()
        checkpoint = checkpoint or best_checkpoint(settings.train.choose_by)
        if checkpoint not in CHECKPOINTS:
            raise CheckpointError(
                f"{checkpoint!r} is not a checkpoint", f"there are: {', '.join(CHECKPOINTS)}"
            )
        compute = choose_compute(settings.train.model_copy(update={"device": device}))
        math = choose_backend(settings.train, compute).math
        saved = Checkpoint.load(folder.checkpoint(checkpoint))
        saved.check_origin(Origin.of(folder, settings), accept_changes=accept_changes)
        trained_on = folder.facts().data.train
        if session is None:
            refuse_sessions(folder, trained_on)
        else:
            saved = saved.of_neurons(torch.from_numpy(session))
            trained_on = trained_on.of_neurons(session.tolist())
        network = saved.build_model(math)
        _log.info("loaded %s of %s on %s", checkpoint, folder.path, compute.device)
        return cls(folder, checkpoint, settings, network.to(compute.device), compute, trained_on)

    def check_fits(
        self,
        data: SpikeData,
        source: str,
        *,
        other_neurons: bool = False,
        other_window: bool = False,
    ) -> None:
        """Check that the trials are of the kind that the model was trained on.

        Parameters
        ----------
        data : SpikeData
            Trials to infer.
        source : str
            Where they are from, for the message.
        other_neurons : bool
            Take neurons of other names, or in another order, as those of the model.
        other_window : bool
            Take trials that are aligned to another event, or begin at another time from it.

        Raises
        ------
        DataError
            If neurons, bin width, held-out neurons, event or window differ, or trials are longer
            and the model knows bins by their position in the trial.
        """
        found = {"n_neurons": data.n_neurons, "n_heldout": data.n_heldout, "bin_ms": data.bin_ms}
        names = {
            "n_neurons": "neurons",
            "n_heldout": "held-out neurons",
            "bin_ms": "ms as bin width",
        }
        for key, value in found.items():
            expected = getattr(self.trained_on, key)
            if value != expected:
                raise DataError(
                    f"{source} has {value:g} {names[key]}, but {self.run.path} was trained with "
                    f"{expected:g}",
                    "Evaluate a file of the same neurons in the same bins; `data.bin_ms` sums "
                    "narrower bins.",
                )
        in_trial = self.settings.model.positions in ("learned", "sinusoid")
        if in_trial and data.n_bins > self.network.shape.n_bins:
            raise DataError(
                f"{source} has trials of {data.n_bins} bins, but {self.run.path} was trained with "
                f"{self.network.shape.n_bins}",
                "Cut the trials into pieces of at most that length, or train with "
                "`model.positions=relative`.",
            )

        before, now = self.trained_on, (data.event, float(data.start_ms))
        known = before.event and data.event
        if known and not other_window and now != (before.event, before.start_ms):
            raise DataError(
                f"{source} has trials from {now[1]:g} ms on around {now[0]!r}, but "
                f"{self.run.path} was trained on trials from {before.start_ms:g} ms on around "
                f"{before.event!r}",
                "Convert the recording with the event and the window of the training. "
                "`other_window=True` takes them as they are.",
            )
        if not other_neurons:
            check_same_neurons(self.trained_on, data, source, str(self.run.path))

    @property
    def members(self) -> "tuple[TrainedModel, ...]":
        """The model itself."""
        return (self,)

    @property
    def weights_digest(self) -> str:
        return digest_weights([self.network])

    @property
    def width(self) -> int:
        """Channels of the activations."""
        return self.network.embedding.width

    def rates(self, data: SpikeData) -> Float32Array:
        """Infer rates from all counts, (B, T, N) in spikes per bin; 0 in padding.

        In one pass with nothing hidden, or as the mean of ``inference.passes``. Counts of held-out
        neurons and forward bins are never looked at.
        """
        found_BTN = np.empty(data.spikes_BTN.shape, dtype=np.float32)
        with self._inferring():
            for rows, batch in self._batches(data):
                rates_BTN = mean_over_passes(self._forward, self.network, batch, self.settings)
                found_BTN[rows] = _inside(rates_BTN, batch)
        return found_BTN

    def rates_while_hidden(self, data: SpikeData, fold_BTN: NDArray[np.integer]) -> Float32Array:
        """Infer each rate while its own count is hidden, (B, T, N) in spikes per bin.

        In place of the hidden counts stands what stood there in training, but never themselves
        (`scoring_mask`).

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
                    found_BTN = self._rates_hidden(batch, torch.from_numpy(hidden))
                    np.copyto(rates_BTN[rows], found_BTN, where=hidden)
        return rates_BTN

    def activations(self, data: SpikeData) -> Float32Array:
        """Return what the encoder makes of the counts, (B, T, D): the mean over the passes."""
        found_BTD = np.empty((data.n_trials, data.n_bins, self.width), dtype=np.float32)
        with self._inferring():
            for rows, batch in self._batches(data):
                inputs = pass_inputs(batch, self.settings, self.network.shape.max_count)
                encoded_BTD = sum(
                    self._forward.encode(input_BTN, batch.inside_BT).float() for input_BTN in inputs
                )
                assert isinstance(encoded_BTD, Tensor)
                found_BTD[rows] = (encoded_BTD / self.settings.inference.passes).cpu().numpy()
        return found_BTD

    def stream(self, *, provisional: bool = False, decoder: Decoder | None = None) -> RateStream:
        """Infer rates bin by bin, as a recording goes on.

        One pass with nothing hidden, whatever ``inference.passes``.

        Parameters
        ----------
        provisional : bool
            Where the model looks ahead: give rates at once, as if nothing followed.
        decoder : Decoder, optional
            Of behavior, from `ndt_cli.engine.streaming.fit_decoder`.

        Raises
        ------
        RunError
            For a model whose rates are never final while a recording goes on.
        """
        networks = [(self.network, self.settings.mask)]
        name = str(self.run.path)
        return RateStream(networks, self.trained_on, name, provisional=provisional, decoder=decoder)

    def _rates_hidden(self, batch: TrialSet, hidden: Tensor) -> Float32Array:
        device = self.compute.device
        masked = hide(
            batch.counts_BTN,
            batch.visible,
            batch.scorable,
            hidden.to(device),
            scoring_mask(self.settings.mask),
            self.network.shape.max_count,
            torch.Generator(device),  # nothing is drawn
            self._fate(batch),
        )
        output = self._forward(masked.input_BTN, batch.inside_BT)
        return _inside(self.network.rates(output), batch)

    def _fate(self, batch: TrialSet) -> Tensor:
        """Return what decides a hidden count's fate: for a trial the same, whatever the batch."""
        stream = np.random.PCG64(stream_seed(self.settings.train.seed, "evaluation-fates"))
        fate_TN = np.random.Generator(stream).random(batch.shape[1:], dtype=np.float32)
        return torch.from_numpy(fate_TN).to(self.compute.device).expand(batch.shape)

    @cached_property
    def _forward(self) -> Inference:
        return choose_backend(self.settings.train, self.compute).inference(self.network)

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


def refuse_sessions(folder: RunFolder, trained_on: SplitFacts) -> None:
    """Refuse a run of several sessions where the model of one is needed.

    Raises
    ------
    RunError
        If it is one; the message names the folders of its sessions.
    """
    if trained_on.session_names:
        one = folder.path / "sessions" / trained_on.session_names[0]
        raise RunError(
            f"{folder.path} is a run of {len(trained_on.session_names)} sessions: "
            f"{', '.join(trained_on.session_names)}",
            f"Give one of them, such as {one}; they are there once training has ended.",
        )


def _inside(rates_BTN: Tensor, batch: TrialSet) -> Float32Array:
    """Return rates as an array, 0 in padding."""
    found_BTN: Float32Array = torch.where(batch.scorable, rates_BTN, 0).float().cpu().numpy()
    return found_BTN


def check_same_neurons(trained_on: SplitFacts, data: SpikeData, source: str, run: str) -> None:
    """Refuse trials whose columns are known to be other neurons than the model's.

    Trials of as many other neurons, or of the same in another order, would pass every check of
    shapes and give rates of the wrong neurons.

    Parameters
    ----------
    trained_on : SplitFacts
        Of the training trials.
    data : SpikeData
        Trials to infer, of as many neurons.
    source, run : str
        Where they are from, and which run it is; for the message.

    Raises
    ------
    DataError
        If both sides name their neurons and the names, or their order, differ; or when other
        neurons are held out.
    """
    in_file_order = list(range(data.n_neurons))
    before = trained_on.neuron_ids_N or in_file_order
    now = in_file_order if data.neuron_ids_N is None else data.neuron_ids_N.tolist()
    if trained_on.neuron_names and data.neuron_names:
        names_before = [trained_on.neuron_names[place] for place in before]
        _compare(names_before, [data.neuron_names[place] for place in now], source, run)
    elif before != now:
        raise DataError(
            f"{source}: other neurons are held out here than {run} was trained with",
            "use the same data.heldout_seed, data.heldout_fraction and data.heldout_neurons",
        )


def unlike_neurons(trained_on: SplitFacts, data: SpikeData) -> str | None:
    """Detect neurons whose mean rates look like those of the training trials, shuffled.

    Compares the logarithms of the mean rates of the visible neurons: shuffled neurons hardly
    correlate, yet sorted they are nearly the same. Fewer than 8 neurons are not judged, nor neurons
    whose rates differ hardly more than by chance, as where all fire alike.

    Returns
    -------
    A warning to show, or None.
    """
    n_seen = data.n_neurons - data.n_heldout
    if len(trained_on.spikes_N) != data.n_neurons or n_seen < _FEWEST:
        return None
    log_rates: list[NDArray[np.float64]] = []
    before = (trained_on.n_observed_bins, np.array(trained_on.spikes_N))
    for n_bins, spikes_N in (before, observed_spikes(data)):
        # Half a spike more: the logarithm of a silent neuron's is finite.
        seen_N = spikes_N[:n_seen].astype(np.float64) + 0.5
        log_rates_N = np.log(seen_N / max(n_bins, 1))
        # Of a Poisson count n, the logarithm has a variance of about 1 / n.
        if float((1 / seen_N).mean()) > _MOST_NOISE * float(log_rates_N.var()):
            return None
        log_rates.append(log_rates_N)
    before_N, now_N = log_rates
    correlation = float(np.asarray(np.corrcoef(np.stack(log_rates)))[0, 1])
    left = np.mean((np.sort(before_N) - np.sort(now_N)) ** 2)
    if correlation >= _LEAST_CORRELATION or left > _MOST_LEFT * np.mean((before_N - now_N) ** 2):
        return None
    return (
        "The neurons' mean rates are those of the training trials on other neurons (correlation of "
        f"their logarithms {correlation:.2f}): are these the same neurons, in the same order?"
    )


def _compare(ours: list[str], theirs: list[str], source: str, run: str) -> None:
    if ours == theirs:
        return
    column = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    found = f"column {column} is neuron {theirs[column]}, and was {ours[column]}"
    if sorted(ours) == sorted(theirs):
        raise DataError(
            f"{source}: its neurons stand in another order than those of {run}: {found}",
            "put the columns into the order of the training file",
        )
    missing = [name for name in ours if name not in set(theirs)]
    raise DataError(
        f"{source}: {len(missing)} of its {len(theirs)} neurons are not those of {run}: {found}",
        "evaluate trials of the neurons that the model was trained on",
    )
