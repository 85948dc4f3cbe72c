"""nlb_tools made right on today's packages, and small enough for a laptop.

The only place that imports its loading and tensor code. nlb_tools 0.0.4 was written for pandas up
to 1.3. Three things are mended, and what it computes is then what it computed there:

1. Since pandas 1.4, milliseconds without behaviour come last when a file is loaded, so that time
   is out of order and trials are lost without a word: the table is sorted.
2. Since pandas 3, its arrays are read-only where ``nan_to_num`` works in place: it works on a copy.
3. Conditions with equal numbers of trials give lists that ``save_to_h5`` cannot write: see
   `ndt_cli.nlb.tensors`.

nlb_tools holds every unit at 1 ms, in several copies, and once more in 64 bits to smooth them:
tens of gigabytes for mc_maze. `LeanDataset` loads a few units at a time and keeps them at the bin
width.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from nlb_tools import make_tensors, nwb_interface
from numpy.typing import NDArray

from ndt_cli.data.spike_data import IntArray
from ndt_cli.nlb.nwb_source import NwbSource, unreadable
from ndt_cli.nlb.progress import Progress

SPIKES = ("spikes", "heldout_spikes")
"""nlb_tools' names for held-in and held-out counts."""

# Units x milliseconds held at a time: 128 MB in nlb_tools' 16 bits, 512 MB once smoothed. At the
# peak there are about five copies.
_CELLS_AT_A_TIME = 2**26


@dataclass(frozen=True)
class Session:
    """What a `LeanDataset` is loaded from.

    Attributes
    ----------
    sources : sequence of NwbSource
        Files, joined in this order.
    behavior_series : str or None
        The time series that is kept; of the others, only where they are missing.
    progress : callable
        Told how many units are loaded.
    """

    sources: Sequence[NwbSource]
    behavior_series: str | None
    progress: Progress


class CutTrials(NamedTuple):
    """Trials: rows of the trial table, and where the first bin of each begins."""

    rows: IntArray
    starts_ms: IntArray


class LeanDataset(nwb_interface.NWBDataset):  # type: ignore[misc]
    """Stands for nlb_tools' ``NWBDataset``, holding counts at the bin width only.

    Nothing is loaded before `resample` tells the bin width.
    """

    data: Any
    trial_info: Any

    def __init__(self, fpath: Session, prefix: str = "", skip_fields: Sequence[str] = ()) -> None:
        # The names are nlb_tools': it makes a second data set from fpath and prefix for the PSTHs,
        # and skips the time series there.
        self.fpath = fpath
        self.prefix = prefix
        self._with_series = not skip_fields
        self._kernel_ms: float | None = None
        self.bin_width = 1
        self.cut_trials: list[CutTrials] = []
        pairs = []
        for kind, ids in zip(SPIKES, _ids_by_kind(fpath.sources), strict=True):
            pairs += [(kind, unit) for unit in np.sort(ids)]
        names = ("signal_type", "channel")
        self.data = pd.DataFrame(columns=pd.MultiIndex.from_tuples(pairs, names=names))

    def smooth_spk(self, gauss_width: float, **options: Any) -> None:
        """Smooth with a Gaussian of this standard deviation, in ms, while loading."""
        self._kernel_ms = gauss_width

    def resample(self, target_bin: int) -> None:
        """Load, smooth if asked to, and bin: a few units at a time."""
        session = self.fpath
        columns = self.data.columns
        blocks = _plan(session, self._kernel_ms is not None, self._with_series)
        what = "reading spikes" if self._kernel_ms is None else "smoothing spikes for the PSTHs"
        n_units = sum(len(block.unit_ids) for block in blocks)
        n_done = 0
        series = []
        for i, block in enumerate(blocks):
            session.progress(what, n_done, n_units)
            part = _Part(session, block)
            if self._kernel_ms is not None:
                part.smooth_spk(
                    self._kernel_ms,
                    signal_type=[kind for kind in SPIKES if kind in part.data.columns],
                    overwrite=True,
                    ignore_nans=True,
                    # A pool of processes would need a guarded main module on macOS and Windows.
                    parallelized=False,
                )
            part.resample(target_bin)
            counts = part.data.loc[:, part.data.columns.isin(SPIKES, level=0)]
            if i == 0:
                index = part.data.index
                missing = np.zeros(len(index), dtype=bool)
                values = np.empty((len(index), len(columns)), dtype=counts.dtypes.iloc[0])
                if "trial_info" not in self.__dict__:
                    self.trial_info = part.trial_info
            values[:, columns.get_indexer(counts.columns)] = counts.to_numpy()
            series.append(part.data.drop(columns=counts.columns))
            missing |= part.missing[::target_bin]
            n_done += len(block.unit_ids)
        session.progress(what, n_units, n_units)
        self.data = pd.DataFrame(values, index=index, columns=columns, copy=False)
        if self._with_series:
            gaps = pd.DataFrame(
                {("other series", "missing"): np.where(missing, np.nan, 0).astype("float32")},
                index=index,
            )
            self.data = pd.concat([self.data, *series, gaps], axis=1).sort_index(axis=1)
        self.bin_width = target_bin

    def make_trial_data(self, *args: Any, **options: Any) -> Any:
        """Cut trials as nlb_tools does, and note in ``cut_trials`` which ones were left."""
        trial_data = super().make_trial_data(*args, **options)
        first = trial_data.loc[~trial_data["trial_id"].duplicated()]
        starts_ms = first["clock_time"].dt.total_seconds().to_numpy() * 1000
        rows = first["trial_id"].to_numpy()
        self.cut_trials.append(CutTrials(rows, np.round(starts_ms).astype(int)))
        return trial_data


