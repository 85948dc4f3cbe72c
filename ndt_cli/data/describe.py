"""Describe a spike file: content, problems that prevent training, and what looks unusual.

Axes in names: B trials, T bins, N neurons.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.arrays import read_counts
from ndt_cli.data.files import ArrayFile
from ndt_cli.data.layouts import LFADS_COUNT_KEYS, NLB_COUNT_KEYS
from ndt_cli.data.loading import detect_layout, load_file
from ndt_cli.data.spike_data import (
    MAX_COUNT,
    NEURONS_FIRST,
    Recording,
    SpikeData,
    looks_neurons_first,
    trial_blocks,
)
from ndt_cli.errors import DataError
from ndt_cli.jsonable import jsonable
from ndt_cli.settings.tree import DataSettings


@dataclass(frozen=True)
class ArrayFacts:
    """One array as the file stores it."""

    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SplitSummary:
    """Training or validation trials, in the bins of the training."""

    name: str
    n_trials: int
    n_bins: int
    n_neurons: int
    shortest_bins: int
    mean_rate_hz: float
    max_count: int


@dataclass(frozen=True)
class FileReport:
    """Report of `describe_file`; fields are None if a problem hides them."""

    path: str
    layout: str | None = None  # "lfads", "nlb" or "ndt"
    arrays: tuple[ArrayFacts, ...] = ()
    bin_ms: float | None = None
    duration_ms: float | None = None  # of a full trial
    splits: tuple[SplitSummary, ...] = ()
    # Lowest, median and highest mean rate of a neuron, and neurons without a spike, by their places
    # in the file, in the training trials.
    neuron_rates_hz: tuple[float, float, float] | None = None
    silent_neurons: tuple[int, ...] = ()
    n_conditions: int | None = None
    n_heldout: int = 0
    n_forward: int = 0
    has_rates: bool = False  # in both splits
    has_latents: bool = False
    has_behavior: bool = False
    memory_bytes: int | None = None  # of the loaded trials
    uses: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # prevent training
    warnings: tuple[str, ...] = ()  # look unusual
    notes: tuple[str, ...] = ()  # were assumed

    @property
    def trainable(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**jsonable(self), "trainable": self.trainable}


_LOW_RATE_HZ = 0.1
_HIGH_RATE_HZ = 500.0
_RATE_MISMATCH = 1.25
_COUNT_KEYS = ("spikes", *LFADS_COUNT_KEYS, *NLB_COUNT_KEYS)


def describe_file(path: Path, settings: DataSettings) -> FileReport:
    """Describe a spike file; a damaged one as far as it can be read.

    Parameters
    ----------
    path : Path
        HDF5 or .npz file.
    settings : DataSettings
        Bin width, conversion factor and split to use.

    Returns
    -------
    FileReport
        Problems are in the report, not raised.

    Examples
    --------
    >>> from ndt_cli import load_settings
    >>> report = describe_file(Path("spikes.npz"), load_settings().data)
    >>> report.trainable, report.n_conditions, report.uses
    (True, 2, ('train', 'match to PSTHs'))
    """
    layout: str | None = None
    arrays: tuple[ArrayFacts, ...] = ()
    try:
        with ArrayFile(path) as file:
            arrays = _list_arrays(file)
            layout = detect_layout(file)
        recording = load_file(path, settings)
    except DataError as error:
        problems = [str(error).replace("\n", ". ")]
        problems += [p for p in _count_problems(path, arrays) if p not in problems]
        return FileReport(str(path), layout, arrays, problems=tuple(problems))
    return _describe_recording(path, arrays, recording)


def _list_arrays(file: ArrayFile) -> tuple[ArrayFacts, ...]:
    facts = []
    for key in file.keys:
        try:
            facts.append(ArrayFacts(key, file.shape(key), str(file.dtype(key))))
        except DataError:
            facts.append(ArrayFacts(key, (), "unreadable"))
    return tuple(facts)


def _count_problems(path: Path, arrays: tuple[ArrayFacts, ...]) -> list[str]:
    """Return the problem of each array of counts; loading stops at the first one."""
    problems = []
    for key in [a.key for a in arrays if a.key in _COUNT_KEYS and a.dtype != "unreadable"]:
        try:
            with ArrayFile(path) as file:
                read_counts(file, key)
        except DataError as error:
            problems.append(str(error).replace("\n", ". "))
    return problems


def _describe_recording(
    path: Path, arrays: tuple[ArrayFacts, ...], recording: Recording
) -> FileReport:
    train, valid = recording.train, recording.valid

    def both_have(name: str) -> bool:
        return all(getattr(data, name) is not None for data in (train, valid))

    rates_N = train.mean_rates_hz_N[train.file_order_N]
    conditions = [d.conditions_B for d in (train, valid) if d.conditions_B is not None]
    uses = {
        "train": True,
        "evaluate against true rates": both_have("rates_BTN"),
        "co-smoothing": train.n_heldout > 0 and valid.hidden_counts_known,
        "forward prediction": train.n_forward > 0 and valid.hidden_counts_known,
        "decode behavior": all(
            data.behavior_BTV is not None and np.isfinite(data.behavior_BTV).any()
            for data in (train, valid)
        ),
        "match to PSTHs": _has_psths(train, valid),
    }
    return FileReport(
        path=str(path),
        layout=recording.layout,
        arrays=arrays,
        bin_ms=train.bin_ms,
        duration_ms=train.n_bins * train.bin_ms,
        splits=tuple(
            SplitSummary(
                name=name,
                n_trials=data.n_trials,
                n_bins=data.n_bins,
                n_neurons=data.n_neurons,
                shortest_bins=int(np.min(data.lengths_B)),
                mean_rate_hz=data.mean_rate_hz,
                max_count=data.max_count,
            )
            for name, data in (("train", train), ("valid", valid))
        ),
        neuron_rates_hz=(float(rates_N.min()), float(np.median(rates_N)), float(rates_N.max())),
        silent_neurons=tuple(int(n) for n in np.flatnonzero(rates_N == 0)),
        n_conditions=len(np.unique(np.concatenate(conditions))) if conditions else None,
        n_heldout=train.n_heldout,
        n_forward=train.n_forward,
        has_rates=both_have("rates_BTN"),
        has_latents=both_have("latents_BTK"),
        has_behavior=both_have("behavior_BTV"),
        memory_bytes=sum(
            0 if array is None else array.nbytes
            for data in (train, valid)
            for array in (data.spikes_BTN, data.rates_BTN, data.latents_BTK, data.behavior_BTV)
        ),
        uses=tuple(use for use, is_possible in uses.items() if is_possible),
        warnings=tuple(_warnings(train, valid, rates_N)),
        notes=recording.notes,
    )


def _has_psths(train: SpikeData, valid: SpikeData) -> bool:
    """Return whether a validation trial has a condition with at least two training trials."""
    if train.conditions_B is None or valid.conditions_B is None:
        return False
    conditions, n_trials = np.unique(train.conditions_B, return_counts=True)
    return bool(np.isin(valid.conditions_B, conditions[n_trials >= 2]).any())


def _is_constant_N(data: SpikeData) -> NDArray[np.bool_]:
    """Return which neurons have the same count in every bin, except padding."""
    low_N, high_N = np.full(data.n_neurons, MAX_COUNT), np.zeros(data.n_neurons, dtype=int)
    for trials in trial_blocks(data.n_trials, data.n_bins * data.n_neurons):
        spikes_XN = data.spikes_BTN[trials][data.inside_BT[trials]]
        if len(spikes_XN):
            low_N = np.minimum(low_N, spikes_XN.min(axis=0))
            high_N = np.maximum(high_N, spikes_XN.max(axis=0))
    return np.asarray(low_N == high_N)


def _warnings(train: SpikeData, valid: SpikeData, rates_N: NDArray[np.float64]) -> list[str]:
    warnings = []
    silent = np.flatnonzero(rates_N == 0)
    low = np.flatnonzero((rates_N > 0) & (rates_N < _LOW_RATE_HZ))
    high = np.flatnonzero(rates_N > _HIGH_RATE_HZ)
    constant = np.flatnonzero(_is_constant_N(train)[train.file_order_N] & (rates_N > 0))
    names, unit = train.neuron_names, "unit " if train.neuron_names else ""
    for neurons, what in (
        (silent, "never fire in the training trials"),
        (constant, "have the same count in every bin"),
        (low, f"fire less than {_LOW_RATE_HZ:g} spikes per second"),
        (high, f"fire more than {_HIGH_RATE_HZ:g} spikes per second: is the bin width right?"),
    ):
        if len(neurons):
            listed = ", ".join(f"{unit}{names[n] if names else n}" for n in neurons[:10])
            listed += ", ..." if len(neurons) > 10 else ""
            warnings.append(f"{len(neurons)} of {len(rates_N)} neurons {what}: {listed}")
    rates_hz = (train.mean_rate_hz, valid.mean_rate_hz)
    if max(rates_hz) > _RATE_MISMATCH * min(rates_hz):
        warnings.append(
            f"Mean rates differ: {rates_hz[0]:.3g} Hz in training, {rates_hz[1]:.3g} Hz in "
            "validation trials"
        )
    if looks_neurons_first(train):
        warnings.append(NEURONS_FIRST)
    n_padded = sum(int((~d.inside_BT).sum()) for d in (train, valid))
    if n_padded:
        n_all = sum(d.inside_BT.size for d in (train, valid))
        warnings.append(
            f"{100 * n_padded / n_all:.3g} % of all bins are padding of shorter trials, which the "
            "model ignores"
        )
    for name, data in (("training", train), ("validation", valid)):
        if data.behavior_BTV is None:
            continue
        window = slice(0, data.n_bins - data.n_forward)
        is_missing_XV = np.isnan(data.behavior_BTV[:, window][data.inside_BT[:, window]])
        if is_missing_XV.any():
            share = 100 * is_missing_XV.mean()
            warnings.append(f"{share:.3g} % of the {name} trials' behavior is NaN")
    return warnings
