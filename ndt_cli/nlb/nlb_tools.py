"""NWB files to tensors with nlb_tools 0.0.4: the only module that imports its tensor code.

nlb_tools was written for pandas up to 1.3. Three repairs make it compute the same on today's
packages:

1. Since pandas 1.4, loading a file puts milliseconds without behavior last, so that the table is
   out of order and trials are lost silently. The table is sorted again.
2. Since pandas 3, arrays are read-only where nlb_tools calls ``nan_to_num`` in place. It gets a
   copy.
3. Conditions with equal numbers of trials give index lists that ``save_to_h5`` cannot write. They
   become arrays of objects.

nlb_tools also holds every unit at 1 ms in several copies, tens of gigabytes for mc_maze.
`LeanDataset` loads a few units at a time and keeps them at the bin width.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from nlb_tools import make_tensors, nwb_interface
from numpy.typing import NDArray
from pynwb import NWBHDF5IO, NWBFile, ProcessingModule, TimeSeries

from ndt_cli.data.files import refuse_elsewhere
from ndt_cli.data.spike_data import IntArray
from ndt_cli.errors import DataError, called
from ndt_cli.nlb.catalog import NlbDataset, Phase, Progress
from ndt_cli.nlb.download import NwbFiles, data_dir_of, fetch_call

_UNIT_COLUMNS = ("spike_times", "obs_intervals", "heldout")


@contextlib.contextmanager
def open_nwb(path: Path, dataset: NlbDataset) -> "Iterator[NwbSource]":
    """Open a file and check its tables; a file that cannot be used raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        refuse_elsewhere(path)
        nwb_io = NWBHDF5IO(str(path), "r")
    except OSError as error:
        raise unreadable(path, dataset, error) from error
    except DataError as error:
        if isinstance(error.__cause__, OSError):  # damaged
            raise unreadable(path, dataset, error.__cause__) from error
        raise
    with nwb_io:
        try:
            with warnings.catch_warnings():
                # The public files carry old versions of the format's definitions.
                warnings.filterwarnings("ignore", module=r"hdmf\.|pynwb\.")
                nwb = nwb_io.read()
        except Exception as error:  # hdmf raises many kinds over content that is not NWB
            raise unreadable(path, dataset, error) from error
        source = NwbSource(path, nwb, dataset)
        source.check()
        yield source


