"""How well behavior is decoded from rates, on trials that the decoder was not fitted to.

The decoder is linear: ridge regression on the rates some lag earlier. Lag and penalty are chosen
by cross-validation over trials, from moments of each fold, so that the data are read once.

Axes in names: B trials, T bins, N neurons, V behavioral variables, L lags, P penalties,
X entries (trials x bins), F features, M = F + 1 + V columns of moments.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typing_extensions import Self

from ndt_cli.atomic import write_atomic
from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData, TrialValues, trial_blocks
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.metrics.scores import BoolArray, Float64Array, as_array, check_rates

DEFAULT_LAGS_MS = (-80.0, -40.0, 0.0, 40.0, 80.0, 120.0, 160.0)
"""Lags that are tried, from rates to behavior; a negative one takes rates after the behavior."""

PENALTIES_P: Float64Array = np.logspace(-5, 2, 8)
"""Ridge penalties that are tried, for standardized rates."""

_LONGEST_LAG_MS = 1e6  # a quarter of an hour, far beyond any trial
_N_FOLDS = 5
_SEED = 0
# A feature that varies less than this, relative to its scale, is constant up to rounding.
_CONSTANT = 1e-6


# ------------------------------------------------------------------------------------------------
# Ridge regression from moments
#
# Moments of a set of entries are the sums of products of all pairs of columns: features, a one,
# and the variables to predict. Moments of two sets add up to those of their union. Columns should
# have means near zero, since variances are differences of moments.
# ------------------------------------------------------------------------------------------------


def moments(features_XF: Float64Array, values_XV: Float64Array) -> Float64Array:
    """Return the moments of these entries, (columns, columns)."""
    columns_XM = np.hstack([features_XF, np.ones((len(features_XF), 1)), values_XV])
    return np.asarray(columns_XM.T @ columns_XM)


def fit_ridge(
    moments_MM: Float64Array, penalties_P: Float64Array, scale_F: Float64Array
) -> Float64Array:
    """Return weights, intercepts in the last row, (penalties, features + 1, variables).

    Minimizes the mean over entries of ``(y - b - z w)^2``, plus ``penalty * |w|^2``, where z are
    the features standardized to mean 0 and variance 1 and b is not penalized. A feature that
    varies by less than a millionth of its ``scale_F`` has no weight.
    """
    n_features = len(scale_F)
    means_MM = moments_MM / moments_MM[n_features, n_features]
    mean_F, mean_V = means_MM[n_features, :n_features], means_MM[n_features, n_features + 1 :]
    covariance_FF = means_MM[:n_features, :n_features] - np.outer(mean_F, mean_F)
    spread_F = np.sqrt(np.maximum(np.diag(covariance_FF), 0.0))
    moves_F = spread_F > _CONSTANT * scale_F
    inverse_F = moves_F / np.where(moves_F, spread_F, 1.0)
    slope_FV = means_MM[:n_features, n_features + 1 :] - np.outer(mean_F, mean_V)
    variances_F, axes_FF = np.linalg.eigh(covariance_FF * np.outer(inverse_F, inverse_F))
    along_FV = axes_FF.T @ (slope_FV * inverse_F[:, None])
    shrunk_PF1 = 1.0 / (np.maximum(variances_F, 0.0) + penalties_P[:, None])[:, :, None]
    weights_PFV = inverse_F[:, None] * (axes_FF @ (shrunk_PF1 * along_FV))
    intercepts_P1V = mean_V - np.einsum("f,pfv->pv", mean_F, weights_PFV)[:, None]
    return np.concatenate([weights_PFV, intercepts_P1V], axis=1)


def squared_error(moments_MM: Float64Array, fitted_PFV: Float64Array) -> Float64Array:
    """Return the summed squared error of these fits on these entries, (penalties, variables)."""
    n_penalties, _, n_variables = fitted_PFV.shape
    own_VV = np.broadcast_to(np.eye(n_variables), (n_penalties, n_variables, n_variables))
    residual_PMV = np.concatenate([-fitted_PFV, own_VV], axis=1)
    return np.asarray(np.sum(residual_PMV * (moments_MM @ residual_PMV), axis=1))


# ------------------------------------------------------------------------------------------------
# A linear decoder, fitted to trials
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Decoder:
    """A linear function of all rates for each behavioral variable."""

    lags_L: IntArray  # in bins, those that were tried; only bins that all of them reach are decoded
    lag_V: IntArray  # in bins, the one chosen for each variable
    penalty_V: Float64Array
    center_N: Float64Array  # subtracted from the rates
    weights_NV: Float64Array
    intercepts_V: Float64Array  # NaN for a variable that the trials do not have

    @classmethod
    def fit(
        cls,
        rates_BTN: TrialValues,
        data: SpikeData,
        lags_L: IntArray,
        trials: IntArray | None = None,
    ) -> Self:
        """Choose lag and penalty of each variable by cross-validation over trials, and fit.

        ``trials`` are the positions of the trials to fit; default: all. A variable that is known
        in fewer than two of them is not fitted; one that never changes has no weights, and lag 0.
        """
        n_neurons, n_variables = rates_BTN.shape[2], known_behavior(data).shape[2]
        fitted_BT = reached_bins(data, lags_L)
        if trials is not None:
            fitted_BT[np.isin(np.arange(data.n_trials), trials, invert=True)] = False
        center_N = _mean_rates(rates_BTN, fitted_BT)
        decoder = cls(
            lags_L=lags_L,
            lag_V=np.zeros(n_variables, dtype=np.int64),
            penalty_V=np.full(n_variables, np.nan),
            center_N=center_N,
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
        behavior_BTV = known_behavior(data)[:, :, variables]
        trials = np.flatnonzero(known_BT.any(axis=1))
        if len(trials) < 2:
            return
        known_XV = behavior_BTV[known_BT]
        varies_V = known_XV.max(axis=0) > known_XV.min(axis=0)
        # A constant is known without rates: any lag would do.
        self.intercepts_V[variables[~varies_V]] = known_XV[0, ~varies_V]
        behavior_BTV, variables = behavior_BTV[:, :, varies_V], variables[varies_V]
        if not len(variables):
            return
        center_V = behavior_BTV[known_BT].mean(axis=0, dtype=float)
        scale_N = np.abs(self.center_N)
        n_columns = len(scale_N) + 1 + len(center_V)
        folds = deal(data, trials)
        parts_LFMM = np.zeros((len(self.lags_L), len(folds), n_columns, n_columns))
        for f, fold in enumerate(folds):
            for some in _blocks_of(fold, rates_BTN):
                here_BTN = rates_BTN[some]  # once for all lags: this may infer the rates
                values_XV = behavior_BTV[some][known_BT[some]] - center_V
                for parts_FMM, lag in zip(parts_LFMM, self.lags_L.tolist(), strict=True):
                    features_XN = lagged(here_BTN, known_BT[some], lag) - self.center_N
                    parts_FMM[f] += moments(features_XN, values_XV)
        totals: list[Float64Array] = []
        errors: list[Float64Array] = []
        for parts in parts_LFMM:
            total = np.sum(parts, axis=0)
            fits = [fit_ridge(total - part, PENALTIES_P, scale_N) for part in parts]
            errors += [np.sum([squared_error(*pair) for pair in zip(parts, fits, strict=True)], 0)]
            totals.append(total)
        # All lags are scored on the same bins, so their errors are comparable.
        best_V = np.concatenate(errors).argmin(axis=0)
        for column, v in enumerate(variables):
            lag, penalty = divmod(int(best_V[column]), len(PENALTIES_P))
            fitted_PNV = fit_ridge(totals[lag], PENALTIES_P[[penalty]], scale_N)
            self.lag_V[v], self.penalty_V[v] = self.lags_L[lag], PENALTIES_P[penalty]
            self.weights_NV[:, v] = fitted_PNV[0, :-1, column]
            self.intercepts_V[v] = fitted_PNV[0, -1, column] + center_V[column]

    def decode(self, rates_BTN: TrialValues, data: SpikeData, trials: IntArray) -> Float64Array:
        """Return the decoded behavior, (trials, bins, variables); NaN where a lag leads outside."""
        decoded_BTV = np.full((data.n_trials, data.n_bins, len(self.lag_V)), np.nan)
        reached_BT = reached_bins(data, self.lags_L)
        for some in _blocks_of(trials, rates_BTN):
            here_BTN = rates_BTN[some]
            rows, bins = np.nonzero(reached_BT[some])
            for lag in np.unique(self.lag_V):
                here_V = np.flatnonzero(self.lag_V == lag)
                features_XN = lagged(here_BTN, reached_BT[some], int(lag)) - self.center_N
                values_XV = features_XN @ self.weights_NV[:, here_V] + self.intercepts_V[here_V]
                decoded_BTV[some[rows][:, None], bins[:, None], here_V] = values_XV
        return decoded_BTV[trials]


def save_decoders(
    path: Path, decoders: Mapping[str, Decoder], weights: str, names: Sequence[str]
) -> None:
    """Write the decoder of each estimate of the rates, by name; an earlier file is replaced.

    ``weights`` is the digest of those that the model's rates come from, ``names`` are the
    behavioral variables.
    """
    about = {"weights": weights, "variables": list(names), "estimates": list(decoders)}
    content = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for number, decoder in enumerate(decoders.values()):
        for part in fields(Decoder):
            values = np.ascontiguousarray(getattr(decoder, part.name))
            content[f"{number}.{part.name}"] = values
    stored = save(content)
    write_atomic(path, lambda temporary: temporary.write_bytes(stored), overwrite=True)


def load_decoders(
    path: Path, weights: str, n_neurons: int
) -> tuple[tuple[str, ...], dict[str, Decoder]]:
    """Read a file of `save_decoders`: the variables' names, and the decoder of each estimate.

    Nothing if there is no such file, or if it is of other weights.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    if not path.is_file():
        return (), {}
    try:
        content = load(path.read_bytes())
        about = json.loads(content["about"].tobytes())
        names = tuple(str(name) for name in about["variables"])
        if about.get("weights") != weights:
            return (), {}
        decoders = {
            str(name): Decoder(**{f.name: content[f"{i}.{f.name}"] for f in fields(Decoder)})
            for i, name in enumerate(about["estimates"])
        }
        if not all(_is_whole(decoder, n_neurons, len(names)) for decoder in decoders.values()):
            raise ValueError("its arrays do not fit the run")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read: {error}",
            "The file is damaged; without it, decoders are fitted again where they are needed.",
        ) from error
    return names, decoders


