"""Held-out neurons predicted from the smoothed spikes of the others, by Poisson regression.

Axes in names: B trials, T bins, N neurons, X entries (trials x bins), F features (held-in neurons).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.baselines.smoothing import Float64Array, Smoother, some_trials
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError

PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Ridge penalties that are tried."""

# No real rate is exp(30) spikes per bin; beyond it the line search could overflow.
_HIGHEST_LOG_RATE = 30.0
_MAX_STEPS = 300
_LOG_OFFSET = 1e-4
_N_FOLDS = 3
_SEED = 0
# This many bins suffice to compare penalties, and to fit: memory and time grow with them.
_BINS_TO_CHOOSE = 10_000
_BINS_TO_FIT = 100_000


def fit_poisson(
    features_XF: Float64Array, counts_XN: Float64Array, penalty: float
) -> tuple[Float64Array, Float64Array]:
    """Fit one Poisson regression per neuron to features of mean 0 and variance 1.

    Minimizes, over weights w and intercept b, the mean over entries of ``exp(x w + b) - y (x w +
    b)``, plus ``penalty / 2 * |w|^2``, with a penalty above 0. A neuron without spikes gets the
    rate of half a spike in all entries. Returns weights, (features, neurons), and intercepts.
    """
    from scipy.optimize import minimize  # takes long to load, for held-out neurons alone

    n_entries, n_features = features_XF.shape
    spiked_N = counts_XN.any(axis=0)
    mean_N = counts_XN[:, spiked_N].mean(axis=0)
    # Along the principal axes, scaled by the curvature at the mean rate, the loss is nearly
    # isotropic and takes a tenth of the steps. A rotation does not change the penalty.
    variances_F, axes_FF = np.linalg.eigh(features_XF.T @ features_XF / n_entries)
    curvature_FN = np.maximum(variances_F, 0.0)[:, None] * mean_N + penalty
    scales_FN = 1 / np.sqrt(np.vstack([curvature_FN, mean_N]))
    penalties_F1 = np.full((n_features + 1, 1), penalty)
    penalties_F1[-1] = 0.0
    design_XF = np.hstack([features_XF @ axes_FF, np.ones((n_entries, 1))])
    moments_FN = design_XF.T @ counts_XN[:, spiked_N] / n_entries

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        weights_FN = flat.reshape(scales_FN.shape) * scales_FN
        logs_XN = design_XF @ weights_FN
        rates_XN = np.exp(np.minimum(logs_XN, _HIGHEST_LOG_RATE, out=logs_XN), out=logs_XN)
        ridge_FN = penalties_F1 * weights_FN
        value = rates_XN.sum() / n_entries + np.sum((0.5 * ridge_FN - moments_FN) * weights_FN)
        gradient_FN = design_XF.T @ rates_XN / n_entries - moments_FN + ridge_FN
        return float(value), np.ravel(gradient_FN * scales_FN)

    weights_FN = np.zeros((n_features, counts_XN.shape[1]))
    intercepts_N = np.full(counts_XN.shape[1], np.log(0.5 / n_entries))
    if spiked_N.any():
        start_FN = np.zeros(scales_FN.shape)
        start_FN[-1] = np.log(mean_N) / scales_FN[-1]
        options = {"maxiter": _MAX_STEPS, "ftol": 1e-10, "gtol": 1e-6}
        found = minimize(loss, start_FN.ravel(), jac=True, method="L-BFGS-B", options=options)
        fitted_FN = found.x.reshape(scales_FN.shape) * scales_FN
        weights_FN[:, spiked_N] = axes_FF @ fitted_FN[:-1]
        intercepts_N[spiked_N] = fitted_FN[-1]
    return weights_FN, intercepts_N


