"""A linear decoder of behaviour from rates a lag earlier, fitted to trials.

Axes in names: B trials, T bins, N neurons, V behavioural variables, L lags, P penalties,
X entries (trials x bins).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.metrics.entries import BoolArray, Float64Array, trial_blocks
from ndt_cli.metrics.ridge import fit_ridge, moments, squared_error

PENALTIES_P: Float64Array = np.logspace(-5, 2, 8)
"""Ridges that are tried, for standardised rates."""

_N_FOLDS = 5
_SEED = 0


@dataclass(frozen=True, eq=False)
class Decoder:
    """A linear function of all rates for each behavioural variable.

    Parameters
    ----------
    lags_L : (lags,) int array
        The lags that were tried, in bins; only bins that all of them reach are decoded.
    lag_V : (variables,) int array
        The lag chosen for each variable, in bins.
    penalty_V : (variables,) float array
        The ridge chosen for each.
    centre_N : (neurons,) float array
        Taken off the rates.
    weights_NV : (neurons, variables) float array
        Weights.
    intercepts_V : (variables,) float array
        NaN for a variable that the trials do not hold.
    """

    lags_L: IntArray
    lag_V: IntArray
    penalty_V: Float64Array
    centre_N: Float64Array
    weights_NV: Float64Array
    intercepts_V: Float64Array

    @classmethod
    def fit(cls, rates_BTN: FloatArray, data: SpikeData, lags_L: IntArray) -> Self:
        """Choose lag and ridge of each variable by cross-validation over trials, and fit.

        A variable that fewer than two trials hold is not fitted.
        """
        n_neurons, n_variables = rates_BTN.shape[2], known_behaviour(data).shape[2]
        centre_N = _mean_rates(rates_BTN, reached_bins(data, lags_L))
        decoder = cls(
            lags_L=lags_L,
            lag_V=np.zeros(n_variables, dtype=np.int64),
            penalty_V=np.full(n_variables, np.nan),
            centre_N=centre_N,
            weights_NV=np.zeros((n_neurons, n_variables)),
            intercepts_V=np.full(n_variables, np.nan),
        )
        for variables, known_BT in _known_alike(data, lags_L):
            decoder._fit_variables(rates_BTN, data, known_BT, variables)
        return decoder

    def _fit_variables(
        self,
        rates_BTN: FloatArray,
        data: SpikeData,
        known_BT: BoolArray,
        variables: IntArray,
    ) -> None:
        behaviour_BTV = known_behaviour(data)[:, :, variables]
        trials = np.flatnonzero(known_BT.any(axis=1))
        if len(trials) < 2:
            return
        centre_V = behaviour_BTV[known_BT].mean(axis=0, dtype=float)
        scale_N = np.abs(self.centre_N)
        n_columns = len(scale_N) + 1 + len(centre_V)
        totals: list[Float64Array] = []
        errors: list[Float64Array] = []
        for lag in self.lags_L:
            parts = []
            for fold in deal(data, trials):
                part = np.zeros((n_columns, n_columns))
                for block in trial_blocks(len(fold)):
                    some = fold[block]
                    features_XN = lagged(rates_BTN[some], known_BT[some], int(lag)) - self.centre_N
                    values_XV = behaviour_BTV[some][known_BT[some]] - centre_V
                    part += moments(features_XN, values_XV)
                parts.append(part)
            total = np.sum(parts, axis=0)
            fits = [fit_ridge(total - part, PENALTIES_P, scale_N) for part in parts]
            errors += [np.sum([squared_error(*pair) for pair in zip(parts, fits, strict=True)], 0)]
            totals.append(total)
        # All lags are judged on the same bins, so their errors compare.
        best_V = np.concatenate(errors).argmin(axis=0)
        for column, v in enumerate(variables):
            lag, penalty = divmod(int(best_V[column]), len(PENALTIES_P))
            fitted_PNV = fit_ridge(totals[lag], PENALTIES_P[[penalty]], scale_N)
            self.lag_V[v], self.penalty_V[v] = self.lags_L[lag], PENALTIES_P[penalty]
            self.weights_NV[:, v] = fitted_PNV[0, :-1, column]
            self.intercepts_V[v] = fitted_PNV[0, -1, column] + centre_V[column]

    def decode(self, rates_BTN: FloatArray, data: SpikeData) -> Float64Array:
        """Return decoded behaviour, (trials, bins, variables); NaN where a lag leads outside."""
        decoded_BTV = np.full((*rates_BTN.shape[:2], len(self.lag_V)), np.nan)
        reached_BT = reached_bins(data, self.lags_L)
        for lag in np.unique(self.lag_V):
            here_V = np.flatnonzero(self.lag_V == lag)
            for block in trial_blocks(len(rates_BTN)):
                rows_BT = reached_BT[block]
                features_XN = lagged(rates_BTN[block], rows_BT, int(lag)) - self.centre_N
                values_XV = features_XN @ self.weights_NV[:, here_V] + self.intercepts_V[here_V]
                trials, bins = np.nonzero(rows_BT)
                decoded_BTV[block][trials[:, None], bins[:, None], here_V] = values_XV
        return decoded_BTV


def _mean_rates(rates_BTN: FloatArray, rows_BT: BoolArray) -> Float64Array:
    """Return each neuron's mean over these bins, 0 where there are none."""
    total_N = np.zeros(rates_BTN.shape[2])
    for block in trial_blocks(len(rates_BTN)):
        total_N += rates_BTN[block][rows_BT[block]].sum(axis=0, dtype=float)
    return total_N / max(int(rows_BT.sum()), 1)


