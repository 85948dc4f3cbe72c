"""How well behaviour is decoded from rates, on trials that the decoder was not fitted to.

Axes in names: B trials, T bins, N neurons, V behavioural variables, L lags.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.by_trial import TrialValues
from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import SettingsError
from ndt_cli.metrics.decoder import Decoder, deal, known_behaviour, reached_bins
from ndt_cli.metrics.entries import Float64Array

DEFAULT_LAGS_MS = (-80.0, -40.0, 0.0, 40.0, 80.0, 120.0, 160.0)
"""Lags that are tried: of rates before behaviour; a negative one takes rates after it."""


@dataclass(frozen=True, eq=False)
class DecodingScores:
    """How well behaviour is decoded from rates.

    Parameters
    ----------
    names : tuple of str
        The behavioural variables.
    r2_V : (variables,) float array
        1 - SSE / SST over the scored bins; NaN for a variable that never changes there, or
        that the fitted trials do not hold.
    r2_mean : float
        Mean over the defined variables; NaN when there is none.
    lag_ms_V : (variables,) float array
        Time from the rates to the behaviour decoded from them, as chosen for each variable; the
        middle one where folds chose several.
    penalty_V : (variables,) float array
        The ridge, likewise.
    n_folds : int
        0 where the decoder was fitted to training trials; else the folds of the scored trials,
        each decoded by a fit to the others.
    n_scored : int
        Scored bins of the variable that has the most.
    """

    names: tuple[str, ...]
    r2_V: Float64Array
    r2_mean: float
    lag_ms_V: Float64Array
    penalty_V: Float64Array
    n_folds: int
    n_scored: int


def decode_behaviour(
    rates_BTN: TrialValues,
    data: SpikeData,
    *,
    train_rates_BTN: TrialValues | None = None,
    train: SpikeData | None = None,
    lags_ms: Sequence[float] | None = None,
) -> DecodingScores:
    """Decode behaviour from rates and score it on trials that the decoder was not fitted to.

    Each variable is a linear function of all rates a lag earlier. Lag and ridge are those with
    the least squared error under five-fold cross-validation over the fitted trials; `fit_ridge`
    says what is minimised. Behaviour that is NaN is neither fitted nor scored, nor is a bin from
    which one of the lags leads out of the trial or its window: so all lags, and all estimates of
    the rates, are scored on the same bins.

    With ``train`` the decoder is fitted to those trials. Without, trials are dealt into five
    folds (`deal`), and each fold is decoded by a fit to the others.

    Parameters
    ----------
    rates_BTN : (trials, bins, neurons) float array or ByTrial
        Rates of the scored trials.
    data : SpikeData
        The scored trials, with behaviour.
    train_rates_BTN : (trials, bins, neurons) float array or ByTrial, optional
        Rates of the trials to fit, by the same estimate.
    train : SpikeData, optional
        Those trials, with the same variables.
    lags_ms : sequence of float, optional
        Lags to try, rounded to whole bins. Default: those of `DEFAULT_LAGS_MS` that are at most
        a quarter of the median trial.

    Raises
    ------
    ValueError
        Trials without behaviour.
    SettingsError
        A given lag that is as long as the trials.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rates_BTN = rng.gamma(2.0, 1.0, (20, 30, 3))
    >>> data = SpikeData(
    ...     spikes_BTN=rng.poisson(rates_BTN).astype(np.uint8),
    ...     bin_ms=20.0,
    ...     lengths_B=np.full(20, 30),
    ...     behaviour_BTV=rates_BTN[:, :, :1] - rates_BTN[:, :, 1:2],
    ...     behaviour_names=("hand velocity",),
    ... )
    >>> scores = decode_behaviour(rates_BTN, data)
    >>> round(scores.r2_mean, 3), scores.lag_ms_V, scores.n_folds
    (1.0, array([0.]), 5)
    """
    behaviour_BTV = known_behaviour(data)
    lags_L = lag_bins(data, lags_ms)
    everything = np.arange(data.n_trials)
    if train is not None and train_rates_BTN is not None:
        n_folds, folds = 0, [everything]
        decoders = [Decoder.fit(train_rates_BTN, train, lags_L)]
    else:
        scored_BT = np.isfinite(behaviour_BTV).any(axis=2) & reached_bins(data, lags_L)
        folds = deal(data, np.flatnonzero(scored_BT.any(axis=1)))
        n_folds, decoders = len(folds), []
        for fold in folds:
            others = np.setdiff1d(everything, fold)
            decoders.append(Decoder.fit(rates_BTN, data, lags_L, others))
    decoded_BTV = np.full(behaviour_BTV.shape, np.nan)
    for fold, decoder in zip(folds, decoders, strict=True):
        decoded_BTV[fold] = decoder.decode(rates_BTN, data, fold)
    r2_V, n_scored = _r2(decoded_BTV, behaviour_BTV)
    defined_V = np.isfinite(r2_V)
    return DecodingScores(
        names=variable_names(data),
        r2_V=r2_V,
        r2_mean=float(r2_V[defined_V].mean()) if defined_V.any() else np.nan,
        lag_ms_V=_middle([d.lag_V * data.bin_ms for d in decoders], len(r2_V)),
        penalty_V=_middle([d.penalty_V for d in decoders], len(r2_V)),
        n_folds=n_folds,
        n_scored=n_scored,
    )


def variable_names(data: SpikeData) -> tuple[str, ...]:
    """Return the names of the behavioural variables, numbers where nobody named them."""
    if data.behaviour_BTV is None:
        return ()
    n_variables = data.behaviour_BTV.shape[2]
    return data.behaviour_names or tuple(f"behaviour {v}" for v in range(n_variables))


def lag_bins(data: SpikeData, lags_ms: Sequence[float] | None = None) -> NDArray[np.int64]:
    """Return the lags to try, in whole bins, ascending.

    Raises
    ------
    SettingsError
        A given lag that is as long as the trials.
    """
    window_B = np.minimum(data.lengths_B, data.n_bins - data.n_forward)
    if not lags_ms:
        longest_ms = float(np.median(window_B)) * data.bin_ms / 4
        lags_ms = [lag for lag in DEFAULT_LAGS_MS if abs(lag) <= longest_ms]
    lags_L = np.unique(np.rint(np.asarray(lags_ms) / data.bin_ms).astype(np.int64))
    if np.ptp(np.append(lags_L, 0)) >= window_B.max():
        listed = ", ".join(f"{lag:g}" for lag in lags_ms)
        raise SettingsError(
            f"found lags of {listed} ms to decode behaviour with, but no trial is longer than "
            f"{window_B.max() * data.bin_ms:g} ms",
            hint="Give shorter lags, such as --lag-ms 80.",
        )
    return lags_L


def _r2(decoded_BTV: Float64Array, behaviour_BTV: FloatArray) -> tuple[Float64Array, int]:
    r2_V, n_scored = np.full(behaviour_BTV.shape[2], np.nan), 0
    for v in range(len(r2_V)):
        scored_BT = np.isfinite(decoded_BTV[:, :, v]) & np.isfinite(behaviour_BTV[:, :, v])
        truth = behaviour_BTV[:, :, v][scored_BT].astype(np.float64)
        n_scored = max(n_scored, len(truth))
        if len(truth) and truth.max() > truth.min():
            error = truth - decoded_BTV[:, :, v][scored_BT]
            r2_V[v] = 1 - np.square(error).sum() / np.square(truth - truth.mean()).sum()
    return r2_V, n_scored


def _middle(chosen: Sequence[FloatArray], n_variables: int) -> Float64Array:
    if not chosen:
        return np.full(n_variables, np.nan)
    return np.asarray(np.quantile(np.stack(chosen), 0.5, axis=0, method="lower"))