@dataclass(frozen=True, eq=False)
class HeldoutRegression:
    """Poisson regression of held-out counts on the logarithms of smoothed held-in rates.

    So does the Neural Latents Benchmark '21 (arXiv 2109.04463, co-smoothing), with kernel and
    penalty from a sweep for each dataset. Here, the kernel is that of the `Smoother`, and the
    penalty gives held-out counts the largest likelihood in cross-validation over training trials.

    Parameters
    ----------
    smoother : Smoother
        Smooths the held-in spikes.
    weights_FN, intercepts_N : (held-in, held-out) and (held-out neurons,) float array
        From standardized logarithms to log-rates.
    means_F, scales_F : (held-in neurons,) float array
        Means and standard deviations of these logarithms in the training trials.
    highest_N : (held-out neurons,) float array
        Largest count of each neuron in the training trials: no rate is above it.
    penalty : float
        The ridge penalty.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from ndt_cli import make_lorenz
    >>> made = make_lorenz(n_conditions=2, n_repeats=5, n_neurons=8)
    >>> train, valid = (replace(data, n_heldout=2) for data in (made.train, made.valid))
    >>> regression = HeldoutRegression.fit(train, Smoother.fit(train))
    >>> regression.rates(valid).shape  # of the last two neurons, from the others
    (2, 50, 2)
    """

    smoother: Smoother
    weights_FN: Float64Array
    intercepts_N: Float64Array
    means_F: Float64Array
    scales_F: Float64Array
    highest_N: Float64Array
    penalty: float

    @classmethod
    def fit(cls, train: SpikeData, smoother: Smoother) -> Self:
        """Choose the penalty and fit; from a large set, trials are drawn with a fixed seed.

        Raises
        ------
        DataError
            If there are no held-out neurons, or their counts are not known.
        """
        if not (train.n_heldout and train.hidden_counts_known):
            raise DataError(
                "Predicting held-out neurons needs training trials with their counts; found "
                f"{train.n_heldout} held-out neurons"
                + ("." if train.hidden_counts_known else " of unknown counts.")
            )
        few, many = (
            some_trials(train, max(_N_FOLDS, n_bins // train.n_bins))
            for n_bins in (_BINS_TO_CHOOSE, _BINS_TO_FIT)
        )
        features_XF, counts_XN, trial_X = _entries(few, smoother)
        standard_XF, _, _ = _standardized(features_XF)
        penalty = _choose_penalty(standard_XF, counts_XN, trial_X)
        if few.n_trials < train.n_trials:
            features_XF, counts_XN, _ = _entries(many, smoother)
        standard_XF, means_F, scales_F = _standardized(features_XF)
        linear = fit_poisson(standard_XF, counts_XN, penalty)
        return cls(smoother, *linear, means_F, scales_F, counts_XN.max(axis=0), penalty)

    def rates(self, data: SpikeData) -> Float64Array:
        """Return rates of the held-out neurons, (trials, bins, held-out) in spikes per bin.

        Only held-in counts in the window are used. Rates are 0 in padding, and each neuron's
        mean rate in forward bins.

        Raises
        ------
        DataError
            If bin width or number of neurons differ from those of the training trials.
        """
        n_heldin = data.n_neurons - data.n_heldout
        window_BT = _window_bins(data)
        smoothed_BTN = self.smoother.rates(data)
        logs_XF = np.log(smoothed_BTN[:, :, :n_heldin][window_BT] + _LOG_OFFSET)
        standard_XF = (logs_XF - self.means_F) / self.scales_F
        log_rates_XN = standard_XF @ self.weights_FN + self.intercepts_N
        rates_BTN = smoothed_BTN[:, :, n_heldin:].copy()
        # Far from the training trials an exponential has no bound.
        highest = np.log(np.maximum(self.highest_N, 1.0))
        rates_BTN[window_BT] = np.exp(np.minimum(log_rates_XN, highest))
        return rates_BTN


def _window_bins(data: SpikeData) -> NDArray[np.bool_]:
    before_forward_T = np.arange(data.n_bins) < data.n_bins - data.n_forward
    return data.inside_BT & before_forward_T


def _entries(
    train: SpikeData, smoother: Smoother
) -> tuple[Float64Array, Float64Array, NDArray[np.int64]]:
    """Return features and counts of every bin of the window, and the trial of each."""
    n_heldin = train.n_neurons - train.n_heldout
    window_BT = _window_bins(train)
    logs_XF = np.log(smoother.rates(train)[:, :, :n_heldin][window_BT] + _LOG_OFFSET)
    counts_XN = train.spikes_BTN[:, :, n_heldin:][window_BT].astype(np.float64)
    return logs_XF, counts_XN, np.nonzero(window_BT)[0]


def _standardized(features_XF: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return features of mean 0 and variance 1, and the means and scales removed from them."""
    means_F, scales_F = features_XF.mean(axis=0), features_XF.std(axis=0)
    scales_F[scales_F < 1e-9] = 1.0  # a silent neuron has no information
    return (features_XF - means_F) / scales_F, means_F, scales_F


def _choose_penalty(
    features_XF: Float64Array, counts_XN: Float64Array, trial_X: NDArray[np.int64]
) -> float:
    trials = np.unique(trial_X)
    n_folds = min(_N_FOLDS, len(trials))
    if n_folds < 2:
        return PENALTIES[0]
    folds = np.random.default_rng(_SEED).permutation(len(trials)) % n_folds
    fold_X = folds[np.searchsorted(trials, trial_X)]
    losses: list[float] = []
    for penalty in PENALTIES:
        loss = 0.0
        for fold in range(n_folds):
            train_X = fold_X != fold
            weights_FN, intercepts_N = fit_poisson(
                features_XF[train_X], counts_XN[train_X], penalty
            )
            logs_XN = features_XF[~train_X] @ weights_FN + intercepts_N
            logs_XN = np.minimum(logs_XN, np.log(counts_XN.max(initial=1.0)))
            loss += float(np.sum(np.exp(logs_XN) - counts_XN[~train_X] * logs_XN))
        if losses and loss > losses[-1]:
            break  # the loss has one minimum: weaker penalties overfit more
        losses.append(loss)
    return PENALTIES[len(losses) - 1]