def _is_whole(decoder: Decoder, n_neurons: int, n_variables: int) -> bool:
    """Tell whether the arrays of a decoder from a file fit together and can be used."""
    shapes = {
        "lag_V": (n_variables,),
        "penalty_V": (n_variables,),
        "center_N": (n_neurons,),
        "weights_NV": (n_neurons, n_variables),
        "intercepts_V": (n_variables,),
    }
    lags_L, lag_V = decoder.lags_L, decoder.lag_V
    if lags_L.ndim != 1 or not len(lags_L) or {lags_L.dtype, lag_V.dtype} != {np.dtype(np.int64)}:
        return False
    latest, earliest = max(int(lags_L.max()), 0), min(int(lags_L.min()), 0)
    return (
        all(getattr(decoder, name).shape == shape for name, shape in shapes.items())
        and bool(((lag_V >= earliest) & (lag_V <= latest)).all())
        and bool(np.isfinite(decoder.weights_NV).all() and np.isfinite(decoder.center_N).all())
    )


def _blocks_of(trials: IntArray, rates_BTN: TrialValues) -> list[IntArray]:
    """Return these trials in blocks whose rates fit into memory."""
    n_entries = rates_BTN.shape[1] * rates_BTN.shape[2]
    return [trials[block] for block in trial_blocks(len(trials), n_entries)]


