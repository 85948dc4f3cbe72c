"""One NWB file of the benchmark, opened and checked, from which nlb_tools reads a few units."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, NWBFile, ProcessingModule, TimeSeries

from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError
from ndt_cli.nlb.catalogue import NlbDataset, PublicFile
from ndt_cli.nlb.local_files import data_dir_of, fetch_command

_UNIT_COLUMNS = ("spike_times", "obs_intervals", "heldout")


@contextmanager
def open_nwb(path: Path, dataset: NlbDataset) -> "Iterator[NwbSource]":
    """Open a file and check that it has what the benchmark needs.

    Raises
    ------
    DataError
        When the file is missing or damaged, or lacks trials, units or a column of them.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        io = NWBHDF5IO(str(path), "r")
    except OSError as error:
        raise unreadable(path, dataset, error) from error
    with io:
        try:
            with warnings.catch_warnings():
                # The public files carry the format's definitions of their day.
                warnings.filterwarnings("ignore", module=r"hdmf\.|pynwb\.")
                nwb = io.read()
        except Exception as error:  # hdmf raises many kinds over content that is not NWB
            raise unreadable(path, dataset, error) from error
        source = NwbSource(path, nwb, dataset)
        source.check()
        yield source


def unreadable(path: Path, dataset: NlbDataset, error: Exception) -> DataError:
    """Return the error for a file that is cut short or otherwise damaged."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    size = f"it has {path.stat().st_size:,} bytes"
    for public in dataset.files:
        if public.name == path.name:
            size += f", the public file {public.n_bytes:,}"
    return DataError(
        f"{path}: cannot be read as an NWB file, {size} ({reason})",
        hint=f"Remove it and run  {fetch_command(dataset, data_dir_of(dataset, path))}  to fetch "
        "the public one.",
    )


class NwbSource:
    """An open file; made by `open_nwb`.

    Attributes
    ----------
    path : Path
    nwb : NWBFile
    dataset : NlbDataset
    """

    def __init__(self, path: Path, nwb: NWBFile, dataset: NlbDataset) -> None:
        self.path = path
        self.nwb = nwb
        self.dataset = dataset

    def check(self) -> None:
        """Raise DataError where trials, units or a column of them are missing."""
        for table, columns in (
            ("trials", ("split", self.dataset.align_field)),
            ("units", _UNIT_COLUMNS),
        ):
            found = getattr(self.nwb, table)
            if found is None or len(found) == 0:
                raise self.wrong(f"found no {table}")
            for column in columns:
                if column not in found.colnames:
                    names = ", ".join(found.colnames)
                    raise self.wrong(f"the {table} have no column {column!r}; found {names}")

    def check_train(self) -> None:
        """Raise DataError where this is no train file: splits, units of both kinds, behaviour."""
        splits = set(self.trials["split"])
        for split in ("train", "val"):
            if split not in splits:
                found = ", ".join(sorted(map(str, splits)))
                raise self.wrong(f"no trial has the split {split!r}; found {found}")
        if not self.is_heldout.any() or self.is_heldout.all():
            raise self.wrong("the units are not split into held-in and held-out ones")
        series = self.dataset.behavior_series
        if series is not None and series not in self.series:
            found = ", ".join(sorted(self.series)) or "none"
            raise self.wrong(f"no time series {series!r}, the behaviour; found {found}")

    def check_test(self, train: "NwbSource") -> None:
        """Raise DataError where this is not the test file that belongs to a train file."""
        if "test" not in set(self.trials["split"]):
            raise self.wrong("no trial has the split 'test'")
        if set(self.unit_ids[~self.is_heldout]) != set(train.unit_ids[~train.is_heldout]):
            raise self.wrong(f"its held-in units are not those of {train.path}")

    def wrong(self, what: str) -> DataError:
        """Return the error for a file that is no file of this data set."""
        public = _public_name(self.path, self.dataset)
        return DataError(
            f"{self.path}: {what}",
            hint=f"Expected the layout of {self.dataset.name}'s {public}.",
        )

    @cached_property
    def trials(self) -> pd.DataFrame:
        return self.nwb.trials.to_dataframe()

    @cached_property
    def unit_ids(self) -> IntArray:
        return np.asarray(self.nwb.units.id[:])

    @cached_property
    def is_heldout(self) -> NDArray[np.bool_]:
        return np.asarray(self.nwb.units["heldout"].data[:], dtype=bool)

    @cached_property
    def _observed(self) -> list[NDArray[np.float64]]:
        return [self.nwb.units.get_unit_obs_intervals(i) for i in range(len(self.unit_ids))]

    @cached_property
    def _end_s(self) -> float:
        return float(max(intervals[-1][-1] for intervals in self._observed))

    @property
    def n_ms(self) -> int:
        """Length of the recording."""
        return round(1000 * self._end_s)

    @cached_property
    def series(self) -> dict[str, int]:
        """Time series under the names that nlb_tools gives them, with their channels."""
        found = {}
        for item in self.nwb.objects.values():
            if isinstance(item, TimeSeries):
                top_level = isinstance(item.parent, NWBFile | ProcessingModule)
                name = item.name if top_level else f"{item.parent.name}_{item.name}"
                found[name] = int(np.prod(item.data.shape[1:], dtype=int))
        return found

    def view(self, unit_ids: IntArray) -> SimpleNamespace:
        """Return what nlb_tools reads of a file, with some of its units only."""
        trials = SimpleNamespace(to_dataframe=lambda: self.trials, colnames=())
        units = SimpleNamespace(to_dataframe=lambda: self._units(unit_ids))
        return SimpleNamespace(trials=trials, units=units, children=self.nwb.children)

    def _units(self, unit_ids: IntArray) -> pd.DataFrame:
        # nlb_tools takes the first unit of a kind for what all of that kind were observed in, and
        # the last end over all units for the length: both must not depend on the choice of units.
        observed: dict[bool, Any] = {}
        for heldout, intervals in zip(self.is_heldout, self._observed, strict=True):
            observed.setdefault(bool(heldout), np.vstack([intervals, [self._end_s, self._end_s]]))
        rows = np.flatnonzero(np.isin(self.unit_ids, unit_ids))
        return pd.DataFrame(
            {
                "heldout": self.is_heldout[rows],
                "obs_intervals": [observed[bool(self.is_heldout[i])] for i in rows],
                "spike_times": [np.asarray(self.nwb.units.get_unit_spike_times(i)) for i in rows],
            },
            index=pd.Index(self.unit_ids[rows], name="id"),
        )


def _public_name(path: Path, dataset: NlbDataset) -> str:
    files: tuple[PublicFile, ...] = dataset.files
    return next((file.name for file in files if file.name == path.name), files[0].name)
