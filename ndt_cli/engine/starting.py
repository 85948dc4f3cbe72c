"""Start a run from the weights of another: the same neurons again, or another session's.

The encoder and its positions are taken over whole. Of the read-in and the read-out, each neuron
that both sessions are known to have takes over its own weights; those of other neurons are new.

Axes: N neurons, O neurons of the run started from, C spike-count classes, H heads.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ndt_cli.atomic import write_atomic
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.measures import best_checkpoint
from ndt_cli.engine.new_neurons import TrainedNeurons, fit_new_neurons
from ndt_cli.engine.run_folder import RunFolder, SplitFacts
from ndt_cli.errors import DataError, RunError, SettingsError
from ndt_cli.model.embedding import encoder_width
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.explain import plain_values
from ndt_cli.settings.load import (
    RECORDING_PRESET,
    ConfigSource,
    preset_names,
    read_preset,
    resolve_config,
)
from ndt_cli.settings.tree import ModelSettings, Settings

# What may differ from the run started from; all else decides what its weights mean.
_DROPOUTS = ("dropout", "dropout_embedding", "dropout_rates")
_FREE = (*_DROPOUTS, "dropout_bins", "readout_init")

# Of [train], what goes with the model; lengths and schedule go with the amount of data.
_KEPT = ("batch_size", "optimizer", "learning_rate", "weight_decay", "clip_norm", "topk_fraction")


@dataclass(frozen=True, eq=False)
class Start:
    """The weights that a run starts from.

    Attributes
    ----------
    run : Path
        The folder of the run.
    checkpoint : Checkpoint
        Its best by its own ``train.choose_by``.
    trained_on : SplitFacts
        Neurons and bin width of its training trials.
    """

    run: Path
    checkpoint: Checkpoint
    trained_on: SplitFacts

    @classmethod
    def load(cls, run: Path) -> "Start":
        """Load the weights of a run.

        Raises
        ------
        RunError, CheckpointError
            If it is an ensemble or no run, or its checkpoint is missing or damaged.
        """
        if Ensemble.is_at(run):
            raise RunError(
                f"{run} is an ensemble, from which no single model can start",
                f"Start from one of its members, such as {run / 'members' / '000'}.",
            )
        folder = RunFolder.open(run)
        path = folder.checkpoint(best_checkpoint(folder.settings().train.choose_by))
        checkpoint = Checkpoint.load(path)
        checkpoint.build_model()  # damaged weights are found before a run folder is made
        return cls(run, checkpoint, folder.facts().data.train)

    def keep_decoder(self, folder: RunFolder) -> None:
        """Copy the run's decoder of behavior from activations to a new run that starts from it."""
        path = RunFolder(self.run).own_decoder
        if path.is_file():
            content = path.read_bytes()
            write_atomic(folder.other_decoder, lambda to: to.write_bytes(content), overwrite=True)

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """Return settings to train from this run with: of its model, for data of another size.

        The network, the masks and the inference are those of the run, and so are optimizer,
        learning rate, weight decay and batch size. How long is trained, and the schedule, are those
        of the preset for recordings. The bin width is that of the run. Dropout that a preset made
        of the size of the run's data (``model.dropout_bins``) goes by the size of the new data.

        Parameters
        ----------
        overrides : sequence of str
            Changes, such as ``"data.file=FILE"``.
        """
        before = RunFolder.open(self.run).settings()
        old = plain_values(before)
        model = old["model"] | _dropout_by_size(before.model, self.trained_on)
        if before.model.embedding == "linear":  # whatever the number of neurons
            shape = self.checkpoint.shape
            model["width"] = encoder_width(before.model, shape.n_neurons)
        preset = plain_values(read_preset(RECORDING_PRESET).settings)["train"]
        values = {
            "data": {"synthetic": "none", "bin_ms": self.trained_on.bin_ms},
            "model": model,
            "mask": old["mask"],
            "inference": old["inference"],
            "train": {
                **preset,
                **{name: old["train"][name] for name in _KEPT},
                "start_from": str(self.run.absolute()),
            },
        }
        return resolve_config(
            ConfigSource(f"settings of {self.run}", "file", tomli_w.dumps(values), None), overrides
        )

    def match(self, settings: Settings, train: SpikeData, source: str) -> NDArray[np.int64]:
        """Find each neuron among those of the run, and check that the model can start from it.

        Parameters
        ----------
        settings : Settings
            Of the new run.
        train : SpikeData
            Its training trials.
        source : str
            Where they are from, for the message.

        Returns
        -------
        (neurons,) int array
            The neuron's column in the run, or -1.

        Raises
        ------
        SettingsError
            If the networks differ in more than the dropout.
        DataError
            If bin widths differ, trials are longer than learned positions, or the encoder of the
            run takes each neuron at a place of its own and these are other neurons.
        """
        self._check_model(settings.model, train.n_neurons)
        if train.bin_ms != self.trained_on.bin_ms:
            raise DataError(
                f"{source} has bins of {train.bin_ms:g} ms, and {self.run} was trained with "
                f"{self.trained_on.bin_ms:g} ms",
                f"Sum narrower bins: `data.bin_ms={self.trained_on.bin_ms:g}`.",
            )
        longest = self.checkpoint.shape.n_bins
        if settings.model.positions == "learned" and train.n_bins > longest:
            raise DataError(
                f"{source} has trials of {train.n_bins} bins, and {self.run} has learned the "
                f"positions of {longest}",
                "Cut the trials into pieces of at most that length.",
            )
        columns_N = self._columns(settings.train.start_neurons, train, source)
        same = np.array_equal(columns_N, np.arange(self.checkpoint.shape.n_neurons))
        if settings.model.embedding != "linear" and not same:
            raise DataError(
                f'{source}: {self.run} has model.embedding = "{settings.model.embedding}", which '
                "gives each neuron a place of its own, so that only a model of the same neurons, "
                "in the same order, can start from it; these are not known to be the same",
                "If they are: `train.start_neurons=same`. For other neurons, train the first model "
                "with `model.embedding=linear`, as the preset recordings does.",
            )
        return columns_N

    def check_draws(self, draws: Iterable[str], space: str) -> None:
        """Refuse a search space, by its name, that draws what the weights of the run decide."""
        free = {f"model.{name}" for name in _FREE}
        drawn = [key for key in draws if key.startswith("model.") and key not in free]
        if drawn:
            raise SettingsError(
                f"the space {space} draws {', '.join(drawn)}, and the network is that of "
                f"{self.run}, which training starts from",
                "Leave it out of a `space` of your own, or use `space=from-run`.",
            )

    def _check_model(self, model: ModelSettings, n_neurons: int) -> None:
        old, new = self.checkpoint.model_settings, model
        before, now = old.model_dump(), new.model_dump()
        widths = encoder_width(old, self.checkpoint.shape.n_neurons), encoder_width(new, n_neurons)
        before["width"], now["width"] = widths
        if old.embedding == "identity":
            before["embedding_size"] = now["embedding_size"]  # of no matter
        for name, value in before.items():
            if (
                name not in _FREE
                and now[name] != value
                and not (
                    # Other neurons make another width; the message about them says more.
                    name == "width" and old.embedding != "linear"
                )
            ):
                raise SettingsError(
                    f"model.{name} is {now[name]}, and {value} in {self.run}, whose weights would "
                    "mean something else",
                    "Leave it as it is there.",
                )

    def _columns(self, which: str, train: SpikeData, source: str) -> NDArray[np.int64]:
        facts, unknown_N = self.trained_on, np.full(train.n_neurons, -1)
        if which == "other":
            return unknown_N
        before = facts.neuron_ids_N or list(range(facts.n_neurons))
        now = list(range(train.n_neurons))
        if train.neuron_ids_N is not None:
            now = train.neuron_ids_N.tolist()
        if which == "same":
            if before != now or facts.n_heldout != train.n_heldout:
                raise DataError(
                    f"{source} has {train.n_neurons} neurons, {train.n_heldout} held out, and "
                    f"{self.run} has {facts.n_neurons} and {facts.n_heldout}, or others held out: "
                    "they are not the same",
                    "Leave out `train.start_neurons=same`.",
                )
            return np.arange(train.n_neurons)
        if facts.fingerprint == train.fingerprint:  # the same trials
            return np.arange(train.n_neurons)
        if not facts.neuron_names or not train.neuron_names:
            return unknown_N
        old_names = [facts.neuron_names[place] for place in before]
        places = {name: place for place, name in enumerate(old_names)}
        twice = {name for name in old_names if old_names.count(name) > 1}
        twice |= {name for name in train.neuron_names if train.neuron_names.count(name) > 1}
        names = [train.neuron_names[place] for place in now]
        return np.array([-1 if name in twice else places.get(name, -1) for name in names])

    @torch.no_grad()
    def fill(self, network: NeuralDataTransformer, columns_N: NDArray[np.int64]) -> None:
        """Set the weights of a new network, as it was built, to those of the run.

        Parameters
        ----------
        network : NeuralDataTransformer
            Its read-out starts at the mean rates of its own trials.
        columns_N : (neurons,) int array
            From `match`.
        """
        old = self.checkpoint.build_model()
        known_N = torch.from_numpy(columns_N >= 0)
        columns = torch.from_numpy(columns_N[columns_N >= 0])
        copied = dict(old.state_dict())
        for name in [name for name in copied if name.startswith(("embedding.", "readout.last."))]:
            del copied[name]
        new = network.state_dict()
        for layer in range(len(old.layers)):
            name = f"layers.{layer}.attention.relative.bias_HO"
            if name in copied and copied[name].shape != new[name].shape:
                copied[name] = _other_reach(network, old, layer)
        network.load_state_dict({**new, **copied})

        embedding = network.embedding
        if isinstance(old.embedding.positions, nn.Parameter):
            assert embedding.positions is not None
            embedding.positions.copy_(old.embedding.positions[: len(embedding.positions)])
        if embedding.kind == "linear":
            embedding.projection.bias.copy_(old.embedding.projection.bias)
            weight_DO = old.embedding.projection.weight
            embedding.projection.weight[:, known_N] = weight_DO[:, columns]
        elif embedding.kind == "count-table":
            table, old_table = embedding.table.weight, old.embedding.table.weight
            n_rows = min(len(table), len(old_table))
            table[:n_rows] = old_table[:n_rows]
            # The mask token, where there is one, follows the largest count.
            table[network.shape.max_count + 1] = old_table[old.shape.max_count + 1]
        _fill_readout(network, old, known_N, columns)

    def fit(
        self,
        network: NeuralDataTransformer,
        recording: Recording,
        columns_N: NDArray[np.int64],
        settings: Settings,
    ) -> tuple[str, ...]:
        """Fit read-in and read-out of new neurons (`ndt_cli.engine.new_neurons`), where possible.

        Parameters
        ----------
        network : NeuralDataTransformer
            From `fill`, on the device that computes.
        recording : Recording
            Trials of the new run.
        columns_N : (neurons,) int array
            From `match`.
        settings : Settings
            Of the new run.

        Returns
        -------
        Sentences that say what was taken over, and what was fitted.
        """
        n_known, n = int((columns_N >= 0).sum()), len(columns_N)
        which = "all" if n_known == n else f"{n_known} of the"
        notes = (
            f"weights start from {self.run}: the encoder, and read-in and read-out of {which} {n} "
            "neurons",
        )
        trained = TrainedNeurons.of(self.checkpoint.build_model(), self.trained_on.n_heldout)
        alone = recording.train.sessions is None
        same = self.trained_on.fingerprint == recording.train.fingerprint
        sure = n_known == n and (same or settings.train.start_neurons == "same")
        if sure or trained is None or not alone or not settings.train.start_fit:
            return notes
        known_N = torch.from_numpy(columns_N >= 0)
        if fit_new_neurons(network, trained, recording, known_N, settings):
            fitted = f"read-in and read-out of the other {n - n_known} start fitted to them"
            return notes if n_known == n else (*notes, fitted)
        return (
            f"weights start from {self.run}: the encoder; read-in and read-out start fitted to all "
            f"{n} neurons, which predicts hidden bins better than the weights of the {n_known} of "
            "the same name",
        )