def _mean_rates(rates_BTN: TrialValues, rows_BT: BoolArray) -> Float64Array:
    """Return each neuron's mean over these bins; 0 without bins."""
    total_N = np.zeros(rates_BTN.shape[2])
    for some in _blocks_of(np.flatnonzero(rows_BT.any(axis=1)), rates_BTN):
        total_N += rates_BTN[some][rows_BT[some]].sum(axis=0, dtype=float)
    return total_N / max(int(rows_BT.sum()), 1)


def known_behavior(data: SpikeData) -> FloatArray:
    """Return the behavior of the trials, which must have some."""
    if data.behavior_BTV is None:
        raise ValueError("expected trials with behavior; found none")
    return data.behavior_BTV


def reached_bins(data: SpikeData, lags_L: IntArray) -> BoolArray:
    """Mark the bins from which every lag leads to a bin in the window of the same trial."""
    bins_T = np.arange(data.n_bins)
    end_B1 = np.minimum(data.lengths_B, data.n_bins - data.n_forward)[:, None]
    latest, earliest = max(int(lags_L.max()), 0), min(int(lags_L.min()), 0)
    return np.asarray((bins_T >= latest) & (bins_T < end_B1 + earliest))


def lagged(rates_BTN: FloatArray, rows_BT: BoolArray, lag: int) -> Float64Array:
    """Return the rates a lag before each of these bins, (entries, neurons)."""
    trials, bins = np.nonzero(rows_BT)
    found_XN = as_array(rates_BTN[trials, bins - lag]).astype(np.float64)
    if not np.isfinite(found_XN).all():
        raise ValueError("found rates that are not finite; expected numbers in every bin")
    return found_XN


