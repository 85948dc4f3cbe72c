"""Write inferred rates to a file for other programs, a block of trials at a time."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ndt_cli.atomic import check_may_write, check_suffix, write_stream_atomic
from ndt_cli.data.chop import merge_blocks, merged_bins
from ndt_cli.data.spike_data import (
    ByTrial,
    FloatArray,
    IntArray,
    SpikeData,
    TrialValues,
    trial_blocks,
)
from ndt_cli.errors import DataError

RATES_SUFFIXES = (".h5", ".npz")

# Rates per bin and per second look alike.
_UNITS = {
    "rates": "spikes/bin",
    "rates_hz": "spikes/s",
    "continuous_rates": "spikes/bin",
    "continuous_rates_hz": "spikes/s",
    "bin_ms": "ms",
}


class _Stream(NamedTuple):
    """An array to write, as consecutive parts along its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterator[NDArray[Any]]


def write_rates(
    path: Path | str,
    data: SpikeData,
    rates_BTN: TrialValues,
    activations_BTD: TrialValues,
    *,
    overwrite: bool = False,
) -> None:
    """Write rates and the encoder's activations.

    Parameters
    ----------
    path : Path or str
        A ``.h5`` or ``.npz`` file; a missing folder is created. Its keys: ``rates`` (expected
        spikes per bin), ``rates_hz`` and ``activations``, all trials x bins x channels;
        ``bin_ms``; ``lengths`` (bins of each trial, beyond which everything is 0); ``trial_ids``
        if known. Neurons are in the order of the spike file; ``heldout_neurons`` are the positions
        of held-out ones, if any. Windows chopped from a continuous recording are also merged:
        ``continuous_rates`` and ``continuous_rates_hz`` (bins x neurons, NaN between windows) and
        ``continuous_start_ms``, the time of their first bin on the recording's clock. In HDF5,
        rates have an attribute ``unit``.
    data : SpikeData
        The trials.
    rates_BTN, activations_BTD : (trials, bins, channels) float32 array or ByTrial
        Rates in spikes per bin and activations of the encoder: arrays, or ``inferred`` and
        ``activations`` of an `Evaluation`, which are inferred as they are written.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    SettingsError
        If the suffix is another.
    ExistingFileError
        If the file exists and may not be replaced.
    DataError
        If a rate is not finite.

    Examples
    --------
    >>> from ndt_cli import load_recording, load_trained
    >>> model = load_trained("runs/first")
    >>> trials = load_recording(model.settings.data).valid
    >>> write_rates("rates.h5", trials, model.rates(trials), model.activations(trials))
    >>> with h5py.File("rates.h5") as file:
    ...     file["rates_hz"].shape, file["rates_hz"].attrs["unit"]
    ((4, 10, 4), 'spikes/s')
    """
    path = Path(path)
    check_suffix(path, RATES_SUFFIXES)
    check_may_write(path, overwrite)
    rates_BTN = _in_file_order(path, data, rates_BTN)
    activations_BTD = _without_padding(data, activations_BTD)

    def write(temporary: BinaryIO) -> None:
        if path.suffix.lower() == ".npz":
            _write_npz(temporary, data, rates_BTN, activations_BTD)
        else:
            _write_hdf5(temporary, data, rates_BTN, activations_BTD)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_stream_atomic(path, write, overwrite=overwrite)


def _write_hdf5(
    path: BinaryIO, data: SpikeData, rates_BTN: ByTrial, activations_BTD: ByTrial
) -> None:
    with h5py.File(path, "w") as file:

        def add(key: str, stream: _Stream) -> None:
            dataset, start = file.create_dataset(key, stream.shape, stream.dtype), 0
            for part in stream.parts:
                dataset[start : start + len(part)] = part
                start += len(part)

        add("rates", _trial_by_trial(rates_BTN))
        # Reading rates back is faster than inferring them again.
        for key, stream in _derived(data, _read_back(file["rates"]), activations_BTD):
            add(key, stream)
        for key, fact in _facts(data).items():
            file[key] = fact
        for key in _UNITS.keys() & file.keys():
            file[key].attrs["unit"] = _UNITS[key]


