"""Scores of inferred rates: against true rates, and against spike counts.

Each score is a set of sums that batches of trials are added to, so a set never has to be in
memory at once; the functions add their arrays to the same sums. Axes in names: B trials,
T bins, N neurons.
"""

from ndt_cli.metrics.against_rates import RateScores, RateScoreSums, rate_scores
from ndt_cli.metrics.against_spikes import (
    SpikeScores,
    SpikeScoreSums,
    bits_per_spike,
    poisson_nll,
)

__all__ = [
    "RateScoreSums",
    "RateScores",
    "SpikeScoreSums",
    "SpikeScores",
    "bits_per_spike",
    "poisson_nll",
    "rate_scores",
]
