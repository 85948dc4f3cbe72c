"""Scores of one estimate of the rates: the model's, or a reference's.

Two ways to score rates against spikes are kept apart, because a model, and a smoother, could
copy the count that they are asked to predict:

- *hidden*: each entry is predicted in a pass in which its own count is hidden. This is a fair
  prediction, and the one to compare.
- *seen*: nothing is hidden. These are the rates that a user takes away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.metrics import (
    DecodingScores,
    PsthScores,
    RateScores,
    SpikeScores,
    bits_per_spike,
    decode_behaviour,
    psth_scores,
    rate_scores,
)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Rates of some trials, in spikes per bin.

    Parameters
    ----------
    seen_BTN : (trials, bins, neurons) float array
        Nothing hidden.
    hidden_BTN : (trials, bins, neurons) float array
        Each count hidden once; of held-in neurons in the window.
    train_BTN : (trials, bins, neurons) float array or None
        Rates of the training trials, nothing hidden, where behaviour is to be decoded by a fit
        to those.
    """

    seen_BTN: FloatArray
    hidden_BTN: FloatArray
    train_BTN: FloatArray | None = None


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
    behaviour : DecodingScores or None
        Behaviour decoded from the rates of all neurons, nothing hidden; None where no behaviour
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
    behaviour: DecodingScores | None = None
    psth: PsthScores | None = None


def score_estimate(
    estimate: Estimate,
    data: SpikeData,
    train: SpikeData | None = None,
    lags_ms: Sequence[float] | None = None,
) -> Scores:
    """Score an estimate in every way that the trials allow.

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
        Lags to decode behaviour with; see `decode_behaviour`.

    Raises
    ------
    SettingsError
        A given lag that is as long as the trials.
    """
    inside_BT = data.inside_BT
    window = slice(0, data.n_bins - data.n_forward)
    heldin = slice(0, data.n_neurons - data.n_heldout)
    heldout = slice(data.n_neurons - data.n_heldout, None)
    forward = slice(data.n_bins - data.n_forward, None)
    seen_BTN = estimate.seen_BTN

    def against_spikes(rates_BTN: FloatArray, bins: slice, neurons: slice) -> SpikeScores:
        counts_BTN = data.spikes_BTN[:, bins, neurons]
        return bits_per_spike(rates_BTN[:, bins, neurons], counts_BTN, inside_BT[:, bins])

    known = data.hidden_counts_known
    everyone = slice(None)
    return Scores(
        rates=None if data.rates_BTN is None else rate_scores(seen_BTN, data.rates_BTN, inside_BT),
        hidden=against_spikes(estimate.hidden_BTN, window, heldin),
        seen=against_spikes(seen_BTN, window, heldin),
        heldout=against_spikes(seen_BTN, window, heldout) if data.n_heldout and known else None,
        forward=against_spikes(seen_BTN, forward, everyone) if data.n_forward and known else None,
        behaviour=None
        if data.behaviour_BTV is None
        else decode_behaviour(
            seen_BTN, data, train_rates_BTN=estimate.train_BTN, train=train, lags_ms=lags_ms
        ),
        psth=psth_scores(seen_BTN, data, train),
    )