def _dropout_by_size(model: ModelSettings, trained_on: SplitFacts) -> dict[str, Any]:
    """Return a preset's dropout before its scaling, if the run's is what its data made of that."""
    n_bins = trained_on.n_observed_bins + trained_on.n_trials * trained_on.n_forward
    for name in preset_names():
        preset = read_preset(name).settings
        scaled = preset.for_size(trained_on.n_trials, n_bins).model
        if preset.model.dropout_bins is not None and all(
            math.isclose(getattr(scaled, name), getattr(model, name)) for name in _DROPOUTS
        ):
            return {name: getattr(preset.model, name) for name in (*_DROPOUTS, "dropout_bins")}
    return {}


def _other_reach(network: NeuralDataTransformer, old: NeuralDataTransformer, layer: int) -> Tensor:
    """Return the bias of each offset that the new trials have; the farthest one beyond them."""
    (back, ahead), (old_back, old_ahead) = (
        model.context.reach(model.shape.n_bins) for model in (network, old)
    )
    offsets_O = torch.arange(-back, ahead + 1).clamp(-old_back, old_ahead) + old_back
    bias_HO: Tensor = old.state_dict()[f"layers.{layer}.attention.relative.bias_HO"]
    return bias_HO[:, offsets_O]


def _fill_readout(
    network: NeuralDataTransformer, old: NeuralDataTransformer, known_N: Tensor, columns: Tensor
) -> None:
    n_classes = network.readout.n_classes
    if n_classes != old.readout.n_classes:  # other largest counts: the classes mean other counts
        return
    for name in ("weight", "bias"):
        rows, old_rows = getattr(network.readout.last, name), getattr(old.readout.last, name)
        # (neurons, classes, ...); a view of one class where there are rates.
        by_neuron = rows.view(network.readout.n_neurons, n_classes or 1, *rows.shape[1:])
        old_by_neuron = old_rows.view(old.readout.n_neurons, n_classes or 1, *rows.shape[1:])
        by_neuron[known_N] = old_by_neuron[columns]
