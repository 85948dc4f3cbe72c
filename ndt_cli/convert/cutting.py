"""Trials from a recording with a clock: windows, whole trials, or windows all along it.

Axes in names: B trials, N units, R rows of the table of trials.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.behavior import Behavior, check_known, variable_names
from ndt_cli.convert.clock import TicksArray, clipped, contained, ms_to_us
from ndt_cli.convert.contents import Contents
from ndt_cli.convert.counts import (
    ContinuousCounts,
    as_counts,
    chosen_bin_us,
    own_lengths,
    read_axes,
    read_lengths,
    source_bin_us,
    unit_names,
)
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.options import Choices, in_bins
from ndt_cli.convert.spikes import SpikeTimes
from ndt_cli.convert.tables import Conditions, Table, find_table, kept_units, read_conditions
from ndt_cli.convert.trials import (
    Cut,
    Windows,
    chosen_rows,
    draw_valid,
    plan_pieces,
    plan_windows,
    whole_trials,
    with_duration,
)
from ndt_cli.data.checks import MAX_COUNT, compact_counts
from ndt_cli.data.rebin import rebin
from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.memory import check_memory

Spikes = SpikeTimes | ContinuousCounts
# While they are counted: a count, and where its bin begins, in microseconds and in bins.
_COUNTED_BYTES, _EDGE_BYTES = 4, 16

# So few spikes in so many bins are a slip of the unit, or one time that is damaged.
_LOWEST_RATE_HZ, _MANY_ENTRIES = 0.001, 10_000_000

LOOK = "ndt convert FILE --list  shows the first values of each column."


def cut_clocked(
    spikes: Spikes,
    table: Table | None,
    behavior: list[Behavior],
    bin_us: int,
    choices: Choices,
    journal: Journal,
    source: str,
) -> Cut:
    """Cut a recording into trials, or chop it into windows.

    Parameters
    ----------
    spikes : SpikeTimes or ContinuousCounts
        The units to keep.
    table : Table or None
        The trials.
    behavior : list of Behavior
        What comes along.
    bin_us : int
        Bin width in microseconds.
    choices, journal
        What is asked for; what was done.
    source : str
        What to call the file in an error.

    Raises
    ------
    SettingsError, DataError
        If something asked for is not there or cannot be, or no trial is left.
    """
    if table is None:
        _refuse_columns(choices, source)
    else:
        table = with_duration(table, choices)
    if choices.chop_ms is not None:
        return _chopped(spikes, table, behavior, bin_us, choices, journal, source)
    if table is None:
        raise SettingsError(
            f"{source}: found no trials; expected a table of them, or windows all along",
            hint="Give --trials TABLE, or columns: --start NAME --stop NAME, or --align NAME "
            "--window FROM TO; or chop the recording: --chop-ms 1000 --overlap-ms 200.",
        )
    windows = plan_windows(table, choices, bin_us, journal)
    windows = replace(windows, starts_us_B=spikes.snapped(windows.starts_us_B))
    windows = _observed(windows, spikes, bin_us, journal).in_order()
    if len(windows.rows_B) == 0:
        raise DataError(f"{source}: no trial is left: {journal.reasons()}", LOOK)
    _note_overlap(windows, bin_us, journal)
    n_bins = len(windows.n_bins_B) * int(windows.n_bins_B.max())
    _check_memory(n_bins, spikes, bin_us, source)
    data = _data(spikes, behavior, windows.starts_us_B, windows.n_bins_B, bin_us, journal, source)
    is_valid_R = valid_rows(table, choices)
    return Cut(
        replace(data, trial_ids_B=windows.rows_B),
        spikes.unit_ids,
        read_conditions(table, choices.condition, windows.rows_B),
        None if is_valid_R is None else is_valid_R[windows.rows_B],
    )


def _refuse_columns(choices: Choices, source: str) -> None:
    """Refuse what needs a table of trials where there is none."""
    for flag, value in (
        ("--where", choices.where),
        ("--valid-where", choices.valid_where),
        ("--condition", choices.condition),
    ):
        if value:
            raise SettingsError(
                f"{source}: {flag}: found no trials; expected a table with that column",
                hint="Give --trials TABLE.",
            )


def valid_rows(table: Table, choices: Choices) -> NDArray[np.bool_] | None:
    """Return which rows ``--valid-where`` makes validation trials; None without it."""
    if choices.valid_where is None:
        return None
    return table.fulfilling([choices.valid_where], "--valid-where")[0][1]


def _chopped(
    spikes: Spikes,
    table: Table | None,
    behavior: list[Behavior],
    bin_us: int,
    choices: Choices,
    journal: Journal,
    source: str,
) -> Cut:
    window_bins = in_bins(choices.chop_ms or 0, bin_us, "--chop-ms")
    overlap_bins = in_bins(choices.overlap_ms, bin_us, "--overlap-ms")
    stretches_us, rows = _stretches(spikes, table, bin_us, choices, journal)
    stretches_us[:, 0] = spikes.snapped(stretches_us[:, 0])
    if len(stretches_us) == 0 or (stretches_us[:, 1] - stretches_us[:, 0]).max() < 2 * bin_us:
        raise DataError(f"{source}: no bin is left to chop: {journal.reasons() or 'no spikes'}")
    conditions = None
    if table is not None:
        conditions = read_conditions(table, choices.condition, rows)

    def draw(stretch_of_cell: IntArray) -> NDArray[np.bool_]:
        if table is not None and choices.valid_where is not None:
            is_valid_R = valid_rows(table, choices)
            assert is_valid_R is not None
            return is_valid_R[rows][stretch_of_cell]
        return draw_valid(
            len(stretch_of_cell),
            choices.split or "blocks",
            valid_fraction=choices.valid_fraction,
            seed=choices.seed,
            conditions_B=None if conditions is None else conditions.numbers_B[stretch_of_cell],
            source=source,
        )

    n_bins = int((stretches_us[:, 1] - stretches_us[:, 0]).sum()) // bin_us
    _check_memory(n_bins, spikes, bin_us, source)
    pieces = plan_pieces(stretches_us, bin_us, window_bins, overlap_bins, draw)
    journal.took(
        "windows",
        f"{len(pieces.n_bins_B)} of {window_bins} bins, overlapping by {overlap_bins}, in "
        f"{len(stretches_us)} {'stretch' if len(stretches_us) == 1 else 'stretches'}",
    )
    starts_us_B: TicksArray = pieces.start_bins_B.astype(np.int64) * bin_us
    data = _data(spikes, behavior, starts_us_B, pieces.n_bins_B, bin_us, journal, source)
    data = replace(data, trial_ids_B=np.arange(data.n_trials), start_bins_B=pieces.start_bins_B)
    labels = None
    if conditions is not None:
        labels = Conditions(conditions.numbers_B[pieces.stretch_B], conditions.names)
    return Cut(data, spikes.unit_ids, labels, pieces.is_valid_B)


def _stretches(
    spikes: Spikes, table: Table | None, bin_us: int, choices: Choices, journal: Journal
) -> tuple[TicksArray, IntArray]:
    """Return what is chopped, disjoint and in order, and the row of the table of each."""
    observed_us = spikes.observed_by_all_us
    start_us, stop_us = spikes.span_us
    if table is None:
        if observed_us is None:
            # Nobody says when the recording ran; the bins of the first and last spike count whole.
            whole_us = [start_us // bin_us * bin_us, -(-stop_us // bin_us) * bin_us]
            stretches_us = np.array([whole_us], dtype=np.int64)
        else:
            stretches_us = clipped(observed_us, start_us, stop_us)
        return stretches_us, np.zeros(len(stretches_us), dtype=np.int64)
    kept_R = chosen_rows(table, choices, journal)
    spans_us_R2 = whole_trials(table, choices, kept_R, journal)
    if observed_us is not None:
        observed_R = contained(spans_us_R2[:, 0], spans_us_R2[:, 1], observed_us)
        journal.keep("trials", observed_R, kept_R, "lie outside what was recorded")
    rows = np.flatnonzero(kept_R)
    rows = rows[np.argsort(spans_us_R2[rows, 0], kind="stable")]
    stretches_us = spans_us_R2[rows]
    if (stretches_us[1:, 0] < stretches_us[:-1, 1]).any():
        raise DataError(
            f"{table.contents.path}: found trials that overlap in time; expected stretches apart "
            "from one another to chop",
            hint="Choose some with --where, or chop the whole recording: --trials none.",
        )
    return stretches_us, rows


def _observed(windows: Windows, spikes: Spikes, bin_us: int, journal: Journal) -> Windows:
    """Leave out windows in which a unit was not recorded: it would look silent there."""
    observed_us = spikes.observed_by_all_us
    if observed_us is None:
        return windows
    stops_us_B = windows.starts_us_B + windows.n_bins_B * bin_us
    holds_B = contained(windows.starts_us_B, stops_us_B, observed_us)
    why = "lie, in part, where not all units were recorded"
    journal.drop("trials", int((~holds_B).sum()), len(holds_B), why)
    return windows.take(holds_B)


def _note_overlap(windows: Windows, bin_us: int, journal: Journal) -> None:
    starts_us_B = windows.starts_us_B
    stops_us_B = starts_us_B + windows.n_bins_B * bin_us
    n_overlap = int((starts_us_B[1:] < np.maximum.accumulate(stops_us_B)[:-1]).sum())
    if n_overlap:
        journal.note(
            f"{n_overlap} trials begin before an earlier one ends: spikes there count in both, "
            "and may be in training and validation. --split blocks parts them in time."
        )


def _check_memory(n_bins: int, spikes: Spikes, bin_us: int, source: str) -> None:
    """Refuse more bins than there is memory for, or spikes to fill, before they are counted."""
    n_units = len(spikes.unit_ids)
    n_entries, seconds = n_bins * n_units, n_bins * bin_us / 1e6
    if n_entries > _MANY_ENTRIES and spikes.n_spikes < _LOWEST_RATE_HZ * seconds * n_units:
        raise DataError(
            f"{source}: found {spikes.n_spikes} spikes of {n_units} units in {seconds:.3g} seconds "
            f"of trials, with padding; expected {_LOWEST_RATE_HZ:g} spikes a second or more",
            hint="Are the times in another unit (--time-unit), or is one of them far off? " + LOOK,
        )
    what = f"{source}: {n_bins} bins of {bin_us / 1000:g} ms, of {n_units} units, with padding,"
    hint = f"Are the times in another unit (--time-unit)? Or cut less. {LOOK}"
    check_memory(n_bins * (_COUNTED_BYTES * n_units + _EDGE_BYTES), what, hint)


def _data(
    spikes: Spikes,
    behavior: list[Behavior],
    starts_us_B: TicksArray,
    n_bins_B: IntArray,
    bin_us: int,
    journal: Journal,
    source: str,
) -> SpikeData:
    n_inside = spikes.n_inside(starts_us_B, starts_us_B + n_bins_B * bin_us)
    n_outside = spikes.n_spikes - n_inside
    journal.drop("spikes", n_outside, spikes.n_spikes, "are outside the trials' bins")
    parts = [series.cut(starts_us_B, n_bins_B, bin_us) for series in behavior]
    for series, cut_BTV in zip(behavior, parts, strict=True):
        check_known(series, cut_BTV, starts_us_B, n_bins_B * bin_us, source)
    return SpikeData(
        spikes_BTN=spikes.count(starts_us_B, n_bins_B, bin_us),
        bin_ms=bin_us / 1000,
        lengths_B=n_bins_B,
        behavior_BTV=np.concatenate(parts, axis=2) if parts else None,
        behavior_names=tuple(name for series in behavior for name in series.names),
    )


# ------------------------------------------------------------------------------------------------
# Trials from counts that are cut into trials already.
#
# Axes in names: B trials, T bins, N neurons, V behavioral variables, K any channel.
# ------------------------------------------------------------------------------------------------


def cut_counts(
    contents: Contents, name: str, values_BTN: NDArray[Any], choices: Choices, journal: Journal
) -> Cut:
    """Cut trials of counts to a window and to wider bins.

    Parameters
    ----------
    contents : Contents
        The file.
    name : str
        Name of the counts.
    values_BTN : (trials, bins, neurons) array
        The counts as they are stored, NaN past the end of a trial.
    choices, journal
        What is asked for; what was done.

    Raises
    ------
    SettingsError, DataError
        If something asked for is not there or cannot be.
    """
    if choices.chop_ms is not None:
        raise SettingsError(
            f"--chop-ms: `{name}` has trials already, {values_BTN.shape}; expected a continuous "
            "recording, bins x neurons"
        )
    n_trials, _, n_neurons = values_BTN.shape
    source_us = source_bin_us(contents, choices, journal)
    bin_us = chosen_bin_us(choices, source_us)
    table = _table(contents, choices, n_trials)
    kept_B = chosen_rows(table, choices, journal)
    lengths_B = own_lengths(values_BTN)
    stated_B = read_lengths(contents, choices, n_trials, source_us, journal)
    if stated_B is not None:
        lengths_B = np.minimum(lengths_B, stated_B)
    firsts_B, lengths_B = _window(table, choices, lengths_B, kept_B, (source_us, bin_us), journal)
    journal.keep("trials", lengths_B >= bin_us // source_us, kept_B, "are shorter than one bin")
    if not kept_B.any():
        raise DataError(f"{contents.path}: no trial is left: {journal.reasons()}", LOOK)

    rows = np.flatnonzero(kept_B)
    firsts_B, lengths_B = firsts_B[rows], lengths_B[rows]
    unit_ids = unit_names(contents, n_neurons)
    units = kept_units(contents, choices, unit_ids, journal)
    stored_BTN = values_BTN[rows][..., units]
    window_BTN = _shifted(stored_BTN, firsts_B, lengths_B, blank=0)
    behavior_BTV, names = _behavior(contents, choices, values_BTN.shape[:2], journal)
    if behavior_BTV is not None:
        behavior_BTV = _shifted(behavior_BTV[rows], firsts_B, lengths_B, blank=np.nan)
    data = SpikeData(
        spikes_BTN=compact_counts(as_counts(window_BTN, contents, name)),
        bin_ms=source_us / 1000,
        lengths_B=lengths_B,
        behavior_BTV=behavior_BTV,
        behavior_names=names,
        trial_ids_B=rows,
    )
    data = rebin(data, bin_us / 1000)
    is_count = (stored_BTN >= 0) & (stored_BTN <= MAX_COUNT)  # padding may be anything
    n_all = int(stored_BTN.sum(dtype=np.float64, where=is_count))
    n_kept = int(data.spikes_BTN.sum(dtype=np.int64))
    journal.drop("spikes", n_all - n_kept, n_all, "are outside the trials' bins")
    conditions = read_conditions(table, choices.condition, rows)
    is_valid_B = valid_rows(table, choices)
    return Cut(data, unit_ids[units], conditions, None if is_valid_B is None else is_valid_B[rows])


def _table(contents: Contents, choices: Choices, n_trials: int) -> Table:
    clock = choices.trials_clock
    if choices.trials in (None, "none"):
        return Table(contents, "", n_trials, "--trials", clock)
    table = find_table(contents, str(choices.trials), "--trials", clock)
    if table.n_rows != n_trials:
        raise contents.wrong(
            "--trials",
            str(choices.trials),
            f"{table.n_rows} rows",
            f"{n_trials}, one a trial of counts",
        )
    return table


def _window(
    table: Table,
    choices: Choices,
    lengths_B: IntArray,
    kept_B: NDArray[np.bool_],
    widths_us: tuple[int, int],
    journal: Journal,
) -> tuple[IntArray, IntArray]:
    """Return first bin and length of what is kept of each trial, in bins of the file."""
    if choices.window_ms is None:
        return np.zeros(len(lengths_B), dtype=np.int64), lengths_B
    source_us, bin_us = widths_us
    before_ms, after_ms = choices.window_ms
    event, events_us_B = "the first bin", np.zeros(len(lengths_B), dtype=np.int64)
    if choices.align is not None:
        event = choices.align
        events_us_B, known_B = table.times_us(event, "--align")
        journal.keep("trials", known_B, kept_B, f"have no {event}")
    journal.took("window", f"{before_ms:g} to {after_ms:g} ms around {event}")
    n_source = in_bins(after_ms - before_ms, bin_us, "--window") * (bin_us // source_us)
    firsts_us_B = events_us_B + ms_to_us(before_ms, "--window")
    firsts_B = (firsts_us_B + source_us // 2) // source_us
    holds_B = (firsts_B >= 0) & (firsts_B + n_source <= lengths_B)
    journal.keep("trials", holds_B, kept_B, "do not hold the whole window")
    return firsts_B, np.full(len(lengths_B), n_source)


def _shifted(
    values_BTK: NDArray[Any], firsts_B: IntArray, lengths_B: IntArray, blank: float
) -> NDArray[Any]:
    """Return each trial from its first bin on, ``blank`` past its end."""
    shape = (len(values_BTK), int(lengths_B.max()), *values_BTK.shape[2:])
    shifted_BTK = np.full(shape, blank, dtype=values_BTK.dtype)
    for trial, (first, n_bins) in enumerate(zip(firsts_B, lengths_B, strict=True)):
        shifted_BTK[trial, :n_bins] = values_BTK[trial, first : first + n_bins]
    return shifted_BTK


def _behavior(
    contents: Contents, choices: Choices, shape: tuple[int, ...], journal: Journal
) -> tuple[FloatArray | None, tuple[str, ...]]:
    parts: list[FloatArray] = []
    names: list[str] = []
    for name in choices.behavior:
        axes = choices.axes or ("trials", "bins", "neurons")
        if len(contents.find(name, "--behavior")[1].shape) == 2:  # a single variable
            axes = tuple(word for word in axes if word != "neurons")
        part_BTV = read_axes(contents, name, axes, "--behavior").astype(np.float64)
        if part_BTV.ndim != 3 or part_BTV.shape[:2] != shape:
            raise contents.wrong(
                "--behavior",
                name,
                f"shape {part_BTV.shape}",
                f"{shape[0]} trials x {shape[1]} bins x variables, as the counts",
            )
        journal.took("behavior", ", ".join([*names, name]))
        parts.append(part_BTV)
        names.extend(variable_names(name, part_BTV.shape[2]))
    return (np.concatenate(parts, axis=2) if parts else None), tuple(names)
