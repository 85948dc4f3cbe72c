"""Scores of inferred rates: against true rates, spike counts, behavior, and PSTHs.

Scores against rates and counts are computed from sums over batches of trials (`RateScoreSums`,
`SpikeScoreSums`), so that a dataset never has to be in memory as a whole; `rate_scores` and
`bits_per_spike` use the same sums. Axes in names: B trials, T bins, N neurons.
"""

from ndt_cli.metrics.decoding import DecodingScores, decode_behavior
from ndt_cli.metrics.psth import PSTH_SMOOTHING_MS, PsthScores, psth_scores
from ndt_cli.metrics.scores import (
    RateScores,
    RateScoreSums,
    SpikeScores,
    SpikeScoreSums,
    bits_per_spike,
    rate_scores,
)

__all__ = [
    "PSTH_SMOOTHING_MS",
    "DecodingScores",
    "PsthScores",
    "RateScoreSums",
    "RateScores",
    "SpikeScoreSums",
    "SpikeScores",
    "bits_per_spike",
    "decode_behavior",
    "psth_scores",
    "rate_scores",
]
