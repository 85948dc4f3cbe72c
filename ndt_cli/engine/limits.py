"""What no machine could train, or this one cannot: told before any memory is taken.

The sizes are lower bounds, so that nothing is refused that would have worked.
"""

from dataclasses import dataclass

import torch

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.device import free_gpu_bytes
from ndt_cli.errors import SettingsError
from ndt_cli.memory import free_bytes, in_gb
from ndt_cli.model.context import Context
from ndt_cli.model.embedding import encoder_width
from ndt_cli.model.network import ModelShape, NeuralDataTransformer
from ndt_cli.settings.tree import Settings


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
        When spans are wider than the trials, or the network and a batch do not fit into memory;
        the hint names the setting that matters most.
    """
    span = settings.mask.max_span
    if span > train.n_bins:
        raise SettingsError(
            f"mask.max_span is {span}, but the trials have {train.n_bins} bins",
            "use a span of a few bins: --set mask.max_span=5",
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