def unreadable(path: Path, dataset: NlbDataset, error: Exception) -> DataError:
    """Return the error for a damaged file."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    size = f"found {path.stat().st_size:,} bytes"
    for public in dataset.files:
        if public.name == path.name:
            size += f"; expected {public.n_bytes:,}, as in the public file"
    return DataError(
        f"{path}: cannot be read as an NWB file ({reason}); {size}",
        f"Remove it and fetch the public file: {fetch_call(dataset, data_dir_of(dataset, path))}",
    )


class NwbSource:
    """An open NWB file; made by `open_nwb`."""

    def __init__(self, path: Path, nwb: NWBFile, dataset: NlbDataset) -> None:
        self.path = path
        self.nwb = nwb
        self.dataset = dataset

    def check(self) -> None:
        """Check that the tables of trials and units have their columns."""
        for table, columns in (
            ("trials", ("split", self.dataset.align_field)),
            ("units", _UNIT_COLUMNS),
        ):
            found = getattr(self.nwb, table)
            if found is None or len(found) == 0:
                raise self.wrong(f"found no {table} table")
            for column in columns:
                if column not in found.colnames:
                    names = ", ".join(found.colnames)
                    raise self.wrong(f"the {table} table has no column {column!r}; found {names}")

        used = self.trials[self.trials["split"].isin(("train", "val", "test"))]
        lacking = used.index[~np.isfinite(used[self.dataset.align_field].to_numpy(dtype=float))]
        if len(lacking):
            raise self.wrong(
                f"{len(lacking)} trials have no {self.dataset.align_field}, the first in row "
                f"{lacking[0]}; such trials have the split 'none'"
            )

    def check_train(self) -> None:
        """Check that this is a train file: both splits, held-in and held-out units, behavior."""
        splits = set(self.trials["split"])
        for split in ("train", "val"):
            if split not in splits:
                found = ", ".join(sorted(map(str, splits)))
                raise self.wrong(f"no trial has the split {split!r}; found {found}")
        if not self.is_heldout.any() or self.is_heldout.all():
            raise self.wrong("found only held-in or only held-out units; expected both")
        series = self.dataset.behavior_series
        if series is not None and series not in self.series:
            found = ", ".join(sorted(self.series)) or "none"
            raise self.wrong(f"no time series {series!r} (the behavior); found {found}")

    def check_test(self, train: "NwbSource") -> None:
        """Check that this is the test file that belongs to a train file."""
        if "test" not in set(self.trials["split"]):
            raise self.wrong("no trial has the split 'test'")
        if set(self.unit_ids[~self.is_heldout]) != set(train.unit_ids[~train.is_heldout]):
            raise self.wrong(f"its held-in units differ from those of {train.path}")

    def wrong(self, what: str) -> DataError:
        """Return the error for a file that does not have the dataset's layout."""
        names = [file.name for file in self.dataset.files]
        public = self.path.name if self.path.name in names else names[0]
        return DataError(
            f"{self.path}: {what}",
            f"Expected the layout of {self.dataset.name}'s {public}.",
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
        """Length of the recording in ms."""
        return round(1000 * self._end_s)

    @cached_property
    def series(self) -> dict[str, int]:
        """Number of channels of each time series, by the name that nlb_tools gives it."""
        found = {}
        for item in self.nwb.objects.values():
            if isinstance(item, TimeSeries):
                top_level = isinstance(item.parent, NWBFile | ProcessingModule)
                name = item.name if top_level else f"{item.parent.name}_{item.name}"
                found[name] = int(np.prod(item.data.shape[1:], dtype=int))
        return found

    def view(self, unit_ids: IntArray) -> SimpleNamespace:
        """Return what nlb_tools reads of a file, restricted to some units."""
        trials = SimpleNamespace(to_dataframe=lambda: self.trials, colnames=())
        units = SimpleNamespace(to_dataframe=lambda: self._units(unit_ids))
        return SimpleNamespace(trials=trials, units=units, children=self.nwb.children)

    def _units(self, unit_ids: IntArray) -> pd.DataFrame:
        # nlb_tools takes the observed intervals from the first held-in and first held-out unit, and
        # the length from the latest end of any unit: neither may depend on the units chosen.
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


# ------------------------------------------------------------------------------------------------
# nlb_tools' dataset class, repaired, loading a few units at a time.
# ------------------------------------------------------------------------------------------------

SPIKES = ("spikes", "heldout_spikes")
"""nlb_tools' names of held-in and held-out counts."""

# Units x milliseconds in memory at a time: 128 MB as 16-bit counts, 512 MB once smoothed. At the
# peak there are about five copies.
_CELLS_AT_A_TIME = 2**26


@dataclass(frozen=True)
class Session:
    """What a `LeanDataset` is loaded from: files, joined in this order."""

    sources: Sequence[NwbSource]
    progress: Progress


class LeanDataset(nwb_interface.NWBDataset):  # type: ignore[misc]
    """nlb_tools' ``NWBDataset`` with counts at the bin width only, loaded by `resample`."""

    data: Any
    trial_info: Any

    def __init__(self, fpath: Session, prefix: str = "", skip_fields: Sequence[str] = ()) -> None:
        # nlb_tools' own argument names: it makes a second dataset from fpath and prefix for the
        # PSTHs, and skips the time series there.
        self.fpath = fpath
        self.prefix = prefix
        self._with_series = not skip_fields
        self._kernel_ms: float | None = None
        self.bin_width = 1
        self.cut_trials: list[IntArray] = []
        pairs = []
        for kind, ids in zip(SPIKES, _ids_by_kind(fpath.sources), strict=True):
            pairs += [(kind, unit) for unit in np.sort(ids)]
        names = ("signal_type", "channel")
        self.data = pd.DataFrame(columns=pd.MultiIndex.from_tuples(pairs, names=names))

    def smooth_spk(self, gauss_width: float, **options: Any) -> None:
        """Smooth with a Gaussian of this standard deviation (ms) while loading."""
        self._kernel_ms = gauss_width

    def resample(self, target_bin: int) -> None:
        """Load, smooth and bin a few units at a time."""
        session = self.fpath
        columns = self.data.columns
        blocks = _plan(session, self._kernel_ms is not None, self._with_series)
        what = "reading spikes" if self._kernel_ms is None else "smoothing spikes for the PSTHs"
        n_units = sum(len(unit_ids) for unit_ids, _ in blocks)
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
                    # A process pool would need a guarded main module on macOS and Windows.
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
            n_done += len(block[0])
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
        """Cut trials as nlb_tools does; keep in ``cut_trials`` the rows of those it kept."""
        trial_data = super().make_trial_data(*args, **options)
        self.cut_trials.append(trial_data["trial_id"].drop_duplicates().to_numpy())
        return trial_data


_Block = tuple[IntArray, frozenset[str]]  # units and time series that are loaded together


class _Part(nwb_interface.NWBDataset):  # type: ignore[misc]
    """Some units and time series at 1 ms, as nlb_tools loads and joins them.

    ``missing`` marks milliseconds without a value of some other time series: nlb_tools drops
    training trials that contain them.
    """

    data: Any

    def __init__(self, session: Session, block: _Block) -> None:
        self._session = session
        self._unit_ids, self._series = block
        # nlb_tools joins the files of a folder in the order of their names. These empty files stand
        # for ours, which may have any name and folder.
        with TemporaryDirectory() as folder:
            for i in range(len(session.sources)):
                Path(folder, f"{i:02d}.nwb").touch()
            super().__init__(folder)
        top = self.data.columns.get_level_values(0)
        kept = top.isin([*SPIKES, session.sources[0].dataset.behavior_series])
        self.missing: NDArray[np.bool_] = self.data.loc[:, ~kept].isna().any(axis=1).to_numpy()
        self.data = self.data.loc[:, kept]

    def load(self, fpath: str, split_heldout: bool = True, skip_fields: Sequence[str] = ()) -> Any:
        """Load part of a file, sorted in time."""
        source = self._session.sources[int(Path(fpath).stem)]
        skipped = [name for name in source.series if name not in self._series]
        try:
            # nlb_tools prints a line about files whose last trial ends late.
            with contextlib.redirect_stdout(io.StringIO()):
                view = source.view(self._unit_ids)
                data, *others = super().load(view, split_heldout, skipped)
        except (OSError, RuntimeError) as error:  # damaged HDF5 content
            raise unreadable(source.path, source.dataset, error) from error
        if not data.index.is_monotonic_increasing:
            data = data.sort_index()
        return data, *others


def _ids_by_kind(sources: Sequence[NwbSource]) -> tuple[IntArray, IntArray]:
    """Return held-in and held-out ids; a test file has no held-out units."""
    heldin = np.unique(np.concatenate([s.unit_ids[~s.is_heldout] for s in sources]))
    heldout = np.unique(np.concatenate([s.unit_ids[s.is_heldout] for s in sources]))
    return heldin, heldout


def _plan(session: Session, smoothed: bool, with_series: bool) -> list[_Block]:
    """Divide units and time series into blocks that fit into memory."""
    n_ms = sum(source.n_ms for source in session.sources)
    heldin, heldout = _ids_by_kind(session.sources)
    cells = n_ms * (len(heldin) + len(heldout)) * (4 if smoothed else 1)
    channels: dict[str, int] = {}
    if with_series:
        for source in session.sources:
            channels |= source.series
        cells += 4 * n_ms * sum(channels.values())
    # Each block needs a held-in unit: a test file has no other units.
    n_blocks = min(max(1, -(-cells // (4 * _CELLS_AT_A_TIME))), len(heldin))
    names = sorted(channels, key=lambda name: -channels[name])
    return [
        (
            np.concatenate([np.array_split(ids, n_blocks)[i] for ids in (heldin, heldout)]),
            frozenset(names[i::n_blocks]),
        )
        for i in range(n_blocks)
    ]


class _NumpyThatCopies:
    """NumPy, except that ``nan_to_num`` never works in place."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def nan_to_num(x: Any, copy: bool = True, **options: Any) -> Any:
        return np.nan_to_num(x, copy=True, **options)


@contextlib.contextmanager
def repaired() -> Iterator[Any]:
    """Give nlb_tools' ``make_tensors`` module, repaired and silent, and restore everything after.

    It draws the jitter of dmfc_rsg from NumPy's global generator, seeded with 0: that generator's
    state is restored too.
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


# ------------------------------------------------------------------------------------------------
# Tensors of a dataset.
# ------------------------------------------------------------------------------------------------


Arrays = dict[str, NDArray[Any]]


def cut_tensors(
    dataset: NlbDataset, bin_ms: int, phase: Phase, files: NwbFiles, progress: Progress
) -> dict[str, Any]:
    """Return the fields of `ndt_cli.nlb.tensors.NlbTensors`, made from the NWB files."""
    with contextlib.ExitStack() as stack:
        train_source = stack.enter_context(open_nwb(files.train, dataset))
        train_source.check_train()
        sources = [train_source]
        if files.test is not None and phase == "test":
            test_source = stack.enter_context(open_nwb(files.test, dataset))
            test_source.check_test(train_source)
            sources.insert(0, test_source)
        tools = stack.enter_context(repaired())
        stack.enter_context(_explained(files.train, dataset))
        loaded = LeanDataset(Session(sources, progress))
        loaded.resample(bin_ms)
        splits: str | list[str] = "train" if phase == "val" else ["train", "val"]
        made: dict[str, Any] = {"target": None, "notes": ()}
        progress("cutting trials", 0, 2)
        wanted = {"include_behavior": True, "include_forward_pred": True}
        make = tools.make_train_input_tensors
        made["train"], made["train_trial_ids"] = _cut(make, loaded, sources, splits, **wanted)
        progress("cutting trials", 1, 2)
        make = tools.make_eval_input_tensors
        made["eval"], made["eval_trial_ids"] = _cut(make, loaded, sources, phase)
        progress("cutting trials", 2, 2)
        if phase == "val":
            made["target"] = _target(tools, loaded, dataset, splits, phase)
    n_heldin, n_heldout = (
        made["train"][key].shape[2] for key in ("train_spikes_heldin", "train_spikes_heldout")
    )
    if (n_heldin, n_heldout) != (dataset.n_heldin, dataset.n_heldout):
        made["notes"] = (
            f"{n_heldin} held-in and {n_heldout} held-out neurons; the public {dataset.name} has "
            f"{dataset.n_heldin} and {dataset.n_heldout}.",
        )
    return made


@contextlib.contextmanager
def _explained(path: Path, dataset: NlbDataset) -> "Iterator[None]":
    """Raise DataError for content that makes nlb_tools fail."""
    try:
        yield
    except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: nlb_tools cannot make tensors of {dataset.name} from it "
            f"({type(error).__name__}: {error})",
            "Compare it with the public file: "
            + called("check_dataset", dataset.name, data_dir=data_dir_of(dataset, path)),
        ) from error


def _cut(
    make: Callable[..., Arrays],
    loaded: LeanDataset,
    sources: Sequence[NwbSource],
    split: str | list[str],
    **what: bool,
) -> tuple[Arrays, IntArray]:
    """Return tensors, and the row of each trial; refuse files of which nlb_tools drops some.

    It drops them from the counts but keeps them in the behavior, so rows would not match.
    """
    loaded.cut_trials.clear()
    arrays = make(loaded, sources[0].dataset.name, split, save_file=False, **what)
    table = loaded.trial_info
    wanted = table.loc[np.isin(table["split"], split), "trial_id"].to_numpy()
    for cut in loaded.cut_trials:  # the window, the behavior, the forward bins
        lost = wanted[~np.isin(wanted, cut)]
        if len(lost):
            names = " and ".join([split] if isinstance(split, str) else split)
            raise DataError(
                f"{' and '.join(str(source.path) for source in sources)}: nlb_tools cuts "
                f"{len(cut)} of {len(wanted)} {names} trials; row {lost[0]} of the trial table has "
                "no align time, or a time series has no samples in its window",
                "Set the split of such trials to 'none', or fill in the samples.",
            )
    return arrays, loaded.cut_trials[0]


def _target(
    tools: Any, loaded: LeanDataset, dataset: NlbDataset, train: str | list[str], evaluated: str
) -> Arrays:
    """Return the targets of the trials of these splits."""
    made = tools.make_eval_target_tensors(
        loaded, dataset.name, train, evaluated, save_file=False, include_psth=True
    )
    (target,) = made.values()
    for key in ("train_cond_idx", "eval_cond_idx"):
        if key in target:
            rows = target[key]
            # NumPy would join lists of equal length.
            target[key] = np.empty(len(rows), dtype=object)
            for i, row in enumerate(rows):
                target[key][i] = np.asarray(row, dtype=np.int64)
    return dict(target)
