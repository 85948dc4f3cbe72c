"""Write a recording in the own layout, whose keys `ndt_cli.data.layouts` lists."""

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.atomic import check_may_write, write_stream_atomic
from ndt_cli.data.spike_data import Recording
from ndt_cli.errors import DataError

_PER_TRIAL = {
    "spikes": "spikes_BTN",
    "lengths": "lengths_B",
    "rates": "rates_BTN",
    "conditions": "conditions_B",
    "latents": "latents_BTK",
    "behavior": "behavior_BTV",
    "trial_ids": "trial_ids_B",
    "start_bins": "start_bins_B",
}

_ENDINGS = (".npz", ".h5", ".hdf5")


def write_recording(recording: Recording, path: Path, *, overwrite: bool = False) -> None:
    """Write training and validation trials into one .npz or .h5 file.

    The same recording always gives the same bytes. What only one of the splits has (true rates,
    for example) is left out.

    Parameters
    ----------
    recording : Recording
        Trials to write.
    path : Path
        File to write; the ending decides the format. Missing folders are made.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    ExistingFileError
        If the file exists and may not be replaced.
    DataError
        If the ending is neither .npz nor .h5, or the file cannot be written.

    Examples
    --------
    >>> from ndt_cli import load_settings, load_recording, make_lorenz
    >>> write_recording(make_lorenz(n_conditions=2, n_repeats=5), Path("lorenz.h5"))
    >>> load_recording(load_settings(overrides=["data.file=lorenz.h5"]).data).train.n_neurons
    29
    """
    check_target(path, overwrite=overwrite)
    write = _write_npz if path.suffix.lower() == ".npz" else _write_h5
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_stream_atomic(
            path, lambda part: write(part, own_arrays(recording)), overwrite=overwrite
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Check, before a long computation, that `write_recording` can write to ``path``."""
    if path.suffix.lower() not in _ENDINGS:
        raise DataError(f"{path}: found the ending {path.suffix!r}; expected .npz, .h5 or .hdf5")
    check_may_write(path, overwrite)


def own_arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    """Return the arrays of the own layout: training trials, then validation trials."""
    train, valid = recording.train, recording.valid
    arrays: dict[str, NDArray[Any]] = {}
    for key, name in _PER_TRIAL.items():
        halves = [getattr(data, name) for data in (train, valid)]
        if all(half is not None for half in halves):
            arrays[key] = np.concatenate(halves)
    if "behavior" in arrays and train.behavior_names:
        names = [name.encode() for name in train.behavior_names]
        arrays["behavior_names"] = np.array(names)
    if train.neuron_names:
        ids_N = range(train.n_neurons) if train.neuron_ids_N is None else train.neuron_ids_N
        arrays["neuron_names"] = np.array([train.neuron_names[i].encode() for i in ids_N])
    sizes = (train.n_trials, valid.n_trials)
    arrays["split"] = np.repeat(np.array([b"train", b"valid"]), sizes)
    arrays["bin_ms"] = np.array(train.bin_ms)
    arrays["n_heldout"] = np.array(train.n_heldout)
    arrays["n_forward"] = np.array(train.n_forward)
    known = (train.hidden_counts_known, valid.hidden_counts_known)
    if not all(known):
        arrays["hidden_known"] = np.repeat(np.array(known), sizes)
    return arrays


def _write_npz(path: BinaryIO, arrays: dict[str, NDArray[Any]]) -> None:
    # numpy.savez writes the time of day into the archive: equal data would differ in bytes.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _write_h5(path: BinaryIO, arrays: dict[str, NDArray[Any]]) -> None:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            filters = {"compression": "gzip", "shuffle": True} if array.ndim == 3 else {}
            file.create_dataset(key, data=array, **filters)
