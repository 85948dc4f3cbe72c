"""Read one array of a spike file and check it.

A `DataError` for an array that is wrong names file and key, what was found and what is expected.

Axes in names: B trials, T bins, N neurons, K any other channel.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.files import TRIAL_TABLE, ArrayFile
from ndt_cli.data.spike_data import MAX_COUNT, FloatArray, IntArray
from ndt_cli.errors import DataError
from ndt_cli.memory import check_memory
from ndt_cli.settings.tree import MAX_BIN_MS, MIN_BIN_MS, DataSettings

MAX_VALUE = 1e30
"""Largest value of behavior and latents, which are squared and summed."""
_BLOCK_ENTRIES = 2**22  # 32 MiB as float64: counts are converted block by block


# Counts ------------------------------------------------------------------------------------------


def read_counts(file: ArrayFile, key: str, n_copies: int = 1) -> IntArray:
    """Read spike counts as spikes_BTN, uint8 if the largest is below 256, else uint16.

    Whole numbers stored as floats are counts too. There must be memory for ``n_copies`` of them.
    """
    shape = spike_shape(file, key)
    sizes = f"{shape[0]} trials x {shape[1]} bins x {shape[2]} neurons"
    check_memory(n_copies * math.prod(shape), f"{file.path}: `{key}`, {sizes},")
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
    """Return the shape of an array of counts; refuse other axes, empty ones, and other types."""
    shape, dtype = file.shape(key), file.dtype(key)
    expected = "counts, trials x bins x neurons"
    if dtype.hasobject:
        raise file.wrong(key, "Python objects or lists", expected)
    if dtype.kind not in "buif":
        raise file.wrong(key, f"values of type {dtype}", expected)
    if len(shape) != 3:
        hint = f"If this is one trial, bins x neurons, save `{key}[None]`."
        raise file.wrong(
            key, f"{len(shape)} axes, {shape}", expected, hint if len(shape) == 2 else None
        )
    if 0 in shape:
        raise file.wrong(key, f"an empty array, {shape}", expected)
    return shape


def check_same_window(file: ArrayFile, train_key: str, valid_key: str) -> None:
    """Refuse splits that differ in bins or neurons; the hint says so if axes look swapped."""
    train, valid = spike_shape(file, train_key), spike_shape(file, valid_key)
    if train[1:] == valid[1:]:
        return
    hint = None
    if train[1:] == valid[:0:-1]:
        hint = "Bins and neurons look swapped in one of them: the order is trials x bins x neurons."
    elif train[:2] == valid[:2]:
        hint = "Trials look like the last axis: the order is trials x bins x neurons."
    expected = f"{train[1]} x {train[2]} as in `{train_key}`"
    raise file.wrong(valid_key, f"{valid[1]} bins x {valid[2]} neurons", expected, hint)


def _check_block(file: ArrayFile, key: str, raw_BTN: NDArray[Any], first_trial: int) -> None:
    if raw_BTN.dtype.kind == "b":
        return
    if raw_BTN.dtype == np.float16:  # cannot hold the largest count
        raw_BTN = raw_BTN.astype(np.float32)

    def refuse(
        bad_BTN: NDArray[np.bool_], what: str, expected: str, hint: str | None = None
    ) -> None:
        if bad_BTN.any():
            found = f"{_first(raw_BTN, bad_BTN, 'neuron', first_trial)}, which {what}"
            raise file.wrong(key, found, expected, hint)

    is_float = raw_BTN.dtype.kind == "f"
    hint = "If it is padding, save 0 there and the bins of each trial as `lengths`."
    if is_float:
        refuse(~np.isfinite(raw_BTN), "is not finite", "finite counts", hint)
    refuse(raw_BTN < 0, "is negative", "counts from 0 on", hint)
    if is_float:
        hint = (
            "Rates and smoothed counts are not counts. Save true rates as `rates`, or as "
            "`train_truth` and `valid_truth` (LFADS)."
        )
        refuse(raw_BTN != np.floor(raw_BTN), "is a fraction", "whole numbers", hint)
    hint = "Are these spike times, not counts?"
    refuse(raw_BTN > MAX_COUNT, "is too large for a bin", f"counts up to {MAX_COUNT}", hint)


def _first(values: NDArray[Any], bad: NDArray[np.bool_], channel: str, first_trial: int = 0) -> str:
    """Return the first bad value and its place, for a message."""
    b, t, k = (int(i) for i in np.argwhere(bad)[0])
    return f"{values[b, t, k]:g} at trial {first_trial + b}, bin {t}, {channel} {k}"


# Rates, latents and behavior ---------------------------------------------------------------------


def read_rates(
    file: ArrayFile, key: str, shape: tuple[int, ...], inside_BT: NDArray[np.bool_] | None = None
) -> FloatArray:
    """Read the finite true rates of counts of this shape; 0 outside ``inside_BT``."""
    if file.shape(key) != shape:
        raise file.wrong(key, f"shape {file.shape(key)}", f"the shape of the counts, {shape}")
    rates_BTN = _read_numbers(file, key)
    if inside_BT is not None:
        rates_BTN[~inside_BT] = 0
    bad_BTN = ~((rates_BTN >= 0) & (rates_BTN < np.inf))
    if bad_BTN.any():
        is_negative = rates_BTN[bad_BTN][0] < 0
        hint = "If these are log-rates, save their exponential." if is_negative else None
        found = _first(rates_BTN, bad_BTN, "neuron")
        raise file.wrong(key, found, "finite rates from 0 on", hint)
    return rates_BTN


def scale_rates(file: ArrayFile, key: str, rates_BTN: FloatArray, factor: float) -> None:
    """Divide true rates, in place, to be in spikes per bin; refuse some above the largest count."""
    with np.errstate(over="ignore"):  # the next lines refuse rates that overflow
        rates_BTN /= factor
    highest = float(rates_BTN.max())
    if not highest <= MAX_COUNT:
        found = f"a rate of {highest:g} spikes per bin"
        hint = "If they are in another unit, set `data.conversion_factor`: rates are divided by it."
        raise file.wrong(key, found, f"at most {MAX_COUNT}", hint)


def read_series(file: ArrayFile, key: str, n_trials: int, n_bins: int) -> FloatArray:
    """Read latents or behavior, trials x bins x channels; the last axis may be missing.

    Values may be NaN, since behavior often has gaps, but not infinite or too large to be squared.
    """
    shape = file.shape(key)
    if len(shape) not in (2, 3) or shape[:2] != (n_trials, n_bins):
        expected = f"{n_trials} trials x {n_bins} bins x channels"
        raise file.wrong(key, f"shape {shape}", expected)
    values_BTK = _read_numbers(file, key).reshape(n_trials, n_bins, -1)
    bad_BTK = np.abs(values_BTK) > MAX_VALUE
    if bad_BTK.any():
        found = _first(values_BTK, bad_BTK, "channel")
        raise file.wrong(key, found, f"numbers up to {MAX_VALUE:g}, or NaN for missing values")
    return values_BTK


def _read_numbers(file: ArrayFile, key: str) -> FloatArray:
    if file.dtype(key).kind not in "buif":
        raise file.wrong(key, f"values of type {file.dtype(key)}", "numbers")
    values = file.read(key)
    return values.astype(np.float32 if values.dtype == np.float32 else np.float64, copy=False)


# Numbers, labels and names -----------------------------------------------------------------------


def read_positive(file: ArrayFile, key: str) -> float:
    """Read one finite number above 0."""
    shape, dtype = file.shape(key), file.dtype(key)
    if math.prod(shape) != 1 or dtype.kind not in "uif":
        raise file.wrong(key, f"shape {shape} of type {dtype}", "one number")
    value = float(file.read(key).reshape(()))
    if not 0 < value < math.inf:
        raise file.wrong(key, f"{value:g}", "a finite number above 0")
    return value


def read_size(file: ArrayFile, key: str, n_all: int) -> int:
    """Read one whole number below ``n_all``."""
    values = file.read(key)
    whole = as_whole(values)  # MATLAB's numbers are floats
    if whole is None or whole.size != 1 or not 0 <= whole.item() < n_all:
        found = str(values.reshape(-1)[:3].tolist())
        raise file.wrong(key, found, f"one whole number from 0 to {n_all - 1}")
    return int(whole.item())


def read_per_trial(file: ArrayFile, key: str, n_trials: int) -> NDArray[Any]:
    """Read one value per trial, such as a condition or an index."""
    shape = file.shape(key)
    if math.prod(shape) != n_trials or max(shape, default=0) != n_trials:
        hint = (
            "Is the first axis of the counts really trials? The order is trials x bins x neurons; "
            "MATLAB's HDF5 files show the axes reversed."
        )
        raise file.wrong(key, f"shape {shape}", f"{n_trials} values, one per trial", hint)
    return file.read(key).reshape(n_trials)


def read_labels(file: ArrayFile, sizes: dict[str, int]) -> tuple[list[IntArray], dict[int, str]]:
    """Read one label per trial from each of these keys; return numbers, and the name of each.

    Whole numbers have no names. Text and fractions are numbered in sorted order, those of all
    keys together.
    """
    values = [read_per_trial(file, key, n_trials) for key, n_trials in sizes.items()]
    numbers = [as_whole(v) for v in values]
    whole: list[IntArray] = [n for n in numbers if n is not None]
    if len(whole) == len(values):
        return whole, {}
    for key, array in zip(sizes, values, strict=True):
        if array.dtype.kind not in "biufSUO":
            raise file.wrong(key, f"values of type {array.dtype}", "numbers or text")
    words = [word for array in values for word in as_words(array)]
    names, labels = np.unique(words, return_inverse=True)
    parts: list[IntArray] = list(
        np.split(labels.astype(np.int64), np.cumsum(list(sizes.values()))[:-1])
    )
    return parts, dict(enumerate(names.tolist()))


def read_text(file: ArrayFile, key: str) -> str:
    """Read one text."""
    if math.prod(file.shape(key)) != 1 or file.dtype(key).kind not in "USO":
        found = f"shape {file.shape(key)} of type {file.dtype(key)}"
        raise file.wrong(key, found, "one text")
    return as_words(file.read(key))[0]


def read_columns(file: ArrayFile, n_trials: int) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the columns of the table of trials, and return a note for each that cannot be read."""
    columns: dict[str, NDArray[Any]] = {}
    notes = []
    for key in file.keys:
        if not key.startswith(TRIAL_TABLE):
            continue
        try:
            values = read_per_trial(file, key, n_trials)
        except DataError as error:
            notes.append(f"A column of the trial table is not used: {error.message}.")
            continue
        if values.dtype.kind in "SUO":
            if not all(isinstance(value, str | bytes) for value in values.tolist()):
                notes.append(f"`{key}` is not used: it holds neither numbers nor text.")
                continue
            values = np.array(as_words(values))
        columns[key.removeprefix(TRIAL_TABLE)] = values
    return columns, notes


