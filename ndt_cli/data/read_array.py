"""Read one array of a file, checked; each failure names file, key, found and expected.

Axes in names: B trials, T bins, N neurons, K any other channel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.arrays import ArrayFile
from ndt_cli.data.checks import MAX_COUNT
from ndt_cli.data.spike_data import FloatArray, IntArray

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
        65535.
    """
    shape = spike_shape(file, key)
    spikes_BTN = np.zeros(shape, dtype=np.uint8)
    n_block = max(1, _BLOCK_ENTRIES // (shape[1] * shape[2]))
    for start in range(0, shape[0], n_block):
        raw_BTN = file.read(key, start, start + n_block)
        _check_block(file, key, raw_BTN, start)
        if raw_BTN.max() > 255 and spikes_BTN.dtype == np.uint8:
            spikes_BTN = spikes_BTN.astype(np.uint16)
        spikes_BTN[start : start + n_block] = raw_BTN.astype(spikes_BTN.dtype)
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
    rules = [("counts from 0 on", raw_BTN < 0, "is negative")]
    if raw_BTN.dtype.kind == "f":
        finite = np.isfinite(raw_BTN)
        rules = [
            ("finite counts", ~finite, "is not finite"),
            *rules,
            ("whole numbers", finite & (raw_BTN != np.floor(raw_BTN)), "is a fraction"),
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
    bad_BTN = ~(rates_BTN >= 0) | ~np.isfinite(rates_BTN)
    if bad_BTN.any():
        b, t, n = (int(i) for i in np.argwhere(bad_BTN)[0])
        found = f"{rates_BTN[b, t, n]:g} at trial {b}, bin {t}, neuron {n}"
        hint = "Are these log-rates? Save their exponential." if rates_BTN[b, t, n] < 0 else None
        raise file.wrong(key, found, "finite rates from 0 on", hint)
    return rates_BTN


def read_numbers(file: ArrayFile, key: str) -> FloatArray:
    """Read an array of numbers as floats, float32 if it is stored so."""
    if file.dtype(key).kind not in "buif":
        raise file.wrong(key, f"values of type {file.dtype(key)}", "numbers")
    values = file.read(key)
    return values.astype(np.float32 if values.dtype == np.float32 else np.float64)


def read_per_trial(file: ArrayFile, key: str, n_trials: int) -> NDArray[Any]:
    """Read one value a trial, such as a condition or an index.

    Raises
    ------
    DataError
        If there are more or fewer values than trials.
    """
    values = file.read(key)
    if values.size != n_trials or max(values.shape, default=0) != n_trials:
        raise file.wrong(
            key,
            f"shape {values.shape}",
            f"{n_trials} values, one a trial",
            hint="Is the first axis of the counts really trials? The order is trials x bins x "
            "neurons; MATLAB's HDF5 files show the axes reversed.",
        )
    return values.reshape(n_trials)


def read_scalar(file: ArrayFile, key: str) -> float:
    """Read one positive number.

    Raises
    ------
    DataError
        If it is not one finite number above 0.
    """
    values = file.read(key)
    if values.size != 1 or values.dtype.kind not in "uif":
        raise file.wrong(key, f"shape {values.shape} of type {values.dtype}", "one number")
    value = float(values.reshape(()))
    if not (np.isfinite(value) and value > 0):
        raise file.wrong(key, f"{value:g}", "a finite number above 0")
    return value


def read_series(file: ArrayFile, key: str, n_trials: int, n_bins: int) -> FloatArray:
    """Read values along each trial, such as latents or behaviour, as trials x bins x channels.

    One channel may come without its axis. Values may be NaN: behaviour often has gaps.

    Raises
    ------
    DataError
        If trials or bins differ from those of the counts.
    """
    values = read_numbers(file, key)
    if values.ndim not in (2, 3) or values.shape[:2] != (n_trials, n_bins):
        expected = f"{n_trials} trials x {n_bins} bins x channels"
        raise file.wrong(key, f"shape {values.shape}", expected)
    return values.reshape(n_trials, n_bins, -1)


def read_labels(file: ArrayFile, key: str, n_trials: int) -> IntArray:
    """Read one label a trial; names and fractions are numbered in sorted order.

    Raises
    ------
    DataError
        If there are more or fewer labels than trials.
    """
    values = read_per_trial(file, key, n_trials)
    if values.dtype.kind in "biu":
        return values.astype(np.int64)
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 == 0).all():
        return values.astype(np.int64)
    _, numbers = np.unique(values.astype(str), return_inverse=True)
    return numbers.astype(np.int64)


def read_words(file: ArrayFile, key: str, n_trials: int) -> list[str]:
    """Read one word a trial, however the file stores text."""
    values = read_per_trial(file, key, n_trials).tolist()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def read_names(file: ArrayFile, key: str, n_names: int) -> list[str]:
    """Read one name for each channel of another array.

    Raises
    ------
    DataError
        If there are more or fewer names than channels, or they are no text.
    """
    values = file.read(key)
    if values.size != n_names or values.dtype.kind not in "USO":
        found = f"{values.size} values of type {values.dtype}"
        raise file.wrong(key, found, f"{n_names} names, one for each channel")
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values.reshape(-1).tolist()]
