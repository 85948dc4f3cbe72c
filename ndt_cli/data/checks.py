"""Checks of counts and recordings, wherever they come from."""

import numpy as np

from ndt_cli.data.spike_data import IntArray, Recording
from ndt_cli.errors import DataError

MAX_COUNT = int(np.iinfo(np.uint16).max)
"""Largest spike count of a bin."""


def check_recording(recording: Recording) -> None:
    """Refuse a recording that cannot be trained on.

    Raises
    ------
    DataError
        If a split is empty, there is no spike in the training trials, or the splits differ in
        bins, neurons, bin width or behavioral variables.
    """
    train, valid, source = recording.train, recording.valid, recording.source
    for name, data in (("training", train), ("validation", valid)):
        if data.n_trials == 0:
            raise DataError(f"{source}: found no {name} trials; expected at least one")
    kinds = [(d.n_bins, d.n_neurons, d.bin_ms, d.n_heldout, d.n_forward) for d in (train, valid)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{source}: training and validation trials differ in bins, neurons, bin width in ms, "
            f"held-out neurons or forward bins: found {kinds[0]} and {kinds[1]}; expected the same"
        )
    variables = [
        None if d.behavior_BTV is None else d.behavior_BTV.shape[2] for d in (train, valid)
    ]
    if None not in variables and variables[0] != variables[1]:
        raise DataError(
            f"{source}: training and validation trials differ in behavior: found {variables[0]} "
            f"and {variables[1]} variables; expected the same"
        )
    if train.max_count == 0:
        raise DataError(
            f"{source}: found no spike in {train.n_trials} training trials; expected some",
            hint="Was the right array saved? See `describe_file(FILE)`.",
        )


def compact_counts(counts: IntArray) -> IntArray:
    """Return counts as uint8 if all are below 256, else as uint16; refuse larger ones."""
    largest = int(counts.max(initial=0))
    if largest > MAX_COUNT:
        raise DataError(
            f"found a spike count of {largest} in a bin; expected at most {MAX_COUNT}",
            hint="Use narrower bins or lower rates.",
        )
    return counts.astype(np.uint8 if largest < 256 else np.uint16)
