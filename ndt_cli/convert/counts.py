"""Spike counts that are binned already: reading them, one continuous recording, or trials.

Axes in names: B trials, T bins, N neurons, V behavioral variables, K any channel.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.behavior import variable_names, without_infinite
from ndt_cli.convert.clock import TicksArray, in_bins, ms_to_us
from ndt_cli.convert.contents import Contents, guess
from ndt_cli.convert.spikes import SpikeTimes
from ndt_cli.convert.tables import ConvertJob, plain_label, read_conditions, short_name
from ndt_cli.data.bins import rebin
from ndt_cli.data.spike_data import (
    MAX_COUNT,
    FloatArray,
    IntArray,
    SpikeData,
    compact_counts,
    looks_neurons_first,
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
    times_name = job.options.counts_times
    if times_name is not None:
        times = contents.numbers(times_name, "counts_times")
        if times.shape != (len(values_TN),):
            expected = f"{len(values_TN)} times, one per bin"
            raise contents.wrong("counts_times", times_name, f"shape {times.shape}", expected)
        job.options.clock.check_name(times_name, contents.path)
        times_us_T = job.options.clock.to_us(times)
        start_us = int(times_us_T[0])
        late_us_T = times_us_T - start_us - width_us * np.arange(len(times))
        off = np.flatnonzero(2 * np.abs(late_us_T) > width_us)
        if len(off):
            raise contents.wrong(
                "counts_times",
                times_name,
                f"the time of bin {off[0]} {late_us_T[off[0]] / 1000:g} ms from where bins of "
                f"{width_us / 1000:g} ms without a gap put it",
                "a time per bin, each a bin width after the one before",
                "Is `counts_bin_ms` right? Where the recording has gaps, convert each stretch of "
                "it on its own, or count its spikes again from their times.",
            )
    n_spikes = int(counts_TN.sum(dtype=np.int64))
    check_memory(8 * n_spikes, f"{contents.path}: {name!r}, {n_spikes} spikes,")
    middles_us_T = start_us + width_us // 2 + width_us * np.arange(len(counts_TN))
    times_us = tuple(np.repeat(middles_us_T, counts_T) for counts_T in counts_TN.T)
    bins_us = start_us, start_us + len(counts_TN) * width_us, width_us
    spikes = SpikeTimes(times_us, unit_names(job, len(times_us)), bins_us=bins_us)
    return spikes, middles_us_T, chosen_bin_us(job, width_us)


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


def unit_names(job: ConvertJob, n_units: int) -> NDArray[Any]:
    """Return the names of the neurons in the file, else their numbers."""
    contents = job.contents
    for name in (guess(contents, "spike_units"), "neuron_names", "unit_names"):
        if contents.has_array(name, (n_units,)):
            names = np.asarray(contents.items[str(name)].read())
            if len(set(names.tolist())) == n_units:  # else areas or channels
                return names
    job.units_are_places = True
    return np.arange(n_units)


# Trials of counts: a window of each, in wider bins ------------------------------------------------


def cut_counted_trials(job: ConvertJob, name: str, values_BTN: NDArray[Any]) -> SpikeData:
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
    kept_B = job.kept_rows(table)
    lengths_B = own_lengths(values_BTN)
    stated_B = read_lengths(job, values_BTN.shape, source_us)
    if stated_B is not None:
        lengths_B = np.minimum(lengths_B, stated_B)
    firsts_B, event, before_ms = np.zeros(n_trials, dtype=np.int64), "", 0.0
    if options.window_ms is not None:
        before_ms, after_ms = options.window_ms
        event, events_us_B = "the first bin", firsts_B
        if options.align is not None:
            event = options.align
            events_us_B, known_B = table.times_us(event, "align")
            job.keep("trials", known_B, kept_B, f"have no {event}")
        job.taken["window"] = f"{before_ms:g} to {after_ms:g} ms around {event}"
        n_source = in_bins(after_ms - before_ms, bin_us, "window_ms") * (bin_us // source_us)
        firsts_us_B = events_us_B + ms_to_us(before_ms, "window_ms")
        firsts_B = (firsts_us_B + source_us // 2) // source_us
        holds_B = (firsts_B >= 0) & (firsts_B + n_source <= lengths_B)
        job.keep("trials", holds_B, kept_B, "do not hold the whole window")
        lengths_B = np.full(n_trials, n_source)
    job.keep("trials", lengths_B >= bin_us // source_us, kept_B, "are shorter than one bin")
    if not kept_B.any():
        raise job.nothing_left("trial")

    rows = np.flatnonzero(kept_B)
    firsts_B, lengths_B = firsts_B[rows], lengths_B[rows]
    unit_ids = unit_names(job, n_neurons)
    units = job.kept_units(unit_ids)
    stored_BTN = values_BTN[rows][..., units]
    window_BTN = _shifted(stored_BTN, firsts_B, lengths_B, blank=0)
    behavior_BTV, behavior_names = _read_behavior(job, values_BTN.shape[:2])
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
    )
    if options.axes is None and looks_neurons_first(data):
        job.notes.append(
            "Mean rates differ far more along the first axis than along the last: if it is "
            "neurons, give the order, `axes='neurons,bins,trials'`."
        )
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
    job: ConvertJob, shape: tuple[int, ...]
) -> tuple[FloatArray | None, tuple[str, ...]]:
    """Read behavior in the bins of the counts, with a name for each variable."""
    contents = job.contents
    parts: list[FloatArray] = []
    names: list[str] = []
    for name in job.options.behavior:
        _, item = contents.find(name, "behavior")
        if item.kind in ("lists", "matrices"):
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
        names.extend(variable_names(name, part_BTV.shape[2]))
    if not parts:
        return None, ()
    job.taken["behavior"] = ", ".join(job.options.behavior)
    return np.concatenate(parts, axis=2), tuple(names)
