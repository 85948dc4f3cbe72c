"""The scored entries of trials, and their values."""

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, IntArray

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]


def scored_entries(
    scored: BoolArray | None, first_BTN: FloatArray, second_BTN: IntArray | FloatArray
) -> BoolArray:
    """Return the mask of scored entries as (trials, bins, neurons), without copying it."""
    shape = first_BTN.shape
    if len(shape) != 3 or second_BTN.shape != shape:
        raise ValueError(
            "expected two arrays of the same (trials, bins, neurons); found "
            f"{shape} and {second_BTN.shape}"
        )
    if scored is None:
        scored = np.ones((1, 1, 1), dtype=bool)
    elif scored.shape == shape[:2]:
        scored = scored[:, :, None]
    elif scored.shape != shape:
        raise ValueError(f"expected a mask of shape {shape[:2]} or {shape}; found {scored.shape}")
    return np.broadcast_to(scored, shape)


def finite_entries(
    values_BTN: IntArray | FloatArray,
    scored_BTN: BoolArray,
    name: str,
    lowest: float = -np.inf,
) -> Float64Array:
    """Return the values as float64, zero where not scored; check that scored ones are finite."""
    kept_BTN = np.where(scored_BTN, values_BTN, 0).astype(np.float64)
    bad_BTN = ~np.isfinite(kept_BTN) | (kept_BTN < lowest)
    if bad_BTN.any():
        where = tuple(int(i) for i in np.argwhere(bad_BTN)[0])
        or_below = "" if lowest == -np.inf else f" or below {lowest:g}"
        raise ValueError(
            f"{name}: {int(bad_BTN.sum())} scored values are not finite{or_below}; the first is "
            f"{kept_BTN[where]} at (trial, bin, neuron) {where}"
        )
    return kept_BTN
