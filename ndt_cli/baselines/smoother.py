"""The smoothing baseline: fitted to training trials, then asked for rates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.baselines.kernel import MeanPrior, smooth_hidden
from ndt_cli.baselines.mean import mean_rate
from ndt_cli.baselines.width import choose_kernel
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Smoother:
    """Spike smoothing with a kernel chosen on training trials.

    Parameters
    ----------
    width_ms : float
        Standard deviation of the Gaussian kernel, in ms.
    prior_spikes : float
        Spikes that a neuron's mean rate is worth; see `MeanPrior`.
    mean_rates_N : (neurons,) float array
        Mean rate of each neuron in the training trials, in spikes per bin.
    bin_ms : float
        Bin width of the training trials, in ms.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=5)

    >>> smoother = Smoother.fit(recording.train)
    >>> smoother.rates(recording.valid).shape  # spikes per bin
    (2, 50, 29)
    >>> smoother.width_ms > 0
    True
    """

    width_ms: float
    prior_spikes: float
    mean_rates_N: Float64Array
    bin_ms: float

    @classmethod
    def fit(cls, train: SpikeData, candidates_ms: Sequence[float] | None = None) -> Self:
        """Choose width and prior by `choose_kernel` and keep the mean rates.

        Raises
        ------
        DataError
            A set without trials, or without the counts of its held-out neurons.
        """
        return cls(*choose_kernel(train, candidates_ms), mean_rate(train), train.bin_ms)

    def rates(self, data: SpikeData) -> Float64Array:
        """Return smoothed rates in spikes per bin, (trials, bins, neurons); 0 in padding.

        Held-out neurons and forward bins are not looked at, as the model never sees them
        either: a held-out neuron is given its mean rate.

        Raises
        ------
        DataError
            Trials with another bin width or number of neurons than those it was fitted to.
        """
        return self.rates_hidden(data, np.zeros(data.inside_BT.shape, dtype=bool))

    def rates_hidden(self, data: SpikeData, hidden: BoolArray) -> Float64Array:
        """Return rates as `rates` does, from the counts that are not hidden.

        Parameters
        ----------
        data : SpikeData
            Trials.
        hidden : (trials, bins) or (trials, bins, neurons) bool array
            Counts that must not be looked at.

        Raises
        ------
        DataError
            Trials with another bin width or number of neurons than those it was fitted to.
        """
        if data.bin_ms != self.bin_ms or data.n_neurons != len(self.mean_rates_N):
            raise DataError(
                f"Smoothing was fitted to {len(self.mean_rates_N)} neurons in bins of "
                f"{self.bin_ms:g} ms; found {data.n_neurons} in bins of {data.bin_ms:g} ms.",
                hint="Fit it to training trials of the same recording.",
            )
        hidden = hidden.copy()
        hidden[:, data.n_bins - data.n_forward :] = True
        if data.n_heldout:
            hidden = hidden[:, :, None] if hidden.ndim == 2 else hidden
            heldout_N = np.arange(data.n_neurons) >= data.n_neurons - data.n_heldout
            hidden = hidden | heldout_N
        prior = MeanPrior(self.mean_rates_N, self.prior_spikes)
        return smooth_hidden(
            data.spikes_BTN, data.inside_BT, hidden, self.width_ms, self.bin_ms, prior
        )
