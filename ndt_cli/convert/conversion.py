"""From a recording in any of the field's files to trials that can be trained on.

Axes in names: B trials, T bins, N neurons, V behavioral variables, K any channel.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.behavior import read_behavior, variable_names
from ndt_cli.convert.clock import in_bins, ms_to_us
from ndt_cli.convert.contents import (
    Contents,
    Listing,
    ListsItem,
    guess,
    guess_spikes,
    listed,
    make_listing,
)
from ndt_cli.convert.counts import (
    as_counts,
    check_trials_first,
    chosen_bin_us,
    continuous_counts,
    own_lengths,
    read_axes,
    read_lengths,
    read_matrices,
    source_bin_us,
    unit_names,
)
from ndt_cli.convert.job import ConvertJob, Dropped
from ndt_cli.convert.options import ConvertOptions
from ndt_cli.convert.reading import open_file
from ndt_cli.convert.spikes import read_spike_times
from ndt_cli.convert.tables import Table, plain_label, read_conditions, short_name
from ndt_cli.convert.trials import Cut, chosen_rows, cut_recording, draw_valid, valid_rows
from ndt_cli.data.rebin import rebin
from ndt_cli.data.spike_data import (
    MAX_COUNT,
    FloatArray,
    IntArray,
    Recording,
    SpikeData,
    check_recording,
    compact_counts,
)
from ndt_cli.errors import DataError, SettingsError, called

_MANY_PADDED = 0.3


@dataclass(frozen=True)
class SplitCount:
    """Trials of a split.

    Attributes
    ----------
    n_trials : int
    mean_rate_hz : float
        Over the bins inside the trials, and all neurons.
    """

    n_trials: int
    mean_rate_hz: float


@dataclass(frozen=True)
class ConvertReport:
    """What was made of a file, and how.

    Attributes
    ----------
    source, format : str
        The file, and ``"npz"``, ``"HDF5"``, ``"NWB"``, ``"MATLAB"`` or ``"CSV"``.
    train, valid : SplitCount
    n_bins, shortest_bins : int
        Bins of the longest and of the shortest trial.
    bin_ms : float
    n_neurons : int
    neurons : tuple of str
        Their names in the file.
    n_spikes : int
        Spikes in the trials; one that is in two trials counts twice.
    conditions : dict of str to int
        Trials of each condition, by name, in the order of their numbers.
    behavior : tuple of str
        Behavioral variables.
    taken : dict of str to str
        Which name in the file was used as what.
    dropped : tuple of Dropped
        What was left out, and why.
    notes : tuple of str
        Assumptions.
    """

    source: str
    format: str
    train: SplitCount
    valid: SplitCount
    n_bins: int
    shortest_bins: int
    bin_ms: float
    n_neurons: int
    neurons: tuple[str, ...]
    n_spikes: int
    conditions: dict[str, int]
    behavior: tuple[str, ...]
    taken: dict[str, str]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Converted:
    """What `convert` returns.

    Attributes
    ----------
    recording : Recording
        Training and validation trials.
    report : ConvertReport
        What was used, left out and assumed.
    """

    recording: Recording
    report: ConvertReport


def convert(file: Path | str, options: ConvertOptions | None = None) -> Converted:
    """Read a recording and cut it into trials of binned counts.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB or CSV file.
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
        cut = _cut(job)
    cut = _drop_silent_units(job, cut)
    if options.overlap_ms:
        job.notes.append("Spikes where windows overlap are counted in each of them.")
    data = replace(
        cut.data,
        neuron_names=tuple(plain_label(name) for name in cut.unit_ids.tolist()),
        conditions_B=None if cut.conditions is None else cut.conditions.numbers_B,
        condition_names={} if cut.conditions is None else cut.conditions.names,
    )
    is_valid_B = cut.is_valid_B
    if is_valid_B is None:
        is_valid_B = draw_valid(
            data.n_trials,
            options.split or ("random" if cut.conditions is None else "condition"),
            valid_fraction=options.valid_fraction,
            seed=options.seed,
            conditions_B=data.conditions_B,
            source=str(contents.path),
        )
    train, valid = (data.take(np.flatnonzero(half)) for half in (~is_valid_B, is_valid_B))
    recording = Recording(train, valid, str(contents.path), "ndt")
    check_recording(recording)
    return Converted(recording, _report(job, recording, data, cut))


