"""From a table of trials to what is cut from the recording.

Axes in names: B trials, R rows of the table.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.choices import Choices, in_bins
from ndt_cli.convert.guess import guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.tables import Table
from ndt_cli.convert.ticks import TicksArray, ms_to_us
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import SettingsError


@dataclass(frozen=True, eq=False)
class Windows:
    """What is cut: one row a trial.

    Parameters
    ----------
    starts_us_B : (trials,) int array
        Beginning of each trial in microseconds.
    n_bins_B : (trials,) int array
        Bins of each trial.
    rows_B : (trials,) int array
        Its row in the table.
    """

    starts_us_B: TicksArray
    n_bins_B: IntArray
    rows_B: IntArray

    def in_order(self) -> "Windows":
        """Return them in order of time."""
        return self.take(np.argsort(self.starts_us_B, kind="stable"))

    def take(self, trials: NDArray[np.bool_] | IntArray) -> "Windows":
        """Return some of them."""
        return Windows(self.starts_us_B[trials], self.n_bins_B[trials], self.rows_B[trials])


def with_duration(table: Table, choices: Choices) -> Table:
    """Return the table with a column ``duration_ms``, where it has starts and stops but not that.

    So ``--where "duration_ms < 3000"`` keeps one endless trial from padding all the others.
    """
    start, stop = _named(table, choices.start, "start"), _named(table, choices.stop, "stop")
    if start is None or stop is None or "duration_ms" in table.columns:
        return table
    (starts, has_start), (stops, has_stop) = (
        table.times_us(name, flag) for name, flag in ((start, "--start"), (stop, "--stop"))
    )
    duration_ms = np.where(has_start & has_stop, (stops - starts) / 1000, np.nan)
    return replace(table, added={**table.added, "duration_ms": duration_ms})


def chosen_rows(table: Table, choices: Choices, journal: Journal) -> NDArray[np.bool_]:
    """Return which rows fulfil the conditions of ``--where``."""
    kept_R = np.ones(table.n_rows, dtype=bool)
    for text, holds_R in table.fulfilling(choices.where, "--where"):
        journal.keep("trials", holds_R, kept_R, f"do not fulfil {text!r}")
    return kept_R


def plan_windows(table: Table, choices: Choices, bin_us: int, journal: Journal) -> Windows:
    """Return a window around an event in each trial, or each trial from start to stop.

    A partial last bin of a whole trial is left out.

    Raises
    ------
    SettingsError, DataError
        If the columns are not there, or the window is no whole number of bins.
    """
    kept_R = chosen_rows(table, choices, journal)
    if choices.window_ms is None:
        spans_us_R2 = whole_trials(table, choices, kept_R, journal)
        n_bins_R = (spans_us_R2[:, 1] - spans_us_R2[:, 0]) // bin_us
        journal.keep("trials", n_bins_R >= 1, kept_R, "are shorter than one bin")
        starts_us_R = spans_us_R2[:, 0]
    else:
        before_ms, after_ms = choices.window_ms
        event_us_R, known_R, event = _events(table, choices)
        journal.took("window", f"{before_ms:g} to {after_ms:g} ms around {event}")
        journal.keep("trials", known_R, kept_R, f"have no {event}")
        starts_us_R = event_us_R + ms_to_us(before_ms, "--window")
        n_bins = in_bins(after_ms - before_ms, bin_us, "--window")
        n_bins_R = np.full(table.n_rows, n_bins)
    return Windows(starts_us_R[kept_R], n_bins_R[kept_R], np.flatnonzero(kept_R))


def whole_trials(
    table: Table, choices: Choices, kept_R: NDArray[np.bool_], journal: Journal
) -> TicksArray:
    """Return start and stop of every row, (rows, 2); rows without them leave ``kept_R``.

    Raises
    ------
    SettingsError
        If there are no such columns.
    """
    columns = []
    for chosen, what in ((choices.start, "start"), (choices.stop, "stop")):
        name = _named(table, chosen, what)
        if name is None and what == "start" and table.zero_us_R is not None:
            columns.append(table.zero_us_R)
            continue
        if name is None:
            raise SettingsError(
                f"{table.contents.path}: found no column for the {what} of a trial; there are "
                + (", ".join(f"`{c}`" for c in table.columns) or "none"),
                hint=f"Give its name, --{what} COLUMN, or cut a window around an event: "
                "--align COLUMN --window FROM TO.",
            )
        times_us_R, known_R = table.times_us(name, f"--{what}")
        journal.took(f"{what} of a trial", name)
        journal.keep("trials", known_R, kept_R, f"have no {name}")
        columns.append(times_us_R)
    starts_us_R, stops_us_R = columns
    journal.keep("trials", stops_us_R > starts_us_R, kept_R, "end before they begin")
    return np.stack(columns, axis=1)


def _events(table: Table, choices: Choices) -> tuple[TicksArray, NDArray[np.bool_], str]:
    name = choices.align or _named(table, choices.start, "start")
    if name is not None:
        return *table.times_us(name, "--align" if choices.align else "--start"), name
    if table.zero_us_R is not None:
        return table.zero_us_R, np.ones(table.n_rows, dtype=bool), "the zero of each trial"
    raise SettingsError(
        f"{table.contents.path}: --window: found no event to count from; there are columns "
        + (", ".join(f"`{c}`" for c in table.columns) or "none"),
        hint="Give one: --align COLUMN.",
    )


def _named(table: Table, chosen: str | None, what: str) -> str | None:
    if table.zero_us_R is not None:
        return chosen  # an ordinary name is one on the recording's clock, which these are not
    return chosen or guess(table.contents, what, table.columns)
