"""The scores by which members of a sweep are compared.

During training a member validates under its own mask settings. With a smaller mask ratio its
masked loss is lower without its model being better. So the best checkpoint of each member is
measured again, with the bins hidden that the settings of the sweep hide.
"""

from pathlib import Path

import numpy as np

from ndt_cli.baselines import HeldoutRegression, Smoother, constant_rates, mean_rate
from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.metrics import bits_per_spike, rate_scores
from ndt_cli.settings.tree import Settings

Scores = dict[str, float]


def run_scores(run: Path, data: SpikeData, settings: Settings) -> Scores:
    """Measure the best checkpoint of a run or ensemble on validation trials.

    The settings say which bins are hidden, and are the same for all that are compared.
    """
    trained = load_trained(run, device=settings.train.device)
    folds_BTN = hiding_folds(data, settings)
    return scores_of_rates(data, trained.rates(data), trained.rates_while_hidden(data, folds_BTN))


def mean_rate_scores(recording: Recording) -> Scores:
    """Measure what every model must beat: each neuron's mean rate in the training trials."""
    rates_BTN = constant_rates(mean_rate(recording.train), recording.valid)
    return scores_of_rates(recording.valid, rates_BTN, rates_BTN)


def smoothing_scores(recording: Recording, settings: Settings) -> Scores:
    """Measure smoothed spikes, with the kernel chosen on the training trials.

    Held-out neurons are predicted from the smoothed held-in ones.

    Raises
    ------
    DataError
        If the counts of held-out neurons are not known.
    """
    train, data = recording.train, recording.valid
    smoother, folds_BTN = Smoother.fit(train), hiding_folds(data, settings)
    seen_BTN, hidden_BTN = smoother.rates(data), np.zeros(data.spikes_BTN.shape)
    for fold in range(int(folds_BTN.max()) + 1):
        in_fold_BTN = np.broadcast_to(folds_BTN == fold, hidden_BTN.shape)
        np.copyto(hidden_BTN, smoother.rates_hidden(data, in_fold_BTN), where=in_fold_BTN)
    if data.n_heldout:
        predicted_BTN = HeldoutRegression.fit(train, smoother).rates(data)
        for rates_BTN in (seen_BTN, hidden_BTN):
            rates_BTN[:, :, data.n_neurons - data.n_heldout :] = predicted_BTN
    return scores_of_rates(data, seen_BTN, hidden_BTN)


def scores_of_rates(data: SpikeData, seen_BTN: FloatArray, hidden_BTN: FloatArray) -> Scores:
    """Measure rates in every way that the trials allow.

    Parameters
    ----------
    data : SpikeData
        Trials.
    seen_BTN, hidden_BTN : (trials, bins, neurons) float array
        Rates in spikes per bin, inferred from all counts, and each while its own count is
        hidden.

    Returns
    -------
    dict of str to float
        ``"masked-loss"``: rate - y log rate, mean over all entries with a known count.
        ``"unmasked-loss"``: the same with nothing hidden, of the entries that the model sees.
        ``"rate-r2"``, where true rates are known: R2, mean over neurons. ``"co-bps"``, where
        held-out neurons have counts: their bits per spike in the window.
    """
    window = slice(0, data.n_bins - data.n_forward)
    heldout = slice(data.n_neurons - data.n_heldout, None)
    visible_BTN = np.broadcast_to(data.inside_BT[:, :, None], data.spikes_BTN.shape).copy()
    known_BTN = visible_BTN.copy()
    visible_BTN[:, :, heldout] = False
    visible_BTN[:, window.stop :] = False
    if not data.hidden_counts_known:
        known_BTN = visible_BTN
    names = ["masked-loss", "unmasked-loss"]
    names += ["rate-r2"] if data.rates_BTN is not None else []
    names += ["co-bps"] if data.n_heldout and data.hidden_counts_known else []
    if not (np.isfinite(seen_BTN).all() and np.isfinite(hidden_BTN).all()):
        return dict.fromkeys(names, np.nan)
    scores = {
        "masked-loss": bits_per_spike(hidden_BTN, data.spikes_BTN, known_BTN).poisson_loss,
        "unmasked-loss": bits_per_spike(seen_BTN, data.spikes_BTN, visible_BTN).poisson_loss,
    }
    if data.rates_BTN is not None:
        scores["rate-r2"] = rate_scores(seen_BTN, data.rates_BTN, data.inside_BT).r2_mean
    if "co-bps" in names:
        scores["co-bps"] = bits_per_spike(
            seen_BTN[:, window, heldout],
            data.spikes_BTN[:, window, heldout],
            data.inside_BT[:, window],
        ).bits_per_spike
    return scores