def read_names(file: ArrayFile, key: str, n_names: int) -> list[str]:
    """Read one name for each channel of another array."""
    n_found, dtype = math.prod(file.shape(key)), file.dtype(key)
    if n_found != n_names or dtype.kind not in "USO":
        found = f"{n_found} values of type {dtype}"
        raise file.wrong(key, found, f"{n_names} names, one for each channel")
    return as_words(file.read(key))


def as_whole(values: NDArray[Any]) -> IntArray | None:
    """Return whole numbers as int64; None for other values, and for numbers not exact in it."""
    if values.dtype.kind not in "biuf":
        return None
    if values.dtype.kind == "f":  # beyond 2^53 a float skips numbers
        exact = (np.abs(values.astype(np.float64)) < 2**53).all() and (values % 1 == 0).all()
    else:
        exact = int(values.max(initial=0)) <= np.iinfo(np.int64).max
    return values.astype(np.int64) if exact else None


def as_words(values: NDArray[Any]) -> list[str]:
    """Return text however a file stores it; bytes that are not UTF-8 are escaped.

    A whole number has no decimals, whatever its type.
    """
    return [
        v.decode(errors="backslashreplace")
        if isinstance(v, bytes)
        else f"{v:.15g}"
        if isinstance(v, float)
        else str(v)
        for v in values.reshape(-1).tolist()
    ]


