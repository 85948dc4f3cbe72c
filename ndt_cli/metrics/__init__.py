"""Scores of inferred rates: against true rates, spike counts, behavior, and PSTHs.

The first two are sets of sums that batches of trials are added to, so a set never has to be in
memory at once; their functions add their arrays to the same sums. Axes in names: B trials,
T bins, N neurons.
"""

from ndt_cli.metrics.against_rates import RateScores, RateScoreSums, rate_scores
from ndt_cli.metrics.against_spikes import (
    SpikeScores,
    SpikeScoreSums,
    bits_per_spike,
    poisson_nll,
)
from ndt_cli.metrics.decoding import DecodingScores, decode_behavior
from ndt_cli.metrics.psth import PSTH_SMOOTHING_MS, PsthScores, psth_scores

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
    "poisson_nll",
    "psth_scores",
    "rate_scores",
]
