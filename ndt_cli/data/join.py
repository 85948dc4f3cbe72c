"""Training and validation trials put back together."""

import numpy as np

from ndt_cli.data.spike_data import Recording, SpikeData


def all_trials(recording: Recording) -> SpikeData:
    """Return the trials of both splits, in the order of the file where that is known.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=5)
    >>> all_trials(recording).trial_ids_B
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    train, valid = recording.train, recording.valid

    def both(name: str) -> "np.ndarray | None":
        parts = [getattr(train, name), getattr(valid, name)]
        if any(part is None for part in parts):
            return None
        return np.concatenate(parts)

    joined = SpikeData(
        spikes_BTN=np.concatenate([train.spikes_BTN, valid.spikes_BTN]),
        bin_ms=train.bin_ms,
        lengths_B=np.concatenate([train.lengths_B, valid.lengths_B]),
        rates_BTN=both("rates_BTN"),
        conditions_B=both("conditions_B"),
        latents_BTK=both("latents_BTK"),
        behaviour_BTV=both("behaviour_BTV"),
        behaviour_names=train.behaviour_names,
        trial_ids_B=both("trial_ids_B"),
        start_bins_B=both("start_bins_B"),
        neuron_ids_N=train.neuron_ids_N,
        neuron_names=train.neuron_names,
        n_heldout=train.n_heldout,
        n_forward=train.n_forward,
        hidden_counts_known=train.hidden_counts_known and valid.hidden_counts_known,
    )
    if joined.trial_ids_B is None:
        return joined
    return joined.take(np.argsort(joined.trial_ids_B, kind="stable"))
