"""What is refused before the first step."""

from dataclasses import dataclass

import torch

from ndt_cli.data.checks import check_recording
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.device import free_gpu_bytes
from ndt_cli.engine.run_folder import BEST, RunFolder, SplitFacts
from ndt_cli.engine.validation import measures_of
from ndt_cli.errors import DataError, RunError, SettingsError
from ndt_cli.memory import free_bytes, in_gb
from ndt_cli.model.context import Context
from ndt_cli.model.embedding import encoder_width, n_inputs
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import Settings


def check_trainable(recording: Recording, settings: Settings) -> None:
    """Refuse data that cannot be trained on with these settings.

    Raises
    ------
    DataError
        When they are not sound (`check_recording`), when training counts are unknown, or when
        the validation trials lack what ``train.choose_by`` measures.
    """
    check_recording(recording)
    if not recording.train.hidden_counts_known:
        raise DataError(
            f"{recording.source}: the training trials lack the counts of held-out neurons or "
            "forward bins, which are what training predicts",
            "give a file with all training counts, or leave those neurons and bins out",
        )
    choose_by = settings.train.choose_by
    measure, _ = BEST[f"best-{choose_by}"]
    if measure not in measures_of(recording.valid):
        needs = {"rate-r2": "true rates", "co-bps": "held-out neurons whose counts are known"}
        raise DataError(
            f'train.choose_by = "{choose_by}" needs {needs[choose_by]}, and the validation '
            f"trials of {recording.source} have none",
            "use --set train.choose_by=masked-loss",
        )


# Settings that say how long a run goes on and how it is saved, not what it computes.
_FREE = ("max_epochs", "patience_epochs", "save_interval_minutes", "on_save_error")


def check_resumable(before: Settings, now: Settings) -> None:
    """Refuse to resume a run with settings that would make it another run.

    Raises
    ------
    SettingsError
        When more than ``train.max_epochs``, ``train.patience_epochs`` and how it is saved differ.
    """
    free = {name: getattr(now.train, name) for name in _FREE}
    if before.model_copy(update={"train": before.train.model_copy(update=free)}) != now:
        allowed = ", ".join(f"train.{name}" for name in _FREE)
        raise SettingsError(
            f"a resumed run takes --set for these only: {allowed}",
            "for other settings start a new run: ndt train --config RUN/settings.toml --set ...",
        )


def check_same_data(folder: RunFolder, recording: Recording) -> None:
    """Refuse to resume a run on other data.

    Raises
    ------
    RunError
        When a split is not the one that the run was trained on; the message says what differs.
    """
    facts = folder.facts().data
    for split, before in (("train", facts.train), ("valid", facts.valid)):
        now = SplitFacts.of(getattr(recording, split))
        key = before.difference(now)
        if key is not None:
            what = f"{key} is {getattr(now, key)}, was {getattr(before, key)}"
            raise RunError(
                f"{recording.source}: its {split} trials are not those that {folder.path} was "
                f"trained on: {'other counts' if key == 'fingerprint' else what}",
                "put the old file back, or start a new run: ndt train --data FILE",
            )


# ------------------------------------------------------------------------------------------------
# What no machine could train, or this one cannot: told before any memory is taken.
#
# The sizes are lower bounds, so that nothing is refused that would have worked.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryNeeds:
    """The least memory that training takes, in bytes.

    Attributes
    ----------
    weights : int
        Weight, gradient and AdamW's two moments, 4 bytes each.
    batch : int
        What the forward pass keeps of a batch for the backward pass: of each layer its input
        (float32) and its hidden units (2 bytes), and the read-out and its gradient.
    context : int
        Which bin attends to which, and the scores of one layer.
    """

    weights: int
    batch: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.batch + self.context


def memory_needs(settings: Settings, shape: ModelShape, n_trials: int) -> MemoryNeeds:
    """Return the least memory for a network of this shape and a batch of so many trials."""
    model = settings.model
    with torch.device("meta"):  # shapes alone
        network = NeuralDataTransformer(model, shape)
    n_weights = sum(weights.numel() for weights in network.parameters())
    width = encoder_width(model, shape.n_neurons)
    n_classes = shape.max_count + 1 if model.loss == "cross-entropy" else 1
    layer = model.n_layers * (4 * width + 2 * model.feedforward_size)
    output = 2 * 4 * shape.n_neurons * n_classes
    context = Context.from_settings(model)
    limited = context.back is not None and context.forward is not None and not context.wrap_initial
    n_scores = shape.n_bins**2
    if limited:  # a block of one bin is the least that can be cut
        n_scores = min(n_scores, shape.n_bins * (1 + (context.back or 0) + (context.forward or 0)))
    return MemoryNeeds(
        weights=16 * n_weights,
        batch=n_trials * shape.n_bins * (layer + output),
        context=8 * shape.n_bins**2 + 2 * n_trials * model.n_heads * n_scores,
    )


def check_limits(
    train: SpikeData, settings: Settings, device: torch.device, n_processes: int = 1
) -> None:
    """Refuse settings that make no sense for these trials, or need more memory than there is.

    Parameters
    ----------
    train : SpikeData
        Training trials.
    settings : Settings
        Of the run.
    device : torch.device
        Where it trains.
    n_processes : int
        Among which a batch is shared.

    Raises
    ------
    SettingsError
        When spans are wider than the trials, the width does not go with the embedding, or the
        network and a batch do not fit into memory; the hint names the setting that matters most.
    """
    span = settings.mask.max_span
    if span > train.n_bins:
        raise SettingsError(
            f"mask.max_span is {span}, but the trials have {train.n_bins} bins",
            "use a span of a few bins: --set mask.max_span=5",
        )
    least = n_inputs(settings.model, train.n_neurons)
    width = settings.model.width
    if width != "auto" and width < least and settings.model.embedding != "linear":
        raise SettingsError(
            f'model.embedding = "{settings.model.embedding}" makes {least} numbers of '
            f"{train.n_neurons} neurons, and model.width is {width}",
            'use model.embedding="linear", or model.width="auto"',
        )
    free = free_bytes_on(device)
    n_trials = -(-min(settings.train.batch_size, train.n_trials) // n_processes)
    shape = ModelShape(train.n_neurons, train.n_bins, train.max_count)
    needs = memory_needs(settings, shape, n_trials)
    if free is None or needs.total <= free:
        return
    hints = {
        needs.weights: "use a smaller model.embedding_size, model.n_layers, or "
        "model.feedforward_size",
        needs.batch: "use a smaller train.batch_size, such as --set train.batch_size="
        f"{max(1, n_trials // 4)}",
        needs.context: "cut the trials into shorter windows (ndt convert --chop-ms)",
    }
    raise SettingsError(
        f"training needs at least {in_gb(needs.total)} of memory, and {in_gb(free)} are free: "
        f"weights {in_gb(needs.weights)}, a batch of {n_trials} trials {in_gb(needs.batch)}, "
        f"attention over {train.n_bins} bins {in_gb(needs.context)}",
        hints[max(hints)],
    )


def free_bytes_on(device: torch.device) -> int | None:
    """Return how much memory could still be taken; None where the system does not tell."""
    if device.type == "cuda":
        return free_gpu_bytes(device)
    return free_bytes()
