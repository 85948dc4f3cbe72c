"""From a table of trials to what is cut from the recording.

Axes in names: B trials, R rows of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import TicksArray, ms_to_us
from ndt_cli.convert.contents import guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.options import Choices, SplitBy, in_bins
from ndt_cli.convert.tables import Conditions, Table
from ndt_cli.data.chop import chop_windows
from ndt_cli.data.spike_data import IntArray, Recording, SpikeData
from ndt_cli.data.split import split_trials
from ndt_cli.errors import DataError, SettingsError


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


# ------------------------------------------------------------------------------------------------
# Chopping stretches of a recording into windows that never straddle training and validation.
#
# Windows overlap, so a window drawn for validation would share bins with its training neighbors.
# The draw is therefore made first, over cells of one window's length; runs of cells of one split
# are chopped each on its own.
#
# Windows begin on a grid of bins that starts at time 0 of the recording's clock, so that the bin at
# which each one begins says when it was, and `ndt_cli.data.chop.merge` can put them back.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pieces:
    """Windows of the stretches: one row a window.

    Parameters
    ----------
    start_bins_B : (windows,) int array
        First bin, counted from time 0 of the clock.
    n_bins_B : (windows,) int array
        Bins of each window.
    stretch_B : (windows,) int array
        Stretch that each window is of.
    is_valid_B : (windows,) bool array
        True for windows of the validation split.
    """

    start_bins_B: IntArray
    n_bins_B: IntArray
    stretch_B: IntArray
    is_valid_B: NDArray[np.bool_]


def plan_pieces(
    stretches_us: TicksArray,
    bin_us: int,
    window_bins: int,
    overlap_bins: int,
    draw: Callable[[IntArray], NDArray[np.bool_]],
) -> Pieces:
    """Plan the windows of some stretches of a recording.

    Parameters
    ----------
    stretches_us : (stretches, 2) int array
        Beginning and end of each, in microseconds; disjoint. What lies before the first edge of
        the grid, or past the last one, is left out.
    bin_us : int
        Bin width in microseconds.
    window_bins, overlap_bins : int
        As for `chop_windows`.
    draw : callable
        Called with the stretch of each cell, in order; returns which cells validate.
    """
    grid = np.stack([-(-stretches_us[:, 0] // bin_us), stretches_us[:, 1] // bin_us], axis=1)
    cells = [
        (stretch, begin, min(begin + window_bins, stop))
        for stretch, (start, stop) in enumerate(grid.tolist())
        for begin in range(start, stop, window_bins)
    ]
    of_cell = np.array([stretch for stretch, _, _ in cells], dtype=np.int64)
    is_valid = draw(of_cell)
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


# ------------------------------------------------------------------------------------------------
# Which trials validate.
# ------------------------------------------------------------------------------------------------


_N_BLOCKS = 5


def draw_valid(
    n_trials: int,
    by: SplitBy,
    *,
    valid_fraction: float,
    seed: int,
    conditions_B: IntArray | None = None,
    source: str = "the data",
) -> NDArray[np.bool_]:
    """Draw the validation trials.

    Parameters
    ----------
    n_trials : int
        Trials, in order of time.
    by : {"random", "condition", "blocks"}
        Anywhere; in proportion within each condition; or in contiguous blocks.
    valid_fraction : float
        Share that validates.
    seed : int
        Seed of the draw.
    conditions_B : (trials,) int array, optional
        Condition of each trial, for ``"condition"``.
    source : str
        What to call the data in an error.

    Returns
    -------
    is_valid_B : (trials,) bool array

    Raises
    ------
    DataError
        If there are fewer than two trials.
    """
    if by == "blocks":
        return draw_blocks(n_trials, valid_fraction=valid_fraction, seed=seed, source=source)
    _, valid = split_trials(
        n_trials,
        valid_fraction=valid_fraction,
        seed=seed,
        conditions_B=conditions_B if by == "condition" else None,
        source=source,
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
            hint="Shorter windows (--chop-ms) give more of them.",
        )
    n_valid = min(max(round(valid_fraction * n_trials), 1), n_trials - 1)
    n_train = n_trials - n_valid
    n_blocks = min(_N_BLOCKS, n_valid, n_train)
    rng = np.random.default_rng(seed)
    is_valid_B: list[NDArray[np.bool_]] = []
    for i in range(n_blocks):
        block, rest = (n * (i + 1) // n_blocks - n * i // n_blocks for n in (n_valid, n_train))
        section = np.zeros(block + rest, dtype=bool)
        at = int(rng.integers(0, rest + 1))
        section[at : at + block] = True
        is_valid_B.append(section)
    return np.concatenate(is_valid_B)


# ------------------------------------------------------------------------------------------------
# Trials of binned counts on their way to a recording: filtered, labeled and split.
#
# Axes in names: B trials, T bins, N neurons, V behavioral variables.
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cut:
    """What was cut from a file.

    Parameters
    ----------
    data : SpikeData
        All trials, in the order of the recording.
    unit_ids : (neurons,) array
        What each neuron is called in the file.
    conditions : Conditions or None
        Condition of each trial.
    is_valid_B : (trials,) bool array or None
        Which trials validate, where that is settled already.
    """

    data: SpikeData
    unit_ids: NDArray[Any]
    conditions: Conditions | None = None
    is_valid_B: NDArray[np.bool_] | None = None


def drop_silent_units(cut: Cut, min_rate_hz: float, journal: Journal) -> Cut:
    """Leave out neurons whose rate over all trials is below a limit.

    Raises
    ------
    DataError
        If none is left.
    """
    if min_rate_hz <= 0:
        return cut
    data = cut.data
    seconds = float(np.sum(data.lengths_B)) * data.bin_ms / 1000
    rates_hz_N = data.spikes_BTN.sum(axis=(0, 1), dtype=np.int64) / seconds
    kept_N = rates_hz_N >= min_rate_hz
    n_low = int((~kept_N).sum())
    journal.drop("units", n_low, len(kept_N), f"fire less than {min_rate_hz:g} spikes per second")
    if not kept_N.any():
        raise DataError(
            f"--min-rate-hz {min_rate_hz:g}: found no such unit; the highest rate is "
            f"{rates_hz_N.max():.3g} Hz",
            hint="Lower the limit, or check --time-unit: the rates may be off by a factor.",
        )
    return replace(
        cut,
        data=replace(data, spikes_BTN=data.spikes_BTN[..., kept_N]),
        unit_ids=cut.unit_ids[kept_N],
    )


def to_recording(cut: Cut, choices: Choices, source: str) -> Recording:
    """Split the trials and return the recording.

    Raises
    ------
    DataError
        If there are too few trials.
    """
    numbers_B = None if cut.conditions is None else cut.conditions.numbers_B
    data = replace(cut.data, conditions_B=numbers_B)
    is_valid_B = cut.is_valid_B
    if is_valid_B is None:
        is_valid_B = draw_valid(
            data.n_trials,
            choices.split or ("random" if numbers_B is None else "condition"),
            valid_fraction=choices.valid_fraction,
            seed=choices.seed,
            conditions_B=numbers_B,
            source=source,
        )
    train, valid = np.flatnonzero(~is_valid_B), np.flatnonzero(is_valid_B)
    return Recording(data.take(train), data.take(valid), source, "ndt")
