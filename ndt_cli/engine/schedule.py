"""The learning rate as a pure function of the epoch."""

import math

from ndt_cli.settings.tree import TrainSettings


def learning_rate(epoch: int, settings: TrainSettings) -> float:
    """Return the learning rate of an epoch, counted from 0.

    1. Warm-up: rises linearly and reaches the peak in the last warm-up epoch.
    2. After it: stays, falls as a half cosine to zero at ``max_epochs``, or falls as
       ``sqrt(warmup_epochs / (epoch + 1))``, which starts at the peak. (NDT1 multiplies the
       inverse square root by the base rate twice.)
    """
    peak, warmup = settings.learning_rate, settings.warmup_epochs
    if epoch < warmup:
        return peak * (epoch + 1) / warmup
    if settings.schedule == "cosine":
        progress = (epoch - warmup) / (settings.max_epochs - warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if settings.schedule == "inverse-sqrt":
        return peak * math.sqrt(warmup / (epoch + 1))
    return peak
