"""Tensors kept in a file beside the NWB files they were made from."""

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

_PARTS = ("train", "eval", "target")
_PER_TRIAL = ("train_trial_ids", "eval_trial_ids")
# On top of HDF5's own checks, which see no changed bytes.
_STORAGE = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


def cache_path(dataset: NlbDataset, bin_ms: int, phase: Phase, sources: Sequence[Path]) -> Path:
    """Return where the tensors of these files are kept.

    Parameters
    ----------
    sources : sequence of Path
        The NWB files, the train file first. Size and time of change stand for their content.
    """
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
    """Keep tensors; return False where they cannot be written: a shared folder, a full disk."""

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
    """Return kept tensors; None where there are none, or the file is damaged."""
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
    # One list of indices a condition: stored end to end, with the length of each.
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


# ------------------------------------------------------------------------------------------------
# Tensors of a benchmark data set: what a model is given, and what its rates are scored against.
#
# Array keys are those of nlb_tools. Arrays of counts are trials x bins x neurons; their dtypes are
# those that nlb_tools gives, float16 for counts.
# ------------------------------------------------------------------------------------------------


Arrays = dict[str, NDArray[Any]]

_NEEDED = ("nlb_tools", "pandas", "pynwb", "sklearn")


@dataclass(frozen=True, eq=False)
class NlbTensors:
    """Tensors of one data set, bin width and phase.

    Attributes
    ----------
    dataset : NlbDataset
    bin_ms : int
        Bin width in milliseconds.
    phase : {"val", "test"}
        ``"val"``: trained on the train split, scored on the validation split. ``"test"``: trained
        on both, scored on the test split.
    train : dict of str to array
        ``train_spikes_heldin``, ``train_spikes_heldout``, both again with ``_forward``, and
        ``train_behavior``.
    eval : dict of str to array
        ``eval_spikes_heldin`` and, in the validation phase, ``eval_spikes_heldout``.
    target : dict of str to array, or None
        What nlb_tools' ``evaluate`` takes under the data set's key, PSTHs included. None in the
        test phase, whose labels come in a file of their own.
    train_trial_ids, eval_trial_ids : (trials,) int array
        Row of each trial in the trial tables of the files, the test file's first.
    notes : tuple of str
        What the user should know of the files, one sentence each.
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
        """Group of this data set and bin width in a submission."""
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
    """Make the tensors of a data set through nlb_tools, or take them from the cache.

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
        Take the tensors from, and leave them in, the folder ``tensors`` beside the train file. A
        file there serves the same packages and the same NWB files only.
    progress : callable, optional
        Told what is done and how far it is.

    Returns
    -------
    NlbTensors

    Raises
    ------
    SettingsError
        When there is no such data set or bin width.
    DataError
        When a file is missing or damaged, or lacks what the benchmark needs.
    MissingExtraError
        When nlb_tools or a package it needs is not installed.
    """
    dataset = find_dataset(dataset) if isinstance(dataset, str) else dataset
    submission_key(dataset.name, bin_ms)
    files = locate(dataset, Path(data_dir), phase)
    # Also for tensors in the cache: what is made of them cannot be scored without.
    require_nlb_extra(*_NEEDED)
    sources = [path for path in files if path is not None]
    cached = cache_path(dataset, bin_ms, phase, sources)
    made = read_cache(cached) if cache else None
    if made is None:
        from ndt_cli.nlb.nlb_tools import cut_tensors

        made = cut_tensors(dataset, bin_ms, phase, files, progress or no_progress)
        if cache and not write_cache(cached, made):
            made["notes"] += (f"{cached.parent} cannot be written: the tensors were not kept.",)
    return NlbTensors(dataset, bin_ms, phase, **made)
