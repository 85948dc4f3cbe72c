"""From a recording in any of the field's files to trials that can be trained on.

Axes in names: B trials, T bins, N neurons.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.convert.behavior import read_behavior
from ndt_cli.convert.clock import ms_to_us
from ndt_cli.convert.contents import Contents, Listing, guess, guess_spikes, listed, make_listing
from ndt_cli.convert.counts import (
    check_trials_first,
    cut_counted_trials,
    find_trial_rows,
    read_axes,
    read_continuous,
    read_matrices,
)
from ndt_cli.convert.options import ConvertOptions
from ndt_cli.convert.reading import open_file
from ndt_cli.convert.spikes import read_spike_times
from ndt_cli.convert.tables import ConvertJob, Dropped
from ndt_cli.convert.trials import cut_recording, draw_valid
from ndt_cli.data.arrays import odd_width
from ndt_cli.data.spike_data import Recording, SpikeData, check_recording, take_columns
from ndt_cli.errors import DataError, SettingsError, called

_MANY_PADDED = 0.3
_FEWEST_TRIALS = 2
_LOW_RATE_HZ = 0.1  # a tenth of what few populations fire; times in ms make a thousandth


@dataclass(frozen=True)
class SplitCount:
    """Trials of a split, and the mean rate over their bins (padding aside) and all neurons."""

    n_trials: int
    mean_rate_hz: float


@dataclass(frozen=True)
class ConvertReport:
    """What was made of a file, and how."""

    source: str  # the file
    format: str  # "npz", "HDF5", "NWB", "MATLAB", "CSV", "parquet" or "phy"
    train: SplitCount
    valid: SplitCount
    n_bins: int  # of the longest trial
    shortest_bins: int
    bin_ms: float
    n_neurons: int
    neurons: tuple[str, ...]  # their names in the file
    n_spikes: int  # in the trials; one that is in two trials counts twice
    conditions: dict[str, int]  # trials of each, by name, in the order of their numbers
    behavior: tuple[str, ...]  # variables
    taken: dict[str, str]  # which name in the file was used as what
    dropped: tuple[Dropped, ...]  # what was left out, and why
    notes: tuple[str, ...]  # assumptions

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Converted:
    """What `convert` returns: the trials, and what was used, left out and assumed."""

    recording: Recording
    report: ConvertReport


def convert(file: Path | str, options: ConvertOptions | None = None) -> Converted:
    """Read a recording and cut it into trials of binned counts.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB, CSV or parquet file.
    options : ConvertOptions, optional
        What in the file is what, and how it is cut. What is not given is looked for under its
        usual name, and the report says what was found.

    Returns
    -------
    Converted

    Raises
    ------
    DataError
        If the file cannot be read, or no trial or unit is left.
    SettingsError
        If a name is not in the file, or options contradict each other or the file.

    Examples
    --------
    >>> from ndt_cli.convert import ConvertOptions, convert
    >>> options = ConvertOptions(
    ...     bin_ms=20, align="go_cue", window_ms=(-200, 400), condition=("target",)
    ... )
    >>> converted = convert("session.npz", options)
    >>> converted.recording.train.spikes_BTN.shape  # trials, bins, neurons
    (19, 30, 5)
    >>> converted.report.conditions
    {'0': 6, '1': 6, '2': 6, '3': 6}
    """
    options = options or ConvertOptions()
    with open_file(Path(file)) as contents:
        job = ConvertJob(contents, options)
        data = _drop_silent_units(job, _cut(job))
        if data.n_trials < _FEWEST_TRIALS and any(d.what == "trials" for d in job.dropped):
            raise job.nothing_left("trial, of at least 2 to train on and validate,", "one")
    if options.overlap_ms:
        job.notes.append("Spikes where windows overlap are counted in each of them.")
    is_valid_B = data.is_valid_B
    if is_valid_B is None:
        by = options.split or ("random" if data.conditions_B is None else "condition")
        is_valid_B = draw_valid(
            data.n_trials, by, options, conditions_B=data.conditions_B, source=str(contents.path)
        )
    data = replace(data, is_valid_B=None)
    train, valid = (data.take(np.flatnonzero(half)) for half in (~is_valid_B, is_valid_B))
    recording = Recording(train, valid, str(contents.path), "ndt")
    check_recording(recording)
    return Converted(recording, _report(job, recording, data))


def list_contents(file: Path | str) -> Listing:
    """List the arrays, tables and time series of a file.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB, CSV or parquet file.

    Returns
    -------
    Listing

    Raises
    ------
    DataError
        If the file cannot be read.

    Examples
    --------
    >>> for entry in list_contents("session.npz").entries[:3]:
    ...     print(entry.name, entry.shape)
    spike_times (2000,)
    spike_units (2000,)
    start_time (24,)
    """
    with open_file(Path(file)) as contents:
        return make_listing(contents)


def _cut(job: ConvertJob) -> SpikeData:
    """Cut the trials from spike times, from continuous counts, or from trials of counts."""
    contents, options = job.contents, job.options
    times_name, counts_name = options.spike_times, options.counts
    if times_name is None and counts_name is None:
        times_name, counts_name = guess_spikes(contents)
    if counts_name is not None:
        found, item = contents.find(counts_name, "counts")
        if item.kind in ("lists", "matrices"):
            values = read_matrices(contents, found, options.axes)
        else:
            values = read_axes(contents, found, options.axes)
            if options.axes is None and values.ndim == 3:
                check_trials_first(job, found, values)
        job.taken["counts"] = found
        if values.ndim == 3:
            return cut_counted_trials(job, found, values)
        rows_of = find_trial_rows(job, found, len(values))
        if rows_of is not None:
            return cut_counted_trials(job, found, rows_of.folded(values), rows_of)
        spikes, middles_us_T, bin_us = read_continuous(job, found, values)
        table = job.find_trials()
        behavior = read_behavior(job, middles_us_T)
        spikes = spikes.take(job.kept_units(spikes.unit_ids))
        return cut_recording(job, spikes, table, behavior, bin_us)
    if times_name is None:
        raise _no_spikes(contents)
    if options.bin_ms is None:
        raise SettingsError(
            "`bin_ms`: found no bin width; spike times need one", "Give it in ms: `bin_ms=20`."
        )
    spikes, table = read_spike_times(job, times_name)
    if table is not None and table.zero_us_R is not None:
        for option in ("chop_ms", "behavior"):
            if getattr(options, option):
                raise SettingsError(
                    f"{contents.path}: `{option}`: the times of these spikes count from the start "
                    f"of each trial; `{option}` needs times on one clock"
                )
    spikes = spikes.take(job.kept_units(spikes.unit_ids))
    behavior = read_behavior(job)
    return cut_recording(job, spikes, table, behavior, ms_to_us(options.bin_ms, "bin_ms"))


def _no_spikes(contents: Contents) -> DataError:
    """Return the error for a file in which nothing looks like spikes."""
    if {"train_data", "train_spikes_heldin"} & contents.items.keys():
        return DataError(
            f"{contents.path}: found training and validation trials already; expected a recording",
            hint=f"Such a file is read as it is: {called('describe_file', contents.path)}",
        )
    for what in ("spike_times", "counts"):
        name = guess(contents, what)
        if name is not None:
            contents.check_readable(name, what)
    return DataError(
        f"{contents.path}: found no spikes under a usual name; there are {listed(contents.items)}",
        hint="Name them: `spike_times=NAME` (and `spike_units=NAME`), or `counts=NAME`, of a "
        "column per unit `counts='unit*'`. "
        f"See what is in the file: {contents.called_list}",
    )


def _drop_silent_units(job: ConvertJob, data: SpikeData) -> SpikeData:
    """Leave out neurons whose rate over all trials is below ``min_rate_hz``."""
    min_rate_hz = job.options.min_rate_hz
    if min_rate_hz <= 0:
        return data
    rates_hz_N = data.mean_rates_hz_N
    kept_N = rates_hz_N >= min_rate_hz
    why = f"fire less than {min_rate_hz:g} spikes per second"
    job.drop("units", int((~kept_N).sum()), len(kept_N), why)
    if not kept_N.any():
        raise DataError(
            f"`min_rate_hz={min_rate_hz:g}`: found no such unit; the highest rate is "
            f"{rates_hz_N.max():.3g} Hz",
            hint="Lower the limit, or check `time_unit`: the rates may be off by a factor.",
        )
    kept = np.flatnonzero(kept_N)
    return take_columns(data, kept, neuron_names=tuple(data.neuron_names[n] for n in kept))


def _report(job: ConvertJob, recording: Recording, data: SpikeData) -> ConvertReport:
    """Describe what was cut and how it was split."""
    notes = list(job.notes)
    if odd := odd_width(data.bin_ms):
        notes.append(f"The trials have {odd}")
    if data.mean_rate_hz < _LOW_RATE_HZ:
        notes.append(
            f"The mean rate is {data.mean_rate_hz:.2g} spikes per second and unit: are the times "
            "in another unit? See `time_unit`, and for counts `counts_bin_ms`."
        )
    padded = 1 - float(data.inside_BT.mean())
    if padded > _MANY_PADDED:
        notes.append(
            f"{100 * padded:.0f} % of all bins pad shorter trials. They are never scored, but cost "
            "time: `where='duration_ms < 3000'` leaves out long trials, `chop_ms` chops them."
        )
    numbers_B, names = data.conditions_B, data.condition_names
    return ConvertReport(
        source=recording.source,
        format=job.contents.layout,
        train=SplitCount(recording.train.n_trials, recording.train.mean_rate_hz),
        valid=SplitCount(recording.valid.n_trials, recording.valid.mean_rate_hz),
        n_bins=data.n_bins,
        shortest_bins=int(np.min(data.lengths_B)),
        bin_ms=data.bin_ms,
        n_neurons=data.n_neurons,
        neurons=data.neuron_names,
        n_spikes=int(data.spikes_BTN.sum(dtype=np.int64)),
        conditions={name: int(np.sum(numbers_B == n)) for n, name in names.items()},
        behavior=data.behavior_names,
        taken=job.taken,
        dropped=tuple(job.dropped),
        notes=tuple(notes),
    )
