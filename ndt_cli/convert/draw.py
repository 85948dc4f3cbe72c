"""Which trials validate."""

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.choices import SplitBy
from ndt_cli.data.spike_data import IntArray
from ndt_cli.data.split import split_trials
from ndt_cli.errors import DataError

_N_BLOCKS = 5


def draw_valid(
    n_trials: int,
    by: SplitBy,
    *,
    valid_fraction: float,
    seed: int,
    conditions_B: IntArray | None = None,
    source: str = "the data",
) -> NDArray[np.bool_]:
    """Draw the validation trials.

    Parameters
    ----------
    n_trials : int
        Trials, in order of time.
    by : {"random", "condition", "blocks"}
        Anywhere; in proportion within each condition; or in contiguous blocks.
    valid_fraction : float
        Share that validates.
    seed : int
        Seed of the draw.
    conditions_B : (trials,) int array, optional
        Condition of each trial, for ``"condition"``.
    source : str
        What to call the data in an error.

    Returns
    -------
    is_valid_B : (trials,) bool array

    Raises
    ------
    DataError
        If there are fewer than two trials.
    """
    if by == "blocks":
        return draw_blocks(n_trials, valid_fraction=valid_fraction, seed=seed, source=source)
    _, valid = split_trials(
        n_trials,
        valid_fraction=valid_fraction,
        seed=seed,
        conditions_B=conditions_B if by == "condition" else None,
        source=source,
    )
    is_valid_B = np.zeros(n_trials, dtype=bool)
    is_valid_B[valid] = True
    return is_valid_B


def draw_blocks(
    n_trials: int, *, valid_fraction: float, seed: int, source: str = "the data"
) -> NDArray[np.bool_]:
    """Draw contiguous blocks of validation trials, spread over the recording.

    The recording is divided into up to five sections of nearly equal length, and one block at a
    random place of each validates. Neighbouring trials share slow drifts, so blocks say more
    about new data than single trials do.

    Examples
    --------
    >>> int(draw_blocks(10, valid_fraction=0.4, seed=0).sum())
    4
    """
    if n_trials < 2:
        raise DataError(
            f"{source}: found {n_trials} trial or window; expected at least 2, one to train on and "
            "one to validate",
            hint="Shorter windows (--chop-ms) give more of them.",
        )
    n_valid = min(max(round(valid_fraction * n_trials), 1), n_trials - 1)
    n_train = n_trials - n_valid
    n_blocks = min(_N_BLOCKS, n_valid, n_train)
    rng = np.random.default_rng(seed)
    is_valid_B: list[NDArray[np.bool_]] = []
    for i in range(n_blocks):
        block, rest = (n * (i + 1) // n_blocks - n * i // n_blocks for n in (n_valid, n_train))
        section = np.zeros(block + rest, dtype=bool)
        at = int(rng.integers(0, rest + 1))
        section[at : at + block] = True
        is_valid_B.append(section)
    return np.concatenate(is_valid_B)
