"""Trials by condition: which are shown, and averages that padding cannot touch.

Axes: B trials, T bins, N neurons.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, SpikeData
from ndt_cli.errors import DataError


@dataclass(frozen=True, eq=False)
class Group:
    """Trials that are averaged together.

    Attributes
    ----------
    label : str
        Such as ``"condition 3"``.
    trials : (trials,) int array
        Positions of its trials, at least one.
    n_bins : int
        Bins that at least half of its trials have.
    """

    label: str
    trials: NDArray[np.int64]
    n_bins: int


def condition_groups(data: SpikeData, most: int) -> list[Group]:
    """Return the conditions to show: all, or ``most`` that are evenly spaced in their order.

    Parameters
    ----------
    data : SpikeData
        Trials; those without a bin are left out.
    most : int
        Conditions to return at most.

    Raises
    ------
    DataError
        When the trials have no conditions.
    """
    if data.conditions_B is None:
        raise DataError(
            "these trials have no conditions to average over",
            "a file names them in `conditions`, one label a trial",
        )
    usable_B = np.asarray(data.lengths_B) > 0
    labels = np.unique(data.conditions_B[usable_B])
    chosen = labels[evenly_spaced(len(labels), most)]
    return [
        _group(data, f"condition {label}", np.flatnonzero((data.conditions_B == label) & usable_B))
        for label in chosen.tolist()
    ]


def trial_groups(data: SpikeData, most: int) -> list[Group]:
    """Return single trials to show, at most so many, evenly spaced in the order of the set."""
    usable = np.flatnonzero(np.asarray(data.lengths_B) > 0)
    chosen = usable[evenly_spaced(len(usable), most)]
    return [_group(data, f"trial {trial}", np.array([trial])) for trial in chosen.tolist()]


def evenly_spaced(n: int, most: int) -> NDArray[np.int64]:
    """Return all of 0..n-1, or ``most`` of them evenly spaced, both ends included."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


def _group(data: SpikeData, label: str, trials: NDArray[np.int64]) -> Group:
    lengths = np.sort(np.asarray(data.lengths_B)[trials])
    return Group(label, trials, int(lengths[len(lengths) // 2]))


def group_average(data: SpikeData, values_BTN: FloatArray, group: Group) -> NDArray[np.float64]:
    """Return the mean over a group's trials, (bins, neurons), to the group's last bin.

    Each bin is averaged over the trials that have it.
    """
    inside_BT = data.inside_BT[group.trials, : group.n_bins]
    values = np.asarray(values_BTN[group.trials, : group.n_bins], dtype=np.float64)
    total_TN = np.where(inside_BT[:, :, None], values, 0.0).sum(axis=0)
    average_TN: NDArray[np.float64] = total_TN / inside_BT.sum(axis=0)[:, None]
    return average_TN
