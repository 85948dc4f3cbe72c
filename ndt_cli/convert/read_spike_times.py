"""From the arrays of a file to the spike times of each unit."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.convert.choices import Choices
from ndt_cli.convert.contents import ArrayItem, Contents, ListsItem
from ndt_cli.convert.guess import guess
from ndt_cli.convert.journal import Journal
from ndt_cli.convert.spike_times import SpikeTimes
from ndt_cli.convert.ticks import TicksArray
from ndt_cli.errors import DataError, SettingsError

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
