"""Spike counts that are binned already: reading them, one continuous recording, or trials.

Axes in names: B trials, T bins, N neurons, V behavioral variables, K any channel.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.behavior import variable_names, without_infinite
from ndt_cli.convert.clock import TicksArray, in_bins, ms_to_us
from ndt_cli.convert.contents import Contents, guess
from ndt_cli.convert.spikes import SpikeTimes, rows_of_trials
from ndt_cli.convert.tables import ConvertJob, Table, plain_label, read_conditions, short_name
from ndt_cli.data.arrays import as_whole
from ndt_cli.data.bins import rebin
from ndt_cli.data.spike_data import (
    MAX_COUNT,
    FloatArray,
    IntArray,
    SpikeData,
    compact_counts,
    looks_neurons_first,
    unmarked_padding,
)
from ndt_cli.errors import SettingsError
from ndt_cli.memory import check_memory

_SHORTEST_MS = 0.1  # a width below it is likely in seconds
_LONGEST = 1e12  # bins or ms: longer than any trial, and within 64 bits
_ORDER = ("trials", "bins", "neurons")
_DEFAULT_AXES = {3: ",".join(_ORDER), 2: "bins,neurons", 1: "bins"}


def read_continuous(
    job: ConvertJob, name: str, values_TN: NDArray[Any]
) -> tuple[SpikeTimes, TicksArray, int]:
    """Return counts without trials as spikes in the middle of their bins.

    Returns also the middle of each bin, and the width of the bins to make, in microseconds.
    """
    contents = job.contents
    n_bins, n_neurons = values_TN.shape
    if job.options.axes is None and n_bins < n_neurons:
        raise contents.wrong(
            "counts",
            name,
            f"{n_bins} bins x {n_neurons} neurons",
            "more bins than neurons in a continuous recording",
            "Give the order of the axes: `axes='neurons,bins'`, or `axes='bins,neurons'` if it is "
            "as found.",
        )
    counts_TN = as_counts(contents, name, values_TN)
    width_us, start_us = source_bin_us(job, name), 0
    beside = _columns_beside(contents, name, n_bins)
    times_name = job.options.counts_times or beside.get(guess(contents, "times", beside) or "")
    if job.options.counts_times is None and times_name is not None:
        steps = np.diff(contents.numbers(times_name, None))
        is_index = (steps == 1).all() and job.options.clock.us_per_unit != width_us
        times_name = None if is_index else times_name  # of the row, which says no time
    if times_name is not None:
        job.taken["time of each bin"] = times_name
        times_us_T = _bin_times_us(job, times_name, len(values_TN))
        start_us = int(times_us_T[0])
        late_us_T = times_us_T - start_us - width_us * np.arange(len(times_us_T))
        off = np.flatnonzero(2 * np.abs(late_us_T) > width_us)
        if len(off):
            raise contents.wrong(
                "counts_times",
                times_name,
                f"the time of bin {off[0]} {late_us_T[off[0]] / 1000:g} ms from where bins of "
                f"{width_us / 1000:g} ms without a gap put it",
                "a time per bin, each a bin width after the one before",
                "Are `counts_bin_ms` and `time_unit` right? Where the recording has gaps, convert "
                "each stretch of it on its own, or count its spikes again from their times.",
            )
    n_spikes = int(counts_TN.sum(dtype=np.int64))
    check_memory(8 * n_spikes, f"{contents.path}: {name!r}, {n_spikes} spikes,")
    middles_us_T = start_us + width_us // 2 + width_us * np.arange(len(counts_TN))
    times_us = tuple(np.repeat(middles_us_T, counts_T) for counts_T in counts_TN.T)
    bins_us = start_us, start_us + len(counts_TN) * width_us, width_us
    spikes = SpikeTimes(times_us, unit_names(job, name, len(times_us)), bins_us=bins_us)
    return spikes, middles_us_T, chosen_bin_us(job, width_us)


def _columns_beside(contents: Contents, name: str, n_rows: int) -> dict[str, str]:
    """Return the arrays beside the counts with a value per bin, or row, by their short names."""
    names = contents.children(name.rpartition("/")[0])
    return {n.rpartition("/")[2]: n for n in names if contents.has_array(n, (n_rows,))}


def _bin_times_us(job: ConvertJob, name: str, n_bins: int) -> TicksArray:
    """Return the time of each bin, or row, of counts."""
    times = job.contents.numbers(name, "counts_times")
    if times.shape != (n_bins,):
        expected = f"{n_bins} times, one per bin"
        raise job.contents.wrong("counts_times", name, f"shape {times.shape}", expected)
    job.options.clock.check_name(name, job.contents.path)
    return job.options.clock.to_us(times)


# Trials that lie end to end: a row per bin, and the trial of each --------------------------------


@dataclass(frozen=True, eq=False)
class TrialRows:
    """Where each row of an array belongs."""

    table: Table  # of trials
    trial_of: IntArray  # of each row, a row of the table; -1: none
    bin_of: IntArray  # of each row, from 0 within its trial
    starts_us_B: TicksArray  # of the first bin of each trial
    zero: str = "the first bin"  # what those times count from, if not the recording's clock
    is_on_clock: bool = False

    def folded(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return rows as trials x bins x ...; NaN pads shorter trials."""
        held = self.trial_of >= 0
        n_bins = int(self.bin_of[held].max(initial=-1)) + 1
        check_memory(
            8 * self.table.n_rows * n_bins * math.prod(values.shape[1:]),
            f"{self.table.contents.path}: {self.table.n_rows} trials of up to {n_bins} bins",
        )
        folded = np.full((self.table.n_rows, n_bins, *values.shape[1:]), np.nan)
        folded[self.trial_of[held], self.bin_of[held]] = values[held]
        return folded


