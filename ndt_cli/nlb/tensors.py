"""Tensors of a benchmark dataset, cached beside the NWB files, and the trials made of them.

Keys and dtypes are nlb_tools' own (float16 for counts). Counts are trials x bins x neurons; in the
trials, held-out neurons are the last columns and forward bins the last bins.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

import ndt_cli
from ndt_cli.atomic import write_stream_atomic
from ndt_cli.data.files import DAMAGE, Item, open_hdf5, own_item, own_items
from ndt_cli.data.spike_data import IntArray, Recording, SpikeData
from ndt_cli.data.write import check_target, write_recording
from ndt_cli.nlb.catalog import (
    NlbDataset,
    Phase,
    Progress,
    find_dataset,
    no_progress,
    submission_key,
)
from ndt_cli.nlb.dependencies import package_version, require_nlb_extra
from ndt_cli.nlb.download import locate, sha256_of

Arrays = dict[str, NDArray[Any]]

_NEEDED = ("nlb_tools", "pandas", "pynwb", "sklearn")


@dataclass(frozen=True, eq=False)
class NlbTensors:
    """Tensors of one dataset, bin width and phase.

    Validation phase: train on the train split, score the validation split. Test phase: train on
    both, score the test split.
    """

    dataset: NlbDataset
    bin_ms: int
    phase: Phase
    # train_spikes_heldin, train_spikes_heldout, the same with _forward, and train_behavior
    train: Arrays
    eval: Arrays  # eval_spikes_heldin and, in the validation phase, eval_spikes_heldout
    # For the evaluation of nlb_tools, with PSTHs; None in the test phase, whose labels are a
    # separate file.
    target: Arrays | None
    # Row of each trial in the trial tables of the files, test file first.
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

    The cache is the folder ``tensors`` beside the train file; a file in it is valid only for the
    same NWB files and package versions. The validation phase reads the train file only.
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
# Trials for training.
# ------------------------------------------------------------------------------------------------


def to_recording(tensors: NlbTensors) -> Recording:
    """Return the trials of a benchmark dataset for training.

    In the test phase ``train`` holds train and validation trials, and ``valid`` the test trials,
    whose held-out and forward counts are unknown: nothing may be chosen by them.
    """
    train = _spike_data(tensors, tensors.train_trial_ids, *_train_parts(tensors))
    if tensors.phase == "test":
        valid = scored_inputs(tensors)
    else:
        target = tensors.target or {}
        valid = _spike_data(
            tensors,
            tensors.eval_trial_ids,
            tensors.eval["eval_spikes_heldin"],
            # Not from the target, which in dmfc_rsg is blank before the interval.
            tensors.eval["eval_spikes_heldout"],
            target["eval_spikes_heldin_forward"],
            target["eval_spikes_heldout_forward"],
        )
    notes = tensors.notes
    if n_missing := int(np.isnan(tensors.eval["eval_spikes_heldin"]).any(axis=2).sum()):
        text = "bins of the scored trials have no recording; their counts are taken as zero."
        notes += (f"{n_missing} {text}",)
    return Recording(train, valid, f"{tensors.key}, {tensors.phase} phase", "nlb", notes)


def scored_inputs(tensors: NlbTensors) -> SpikeData:
    """Return the scored trials with their held-in counts only.

    Counts of held-out neurons and forward bins are zero, and marked as unknown.
    """
    heldin_BTN = tensors.eval["eval_spikes_heldin"]
    n_trials = len(heldin_BTN)
    shapes = [array.shape[1:] for array in _train_parts(tensors)[1:]]
    blank = [np.zeros((n_trials, *shape), dtype=np.uint8) for shape in shapes]
    return _spike_data(tensors, tensors.eval_trial_ids, heldin_BTN, *blank, known=False)


def _train_parts(tensors: NlbTensors) -> list[NDArray[Any]]:
    parts = ("heldin", "heldout", "heldin_forward", "heldout_forward")
    return [tensors.train[f"train_spikes_{part}"] for part in parts]


def _spike_data(
    tensors: NlbTensors,
    trial_ids_B: IntArray,
    heldin_BTN: NDArray[Any],
    heldout_BTN: NDArray[Any],
    heldin_forward_BTN: NDArray[Any],
    heldout_forward_BTN: NDArray[Any],
    *,
    known: bool = True,
) -> SpikeData:
    window_BTN = np.concatenate([heldin_BTN, heldout_BTN], axis=2)
    forward_BTN = np.concatenate([heldin_forward_BTN, heldout_forward_BTN], axis=2)
    counts_BTN = np.nan_to_num(np.concatenate([window_BTN, forward_BTN], axis=1))
    small = counts_BTN.max(initial=0) <= np.iinfo(np.uint8).max
    return SpikeData(
        spikes_BTN=counts_BTN.astype(np.uint8 if small else np.uint16),
        bin_ms=float(tensors.bin_ms),
        lengths_B=np.full(len(counts_BTN), counts_BTN.shape[1]),
        trial_ids_B=np.asarray(trial_ids_B),
        n_heldout=heldout_BTN.shape[2],
        n_forward=forward_BTN.shape[1],
        hidden_counts_known=known,
    )


def write_spike_file(
    name: str,
    bin_ms: int,
    data_dir: Path | str,
    spikes: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Write the train and validation trials of a dataset as a spike file.

    The same bytes as the file that `ndt_cli.nlb.submit.submit` writes beside its runs: a model
    trained on either can be submitted.
    """
    check_target(spikes, overwrite=overwrite)
    recording = to_recording(make_tensors(name, bin_ms, "val", data_dir, progress=progress))
    write_recording(recording, spikes, overwrite=overwrite)
    return recording


# ------------------------------------------------------------------------------------------------
# The cache.
# ------------------------------------------------------------------------------------------------


_PARTS = ("train", "eval", "target")
_PER_TRIAL = ("train_trial_ids", "eval_trial_ids")
# With checksums: HDF5 itself does not notice changed bytes.
_STORAGE = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


def cache_path(dataset: NlbDataset, bin_ms: int, phase: Phase, sources: Sequence[Path]) -> Path:
    """Return the cache file for NWB files (train file first), keyed by their names and content."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
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

    def write(temporary: BinaryIO) -> None:
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
        write_stream_atomic(path, write, overwrite=True)
    except OSError:
        return False
    return True


def read_cache(path: Path) -> dict[str, Any] | None:
    """Return cached tensors, or None if there are none or the file is damaged."""
    if not path.is_file():
        return None
    made: dict[str, Any] = dict.fromkeys(_PARTS)
    try:
        with open_hdf5(path) as file:
            for part in _PARTS:
                group = own_item(file, part)
                if isinstance(group, h5py.Group):
                    made[part] = {key: _read_array(item) for key, item in own_items(group).items()}
            for key in _PER_TRIAL:
                made[key] = _read_array(own_item(file, key))
            made["notes"] = tuple(str(note) for note in file.attrs["notes"])
    except DAMAGE:
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


def _read_array(item: Item) -> NDArray[Any]:
    if not isinstance(item, h5py.Dataset):
        raise ValueError("not an array of this file")
    flat: NDArray[Any] = item[()]
    if "lengths" not in item.attrs:
        return flat
    lengths = item.attrs["lengths"]
    ragged = np.empty(len(lengths), dtype=object)
    for i, end in enumerate(np.cumsum(lengths)):
        ragged[i] = flat[end - lengths[i] : end]
    return ragged
