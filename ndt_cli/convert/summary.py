"""The report on a conversion, as values."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.convert.contents import ArrayItem, Item
from ndt_cli.convert.journal import Dropped, Journal
from ndt_cli.convert.readers import open_file
from ndt_cli.convert.trials import Cut
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.errors import DataError

_MANY_PADDED = 0.3


@dataclass(frozen=True)
class SplitCount:
    """Trials of a split.

    Attributes
    ----------
    n_trials : int
    mean_rate_hz : float
        Over the bins inside the trials, and all neurons.
    """

    n_trials: int
    mean_rate_hz: float


@dataclass(frozen=True)
class ConvertReport:
    """What was made of a file, and how.

    Attributes
    ----------
    source, format : str
        The file, and ``"npz"``, ``"HDF5"``, ``"NWB"``, ``"MATLAB"`` or ``"CSV"``.
    train, valid : SplitCount
    n_bins, shortest_bins : int
        Bins of the longest and of the shortest trial.
    bin_ms : float
    n_neurons : int
    neurons : tuple of str
        What the file calls each of them.
    n_spikes : int
        Spikes in the trials; one that is in two trials counts twice.
    conditions : dict of str to int
        Trials of each condition; the numbers in the file follow this order.
    behavior : tuple of str
        Behavioral variables.
    taken : dict of str to str
        Which name in the file served as what.
    dropped : tuple of Dropped
        What was left out, and why.
    notes : tuple of str
        What was assumed.
    """

    source: str
    format: str
    train: SplitCount
    valid: SplitCount
    n_bins: int
    shortest_bins: int
    bin_ms: float
    n_neurons: int
    neurons: tuple[str, ...]
    n_spikes: int
    conditions: dict[str, int]
    behavior: tuple[str, ...]
    taken: dict[str, str]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def describe_cut(recording: Recording, cut: Cut, journal: Journal, layout: str) -> ConvertReport:
    """Describe what was cut and how it was split."""
    data = cut.data
    notes = list(journal.notes)
    padded = 1 - float(data.inside_BT.mean())
    if padded > _MANY_PADDED:
        notes.append(
            f"{100 * padded:.0f} % of all bins pad shorter trials. They are never scored, but cost "
            'time: --where "duration_ms < 3000" leaves out long trials, --chop-ms cuts them up.'
        )
    return ConvertReport(
        source=recording.source,
        format=layout,
        train=_count(recording.train),
        valid=_count(recording.valid),
        n_bins=data.n_bins,
        shortest_bins=int(np.min(data.lengths_B)),
        bin_ms=data.bin_ms,
        n_neurons=data.n_neurons,
        neurons=data.neuron_names,
        n_spikes=int(data.spikes_BTN.sum(dtype=np.int64)),
        conditions={} if cut.conditions is None else cut.conditions.sizes(),
        behavior=data.behavior_names,
        taken=dict(journal.taken),
        dropped=tuple(journal.dropped),
        notes=tuple(notes),
    )


def _count(data: SpikeData) -> SplitCount:
    n_entries = int(np.sum(data.lengths_B)) * data.n_neurons
    n_spikes = int(data.spikes_BTN.sum(dtype=np.int64))
    return SplitCount(data.n_trials, n_spikes / n_entries * 1000 / data.bin_ms)


# ------------------------------------------------------------------------------------------------
# What is in an unknown file, so that its names can be chosen.
# ------------------------------------------------------------------------------------------------


_N_SHOWN = 4
_MAX_CHARS = 40
_READ_ENTRIES = 10**6  # larger arrays are listed without a look inside


@dataclass(frozen=True)
class Entry:
    """One array, ragged column or time series.

    Attributes
    ----------
    name : str
        As the flags of ``ndt convert`` take it.
    shape : tuple of int
    kind : str
        Type of its values.
    values : str
        The first different values of a vector; empty for anything larger.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    values: str


@dataclass(frozen=True)
class Listing:
    """What a file holds.

    Attributes
    ----------
    source, format : str
    entries : tuple of Entry
    tables : dict of str to int
        Groups of columns of equal length, with their rows: what ``--trials`` and ``--units`` take.
    """

    source: str
    format: str
    entries: tuple[Entry, ...]
    tables: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def list_contents(file: Path | str) -> Listing:
    """List the arrays, tables and time series of a file.

    Parameters
    ----------
    file : Path or str
        A .npz, MATLAB, HDF5, NWB or CSV file.

    Returns
    -------
    Listing

    Raises
    ------
    DataError
        If the file cannot be read.

    Examples
    --------
    >>> for entry in list_contents("session.npz").entries[:3]:
    ...     print(entry.name, entry.shape)
    spike_times (2000,)
    spike_units (2000,)
    start_time (24,)
    """
    with open_file(Path(file)) as contents:
        entries = tuple(_entry(name, item) for name, item in contents.items.items())
        return Listing(str(file), contents.layout, entries, contents.tables())


def _entry(name: str, item: Item) -> Entry:
    values = ""
    if isinstance(item, ArrayItem) and len(item.shape) <= 1:
        values = _first_values(item)
    return Entry(name, item.shape, item.dtype, values)


def _first_values(item: ArrayItem) -> str:
    if int(np.prod(item.shape)) > _READ_ENTRIES:
        return ""
    try:
        flat = np.atleast_1d(item.read())
    except DataError as error:
        return error.message
    values = flat.tolist()
    if flat.dtype.kind in "OV":  # rows and lists cannot be compared
        values = [str(value) for value in values[: _N_SHOWN + 1]]
    distinct = list(dict.fromkeys(values))
    shown = ", ".join(f"{v:.7g}" if isinstance(v, float) else str(v) for v in distinct[:_N_SHOWN])
    if len(shown) > _MAX_CHARS:
        shown = f"{shown[:_MAX_CHARS]}..."
    elif len(distinct) > _N_SHOWN:
        shown += ", ..."
    return shown
