"""Tensors of a benchmark dataset: model inputs and scoring targets, cached beside the NWB files.

Keys and dtypes are nlb_tools' own (float16 for counts). Counts are trials x bins x neurons.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import ndt_cli
from ndt_cli.atomic import write_atomic
from ndt_cli.data.spike_data import IntArray
from ndt_cli.nlb.catalog import (
    NlbDataset,
    Phase,
    Progress,
    find_dataset,
    no_progress,
    submission_key,
)
from ndt_cli.nlb.dependencies import package_version, require_nlb_extra
from ndt_cli.nlb.download import locate

Arrays = dict[str, NDArray[Any]]

_NEEDED = ("nlb_tools", "pandas", "pynwb", "sklearn")


@dataclass(frozen=True, eq=False)
class NlbTensors:
    """Tensors of one dataset, bin width and phase.

    Attributes
    ----------
    dataset : NlbDataset
    bin_ms : int
        Bin width in milliseconds.
    phase : {"val", "test"}
        ``"val"``: train on the train split, score the validation split. ``"test"``: train on both,
        score the test split.
    train : dict of str to array
        ``train_spikes_heldin``, ``train_spikes_heldout``, the same with ``_forward``, and
        ``train_behavior``.
    eval : dict of str to array
        ``eval_spikes_heldin`` and, in the validation phase, ``eval_spikes_heldout``.
    target : dict of str to array, or None
        Targets for nlb_tools' ``evaluate``, including PSTHs. None in the test phase, whose labels
        are published in a separate file.
    train_trial_ids, eval_trial_ids : (trials,) int array
        Row of each trial in the trial tables of the files, test file first.
    notes : tuple of str
        Remarks about the files, one sentence each.
    """

    dataset: NlbDataset
    bin_ms: int
    phase: Phase
    train: Arrays
    eval: Arrays
    target: Arrays | None
    train_trial_ids: IntArray
    eval_trial_ids: IntArray
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Group of this dataset and bin width in a submission."""
        return submission_key(self.dataset.name, self.bin_ms)


def make_tensors(
    dataset: NlbDataset | str,
    bin_ms: int,
    phase: Phase,
    data_dir: Path | str,
    *,
    cache: bool = True,
    progress: Progress | None = None,
) -> NlbTensors:
    """Make the tensors of a dataset with nlb_tools, or read them from the cache.

    Parameters
    ----------
    dataset : NlbDataset or str
    bin_ms : {5, 20}
        Bin width in milliseconds.
    phase : {"val", "test"}
        Which trials are scored. The validation phase reads the train file only.
    data_dir : Path or str
        Folder of the NWB files, as `ndt_cli.nlb.download.locate` finds them.
    cache : bool
        Read and write the folder ``tensors`` beside the train file. A cached file is valid only
        for the same NWB files and package versions.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    NlbTensors

    Raises
    ------
    SettingsError
        If the benchmark has no such dataset or bin width.
    DataError
        If a file is missing, damaged or incomplete.
    MissingExtraError
        If nlb_tools or a package it needs is not installed.
    """
    dataset = find_dataset(dataset) if isinstance(dataset, str) else dataset
    submission_key(dataset.name, bin_ms)
    files = locate(dataset, Path(data_dir), phase)
    # Cached tensors need it too: their rates could not be scored.
    require_nlb_extra(*_NEEDED)
    sources = [path for path in files if path is not None]
    cached = cache_path(dataset, bin_ms, phase, sources)
    made = read_cache(cached) if cache else None
    if made is None:
        from ndt_cli.nlb.nlb_tools import cut_tensors

        made = cut_tensors(dataset, bin_ms, phase, files, progress or no_progress)
        if cache and not write_cache(cached, made):
            made["notes"] += (f"{cached.parent} cannot be written; the tensors are not cached.",)
    return NlbTensors(dataset, bin_ms, phase, **made)


# ------------------------------------------------------------------------------------------------
# The cache.
# ------------------------------------------------------------------------------------------------


_PARTS = ("train", "eval", "target")
_PER_TRIAL = ("train_trial_ids", "eval_trial_ids")
# With checksums: HDF5 itself does not notice changed bytes.
_STORAGE = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


def cache_path(dataset: NlbDataset, bin_ms: int, phase: Phase, sources: Sequence[Path]) -> Path:
    """Return the cache file for NWB files (train file first), keyed by their size and mtime."""
    digest = hashlib.sha256()
    for path in sources:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    versions = "_".join(
        f"{short}{package_version(name)}"
        for short, name in (("nlb", "nlb-tools"), ("pandas", "pandas"), ("pynwb", "pynwb"))
    )
    name = (
        f"{dataset.name}_{bin_ms}ms_{phase}_{versions}_ndt{ndt_cli.__version__}"
        f"_{digest.hexdigest()[:12]}.h5"
    )
    return sources[0].parent / "tensors" / name


def write_cache(path: Path, made: dict[str, Any]) -> bool:
    """Cache tensors; return False if they cannot be written (no permission, full disk)."""

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            for part in _PARTS:
                if made[part] is not None:
                    group = file.create_group(part)
                    for key, array in made[part].items():
                        _write_array(group, key, array)
            for key in _PER_TRIAL:
                _write_array(file, key, made[key])
            file.attrs["notes"] = list(made["notes"])

    try:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, write, overwrite=True)
    except OSError:
        return False
    return True


def read_cache(path: Path) -> dict[str, Any] | None:
    """Return cached tensors, or None if there are none or the file is damaged."""
    if not path.is_file():
        return None
    made: dict[str, Any] = dict.fromkeys(_PARTS)
    try:
        with h5py.File(path, "r") as file:
            for part in _PARTS:
                if part in file:
                    made[part] = {key: _read_array(item) for key, item in file[part].items()}
            for key in _PER_TRIAL:
                made[key] = _read_array(file[key])
            made["notes"] = tuple(str(note) for note in file.attrs["notes"])
    except (OSError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    return made


def _write_array(group: h5py.Group, key: str, array: NDArray[Any]) -> None:
    if array.dtype != object:
        group.create_dataset(key, data=array, **(_STORAGE if array.size else {}))
        return
    # One index list per condition: stored end to end, with their lengths.
    flat = np.concatenate([*array, np.empty(0, dtype=np.int64)])
    item = group.create_dataset(key, data=flat, **(_STORAGE if flat.size else {}))
    item.attrs["lengths"] = [len(row) for row in array]


def _read_array(item: h5py.Dataset) -> NDArray[Any]:
    flat: NDArray[Any] = item[()]
    if "lengths" not in item.attrs:
        return flat
    lengths = item.attrs["lengths"]
    ragged = np.empty(len(lengths), dtype=object)
    for i, end in enumerate(np.cumsum(lengths)):
        ragged[i] = flat[end - lengths[i] : end]
    return ragged
