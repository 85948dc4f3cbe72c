"""Spike times in memory, and their counts in bins.

Axes in names: B trials, T bins, N neurons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.clock import (
    Clock,
    TicksArray,
    common_intervals,
    inside,
    merge_intervals,
    ms_to_us,
)
from ndt_cli.convert.contents import PLAIN_KINDS, ArrayItem, Contents, ListsItem, guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.options import Choices
from ndt_cli.convert.tables import Table, find_table, match_rows
from ndt_cli.data.checks import compact_counts
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError, SettingsError


@dataclass(frozen=True, eq=False)
class SpikeTimes:
    """Spikes of each unit.

    Parameters
    ----------
    times_us : tuple of int arrays
        Times of each unit's spikes in microseconds, ascending.
    unit_ids : (units,) array
        What each unit is called in the file.
    observed_us : tuple of (intervals, 2) int arrays, optional
        When each unit was observed, where the file says so.
    """

    times_us: tuple[TicksArray, ...]
    unit_ids: NDArray[Any]
    observed_us: tuple[TicksArray, ...] | None = None

    @property
    def n_units(self) -> int:
        return len(self.times_us)

    @property
    def n_spikes(self) -> int:
        return sum(len(times) for times in self.times_us)

    @property
    def span_us(self) -> tuple[int, int]:
        """From the first spike to just after the last one."""
        fired = [times for times in self.times_us if len(times)]
        if not fired:
            return 0, 0
        return int(min(t[0] for t in fired)), int(max(t[-1] for t in fired)) + 1

    def take(self, units: IntArray) -> "SpikeTimes":
        """Return some of the units, in this order."""
        observed = self.observed_us
        return SpikeTimes(
            tuple(self.times_us[i] for i in units),
            self.unit_ids[units],
            None if observed is None else tuple(observed[i] for i in units),
        )

    @property
    def observed_by_all_us(self) -> TicksArray | None:
        """Intervals in which every unit was observed, (intervals, 2); None where nobody says."""
        return None if self.observed_us is None else common_intervals(self.observed_us)

    def snapped(self, starts_us_B: TicksArray) -> TicksArray:
        """Return the times as they are: a trial may begin at any microsecond."""
        return starts_us_B

    def count(self, starts_us_B: TicksArray, n_bins_B: IntArray, bin_us: int) -> IntArray:
        """Count the spikes in each trial's bins.

        A bin holds the spikes from its first microsecond to the one before the next bin's first:
        a spike at an edge belongs to the bin that begins there.

        Parameters
        ----------
        starts_us_B : (trials,) int array
            Beginning of each trial's first bin.
        n_bins_B : (trials,) int array
            Bins of each trial.
        bin_us : int
            Bin width in microseconds.

        Returns
        -------
        spikes_BTN : (trials, bins, neurons) unsigned int array
            Counts; zero past the end of a shorter trial.
        """
        n_bins = int(np.max(n_bins_B, initial=0))
        # Edges past a trial's end all lie at its end, so that nothing falls between them.
        edges_BT = np.minimum(np.arange(n_bins + 1), np.asarray(n_bins_B)[:, None])
        edges_us_BT = starts_us_B[:, None] + bin_us * edges_BT
        spikes_BTN = np.zeros((len(starts_us_B), n_bins, self.n_units), dtype=np.uint32)
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

    Times are rounded to the microsecond; a spike at an edge belongs to the bin that begins there;
    a partial last bin of a trial is left out.

    Parameters
    ----------
    spike_times_s : sequence of (spikes,) float arrays
        Spike times of each neuron in seconds.
    starts_s, stops_s : (trials,) float arrays
        When each trial begins and ends, in seconds.
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
        If the bin width is no whole number of microseconds.
    DataError
        If a bin has more than 65535 spikes.

    Examples
    --------
    >>> spikes_BTN, lengths_B = bin_spikes([np.array([0.1, 0.3])], np.array([0.0]),
    ...                                    np.array([0.4]), bin_ms=100)
    >>> spikes_BTN[0, :, 0], lengths_B
    (array([0, 1, 0, 1], dtype=uint8), array([4]))
    """
    clock, bin_us = Clock(), ms_to_us(bin_ms, "bin_ms")
    times_us = tuple(np.sort(clock.to_us(np.asarray(times))) for times in spike_times_s)
    starts_us_B = clock.to_us(np.asarray(starts_s))
    lengths_B = np.maximum(clock.to_us(np.asarray(stops_s)) - starts_us_B, 0) // bin_us
    spikes = SpikeTimes(times_us, np.arange(len(times_us)))
    return spikes.count(starts_us_B, lengths_B, bin_us), lengths_B


