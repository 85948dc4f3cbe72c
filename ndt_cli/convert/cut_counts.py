"""Trials from counts that are cut into trials already.

Axes in names: B trials, T bins, N neurons, V behavioural variables, K any channel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.behaviour import variable_names
from ndt_cli.convert.choices import Choices, in_bins
from ndt_cli.convert.conditions import read_conditions
from ndt_cli.convert.contents import Contents
from ndt_cli.convert.cut import Cut
from ndt_cli.convert.cut_clocked import LOOK, valid_rows
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.read_counts import (
    as_counts,
    chosen_bin_us,
    own_lengths,
    read_axes,
    read_lengths,
    source_bin_us,
    unit_names,
)
from ndt_cli.convert.tables import Table, find_table
from ndt_cli.convert.ticks import ms_to_us
from ndt_cli.convert.units import kept_units
from ndt_cli.convert.windows import chosen_rows
from ndt_cli.data.checks import MAX_COUNT, compact_counts
from ndt_cli.data.rebin import rebin
from ndt_cli.data.spike_data import FloatArray, IntArray, SpikeData
from ndt_cli.errors import DataError, SettingsError


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
    behaviour_BTV, names = _behaviour(contents, choices, values_BTN.shape[:2], journal)
    if behaviour_BTV is not None:
        behaviour_BTV = _shifted(behaviour_BTV[rows], firsts_B, lengths_B, blank=np.nan)
    data = SpikeData(
        spikes_BTN=compact_counts(as_counts(window_BTN, contents, name)),
        bin_ms=source_us / 1000,
        lengths_B=lengths_B,
        behaviour_BTV=behaviour_BTV,
        behaviour_names=names,
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


def _behaviour(
    contents: Contents, choices: Choices, shape: tuple[int, ...], journal: Journal
) -> tuple[FloatArray | None, tuple[str, ...]]:
    parts: list[FloatArray] = []
    names: list[str] = []
    for name in choices.behaviour:
        axes = choices.axes or ("trials", "bins", "neurons")
        if len(contents.find(name, "--behaviour")[1].shape) == 2:  # a single variable
            axes = tuple(word for word in axes if word != "neurons")
        part_BTV = read_axes(contents, name, axes, "--behaviour").astype(np.float64)
        if part_BTV.ndim != 3 or part_BTV.shape[:2] != shape:
            raise contents.wrong(
                "--behaviour",
                name,
                f"shape {part_BTV.shape}",
                f"{shape[0]} trials x {shape[1]} bins x variables, as the counts",
            )
        journal.took("behaviour", ", ".join([*names, name]))
        parts.append(part_BTV)
        names.extend(variable_names(name, part_BTV.shape[2]))
    return (np.concatenate(parts, axis=2) if parts else None), tuple(names)