def find_trial_rows(job: ConvertJob, name: str, n_rows: int) -> TrialRows | None:
    """Return the trial and the bin of each row of counts; None for a continuous recording.

    The trial of each row is that of the option ``spike_trials``, or of a usual name beside the
    counts. Rows are in the order of their times or numbers of bins, else in that of the file.
    """
    contents, options, chosen = job.contents, job.options, job.options.spike_trials
    beside = _columns_beside(contents, name, n_rows)
    if chosen is None:
        has_table = guess(contents, "trials", contents.groups) is not None
        has_starts = guess(contents, "start") not in (None, *beside.values())
        chosen_ones = (options.trials, options.start, options.chop_ms)
        if has_table or has_starts or any(option is not None for option in chosen_ones):
            return None  # a continuous recording
        chosen = beside.get(guess(contents, "spike_trials", beside) or "")
    if chosen is None:
        return None
    labels = contents.array(chosen, "spike_trials")
    if labels.shape != (n_rows,):
        expected = f"{n_rows} values, one per row of {name!r}"
        raise contents.wrong("spike_trials", chosen, f"shape {labels.shape}", expected)
    job.taken["trial of each bin"] = chosen
    trial_of, table = rows_of_trials(job, chosen, labels, "bin")
    for column in contents.matching(name) if "*" in name else ():
        table.added.pop(column, None)  # a silent unit is no label of trials
    job.drop("bins", int((trial_of < 0).sum()), n_rows, "have no trial")
    is_number = options.counts_times is None and guess(contents, "bins", beside) is not None
    order = guess(contents, "bins" if is_number else "times", beside)
    times = options.counts_times or beside.get(order or "")
    unknown_us_B = np.zeros(table.n_rows, dtype=np.int64)
    if times is None:
        return TrialRows(table, trial_of, _in_order(contents, chosen, trial_of), unknown_us_B)
    job.taken["number of each bin" if is_number else "time of each bin"] = times
    if is_number:
        places, step = as_whole(contents.numbers(times, None)), 1
        if places is None:
            hint = f"Of times: `counts_times={times!r}`."
            raise contents.wrong(None, times, "fractions", "the number of each bin", hint)
        bin_of, _, _ = _bins_of(contents, times, trial_of, places, step)
        return TrialRows(table, trial_of, bin_of, unknown_us_B)
    places, step = _bin_times_us(job, times, n_rows), source_bin_us(job, name)
    bin_of, first_of, is_along = _bins_of(contents, times, trial_of, places, step)
    starts_us_B = unknown_us_B
    starts_us_B[trial_of[first_of]] = places[first_of]
    zero = "the first bin" if is_along else f"zero of {short_name(times)}"
    return TrialRows(table, trial_of, bin_of, starts_us_B, zero, is_along)


