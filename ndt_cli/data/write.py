"""Write a recording in the own layout, whose keys `ndt_cli.data.layouts` lists."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.atomic import check_may_write, write_stream_atomic
from ndt_cli.data.files import TRIAL_TABLE
from ndt_cli.data.spike_data import Recording, all_trials
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
    "start_times_s": "start_times_s_B",
}

_ENDINGS = (".npz", ".h5", ".hdf5")


def write_recording(recording: Recording, path: Path, *, overwrite: bool = False) -> None:
    """Write training and validation trials into one .npz or .h5 file, in the order of `all_trials`.

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
            path, lambda part: write(part, _own_arrays(recording)), overwrite=overwrite
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Check, before a long computation, that `write_recording` can write to ``path``."""
    if path.suffix.lower() not in _ENDINGS:
        raise DataError(f"{path}: found the ending {path.suffix!r}; expected .npz, .h5 or .hdf5")
    check_may_write(path, overwrite)


def _own_arrays(recording: Recording) -> dict[str, NDArray[Any]]:
    """Return the arrays of the own layout, trials in the order of `all_trials`."""
    whole = all_trials(recording)
    found = {key: getattr(whole, name) for key, name in _PER_TRIAL.items()}
    arrays: dict[str, NDArray[Any]] = {k: np.asarray(v) for k, v in found.items() if v is not None}
    if whole.conditions_B is not None and whole.condition_names:
        numbers = np.unique(whole.conditions_B).tolist()
        arrays["condition_names"] = _encoded(whole.condition_names.get(n, str(n)) for n in numbers)
    if "behavior" in arrays and whole.behavior_names:
        arrays["behavior_names"] = _encoded(whole.behavior_names)
    if whole.neuron_names:
        arrays["neuron_names"] = _encoded(whole.column_names)
    for key, column in table_by_key(whole.trial_table).items():
        arrays[key] = _encoded(column) if column.dtype.kind == "U" else column
    if whole.event:
        arrays["event"] = np.array(whole.event.encode())
        arrays["start_ms"] = np.array(whole.start_ms)
    assert whole.is_valid_B is not None
    arrays["split"] = np.where(whole.is_valid_B, b"valid", b"train")
    arrays["bin_ms"] = np.array(whole.bin_ms)
    arrays["n_heldout"] = np.array(whole.n_heldout)
    arrays["n_forward"] = np.array(whole.n_forward)
    if not whole.hidden_counts_known:
        known = [data.hidden_counts_known for data in (recording.train, recording.valid)]
        arrays["hidden_known"] = np.where(whole.is_valid_B, known[1], known[0])
    return arrays


def table_by_key(trial_table: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the columns of a trial table by their keys in a file.

    A slash, in HDF5 the path of a group, becomes a dot, with ``_`` beside a column of that name.
    """
    found: dict[str, NDArray[Any]] = {}
    for name, column in trial_table.items():
        key = name.replace("/", ".")
        while TRIAL_TABLE + key in found or (key != name and key in trial_table):
            key += "_"
        found[TRIAL_TABLE + key] = column
    return found


def _encoded(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """Return text as bytes, which every version of HDF5 and NumPy reads."""
    return np.array([str(text).encode() for text in texts], dtype=np.bytes_)


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
