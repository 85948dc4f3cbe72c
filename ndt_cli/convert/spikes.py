"""Spike times: from the arrays of a file to the times of each unit, and to counts in bins.

Axes in names: B trials, T bins, N neurons.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import (
    FAR_BACK_US,
    FEW_STEPS,
    Clock,
    TicksArray,
    bin_to_us,
    common_intervals,
    inside,
    merge_intervals,
)
from ndt_cli.convert.contents import (
    PLAIN_KINDS,
    Item,
    by_number,
    fieldtrip_trials,
    guess,
    guess_beside,
)
from ndt_cli.convert.tables import TRIAL_IDS, UNIT_IDS, ConvertJob, Table, match_rows
from ndt_cli.data.spike_data import IntArray, compact_counts
from ndt_cli.errors import SettingsError

DAY_US = 24 * 3600 * 10**6
"""Where times count from the start of each trial, trials are put on one long clock, a day apart."""

# This many values that are all whole seconds, or most of which occur twice, are no spike times.
_MANY, _MOST_SAME, _FEW_SAME = 100, 0.5, 0.01

# Sorted by time, spikes on one clock change their trial about once for each; of others, far more.
_MIXED = 1.5

# Observed without an end; and gaps that are of rounding, or of a sample, and not of recording.
ALWAYS_US, HAIRLINE_US = 2**57, 1000

# Columns that are added to the trials of a struct of FieldTrip.
_LIMITS = ("trial_start", "trial_stop")

# Arrays beside the unit of each spike, within whose values units may be numbered.
_CHANNELS = ("channel", "channels", "electrode", "electrodes", "probe", "shank", "tetrode", "array")

# A matrix with more rows than this and fewer columns has a row per spike, not per unit.
_FEWEST_COLUMNS = 5


@dataclass(frozen=True, eq=False)
class SpikeTimes:
    """Spikes of each unit."""

    times_us: tuple[TicksArray, ...]  # of each unit's spikes, ascending
    unit_ids: NDArray[Any]  # name of each unit in the file
    observed_us: tuple[TicksArray, ...] | None = None  # (intervals, 2) of each, if the file says so
    # Start, stop and width of bins that the spikes are in the middle of, where these were counts.
    bins_us: tuple[int, int, int] | None = None

    @property
    def n_spikes(self) -> int:
        return sum(len(times) for times in self.times_us)

    @property
    def span_us(self) -> tuple[int, int]:
        """From the first spike to just after the last one; from the first bin to the last."""
        if self.bins_us is not None:
            return self.bins_us[:2]
        fired = [times for times in self.times_us if len(times)]
        if not fired:
            return 0, 0
        return int(min(t[0] for t in fired)), int(max(t[-1] for t in fired)) + 1

    @property
    def observed_by_all_us(self) -> TicksArray | None:
        """Intervals in which every unit was observed, (intervals, 2); None if not known."""
        if self.bins_us is not None:
            return np.array([self.span_us], dtype=np.int64)
        return None if self.observed_us is None else common_intervals(self.observed_us)

    def take(self, units: IntArray) -> "SpikeTimes":
        """Return some of the units, in this order."""
        times_us, observed = tuple(self.times_us[i] for i in units), self.observed_us
        some = None if observed is None else tuple(observed[i] for i in units)
        return replace(self, times_us=times_us, unit_ids=self.unit_ids[units], observed_us=some)

    def snapped(self, starts_us_B: TicksArray) -> TicksArray:
        """Return the nearest edge of a bin for each time: where in it a spike was is not known."""
        if self.bins_us is None:
            return starts_us_B
        start_us, _, width_us = self.bins_us
        bins = (starts_us_B - start_us + width_us // 2) // width_us
        return np.asarray(start_us + bins * width_us)

    def count(self, starts_us_B: TicksArray, n_bins_B: IntArray, bin_us: int) -> IntArray:
        """Count the spikes in each trial's bins, (trials, bins, neurons); zero past its end.

        A spike at an edge belongs to the bin that starts there.
        """
        n_bins = int(np.max(n_bins_B, initial=0))
        # Edges past a trial's end all lie at its end, so that nothing falls between them.
        edges_BT = np.minimum(np.arange(n_bins + 1), np.asarray(n_bins_B)[:, None])
        edges_us_BT = starts_us_B[:, None] + bin_us * edges_BT
        spikes_BTN = np.zeros((len(starts_us_B), n_bins, len(self.times_us)), dtype=np.uint32)
        for unit, times_us in enumerate(self.times_us):
            spikes_BTN[..., unit] = np.diff(np.searchsorted(times_us, edges_us_BT), axis=1)
        return compact_counts(spikes_BTN)

    def n_inside(self, starts_us_B: TicksArray, stops_us_B: TicksArray) -> int:
        """Spikes inside at least one of the trials, each counted once."""
        together = merge_intervals(np.stack([starts_us_B, stops_us_B], axis=1))
        return sum(int(inside(times, together).sum()) for times in self.times_us)


def bin_spikes(
    spike_times_s: Sequence[NDArray[Any]],
    starts_s: NDArray[Any],
    stops_s: NDArray[Any],
    bin_ms: float,
) -> tuple[IntArray, IntArray]:
    """Count spikes in the bins of trials, exactly.

    Times are rounded to the microsecond; a spike at an edge belongs to the bin that starts there;
    a partial last bin of a trial is left out.

    Parameters
    ----------
    spike_times_s : sequence of (spikes,) float arrays
        Spike times of each neuron in seconds.
    starts_s, stops_s : (trials,) float arrays
        Start and end of each trial in seconds.
    bin_ms : float
        Bin width in milliseconds.

    Returns
    -------
    spikes_BTN : (trials, bins, neurons) unsigned int array
        Counts; zero past the end of a shorter trial.
    lengths_B : (trials,) int array
        Bins of each trial.

    Raises
    ------
    SettingsError
        If the bin width is not a whole number of microseconds, at least one.
    DataError
        If a bin has more than 65535 spikes.

    Examples
    --------
    >>> spikes_BTN, lengths_B = bin_spikes([np.array([0.1, 0.3])], np.array([0.0]),
    ...                                    np.array([0.4]), bin_ms=100)
    >>> spikes_BTN[0, :, 0], lengths_B
    (array([0, 1, 0, 1], dtype=uint8), array([4]))
    """
    clock, bin_us = Clock(), bin_to_us(bin_ms, "bin_ms")
    times_us = tuple(np.sort(clock.to_us(times)) for times in spike_times_s)
    starts_us_B = clock.to_us(starts_s)
    lengths_B = np.maximum(clock.to_us(stops_s) - starts_us_B, 0) // bin_us
    spikes = SpikeTimes(times_us, np.arange(len(times_us)))
    return spikes.count(starts_us_B, lengths_B, bin_us), lengths_B


# Reading: each arrangement in a file is laid end to end first -------------------------------------


@dataclass(frozen=True, eq=False)
class _Spikes:
    """Times of all spikes with the unit of each, end to end."""

    values: NDArray[Any]
    unit_of: NDArray[np.integer]  # -1: no unit
    labels: NDArray[Any]  # of the units
    trial_of: NDArray[np.integer] | None = None  # where times count from the start of a trial
    table: Table | None = None  # of trials, where it was looked for
    observed: tuple[TicksArray, ...] | None = None


def _end_to_end(lists: Sequence[NDArray[Any]], labels: NDArray[Any], **more: Any) -> _Spikes:
    """Lay one list of times per unit end to end."""
    values = np.concatenate([np.reshape(v, -1) for v in lists]) if lists else np.zeros(0)
    unit_of = np.repeat(np.arange(len(lists)), [np.size(v) for v in lists])
    return _Spikes(values, unit_of, labels, **more)


def read_spike_times(job: ConvertJob, name: str) -> tuple[SpikeTimes, Table | None]:
    """Read spike times in any arrangement, and the table of trials, if there is one.

    Arrangements: one array, with the unit of each spike (and its trial); a matrix with a row per
    unit; a list per unit; a group with an array per unit; lists of trials x units, or of channels x
    units.
    """
    spikes = _named(job, name, _read_arrangement(job, name))
    kept = spikes.unit_of >= 0
    job.drop("spikes", int((~kept).sum()), len(kept), "have no unit")
    if spikes.trial_of is not None:
        job.keep("spikes", spikes.trial_of >= 0, kept, "have no trial")
    elif not job.options.sort_spikes:
        _refuse_mixed_trials(job, name, spikes.values)
    times_us, is_time = _finite_times(job, name, spikes.values[kept])
    kept[np.flatnonzero(kept)] = is_time
    table = job.find_trials() if spikes.table is None else spikes.table
    unit_of = spikes.unit_of[kept]
    if spikes.trial_of is not None and table is not None:
        trial_of, zero_us = spikes.trial_of[kept], DAY_US * np.arange(table.n_rows)
        order = np.argsort(trial_of, kind="stable")  # the table may have another one
        times_us, unit_of = (times_us + zero_us[trial_of])[order], unit_of[order]
        table = replace(table, zero_us_R=zero_us)
    parts_us = _by_unit(times_us, unit_of, len(spikes.labels))
    return _ascending(job, name, SpikeTimes(parts_us, spikes.labels, spikes.observed)), table


def _read_arrangement(job: ConvertJob, name: str) -> _Spikes:
    """Read the spikes of this name, by the arrangement that they have."""
    contents = job.contents
    found = contents.resolve(name) or name
    item = contents.items.get(found)
    if item is not None and item.kind == "matrices":
        hint = f"Counts, one matrix per trial, are chosen with `counts={found!r}`."
        raise contents.wrong("spike_times", found, "matrices", "lists of times", hint)
    by_trial = job.options.spike_trials is not None
    trials = job.options.spike_trials or fieldtrip_trials(contents, found)
    trials = None if trials is None else contents.resolve(trials)
    if item is not None and trials and contents.items[trials].kind == item.kind == "lists":
        return _read_lists_beside(job, found, item, trials)
    if item is not None and item.kind == "lists" and (len(item.shape) == 2 or not by_trial):
        return _read_lists(job, found, item)
    if by_trial:
        values = contents.numbers(name, "spike_times")
        job.taken["spike times"] = name
        trial_of, table = _trial_of_each(job, name, values)
        return _Spikes(values, *_unit_of_each(job, found, len(values)), trial_of, table)
    if item is None or item.kind != "array":
        return _read_group(job, name)
    values = contents.numbers(found, "spike_times")
    job.taken["spike times"] = found
    if values.ndim == 1:
        return _Spikes(values, *_unit_of_each(job, found, len(values)))
    if values.ndim == 3:  # trials x units x spikes, NaN after the last
        lists = [row[~np.isnan(row)] for row in values.reshape(-1, values.shape[2]).astype(float)]
        return _read_lists(job, found, Item(values.shape[:2], "lists", lambda: lists, "lists"))
    if values.ndim != 2:
        shape = f"{values.ndim} axes, {values.shape}"
        raise contents.wrong("spike_times", found, shape, "one to three")
    job.units_are_places = True
    lists = _rows_of_units(job, found, values)
    return _end_to_end(lists, np.arange(len(lists)))


def _named(job: ConvertJob, name: str, spikes: _Spikes) -> _Spikes:
    """Take the names of the units from an array that is named, where each has its own times."""
    contents, chosen = job.contents, job.options.spike_units
    n_units = len(spikes.labels)
    if chosen is None or "unit of each spike" in job.taken or (chosen, n_units) == ("none", 1):
        return spikes
    expected = f"the names of the {n_units} units, each of which has its own times in {name!r}"
    if chosen == "none":
        raise contents.wrong("spike_units", chosen, f"times of {n_units} units", "those of one")
    labels = contents.array(chosen, "spike_units")
    if labels.shape != (n_units,):
        raise contents.wrong("spike_units", chosen, f"shape {labels.shape}", expected)
    if len(set(labels.tolist())) < n_units:
        raise contents.wrong("spike_units", chosen, "names that occur twice", expected)
    job.taken["names of the units"] = chosen
    job.units_are_places = False
    return replace(spikes, labels=labels)


def _read_group(job: ConvertJob, name: str) -> _Spikes:
    """Read a group with one array per unit, or the arrays whose names fit a pattern."""
    contents = job.contents
    group = contents.resolve_table(name) or ""
    members = contents.children(group) if group else []
    if not group and "*" in name:
        members = contents.matching(name)
    if not members:
        error = contents.unknown("spike_times", name, contents.items)
        if any(n.startswith(f"{name}/") for n in contents.items):
            error.hint = f"Of units in groups of their own: `spike_times='{name}/*/NAME'`."
        raise error
    members.sort(key=by_number)
    for part, item in ((n, contents.items[n]) for n in members):
        # One spike is a number in MATLAB, as the sampling rate in a group is; none is 0 x 0.
        if item.kind != "array" or (len(item.shape) != 1 and math.prod(item.shape) > (not group)):
            shown = f"{part!r}, {item.dtype} of shape {item.shape}"
            raise contents.wrong("spike_times", name, shown, "an array of times per unit")
    job.taken["spike times"] = f"{f'{group}/' if group else name}, {len(members)} arrays"
    lists = [contents.numbers(n, "spike_times") for n in members]
    labels = [n.rpartition("/")[2] for n in members]
    if len(set(labels)) < len(labels):  # what stands for the star in units/*/spike_times
        front, back = len(name.partition("*")[0]), len(name.rpartition("*")[2])
        labels = [n[front : len(n) - back] for n in members]
    return _end_to_end(lists, np.array(labels))


def _read_lists(job: ConvertJob, name: str, item: Item) -> _Spikes:
    """Read one list per unit; or lists on two axes, of channels and units or trials and units."""
    contents, options = job.contents, job.options
    words = (options.axes or "trials,neurons").replace(" ", "").split(",")
    if len(item.shape) == 2:
        if "channels" in words:
            return _read_channels(job, name, item, words)
        return _read_trials(job, name, item, words)
    group, n_lists, observed = name.rpartition("/")[0], math.prod(item.shape), None
    if words == ["trials"]:
        return _read_trials(job, name, replace(item, shape=(n_lists, 1)), [*words, "neurons"])
    table = job.find_trials()
    may_be_trials = table is not None and table.n_rows == n_lists and options.axes is None
    if may_be_trials and table is not None and table.name == group != "":
        raise SettingsError(
            f"{contents.path}: `spike_times={name!r}`: found {n_lists} lists of times in the table "
            "of trials; is each of a trial, or of a unit?",
            "Say so: `axes='trials'` or `axes='neurons'`.",
        )
    labels = _names_beside(job, group, item.shape)
    job.taken["spike times"] = name
    if may_be_trials and job.units_are_places:
        job.notes.append(
            f"Each of the {n_lists} lists of {name!r} was taken as a unit, and there are as many "
            "trials. If each is a trial: `axes='trials'`."
        )
    intervals = contents.items.get(f"{group}/obs_intervals")  # of NWB
    known = intervals is not None and (intervals.kind, intervals.shape) == ("lists", item.shape)
    if intervals is not None and known and not options.ignore_intervals:
        observed = _observed(job, intervals.read(), labels)
    return _end_to_end(item.read(), labels, observed=observed, table=table)


def _names_beside(job: ConvertJob, group: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the names of units in a column beside their lists, else their places."""
    job.units_are_places, job.units_group = False, group
    for column in UNIT_IDS if group else ():
        if job.contents.has_array(f"{group}/{column}", shape):
            names = job.contents.items[f"{group}/{column}"].read().reshape(-1)
            if len(set(names.tolist()) - {""}) == len(names):
                return np.asarray(names)
    job.units_are_places = True
    return np.arange(math.prod(shape))