def deal(data: SpikeData, trials: IntArray) -> list[NDArray[np.int64]]:
    """Divide trials at random, with a fixed seed, into five folds, or fewer with fewer trials.

    Windows of a continuous recording may overlap: their folds are consecutive stretches.
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
    """Group the variables that are known in the same bins; return each group with its bins."""
    known_BTV = np.isfinite(known_behavior(data)) & fitted_BT[:, :, None]
    groups: dict[bytes, list[int]] = {}
    for v in range(known_BTV.shape[2]):
        groups.setdefault(np.packbits(known_BTV[:, :, v]).tobytes(), []).append(v)
    return [(np.array(group), known_BTV[:, :, group[0]]) for group in groups.values()]


# ------------------------------------------------------------------------------------------------
# Scores on trials that the decoder was not fitted to
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DecodingScores:
    """How well behavior is decoded from rates.

    Parameters
    ----------
    names : tuple of str
        The behavioral variables.
    r2_V : (variables,) float array
        1 - SSE / SST over the scored bins; NaN for a variable that never changes there, or
        that the fitted trials do not have.
    r2_mean : float
        Mean over the defined variables; NaN if there are none.
    lag_ms_V : (variables,) float array
        Time from the rates to the behavior decoded from them, as chosen for each variable; the
        median if folds chose differently.
    penalty_V : (variables,) float array
        The ridge penalty, likewise.
    n_folds : int
        0 if the decoder was fitted to training trials; else the folds of the scored trials, each
        decoded by a fit to the others.
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


def decode_behavior(
    rates_BTN: TrialValues,
    data: SpikeData,
    *,
    train_rates_BTN: TrialValues | None = None,
    train: SpikeData | None = None,
    lags_ms: Sequence[float] | None = None,
    decoder: Decoder | None = None,
) -> DecodingScores:
    """Decode behavior from rates and score it on trials that the decoder was not fitted to.

    Each variable is a linear function of the rates of all neurons some lag earlier, fitted by
    ridge regression on standardized rates: the mean squared error plus the penalty times the
    squared norm of the weights is minimized. Lag and penalty are those with the least squared
    error under five-fold cross-validation over the fitted trials. Behavior that is NaN is neither
    fitted nor scored, nor is a bin from which one of the lags leads out of the trial or its
    window: all lags, and all estimates of the rates, are scored on the same bins.

    With ``train`` the decoder is fitted to those trials. Without, and without a ``decoder``, the
    trials are divided into five folds, and each fold is decoded by a fit to the others.

    Parameters
    ----------
    rates_BTN : (trials, bins, neurons) float array or ByTrial
        Rates of the scored trials.
    data : SpikeData
        The scored trials, with behavior.
    train_rates_BTN : (trials, bins, neurons) float array or ByTrial, optional
        Rates of the trials to fit, from the same model.
    train : SpikeData, optional
        The trials to fit, with the same variables.
    lags_ms : sequence of float, optional
        Lags from rates to behavior to try, in ms, rounded to whole bins. Default: those of -80,
        -40, 0, ..., 160 that are at most a quarter of the median trial.
    decoder : Decoder, optional
        One that is fitted already, to other trials.

    Raises
    ------
    ValueError
        Trials without behavior, rates of other trials or bins, or rates that are not finite.
    SettingsError
        A lag that is not finite, or as long as the trials.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rates_BTN = rng.gamma(2.0, 1.0, (20, 30, 3))
    >>> data = SpikeData(
    ...     spikes_BTN=rng.poisson(rates_BTN).astype(np.uint8),
    ...     bin_ms=20.0,
    ...     lengths_B=np.full(20, 30),
    ...     behavior_BTV=rates_BTN[:, :, :1] - rates_BTN[:, :, 1:2],
    ...     behavior_names=("hand velocity",),
    ... )
    >>> scores = decode_behavior(rates_BTN, data)
    >>> round(scores.r2_mean, 3), scores.lag_ms_V, scores.n_folds
    (1.0, array([0.]), 5)
    """
    behavior_BTV = known_behavior(data)
    check_rates(rates_BTN, data)
    lags_L = lag_bins(data, lags_ms) if decoder is None else decoder.lags_L
    everything = np.arange(data.n_trials)
    if decoder is not None:
        n_folds, folds, decoders = 0, [everything], [decoder]
    elif train is not None and train_rates_BTN is not None:
        check_rates(train_rates_BTN, train)
        n_folds, folds = 0, [everything]
        decoders = [Decoder.fit(train_rates_BTN, train, lags_L)]
    else:
        scored_BT = np.isfinite(behavior_BTV).any(axis=2) & reached_bins(data, lags_L)
        folds = deal(data, np.flatnonzero(scored_BT.any(axis=1)))
        n_folds, decoders = len(folds), []
        for fold in folds:
            others = np.setdiff1d(everything, fold)
            decoders.append(Decoder.fit(rates_BTN, data, lags_L, others))
    decoded_BTV = np.full(behavior_BTV.shape, np.nan)
    for fold, decoder in zip(folds, decoders, strict=True):
        decoded_BTV[fold] = decoder.decode(rates_BTN, data, fold)
    r2_V, n_scored = _r2(decoded_BTV, behavior_BTV)
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
    """Return the names of the behavioral variables; numbers if they have none."""
    if data.behavior_BTV is None:
        return ()
    n_variables = data.behavior_BTV.shape[2]
    return data.behavior_names or tuple(f"behavior {v}" for v in range(n_variables))


