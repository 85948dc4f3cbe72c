"""Which bins a bin may attend to.

Axes: T bins that ask (rows), S bins that are looked at (columns).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ndt_cli.settings.tree import ModelSettings


@dataclass(frozen=True)
class Context:
    """The context window of one layer: bin i sees bin j if ``i - back <= j <= i + forward``.

    ``None`` means no limit on that side. With ``wrap_initial`` the first ``back`` bins all see
    one another, so that the start of a trial is not inferred from a bin or two.
    """

    back: int | None
    forward: int | None
    wrap_initial: bool = False

    @classmethod
    def from_settings(cls, settings: ModelSettings) -> "Context":
        if settings.full_context:
            return cls(None, None)
        back = None if settings.context_back < 0 else settings.context_back
        forward = None if settings.context_forward < 0 else settings.context_forward
        # Without a limit behind there is no initial segment to join.
        return cls(back, forward, settings.context_wrap_initial and back is not None)

    def allowed_TS(self, n_bins: int, device: torch.device | str = "cpu") -> Tensor:
        """Return a bool matrix, True where row bin may attend to column bin."""
        bins = torch.arange(n_bins, device=device)
        ahead_TS = bins[None, :] - bins[:, None]
        allowed_TS = torch.ones(n_bins, n_bins, dtype=torch.bool, device=device)
        if self.back is not None:
            allowed_TS &= ahead_TS >= -self.back
        if self.forward is not None:
            allowed_TS &= ahead_TS <= self.forward
        if self.wrap_initial and self.back is not None:
            initial_T = bins < self.back
            allowed_TS |= initial_T[:, None] & initial_T[None, :]
        return allowed_TS


def widest(contexts: Sequence[Context]) -> Context:
    """Return the narrowest context that allows whatever one of these allows."""
    backs = [context.back for context in contexts]
    forwards = [context.forward for context in contexts]
    return Context(
        None if None in backs else max(back for back in backs if back is not None),
        None if None in forwards else max(ahead for ahead in forwards if ahead is not None),
        any(context.wrap_initial for context in contexts),
    )
