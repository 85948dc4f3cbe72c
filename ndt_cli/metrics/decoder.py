"""A linear decoder of behaviour from rates a lag earlier, fitted to trials.

Axes in names: B trials, T bins, N neurons, V behavioural variables, L lags, P penalties,
X entries (trials x bins).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.data.by_trial import TrialValues, trial_blocks
from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.metrics.entries import BoolArray, Float64Array
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
    def fit(
        cls,
        rates_BTN: TrialValues,
        data: SpikeData,
        lags_L: IntArray,
        trials: IntArray | None = None,
    ) -> Self:
        """Choose lag and ridge of each variable by cross-validation over trials, and fit.

        ``trials`` are the positions of those that are fitted, all by default. A variable that
        fewer than two of them hold is not fitted.
        """
        n_neurons, n_variables = rates_BTN.shape[2], known_behaviour(data).shape[2]
        fitted_BT = reached_bins(data, lags_L)
        if trials is not None:
            fitted_BT[np.isin(np.arange(data.n_trials), trials, invert=True)] = False
        centre_N = _mean_rates(rates_BTN, fitted_BT)
        decoder = cls(
            lags_L=lags_L,
            lag_V=np.zeros(n_variables, dtype=np.int64),
            penalty_V=np.full(n_variables, np.nan),
            centre_N=centre_N,
            weights_NV=np.zeros((n_neurons, n_variables)),
            intercepts_V=np.full(n_variables, np.nan),
        )
        for variables, known_BT in _known_alike(data, fitted_BT):
            decoder._fit_variables(rates_BTN, data, known_BT, variables)
        return decoder

    def _fit_variables(
        self,
        rates_BTN: TrialValues,
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
        folds = deal(data, trials)
        parts_LFMM = np.zeros((len(self.lags_L), len(folds), n_columns, n_columns))
        for f, fold in enumerate(folds):
            for some in _blocks_of(fold, rates_BTN):
                here_BTN = rates_BTN[some]  # once for all lags: they may have to be inferred
                values_XV = behaviour_BTV[some][known_BT[some]] - centre_V
                for parts_FMM, lag in zip(parts_LFMM, self.lags_L.tolist(), strict=True):
                    features_XN = lagged(here_BTN, known_BT[some], lag) - self.centre_N
                    parts_FMM[f] += moments(features_XN, values_XV)
        totals: list[Float64Array] = []
        errors: list[Float64Array] = []
        for parts in parts_LFMM:
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

    def decode(self, rates_BTN: TrialValues, data: SpikeData, trials: IntArray) -> Float64Array:
        """Return the behaviour of these trials, decoded, (trials, bins, variables).

        NaN where a lag leads outside.
        """
        decoded_BTV = np.full((data.n_trials, data.n_bins, len(self.lag_V)), np.nan)
        reached_BT = reached_bins(data, self.lags_L)
        for some in _blocks_of(trials, rates_BTN):
            here_BTN = rates_BTN[some]
            rows, bins = np.nonzero(reached_BT[some])
            for lag in np.unique(self.lag_V):
                here_V = np.flatnonzero(self.lag_V == lag)
                features_XN = lagged(here_BTN, reached_BT[some], int(lag)) - self.centre_N
                values_XV = features_XN @ self.weights_NV[:, here_V] + self.intercepts_V[here_V]
                decoded_BTV[some[rows][:, None], bins[:, None], here_V] = values_XV
        return decoded_BTV[trials]


def _blocks_of(trials: IntArray, rates_BTN: TrialValues) -> list[IntArray]:
    """Return these trials in blocks whose rates may be copied."""
    n_entries = rates_BTN.shape[1] * rates_BTN.shape[2]
    return [trials[block] for block in trial_blocks(len(trials), n_entries)]


def _mean_rates(rates_BTN: TrialValues, rows_BT: BoolArray) -> Float64Array:
    """Return each neuron's mean over these bins, 0 where there are none."""
    total_N = np.zeros(rates_BTN.shape[2])
    for some in _blocks_of(np.flatnonzero(rows_BT.any(axis=1)), rates_BTN):
        total_N += rates_BTN[some][rows_BT[some]].sum(axis=0, dtype=float)
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


def _known_alike(
    data: SpikeData, fitted_BT: BoolArray
) -> list[tuple[NDArray[np.int64], BoolArray]]:
    """Return the variables that are known in the same bins to fit, and those bins, (B, T)."""
    known_BTV = np.isfinite(known_behaviour(data)) & fitted_BT[:, :, None]
    groups: dict[bytes, list[int]] = {}
    for v in range(known_BTV.shape[2]):
        groups.setdefault(np.packbits(known_BTV[:, :, v]).tobytes(), []).append(v)
    return [(np.array(group), known_BTV[:, :, group[0]]) for group in groups.values()]
