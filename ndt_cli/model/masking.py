"""Hiding counts from the model: which entries, for how long, and what stands in their place.

Axes: B trials, T bins, N neurons.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt_cli.settings.tree import InferenceSettings, MaskSettings


@dataclass(frozen=True)
class HiddenBatch:
    """A batch as the model sees it, and the entries that it is scored on.

    Attributes
    ----------
    input_BTN : Tensor
        Counts with hidden ones replaced; held-out neurons and forward bins are zero. What
        stands in padding is of no matter: no bin attends to it.
    scored_BTN : Tensor of bool
        Entries to predict.
    """

    input_BTN: Tensor
    scored_BTN: Tensor


def span_probability(settings: MaskSettings, epoch: int) -> float:
    """Probability that a batch draws a span width, ramped from 0 to 1 between two epochs."""
    start, end = settings.span_ramp_start_epoch, settings.span_ramp_end_epoch
    if settings.max_span == 1 or epoch < start:
        return 0.0
    return 1.0 if epoch >= end else (epoch - start) / (end - start)


def draw_hidden(
    shape: tuple[int, int, int],
    settings: MaskSettings,
    p_span: float | Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw which entries of a batch are hidden.

    Every entry is hidden with probability ``settings.ratio``, at the edges of the trial too
    and whatever the span width is. A bin is covered by a span of width w when one of the w
    places up to it starts one, so a start has probability ``1 - (1 - ratio)**(1 / w)``, and
    spans may start before the first bin. (NDT1 divides the ratio by w and so hides less than
    was asked where spans overlap or leave the trial.)

    Parameters
    ----------
    shape : tuple of int
        Trials, bins, neurons.
    settings : MaskSettings
        What is hidden, and how much of it.
    p_span : float or Tensor
        Probability that this batch draws a span width, of `span_probability`.
    generator : torch.Generator
        Source of the draws; what is drawn is on its device.

    Returns
    -------
    Tensor of bool that broadcasts to ``shape`` (trials, bins, neurons).
    """
    n_trials, n_bins, n_neurons = shape
    device = generator.device

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    if settings.mode == "neuron":
        return uniform(n_trials, 1, n_neurons) < settings.ratio

    # The width stays on the device: asking for it here would stall a GPU.
    widest = settings.max_span
    spans = uniform(1) < p_span
    width = torch.where(spans, 1 + (uniform(1) * widest).long().clamp_max(widest - 1), 1)
    p_start = 1 - (1 - settings.ratio) ** (1 / width)

    rows = 1 if settings.mode == "timestep-only" else n_trials
    columns = n_neurons if settings.mode == "full" else 1
    starts = uniform(rows, n_bins + widest - 1, columns) < p_start
    if widest == 1:
        return starts
    # A bin is hidden when its distance to the latest start at or before it is below the width.
    place = torch.arange(n_bins + widest - 1, device=device)[None, :, None]
    latest = torch.where(starts, place, -widest).cummax(dim=1).values
    return (place - latest < width)[:, widest - 1 :]


def hide(
    counts_BTN: Tensor,
    visible_BTN: Tensor,
    scorable_BTN: Tensor,
    hidden_BTN: Tensor,
    settings: MaskSettings,
    max_count: int,
    generator: torch.Generator,
    fate_BTN: Tensor | None = None,
) -> HiddenBatch:
    """Replace the hidden counts of a batch.

    Parameters
    ----------
    counts_BTN : Tensor
        Spike counts, any integer dtype.
    visible_BTN, scorable_BTN : Tensor of bool, broadcastable
        Entries that the model may ever see (held-in neurons, bins inside the window and the
        trial), and entries whose count is known (bins inside the trial).
    hidden_BTN : Tensor of bool, broadcastable
        Entries drawn by `draw_hidden`.
    settings : MaskSettings
        Of the hidden entries ``token_ratio`` become zero or the mask token (``max_count + 1``),
        of the rest ``random_ratio`` a random count from 0 to ``max_count``; others stay. Of what
        ``hidden_BTN`` hides at once, such as a bin, ``empty_ratio`` is wholly replaced by the
        token. So is each neuron hidden beside it, of which ``neuron_ratio`` is the largest share.
    max_count : int
        Largest count of the training data.
    generator : torch.Generator
        Source of the draws, on the device of the counts.
    fate_BTN : Tensor, optional
        Numbers from 0 to 1 that decide what an entry becomes. Default: drawn.
    """
    if max_count + 1 > torch.iinfo(counts_BTN.dtype).max:
        counts_BTN = counts_BTN.int()  # these trials' own counts may need fewer bits
    # Zeros and ones: on a CPU, products of bytes take a tenth of the time of choices by bools.
    visible, scorable = visible_BTN.view(torch.uint8), scorable_BTN.view(torch.uint8)
    hidden = hidden_BTN.view(torch.uint8) & visible
    emptied = _draw_emptied(hidden_BTN.shape, settings, generator)
    if settings.neuron_ratio:
        neurons = _draw_neurons(counts_BTN.shape, settings, generator) & visible
        hidden = hidden | neurons
        emptied = neurons if emptied is None else emptied | neurons
    # Never seen, always predicted: held-out neurons and forward bins.
    scored_BTN = ((hidden | (visible ^ 1)) & scorable).view(torch.bool)
    token = 0 if settings.zero_token else max_count + 1

    input_BTN = counts_BTN * visible
    if settings.token_ratio == 1 or settings.empty_ratio == 1:
        return HiddenBatch(_put(token, hidden, input_BTN), scored_BTN)

    # One draw decides. Below token_ratio it is a token; from there to the bound a random count,
    # and where between the two it falls says which.
    if fate_BTN is None:
        fate_BTN = torch.rand(counts_BTN.shape, generator=generator, device=counts_BTN.device)
    random_bound = settings.token_ratio + (1 - settings.token_ratio) * settings.random_ratio
    is_token = hidden & (fate_BTN < settings.token_ratio).view(torch.uint8)
    is_random = hidden & (fate_BTN < random_bound).view(torch.uint8)
    per_count = (random_bound - settings.token_ratio) / (max_count + 1)
    if per_count > 0:
        place_BTN = fate_BTN.sub(settings.token_ratio).div_(per_count)
        random_BTN = place_BTN.clamp_(0, max_count).to(counts_BTN.dtype)
        # What is below zero meanwhile comes back by itself, as integers wrap around.
        input_BTN += random_BTN.sub_(input_BTN).mul_(is_random)
    if emptied is not None:
        is_token |= hidden & emptied
    return HiddenBatch(_put(token, is_token, input_BTN), scored_BTN)