def _in_order(contents: Contents, chosen: str, trial_of: IntArray) -> IntArray:
    """Return the bin of each row in its trial, whose rows must follow one another."""
    starts = np.flatnonzero(np.diff(trial_of, prepend=-2) != 0)
    runs = trial_of[starts]
    if len(np.unique(runs[runs >= 0])) < (runs >= 0).sum():
        hint = "Give the time of each row, in seconds: `counts_times=NAME`."
        found = "trials whose rows do not follow one another"
        raise contents.wrong("spike_trials", chosen, found, "a time or number of each bin", hint)
    firsts = np.repeat(starts, np.diff(starts, append=len(trial_of)))
    return np.arange(len(trial_of)) - firsts


def _bins_of(
    contents: Contents, name: str, trial_of: IntArray, places: IntArray, step: int
) -> tuple[IntArray, IntArray, bool]:
    """Return the bin of each row in its trial by its time or number; refuse gaps and shifts.

    Returns also the first row of each trial, and whether one trial follows another in time.
    """
    order = np.lexsort([places, trial_of])
    order = order[trial_of[order] >= 0]
    _, first_of, n_bins_B = np.unique(trial_of[order], return_index=True, return_counts=True)
    first_of_B = order[first_of]
    firsts_B = places[first_of_B]
    bin_of = np.zeros(len(trial_of), dtype=np.int64)
    bin_of[order] = np.arange(len(order)) - np.repeat(first_of, n_bins_B)
    late = places[order] - np.repeat(firsts_B, n_bins_B) - step * bin_of[order]
    off = np.flatnonzero(2 * np.abs(late) > step) if step > 1 else np.flatnonzero(late)
    if len(off):
        row = int(order[off[0]])
        found = f"row {row} in another place than bin {bin_of[row]} of its trial"
        hint = "Rows for bins without spikes are needed, too. Is `counts_bin_ms` right? If these "
        hint += f"are times: `counts_times={name!r}`, and `time_unit`."
        raise contents.wrong("counts_times", name, found, "bins without a gap, each once", hint)
    # Numbers or times all along the recording; or from the event, where trials begin alike.
    in_time = np.argsort(firsts_B)
    stops_B = firsts_B + step * n_bins_B
    is_along = (firsts_B[in_time][1:] + step // 2 >= stops_B[in_time][:-1]).all()
    if not is_along and (2 * np.abs(firsts_B - firsts_B[0]) > step - 1).any():
        odd = int(np.argmax(np.abs(firsts_B - firsts_B[0])))
        found = f"trials that begin with different bins, row {first_of_B[odd]} and row {order[0]}"
        raise contents.wrong("counts_times", name, found, "the same first bin in each trial")
    return bin_of, first_of_B, bool(is_along)


def read_axes(
    contents: Contents, name: str, axes: str | None, option: str = "counts"
) -> NDArray[Any]:
    """Read an array and put its axes in the order trials, bins, neurons.

    A continuous recording has no axis of trials; a missing axis of neurons is added.
    """
    values = contents.numbers(name, option)
    if values.dtype == np.float16:  # which has no number for the largest count
        values = values.astype(np.float32)
    axes = axes or _DEFAULT_AXES.get(values.ndim, "")
    words = axes.replace(" ", "").split(",")
    if values.ndim == 1 and set(words) == {"bins", "neurons"}:
        words = ["bins"]  # a column or row, read as a vector
    if len(set(words)) != values.ndim or not {"bins"} <= set(words) <= set(_ORDER):
        raise SettingsError(
            f"`axes={axes!r}`: found {values.ndim} axes of {name!r}, {values.shape}; expected a "
            "word for each of them: trials, bins, neurons",
            hint="Such as `axes='neurons,bins,trials'`. Lists of spike times are chosen with "
            "`spike_times`.",
        )
    ordered = np.transpose(values, [words.index(word) for word in _ORDER if word in words])
    return ordered if "neurons" in words else ordered[..., None]


def check_trials_first(job: ConvertJob, name: str, values_BTN: NDArray[Any]) -> None:
    """Note the order that the axes were taken in; refuse it if trials are labeled otherwise."""
    shown = " x ".join(map(str, values_BTN.shape))
    for beside in ("conditions", "condition", "trial_ids", "split"):
        item = job.contents.items.get(beside)
        if item is not None and item.shape == values_BTN.shape[2:] != values_BTN.shape[:1]:
            found = f"{shown}, and {item.shape[0]} values in {beside!r}"
            expected = "trials x bins x neurons, and one value per trial"
            hint = "Give the order of the axes: `axes='neurons,bins,trials'`."
            raise job.contents.wrong("counts", name, found, expected, hint)
    job.notes.append(f"Axes of {name!r} were taken as trials x bins x neurons, {shown}.")


def read_matrices(
    contents: Contents, name: str, axes: str | None, option: str = "counts"
) -> NDArray[Any]:
    """Read one matrix per trial, (trials, bins, channels); NaN pads shorter trials.

    Matrices are bins x neurons or neurons x bins: the number of neurons is the same in all.
    """
    found, item = contents.find(name, option)
    parts = [np.atleast_2d(part) for part in item.read()]
    shapes = {part.shape for part in parts if part.size}
    kinds = {part.dtype.kind for part in parts}
    if not shapes or not kinds <= set("buif") or any(len(shape) != 2 for shape in shapes):
        shown = ", ".join(map(str, sorted(shapes)[:4])) or "empty matrices"
        raise contents.wrong(option, found, shown, "a matrix of numbers per trial")
    same = [axis for axis in (0, 1) if len({shape[axis] for shape in shapes}) == 1]
    words = [word for word in (axes or "").replace(" ", "").split(",") if word and word != "trials"]
    if sorted(words) == ["bins", "neurons"]:
        neurons = words.index("neurons")
    elif words or len(same) != 1:
        shown = " or ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes)[:2])
        raise SettingsError(
            f"{contents.path}: `{option}={found!r}`: found matrices of {shown}; which axis is "
            "neurons does not show",
            hint="Give the order of the axes: `axes='bins,neurons'` or `axes='neurons,bins'`.",
        )
    else:
        (neurons,) = same
    if neurons not in same:
        n_found = sorted(shape[neurons] for shape in shapes)
        shown = f"{n_found[0]} to {n_found[-1]} neurons in {found!r}"
        raise contents.wrong("axes", axes or "", shown, "the same number in each trial")
    n_channels = next(iter(shapes))[neurons]
    n_bins = max(shape[1 - neurons] for shape in shapes)
    check_memory(
        4 * len(parts) * n_bins * n_channels,
        f"{contents.path}: {found!r}, {len(parts)} trials of up to {n_bins} bins x {n_channels},",
    )
    values_BTK = np.full((len(parts), n_bins, n_channels), np.nan, dtype=np.float32)
    for own_TK, part in zip(values_BTK, parts, strict=True):
        if part.size:
            part_TK = part if neurons == 1 else part.T
            own_TK[: len(part_TK)] = part_TK
    return values_BTK


def own_lengths(values_BTN: NDArray[Any]) -> IntArray:
    """Return the number of bins before the NaN that pads each trial; 0 if all of it is NaN."""
    if values_BTN.dtype.kind != "f":
        return np.full(values_BTN.shape[0], values_BTN.shape[1])
    known_BT = ~np.isnan(values_BTN).all(axis=2)
    n_after = np.argmax(known_BT[:, ::-1], axis=1)
    return np.where(known_BT.any(axis=1), known_BT.shape[1] - n_after, 0)


def as_counts(contents: Contents, name: str, values: NDArray[Any]) -> IntArray:
    """Return counts as uint16; each must be a whole number from 0 to 65535."""
    with np.errstate(invalid="ignore"):
        bad = ~((values >= 0) & (values <= MAX_COUNT) & (values % 1 == 0))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        hint = "Rates and smoothed counts are not counts. Spike times have `spike_times`."
        if not values[at] > 0:
            hint = "If it stands for padding, give the bins of each trial: `lengths=NAME`."
        expected = f"whole numbers from 0 to {MAX_COUNT}"
        raise contents.wrong("counts", name, f"{values[at]:g} at {at}", expected, hint)
    return values.astype(np.uint16)


def source_bin_us(job: ConvertJob, name: str) -> int:
    """Return the bin width of the counts of this name: the chosen one, or that in the file.

    A ``bin_ms``, ``dt`` or ``bin_size`` (in seconds, if it is below one) may be one number, or a
    column of equal numbers beside the counts.
    """
    contents = job.contents
    if job.options.counts_bin_ms is not None:
        return ms_to_us(job.options.counts_bin_ms, "counts_bin_ms")
    group = name.rpartition("/")[0]
    fronts = [f"{group}/", ""] if group else [""]
    for width_name, ms_per_unit in (("bin_ms", 1.0), ("dt", 1000.0), ("bin_size", 1000.0)):
        known = [f"{front}{width_name}" for front in fronts]
        for name in [n for n in known if contents.has_array(n)]:
            widths = contents.numbers(name, None)
            if widths.size == 0 or (widths != widths.flat[0]).any():
                continue
            width_ms = float(widths.flat[0]) * ms_per_unit
            if width_name == "bin_size" and width_ms >= 1000:
                width_ms /= 1000  # in milliseconds
            width_us = ms_to_us(round(width_ms, 9), "counts_bin_ms")
            if width_us < 1:
                raise contents.wrong(None, name, f"{width_ms:g} ms", "a width above 0")
            if width_ms < _SHORTEST_MS:
                hint = f"Is it in seconds? `counts_bin_ms={1000 * width_ms:g}`."
                expected = f"{_SHORTEST_MS:g} ms or more"
                raise contents.wrong(None, name, f"{width_ms:g} ms", expected, hint)
            job.taken["bin width of the counts"] = f"{name}, {width_ms:g} ms"
            return width_us
    raise SettingsError(
        f"{contents.path}: found no bin width of the counts; expected 'bin_ms' in the file",
        hint="Give it in ms: `counts_bin_ms=WIDTH`.",
    )


def chosen_bin_us(job: ConvertJob, source_us: int) -> int:
    """Return the bin width to make: a whole multiple of that of the counts."""
    bin_ms = job.options.bin_ms
    if bin_ms is None:
        return source_us
    bin_us = ms_to_us(bin_ms, "bin_ms")
    if bin_us % source_us:
        widths = ", ".join(f"{source_us * k / 1000:g}" for k in (1, 2, 5, 10))
        raise SettingsError(
            f"`bin_ms`: found {bin_ms:g} ms; expected a whole multiple of the counts' bins of "
            f"{source_us / 1000:g} ms",
            hint=f"Such as {widths} ms.",
        )
    return bin_us


def read_lengths(job: ConvertJob, shape: tuple[int, ...], source_us: int) -> IntArray | None:
    """Return the length of each trial in bins of the file; None if the file does not say.

    ``shape`` is that of the counts, trials x bins x neurons.
    """
    contents, (n_trials, n_bins, *_) = job.contents, shape
    names = {option: getattr(job.options, option) for option in ("lengths", "length_ms")}
    if not any(names.values()):
        names = {option: guess(contents, option) for option in names}
    bins_B: IntArray | None = None
    for option, name in names.items():
        if name is None:
            continue
        values = contents.numbers(name, option)
        job.taken["length of a trial"] = name
        found, expected, hint, in_bins = "", "", None, option == "lengths"
        if values.shape != (n_trials,):
            found, expected = f"shape {values.shape}", f"{n_trials} values, one per trial"
        elif not (np.isfinite(values) & (values >= 0)).all():
            found, expected = f"{np.min(values):g}", "finite lengths from 0"
        elif in_bins and (values % 1 != 0).any():
            found, expected = f"{values[values % 1 != 0][0]:g}", "whole numbers of bins"
        else:
            in_file_B = np.minimum(values.astype(np.float64), _LONGEST)
            own_B = in_file_B if in_bins else np.floor(in_file_B * 1000 / source_us + 1e-6)
            if own_B.max(initial=0) > n_bins:
                found, expected = f"{own_B.max():g} bins", f"at most {n_bins}, those of the counts"
                hint = f"Are they in ms? `length_ms={name!r}`." if in_bins else None
            elif bins_B is not None and (own_B != bins_B).any():
                found, expected = "other lengths", f"those of {names['lengths']!r}"
                hint = "Name the one that holds: `lengths=NAME` or `length_ms=NAME`."
            bins_B = own_B.astype(np.int64)
        if found:
            raise contents.wrong(option, name, found, expected, hint)
    return bins_B


def unit_names(job: ConvertJob, counts: str, n_units: int) -> NDArray[Any]:
    """Return the names of the neurons in the file, else their numbers."""
    contents = job.contents
    if "*" in counts:
        return np.array(contents.column_names(counts))
    for name in (guess(contents, "spike_units"), "neuron_names", "unit_names"):
        if contents.has_array(name, (n_units,)):
            names = np.asarray(contents.items[str(name)].read())
            if len(set(names.tolist())) == n_units:  # else areas or channels
                return names
    job.units_are_places = True
    return np.arange(n_units)


# Trials of counts: a window of each, in wider bins ------------------------------------------------


def cut_counted_trials(
    job: ConvertJob, name: str, values_BTN: NDArray[Any], rows_of: TrialRows | None = None
) -> SpikeData:
    """Cut trials of counts, as they are stored or as rows lie, to a window and to wider bins."""
    contents, options = job.contents, job.options
    if options.chop_ms is not None:
        raise SettingsError(
            f"`chop_ms`: {name!r} has trials already, {values_BTN.shape}; expected a continuous "
            "recording, bins x neurons"
        )
    n_trials, _, n_neurons = values_BTN.shape
    source_us = source_bin_us(job, name)
    bin_us = chosen_bin_us(job, source_us)
    table = rows_of.table if rows_of else job.trials_beside(n_trials, "counts", name)
    kept_B = job.kept_rows(table)
    lengths_B = own_lengths(values_BTN)
    stated_B = read_lengths(job, values_BTN.shape, source_us)
    if stated_B is not None:
        lengths_B = np.minimum(lengths_B, stated_B)
    firsts_B = np.zeros(n_trials, dtype=np.int64)
    starts_us_B, zero, is_on_clock = firsts_B, "the first bin", False
    if rows_of is not None:
        starts_us_B, zero, is_on_clock = rows_of.starts_us_B, rows_of.zero, rows_of.is_on_clock
    own_us = starts_us_B[kept_B & (lengths_B > 0)]  # alike, if not on the recording's clock
    before_ms = float(np.median(own_us)) / 1000 if len(own_us) and not is_on_clock else 0.0
    event = zero if before_ms else ""
    if options.window_ms is not None:
        before_ms, after_ms = options.window_ms
        event, events_us_B = zero, starts_us_B if is_on_clock else firsts_B
        if options.align is not None:
            event = options.align
            events_us_B, known_B = table.times_us(event, "align")
            job.keep("trials", known_B, kept_B, f"have no {event}")
        job.taken["window"] = f"{before_ms:g} to {after_ms:g} ms around {event}"
        n_source = in_bins(after_ms - before_ms, bin_us, "window_ms") * (bin_us // source_us)
        firsts_us_B = events_us_B + ms_to_us(before_ms, "window_ms") - starts_us_B
        firsts_B = (firsts_us_B + source_us // 2) // source_us
        holds_B = (firsts_B >= 0) & (firsts_B + n_source <= lengths_B)
        job.keep("trials", holds_B, kept_B, "do not hold the whole window")
        lengths_B = np.full(n_trials, n_source)
    job.keep("trials", lengths_B >= bin_us // source_us, kept_B, "are shorter than one bin")
    if not kept_B.any():
        raise job.nothing_left("trial")

    rows = np.flatnonzero(kept_B)
    starts_us_B = (starts_us_B + firsts_B * source_us)[rows]
    firsts_B, lengths_B = firsts_B[rows], lengths_B[rows]
    unit_ids = unit_names(job, name, n_neurons)
    units = job.kept_units(unit_ids)
    stored_BTN = values_BTN[rows][..., units]
    window_BTN = _shifted(stored_BTN, firsts_B, lengths_B, blank=0)
    behavior_BTV, behavior_names = _read_behavior(job, values_BTN.shape[:2], rows_of)
    if behavior_BTV is not None:
        behavior_BTV = _shifted(behavior_BTV[rows], firsts_B, lengths_B, blank=np.nan)
    data = SpikeData(
        spikes_BTN=compact_counts(as_counts(contents, name, window_BTN)),
        bin_ms=source_us / 1000,
        lengths_B=lengths_B,
        behavior_BTV=behavior_BTV,
        behavior_names=behavior_names,
        neuron_names=tuple(plain_label(unit) for unit in unit_ids[units].tolist()),
        trial_ids_B=table.ids(rows),
        places_B=rows,
        trial_table=table.at(rows),
        event=short_name(event),
        start_ms=before_ms,
        start_times_s_B=starts_us_B / 1e6 if is_on_clock else None,
    )
    if options.axes is None and looks_neurons_first(data):
        job.notes.append(
            "Mean rates differ far more along the first axis than along the last: if it is "
            "neurons, give the order, `axes='neurons,bins,trials'`."
        )
    if stated_B is None and data.max_count:
        job.notes += unmarked_padding(data)
    data = rebin(data, bin_us / 1000)
    is_count = (stored_BTN >= 0) & (stored_BTN <= MAX_COUNT)  # padding may be anything
    n_all = int(stored_BTN.sum(dtype=np.float64, where=is_count))
    n_kept = int(data.spikes_BTN.sum(dtype=np.int64))
    job.drop("spikes", n_all - n_kept, n_all, "are outside the trials' bins")
    conditions_B, condition_names = read_conditions(table, options.condition, rows, job.notes)
    return replace(
        data,
        conditions_B=conditions_B,
        condition_names=condition_names,
        is_valid_B=job.valid_rows(table, rows),
    )


def _shifted(
    values_BTK: NDArray[Any], firsts_B: IntArray, lengths_B: IntArray, blank: float
) -> NDArray[Any]:
    """Return each trial from its first bin on, ``blank`` past its end."""
    shape = (len(values_BTK), int(lengths_B.max()), *values_BTK.shape[2:])
    shifted_BTK = np.full(shape, blank, dtype=values_BTK.dtype)
    for trial, (first, n_bins) in enumerate(zip(firsts_B, lengths_B, strict=True)):
        shifted_BTK[trial, :n_bins] = values_BTK[trial, first : first + n_bins]
    return shifted_BTK


def _read_behavior(
    job: ConvertJob, shape: tuple[int, ...], rows_of: TrialRows | None
) -> tuple[FloatArray | None, tuple[str, ...]]:
    """Read behavior in the bins of the counts, with a name for each variable."""
    contents = job.contents
    parts: list[FloatArray] = []
    names: list[str] = []
    for name in job.options.behavior:
        _, item = contents.find(name, "behavior")
        if rows_of and contents.has_array(
            contents.resolve(name), (len(rows_of.bin_of), *item.shape[1:])
        ):
            values = contents.numbers(name, "behavior")
            part_BTV = rows_of.folded(values.reshape(len(values), -1))
        elif item.kind in ("lists", "matrices"):
            part_BTV = read_matrices(contents, name, job.options.axes, "behavior")
            n_missing = max(shape[1] - part_BTV.shape[1], 0)
            blank = ((0, 0), (0, n_missing), (0, 0))
            part_BTV = np.pad(part_BTV.astype(np.float64), blank, constant_values=np.nan)
        else:
            axes = job.options.axes or "trials,bins,neurons"
            if len(item.shape) == 2:  # a single variable
                axes = ",".join(word for word in axes.split(",") if word.strip() != "neurons")
            part_BTV = read_axes(contents, name, axes, "behavior").astype(np.float64)
        if part_BTV.ndim != 3 or part_BTV.shape[:2] != shape:
            expected = f"{shape[0]} trials x {shape[1]} bins x variables, as the counts"
            raise contents.wrong("behavior", name, f"shape {part_BTV.shape}", expected)
        parts.append(without_infinite(job, name, part_BTV))
        own = contents.column_names(name) if "*" in name else ()
        names.extend(own or variable_names(name, part_BTV.shape[2]))
    if not parts:
        return None, ()
    job.taken["behavior"] = ", ".join(job.options.behavior)
    return np.concatenate(parts, axis=2), tuple(names)
