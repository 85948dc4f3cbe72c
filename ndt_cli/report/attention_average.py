"""Where the model looks: attention weights averaged over trials.

Axes: L layers, H heads, T bins that ask, S bins looked at, K lags.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.trained_model import TrainedModel
from ndt_cli.engine.trial_set import TrialSet
from ndt_cli.model.attention_maps import allowed_pairs, attention_weights

Float64Array = NDArray[np.float64]

# Scores between all bins of a trial are held for every layer at once.
_BATCH_TRIALS = 16


@dataclass(frozen=True, eq=False)
class AttentionAverage:
    """Mean attention weights over trials.

    Attributes
    ----------
    maps_LHTS : (layers, heads, bins, bins) float array
        Mean weight that row bin gives to column bin, over the trials that have both; NaN where
        no trial has.
    lags_K : (lags,) int array
        Bin looked at less bin that asks: negative lags are earlier bins.
    by_lag_LHK : (layers, heads, lags) float array
        Mean weight at each lag, over trials and over the bins from which that lag can be seen.
    uniform_K : (lags,) float array
        What `by_lag_LHK` would be if every bin looked evenly at all it may see.
    n_trials : int
        Trials averaged.
    bin_ms : float
        Bin width.
    """

    maps_LHTS: Float64Array
    lags_K: NDArray[np.int64]
    by_lag_LHK: Float64Array
    uniform_K: Float64Array
    n_trials: int
    bin_ms: float


def average_attention(trained: TrainedModel, data: SpikeData) -> AttentionAverage:
    """Average the attention weights of a trained model over trials, with nothing hidden.

    Parameters
    ----------
    trained : TrainedModel
        Loaded from a run.
    data : SpikeData
        Trials of the kind that it was trained on; padding counts for nothing.
    """
    network, n_bins = trained.network, data.n_bins
    settings = network.settings
    sum_LHTS = np.zeros((settings.n_layers, settings.n_heads, n_bins, n_bins))
    uniform_TS = np.zeros((n_bins, n_bins))
    n_TS = np.zeros((n_bins, n_bins))
    with cpu_threads(trained.settings.train.n_threads), torch.inference_mode():
        for batch in TrialSet.load(data, trained.compute.device).batches(_BATCH_TRIALS):
            inside_BT = batch.inside_BT
            visible_BTN = torch.where(batch.visible_1TN, batch.counts_BTN, 0)
            weights = attention_weights(network, visible_BTN, inside_BT)
            allowed = allowed_pairs(network, n_bins, inside_BT, visible_BTN.device)
            seen = _pairs_within(batch, allowed)
            for layer, weights_BHTS in enumerate(weights):
                sum_LHTS[layer] += _sum(weights_BHTS * seen)
            n_TS += _sum(seen)[0]
            uniform_TS += _sum(seen / seen.sum(-1, keepdim=True).clamp_min(1))[0]
    return _averages(sum_LHTS, uniform_TS, n_TS, data)


def _pairs_within(batch: TrialSet, allowed: Tensor) -> Tensor:
    """Return 1 for pairs of bins of a trial where one may look at the other, (B, 1, T, S)."""
    if batch.inside_BT is None:
        return allowed.expand(len(batch), -1, -1, -1).float()
    return (allowed & batch.inside_BT[:, None, :, None]).float()


def _sum(values_BHTS: Tensor) -> Float64Array:
    summed: Float64Array = values_BHTS.sum(dim=0, dtype=torch.float32).cpu().numpy()
    return summed.astype(np.float64)


def _averages(
    sum_LHTS: Float64Array, uniform_TS: Float64Array, n_TS: Float64Array, data: SpikeData
) -> AttentionAverage:
    lag_TS = np.arange(data.n_bins)[None, :] - np.arange(data.n_bins)[:, None]
    lags_K = np.unique(lag_TS[n_TS > 0])
    by_lag_LHK = np.zeros((*sum_LHTS.shape[:2], len(lags_K)))
    uniform_K = np.zeros(len(lags_K))
    for k, lag in enumerate(lags_K):
        here_TS = lag_TS == lag
        n_pairs = n_TS[here_TS].sum()
        by_lag_LHK[:, :, k] = sum_LHTS[:, :, here_TS].sum(axis=-1) / n_pairs
        uniform_K[k] = uniform_TS[here_TS].sum() / n_pairs
    maps_LHTS = np.where(n_TS > 0, sum_LHTS / np.maximum(n_TS, 1), np.nan)
    return AttentionAverage(
        maps_LHTS, lags_K, by_lag_LHK, uniform_K, int((data.lengths_B > 0).sum()), data.bin_ms
    )