@dataclass(frozen=True)
class _Block:
    unit_ids: IntArray
    series: frozenset[str]


class _Part(nwb_interface.NWBDataset):  # type: ignore[misc]
    """Some units and time series at 1 ms, as nlb_tools loads and joins them.

    ``missing`` is True for milliseconds at which a series other than the behaviour has no value:
    nlb_tools leaves those out of training trials whatever the series.
    """

    data: Any

    def __init__(self, session: Session, block: _Block) -> None:
        self._session = session
        self._block = block
        # nlb_tools joins the files of a folder, in the order of their names: these stand for the
        # files, which may lie anywhere and have any name.
        with TemporaryDirectory() as folder:
            for i in range(len(session.sources)):
                Path(folder, f"{i:02d}.nwb").touch()
            super().__init__(folder)
        top = self.data.columns.get_level_values(0)
        kept = top.isin([*SPIKES, session.behavior_series])
        self.missing: NDArray[np.bool_] = self.data.loc[:, ~kept].isna().any(axis=1).to_numpy()
        self.data = self.data.loc[:, kept]

    def load(self, fpath: str, split_heldout: bool = True, skip_fields: Sequence[str] = ()) -> Any:
        """Load the block's part of a file, sorted in time."""
        source = self._session.sources[int(Path(fpath).stem)]
        skipped = [name for name in source.series if name not in self._block.series]
        try:
            # It prints a line over files whose last trial ends late.
            with contextlib.redirect_stdout(io.StringIO()):
                view = source.view(self._block.unit_ids)
                data, *others = super().load(view, split_heldout, skipped)
        except (OSError, RuntimeError) as error:  # HDF5, over content that is damaged
            raise unreadable(source.path, source.dataset, error) from error
        if not data.index.is_monotonic_increasing:
            data = data.sort_index()
        return data, *others


def _ids_by_kind(sources: Sequence[NwbSource]) -> tuple[IntArray, IntArray]:
    """Return held-in and held-out ids; a test file has the first only."""
    heldin = np.unique(np.concatenate([s.unit_ids[~s.is_heldout] for s in sources]))
    heldout = np.unique(np.concatenate([s.unit_ids[s.is_heldout] for s in sources]))
    return heldin, heldout


def _plan(session: Session, smoothed: bool, with_series: bool) -> list[_Block]:
    """Share units and time series out over as many blocks as the memory asks for."""
    n_ms = sum(source.n_ms for source in session.sources)
    heldin, heldout = _ids_by_kind(session.sources)
    cells = n_ms * (len(heldin) + len(heldout)) * (4 if smoothed else 1)
    channels: dict[str, int] = {}
    if with_series:
        for source in session.sources:
            channels |= source.series
        cells += 4 * n_ms * sum(channels.values())
    # Each block needs a held-in unit: a test file has no others.
    n_blocks = min(max(1, -(-cells // (4 * _CELLS_AT_A_TIME))), len(heldin))
    names = sorted(channels, key=lambda name: -channels[name])
    return [
        _Block(
            np.concatenate([np.array_split(ids, n_blocks)[i] for ids in (heldin, heldout)]),
            frozenset(names[i::n_blocks]),
        )
        for i in range(n_blocks)
    ]


class _NumpyThatCopies:
    """numpy, except that ``nan_to_num`` never works in place."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def nan_to_num(x: Any, copy: bool = True, **options: Any) -> Any:
        return np.nan_to_num(x, copy=True, **options)


@contextlib.contextmanager
def repaired() -> Iterator[Any]:
    """Give nlb_tools' ``make_tensors`` module, mended and quiet; everything is put back after.

    It draws the jitter of dmfc_rsg from numpy's global generator, seeded with 0: the state of that
    generator is put back too.
    """
    logger = logging.getLogger("nlb_tools")
    level = logger.level
    random_state = np.random.get_state()
    nwb_interface.np, make_tensors.NWBDataset = _NumpyThatCopies(), LeanDataset
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"nlb_tools\.")
            yield make_tensors
    finally:
        logger.setLevel(level)
        nwb_interface.np, make_tensors.NWBDataset = np, nwb_interface.NWBDataset
        np.random.set_state(random_state)
