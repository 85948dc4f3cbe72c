"""Write inferred rates to a file for other programs.

Axes in names: B trials, T bins, N neurons, K any channel, X entries of trials and bins.
"""

import csv
import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from ndt_cli.atomic import (
    check_may_write,
    check_suffix,
    write_stream_atomic,
)
from ndt_cli.data.bins import merge_blocks, merged_bins
from ndt_cli.data.files import TRIAL_TABLE, refuse_elsewhere
from ndt_cli.data.spike_data import (
    ByTrial,
    FloatArray,
    IntArray,
    SpikeData,
    TrialValues,
    trial_blocks,
)
from ndt_cli.errors import DataError, SettingsError, needed
from ndt_cli.inferred_rates import Rates

RATES_SUFFIXES = (".h5", ".npz", ".mat", ".nwb", ".csv", ".parquet")

_TABLES = (".csv", ".parquet")

# Rates per bin and per second look alike.
_UNITS = {
    "rates": "spikes/bin",
    "rates_hz": "spikes/s",
    "continuous_rates": "spikes/bin",
    "continuous_rates_hz": "spikes/s",
    "bin_ms": "ms",
    "time_ms": "ms",
    "start_ms": "ms",
    "start_times_s": "s",
    "continuous_start_ms": "ms",
}
_AXES = {
    "rates": "trials x bins x neurons",
    "rates_hz": "trials x bins x neurons",
    "activations": "trials x bins x channels",
    "components": "trials x bins x components",
    "behavior": "trials x bins x variables",
    "continuous_rates": "bins x neurons",
    "continuous_rates_hz": "bins x neurons",
    "component_axes": "channels x components",
}

_WHOLE = 2**53  # up to which every whole number is a double

# Of a variable in the format that every version of MATLAB loads.
_MAT_BYTES = 2**31 - 2**20


