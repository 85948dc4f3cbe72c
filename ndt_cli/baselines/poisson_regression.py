"""Poisson regression with a ridge penalty, for many neurons at once.

Axes in names: X entries (trials x bins), F features, N neurons.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Float64Array = NDArray[np.float64]

# exp(30) spikes a bin is out of all bounds; the line search must not overflow on its way.
_HIGHEST_LOG_RATE = 30.0
_MAX_STEPS = 300


@dataclass(frozen=True, eq=False)
class PoissonRegression:
    """Log-rates that are linear in features.

    Parameters
    ----------
    weights_FN : (features, neurons) float array
        Weights.
    intercepts_N : (neurons,) float array
        Log-rate where all features are 0.
    """

    weights_FN: Float64Array
    intercepts_N: Float64Array

    def log_rates(self, features_XF: Float64Array) -> Float64Array:
        """Return log-rates, (entries, neurons)."""
        return np.asarray(features_XF @ self.weights_FN + self.intercepts_N)


def fit_poisson(
    features_XF: Float64Array, counts_XN: Float64Array, penalty: float
) -> PoissonRegression:
    """Fit one Poisson regression a neuron.

    Minimises, over the weights w and the intercept b of each neuron, the mean over entries of
    ``exp(x w + b) - y (x w + b)``, plus ``penalty / 2 * |w|^2``. The intercept is free. A neuron
    without a spike is given the rate of half a spike in all entries.

    Parameters
    ----------
    features_XF : (entries, features) float array
        What is predicted from: each of mean 0 and of one scale, for the penalty's sake.
    counts_XN : (entries, neurons) float array
        Counts to fit.
    penalty : float
        Strength of the ridge, above 0.
    """
    n_entries, n_features = features_XF.shape
    spiked_N = counts_XN.any(axis=0)
    mean_N = counts_XN[:, spiked_N].mean(axis=0)
    # Along the principal axes, scaled by the curvature at the mean rate, the problem is nearly
    # round: a tenth of the steps. A rotation leaves the ridge as it is.
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
    return PoissonRegression(weights_FN, intercepts_N)