def known_behaviour(data: SpikeData) -> FloatArray:
    """Return the behaviour of the trials.

    Raises
    ------
    ValueError
        They have none.
    """
    if data.behaviour_BTV is None:
        raise ValueError("expected trials with behaviour; found none")
    return data.behaviour_BTV


def reached_bins(data: SpikeData, lags_L: IntArray) -> BoolArray:
    """Return the bins from which every lag leads to a bin of the same trial's window, (B, T)."""
    bins_T = np.arange(data.n_bins)
    end_B1 = np.minimum(data.lengths_B, data.n_bins - data.n_forward)[:, None]
    latest, earliest = max(int(lags_L.max()), 0), min(int(lags_L.min()), 0)
    return np.asarray((bins_T >= latest) & (bins_T < end_B1 + earliest))


def lagged(rates_BTN: FloatArray, rows_BT: BoolArray, lag: int) -> Float64Array:
    """Return the rates a lag before each of these bins, (entries, neurons)."""
    trials, bins = np.nonzero(rows_BT)
    return rates_BTN[trials, bins - lag].astype(np.float64)


def deal(data: SpikeData, trials: IntArray) -> list[NDArray[np.int64]]:
    """Deal trials into five folds by a fixed seed, or as many folds as there are trials.

    Windows of one continuous recording, which may overlap, are dealt in stretches instead.
    """
    n_folds = min(_N_FOLDS, len(trials))
    if data.start_bins_B is not None and n_folds:
        in_time = trials[np.argsort(data.start_bins_B[trials], kind="stable")]
        return [np.sort(stretch) for stretch in np.array_split(in_time, n_folds)]
    shuffled = np.random.default_rng(_SEED).permutation(trials)
    return [np.sort(shuffled[fold::n_folds]) for fold in range(n_folds)]


def _known_alike(data: SpikeData, lags_L: IntArray) -> list[tuple[NDArray[np.int64], BoolArray]]:
    """Return the variables that are known in the same bins, and those bins, (B, T)."""
    known_BTV = np.isfinite(known_behaviour(data)) & reached_bins(data, lags_L)[:, :, None]
    groups: dict[bytes, list[int]] = {}
    for v in range(known_BTV.shape[2]):
        groups.setdefault(np.packbits(known_BTV[:, :, v]).tobytes(), []).append(v)
    return [(np.array(group), known_BTV[:, :, group[0]]) for group in groups.values()]
