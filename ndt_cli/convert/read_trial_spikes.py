"""Spikes whose times count from the beginning of their own trial.

Each trial is put on one long clock, a day after the one before it, so that everything downstream
is the same as for a recording with one clock.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.choices import Choices
from ndt_cli.convert.contents import PLAIN_KINDS, ArrayItem, Contents, ListsItem
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.read_spike_times import by_unit, finite_times, read_spike_units
from ndt_cli.convert.spike_times import SpikeTimes
from ndt_cli.convert.tables import Table, find_table, match_rows
from ndt_cli.convert.ticks import TicksArray
from ndt_cli.errors import SettingsError

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


def read_labelled_trials(
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