MISSING = ("", "nan", "NaN", "NA", "N/A", "NULL", "None")
"""Texts that stand for a missing value, as R and others write it."""


def look_alikes(names: Iterable[str], what: str = "Conditions") -> list[str]:
    """Return a note if names differ by blanks or by upper and lower case alone."""
    alike: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        alike.setdefault("".join(name.split()).casefold(), []).append(name)
    shown = ", ".join(" and ".join(map(repr, own)) for own in alike.values() if len(own) > 1)
    return [f"{what} {shown} differ by blanks or case alone, and are kept apart."] if shown else []


# Bin width and scale of the true rates -----------------------------------------------------------


_LONG_BIN_MS = 1000.0
_SHORT_BIN_MS = 0.1
_USUAL_BINS_MS = (1.0, 2.0, 4.0, 5.0, 10.0, 20.0, 25.0, 40.0, 50.0, 100.0)
_TOLERANCE = 0.1  # usual widths differ by at least 20 %


def stored_bin_ms(
    file: ArrayFile, key: str, settings: DataSettings, *, ms_per_unit: float = 1.0
) -> tuple[float | None, list[str]]:
    """Return the bin width in ms, of the file or else the settings, and notes if it looks wrong.

    The file's number is in units of ``ms_per_unit`` milliseconds. None if neither has a width.
    """
    asked = settings.file_bin_ms
    if key not in file:
        return asked, []
    stored = read_positive(file, key)
    bin_ms = round(stored * ms_per_unit, 9)
    if not MIN_BIN_MS <= bin_ms <= MAX_BIN_MS:
        unit = "milliseconds" if ms_per_unit == 1 else "seconds"
        limits = f"{MIN_BIN_MS / ms_per_unit:g} to {MAX_BIN_MS / ms_per_unit:g}"
        raise file.wrong(key, f"{stored:g}", f"a bin width in {unit}, from {limits}")
    notes = [f"`{key}` gives {odd}"] if (odd := odd_width(bin_ms)) else []
    if asked is not None and asked != bin_ms:
        notes.append(
            f"`{key}` gives bins of {bin_ms:g} ms; `data.file_bin_ms`, {asked:g}, is not used."
        )
    return bin_ms, notes


