"""Tensors kept in a file beside the NWB files they were made from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import ndt_cli
from ndt_cli.atomic import write_atomic
from ndt_cli.nlb.catalogue import NlbDataset, Phase
from ndt_cli.nlb.extra import package_version

_PARTS = ("train", "eval", "target")
_PER_TRIAL = ("train_trial_ids", "eval_trial_ids", "train_start_ms", "eval_start_ms")
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
        write_atomic(path, write)
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
