"""Are the trials in the order of the targets?

Rates of a trial predict its own spikes better than those of other trials, if they predict
anything that differs between trials. Under a Poisson model the log-likelihood of the spikes s_j
of trial j with the rates of trial i is sum(s_j log r_i - r_i), up to a term of s_j alone. Rows
and columns of this matrix are centred, which takes away what trials have in common; the mean of
the entries (i, order[i]) then tells how well an order fits.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ndt_cli.nlb.expected import Array
from ndt_cli.nlb.findings import Finding

_FIT = 4.0  # standard errors above chance that count as a fit
_BETTER = 3.0  # and above the file's own order, for another one to be the right one
_FEWEST_TRIALS = 4
# Bins x neurons that are looked at: enough to tell, and few enough for a large file.
_MOST_ENTRIES = 10_000

FloatArray = NDArray[np.float64]


def check_order(
    group: str, rates: Mapping[str, Array], counts: Mapping[str, Array]
) -> list[Finding]:
    """Tell by spike counts whether trials are in the right order.

    Parameters
    ----------
    group : str
        Where the arrays lie.
    rates, counts : mapping of str to array
        Rates and spike counts of the same trials, trials x bins x neurons, by the same keys.
        A count that is NaN is left out.

    Returns
    -------
    list of Finding
        An error where another order fits clearly better; a note where nothing can be told.
    """
    key = ", ".join(rates)
    n_trials = len(next(iter(rates.values())))
    if n_trials < _FEWEST_TRIALS:
        text = f"the order of {n_trials} trials cannot be told from their spikes"
        return [Finding("note", group, key, text)]
    signal, spikes = _signal_and_spikes(rates, counts)
    # The order that fits best is looked for on one half and judged on the other: a search over
    # all orders fits noise.
    searched, judged = (_gains(signal[:, half::2], spikes[:, half::2]) for half in (0, 1))
    own = np.arange(n_trials)
    found = linear_sum_assignment(-searched)[1]
    fits = {
        "in reverse": own[::-1],
        "one trial late": np.roll(own, 1),
        "one trial early": np.roll(own, -1),
        "in another order": found,
    }
    own_fit = _fit(judged, own)
    for what, order in fits.items():
        fit = _fit(judged, order)
        if fit > _FIT and fit > own_fit + _BETTER:
            pairs = ", ".join(f"{i} fits trial {order[i]}" for i in range(min(3, n_trials)))
            return [
                Finding(
                    "error",
                    group,
                    key,
                    f"the trials are {what}: by their spikes, trial {pairs} and so on",
                    "Put the rates in the order of the input tensors (a shuffling data loader?).",
                )
            ]
    if own_fit < _FIT:
        text = "the order of the trials cannot be told: their rates differ too little"
        return [Finding("note", group, key, text)]
    return []


def _signal_and_spikes(
    rates: Mapping[str, Array], counts: Mapping[str, Array]
) -> tuple[FloatArray, FloatArray]:
    """Return log-rates without what all trials share, and counts, in the same random entries."""
    draw = np.random.default_rng(0)
    signal, spikes = [], []
    for key, rates_BTN in rates.items():
        n_trials = len(rates_BTN)
        entries = draw.permutation(rates_BTN[0].size)[: _MOST_ENTRIES // len(rates)]
        rates_BX = rates_BTN.reshape(n_trials, -1)[:, entries].astype(np.float64)
        counts_BX = counts[key].reshape(n_trials, -1)[:, entries].astype(np.float64)
        known = ~np.isnan(counts_BX)
        # One rate of almost nothing would outweigh every other entry.
        logs_BX = np.log(np.maximum(rates_BX, 0.01 * rates_BX.mean(axis=0) + 1e-9))
        n_known_X = np.maximum(known.sum(axis=0), 1)
        mean_X = logs_BX.sum(axis=0, where=known) / n_known_X
        signal.append(np.where(known, logs_BX - mean_X, 0.0))
        spikes.append(np.where(known, counts_BX, 0.0))
    order = draw.permutation(sum(part.shape[1] for part in signal))
    return np.concatenate(signal, axis=1)[:, order], np.concatenate(spikes, axis=1)[:, order]


def _gains(signal: FloatArray, spikes: FloatArray) -> FloatArray:
    """Return the log-likelihood of trial j's spikes under trial i's rates, doubly centred."""
    gains = signal @ spikes.T
    gains = gains - gains.mean(axis=0) - gains.mean(axis=1)[:, None] + gains.mean()
    return np.asarray(gains)


def _fit(gains: FloatArray, order: NDArray[np.intp]) -> float:
    """Return how far above chance an order fits, in standard errors."""
    n_trials = len(gains)
    others = gains[~np.eye(n_trials, dtype=bool)]
    error = float(others.std()) / np.sqrt(n_trials)
    # Rates that are equal in all trials leave rounding errors, which are no evidence.
    if error <= 1e-9 * max(1.0, float(np.abs(gains).max())):
        return 0.0
    return float(gains[np.arange(n_trials), order].mean() / error)
