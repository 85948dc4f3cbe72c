"""Write inferred rates to a file for other programs.

Axes in names: B trials, T bins, N neurons, K any channel, X entries of trials and bins.
"""

import csv
import io
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from ndt_cli import __version__
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
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.inferred_rates import Rates, needed

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

# A variable of MATLAB's older format has at most 2 GB.
_MAT5_BYTES = 2**31 - 2**20


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
        If the suffix is another, or an option does not go with it.
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
    made = _Made(path, rates, n_components, None if nwb_source is None else Path(nwb_source))
    path.parent.mkdir(parents=True, exist_ok=True)
    write = {
        ".h5": _write_hdf5,
        ".npz": _write_npz,
        ".mat": _write_mat,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
        ".nwb": _write_nwb,
    }[suffix]
    write_stream_atomic(path, lambda stream: write(stream, made), overwrite=overwrite)


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


class _Made(NamedTuple):
    """What is to be written, and where."""

    path: Path
    rates: Rates
    n_components: int
    nwb_source: Path | None

    @property
    def in_file_order(self) -> ByTrial:
        """Rates per bin, neurons in the order of the file; not finite ones are refused."""
        inferred, order_N = self.rates.inferred, self.rates.data.file_order_N

        def ordered(trials: IntArray) -> FloatArray:
            found_BTN: FloatArray = inferred[trials][:, :, order_N]
            finite_B = np.isfinite(found_BTN).all(axis=(1, 2))
            if not finite_B.all():
                raise DataError(
                    f"{self.path} was not written: rates of trial {trials[finite_B.argmin()]} are "
                    "not finite, so the run has diverged",
                    "Try `checkpoint='best-masked-loss'`, or train again with a lower "
                    "`train.learning_rate`.",
                )
            return found_BTN

        return ByTrial(inferred.shape, inferred.dtype, ordered, keep=False)

    def checked(self) -> Rates:
        """Return the rates; one that is not finite is refused as it is read."""
        ordered, back_N = self.in_file_order, np.argsort(self.rates.data.file_order_N)
        inferred = ByTrial(
            ordered.shape, ordered.dtype, lambda some: ordered[some][:, :, back_N], keep=False
        )
        return replace(self.rates, inferred=inferred)

    def derived(self, rates_BTN: ByTrial) -> Iterator[tuple[str, _Stream]]:
        """Yield the arrays that follow the rates in spikes per bin, each with its key."""
        rates, data = self.rates, self.rates.data
        per_second = np.float32(1000.0 / data.bin_ms)

        def in_hz(stream: _Stream) -> _Stream:
            return stream._replace(parts=(part * per_second for part in stream.parts))

        yield "rates_hz", in_hz(_trial_by_trial(rates_BTN))
        if rates.activations is not None:
            yield "activations", _trial_by_trial(_without_padding(data, rates.activations))
        if self.n_components:
            scores_BTK, axes_DK, share_K = rates.components(self.n_components)
            yield "components", _trial_by_trial(scores_BTK)
            yield "component_axes", _whole(axes_DK)
            yield "component_shares", _whole(share_K)
        if data.behavior_BTV is not None:
            yield "behavior", _whole(data.behavior_BTV)
        if data.start_bins_B is not None:
            yield "continuous_rates", _merged(data, rates_BTN)
            yield "continuous_rates_hz", in_hz(_merged(data, rates_BTN))

    def labels(self) -> dict[str, NDArray[Any]]:
        """Return what is known about the trials, bins and neurons, and who wrote the file."""
        return {**self.rates.labels(), "written_by": np.asarray(f"ndt {__version__}")}


# Arrays: HDF5 and .npz ----------------------------------------------------------------------------


def _write_hdf5(stream: BinaryIO, made: _Made) -> None:
    with h5py.File(stream, "w") as file:

        def add(key: str, values: _Stream) -> None:
            dataset, start = file.create_dataset(key, values.shape, values.dtype), 0
            for part in values.parts:
                dataset[start : start + len(part)] = part
                start += len(part)

        add("rates", _trial_by_trial(made.in_file_order))
        # Reading rates back is faster than inferring them again.
        for key, values in made.derived(_read_back(file["rates"])):
            add(key, values)
        for key, label in made.labels().items():
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


def _write_npz(stream: BinaryIO, made: _Made) -> None:
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

        rates_BTN = made.in_file_order
        add("rates", _trial_by_trial(rates_BTN))
        for key, values in made.derived(rates_BTN):
            add(key, values)
        for key, label in made.labels().items():
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
# Arrays have the axes that they have here: rates_hz(trial, bin, neuron). The older format, which
# every version of MATLAB loads, holds arrays of up to 2 GB; larger ones are written as version 7.3,
# which is HDF5 with the axes reversed and a class noted at each item.


def _write_mat(stream: BinaryIO, made: _Made) -> None:
    large = [made.rates.inferred, made.rates.activations, made.rates.data.behavior_BTV]
    n_entries = [v.shape[0] * v.shape[1] * v.shape[2] for v in large if v is not None]
    if 8 * max(n_entries) > _MAT5_BYTES:
        _write_mat73(stream, made)
        return
    rates_BTN = made.in_file_order[:]
    kept = ByTrial(rates_BTN.shape, rates_BTN.dtype, lambda trials: rates_BTN[trials], keep=False)
    variables: dict[str, Any] = {"rates": rates_BTN}
    for key, values in made.derived(kept):
        variables[key] = np.concatenate(list(values.parts))
    table: dict[str, Any] = {}
    for key, label in made.labels().items():
        # MATLAB calculates with doubles; whole numbers of other types round their results.
        kinds = {"U": object, "i": np.float64, "u": np.float64}
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
    number = 0
    found = valid
    while found in taken:
        number += 1
        found = f"{valid}_{number}"
    return found