def _read_lists_beside(job: ConvertJob, name: str, item: Item, trials: str) -> _Spikes:
    """Read one list of times per unit, and the trial of each in a list beside it."""
    contents, group = job.contents, name.rpartition("/")[0]
    lists, beside = ([np.reshape(v, -1) for v in i.read()] for i in (item, contents.items[trials]))
    if [len(v) for v in lists] != [len(v) for v in beside]:
        expected = f"as many values in each list as in {name!r}"
        raise contents.wrong("spike_trials", trials, "lists of other lengths", expected)
    job.taken |= {"spike times": name, "trial of each spike": trials}
    spikes = _end_to_end(lists, _names_beside(job, group, item.shape))
    labels = np.concatenate(beside) if beside else np.zeros(0)
    if fieldtrip_trials(contents, name) != trials:
        trial_of, table = rows_of_trials(job, trials, labels)
        return replace(spikes, trial_of=trial_of, table=table)
    limits = contents.numbers(f"{group}/trialtime", None)
    limits_R2 = limits.reshape(1, 2) if limits.shape == (2,) else limits
    if limits_R2.ndim != 2 or limits_R2.shape[1] != 2 or not np.isfinite(limits_R2).all():
        found = f"shape {limits.shape}" if limits_R2.shape[1:] != (2,) else "NaN"
        raise contents.wrong(None, f"{group}/trialtime", found, "start and end of each trial")
    n_trials = len(limits_R2)
    if not np.isin(labels, np.arange(1, n_trials + 1)).all():
        odd = labels[~np.isin(labels, np.arange(1, n_trials + 1))][0]
        raise contents.wrong(None, trials, f"trial {odd:g}", f"1 to {n_trials}, as in 'trialtime'")
    table = job.trials_beside(n_trials, "spikes", f"{group}/trialtime")
    numbers_R = np.arange(1, n_trials + 1)
    row_of: NDArray[np.integer] = numbers_R - 1
    if job.options.trials not in (None, "none"):
        row_of = match_rows(table, numbers_R, TRIAL_IDS, job.notes)
    order = np.argsort(row_of)
    columns = dict(zip(_LIMITS, limits_R2[order].T, strict=True))
    if TRIAL_IDS[0] not in table.columns:
        columns[TRIAL_IDS[0]] = numbers_R[order]
    table = replace(table, added=columns, zero="the trigger", span=_LIMITS)
    return replace(spikes, trial_of=row_of[labels.astype(np.int64) - 1], table=table)