def _draw_emptied(
    shape: torch.Size, settings: MaskSettings, generator: torch.Generator
) -> Tensor | None:
    """Draw which of the hidden bins are wholly empty; None where that is not drawn."""
    if settings.empty_ratio in (0, 1):
        return None
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return (drawn < settings.empty_ratio).view(torch.uint8)


def _draw_neurons(shape: torch.Size, settings: MaskSettings, generator: torch.Generator) -> Tensor:
    """Draw which neurons are hidden for a whole trial, (B, 1, N)."""
    n_trials, _, n_neurons = shape
    device = generator.device
    share_B11 = torch.rand((n_trials, 1, 1), generator=generator, device=device)
    drawn_B1N = torch.rand((n_trials, 1, n_neurons), generator=generator, device=device)
    return (drawn_B1N < settings.neuron_ratio * share_B11).view(torch.uint8)


def scoring_mask(settings: MaskSettings) -> MaskSettings:
    """Return how counts are hidden in order to be predicted: as in training, and none leaks.

    Bins are wholly empty where some were so in training. Otherwise their entries become zero (or
    the token) and random counts in the proportion of training, and none stays as it was.
    """
    replaced = settings.token_ratio + (1 - settings.token_ratio) * settings.random_ratio
    empty = settings.empty_ratio > 0 or replaced == 0
    token_ratio = 1.0 if empty else settings.token_ratio / replaced
    return settings.model_copy(
        update={
            "token_ratio": token_ratio,
            "random_ratio": 1.0,
            "empty_ratio": float(empty),
            "neuron_ratio": 0.0,
        }
    )


def describe_scoring(settings: MaskSettings) -> str:
    """Say in a few words what a model sees in place of the counts that it is scored on."""
    hidden = {
        "timestep": "whole bins",
        "timestep-only": "whole bins",
        "full": "single counts",
        "neuron": "whole neurons",
    }[settings.mode]
    mask = scoring_mask(settings)
    token = "zeros" if settings.zero_token else "mask tokens"
    if mask.token_ratio == 1:
        return f"{hidden} hidden, all {token}"
    if mask.token_ratio == 0:
        return f"{hidden} hidden, random counts in their place as in training"
    return f"{hidden} hidden, {token} and random counts in their place as in training"


def draw_passes(
    n_bins: int, n_neurons: int, mode: str, settings: InferenceSettings, seed: int
) -> NDArray[np.bool_]:
    """Draw which entries are hidden in each of several passes.

    The same for every trial, so that the rates of a trial do not depend on those beside it, and
    each bin is hidden in equally many passes (one more or less).

    Parameters
    ----------
    n_bins, n_neurons : int
        Size of a trial.
    mode : str
        ``mask.mode`` of the training: what is hidden at once.
    settings : InferenceSettings
        How many passes, and how much each hides.
    seed : int
        Of the draws.

    Returns
    -------
    (passes, bins, neurons) array of bool; bins or neurons are 1 where all share a fate.
    """
    shape = {"neuron": (1, n_neurons), "full": (n_bins, n_neurons)}.get(mode, (n_bins, 1))
    drawn = np.random.Generator(np.random.PCG64(seed)).random((*shape, settings.passes + 1))
    n_hidden = np.floor(settings.passes * settings.hidden_ratio + drawn[..., :1])
    ranks = drawn[..., 1:].argsort(axis=-1).argsort(axis=-1)
    return np.ascontiguousarray(np.moveaxis(ranks < n_hidden, -1, 0))


def _put(token: int, where: Tensor, counts_BTN: Tensor) -> Tensor:
    """Return the counts with a token where ``where`` is one, and not zero."""
    kept_BTN = counts_BTN * (where ^ 1)
    return kept_BTN if token == 0 else kept_BTN + where.to(counts_BTN.dtype) * token