def list_contents(file: Path | str) -> Listing:
    """List the arrays, tables and time series of a file.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB or CSV file.

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


def _cut(job: ConvertJob) -> Cut:
    """Cut the trials from spike times, from continuous counts, or from trials of counts."""
    contents, options = job.contents, job.options
    times_name, counts_name = options.spike_times, options.counts
    if times_name is None and counts_name is None:
        times_name, counts_name = guess_spikes(contents)
    if counts_name is not None:
        found, item = contents.find(counts_name, "counts")
        if isinstance(item, ListsItem):
            values = read_matrices(contents, found, options.axes)
        else:
            values = read_axes(contents, found, options.axes)
            if options.axes is None and values.ndim == 3:
                check_trials_first(job, found, values)
        job.taken["counts"] = found
        if values.ndim == 3:
            return _cut_counted_trials(job, found, values)
        counts = continuous_counts(job, found, values)
        table = job.find_trials()
        behavior = read_behavior(job, counts.centers_us_T)
        kept = counts.take(job.kept_units(counts.unit_ids))
        bin_us = chosen_bin_us(job, counts.source_bin_us)
        return cut_recording(job, kept, table, behavior, bin_us)
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
        hint="Name them: `spike_times=NAME` (and `spike_units=NAME`), or `counts=NAME`. "
        f"See what is in the file: {contents.called_list}",
    )


def _drop_silent_units(job: ConvertJob, cut: Cut) -> Cut:
    """Leave out neurons whose rate over all trials is below ``min_rate_hz``."""
    min_rate_hz, data = job.options.min_rate_hz, cut.data
    if min_rate_hz <= 0:
        return cut
    seconds = float(np.sum(data.lengths_B)) * data.bin_ms / 1000
    rates_hz_N = data.spikes_BTN.sum(axis=(0, 1), dtype=np.int64) / seconds
    kept_N = rates_hz_N >= min_rate_hz
    why = f"fire less than {min_rate_hz:g} spikes per second"
    job.drop("units", int((~kept_N).sum()), len(kept_N), why)
    if not kept_N.any():
        raise DataError(
            f"`min_rate_hz={min_rate_hz:g}`: found no such unit; the highest rate is "
            f"{rates_hz_N.max():.3g} Hz",
            hint="Lower the limit, or check `time_unit`: the rates may be off by a factor.",
        )
    data = replace(data, spikes_BTN=data.spikes_BTN[..., kept_N])
    return replace(cut, data=data, unit_ids=cut.unit_ids[kept_N])


def _report(job: ConvertJob, recording: Recording, data: SpikeData, cut: Cut) -> ConvertReport:
    """Describe what was cut and how it was split."""
    notes = list(job.notes)
    padded = 1 - float(data.inside_BT.mean())
    if padded > _MANY_PADDED:
        notes.append(
            f"{100 * padded:.0f} % of all bins pad shorter trials. They are never scored, but cost "
            "time: `where='duration_ms < 3000'` leaves out long trials, `chop_ms` chops them."
        )
    return ConvertReport(
        source=recording.source,
        format=job.contents.layout,
        train=_count(recording.train),
        valid=_count(recording.valid),
        n_bins=data.n_bins,
        shortest_bins=int(np.min(data.lengths_B)),
        bin_ms=data.bin_ms,
        n_neurons=data.n_neurons,
        neurons=data.neuron_names,
        n_spikes=int(data.spikes_BTN.sum(dtype=np.int64)),
        conditions={} if cut.conditions is None else cut.conditions.sizes(),
        behavior=data.behavior_names,
        taken=job.taken,
        dropped=tuple(job.dropped),
        notes=tuple(notes),
    )


def _count(data: SpikeData) -> SplitCount:
    n_entries = int(np.sum(data.lengths_B)) * data.n_neurons
    n_spikes = int(data.spikes_BTN.sum(dtype=np.int64))
    return SplitCount(data.n_trials, n_spikes / n_entries * 1000 / data.bin_ms)


# ------------------------------------------------------------------------------------------------
# Trials of counts: a window of each, in wider bins.
# ------------------------------------------------------------------------------------------------


def _cut_counted_trials(job: ConvertJob, name: str, values_BTN: NDArray[Any]) -> Cut:
    """Cut trials of counts, as they are stored, to a window and to wider bins."""
    contents, options = job.contents, job.options
    if options.chop_ms is not None:
        raise SettingsError(
            f"`chop_ms`: {name!r} has trials already, {values_BTN.shape}; expected a continuous "
            "recording, bins x neurons"
        )
    n_trials, _, n_neurons = values_BTN.shape
    source_us = source_bin_us(job, name)
    bin_us = chosen_bin_us(job, source_us)
    table = job.trials_beside(n_trials, "counts", name)
    kept_B = chosen_rows(job, table)
    lengths_B = own_lengths(values_BTN)
    stated_B = read_lengths(job, n_trials, source_us)
    if stated_B is not None:
        lengths_B = np.minimum(lengths_B, stated_B)
    firsts_B: IntArray = np.zeros(n_trials, dtype=np.int64)
    event = ""
    if options.window_ms is not None:
        firsts_B, n_source, event = _window(job, table, kept_B, source_us, bin_us)
        holds_B = (firsts_B >= 0) & (firsts_B + n_source <= lengths_B)
        job.keep("trials", holds_B, kept_B, "do not hold the whole window")
        lengths_B = np.full(n_trials, n_source)
    job.keep("trials", lengths_B >= bin_us // source_us, kept_B, "are shorter than one bin")
    if not kept_B.any():
        raise job.nothing_left("trial")

    rows = np.flatnonzero(kept_B)
    firsts_B, lengths_B = firsts_B[rows], lengths_B[rows]
    unit_ids = unit_names(contents, n_neurons)
    units = job.kept_units(unit_ids)
    stored_BTN = values_BTN[rows][..., units]
    window_BTN = _shifted(stored_BTN, firsts_B, lengths_B, blank=0)
    behavior_BTV, names = _behavior(job, values_BTN.shape[:2])
    if behavior_BTV is not None:
        behavior_BTV = _shifted(behavior_BTV[rows], firsts_B, lengths_B, blank=np.nan)
    data = SpikeData(
        spikes_BTN=compact_counts(as_counts(contents, name, window_BTN)),
        bin_ms=source_us / 1000,
        lengths_B=lengths_B,
        behavior_BTV=behavior_BTV,
        behavior_names=names,
        trial_ids_B=table.ids(rows),
        places_B=rows,
        trial_table=table.at(rows),
        event=short_name(event),
        start_ms=options.window_ms[0] if options.window_ms else 0.0,
    )
    data = rebin(data, bin_us / 1000)
    is_count = (stored_BTN >= 0) & (stored_BTN <= MAX_COUNT)  # padding may be anything
    n_all = int(stored_BTN.sum(dtype=np.float64, where=is_count))
    n_kept = int(data.spikes_BTN.sum(dtype=np.int64))
    job.drop("spikes", n_all - n_kept, n_all, "are outside the trials' bins")
    conditions = read_conditions(table, options.condition, rows)
    is_valid_B = valid_rows(job, table)
    return Cut(data, unit_ids[units], conditions, None if is_valid_B is None else is_valid_B[rows])


def _window(
    job: ConvertJob, table: Table, kept_B: NDArray[np.bool_], source_us: int, bin_us: int
) -> tuple[IntArray, int, str]:
    """Return the first bin of each trial's window, the length of all, and the event.

    Both are in bins of the file.
    """
    before_ms, after_ms = job.options.window_ms or (0, 0)
    align = job.options.align
    event, events_us_B = "the first bin", np.zeros(table.n_rows, dtype=np.int64)
    if align is not None:
        event = align
        events_us_B, known_B = table.times_us(align, "align")
        job.keep("trials", known_B, kept_B, f"have no {align}")
    job.taken["window"] = f"{before_ms:g} to {after_ms:g} ms around {event}"
    n_source = in_bins(after_ms - before_ms, bin_us, "window_ms") * (bin_us // source_us)
    firsts_us_B = events_us_B + ms_to_us(before_ms, "window_ms")
    return (firsts_us_B + source_us // 2) // source_us, n_source, event


def _shifted(
    values_BTK: NDArray[Any], firsts_B: IntArray, lengths_B: IntArray, blank: float
) -> NDArray[Any]:
    """Return each trial from its first bin on, ``blank`` past its end."""
    shape = (len(values_BTK), int(lengths_B.max()), *values_BTK.shape[2:])
    shifted_BTK = np.full(shape, blank, dtype=values_BTK.dtype)
    for trial, (first, n_bins) in enumerate(zip(firsts_B, lengths_B, strict=True)):
        shifted_BTK[trial, :n_bins] = values_BTK[trial, first : first + n_bins]
    return shifted_BTK


def _padded(values_BTV: FloatArray, n_bins: int) -> FloatArray:
    """Return behavior with NaN up to this many bins, where its longest trial has fewer."""
    missing = max(n_bins - values_BTV.shape[1], 0)
    return np.pad(values_BTV, ((0, 0), (0, missing), (0, 0)), constant_values=np.nan)


def _behavior(job: ConvertJob, shape: tuple[int, ...]) -> tuple[FloatArray | None, tuple[str, ...]]:
    """Read behavior in the bins of the counts, with a name for each variable."""
    contents = job.contents
    parts: list[FloatArray] = []
    names: list[str] = []
    for name in job.options.behavior:
        _, item = contents.find(name, "behavior")
        if isinstance(item, ListsItem):
            part_BTV = read_matrices(contents, name, job.options.axes, "behavior")
            part_BTV = _padded(part_BTV.astype(np.float64), shape[1])
        else:
            axes = job.options.axes or "trials,bins,neurons"
            if len(item.shape) == 2:  # a single variable
                axes = ",".join(word for word in axes.split(",") if word.strip() != "neurons")
            part_BTV = read_axes(contents, name, axes, "behavior").astype(np.float64)
        if part_BTV.ndim != 3 or part_BTV.shape[:2] != shape:
            expected = f"{shape[0]} trials x {shape[1]} bins x variables, as the counts"
            raise contents.wrong("behavior", name, f"shape {part_BTV.shape}", expected)
        parts.append(part_BTV)
        names.extend(variable_names(name, part_BTV.shape[2]))
    if not parts:
        return None, ()
    job.taken["behavior"] = ", ".join(job.options.behavior)
    return np.concatenate(parts, axis=2), tuple(names)
