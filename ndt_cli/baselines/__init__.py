"""Baselines for a model: mean firing rates, and smoothed spikes with regression.

The regression predicts held-out neurons from the smoothed spikes of the others.

Axes in names: B trials, T bins, N neurons.
"""

from ndt_cli.baselines.heldout import HeldoutRegression
from ndt_cli.baselines.smoothing import (
    KernelChoice,
    MeanPrior,
    Smoother,
    choose_kernel,
    constant_rates,
    default_widths_ms,
    mean_rate,
    smooth,
    starting_rates,
)

__all__ = [
    "HeldoutRegression",
    "KernelChoice",
    "MeanPrior",
    "Smoother",
    "choose_kernel",
    "constant_rates",
    "default_widths_ms",
    "mean_rate",
    "smooth",
    "starting_rates",
]