# ------------------------------------------------------------------------------------------------
# From the arrays of a file to the spike times of each unit.
# ------------------------------------------------------------------------------------------------


_FLAG = "--spike-times"


def read_spike_times(
    contents: Contents, name: str, choices: Choices, journal: Journal
) -> SpikeTimes:
    """Read spikes whose times are on the recording's clock.

    Raises
    ------
    SettingsError, DataError
        If a name is not there, or what it holds is no spike times.
    """
    found = contents.resolve(name)
    item = None if found is None else contents.items[found]
    if isinstance(item, ListsItem) and found is not None:
        journal.took("spike times", found)
        observed = _observed(contents, found, item, choices)
        labels = np.array(item.labels) if item.labels else _row_names(contents, found, item)
        return _from_lists(item.read(), labels, choices, journal, observed)
    if isinstance(item, ArrayItem) and found is not None:
        values = contents.numbers(found, _FLAG)
        journal.took("spike times", found)
        if values.ndim == 2:
            journal.note(f"Each of the {len(values)} rows of `{found}` was taken for a unit.")
            return _from_lists(list(values), np.arange(len(values)), choices, journal)
        if values.ndim == 1:
            units = read_spike_units(contents, choices, len(values), journal)
            labels, unit_of = np.unique(units, return_inverse=True)
            times_us, kept = finite_times(values, choices, journal)
            return SpikeTimes(by_unit(times_us, unit_of[kept], len(labels)), labels)
        raise contents.wrong(_FLAG, found, f"{values.ndim} axes, {values.shape}", "one or two")
    return _from_group(contents, name, choices, journal)


def _from_group(contents: Contents, name: str, choices: Choices, journal: Journal) -> SpikeTimes:
    group = contents.resolve_table(name)
    members = [] if group is None else contents.children(group)
    items = [contents.items[m] for m in members]
    if group is None or not all(isinstance(i, ArrayItem) and len(i.shape) == 1 for i in items):
        raise contents.unknown(_FLAG, name, contents.items)
    journal.took("spike times", f"{group}/, {len(members)} arrays")
    lists = [contents.numbers(m, _FLAG) for m in members]
    labels = np.array([m.rpartition("/")[2] for m in members])
    return _from_lists(lists, labels, choices, journal)


def _from_lists(
    lists: list[NDArray[Any]],
    labels: NDArray[Any],
    choices: Choices,
    journal: Journal,
    observed_us: tuple[TicksArray, ...] | None = None,
) -> SpikeTimes:
    sizes = [np.size(times) for times in lists]
    flat = np.concatenate([np.reshape(times, -1) for times in lists]) if lists else np.zeros(0)
    times_us, kept = finite_times(flat, choices, journal)
    unit_of = np.repeat(np.arange(len(lists)), sizes)[kept]
    return SpikeTimes(by_unit(times_us, unit_of, len(lists)), labels, observed_us)


def read_spike_units(
    contents: Contents, choices: Choices, n_spikes: int, journal: Journal
) -> NDArray[Any]:
    """Read which unit each spike is of.

    Raises
    ------
    SettingsError, DataError
        If nobody says, or there are more or fewer of them than spikes.
    """
    name = choices.spike_units or guess(contents, "spike_units")
    if name is None:
        raise SettingsError(
            f"{contents.path}: found spike times without units; expected the unit of each spike",
            hint="Give its name: --spike-units NAME.",
        )
    units = contents.array(name, "--spike-units")
    journal.took("unit of each spike", contents.resolve(name) or name)
    if units.shape != (n_spikes,):
        raise contents.wrong(
            "--spike-units", name, f"shape {units.shape}", f"{n_spikes} values, one a spike"
        )
    return units