def _read_channels(job: ConvertJob, name: str, item: Item, words: list[str]) -> _Spikes:
    """Read one list per channel and unit; units without spikes are left out."""
    if sorted(words) != ["channels", "neurons"]:
        raise SettingsError(f"`axes={job.options.axes!r}`: expected channels,neurons")
    lists = [np.reshape(part, -1) for part in item.read()]
    job.taken["spike times"] = f"{name}, {item.shape[0]} {words[0]} x {item.shape[1]} {words[1]}"
    channel = words.index("channels")
    places = np.ndindex(item.shape)
    labels = np.array([f"channel {p[channel]} unit {p[1 - channel]}" for p in places])
    held = [i for i, part in enumerate(lists) if len(part)]
    job.drop("units", len(lists) - len(held), len(lists), "have no spike")
    return _end_to_end([lists[i] for i in held], labels[held])


def _read_trials(job: ConvertJob, name: str, item: Item, words: list[str]) -> _Spikes:
    """Read one list per trial and unit, such as MATLAB's cells."""
    if sorted(words) != ["neurons", "trials"]:
        raise SettingsError(
            f"`axes={job.options.axes!r}`: found lists of spike times with two axes; expected "
            "trials,neurons or neurons,trials"
        )
    lists = item.read()
    if not lists:
        raise job.contents.wrong("spike_times", name, f"no lists, {item.shape}", "at least one")
    grid = np.arange(len(lists)).reshape(item.shape)
    grid_BN = grid if words[0] == "trials" else grid.T
    n_trials, n_units = grid_BN.shape
    known = job.find_trials() if job.options.axes is None else None
    if known is not None and known.n_rows not in (1, n_trials):
        found = f"{n_trials} x {n_units} lists, and {known.n_rows} trials"
        hint = (
            "Of channels and their units: `axes='channels,neurons'`. Of units and trials: "
            "`axes='neurons,trials'`."
        )
        raise job.contents.wrong("spike_times", name, found, "a row of lists per trial", hint)
    job.taken["spike times"] = f"{name}, {n_trials} trials x {n_units} units"
    job.units_are_places = True
    if job.options.axes is None and (known is None or known.n_rows == 1 or n_trials == n_units):
        job.notes.append(
            f"Lists of {name!r} were taken as {n_trials} trials x {n_units} units. If it is "
            "otherwise: `axes='neurons,trials'`, or `axes='channels,neurons'`."
        )
    spikes = _end_to_end([lists[i] for i in grid_BN.reshape(-1)], np.arange(n_units))
    trial_of, unit_of = np.divmod(spikes.unit_of, n_units)
    table = job.trials_beside(n_trials, "spikes", name)
    return replace(spikes, unit_of=unit_of, trial_of=trial_of, table=table)


