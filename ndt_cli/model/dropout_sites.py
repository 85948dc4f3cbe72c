"""Places in a computation where dropout acts, and masks drawn for them ahead of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ndt_cli.model.dropout import Dropout


@dataclass(frozen=True)
class Site:
    """A place where dropout acts.

    Attributes
    ----------
    like : Tensor
        An empty tensor of the shape, type and device of what is dropped.
    p : float
        The dropout there.
    """

    like: Tensor
    p: float

    def draw(self, dropout: Dropout) -> Tensor | None:
        """Draw the mask that ``dropout`` would draw there: 0, or the scale; None for no dropout."""
        if self.p == 0:
            return None
        return dropout.kept(self.like, self.p).mul_(dropout.scale(self.p))


def find_sites(compute: Callable[[Dropout], object], n_trials: int) -> list[Site]:
    """Return the places in the order in which they draw.

    Parameters
    ----------
    compute : callable
        Computes with a dropout, on any number of trials.
    n_trials : int
        For which the sites are wanted.
    """
    noted = _Noted()
    with torch.no_grad():
        compute(noted)
    return [
        Site(like.new_empty(1).expand(n_trials, *like.shape[1:]), p) for like, p in noted.places
    ]


class DrawnDropout(Dropout):
    """Drops by masks that were drawn before, in their order."""

    def __init__(self, masks: Sequence[Tensor | None]) -> None:
        self._masks = iter(masks)

    def __call__(self, x: Tensor, p: float) -> Tensor:
        mask = next(self._masks)
        return x if mask is None else x * mask


class _Noted(Dropout):
    """Notes where dropout acts, and drops nothing."""

    def __init__(self) -> None:
        self.places: list[tuple[Tensor, float]] = []

    def __call__(self, x: Tensor, p: float) -> Tensor:
        self.places.append((x, p))
        return x
