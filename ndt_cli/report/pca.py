"""Population states: the principal components of a set of rates.

Axes: T bins, N neurons, P components.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import DataError

Float64Array = NDArray[np.float64]

# Spikes per second added to each neuron's range, so that quiet neurons are not blown up
# (Churchland et al. 2012).
SOFT_HZ = 5.0


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of softly normalised rates.

    Attributes
    ----------
    mean_N, scale_N : (neurons,) float array
        Subtracted from, and divided out of, rates in spikes per second.
    axes_PN : (components, neurons) float array
        Orthonormal directions, by falling variance.
    share_P : (components,) float array
        Share of the variance along each.
    """

    mean_N: Float64Array
    scale_N: Float64Array
    axes_PN: Float64Array
    share_P: Float64Array

    def project(self, rates_hz_TN: Float64Array) -> Float64Array:
        """Return the states of rates in spikes per second, (bins, components)."""
        states_TP: Float64Array = (rates_hz_TN - self.mean_N) / self.scale_N @ self.axes_PN.T
        return states_TP


def principal_components(rates_hz_TN: Float64Array, n: int) -> Components:
    """Find the directions along which a population's rates vary most.

    Each neuron's rate is centred and divided by its range plus 5 spikes per second, so that no
    busy neuron is the whole picture (Churchland et al. 2012, "soft normalisation").

    Parameters
    ----------
    rates_hz_TN : (bins, neurons) float array
        Rates in spikes per second, of all trajectories one after the other.
    n : int
        Components to return.

    Raises
    ------
    DataError
        When there are fewer neurons than components, or nothing varies.
    """
    n_neurons = rates_hz_TN.shape[1]
    if n_neurons < n:
        raise DataError(
            f"trajectories in {n} dimensions need at least {n} neurons, and there "
            f"{'is 1' if n_neurons == 1 else f'are {n_neurons}'}"
        )
    mean_N = rates_hz_TN.mean(axis=0)
    scale_N = np.ptp(rates_hz_TN, axis=0) + SOFT_HZ
    _, singular_P, axes_PN = np.linalg.svd((rates_hz_TN - mean_N) / scale_N, full_matrices=False)
    variance_P = singular_P**2
    if len(rates_hz_TN) <= n or variance_P.sum() < 1e-12:
        raise DataError("the rates do not vary enough for trajectories")
    axes_PN = axes_PN[:n]
    # The sign of a component is arbitrary; this one makes the figure the same on any machine.
    largest_P = np.abs(axes_PN).argmax(axis=1)
    signs_P = np.sign(axes_PN[np.arange(n), largest_P])
    return Components(
        mean_N, scale_N, axes_PN * signs_P[:, None], variance_P[:n] / variance_P.sum()
    )
