"""Read one array of a file, checked; each failure names file, key, found and expected.

Axes in names: B trials, T bins, N neurons, K any other channel.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.checks import MAX_COUNT
from ndt_cli.data.files import ArrayFile
from ndt_cli.data.spike_data import FloatArray, IntArray
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory
from ndt_cli.settings.tree import MAX_BIN_MS, MIN_BIN_MS, DataSettings

_LARGEST = 1e30  # of behavior and latents, which are squared and summed
_BLOCK_ENTRIES = 2**22  # a float64 block of 32 MiB: the raw array is never held beside a copy


def read_counts(file: ArrayFile, key: str) -> IntArray:
    """Read spike counts, trials x bins x neurons, block by block.

    Whole numbers stored as floats are counts too.

    Parameters
    ----------
    file : ArrayFile
        Where from.
    key : str
        Name of the array.

    Returns
    -------
    spikes_BTN : (trials, bins, neurons) uint8 or uint16 array
        uint8 where the largest count is below 256.

    Raises
    ------
    DataError
        If the array has not three axes, is empty, or an entry is not a whole number from 0 to
        65535, or they do not fit into memory.
    """
    shape = spike_shape(file, key)
    check_memory(math.prod(shape), f"{file.path}: `{key}`, {_sizes(shape)},")
    spikes_BTN: IntArray = np.zeros(shape, dtype=np.uint8)
    n_block = max(1, _BLOCK_ENTRIES // (shape[1] * shape[2]))
    start = 0
    for raw_BTN in file.blocks(key, n_block):
        _check_block(file, key, raw_BTN, start)
        if raw_BTN.max() > 255 and spikes_BTN.dtype == np.uint8:
            spikes_BTN = spikes_BTN.astype(np.uint16)
        spikes_BTN[start : start + len(raw_BTN)] = raw_BTN.astype(spikes_BTN.dtype)
        start += len(raw_BTN)
    return spikes_BTN


def spike_shape(file: ArrayFile, key: str) -> tuple[int, int, int]:
    """Return the shape of an array of counts.

    Raises
    ------
    DataError
        If it has not three axes, one is empty, or its values are no numbers.
    """
    shape, dtype = file.shape(key), file.dtype(key)
    expected = "counts, trials x bins x neurons"
    if dtype.hasobject:
        raise file.wrong(key, "Python objects or lists", expected)
    if dtype.kind not in "buif":
        raise file.wrong(key, f"values of type {dtype}", expected)
    if len(shape) != 3:
        hint = None
        if len(shape) == 2:
            hint = f"One trial, bins x neurons? Give it a first axis: `{key}[None]`."
        raise file.wrong(key, f"{len(shape)} axes, {shape}", expected, hint)
    if 0 in shape:
        raise file.wrong(key, f"an empty array, {shape}", expected)
    return shape


def _sizes(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} trials x {shape[1]} bins x {shape[2]} neurons"


def check_same_window(file: ArrayFile, train_key: str, valid_key: str) -> None:
    """Refuse splits that differ in bins or neurons.

    Raises
    ------
    DataError
        If they do; the hint says so where the axes look swapped.
    """
    train, valid = spike_shape(file, train_key), spike_shape(file, valid_key)
    if train[1:] == valid[1:]:
        return
    hint = None
    if train[1:] == valid[:0:-1]:
        hint = "Bins and neurons look swapped in one of them: the order is trials x bins x neurons."
    elif train[:2] == valid[:2]:
        hint = "Trials look like the last axis: the order is trials x bins x neurons."
    raise file.wrong(
        valid_key,
        f"{valid[1]} bins x {valid[2]} neurons",
        f"{train[1]} x {train[2]} as in `{train_key}`",
        hint,
    )


def _check_block(file: ArrayFile, key: str, raw_BTN: NDArray[Any], first_trial: int) -> None:
    if raw_BTN.dtype.kind == "b":
        return
    if raw_BTN.dtype == np.float16:  # which has no number for the largest count
        raw_BTN = raw_BTN.astype(np.float32)
    rules = [("counts from 0 on", raw_BTN < 0, "is negative")]
    if raw_BTN.dtype.kind == "f":
        finite = np.isfinite(raw_BTN)
        with np.errstate(invalid="ignore"):  # some NaN complain when they are rounded
            fraction = finite & (raw_BTN != np.floor(raw_BTN))
        rules = [
            ("finite counts", ~finite, "is not finite"),
            *rules,
            ("whole numbers", fraction, "is a fraction"),
        ]
    rules.append((f"counts up to {MAX_COUNT}", raw_BTN > MAX_COUNT, "is too large for a bin"))
    hints = {
        "is not finite": "Is it padding? Put 0 there and give each trial's bins as `lengths`.",
        "is a fraction": "Rates and smoothed counts are no counts. True rates go under `rates` "
        "(own layout) or `train_truth` and `valid_truth` (LFADS).",
        "is too large for a bin": "Are these spike times, not counts?",
    }
    for expected, bad_BTN, what in rules:
        if bad_BTN.any():
            b, t, n = (int(i) for i in np.argwhere(bad_BTN)[0])
            found = f"{raw_BTN[b, t, n]:g} at trial {first_trial + b}, bin {t}, neuron {n}, which"
            raise file.wrong(key, f"{found} {what}", expected, hints.get(what))


def read_rates(
    file: ArrayFile, key: str, shape: tuple[int, ...], inside_BT: NDArray[np.bool_] | None = None
) -> FloatArray:
    """Read true rates that go with counts of this shape; what lies in padding becomes 0.

    Raises
    ------
    DataError
        If the shape differs, or a rate is negative or not finite.
    """
    if file.shape(key) != shape:
        raise file.wrong(key, f"shape {file.shape(key)}", f"the shape of the counts, {shape}")
    rates_BTN = read_numbers(file, key)
    if inside_BT is not None:
        rates_BTN[~inside_BT] = 0
    bad_BTN = ~((rates_BTN >= 0) & (rates_BTN < np.inf))
    if bad_BTN.any():
        b, t, n = (int(i) for i in np.argwhere(bad_BTN)[0])
        found = f"{rates_BTN[b, t, n]:g} at trial {b}, bin {t}, neuron {n}"
        hint = "Are these log-rates? Save their exponential." if rates_BTN[b, t, n] < 0 else None
        raise file.wrong(key, found, "finite rates from 0 on", hint)
    return rates_BTN


def check_rates_per_bin(file: ArrayFile, key: str, rates_BTN: FloatArray) -> None:
    """Refuse true rates that no counts could come from, once they are in spikes per bin.

    Raises
    ------
    DataError
        If one is above the largest count.
    """
    highest = float(rates_BTN.max())
    if not highest <= MAX_COUNT:
        raise file.wrong(
            key,
            f"a rate of {highest:g} spikes per bin",
            f"at most {MAX_COUNT}",
            "Are they in another unit? What they are divided by is data.conversion_factor.",
        )


def read_numbers(file: ArrayFile, key: str) -> FloatArray:
    """Read an array of numbers as floats, float32 if it is stored so."""
    if file.dtype(key).kind not in "buif":
        raise file.wrong(key, f"values of type {file.dtype(key)}", "numbers")
    values = file.read(key)
    return values.astype(np.float32 if values.dtype == np.float32 else np.float64, copy=False)


def read_per_trial(file: ArrayFile, key: str, n_trials: int) -> NDArray[Any]:
    """Read one value a trial, such as a condition or an index.

    Raises
    ------
    DataError
        If there are more or fewer values than trials.
    """
    shape = file.shape(key)
    if math.prod(shape) != n_trials or max(shape, default=0) != n_trials:
        raise file.wrong(
            key,
            f"shape {shape}",
            f"{n_trials} values, one a trial",
            hint="Is the first axis of the counts really trials? The order is trials x bins x "
            "neurons; MATLAB's HDF5 files show the axes reversed.",
        )
    return file.read(key).reshape(n_trials)


def read_scalar(file: ArrayFile, key: str) -> float:
    """Read one positive number.

    Raises
    ------
    DataError
        If it is not one finite number above 0.
    """
    shape, dtype = file.shape(key), file.dtype(key)
    if math.prod(shape) != 1 or dtype.kind not in "uif":
        raise file.wrong(key, f"shape {shape} of type {dtype}", "one number")
    value = float(file.read(key).reshape(()))
    if not (np.isfinite(value) and value > 0):
        raise file.wrong(key, f"{value:g}", "a finite number above 0")
    return value


def read_series(file: ArrayFile, key: str, n_trials: int, n_bins: int) -> FloatArray:
    """Read values along each trial, such as latents or behavior, as trials x bins x channels.

    One channel may come without its axis. Values may be NaN: behavior often has gaps.

    Raises
    ------
    DataError
        If trials or bins differ from those of the counts, or a value is infinite or too large to
        be squared.
    """
    shape = file.shape(key)
    if len(shape) not in (2, 3) or shape[:2] != (n_trials, n_bins):
        expected = f"{n_trials} trials x {n_bins} bins x channels"
        raise file.wrong(key, f"shape {shape}", expected)
    values_BTK = read_numbers(file, key).reshape(n_trials, n_bins, -1)
    bad_BTK = np.abs(values_BTK) > _LARGEST
    if bad_BTK.any():
        b, t, k = (int(i) for i in np.argwhere(bad_BTK)[0])
        found = f"{values_BTK[b, t, k]:g} at trial {b}, bin {t}, channel {k}"
        raise file.wrong(key, found, f"numbers up to {_LARGEST:g}, or NaN where there is none")
    return values_BTK


def read_labels(file: ArrayFile, key: str, n_trials: int) -> IntArray:
    """Read one label a trial; names and fractions are numbered in sorted order.

    Raises
    ------
    DataError
        If there are more or fewer labels than trials.
    """
    values = read_per_trial(file, key, n_trials)
    numbers = as_whole(values)
    if numbers is not None:
        return numbers
    if values.dtype.kind not in "fSUO":
        raise file.wrong(key, f"values of type {values.dtype}", "numbers or text")
    _, labels = np.unique(as_words(values), return_inverse=True)
    return labels.astype(np.int64)


def as_whole(values: NDArray[Any]) -> IntArray | None:
    """Return whole numbers as int64; None where they are none, or too large for one."""
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    if values.dtype.kind not in "iuf" or not (np.abs(values.astype(np.float64)) < 2**53).all():
        return None
    return values.astype(np.int64) if (values % 1 == 0).all() else None


def as_words(values: NDArray[Any]) -> list[str]:
    """Return text however a file stores it; bytes that are no text are shown as such."""
    return [
        v.decode(errors="backslashreplace") if isinstance(v, bytes) else str(v)
        for v in values.reshape(-1).tolist()
    ]


def read_words(file: ArrayFile, key: str, n_trials: int) -> list[str]:
    """Read one word a trial, however the file stores text."""
    return as_words(read_per_trial(file, key, n_trials))


def read_names(file: ArrayFile, key: str, n_names: int) -> list[str]:
    """Read one name for each channel of another array.

    Raises
    ------
    DataError
        If there are more or fewer names than channels, or they are no text.
    """
    n_found, dtype = math.prod(file.shape(key)), file.dtype(key)
    if n_found != n_names or dtype.kind not in "USO":
        found = f"{n_found} values of type {dtype}"
        raise file.wrong(key, found, f"{n_names} names, one for each channel")
    return as_words(file.read(key))


# ------------------------------------------------------------------------------------------------
# Bin width and the scale of true rates: what the file says, the settings say, the numbers tell.
# ------------------------------------------------------------------------------------------------


_LONG_BIN_MS = 1000.0
_ORDINARY_BINS_MS = (1.0, 2.0, 4.0, 5.0, 10.0, 20.0, 25.0, 40.0, 50.0, 100.0)
_TOLERANCE = 0.1  # ordinary widths lie at least 20 % apart


def stored_bin_ms(
    file: ArrayFile, key: str, settings: DataSettings, *, ms_per_unit: float = 1.0
) -> tuple[float | None, list[str]]:
    """Return the bin width that the file gives under ``key``, else the one of the settings.

    Parameters
    ----------
    file : ArrayFile
        Where from.
    key : str
        Name of the scalar.
    settings : DataSettings
        Its ``file_bin_ms`` serves where the file says nothing.
    ms_per_unit : float
        Milliseconds in the unit of the scalar.

    Returns
    -------
    bin_ms : float or None
        Width in milliseconds; None where neither says.
    notes : list of str
        Says so where the two differ, or bins are so wide that the unit may be another.

    Raises
    ------
    DataError
        If the file's value is not a number, or no bin is so wide.
    """
    asked = settings.file_bin_ms
    if key not in file:
        return asked, []
    stored = read_scalar(file, key)
    bin_ms = round(stored * ms_per_unit, 9)
    if not MIN_BIN_MS <= bin_ms <= MAX_BIN_MS:
        unit = "milliseconds" if ms_per_unit == 1 else "seconds"
        limits = f"{MIN_BIN_MS / ms_per_unit:g} to {MAX_BIN_MS / ms_per_unit:g}"
        raise file.wrong(key, f"{stored:g}", f"a bin width in {unit}, from {limits}")
    notes = []
    if bin_ms >= _LONG_BIN_MS:
        notes.append(f"`{key}` says bins of {bin_ms / 1000:g} seconds: is its unit right?")
    if asked is not None and asked != bin_ms:
        notes.append(
            f"`{key}` says bins of {bin_ms:g} ms; data.file_bin_ms, {asked:g}, is not used."
        )
    return bin_ms, notes


def no_bin_ms(file: ArrayFile, key: str) -> DataError:
    """Return the error for a file whose bin width nobody knows."""
    return DataError(
        f"{file.path}: `{key}`: found no bin width in the file; expected one there or in the "
        "settings",
        hint="Give it: --set data.file_bin_ms=WIDTH, in milliseconds.",
    )


@dataclass(frozen=True)
class RateScale:
    """How true rates become spikes per bin.

    Parameters
    ----------
    factor : float
        Rates are divided by it.
    bin_ms : float
        Bin width in milliseconds, which the rates may have told.
    notes : tuple of str
        What was taken, and why.
    """

    factor: float
    bin_ms: float
    notes: tuple[str, ...]


def find_rate_scale(
    file: ArrayFile,
    settings: DataSettings,
    bin_ms: float | None,
    mean_truth: float,
    mean_count: float,
) -> RateScale:
    """Find what the true rates of an LFADS file are divided by, and its bin width if unknown.

    The setting ``data.conversion_factor`` comes first, then the file's ``conversion_factor``.
    Without either, mean truth over mean count tells: near 1 the rates are spikes per bin; near
    the bins in a second they are in Hz.

    Parameters
    ----------
    file : ArrayFile
        The LFADS file.
    settings : DataSettings
        Its ``conversion_factor`` is used.
    bin_ms : float or None
        Bin width, where it is known.
    mean_truth, mean_count : float
        Means of the file's true rates and of its counts, over all trials, bins and neurons.

    Raises
    ------
    DataError
        If the scale fits no reading, or the bin width stays unknown.
    """
    ratio = mean_truth / mean_count if mean_count > 0 else float("nan")
    scale = f"the mean of the true rates is {ratio:.4g} times the mean count"
    notes = []
    if bin_ms is None:
        bin_ms = next((w for w in _ORDINARY_BINS_MS if _near(ratio, 1000 / w)), None)
        if bin_ms is None:
            raise no_bin_ms(file, "dt")
        notes.append(
            f"No `dt` in the file: bins of {bin_ms:g} ms taken, because {scale}, as for rates in "
            "Hz. Set data.file_bin_ms if that is wrong."
        )
    key = "conversion_factor"
    if settings.conversion_factor is not None:
        factor = settings.conversion_factor
        notes.append(f"True rates were divided by {factor:.6g}, as data.conversion_factor says.")
    elif key in file:
        factor = read_scalar(file, key)
        notes.append(f"True rates were divided by {factor:.6g}, the file's `{key}`.")
    else:
        readings = {1.0: "spikes per bin", 1000 / bin_ms: "Hz"}
        fitting = next((f for f in readings if _near(ratio, f)), None)
        if fitting is None:
            raise DataError(
                f"{file.path}: `{key}`: found no such key, and {scale}; expected 1 (spikes per "
                f"bin) or {1000 / bin_ms:g} (Hz)",
                hint="Say what the rates are divided by to be spikes per bin: "
                "--set data.conversion_factor=NUMBER.",
            )
        factor = fitting
        notes.append(
            f"No `{key}` in the file: true rates read as {readings[factor]} and divided by "
            f"{factor:g}, because {scale}. Set data.conversion_factor if that is wrong."
        )
    if mean_count > 0 and not _near(ratio, factor):
        notes.append(f"That factor looks wrong: {scale}, so {ratio:.4g} would fit.")
    return RateScale(factor, bin_ms, tuple(notes))


def _near(value: float, target: float) -> bool:
    return abs(value / target - 1) < _TOLERANCE