def _observed(
    job: ConvertJob, intervals: list[NDArray[Any]], labels: NDArray[Any]
) -> tuple[TicksArray, ...]:
    """Return when each unit was observed, (intervals, 2) of each; infinity means to the end."""
    observed, unknown, gaps_us = [], [], np.zeros(0)
    ends = (-ALWAYS_US, ALWAYS_US)
    for label, part in zip(labels.tolist(), intervals, strict=True):
        times = np.asarray(part, dtype=np.float64).reshape(-1, 2)
        if len(times) == 0 or np.isnan(times).any():
            unknown.append(str(label))
            observed.append(np.array([ends]))
            continue
        finite = np.isfinite(times)
        times_us = job.options.clock.to_us(np.where(finite, times, 0))
        times_us = np.where(finite, times_us, np.where(times > 0, ends[1], ends[0]))
        merged = merge_intervals(times_us)
        gaps = merged[1:, 0] - merged[:-1, 1]
        gaps_us = np.concatenate([gaps_us, gaps[gaps < HAIRLINE_US]])
        merged[:-1, 1] += np.where(gaps < HAIRLINE_US, gaps, 0)
        observed.append(merge_intervals(merged))
    if unknown:
        job.notes.append(
            f"Taken as observed all the time, for their obs_intervals are empty or NaN: units "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}."
        )
    if len(gaps_us):
        job.notes.append(
            f"{len(gaps_us)} gaps between obs_intervals of up to {gaps_us.max() / 1000:g} ms were "
            "closed."
        )
    return tuple(observed)