def lag_bins(data: SpikeData, lags_ms: Sequence[float] | None = None) -> NDArray[np.int64]:
    """Return the lags to try, in whole bins, ascending."""
    check_lags(lags_ms or ())
    window_B = np.minimum(data.lengths_B, data.n_bins - data.n_forward)
    if not lags_ms:
        longest_ms = float(np.median(window_B)) * data.bin_ms / 4
        lags_ms = [lag for lag in DEFAULT_LAGS_MS if abs(lag) <= longest_ms]
    lags_L = np.unique(np.rint(np.asarray(lags_ms) / data.bin_ms).astype(np.int64))
    if np.ptp(np.append(lags_L, 0)) >= window_B.max():
        listed = ", ".join(f"{lag:g}" for lag in lags_ms)
        raise SettingsError(
            f"found lags of {listed} ms to decode behavior with, but no trial is longer than "
            f"{window_B.max() * data.bin_ms:g} ms",
            hint="Give shorter lags, such as `lags_ms=[80]`.",
        )
    return lags_L


def check_lags(lags_ms: Sequence[float]) -> None:
    """Check, before rates are inferred, that these are times."""
    for lag_ms in lags_ms:
        if not abs(lag_ms) <= _LONGEST_LAG_MS:  # NaN included
            raise SettingsError(
                f"`lags_ms=[{lag_ms:g}]`: expected a time in ms, shorter than the trials",
                "such as `lags_ms=[80]`",
            )


def _r2(decoded_BTV: Float64Array, behavior_BTV: FloatArray) -> tuple[Float64Array, int]:
    r2_V, n_scored = np.full(behavior_BTV.shape[2], np.nan), 0
    for v in range(len(r2_V)):
        scored_BT = np.isfinite(decoded_BTV[:, :, v]) & np.isfinite(behavior_BTV[:, :, v])
        truth = behavior_BTV[:, :, v][scored_BT].astype(np.float64)
        n_scored = max(n_scored, len(truth))
        if len(truth) and truth.max() > truth.min():
            error = truth - decoded_BTV[:, :, v][scored_BT]
            r2_V[v] = 1 - np.square(error).sum() / np.square(truth - truth.mean()).sum()
    return r2_V, n_scored


def _middle(chosen: Sequence[FloatArray], n_variables: int) -> Float64Array:
    if not chosen:
        return np.full(n_variables, np.nan)
    return np.asarray(np.quantile(np.stack(chosen), 0.5, axis=0, method="lower"))