class _Stream(NamedTuple):
    """An array to write, as consecutive parts along its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterator[NDArray[Any]]


def write_rates(
    path: Path | str,
    rates: Rates,
    *,
    n_components: int = 0,
    nwb_source: Path | str | None = None,
    overwrite: bool = False,
) -> None:
    """Write rates, the encoder's activations, and what is known about trials, bins and neurons.

    Trials and neurons have the order of the spike file.

    Parameters
    ----------
    path : Path or str
        A missing folder is created. The suffix decides the format:

        - ``.h5``, ``.npz``, ``.mat``: ``rates`` (expected spikes per bin), ``rates_hz`` and
          ``activations``, all trials x bins x channels, in MATLAB too; 0 past the end of a trial,
          whose bins are in ``lengths``. ``time_ms`` is the middle of each bin from the event.
          Further keys are those of `Rates.labels`. In HDF5, numbers have attributes ``unit`` and
          ``axes``, and texts are attributes of the file. Windows chopped from a continuous
          recording are also merged: ``continuous_rates`` and ``continuous_rates_hz`` (bins x
          neurons, NaN between windows) and ``continuous_start_ms``, the time of their first bin.
        - ``.csv``, ``.parquet``: a long table of rates in Hz, with a row for each trial, bin and
          neuron.
        - ``.nwb``: a processing module ``ndt``, on the recording's clock: time series ``rates``
          (Hz) and ``activations``, and tables ``neurons`` and ``trials``.
    rates : Rates
        From `infer_rates`.
    n_components : int
        Add the leading principal components of the activations: ``components``,
        ``component_axes`` and ``component_shares`` (of the variance).
    nwb_source : Path or str, optional
        NWB file of the recording: the file written is a copy of it with the module added.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    SettingsError
        If the suffix is another, an option does not go with it, or an array is too large for it.
    ExistingFileError
        If the file exists and may not be replaced.
    DataError
        If a rate is not finite, or an .nwb file is to be written and the times of the trials are
        not known.
    MissingExtraError
        If a format needs a package that is not installed.

    Examples
    --------
    >>> from ndt_cli import infer_rates
    >>> write_rates("rates.h5", infer_rates("runs/first", split="valid"))
    >>> with h5py.File("rates.h5") as file:
    ...     file["rates_hz"].shape, file["rates_hz"].attrs["unit"]
    ((4, 10, 4), 'spikes/s')
    """
    path = Path(path)
    suffix = check_rates_path(path, n_components, nwb_source, overwrite)
    source = None if nwb_source is None else Path(nwb_source)
    writers: dict[str, Callable[[BinaryIO, Rates], None]] = {
        ".h5": partial(_write_hdf5, n_components=n_components),
        ".npz": partial(_write_npz, n_components=n_components),
        ".mat": partial(_write_mat, n_components=n_components),
        ".csv": _write_csv,
        ".parquet": _write_parquet,
        ".nwb": partial(_write_nwb, n_components=n_components, source=source),
    }
    large = [rates.inferred, rates.activations, rates.data.behavior_BTV]
    n_bytes = 8 * max(v.shape[0] * v.shape[1] * v.shape[2] for v in large if v is not None)
    if suffix == ".mat" and n_bytes > _MAT_BYTES:
        raise SettingsError(
            f"{path}: found an array of up to {n_bytes / 1e9:.1f} GB; expected at most "
            f"{_MAT_BYTES / 1e9:.1f} GB in a .mat file",
            f"MATLAB reads {path.with_suffix('.h5')} as well, with h5read, its axes reversed.",
        )
    checked = _checked(path, rates)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_stream_atomic(path, lambda stream: writers[suffix](stream, checked), overwrite=overwrite)


def check_rates_path(
    path: Path, n_components: int = 0, nwb_source: Path | str | None = None, overwrite: bool = False
) -> str:
    """Check, before rates are inferred, that `write_rates` can write them; return the suffix."""
    check_suffix(path, RATES_SUFFIXES)
    suffix = path.suffix.lower()
    if n_components and suffix in _TABLES:
        raise SettingsError(
            f"{path}: a table of rates has no place for principal components",
            f"Choose another format: {path.with_suffix('.h5')}",
        )
    if nwb_source is not None and suffix != ".nwb":
        raise SettingsError(
            f"`nwb_source`: the rates are to be written to {path}; expected an .nwb file",
            f"For example: {path.with_suffix('.nwb')}",
        )
    if nwb_source is not None and not Path(nwb_source).is_file():
        raise DataError(f"{nwb_source}: there is no such file")
    if suffix in (".parquet", ".nwb"):
        needed("pyarrow" if suffix == ".parquet" else "pynwb")
    check_may_write(path, overwrite)
    return suffix


def _checked(path: Path, rates: Rates) -> Rates:
    """Return the rates; those of a trial that are not finite are refused as they are read."""

    def checked(trials: IntArray) -> FloatArray:
        found_BTN: FloatArray = rates.inferred[trials]
        finite_B = np.isfinite(found_BTN).all(axis=(1, 2))
        if not finite_B.all():
            raise DataError(
                f"{path} was not written: rates of trial {trials[finite_B.argmin()]} are not "
                "finite, so the run has diverged",
                "Try `checkpoint='best-masked-loss'`, or train again with a lower "
                "`train.learning_rate`.",
            )
        return found_BTN

    shape, dtype = rates.inferred.shape, rates.inferred.dtype
    return replace(rates, inferred=ByTrial(shape, dtype, checked, keep=False))


def _in_file_order(rates: Rates) -> ByTrial:
    """Return rates per bin, neurons in the order of the file."""
    inferred, order_N = rates.inferred, rates.data.file_order_N
    return ByTrial(
        inferred.shape, inferred.dtype, lambda trials: inferred[trials][:, :, order_N], keep=False
    )


def _derived(rates: Rates, rates_BTN: ByTrial, n_components: int) -> Iterator[tuple[str, _Stream]]:
    """Yield the arrays that follow the rates in spikes per bin, each with its key."""
    data, per_second = rates.data, np.float32(1000.0 / rates.data.bin_ms)

    def in_hz(stream: _Stream) -> _Stream:
        return stream._replace(parts=(part * per_second for part in stream.parts))

    yield "rates_hz", in_hz(_trial_by_trial(rates_BTN))
    if rates.activations is not None:
        yield "activations", _trial_by_trial(_without_padding(data, rates.activations))
    if n_components:
        scores_BTK, axes_DK, share_K = rates.components(n_components)
        yield "components", _trial_by_trial(scores_BTK)
        yield "component_axes", _whole(axes_DK)
        yield "component_shares", _whole(share_K)
    if data.behavior_BTV is not None:
        yield "behavior", _whole(data.behavior_BTV)
    if data.start_bins_B is not None:
        yield "continuous_rates", _merged(data, rates_BTN)
        yield "continuous_rates_hz", in_hz(_merged(data, rates_BTN))


# Arrays: HDF5 and .npz ----------------------------------------------------------------------------


def _write_hdf5(stream: BinaryIO, rates: Rates, n_components: int) -> None:
    with h5py.File(stream, "w") as file:

        def add(key: str, values: _Stream) -> None:
            dataset, start = file.create_dataset(key, values.shape, values.dtype), 0
            for part in values.parts:
                dataset[start : start + len(part)] = part
                start += len(part)

        add("rates", _trial_by_trial(_in_file_order(rates)))
        # Reading rates back is faster than inferring them again.
        for key, values in _derived(rates, _read_back(file["rates"]), n_components):
            add(key, values)
        for key, label in rates.labels().items():
            if label.dtype.kind != "U":
                file[key] = label
            elif label.ndim:
                file.create_dataset(key, data=label.astype(object), dtype=h5py.string_dtype())
            else:
                file.attrs[key] = str(label)
        for key in file:
            for name, facts in (("unit", _UNITS), ("axes", _AXES)):
                if key in facts:
                    file[key].attrs[name] = facts[key]


def _write_npz(stream: BinaryIO, rates: Rates, n_components: int) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(key: str, values: _Stream) -> None:
            header = {
                "descr": np.lib.format.dtype_to_descr(values.dtype),
                "fortran_order": False,
                "shape": values.shape,
            }
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for part in values.parts:
                    member.write(part.tobytes())

        rates_BTN = _in_file_order(rates)
        add("rates", _trial_by_trial(rates_BTN))
        for key, values in _derived(rates, rates_BTN, n_components):
            add(key, values)
        for key, label in rates.labels().items():
            add(key, _whole(label))


def _without_padding(data: SpikeData, values_BTK: TrialValues) -> ByTrial:
    def cleared(trials: IntArray) -> FloatArray:
        found_BTK: FloatArray = values_BTK[trials]
        found_BTK[~data.inside_BT[trials]] = 0
        return found_BTK

    shape = (data.n_trials, data.n_bins, values_BTK.shape[2])
    return ByTrial(shape, values_BTK.dtype, cleared, keep=False)


def _read_back(stored: h5py.Dataset) -> ByTrial:
    def read(trials: IntArray) -> FloatArray:
        ascending = np.argsort(trials)  # the only order in which HDF5 reads
        found_BTN = np.empty((len(trials), *stored.shape[1:]), stored.dtype)
        found_BTN[ascending] = stored[trials[ascending]]
        return found_BTN

    return ByTrial(stored.shape, stored.dtype, read, keep=False)


def _merged(data: SpikeData, rates_BTN: ByTrial) -> _Stream:
    assert data.start_bins_B is not None
    starts_B, lengths_B = np.asarray(data.start_bins_B), np.asarray(data.lengths_B)
    shape = (merged_bins(starts_B, lengths_B), data.n_neurons)
    return _Stream(shape, rates_BTN.dtype, merge_blocks(rates_BTN, starts_B, lengths_B))


def _trial_by_trial(values_BTK: ByTrial) -> _Stream:
    blocks = trial_blocks(len(values_BTK), values_BTK.shape[1] * values_BTK.shape[2])
    return _Stream(values_BTK.shape, values_BTK.dtype, (values_BTK[block] for block in blocks))


def _whole(values: NDArray[Any]) -> _Stream:
    return _Stream(values.shape, values.dtype, iter([values]))


# MATLAB -------------------------------------------------------------------------------------------
#
# Arrays have the axes that they have here: rates_hz(trial, bin, neuron).


def _write_mat(stream: BinaryIO, rates: Rates, n_components: int) -> None:
    rates_BTN = _in_file_order(rates)[:]
    kept = ByTrial(rates_BTN.shape, rates_BTN.dtype, lambda trials: rates_BTN[trials], keep=False)
    variables: dict[str, Any] = {"rates": rates_BTN}
    for key, values in _derived(rates, kept, n_components):
        variables[key] = np.concatenate(list(values.parts))
    table: dict[str, Any] = {}
    for key, label in rates.labels().items():
        # MATLAB calculates with doubles; whole numbers of other types round their results. Those
        # that are no doubles, such as times in nanoseconds, are kept.
        kinds = {"U": object}
        if (
            label.dtype.kind in "iu"
            and -_WHOLE <= label.min(initial=0) <= label.max(initial=0) <= _WHOLE
        ):
            kinds = {label.dtype.kind: np.float64}
        value: Any = label.astype(kinds.get(label.dtype.kind, label.dtype))
        if label.ndim == 0:
            value = label.item()
        if key.startswith(TRIAL_TABLE):
            table[_matlab_name(key.removeprefix(TRIAL_TABLE), table)] = value[:, None]
        else:
            variables[key] = value
    if table:
        variables["trial_table"] = table
    savemat(stream, variables, long_field_names=True, do_compression=True, oned_as="column")


def _matlab_name(name: str, taken: dict[str, Any]) -> str:
    """Return a name that MATLAB allows, as its ``matlab.lang.makeValidName`` does."""
    valid = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)
    valid = (valid if valid[:1].isalpha() else f"x{valid}")[:60]
    candidates = (f"{valid}_{n}" if n else valid for n in range(len(taken) + 1))
    return next(name for name in candidates if name not in taken)


# Long tables --------------------------------------------------------------------------------------


def _write_csv(stream: BinaryIO, rates: Rates) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text)
    for number, columns in enumerate(rates.table()):
        if number == 0:
            writer.writerow(columns)
        rates_hz = [f"{rate:.6g}" for rate in columns["rate_hz"].tolist()]
        others = [c.tolist() for name, c in columns.items() if name != "rate_hz"]
        writer.writerows(zip(*others, rates_hz, strict=True))
    text.detach()  # flushed, and not closed


def _write_parquet(stream: BinaryIO, rates: Rates) -> None:
    pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    about = {key: str(label) for key, label in rates.labels().items() if label.ndim == 0}
    writer = None
    for columns in rates.table():
        table = pyarrow.table(columns).replace_schema_metadata({**about, "rate_hz": "spikes/s"})
        writer = writer or parquet.ParquetWriter(stream, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


# NWB ----------------------------------------------------------------------------------------------


def _write_nwb(stream: BinaryIO, rates: Rates, n_components: int, source: Path | None) -> None:
    pynwb = needed("pynwb")
    if source is not None:
        refuse_elsewhere(source)
        with source.open("rb") as copied:
            shutil.copyfileobj(copied, stream)
    with (
        h5py.File(stream, "w" if source is None else "r+") as stored,
        pynwb.NWBHDF5IO(file=stored, mode="w" if source is None else "a") as io,
    ):
        if source is None:
            file = pynwb.NWBFile(
                session_description=f"rates inferred by ndt from {rates.source}",
                identifier=f"{rates.source} {rates.run}",
                # NWB requires one; that of the recording is not known here.
                session_start_time=datetime(1970, 1, 1, tzinfo=timezone.utc),
            )
        else:
            file = io.read()
            if "ndt" in file.processing:
                raise DataError(
                    f"{source}: found a processing module `ndt` already",
                    "Give the file as it was before rates were added.",
                )
        _add_module(pynwb, file, rates, n_components)
        io.write(file)


def _add_module(pynwb: Any, file: Any, rates: Rates, n_components: int) -> None:
    data = rates.data
    about = "; ".join(f"{key}: {label}" for key, label in rates.labels().items() if not label.ndim)
    module = file.create_processing_module("ndt", f"Neural Data Transformer. {about}")
    times_s_X, rates_hz_XN = rates.on_clock()

    def add(name: str, values_XK: FloatArray, unit: str, description: str) -> None:
        series = pynwb.TimeSeries(
            name=name, data=values_XK, unit=unit, timestamps=times_s_X, description=description
        )
        module.add(series)

    add("rates", rates_hz_XN, "Hz", "inferred rates, bins x neurons, at the middle of each bin")
    if rates.activations is not None:
        values_XD = rates.on_clock(rates.activations)[1]
        add("activations", values_XD, "a.u.", "activations of the encoder, bins x channels")
    if n_components:
        values_XK = rates.on_clock(rates.components(n_components)[0])[1]
        add("components", values_XK, "a.u.", "principal components of the activations")
    names = pynwb.core.VectorData(
        name="neuron_name", description="name in the recording", data=list(rates.neuron_names)
    )
    module.add(
        pynwb.core.DynamicTable(name="neurons", description="columns of the rates", columns=[names])
    )
    if data.start_times_s_B is None:
        return
    trials = pynwb.epoch.TimeIntervals(name="trials", description="bins of the rates, by trial")
    stops_s_B = data.start_times_s_B + np.asarray(data.lengths_B) * data.bin_ms / 1000
    for start_s, stop_s in zip(data.start_times_s_B, stops_s_B, strict=True):
        trials.add_interval(start_time=float(start_s), stop_time=float(stop_s))
    ids = {} if data.trial_ids_B is None else {"trial_id": data.trial_ids_B}
    for name, values in {**ids, **rates.trial_columns}.items():
        # Some names have a meaning of their own in NWB, and "/" and ":" none.
        own = name in ("id", "start_time", "stop_time", "tags", "timeseries")
        plain = name.replace("/", "_").replace(":", "_")
        kept = f"source_{plain}" if own else plain
        trials.add_column(kept, f"{name} of each trial", data=values.tolist())
    module.add(trials)
