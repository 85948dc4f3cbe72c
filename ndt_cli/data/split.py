"""A seeded split into training and validation trials, for data without one."""

from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError


def split_trials(
    n_trials: int,
    *,
    valid_fraction: float,
    seed: int,
    conditions_B: IntArray | None = None,
    source: str = "the data",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the validation trials, in proportion within each condition.

    The total is ``round(valid_fraction * n_trials)``, at least one trial in each split. Each
    condition gives its proportional share, rounded down; the trials still missing come from the
    conditions with the largest remainders, ties in random order. Every condition keeps at least
    one training trial; if each has only one trial, conditions are ignored.

    Parameters
    ----------
    n_trials : int
        Number of trials.
    valid_fraction : float
        Share of validation trials, between 0 and 1.
    seed : int
        Seed of the draw.
    conditions_B : (trials,) int array, optional
        Condition of each trial.
    source : str
        Name of the data in an error.

    Returns
    -------
    train, valid : (trials,) int arrays
        Indices of the trials, ascending.

    Raises
    ------
    DataError
        If there are fewer than two trials.

    Examples
    --------
    >>> train, valid = split_trials(10, valid_fraction=0.2, seed=0)
    >>> len(train), len(valid)
    (8, 2)
    """
    if n_trials < 2:
        raise DataError(
            f"{source}: found {n_trials} trial; training needs at least 2, one for validation",
            hint="Cut the recording into trials: `spikes` is trials x bins x neurons.",
        )
    rng = np.random.default_rng(seed)
    groups = [np.arange(n_trials)]
    if conditions_B is not None:
        _, sizes = np.unique(conditions_B, return_counts=True)
        by_condition = np.split(np.argsort(conditions_B, kind="stable"), np.cumsum(sizes)[:-1])
        if len(by_condition) < n_trials:
            groups = by_condition
    sizes = np.array([len(group) for group in groups])
    spare = sizes - 1
    wanted = round(valid_fraction * n_trials)
    n_valid = min(max(wanted, 1), int(spare.sum()))

    # Integer arithmetic: a share such as 4.8 trials must not depend on float rounding.
    taken, remainders = np.divmod(n_valid * sizes, n_trials)
    shuffled = rng.permutation(len(groups))
    largest_first = shuffled[np.argsort(-remainders[shuffled], kind="stable")]
    missing = n_valid - int(taken.sum())
    for group in cycle(largest_first):
        if missing == 0:
            break
        if taken[group] < spare[group]:
            taken[group] += 1
            missing -= 1

    is_valid = np.zeros(n_trials, dtype=bool)
    for group, n_taken in zip(groups, taken, strict=True):
        is_valid[rng.choice(group, size=n_taken, replace=False)] = True
    return np.flatnonzero(~is_valid), np.flatnonzero(is_valid)
