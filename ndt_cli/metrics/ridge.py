"""Ridge regression from moments, so that cross-validation reads the data once.

The moments of a set of entries are the sums of products of all its columns: features, a one,
and the variables to predict. Those of two sets together are their sum, those of one of the two a
difference. Columns should be near zero in the mean, for variances are differences of moments.

Axes in names: X entries, F features, V variables, M = F + 1 + V columns, P penalties.
"""

import numpy as np

from ndt_cli.metrics.entries import Float64Array

# A feature that moves less than this, relative to its scale, is constant but for rounding.
_CONSTANT = 1e-6


def moments(features_XF: Float64Array, values_XV: Float64Array) -> Float64Array:
    """Return the moments of these entries, (columns, columns)."""
    columns_XM = np.hstack([features_XF, np.ones((len(features_XF), 1)), values_XV])
    return np.asarray(columns_XM.T @ columns_XM)


def fit_ridge(
    moments_MM: Float64Array, penalties_P: Float64Array, scale_F: Float64Array
) -> Float64Array:
    """Fit every variable under every penalty.

    Minimises the mean over entries of ``(y - b - z w)^2``, plus ``penalty * |w|^2``, where z are
    the features at mean 0 and variance 1. The intercept b is free.

    Parameters
    ----------
    moments_MM : (columns, columns) float array
        Of the entries to fit, at least one.
    penalties_P : (penalties,) float array
        Ridges, above 0.
    scale_F : (features,) float array
        What counts as a large value of each feature: one that varies by less than a millionth
        of it is constant, and has no weight.

    Returns
    -------
    (penalties, features + 1, variables) float array
        Weights for the features as they are in the moments, intercepts in the last row.
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
    """Return the summed squared error of such fits over these entries, (penalties, variables)."""
    n_penalties, _, n_variables = fitted_PFV.shape
    own_VV = np.broadcast_to(np.eye(n_variables), (n_penalties, n_variables, n_variables))
    residual_PMV = np.concatenate([-fitted_PFV, own_VV], axis=1)
    return np.asarray(np.sum(residual_PMV * (moments_MM @ residual_PMV), axis=1))
