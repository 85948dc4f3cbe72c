"""Scores of one estimate of the rates: the model's, or a reference's.

Two ways to score rates against spikes are kept apart, because a model, and a smoother, could
copy the count that they are asked to predict:

- *hidden*: each entry is predicted in a pass in which its own count is hidden. This is a fair
  prediction, and the one to compare.
- *seen*: from all counts. These are the rates that a user takes away: inferred with nothing
  hidden, or the mean of several passes (``inference.passes``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ndt_cli.baselines import HeldoutRegression, Smoother, constant_rates
from ndt_cli.data.spike_data import (
    ByTrial,
    FloatArray,
    IntArray,
    SpikeData,
    TrialValues,
    trial_blocks,
)
from ndt_cli.metrics import (
    DecodingScores,
    PsthScores,
    RateScores,
    RateScoreSums,
    SpikeScores,
    SpikeScoreSums,
    decode_behavior,
    psth_scores,
)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Rates of some trials, in spikes per bin: arrays, or made when they are asked for.

    Parameters
    ----------
    seen_BTN : (trials, bins, neurons) float array or ByTrial
        From all counts.
    hidden_BTN : (trials, bins, neurons) float array or ByTrial
        Each count hidden once; of held-in neurons in the window.
    train_BTN : (trials, bins, neurons) float array or ByTrial or None
        Rates of the training trials, nothing hidden, where behavior is to be decoded by a fit
        to those.
    """

    seen_BTN: TrialValues
    hidden_BTN: TrialValues
    train_BTN: TrialValues | None = None


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one estimate of the rates.

    Attributes
    ----------
    rates : RateScores or None
        Against true rates, nothing hidden; None where they are not known.
    hidden, seen : SpikeScores
        Against the counts of held-in neurons in the window; see the module's text.
    heldout, forward : SpikeScores or None
        Against the counts of held-out neurons in the window (co-smoothing), and of all neurons
        in the forward bins; None where there are none, or their counts are not known.
    behavior : DecodingScores or None
        Behavior decoded from the rates of all neurons, nothing hidden; None where no behavior
        is known.
    psth : PsthScores or None
        Condition-averaged rates, nothing hidden, against PSTHs; None without conditions of
        enough trials.
    """

    rates: RateScores | None
    hidden: SpikeScores
    seen: SpikeScores
    heldout: SpikeScores | None
    forward: SpikeScores | None
    behavior: DecodingScores | None = None
    psth: PsthScores | None = None


def score_estimate(
    estimate: Estimate,
    data: SpikeData,
    train: SpikeData | None = None,
    lags_ms: Sequence[float] | None = None,
) -> Scores:
    """Score an estimate in every way that the trials allow, a block of trials at a time.

    Parameters
    ----------
    estimate : Estimate
        Rates of the trials.
    data : SpikeData
        The trials.
    train : SpikeData, optional
        Training trials of the same recording, none of them scored: decoders are fitted to them,
        and PSTHs are theirs. Without them, both are from parts of the scored trials.
    lags_ms : sequence of float, optional
        Lags to decode behavior with; see `decode_behavior`.

    Raises
    ------
    SettingsError
        A given lag that is as long as the trials.
    """
    known = data.hidden_counts_known
    heldin = slice(0, data.n_neurons - data.n_heldout)
    heldout = slice(data.n_neurons - data.n_heldout, data.n_neurons)
    window = slice(0, data.n_bins - data.n_forward)
    scored = {"hidden": (window, heldin), "seen": (window, heldin)}
    if data.n_heldout and known:
        scored["heldout"] = window, heldout
    if data.n_forward and known:
        scored["forward"] = slice(window.stop, data.n_bins), slice(0, data.n_neurons)
    sums = {
        name: SpikeScoreSums(neurons.stop - neurons.start) for name, (_, neurons) in scored.items()
    }
    rate_sums = RateScoreSums(data.n_neurons)
    for trials in trial_blocks(data.n_trials, data.n_bins * data.n_neurons):
        seen_BTN, hidden_BTN = estimate.seen_BTN[trials], estimate.hidden_BTN[trials]
        inside_BT = data.inside_BT[trials]
        for name, (bins, neurons) in scored.items():
            rates_BTN = hidden_BTN if name == "hidden" else seen_BTN
            counts_BTN = data.spikes_BTN[trials, bins, neurons]
            sums[name].add(rates_BTN[:, bins, neurons], counts_BTN, inside_BT[:, bins])
        if data.rates_BTN is not None:
            rate_sums.add(seen_BTN, data.rates_BTN[trials], inside_BT)
    return Scores(
        rates=None if data.rates_BTN is None else rate_sums.result(),
        hidden=sums["hidden"].result(),
        seen=sums["seen"].result(),
        heldout=sums["heldout"].result() if "heldout" in sums else None,
        forward=sums["forward"].result() if "forward" in sums else None,
        behavior=None
        if data.behavior_BTV is None
        else decode_behavior(
            estimate.seen_BTN,
            data,
            train_rates_BTN=estimate.train_BTN,
            train=train,
            lags_ms=lags_ms,
        ),
        psth=psth_scores(estimate.seen_BTN, data, train),
    )


# ------------------------------------------------------------------------------------------------
# What a run is scored beside: smoothed spikes, each neuron's mean rate, and the true rates.
# ------------------------------------------------------------------------------------------------


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
