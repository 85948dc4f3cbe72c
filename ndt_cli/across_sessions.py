"""Behavior decoded from the encoder's activations: what the sessions of an encoder have in common.

A decoder of rates is of one session's neurons. One of activations can be fitted in some sessions
and applied in another, where no behavior need be known.

Axes: B trials, T bins, D width of the encoder, V behavioral variables.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt_cli.data.spike_data import ByTrial, SpikeData, TrialValues
from ndt_cli.engine.measures import best_checkpoint
from ndt_cli.engine.trained_model import Model
from ndt_cli.metrics import DecodingScores, decode_behavior
from ndt_cli.metrics.decoding import (
    Decoder,
    lag_bins,
    load_decoders,
    save_decoders,
    variable_names,
)

OTHERS, OWN = "other sessions", "this session"
"""Whose behavior a decoder was fitted to."""

_ESTIMATE = "activations"


def activations_of(model: Model, data: SpikeData) -> ByTrial:
    """Return the encoder's activations of trials, (trials, bins, D), computed when indexed."""
    return ByTrial(
        (data.n_trials, data.n_bins, model.width),
        np.float32,
        lambda trials: model.activations(data.take(trials)),
    )


def fit_decoder(sessions: Sequence[tuple[TrialValues, SpikeData]]) -> Decoder | None:
    """Fit one decoder of behavior to the trials of some sessions.

    Parameters
    ----------
    sessions : sequence of (activations, SpikeData)
        Activations, (trials, bins, D), and training trials of each.

    Returns
    -------
    Decoder or None
        None if there are no sessions, or not all have the same behavioral variables.
    """
    names = {variable_names(data) for _, data in sessions}
    if len(names) != 1 or not names.pop():
        return None
    if len(sessions) == 1:
        values_BTD, data = sessions[0]
        return Decoder.fit(values_BTD, data, lag_bins(data))
    n_bins = max(data.n_bins for _, data in sessions)
    n_trials = sum(data.n_trials for _, data in sessions)
    # Below one another, as the trials of one session.
    joined_BTD = np.zeros((n_trials, n_bins, sessions[0][0].shape[2]), np.float32)
    n_variables = len(variable_names(sessions[0][1]))
    behavior_BTV = np.full((n_trials, n_bins, n_variables), np.nan, np.float32)
    first = 0
    for values_BTD, data in sessions:
        rows = slice(first, first + data.n_trials)
        joined_BTD[rows, : data.n_bins] = values_BTD[:]
        behavior_BTV[rows, : data.n_bins] = data.behavior_BTV
        first = rows.stop
    joined = SpikeData(
        spikes_BTN=np.zeros((n_trials, n_bins, 1), np.uint8),
        bin_ms=sessions[0][1].bin_ms,
        lengths_B=np.concatenate([data.lengths_B for _, data in sessions]),
        behavior_BTV=behavior_BTV,
    )
    return Decoder.fit(joined_BTD, joined, lag_bins(joined))


def save_decoder(path: Path, decoder: Decoder, data: SpikeData) -> None:
    """Write a decoder of the behavior of these trials; an earlier file is replaced."""
    save_decoders(path, {_ESTIMATE: decoder}, "", variable_names(data))


def decode_across(
    model: Model, data: SpikeData, train: SpikeData | None
) -> dict[str, DecodingScores]:
    """Decode behavior from activations: with the decoder of other sessions, and with an own one.

    Parameters
    ----------
    model : TrainedModel or Ensemble
        Of a run whose encoder was trained in other sessions, too.
    data : SpikeData
        The scored trials.
    train : SpikeData, optional
        Training trials of the same session, to which the own decoder is fitted. Without, it is
        fitted to parts of the scored trials.

    Returns
    -------
    dict of str to DecodingScores
        By `OTHERS` and `OWN`; empty where other sessions have left no decoder, or one of other
        behavioral variables, and for other checkpoints than the best, which the decoders are of.
    """
    path, names = model.run.other_decoder, variable_names(data)
    is_best = all(
        member.checkpoint == best_checkpoint(member.settings.train.choose_by)
        for member in model.members
    )
    if not names or not is_best or not path.is_file():
        return {}
    variables, decoders = load_decoders(path, "", model.width)
    if variables != names or _ESTIMATE not in decoders:
        return {}
    others = decoders[_ESTIMATE]
    values_BTD, own = activations_of(model, data), None
    if train is not None and variable_names(train) == names:
        own = Decoder.fit(activations_of(model, train), train, others.lags_L)
    lags_ms = (others.lags_L * data.bin_ms).tolist()
    return {
        OTHERS: decode_behavior(values_BTD, data, decoder=others),
        OWN: decode_behavior(values_BTD, data, decoder=own, lags_ms=lags_ms),
    }