def _rows_of_units(job: ConvertJob, name: str, values: NDArray[Any]) -> list[NDArray[Any]]:
    """Return each unit's times without their padding: NaN, or 0 after the last spike.

    Each row is a unit; each column, if times ascend along the columns alone.
    """
    n_units, n_columns = values.shape
    if n_columns < _FEWEST_COLUMNS < n_units:
        found = f"{n_units} rows of {n_columns}"
        hint = (
            "Is it a table with a row per spike? Name its columns, from 0: "
            f"`spike_times='{name}:1'` and `spike_units='{name}:0'`. If each column is a unit, "
            "save it with a row per unit."
        )
        raise job.contents.wrong("spike_times", name, found, "a row of times per unit", hint)
    is_turned = _ascends(values.T) and not _ascends(values)
    values = values.T if is_turned else values
    what = "columns" if is_turned else "rows"
    job.notes.append(f"Each of the {len(values)} {what} of {name!r} was taken as a unit.")
    rows = [row[: np.flatnonzero(row).max(initial=-1) + 1] for row in values]
    n_zero = values.size - sum(len(row) for row in rows)
    job.drop("spikes", n_zero, values.size, "are 0 after the last spike of their unit (padding)")
    return rows


def _ascends(rows: NDArray[Any]) -> bool:
    """Return whether times ascend along each row, padding aside."""
    return not ((rows[:, 1:] < rows[:, :-1]) & (rows[:, 1:] != 0)).any()


