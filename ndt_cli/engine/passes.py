"""Rates as the mean of several passes, in each of which other bins are hidden.

A network that was trained with a part of the bins hidden has never seen a trial as a whole.

Axes: B trials, T bins, N neurons.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ndt_cli.engine.streams import stream_seed
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.model.masking import draw_passes, hide, scoring_mask
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import Settings

Forward = Callable[[Tensor, Tensor | None], Tensor]


def pass_inputs(batch: TrialSet, settings: Settings, max_count: int) -> Iterator[Tensor]:
    """Give the input of each pass, (B, T, N); of a single pass with nothing hidden."""
    if settings.inference.passes == 1:
        yield torch.where(batch.visible, batch.counts_BTN, 0)
        return
    _, n_bins, n_neurons = batch.shape
    seed = stream_seed(settings.train.seed, "inference-passes")
    # Replaced by the token throughout: nothing else is drawn.
    mask = scoring_mask(settings.mask).model_copy(update={"token_ratio": 1.0})
    device = batch.counts_BTN.device
    unused = torch.Generator(device)
    for hidden in draw_passes(n_bins, n_neurons, mask.mode, settings.inference, seed):
        place = torch.from_numpy(hidden[None]).to(device)
        yield hide(
            batch.counts_BTN, batch.visible, batch.scorable, place, mask, max_count, unused
        ).input_BTN


def mean_over_passes(
    forward: Forward, network: NeuralDataTransformer, batch: TrialSet, settings: Settings
) -> Tensor:
    """Return rates in spikes per bin, (B, T, N): the mean of log-rates where there are some.

    Parameters
    ----------
    forward : callable
        Gives the read-out of an input and of the bins inside the trials.
    network : NeuralDataTransformer
        Makes rates of it.
    batch : TrialSet
        Trials.
    settings : Settings
        How many passes there are, and what each hides.
    """
    in_logs = network.settings.loss == "poisson" and network.settings.log_rates
    total: Tensor | float = 0.0
    for input_BTN in pass_inputs(batch, settings, network.shape.max_count):
        output = forward(input_BTN, batch.inside_BT)
        total = total + (output if in_logs else network.rates(output))
    mean_BTN = total / settings.inference.passes
    assert isinstance(mean_BTN, Tensor)
    return mean_BTN.exp() if in_logs else mean_BTN
