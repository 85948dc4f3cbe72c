"""ScaleNorm, the lighter alternative to LayerNorm."""

import torch
from torch import Tensor, nn


class ScaleNorm(nn.Module):
    """Scale each vector to one learned length: ``g * x / ||x||`` (Nguyen & Salazar 2019).

    ``g`` starts at sqrt(width), the length of a vector of unit-variance entries.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(width) ** 0.5))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.gain * x / x.norm(dim=-1, keepdim=True).clamp_min(self.eps)
        return scaled