def _unit_of_each(
    job: ConvertJob, times: str, n_spikes: int
) -> tuple[NDArray[np.integer], NDArray[Any]]:
    """Return the place of each spike's unit among the units (-1: no unit), and their names."""
    contents, name = job.contents, job.options.spike_units
    if name == "none":
        return np.zeros(n_spikes, dtype=np.int64), np.arange(1)
    name = name or guess_beside(contents, "spike_units", times) or guess(contents, "spike_units")
    if name is None:
        raise SettingsError(
            f"{contents.path}: found {n_spikes} spike times without units; expected the unit of "
            "each spike",
            hint="Name the array, `spike_units=NAME`; or `spike_units='none'` if all are of one "
            "unit.",
        )
    units = contents.array(name, "spike_units")
    job.taken["unit of each spike"] = contents.resolve(name) or name
    if units.shape != (n_spikes,):
        expected = f"{n_spikes} values, one per spike"
        raise contents.wrong("spike_units", name, f"shape {units.shape}", expected)
    known = known_labels(units)
    unit_ids, places = np.unique(units[known], return_inverse=True)
    unit_of = np.full(n_spikes, -1)
    unit_of[known] = places
    _note_channels(job, job.taken["unit of each spike"], unit_of)
    if n_spikes >= _MANY and len(unit_ids) > n_spikes / 2:
        found = f"{len(unit_ids)} units for {n_spikes} spikes"
        raise contents.wrong("spike_units", name, found, "fewer units than spikes could fill")
    return unit_of, unit_ids


