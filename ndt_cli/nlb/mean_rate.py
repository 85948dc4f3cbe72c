"""The plainest reference: every neuron fires at its mean rate."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.nlb.submission import SubmissionRates

Array = NDArray[Any]


def mean_rate_submission(
    train_heldin_BTN: Array,
    train_heldout_BTN: Array,
    train_forward_BTN: Array,
    n_eval_trials: int,
) -> SubmissionRates:
    """Give each neuron its mean rate in the training trials, apart for window and forward bins.

    A neuron that is silent there is given half a spike, so that a spike in the evaluated trials
    is unlikely but not impossible.

    Parameters
    ----------
    train_heldin_BTN, train_heldout_BTN : (trials, bins, neurons) array
        Counts of the window.
    train_forward_BTN : (trials, forward bins, neurons) array
        Counts of the forward bins, held-out neurons last.
    n_eval_trials : int
        Trials to give rates for.
    """
    n_heldin = train_heldin_BTN.shape[2]
    heldin_N, heldout_N = _mean_rates(train_heldin_BTN), _mean_rates(train_heldout_BTN)
    forward_N = _mean_rates(train_forward_BTN)
    n_train, n_bins, _ = train_heldin_BTN.shape
    n_forward = train_forward_BTN.shape[1]

    def repeat(rates_N: Array, n_trials: int, n_bins: int) -> Array:
        return np.broadcast_to(rates_N, (n_trials, n_bins, len(rates_N)))

    return SubmissionRates(
        train_rates_heldin=repeat(heldin_N, n_train, n_bins),
        train_rates_heldout=repeat(heldout_N, n_train, n_bins),
        eval_rates_heldin=repeat(heldin_N, n_eval_trials, n_bins),
        eval_rates_heldout=repeat(heldout_N, n_eval_trials, n_bins),
        eval_rates_heldin_forward=repeat(forward_N[:n_heldin], n_eval_trials, n_forward),
        eval_rates_heldout_forward=repeat(forward_N[n_heldin:], n_eval_trials, n_forward),
    )


def _mean_rates(counts_BTN: Array) -> Array:
    n_entries = counts_BTN.shape[0] * counts_BTN.shape[1]
    # nlb_tools stores counts as float16, in which a sum ends at 2048.
    counts_N = counts_BTN.sum(axis=(0, 1), dtype=np.float64)
    return np.asarray(np.maximum(counts_N, 0.5) / n_entries)