def finite_times(
    values: NDArray[Any], choices: Choices, journal: Journal
) -> tuple[TicksArray, NDArray[np.bool_]]:
    """Return times in microseconds, and which of the values they are: NaN is no spike.

    Raises
    ------
    DataError
        If the values are no numbers.
    """
    if values.dtype.kind not in "uif":
        raise DataError(f"{_FLAG}: found values of type {values.dtype}; expected times")
    kept = np.isfinite(values)
    journal.drop("spikes", int((~kept).sum()), len(kept), "have no time (NaN)")
    if values.dtype == np.float32 and kept.any():
        step_us = float(np.spacing(np.abs(values[kept]).max())) * choices.clock.us_per_unit
        if step_us > 1:
            journal.note(
                f"Spike times are stored in single precision: steps of {step_us / 1000:.2g} ms "
                "late in the recording."
            )
    return choices.clock.to_us(values[kept]), kept


def by_unit(
    times_us: TicksArray, unit_of: NDArray[np.integer], n_units: int
) -> tuple[TicksArray, ...]:
    """Return the times of each unit, ascending."""
    order = np.lexsort((times_us, unit_of))
    stops = np.cumsum(np.bincount(unit_of, minlength=n_units))
    return tuple(np.split(times_us[order], stops[:-1])) if n_units else ()


def _row_names(contents: Contents, name: str, item: ListsItem) -> NDArray[Any]:
    """Return the `id` column of the table that a ragged column is in, else the rows' numbers."""
    beside = contents.items.get(f"{name.rpartition('/')[0]}/id")
    if isinstance(beside, ArrayItem) and beside.shape == item.shape:
        return beside.read()
    return np.arange(int(np.prod(item.shape)))


def _observed(
    contents: Contents, name: str, item: ListsItem, choices: Choices
) -> tuple[TicksArray, ...] | None:
    """Return when each unit was observed, where an NWB file says so."""
    beside = contents.items.get(f"{name.rpartition('/')[0]}/obs_intervals")
    if not isinstance(beside, ListsItem) or beside.shape != item.shape:
        return None
    to_us: Callable[[NDArray[Any]], TicksArray] = choices.clock.to_us
    return tuple(to_us(intervals).reshape(-1, 2) for intervals in beside.read())


# ------------------------------------------------------------------------------------------------
# Spikes whose times count from the beginning of their own trial.
#
# Each trial is put on one long clock, a day after the one before it, so that everything downstream
# is the same as for a recording with one clock.
# ------------------------------------------------------------------------------------------------


_DAY_US = 24 * 3600 * 10**6


def read_listed_trials(
    contents: Contents, name: str, item: ListsItem, choices: Choices, journal: Journal
) -> tuple[SpikeTimes, Table]:
    """Read lists of spike times, one for each trial and unit, such as MATLAB's cells.

    Parameters
    ----------
    contents : Contents
        The file.
    name : str
        Name of the lists.
    item : ListsItem
        The lists: trials x units, or the order that ``choices.axes`` gives.
    choices : Choices
        Units of time, table of the trials.
    journal : Journal
        Is told what was taken and left out.

    Returns
    -------
    spikes : SpikeTimes
    trials : Table
        One row a trial; its ``zero_us_R`` is where the trial is on the long clock.
    """
    axes = choices.axes or ("trials", "neurons")
    if sorted(axes) != ["neurons", "trials"]:
        raise SettingsError(
            f"--axes {','.join(axes)}: found lists of spike times with two axes; expected "
            "trials,neurons or neurons,trials"
        )
    lists = item.read()
    if not lists:
        raise contents.wrong("--spike-times", name, f"no lists, {item.shape}", "at least one")
    grid = np.arange(len(lists)).reshape(item.shape)
    grid_BN = grid if axes[0] == "trials" else grid.T
    n_trials, n_units = grid_BN.shape
    journal.took("spike times", f"{name}, {n_trials} trials x {n_units} units")
    ordered = [np.reshape(lists[i], -1) for i in grid_BN.reshape(-1)]
    sizes = [len(times) for times in ordered]
    times_us, kept = finite_times(np.concatenate(ordered), choices, journal)
    row_of = np.repeat(np.repeat(np.arange(n_trials), n_units), sizes)[kept]
    unit_of = np.repeat(np.tile(np.arange(n_units), n_trials), sizes)[kept]
    table = _beside(contents, choices, n_trials)
    zero_us = _DAY_US * np.arange(n_trials)
    spikes = SpikeTimes(by_unit(times_us + zero_us[row_of], unit_of, n_units), np.arange(n_units))
    return spikes, replace(table, zero_us_R=zero_us)