def known_labels(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which spikes or bins have a unit or a trial: not NaN, not empty, not -1."""
    if labels.dtype.kind == "U":  # a column of names may hold some too
        words = np.char.lower(np.char.strip(labels))
        return ~np.isin(words, ["", "nan", "inf", "+inf", "-inf", "-1"])
    return np.asarray(np.isfinite(labels) & (labels != -1))


def _note_channels(job: ConvertJob, units: str, unit_of: NDArray[np.integer]) -> None:
    """Note units whose spikes are of several channels or probes: each may number its own units."""
    group, _, last = units.rpartition("/")
    for name in job.contents.children(group):
        short = name.rpartition("/")[2].lower()
        if short not in _CHANNELS or short == last.lower():
            continue
        if not job.contents.has_array(name, unit_of.shape):
            continue
        channels, channel_of = np.unique(job.contents.items[name].read(), return_inverse=True)
        pairs = np.unique((unit_of * len(channels) + channel_of)[unit_of >= 0])
        n_channels_N = np.bincount(pairs // len(channels))
        n_units, n_several = len(n_channels_N), int((n_channels_N > 1).sum())
        if n_several:
            job.notes.append(
                f"{n_several} of {n_units} units in {units!r} have spikes of several values of "
                f"{name!r}, and were each taken as one neuron. If units are numbered within each "
                f"{short}, write an array that names both, and give it: `spike_units=NAME`."
            )


def _trial_of_each(
    job: ConvertJob, name: str, values: NDArray[Any]
) -> tuple[NDArray[np.integer], Table]:
    """Return the row of each spike's trial in the table of trials, and the table."""
    contents, chosen = job.contents, str(job.options.spike_trials)
    labels = contents.array(chosen, "spike_trials")
    job.taken["trial of each spike"] = chosen
    if labels.shape != values.shape or values.ndim != 1:
        expected = f"that of {name!r}, {values.shape}, one per spike"
        raise contents.wrong("spike_trials", chosen, f"shape {labels.shape}", expected)
    return rows_of_trials(job, chosen, labels)


def rows_of_trials(
    job: ConvertJob, chosen: str, labels: NDArray[Any], what: str = "spike"
) -> tuple[NDArray[np.integer], Table]:
    """Return the row of the trial of each spike or bin in the table of trials (-1: no trial).

    Returns also the table: the chosen one, or the arrays beside that are constant in each trial.
    """
    contents, trials, known = job.contents, job.options.trials, known_labels(labels)
    trial_ids, first_of, place_of = np.unique(labels[known], return_index=True, return_inverse=True)
    trial_of = np.full(len(labels), -1)
    if trials is None:
        job.notes.append(
            f"Trials are those in {chosen!r}: a trial without any {what} is not among them. Give a "
            "table of trials to include it: `trials=NAME`."
        )
        added = {}
        for column, item in contents.items.items():
            if item.kind != "array" or item.shape != labels.shape:
                continue
            each = item.read()[known]
            kind, same = each.dtype.kind, each[first_of][place_of]
            if kind in PLAIN_KINDS and np.array_equal(each, same, equal_nan=kind == "f"):
                added[column] = each[first_of]
        added.setdefault(TRIAL_IDS[0], trial_ids)
        trial_of[known] = place_of
        return trial_of, job.columns_of(len(trial_ids), "spike_trials", added=added)
    table = job.find_table(trials, "trials")
    job.taken["trials"] = trials
    id_columns = (chosen.rpartition("/")[2], *TRIAL_IDS)
    trial_of[known] = match_rows(table, trial_ids, id_columns, job.notes)[place_of]
    return trial_of, table


def _spike_clock(job: ConvertJob) -> Clock:
    """Return the clock of the spike times: that of the format, else the chosen one."""
    clock, rate_hz = job.contents.spike_clock, job.options.sample_rate_hz
    if clock is None:
        return job.options.clock
    if rate_hz is None and clock.sample_rate_hz is None:
        raise SettingsError(
            f"{job.contents.path}: found no sampling rate, no params.py with a number as "
            "'sample_rate'",
            "Give it: `sample_rate_hz=30000`.",
        )
    clock = replace(clock, sample_rate_hz=rate_hz or clock.sample_rate_hz)
    job.taken["sampling rate"] = f"{clock.sample_rate_hz:g} Hz"
    return clock


def _finite_times(
    job: ConvertJob, name: str, values: NDArray[Any]
) -> tuple[TicksArray, NDArray[np.bool_]]:
    """Return times in microseconds, and which of the values they are: NaN is not a spike."""
    if values.dtype.kind not in "uif":
        found = f"values of type {values.dtype}"
        raise job.contents.wrong("spike_times", name, found, "times")
    clock, kept = _spike_clock(job), np.isfinite(values)
    clock.check_name(name, job.contents.path)
    job.drop("spikes", int((~kept).sum()), len(kept), "have no time (NaN)")
    if len(kept) and not kept.any():
        raise job.nothing_left("spike")
    if clock.unit == "samples" and values.dtype.kind == "f" and (values[kept] % 1 != 0).any():
        fraction = values[kept][values[kept] % 1 != 0][0]
        raise job.contents.wrong(
            "spike_times",
            name,
            f"a fraction, {fraction:.9g}",
            "times in samples, which are whole numbers",
            "Are they in seconds? `time_unit='s'`; of a folder of phy, save its spike times with "
            "`spike_clusters` and the trials by `numpy.savez`.",
        )
    if clock.unit == "s" and len(values) >= _MANY and (values[kept] % 1 == 0).all():
        raise job.contents.wrong(
            "spike_times",
            name,
            f"whole numbers, up to {np.max(values[kept], initial=0):g}",
            "times in seconds",
            "Are they in samples? `time_unit='samples'`, `sample_rate_hz=30000`, and "
            "`trials_time_unit='s'` for trials in seconds. In ms: `time_unit='ms'`. Counts, or a "
            "raster of 0 and 1: `counts=NAME`.",
        )
    step_us = clock.step_us(values)
    if step_us > 1:
        job.notes.append(
            f"Spike times are stored in single precision: steps of {step_us / 1000:.2g} ms "
            "late in the recording."
        )
    return clock.to_us(values[kept]), kept


def _refuse_mixed_trials(job: ConvertJob, name: str, times: NDArray[Any]) -> None:
    """Refuse times beside the number of their trial of which those of many trials are the same.

    On one clock a trial follows another; times that count from the start of each lie side by side.
    """
    contents, found = job.contents, job.contents.resolve(name)
    if found is None or not contents.has_array(found, times.shape):
        return
    beside = guess_beside(contents, "spike_trials", found)
    if beside is None or not contents.has_array(beside):
        return
    labels = contents.items[beside].read()
    known = known_labels(labels) & np.isfinite(times)
    labels = labels[known][np.argsort(times[known], kind="stable")]
    n_changes, n_trials = int((labels[1:] != labels[:-1]).sum()), len(np.unique(labels))
    if n_changes > max(_MIXED * n_trials, len(labels) / 4):
        raise contents.wrong(
            "spike_times",
            name,
            f"times of the {n_trials} trials in {beside!r} side by side",
            "ascending times on one clock",
            f"If they count from the start of each trial: `spike_trials={beside!r}`. If they are "
            "those of the recording all the same: `sort_spikes=True`.",
        )


def _by_unit(
    times_us: TicksArray, unit_of: NDArray[np.integer], n_units: int
) -> tuple[TicksArray, ...]:
    """Return the times of each unit, in the order of the file."""
    if (unit_of[1:] < unit_of[:-1]).any():
        times_us = times_us[np.argsort(unit_of, kind="stable")]
    stops = np.cumsum(np.bincount(unit_of, minlength=n_units))
    return tuple(np.split(times_us, stops[:-1])) if n_units else ()


def _ascending(job: ConvertJob, name: str, spikes: SpikeTimes) -> SpikeTimes:
    """Return spikes with each unit's times ascending, and refuse what cannot be spike times."""
    contents, n_sorted, n_twice = job.contents, 0, 0
    found = None if "trial of each spike" in job.taken else contents.resolve(name)
    has_trials = found is not None and guess_beside(contents, "spike_trials", found) is not None
    sorted_us = []
    for label, times_us in zip(spikes.unit_ids.tolist(), spikes.times_us, strict=True):
        steps_us = np.diff(times_us)
        back = np.flatnonzero(steps_us < 0)
        if len(back):
            at, far = back[np.argmin(steps_us[back])], steps_us.min() < -FAR_BACK_US
            # Of a clock that restarts, or of trials that each begin at 0: sorted, they would pile
            # up on one another.
            is_restart = len(back) < FEW_STEPS * len(times_us) or has_trials
            if far and is_restart and not job.options.sort_spikes:
                before_s, after_s = times_us[at : at + 2] / 1e6
                raise contents.wrong(
                    "spike_times",
                    name,
                    f"times of unit {label!r} that step back {len(back)} times, the furthest from "
                    f"{before_s:g} to {after_s:g} s",
                    "ascending times on one clock",
                    "If they count from the start of each trial, give the trial of each spike: "
                    "`spike_trials=NAME`. If they are only out of order: `sort_spikes=True`.",
                )
            n_sorted += 1
            times_us = np.sort(times_us)
            steps_us = np.diff(times_us)
        n_same = int((steps_us == 0).sum())
        if n_same > _MOST_SAME * len(times_us) and len(times_us) >= _MANY:
            found = f"{n_same} of {len(times_us)} times of unit {label!r} twice"
            hint = "Counts in bins, such as a raster of 0 and 1, are chosen with `counts=NAME`."
            raise contents.wrong("spike_times", name, found, "a time per spike", hint)
        n_twice += n_same
        sorted_us.append(times_us)
    if n_sorted:
        job.notes.append(f"Spike times of {n_sorted} units were out of order, and were sorted.")
    if n_twice > _FEW_SAME * spikes.n_spikes:
        job.notes.append(f"{n_twice} of {spikes.n_spikes} spikes have the time of another spike.")
    return replace(spikes, times_us=tuple(sorted_us))