def odd_width(bin_ms: float) -> str:
    """Return what is odd about a bin width, as the end of a sentence; empty for a usual one."""
    if _SHORT_BIN_MS <= bin_ms < _LONG_BIN_MS:
        return ""
    shown = f"{bin_ms / 1000:g} seconds" if bin_ms >= _LONG_BIN_MS else f"{bin_ms:g} ms"
    return f"bins of {shown}: is its unit right?"


def needed_bin_ms(file: ArrayFile, key: str, bin_ms: float | None) -> float:
    """Return the bin width; refuse a file of unknown one."""
    if bin_ms is None:
        raise DataError(
            f"{file.path}: `{key}`: found no bin width in the file; expected one there or in the "
            "settings",
            hint="Set `data.file_bin_ms=WIDTH`, in milliseconds.",
        )
    return bin_ms


def find_rate_scale(
    file: ArrayFile, settings: DataSettings, bin_ms: float | None, ratio: float
) -> tuple[float, float, list[str]]:
    """Find the divisor that turns the true rates of an LFADS file into spikes per bin.

    It is the setting ``data.conversion_factor``, or else the file's ``conversion_factor``.
    Without either, the ratio of the mean true rate to the mean count (NaN without spikes) decides:
    near 1 the rates are in spikes per bin; near the number of bins per second, in Hz.

    Returns the factor, the bin width in ms (if it was unknown, the one at which the rates are in
    Hz), and notes of what was assumed.
    """
    scale = f"the mean true rate is {ratio:.4g} times the mean count"
    notes = []
    if bin_ms is None:
        fits = (w for w in _USUAL_BINS_MS if _near(ratio, 1000 / w))
        bin_ms = needed_bin_ms(file, "dt", next(fits, None))
        notes.append(
            f"No `dt` in the file: bins of {bin_ms:g} ms assumed, because {scale}, as for rates in "
            "Hz. Set `data.file_bin_ms` if that is wrong."
        )
    key, hz = "conversion_factor", 1000 / bin_ms
    if settings.conversion_factor is not None:
        factor = settings.conversion_factor
        notes.append(f"True rates were divided by `data.conversion_factor`, {factor:.6g}.")
    elif key in file:
        factor = read_positive(file, key)
        notes.append(f"True rates were divided by {factor:.6g}, the file's `{key}`.")
    elif _near(ratio, 1.0) or _near(ratio, hz):
        factor, unit = (1.0, "spikes per bin") if _near(ratio, 1.0) else (hz, "Hz")
        notes.append(
            f"No `{key}` in the file: true rates taken as {unit} and divided by {factor:g}, "
            f"because {scale}. Set `data.conversion_factor` if that is wrong."
        )
    else:
        raise DataError(
            f"{file.path}: `{key}`: found no such key, and {scale}; expected 1 (spikes per bin) or "
            f"{hz:g} (Hz)",
            hint="Set `data.conversion_factor=NUMBER`: rates divided by it are spikes per bin.",
        )
    if not (math.isnan(ratio) or _near(ratio, factor)):
        notes.append(f"That factor looks wrong: {scale}, so {ratio:.4g} would fit.")
    return factor, bin_ms, notes


def _near(value: float, target: float) -> bool:
    return abs(value / target - 1) < _TOLERANCE