def _write_mat73(stream: BinaryIO, made: _Made) -> None:
    with h5py.File(stream, "w", userblock_size=512) as file:
        texts = file.create_group("#refs#")

        def classed(item: Any, name: str) -> Any:
            item.attrs["MATLAB_class"] = np.bytes_(name)
            return item

        def add(key: str, values: _Stream) -> None:
            dataset = file.create_dataset(key, values.shape[::-1], values.dtype)
            start = 0
            for part in values.parts:
                dataset[..., start : start + len(part)] = part.T
                start += len(part)
            classed(dataset, {"float32": "single", "float64": "double"}[str(values.dtype)])

        def add_text(group: Any, key: str, text: str) -> Any:
            codes = np.frombuffer(text.encode("utf-16-le"), np.uint16)
            item = group.create_dataset(key, data=codes[:, None])
            item.attrs["MATLAB_int_decode"] = np.int32(2)
            return classed(item, "char")

        def add_label(group: Any, key: str, label: NDArray[Any]) -> None:
            if label.dtype.kind != "U":
                numbers = label if label.dtype.kind == "f" else label.astype(np.float64)
                classed(group.create_dataset(key, data=numbers.reshape(1, -1)), "double")
            elif not label.ndim:
                add_text(group, key, str(label))
            else:
                cell = np.empty((1, len(label)), dtype=h5py.ref_dtype)
                for i, text in enumerate(label.tolist()):
                    cell[0, i] = add_text(texts, f"t{len(texts)}", text).ref
                classed(group.create_dataset(key, data=cell), "cell")

        rates_BTN = made.in_file_order
        add("rates", _trial_by_trial(rates_BTN))
        for key, values in made.derived(rates_BTN):
            add(key, values)
        names: dict[str, Any] = {}
        for key, label in made.labels().items():
            if not key.startswith(TRIAL_TABLE):
                add_label(file, key, label)
                continue
            table = classed(file.require_group("trial_table"), "struct")
            name = _matlab_name(key.removeprefix(TRIAL_TABLE), names)
            names[name] = label
            add_label(table, name, label)
    header = f"MATLAB 7.3 MAT-file, written by ndt {__version__}".encode()
    stream.seek(0)
    stream.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


# Long tables --------------------------------------------------------------------------------------


def _write_csv(stream: BinaryIO, made: _Made) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer = csv.writer(text)
    for number, columns in enumerate(made.checked().table()):
        if number == 0:
            writer.writerow(columns)
        rates_hz = [f"{rate:.6g}" for rate in columns["rate_hz"].tolist()]
        others = [c.tolist() for name, c in columns.items() if name != "rate_hz"]
        writer.writerows(zip(*others, rates_hz, strict=True))
    text.detach()  # flushed, and not closed


def _write_parquet(stream: BinaryIO, made: _Made) -> None:
    pyarrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    about = {key: str(label) for key, label in made.labels().items() if label.ndim == 0}
    writer = None
    for columns in made.checked().table():
        table = pyarrow.table(columns).replace_schema_metadata({**about, "rate_hz": "spikes/s"})
        writer = writer or parquet.ParquetWriter(stream, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


# NWB ----------------------------------------------------------------------------------------------


def _write_nwb(stream: BinaryIO, made: _Made) -> None:
    pynwb = needed("pynwb")
    if made.nwb_source is not None:
        refuse_elsewhere(made.nwb_source)
        with made.nwb_source.open("rb") as source:
            shutil.copyfileobj(source, stream)
    is_new = made.nwb_source is None
    with (
        h5py.File(stream, "w" if is_new else "r+") as stored,
        pynwb.NWBHDF5IO(file=stored, mode="w" if is_new else "a") as io,
    ):
        if made.nwb_source is None:
            file = pynwb.NWBFile(
                session_description=f"rates inferred by ndt from {made.rates.source}",
                identifier=f"{made.rates.source} {made.rates.run}",
                # NWB requires one; that of the recording is not known here.
                session_start_time=datetime(1970, 1, 1, tzinfo=timezone.utc),
            )
        else:
            file = io.read()
            if "ndt" in file.processing:
                raise DataError(
                    f"{made.nwb_source}: found a processing module `ndt` already",
                    "Give the file as it was before rates were added.",
                )
        _add_module(pynwb, file, made)
        io.write(file)


def _add_module(pynwb: Any, file: Any, made: _Made) -> None:
    rates, data = made.checked(), made.rates.data
    about = "; ".join(f"{key}: {label}" for key, label in made.labels().items() if not label.ndim)
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
    if made.n_components:
        values_XK = rates.on_clock(rates.components(made.n_components)[0])[1]
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
    columns: dict[str, Any] = {
        "trial_id": data.trial_ids_B,
        "split": rates.splits,
        "condition": data.condition_labels,
        **data.trial_table,
    }
    for name, values in columns.items():
        if values is not None:
            # Some names have a meaning of their own in NWB, and "/" and ":" none.
            own = name in ("id", "start_time", "stop_time", "tags", "timeseries")
            plain = name.replace("/", "_").replace(":", "_")
            kept = f"source_{plain}" if own else plain
            trials.add_column(kept, f"{name} of each trial", data=np.asarray(values).tolist())
    module.add(trials)