def read_labeled_trials(
    contents: Contents, name: str, choices: Choices, journal: Journal
) -> tuple[SpikeTimes, Table]:
    """Read one list of spike times with the trial and the unit of each spike.

    The other columns of that list whose value is the same all through each trial become columns
    of the trials, where no table of trials is given.

    Returns
    -------
    spikes, trials
        As `read_listed_trials`.

    Raises
    ------
    SettingsError, DataError
        If a name is not there, or its length is another.
    """
    assert choices.spike_trials is not None
    values = contents.numbers(name, "--spike-times")
    labels = contents.array(choices.spike_trials, "--spike-trials")
    journal.took("spike times", name)
    journal.took("trial of each spike", choices.spike_trials)
    if labels.shape != values.shape or values.ndim != 1:
        raise contents.wrong(
            "--spike-trials",
            choices.spike_trials,
            f"shape {labels.shape}",
            f"that of `{name}`, {values.shape}, one a spike",
        )
    unit_ids, unit_of = np.unique(
        read_spike_units(contents, choices, len(values), journal), return_inverse=True
    )
    trial_ids, first_of, trial_of = np.unique(labels, return_index=True, return_inverse=True)
    if choices.trials is None:
        added = _constant_columns(contents, len(values), first_of, trial_of)
        table = Table(contents, "", len(trial_ids), "--spike-trials", choices.trials_clock, added)
        row_of = trial_of
        journal.note(
            f"Trials are those of `{choices.spike_trials}`: a trial without any spike is not among "
            "them. Give a table with --trials to have it."
        )
    else:
        table = find_table(contents, choices.trials, "--trials", choices.trials_clock)
        journal.took("trials", choices.trials)
        id_columns = (choices.spike_trials.rpartition("/")[2], "trial", "trial_id", "id")
        row_of = match_rows(table, trial_ids, id_columns, journal)[trial_of]
    times_us, kept = finite_times(values, choices, journal)
    zero_us: TicksArray = _DAY_US * np.arange(table.n_rows)
    on_clock_us = times_us + zero_us[row_of[kept]]
    spikes = SpikeTimes(by_unit(on_clock_us, unit_of[kept], len(unit_ids)), unit_ids)
    return spikes, replace(table, zero_us_R=zero_us)


def _beside(contents: Contents, choices: Choices, n_trials: int) -> Table:
    """Return the table of the trials, or the columns of that length at the top of the file."""
    if choices.trials is None:
        return Table(contents, "", n_trials, "--trials", choices.trials_clock)
    table = find_table(contents, choices.trials, "--trials", choices.trials_clock)
    if table.n_rows != n_trials:
        raise contents.wrong(
            "--trials", choices.trials, f"{table.n_rows} rows", f"{n_trials}, one a trial of spikes"
        )
    return table


def _constant_columns(
    contents: Contents,
    n_spikes: int,
    first_of: NDArray[np.integer],
    trial_of: NDArray[np.integer],
) -> dict[str, NDArray[Any]]:
    columns = {}
    for name, item in contents.items.items():
        if isinstance(item, ArrayItem) and item.shape == (n_spikes,):
            values = item.read()
            if values.dtype.kind not in PLAIN_KINDS:
                continue
            firsts = values[first_of]
            same = values == firsts[trial_of]
            if values.dtype.kind == "f":
                same |= np.isnan(values) & np.isnan(firsts[trial_of])
            if same.all():
                columns[name] = firsts
    return columns
