"""One yardstick for all members of a sweep.

While it trains, a member validates under its own mask settings. With a smaller mask ratio, or
hidden bins that keep their counts, its masked loss is lower without its model being better: such
losses cannot be compared. So the best checkpoint of each member is measured once more, with the
bins that the sweep's own settings hide. The other measures hide nothing and stay as they were.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ndt_cli.baselines import constant_rates, mean_rate
from ndt_cli.data.spike_data import FloatArray, Recording, SpikeData
from ndt_cli.engine.inference import hiding_folds, load_trained
from ndt_cli.engine.run_folder import BEST
from ndt_cli.metrics import bits_per_spike, rate_scores
from ndt_cli.scores import References
from ndt_cli.settings.tree import Settings

Scores = dict[str, float]


class Measure(NamedTuple):
    """A measure that members can be ranked by.

    ``label`` names it in tables, ``axis`` in pictures, with its unit.
    """

    label: str
    axis: str


MEASURES = {
    "masked-loss": Measure("loss hidden", "loss, hidden bins (nats per entry)"),
    "unmasked-loss": Measure("loss seen", "loss, nothing hidden (nats per entry)"),
    "rate-r2": Measure("R2 mean", "R² of the rate"),
    "co-bps": Measure("co-bps", "co-bps (bits per spike)"),
}


def lower_is_better(choose_by: str) -> bool:
    """Tell which way a measure of ``train.choose_by`` goes."""
    return BEST[f"best-{choose_by}"][1]


def run_scores(run: Path, data: SpikeData, settings: Settings) -> Scores:
    """Measure a run's best checkpoint.

    Parameters
    ----------
    run : Path
        A run folder, or an ensemble.
    data : SpikeData
        Validation trials.
    settings : Settings
        The same for all that are compared: which bins are hidden, and the device.
    """
    trained = load_trained(run, device=settings.train.device)
    folds_BTN = hiding_folds(data, settings)
    return scores_of_rates(data, trained.rates(data), trained.rates_while_hidden(data, folds_BTN))


def mean_rate_scores(recording: Recording) -> Scores:
    """Measure what every model has to beat: each neuron's mean rate in the training trials."""
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
    data = recording.valid
    estimate = References.fit(recording.train).estimates(
        data, lambda trials: hiding_folds(data, settings, trials), None
    )["smoothed spikes"]
    return scores_of_rates(data, estimate.seen_BTN[:], estimate.hidden_BTN[:])


def scores_of_rates(data: SpikeData, seen_BTN: FloatArray, hidden_BTN: FloatArray) -> Scores:
    """Measure rates by all that the data allow; NaN where a rate is not finite.

    Parameters
    ----------
    data : SpikeData
        Trials.
    seen_BTN, hidden_BTN : (trials, bins, neurons) float array
        Rates in spikes per bin, inferred with nothing hidden, and each while its own count is
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
