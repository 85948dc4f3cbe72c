"""Hiding counts from the model: which entries, for how long, and what stands in their place.

Axes: B trials, T bins, N neurons.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ndt_cli.settings.tree import MaskSettings


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
        of the rest ``random_ratio`` a random count from 0 to ``max_count``; others stay.
    max_count : int
        Largest count of the training data.
    generator : torch.Generator
        Source of the draws, on the device of the counts.
    """
    if max_count + 1 > torch.iinfo(counts_BTN.dtype).max:
        counts_BTN = counts_BTN.int()  # these trials' own counts may need fewer bits
    # Zeros and ones: on a CPU, products of bytes take a tenth of the time of choices by bools.
    visible, scorable = visible_BTN.view(torch.uint8), scorable_BTN.view(torch.uint8)
    hidden = hidden_BTN.view(torch.uint8) & visible
    # Never seen, always predicted: held-out neurons and forward bins.
    scored_BTN = ((hidden | (visible ^ 1)) & scorable).view(torch.bool)
    token = 0 if settings.zero_token else max_count + 1

    input_BTN = counts_BTN * visible
    if settings.token_ratio == 1:
        return HiddenBatch(_put(token, hidden, input_BTN), scored_BTN)

    # One draw decides. Below token_ratio it is a token; from there to the bound a random count,
    # and where between the two it falls says which.
    fate_BTN = torch.rand(counts_BTN.shape, generator=generator, device=counts_BTN.device)
    random_bound = settings.token_ratio + (1 - settings.token_ratio) * settings.random_ratio
    is_token = hidden & (fate_BTN < settings.token_ratio).view(torch.uint8)
    is_random = hidden & (fate_BTN < random_bound).view(torch.uint8)
    per_count = (random_bound - settings.token_ratio) / (max_count + 1)
    if per_count > 0:
        place_BTN = fate_BTN.sub_(settings.token_ratio).div_(per_count)
        random_BTN = place_BTN.clamp_(0, max_count).to(counts_BTN.dtype)
        # What is below zero meanwhile comes back by itself, as integers wrap around.
        input_BTN += random_BTN.sub_(input_BTN).mul_(is_random)
    return HiddenBatch(_put(token, is_token, input_BTN), scored_BTN)


def _put(token: int, where: Tensor, counts_BTN: Tensor) -> Tensor:
    """Return the counts with a token where ``where`` is one, and not zero."""
    kept_BTN = counts_BTN * (where ^ 1)
    return kept_BTN if token == 0 else kept_BTN + where.to(counts_BTN.dtype) * token
