"""Training and validation trials put back together."""

from typing import Any

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
    places_B = np.arange(train.n_trials + valid.n_trials)
    if train.trial_ids_B is not None and valid.trial_ids_B is not None:
        ids_B = np.concatenate([train.trial_ids_B, valid.trial_ids_B])
        places_B = np.argsort(np.argsort(ids_B, kind="stable"))

    def both(name: str) -> Any:
        parts = [getattr(train, name), getattr(valid, name)]
        if any(part is None for part in parts):
            return None
        # Each trial straight to its place: counts may fill much of the memory.
        joined = np.empty((len(places_B), *parts[0].shape[1:]), np.result_type(*parts))
        joined[places_B[: train.n_trials]], joined[places_B[train.n_trials :]] = parts
        return joined

    return SpikeData(
        spikes_BTN=both("spikes_BTN"),
        bin_ms=train.bin_ms,
        lengths_B=both("lengths_B"),
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
