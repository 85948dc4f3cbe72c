"""What a run is scored beside: smoothed spikes, each neuron's mean rate, and the true rates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.baselines import HeldoutRegression, Smoother, constant_rates
from ndt_cli.data.by_trial import ByTrial
from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.scores import Estimate


@dataclass(frozen=True, eq=False)
class References:
    """References fitted to the training trials of a run.

    Parameters
    ----------
    smoother : Smoother
        Smooths held-in spikes, and knows the mean rates.
    regression : HeldoutRegression or None
        Foretells held-out neurons from those; None where there are none.
    """

    smoother: Smoother
    regression: HeldoutRegression | None

    @classmethod
    def fit(cls, train: SpikeData) -> Self:
        """Fit to training trials.

        Raises
        ------
        DataError
            A set without trials, or without the counts of its held-out neurons.
        """
        smoother = Smoother.fit(train)
        return cls(smoother, HeldoutRegression.fit(train, smoother) if train.n_heldout else None)

    def smoothed(self, data: SpikeData) -> FloatArray:
        """Return smoothed spikes, held-out neurons foretold from them; (B, T, N) per bin."""
        smoothed_BTN = self.smoother.rates(data)
        if self.regression is not None:
            smoothed_BTN[:, :, data.n_neurons - data.n_heldout :] = self.regression.rates(data)
        return smoothed_BTN

    def estimates(
        self,
        data: SpikeData,
        folds_of: Callable[[IntArray], NDArray[np.integer]],
        train: SpikeData | None,
    ) -> dict[str, Estimate]:
        """Return the references' rates, the true rates last where they are known.

        Parameters
        ----------
        data : SpikeData
            Trials to score.
        folds_of : callable
            Gives, for the trials at some positions, the number of the pass in which an entry is
            hidden: an int array that broadcasts to their counts.
        train : SpikeData or None
            Trials that decoders are fitted to; None where there is nothing to decode.
        """
        mean_N = self.smoother.mean_rates_N
        mean_BTN = constant_rates(mean_N, data)

        def smoothed(given: SpikeData) -> ByTrial:
            return ByTrial(
                given.spikes_BTN.shape, float, lambda trials: self.smoothed(given.take(trials))
            )

        estimates = {
            "smoothed spikes": Estimate(
                smoothed(data),
                ByTrial(
                    data.spikes_BTN.shape,
                    float,
                    lambda trials: self._smoothed_while_hidden(data.take(trials), folds_of(trials)),
                    keep=False,
                ),
                None if train is None else smoothed(train),
            ),
            "mean rate": Estimate(
                mean_BTN, mean_BTN, None if train is None else constant_rates(mean_N, train)
            ),
        }
        if data.rates_BTN is not None:
            true_train_BTN = None if train is None else train.rates_BTN
            estimates["true rates"] = Estimate(data.rates_BTN, data.rates_BTN, true_train_BTN)
        return estimates

    def _smoothed_while_hidden(self, data: SpikeData, folds_BTN: NDArray[np.integer]) -> FloatArray:
        rates_BTN = np.zeros(data.spikes_BTN.shape)
        for fold in range(int(folds_BTN.max()) + 1):
            hidden_BTN = np.broadcast_to(folds_BTN == fold, rates_BTN.shape)
            np.copyto(rates_BTN, self.smoother.rates_hidden(data, hidden_BTN), where=hidden_BTN)
        return rates_BTN
