"""Trials of binned counts on their way to a recording: filtered, labelled and split.

Axes in names: B trials, T bins, N neurons, V behavioural variables.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.choices import Choices
from ndt_cli.convert.conditions import Conditions
from ndt_cli.convert.draw import draw_valid
from ndt_cli.convert.journal import Journal
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.errors import DataError


@dataclass(frozen=True, eq=False)
class Cut:
    """What was cut from a file.

    Parameters
    ----------
    data : SpikeData
        All trials, in the order of the recording.
    unit_ids : (neurons,) array
        What each neuron is called in the file.
    conditions : Conditions or None
        Condition of each trial.
    is_valid_B : (trials,) bool array or None
        Which trials validate, where that is settled already.
    """

    data: SpikeData
    unit_ids: NDArray[Any]
    conditions: Conditions | None = None
    is_valid_B: NDArray[np.bool_] | None = None


def drop_silent_units(cut: Cut, min_rate_hz: float, journal: Journal) -> Cut:
    """Leave out neurons whose rate over all trials is below a limit.

    Raises
    ------
    DataError
        If none is left.
    """
    if min_rate_hz <= 0:
        return cut
    data = cut.data
    seconds = float(np.sum(data.lengths_B)) * data.bin_ms / 1000
    rates_hz_N = data.spikes_BTN.sum(axis=(0, 1), dtype=np.int64) / seconds
    kept_N = rates_hz_N >= min_rate_hz
    n_low = int((~kept_N).sum())
    journal.drop("units", n_low, len(kept_N), f"fire less than {min_rate_hz:g} spikes per second")
    if not kept_N.any():
        raise DataError(
            f"--min-rate-hz {min_rate_hz:g}: found no such unit; the highest rate is "
            f"{rates_hz_N.max():.3g} Hz",
            hint="Lower the limit, or check --time-unit: the rates may be off by a factor.",
        )
    return replace(
        cut,
        data=replace(data, spikes_BTN=data.spikes_BTN[..., kept_N]),
        unit_ids=cut.unit_ids[kept_N],
    )


def to_recording(cut: Cut, choices: Choices, source: str) -> Recording:
    """Split the trials and return the recording.

    Raises
    ------
    DataError
        If there are too few trials.
    """
    numbers_B = None if cut.conditions is None else cut.conditions.numbers_B
    data = replace(cut.data, conditions_B=numbers_B)
    is_valid_B = cut.is_valid_B
    if is_valid_B is None:
        is_valid_B = draw_valid(
            data.n_trials,
            choices.split or ("random" if numbers_B is None else "condition"),
            valid_fraction=choices.valid_fraction,
            seed=choices.seed,
            conditions_B=numbers_B,
            source=source,
        )
    train, valid = np.flatnonzero(~is_valid_B), np.flatnonzero(is_valid_B)
    return Recording(data.take(train), data.take(valid), source, "ndt")