def _write_npz(
    path: BinaryIO, data: SpikeData, rates_BTN: ByTrial, activations_BTD: ByTrial
) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(key: str, stream: _Stream) -> None:
            header = {
                "descr": np.lib.format.dtype_to_descr(stream.dtype),
                "fortran_order": False,
                "shape": stream.shape,
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in stream.parts:
                    member.write(part.tobytes())

        add("rates", _trial_by_trial(rates_BTN))
        for key, stream in _derived(data, rates_BTN, activations_BTD):
            add(key, stream)
        for key, fact in _facts(data).items():
            add(key, _Stream(fact.shape, fact.dtype, iter([fact])))


def _in_file_order(path: Path, data: SpikeData, rates_BTN: TrialValues) -> ByTrial:
    order_N = data.file_order_N

    def ordered(trials: IntArray) -> FloatArray:
        found_BTN: FloatArray = rates_BTN[trials][:, :, order_N]
        finite_B = np.isfinite(found_BTN).all(axis=(1, 2))
        if not finite_B.all():
            raise DataError(
                f"{path} was not written: rates of trial {trials[finite_B.argmin()]} are not "
                "finite, so the run has diverged",
                "Try `checkpoint='best-masked-loss'`, or train again with a lower "
                "`train.learning_rate`.",
            )
        return found_BTN

    return ByTrial(data.spikes_BTN.shape, rates_BTN.dtype, ordered, keep=False)


def _without_padding(data: SpikeData, values_BTD: TrialValues) -> ByTrial:
    def cleared(trials: IntArray) -> FloatArray:
        found_BTD: FloatArray = values_BTD[trials]
        found_BTD[~data.inside_BT[trials]] = 0
        return found_BTD

    shape = (data.n_trials, data.n_bins, values_BTD.shape[2])
    return ByTrial(shape, values_BTD.dtype, cleared, keep=False)


def _read_back(stored: h5py.Dataset) -> ByTrial:
    def read(trials: IntArray) -> FloatArray:
        ascending = np.argsort(trials)  # the only order in which HDF5 reads
        found_BTN = np.empty((len(trials), *stored.shape[1:]), stored.dtype)
        found_BTN[ascending] = stored[trials[ascending]]
        return found_BTN

    return ByTrial(stored.shape, stored.dtype, read, keep=False)


def _derived(
    data: SpikeData, rates_BTN: ByTrial, activations_BTD: ByTrial
) -> Iterator[tuple[str, _Stream]]:
    """Yield the arrays that follow the rates in spikes per bin, each with its key."""
    per_second = np.float32(1000.0 / data.bin_ms)

    def in_hz(stream: _Stream) -> _Stream:
        return stream._replace(parts=(part * per_second for part in stream.parts))

    yield "rates_hz", in_hz(_trial_by_trial(rates_BTN))
    yield "activations", _trial_by_trial(activations_BTD)
    if data.start_bins_B is not None:
        yield "continuous_rates", _merged(data, rates_BTN)
        yield "continuous_rates_hz", in_hz(_merged(data, rates_BTN))


def _merged(data: SpikeData, rates_BTN: ByTrial) -> _Stream:
    assert data.start_bins_B is not None
    starts_B, lengths_B = np.asarray(data.start_bins_B), np.asarray(data.lengths_B)
    shape = (merged_bins(starts_B, lengths_B), data.n_neurons)
    return _Stream(shape, rates_BTN.dtype, merge_blocks(rates_BTN, starts_B, lengths_B))


def _trial_by_trial(values_BTK: ByTrial) -> _Stream:
    blocks = trial_blocks(len(values_BTK), values_BTK.shape[1] * values_BTK.shape[2])
    return _Stream(values_BTK.shape, values_BTK.dtype, (values_BTK[block] for block in blocks))


def _facts(data: SpikeData) -> dict[str, NDArray[Any]]:
    """Return the small arrays that describe the trials."""
    facts: dict[str, NDArray[Any]] = {
        "bin_ms": np.array(data.bin_ms, np.float64),
        "lengths": np.asarray(data.lengths_B),
    }
    if data.trial_ids_B is not None:
        facts["trial_ids"] = np.asarray(data.trial_ids_B)
    if data.n_heldout:
        facts["heldout_neurons"] = data.heldout_ids
    if data.start_bins_B is not None:
        facts["start_bins"] = np.asarray(data.start_bins_B)
        facts["continuous_start_ms"] = np.array(data.start_bins_B.min() * data.bin_ms, np.float64)
    return facts
