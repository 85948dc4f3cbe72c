"""Cutting a recording into trials: windows around an event, whole trials, or windows all along it.

Axes in names: B trials, T bins, N units, R rows of the table of trials.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.behavior import Behavior
from ndt_cli.convert.clock import (
    TicksArray,
    common_intervals,
    contained,
    in_bins,
    merge_intervals,
    ms_to_us,
)
from ndt_cli.convert.contents import guess, listed
from ndt_cli.convert.options import ConvertOptions, SplitBy
from ndt_cli.convert.spikes import ALWAYS_US, DAY_US, HAIRLINE_US, SpikeTimes
from ndt_cli.convert.tables import ConvertJob, Table, plain_label, read_conditions, short_name
from ndt_cli.data.bins import chop_windows
from ndt_cli.data.spike_data import IntArray, SpikeData, split_trials
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.memory import check_memory

# While they are counted: a count, and where its bin starts, in microseconds and in bins.
_COUNT_BYTES, _EDGE_BYTES = 4, 16

# A lower rate in so large an array is a wrong unit of time, or one damaged time.
_LOWEST_RATE_HZ, _MANY_ENTRIES = 0.001, 10_000_000

# No neuron, nor several on one electrode, fires faster on average.
_HIGHEST_RATE_HZ, _MANY_SPIKES = 1000.0, 100

# Spikes that span this many times as long as the trials, most of them outside, are in another unit.
_LONGER, _MOST_FAR = 50, 0.95

# A trial without a spike where so many are expected is on another clock than its spikes.
_ENOUGH = 5

# Without a spike of any unit for this many mean intervals, nothing was recorded.
_SILENT = 20

# Of trials in fewer different windows, the times are not those of the recording.
_FEWEST_DIFFERENT = 0.5

_FOREVER_S = 1e9
_MAX_BLOCKS = 5


def cut_recording(
    job: ConvertJob, spikes: SpikeTimes, table: Table | None, behavior: list[Behavior], bin_us: int
) -> SpikeData:
    """Cut a recording into trials, or chop it into windows, in the order of the recording.

    ``is_valid_B`` is None if validation trials are still to be drawn.
    """
    source, options = str(job.contents.path), job.options
    if table is None:
        for option in ("where", "valid_where", "condition"):
            if getattr(options, option):
                raise SettingsError(
                    f"{source}: `{option}`: found no trials; expected a table with that column",
                    hint="Give one: `trials=NAME`.",
                )
    else:
        _add_duration(job, table)
    if options.chop_ms is not None:
        starts_us_B, n_bins_B, known = _plan_windows(job, spikes, table, bin_us)
    elif table is not None:
        starts_us_B, n_bins_B, known = _plan_trials(job, spikes, table, bin_us)
    else:
        raise SettingsError(
            f"{source}: found no trials; expected a table of them, or a length of windows to chop",
            hint="Give a table, `trials=NAME`, or columns: `start=NAME` and `stop=NAME` (of one "
            "array, `start='NAME:0'` and `stop='NAME:1'`), or `align=NAME` and "
            "`window_ms=(-250, 450)`; or chop the recording: `chop_ms=1000` and `overlap_ms=200`.",
        )
    stops_us_B = starts_us_B + n_bins_B * bin_us
    n_outside = spikes.n_spikes - spikes.n_inside(starts_us_B, stops_us_B)
    job.drop("spikes", n_outside, spikes.n_spikes, "are outside the trials' bins")
    parts = [series.cut(starts_us_B, n_bins_B, bin_us) for series in behavior]
    for series, cut_BTV in zip(behavior, parts, strict=True):
        series.check_known(cut_BTV, starts_us_B, stops_us_B, bin_us, source, job.notes)
    on_clock = table is None or table.zero_us_R is None
    return SpikeData(
        spikes_BTN=spikes.count(starts_us_B, n_bins_B, bin_us),
        bin_ms=bin_us / 1000,
        lengths_B=n_bins_B,
        behavior_BTV=np.concatenate(parts, axis=2) if parts else None,
        behavior_names=tuple(name for series in behavior for name in series.names),
        neuron_names=tuple(plain_label(unit) for unit in spikes.unit_ids.tolist()),
        start_times_s_B=starts_us_B / 1e6 if on_clock else None,
        **known,
    )


def _plan_trials(
    job: ConvertJob, spikes: SpikeTimes, table: Table, bin_us: int
) -> tuple[TicksArray, IntArray, dict[str, Any]]:
    """Return start and bins of each trial or its window, and what else `SpikeData` holds of it."""
    kept_R = job.kept_rows(table)
    start_ms, event = 0.0, table.zero
    if job.options.window_ms is None:
        event = _named(job, table, "start") or event
        starts_us_R, stops_us_R = _whole_trials(job, table, kept_R).T
        n_bins_R = (stops_us_R - starts_us_R) // bin_us  # without a partial last bin
        job.keep("trials", n_bins_R >= 1, kept_R, "are shorter than one bin")
    else:
        before_ms, after_ms = job.options.window_ms
        start_ms = float(before_ms)
        event_us_R, known_R, event = _events(job, table)
        job.taken["window"] = f"{before_ms:g} to {after_ms:g} ms around {event}"
        job.keep("trials", known_R, kept_R, f"have no {event}")
        _check_events(job, table, event, event_us_R, kept_R)
        starts_us_R = event_us_R + ms_to_us(before_ms, "window_ms")
        n_bins_R = np.full(table.n_rows, in_bins(after_ms - before_ms, bin_us, "window_ms"))
    starts_us_R = spikes.snapped(starts_us_R)
    stops_us_R = starts_us_R + n_bins_R * bin_us
    if table.span is not None:
        (first_us_R, _), (last_us_R, _) = (table.times_us(name, "trials") for name in table.span)
        # The end of a trial is its last sample.
        holds_R = (starts_us_R >= first_us_R) & (stops_us_R <= last_us_R + HAIRLINE_US)
        job.keep("trials", holds_R, kept_R, "do not hold the whole window")
    observed_us = spikes.observed_by_all_us
    if observed_us is not None:  # a unit that was not recorded would look silent
        observed_R = contained(starts_us_R, stops_us_R, observed_us)
        why = "lie, in part, where not all units were recorded"
        why += _rarest(spikes, starts_us_R[kept_R], stops_us_R[kept_R])
        if spikes.bins_us is not None:
            first_s, last_s = (us / 1e6 for us in spikes.span_us)
            why = f"lie, in part, outside of the counts, {first_s:g} to {last_s:g} s"
        job.keep("trials", observed_R, kept_R, why)
    is_valid_R = np.ones(table.n_rows, dtype=bool)
    for start_us, stop_us in _invalid_us(job):
        is_valid_R &= (stops_us_R <= start_us) | (starts_us_R >= stop_us)
    job.keep("trials", is_valid_R, kept_R, "lie, in part, in 'invalid_times'")
    _leave_out_repeats(job, starts_us_R, stops_us_R, kept_R)
    rows = np.flatnonzero(kept_R)
    if len(rows) == 0:
        raise job.nothing_left("trial")
    rows = rows[np.argsort(starts_us_R[rows], kind="stable")]
    starts_us_B, n_bins_B = starts_us_R[rows], n_bins_R[rows]
    if table.zero_us_R is not None:
        _check_trial_clocks(job, spikes, starts_us_B, stops_us_R[rows], table.zero_us_R[rows])
    _check_clocks(job, spikes, starts_us_B, stops_us_R[rows])
    latest_us_B = np.maximum.accumulate(stops_us_R[rows])
    n_overlap = int((starts_us_B[1:] < latest_us_B[:-1]).sum())
    if n_overlap:
        job.notes.append(
            f"{n_overlap} trials begin before an earlier one ends: spikes there count in both, "
            "and may be in training and validation. `split='blocks'` parts them in time."
        )
    _check_size(job, spikes, len(rows) * int(n_bins_B.max()), bin_us)
    conditions_B, condition_names = read_conditions(table, job.options.condition, rows, job.notes)
    known = {
        "trial_ids_B": table.ids(rows),
        "places_B": rows,
        "conditions_B": conditions_B,
        "condition_names": condition_names,
        "is_valid_B": job.valid_rows(table, rows),
        "trial_table": table.at(rows),
        "event": short_name(event),
        "start_ms": start_ms,
    }
    return starts_us_B, n_bins_B, known


def _check_events(
    job: ConvertJob, table: Table, event: str, event_us_R: TicksArray, kept_R: NDArray[np.bool_]
) -> None:
    """Refuse events that count from the start of each trial; note those outside of their trial."""
    names = [_named(job, table, what) for what in ("start", "stop")]
    if table.zero_us_R is not None or names[0] is None or event in names:
        return
    always = np.full(table.n_rows, ALWAYS_US), np.ones(table.n_rows, dtype=bool)
    (starts_us_R, has_start_R), (stops_us_R, has_stop_R) = (
        always if name is None else table.times_us(name, "align") for name in names
    )
    rows = np.flatnonzero(kept_R & has_start_R & has_stop_R)
    starts_us, stops_us, events_us = starts_us_R[rows], stops_us_R[rows], event_us_R[rows]
    n_outside = int(((events_us < starts_us) | (events_us > stops_us)).sum())
    longest_us = stops_us - starts_us
    if names[1] is None and len(rows) > 1:  # as long as from one start to the next
        longest_us = np.full(len(rows), np.median(np.diff(np.sort(starts_us))))
    n_relative = int(((events_us >= 0) & (events_us <= longest_us)).sum())
    found = f"{n_outside} of {len(rows)} trials have their {event} before {names[0]}"
    found += f" or after {names[1]}" if names[1] else ""
    if n_outside > len(rows) / 2 and n_relative > _MOST_FAR * len(rows):
        raise table.contents.wrong(
            "align",
            event,
            f"times that count from the start of each trial: {found}",
            "times on the clock of the recording",
            f"Add {names[0]} to them, and save the table again.",
        )
    if n_outside:
        job.notes.append(f"{found}; `where` can leave them out.")


def _rarest(spikes: SpikeTimes, starts_us: TicksArray, stops_us: TicksArray) -> str:
    """Return the unit that was recorded in the fewest of these trials, for a message."""
    if not spikes.observed_us:
        return ""
    n_held = [contained(starts_us, stops_us, merge_intervals(o)).sum() for o in spikes.observed_us]
    fewest = int(np.argmin(n_held))
    if n_held[fewest] == len(starts_us):
        return ""
    return (
        f" ('obs_intervals': unit {spikes.unit_ids[fewest]} in {n_held[fewest]} of them; "
        "`ignore_intervals=True` keeps all)"
    )


def _invalid_us(job: ConvertJob) -> TicksArray:
    """Return the intervals that an NWB file marks as invalid, (intervals, 2)."""
    names = [f"intervals/invalid_times/{part}_time" for part in ("start", "stop")]
    if job.options.ignore_intervals or not all(name in job.contents.items for name in names):
        return np.zeros((0, 2), dtype=np.int64)
    times = np.stack([job.contents.numbers(name, None) for name in names], axis=1)
    times = times[~np.isnan(times).any(axis=1)]
    return job.options.clock.to_us(np.clip(times, -_FOREVER_S, _FOREVER_S))


def _leave_out_repeats(
    job: ConvertJob, starts_us_R: TicksArray, stops_us_R: TicksArray, kept_R: NDArray[np.bool_]
) -> None:
    """Leave out trials with the very window of another: they would train and validate."""
    rows = np.flatnonzero(kept_R)
    windows_us = np.stack([starts_us_R[rows], stops_us_R[rows]], axis=1)
    _, firsts = np.unique(windows_us, axis=0, return_index=True)
    if len(rows) > 1 and len(firsts) < _FEWEST_DIFFERENT * len(rows):
        raise DataError(
            f"{job.contents.path}: found {len(rows)} trials in {len(firsts)} different windows, "
            f"such as {windows_us[0, 0] / 1e6:g} to {windows_us[0, 1] / 1e6:g} s; expected times "
            "on the clock of the recording",
            "If they count from the start of each trial, so must the spikes: give the trial of "
            "each one, `spike_trials=NAME`; of lists, `axes='trials'`.",
        )
    is_first_R = np.zeros(len(kept_R), dtype=bool)
    is_first_R[rows[firsts]] = True
    job.keep("trials", is_first_R, kept_R, "have the window of another trial")


def _check_clocks(
    job: ConvertJob, spikes: SpikeTimes, starts_us_B: TicksArray, stops_us_B: TicksArray
) -> None:
    """Refuse spikes and trials that are on different clocks, or rates that no neuron has."""
    first_us, last_us = spikes.span_us
    is_odd = spikes.n_spikes >= _MANY_SPIKES or not spikes.n_inside(starts_us_B, stops_us_B)
    if spikes.bins_us is not None or spikes.n_spikes == 0 or not is_odd:
        return
    begin_us, end_us = int(starts_us_B.min()), int(stops_us_B.max())
    n_outside = int(((stops_us_B <= first_us) | (starts_us_B >= last_us)).sum())
    n_units = len(spikes.unit_ids)
    rate_hz = spikes.n_spikes / n_units / max((last_us - first_us) / 1e6, 1e-6)
    hull_us = np.array([begin_us]), np.array([end_us])
    n_far = spikes.n_spikes - spikes.n_inside(*hull_us)
    is_far = last_us - first_us > _LONGER * (end_us - begin_us)
    spans = (
        f"spikes from {first_us / 1e6:g} to {last_us / 1e6:g} s and trials from {begin_us / 1e6:g} "
        f"to {end_us / 1e6:g} s"
    )
    if n_outside > len(starts_us_B) / 2:
        found = f"{spans}: {n_outside} of {len(starts_us_B)} trials are where there is no spike"
    elif is_far and n_far > _MOST_FAR * spikes.n_spikes:
        found = f"{spans}: {n_far} of {spikes.n_spikes} spikes are outside of all of them"
    elif rate_hz > _HIGHEST_RATE_HZ:
        found = f"{spikes.n_spikes} spikes of {n_units} units from {first_us / 1e6:g} to "
        found += f"{last_us / 1e6:g} s: {rate_hz:.3g} spikes per second and unit"
    else:
        if n_outside:
            job.notes.append(f"{n_outside} trials are before the first spike or after the last.")
        silent_us = _SILENT * (last_us - first_us) / spikes.n_spikes
        early_B, late_B = first_us - starts_us_B > silent_us, stops_us_B - last_us > silent_us
        n_beyond = int((early_B | late_B).sum()) - n_outside
        if n_beyond > 0:
            job.notes.append(
                f"{n_beyond} trials begin before the first spike, {first_us / 1e6:g} s, or end "
                f"after the last, {last_us / 1e6:g} s: what was not recorded there counts as 0."
            )
        return
    raise DataError(
        f"{job.contents.path}: found {found}; expected both on one clock",
        "Are the times in another unit? See `time_unit`, `sample_rate_hz` and `trials_time_unit`. "
        + job.contents.look,
    )


def _check_trial_clocks(
    job: ConvertJob, spikes: SpikeTimes, starts_us: TicksArray, stops_us: TicksArray, zero_us: Any
) -> None:
    """Refuse trials cut where they have no spikes, if both should count from ``zero_us``."""
    times_us = np.sort(np.concatenate(spikes.times_us))
    n_tested, empty = 0, []
    for start, stop, zero in zip(starts_us, stops_us, zero_us, strict=True):
        first, last = np.searchsorted(times_us, [zero - DAY_US // 2, zero + DAY_US // 2])
        own_us = times_us[first:last]
        if len(own_us) > 1 and len(own_us) * (stop - start) >= _ENOUGH * np.ptp(own_us):
            n_tested += 1
            if not ((own_us >= start) & (own_us < stop)).any():
                empty.append((np.array([start, stop, own_us[0], own_us[-1]]) - zero) / 1e6)
    if len(empty) > n_tested / 2:
        raise DataError(
            f"{job.contents.path}: found {len(empty)} of {n_tested} trials without a spike where "
            "they are cut, such as {:g} to {:g} s, with spikes from {:g} to {:g} s; expected both "
            "from the start of each trial".format(*empty[0]),
            "If the spikes have times of the recording, so must the trials: `start=COLUMN` and "
            "`stop=COLUMN`, or `align=COLUMN`. Else these columns count from its start, too.",
        )


def _add_duration(job: ConvertJob, table: Table) -> None:
    """Add a column ``duration_ms``, by which a trial can be left out that would pad all others."""
    start, stop = _named(job, table, "start"), _named(job, table, "stop")
    if start is None or stop is None or "duration_ms" in table.columns:
        return
    starts, has_start = table.times_us(start, "start")
    stops, has_stop = table.times_us(stop, "stop")
    table.added["duration_ms"] = np.where(has_start & has_stop, (stops - starts) / 1000, np.nan)


def _whole_trials(job: ConvertJob, table: Table, kept_R: NDArray[np.bool_]) -> TicksArray:
    """Return start and stop of every row, (rows, 2); rows without them leave ``kept_R``."""
    columns = []
    for what in ("start", "stop"):
        name = _named(job, table, what)
        if name is None and what == "start" and table.zero_us_R is not None:
            columns.append(table.zero_us_R)
            continue
        if name is None:
            raise SettingsError(
                f"{table.contents.path}: found no column for the {what} of a trial; there are "
                f"{listed(table.columns)}",
                hint=f"Give its name, `{what}=COLUMN`, or cut a window around an event: "
                "`align=COLUMN` and `window_ms=(-250, 450)`.",
            )
        times_us_R, known_R = table.times_us(name, what)
        table.clock.note_coarse(table.column(name, what), name, job.notes)
        job.taken[f"{what} of a trial"] = name
        job.keep("trials", known_R, kept_R, f"have no {name}")
        columns.append(times_us_R)
    starts_us_R, stops_us_R = columns
    job.keep("trials", stops_us_R > starts_us_R, kept_R, "end before they begin")
    return np.stack(columns, axis=1)


def _events(job: ConvertJob, table: Table) -> tuple[TicksArray, NDArray[np.bool_], str]:
    """Return the time that the window of each trial is around, if known, and what it is."""
    align, is_from_zero = job.options.align, table.zero_us_R is not None
    name = align or (job.options.start if is_from_zero else _named(job, table, "start"))
    if name is not None:
        option = "align" if align else "start"
        times_us_R, known_R = table.times_us(name, option)
        table.clock.note_coarse(table.column(name, option), name, job.notes)
        return times_us_R, known_R, name
    if table.zero_us_R is not None:
        return table.zero_us_R, np.ones(table.n_rows, dtype=bool), table.zero
    raise SettingsError(
        f"{table.contents.path}: `window_ms`: found no event that it is around; there are columns "
        f"{listed(table.columns)}",
        hint="Name one: `align=COLUMN`.",
    )


def _named(job: ConvertJob, table: Table, what: str) -> str | None:
    """Return the column for the start or stop of trials: the chosen one, or a usual one."""
    chosen: str | None = getattr(job.options, what)
    if table.span is not None:
        return chosen or table.span[what == "stop"]
    if table.zero_us_R is not None:
        return chosen  # a usual name would be on the recording's clock, which these are not
    return chosen or guess(table.contents, what, table.columns)


def _check_size(job: ConvertJob, spikes: SpikeTimes, n_bins: int, bin_us: int) -> None:
    """Refuse more bins than memory holds, or than the spikes can fill, before counting."""
    contents, n_units = job.contents, len(spikes.unit_ids)
    n_entries, seconds = n_bins * n_units, n_bins * bin_us / 1e6
    if n_entries > _MANY_ENTRIES and spikes.n_spikes < _LOWEST_RATE_HZ * seconds * n_units:
        raise DataError(
            f"{contents.path}: found {spikes.n_spikes} spikes of {n_units} units in {seconds:.3g} "
            f"seconds of trials, with padding; expected {_LOWEST_RATE_HZ:g} spikes per second or "
            "more",
            hint="Are the times in another unit (`time_unit`), or is one of them far off? "
            + contents.look,
        )
    check_memory(
        n_bins * (_COUNT_BYTES * n_units + _EDGE_BYTES),
        f"{contents.path}: {n_bins} bins of {bin_us / 1000:g} ms, {n_units} units, with padding,",
        f"Are the times in another unit (`time_unit`)? Or cut less. {contents.look}",
    )


# Windows that never straddle training and validation ----------------------------------------------
#
# Windows overlap, so a window drawn for validation would share bins with its training neighbors.
# The draw is therefore made first, over cells of one window's length; runs of cells of one split
# are chopped each on its own.
#
# Windows start on a grid of bins from time 0 of the recording's clock. So the start bin of each
# says when it was, and `ndt_cli.data.bins.merge` can put them back.


def _plan_windows(
    job: ConvertJob, spikes: SpikeTimes, table: Table | None, bin_us: int
) -> tuple[TicksArray, IntArray, dict[str, Any]]:
    """Plan windows all along the recording, or along each trial; returns as `_plan_trials`."""
    options = job.options
    window_bins = in_bins(options.chop_ms or 0, bin_us, "chop_ms")
    overlap_bins = in_bins(options.overlap_ms, bin_us, "overlap_ms")
    stretches_us, rows = _stretches(job, spikes, table, bin_us)
    stretches_us[:, 0] = spikes.snapped(stretches_us[:, 0])
    if len(stretches_us) == 0 or (stretches_us[:, 1] - stretches_us[:, 0]).max() < 2 * bin_us:
        raise job.nothing_left("bin")
    numbers, condition_names = (
        (None, {}) if table is None else read_conditions(table, options.condition, rows, job.notes)
    )
    is_valid = job.valid_rows(table, rows)

    def draw(stretch_of_cell: IntArray) -> NDArray[np.bool_]:
        if is_valid is not None:
            return is_valid[stretch_of_cell]
        by, source = options.split or "blocks", str(job.contents.path)
        conditions_B = None if numbers is None else numbers[stretch_of_cell]
        return draw_valid(
            len(stretch_of_cell), by, options, conditions_B=conditions_B, source=source
        )

    _check_clocks(job, spikes, *stretches_us.T)
    n_bins = int((stretches_us[:, 1] - stretches_us[:, 0]).sum()) // bin_us
    _check_size(job, spikes, n_bins, bin_us)
    pieces = plan_pieces(stretches_us, bin_us, window_bins, overlap_bins, draw)
    n_windows = len(pieces.n_bins_B)
    job.taken["windows"] = (
        f"{n_windows} of {window_bins} bins, overlapping by {overlap_bins}, in "
        f"{len(stretches_us)} {'stretch' if len(stretches_us) == 1 else 'stretches'}"
    )
    known = {
        "trial_ids_B": np.arange(n_windows),
        "places_B": np.arange(n_windows),
        "conditions_B": None if numbers is None else numbers[pieces.stretch_B],
        "condition_names": condition_names,
        "is_valid_B": pieces.is_valid_B,
        "start_bins_B": pieces.start_bins_B,
        "trial_table": {} if table is None else table.at(rows[pieces.stretch_B]),
    }
    return pieces.start_bins_B.astype(np.int64) * bin_us, pieces.n_bins_B, known


def _stretches(
    job: ConvertJob, spikes: SpikeTimes, table: Table | None, bin_us: int
) -> tuple[TicksArray, IntArray]:
    """Return the stretches to chop, disjoint and in order, and the row of the table of each."""
    observed_us, invalid_us = spikes.observed_by_all_us, merge_intervals(_invalid_us(job))
    if len(invalid_us):
        edges_us = np.array([-ALWAYS_US, *invalid_us.reshape(-1), ALWAYS_US])
        valid_us = edges_us.reshape(-1, 2)
        sets = [valid_us] if observed_us is None else [valid_us, observed_us]
        observed_us = common_intervals(sets)
    if table is None:
        start_us, stop_us = spikes.span_us
        if observed_us is None:  # then the bins of the first and the last spike count whole
            whole_us = [start_us // bin_us * bin_us, -(-stop_us // bin_us) * bin_us]
            stretches_us = np.array([whole_us], dtype=np.int64)
        else:
            stretches_us = np.clip(observed_us, start_us, stop_us)
            stretches_us = stretches_us[stretches_us[:, 0] < stretches_us[:, 1]]
        return stretches_us, np.zeros(len(stretches_us), dtype=np.int64)
    kept_R = job.kept_rows(table)
    spans_us_R2 = _whole_trials(job, table, kept_R)
    if observed_us is not None:
        observed_R = contained(spans_us_R2[:, 0], spans_us_R2[:, 1], observed_us)
        job.keep("trials", observed_R, kept_R, "lie outside what was recorded")
    rows = np.flatnonzero(kept_R)
    rows = rows[np.argsort(spans_us_R2[rows, 0], kind="stable")]
    stretches_us = spans_us_R2[rows]
    if (stretches_us[1:, 0] < stretches_us[:-1, 1]).any():
        raise DataError(
            f"{table.contents.path}: found trials that overlap in time; expected separate ones to "
            "chop",
            hint="Choose some with `where`, or chop the whole recording: `trials='none'`.",
        )
    return stretches_us, rows


class Pieces(NamedTuple):
    """Windows of the stretches: one row per window."""

    start_bins_B: IntArray  # counted from time 0 of the clock
    n_bins_B: IntArray
    stretch_B: IntArray  # that each window is from
    is_valid_B: NDArray[np.bool_]


def plan_pieces(
    stretches_us: TicksArray,
    bin_us: int,
    window_bins: int,
    overlap_bins: int,
    draw: Callable[[IntArray], NDArray[np.bool_]],
) -> Pieces:
    """Plan the windows of disjoint stretches of a recording, (stretches, 2).

    Partial bins at either end of a stretch are left out. ``draw`` is called with the stretch of
    each cell, in order, and returns which cells validate.
    """
    grid = np.stack([-(-stretches_us[:, 0] // bin_us), stretches_us[:, 1] // bin_us], axis=1)
    cells = [
        (stretch, begin, min(begin + window_bins, stop))
        for stretch, (start, stop) in enumerate(grid.tolist())
        for begin in range(start, stop, window_bins)
    ]
    is_valid = draw(np.array([stretch for stretch, _, _ in cells], dtype=np.int64))
    runs: list[list[int]] = []
    for (stretch, begin, end), valid in zip(cells, is_valid.tolist(), strict=True):
        if runs and runs[-1][0] == stretch and runs[-1][3] == valid:
            runs[-1][2] = end
        else:
            runs.append([stretch, begin, end, int(valid)])
    planned = [chop_windows(end - begin, window_bins, overlap_bins) for _, begin, end, _ in runs]
    n_windows = [len(starts) for starts, _ in planned]
    return Pieces(
        np.concatenate([run[1] + starts for run, (starts, _) in zip(runs, planned, strict=True)]),
        np.concatenate([lengths for _, lengths in planned]),
        np.repeat([run[0] for run in runs], n_windows),
        np.repeat([bool(run[3]) for run in runs], n_windows),
    )


# The draw of validation trials --------------------------------------------------------------------


def draw_valid(
    n_trials: int,
    by: SplitBy,
    options: ConvertOptions,
    *,
    conditions_B: IntArray | None = None,
    source: str = "the data",
) -> NDArray[np.bool_]:
    """Draw validation trials: at random, within each condition, or in blocks; return which."""
    fraction, seed = options.valid_fraction, options.seed
    if by == "blocks":
        return draw_blocks(n_trials, valid_fraction=fraction, seed=seed, source=source)
    within_B = conditions_B if by == "condition" else None
    _, valid = split_trials(
        n_trials, valid_fraction=fraction, seed=seed, conditions_B=within_B, source=source
    )
    is_valid_B = np.zeros(n_trials, dtype=bool)
    is_valid_B[valid] = True
    return is_valid_B


def draw_blocks(
    n_trials: int, *, valid_fraction: float, seed: int, source: str = "the data"
) -> NDArray[np.bool_]:
    """Draw contiguous blocks of validation trials, spread over the recording.

    The recording is divided into up to five sections of nearly equal length, and one block at a
    random place of each validates. Neighboring trials share slow drifts, so blocks say more
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
            hint="Shorter windows (`chop_ms`) give more of them.",
        )
    n_valid = min(max(round(valid_fraction * n_trials), 1), n_trials - 1)
    n_train = n_trials - n_valid
    n_blocks = min(_MAX_BLOCKS, n_valid, n_train)
    rng = np.random.default_rng(seed)
    is_valid_B, begin = np.zeros(n_trials, dtype=bool), 0
    for i in range(n_blocks):
        block, rest = (n * (i + 1) // n_blocks - n * i // n_blocks for n in (n_valid, n_train))
        at = begin + int(rng.integers(0, rest + 1))
        is_valid_B[at : at + block] = True
        begin += block + rest
    return is_valid_B
