"""Losses on the scored entries, written so that no entry is gathered or counted on the host.

Axes: B trials, T bins, N neurons, C spike-count classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def poisson_loss_BTN(output_BTN: Tensor, counts_BTN: Tensor, log_rates: bool) -> Tensor:
    """Poisson negative log-likelihood of each entry, without the term log(y!).

    ``exp(x) - y * x`` for a log-rate x; ``r - y * log(r)`` for a rate r, which is kept from
    zero by 1e-8.
    """
    if log_rates:
        return output_BTN.exp() - counts_BTN * output_BTN
    return output_BTN - counts_BTN * (output_BTN + 1e-8).log()


def cross_entropy_BTN(logits_BTNC: Tensor, counts_BTN: Tensor) -> Tensor:
    """Cross-entropy over spike-count classes; counts above the last class fall into it."""
    n_classes = logits_BTNC.shape[-1]
    classes_BTN = counts_BTN.long().clamp_max(n_classes - 1)
    flat = F.cross_entropy(
        logits_BTNC.reshape(-1, n_classes), classes_BTN.reshape(-1), reduction="none"
    )
    return flat.view(counts_BTN.shape)


def keep_worst(loss_BTN: Tensor, scored_BTN: Tensor, fraction: float) -> Tensor:
    """Return the scored entries whose loss is among the worst ``fraction`` of them, as a mask.

    The number kept is the fraction rounded up, so at least one entry remains.
    """
    if fraction >= 1:
        return scored_BTN
    losses = loss_BTN.detach().masked_fill(~scored_BTN, -torch.inf).flatten()
    order = losses.argsort(descending=True)
    n_kept = (scored_BTN.sum() * fraction).ceil()
    kept = torch.zeros_like(losses, dtype=torch.bool)
    kept[order] = torch.arange(losses.numel(), device=losses.device) < n_kept
    return kept.view_as(scored_BTN) & scored_BTN


def only_scored(output: Tensor, scored_BTN: Tensor) -> Tensor:
    """Set the outputs that are not scored to zero, before the loss.

    Leaving them out of the sum is not enough: where exp overflows, its gradient times zero is
    NaN.
    """
    scored = scored_BTN if output.dim() == scored_BTN.dim() else scored_BTN[..., None]
    return torch.where(scored, output, 0)


def masked_sum(loss_BTN: Tensor, scored_BTN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss over scored entries and their number, both as tensors."""
    # where, not a product: an infinite loss outside the mask must not become NaN inside the sum.
    total = torch.where(scored_BTN, loss_BTN, 0).sum(dtype=torch.float32)
    return total, scored_BTN.sum(dtype=torch.float32)
