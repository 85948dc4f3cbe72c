"""Wider bins, and windows of a continuous recording.

In wider bins, counts and rates are summed, latents and behavior are averaged. A recording is
chopped into windows, and merged again: neighboring windows overlap, since a bin at the edge of a
window has context on one side only. In an overlap, `merge` fades linearly from the earlier window
to the later one; equal values stay equal to the last bit.

Axes in names: B trials or windows, T bins, N neurons, V behavioral variables, K any channel.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import (
    FloatArray,
    IntArray,
    Recording,
    SpikeData,
    TrialValues,
    compact_counts,
    trial_blocks,
)
from ndt_cli.errors import DataError


def rebin(data: SpikeData, bin_ms: float) -> SpikeData:
    """Sum neighboring bins into bins of ``bin_ms``, a whole multiple of the old width.

    A partial last bin of a trial becomes padding. Rates are in expected spikes per new bin.

    Examples
    --------
    >>> import numpy as np
    >>> trial = SpikeData(np.ones((1, 5, 2), np.uint8), bin_ms=10, lengths_B=np.array([5]))
    >>> rebin(trial, 20).spikes_BTN[0, :, 0]
    array([2, 2], dtype=uint8)
    """
    ratio = bin_ms / data.bin_ms
    k = round(ratio)
    if k < 1 or abs(ratio - k) > 1e-6 * k:
        widths = ", ".join(f"{data.bin_ms * m:g}" for m in (1, 2, 4))
        raise DataError(
            f"`data.bin_ms` is {bin_ms:g} ms, but the data have bins of {data.bin_ms:g} ms; "
            "expected a whole multiple",
            hint=f"Set `data.bin_ms` to {widths} or another multiple of {data.bin_ms:g}.",
        )
    if k == 1:
        return data
    n_window = data.n_bins - data.n_forward
    if data.n_forward and n_window % k:
        raise DataError(
            f"`data.bin_ms` is {bin_ms:g} ms, but the forward bins begin after {n_window} bins of "
            f"{data.bin_ms:g} ms, inside a new bin"
        )
    lengths_B = np.asarray(data.lengths_B) // k
    if (lengths_B < 1).any():
        trial = int(np.argmin(lengths_B))
        raise DataError(
            f"`data.bin_ms` is {bin_ms:g} ms, but trial {trial} is only "
            f"{data.lengths_B[trial] * data.bin_ms:g} ms long; expected at least one bin"
        )

    n_bins = data.n_bins // k
    inside_BT = np.arange(n_bins) < lengths_B[:, None]

    def grouped(array_BTK: NDArray[Any]) -> NDArray[Any]:
        n_trials, _, n_channels = array_BTK.shape
        return array_BTK[:, : n_bins * k].reshape(n_trials, n_bins, k, n_channels)

    def averaged(array_BTK: FloatArray | None) -> FloatArray | None:
        return None if array_BTK is None else grouped(array_BTK).mean(axis=2)

    counts_BTN = grouped(data.spikes_BTN).sum(axis=2, dtype=np.uint32) * inside_BT[..., None]
    rates_BTN = None
    if data.rates_BTN is not None:
        rates_BTN = grouped(data.rates_BTN).sum(axis=2) * inside_BT[..., None]
    starts_B = data.start_bins_B
    if starts_B is not None:  # unknown if a window begins inside a new bin
        starts_B = None if (starts_B % k).any() else np.asarray(starts_B // k)
    return replace(
        data,
        spikes_BTN=compact_counts(counts_BTN),
        bin_ms=bin_ms,
        lengths_B=lengths_B,
        rates_BTN=rates_BTN,
        latents_BTK=averaged(data.latents_BTK),
        behavior_BTV=averaged(data.behavior_BTV),
        start_bins_B=starts_B,
        n_forward=data.n_forward // k,
    )


def rebin_recording(recording: Recording, bin_ms: float | None) -> Recording:
    """Rebin both splits and add a note; without a width, return the recording unchanged."""
    before_ms = recording.train.bin_ms
    if bin_ms is None or bin_ms == before_ms:
        return recording
    try:
        train, valid = rebin(recording.train, bin_ms), rebin(recording.valid, bin_ms)
    except DataError as error:
        raise DataError(f"{recording.source}: {error.message}", error.hint) from error
    note = f"Bins of {before_ms:g} ms were summed to bins of {bin_ms:g} ms."
    cut = sum(
        int((np.asarray(old.lengths_B) * before_ms - new.lengths_B * bin_ms > 1e-6).sum())
        for old, new in ((recording.train, train), (recording.valid, valid))
    )
    if cut:
        n_trials = train.n_trials + valid.n_trials
        note += f" {cut} of {n_trials} trials lost a partial last bin."
    if recording.train.start_bins_B is not None and train.start_bins_B is None:
        note += " Windows begin inside these bins, so their rates cannot be merged."
    return replace(recording, train=train, valid=valid, notes=(*recording.notes, note))


# Windows of a continuous recording ---------------------------------------------------------------


def chop_windows(n_bins: int, window_bins: int, overlap_bins: int) -> tuple[IntArray, IntArray]:
    """Return the first bin and the length of each window of a stretch; the last may be shorter.

    Examples
    --------
    >>> chop_windows(10, window_bins=4, overlap_bins=1)
    (array([0, 3, 6]), array([4, 4, 4]))
    """
    if n_bins < 1 or not 0 <= overlap_bins < window_bins:
        raise DataError(
            f"windows of {window_bins} bins with an overlap of {overlap_bins}, over {n_bins} bins: "
            "expected at least one bin, and an overlap shorter than the window"
        )
    stride = window_bins - overlap_bins
    n_windows = 1 + max(0, -(-(n_bins - window_bins) // stride))
    starts_B = stride * np.arange(n_windows)
    return starts_B, np.minimum(window_bins, n_bins - starts_B)


def chop(
    values_TK: NDArray[Any], window_bins: int, overlap_bins: int = 0
) -> tuple[NDArray[Any], IntArray, IntArray]:
    """Chop a continuous stretch into windows; the last one is padded with zeros.

    Parameters
    ----------
    values_TK : (bins, ...) array
        Values to chop.
    window_bins, overlap_bins : int
        See `chop_windows`.

    Returns
    -------
    windows_BTK : (windows, window_bins, ...) array
    starts_B, lengths_B : (windows,) int arrays
        First bin and number of bins of each window, as `merge` takes them.

    Raises
    ------
    DataError
        As `chop_windows` does.

    Examples
    --------
    >>> windows_BTK, starts_B, lengths_B = chop(np.arange(5.0), 3, 1)
    >>> merge(windows_BTK, starts_B, lengths_B)
    array([0., 1., 2., 3., 4.])
    """
    starts_B, lengths_B = chop_windows(len(values_TK), window_bins, overlap_bins)
    windows_BTK = np.zeros((len(starts_B), window_bins, *values_TK.shape[1:]), values_TK.dtype)
    for window, start, n_bins in zip(windows_BTK, starts_B, lengths_B, strict=True):
        window[:n_bins] = values_TK[start : start + n_bins]
    return windows_BTK, starts_B, lengths_B


def merge(windows_BTK: NDArray[Any], starts_B: IntArray, lengths_B: IntArray) -> NDArray[Any]:
    """Merge windows to a continuous recording: the inverse of `chop`.

    Parameters
    ----------
    windows_BTK : (windows, bins, ...) array
        Windows, in any order. Whole numbers, such as counts, are taken from the last window.
    starts_B : (windows,) int array
        First bin of each window in the recording.
    lengths_B : (windows,) int array
        Bins of each window; later ones are padding.

    Returns
    -------
    values_TK : (bins, ...) array
        From the first bin of the earliest window to the last bin of the latest. Bins in no window
        are NaN, or 0 in an array of whole numbers.

    Raises
    ------
    DataError
        If there are no windows.

    Examples
    --------
    Rates of overlapping windows fade from one to the next:

    >>> windows_BT = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    >>> merge(windows_BT, starts_B=np.array([0, 2]), lengths_B=np.array([3, 3]))
    array([1. , 1. , 1.5, 2. , 2. ])
    """
    if len(starts_B) == 0:
        raise DataError("found no windows to merge; expected at least one")
    starts_B = np.asarray(starts_B) - np.min(starts_B)
    n_bins = int(np.max(starts_B + lengths_B))
    fades = windows_BTK.dtype.kind in "fc"
    blank = np.nan if fades else 0
    values_TK = np.full((n_bins, *windows_BTK.shape[2:]), blank, dtype=windows_BTK.dtype)
    filled = 0
    for window in np.argsort(starts_B, kind="stable"):
        start, length = int(starts_B[window]), int(lengths_B[window])
        later_TK = windows_BTK[window, :length]
        n_shared = min(max(filled - start, 0), length)
        values_TK[start + n_shared : start + length] = later_TK[n_shared:]
        if fades and n_shared:
            earlier_TK = values_TK[start : start + n_shared]
            share = np.arange(1, n_shared + 1) / (n_shared + 1)
            share = share.astype(values_TK.dtype).reshape(-1, *[1] * (values_TK.ndim - 1))
            # Not a weighted sum: equal values must stay exactly equal.
            earlier_TK += share * (later_TK[:n_shared] - earlier_TK)
        filled = max(filled, start + length)
    return values_TK


def merged_bins(starts_B: IntArray, lengths_B: IntArray) -> int:
    """Return the number of bins from the earliest window's first to the latest window's last."""
    return int(np.max(starts_B + lengths_B) - np.min(starts_B))


def merge_blocks(
    windows_BTK: TrialValues, starts_B: IntArray, lengths_B: IntArray
) -> Iterator[FloatArray]:
    """Yield what `merge` returns in consecutive stretches, to save memory.

    Examples
    --------
    >>> windows_BTK = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])[:, :, None]
    >>> stretches = merge_blocks(windows_BTK, np.array([0, 2]), np.array([3, 3]))
    >>> np.concatenate(list(stretches)).ravel()
    array([1. , 1. , 1.5, 2. , 2. ])
    """
    order = np.argsort(starts_B, kind="stable")
    ends_B = starts_B + lengths_B
    end = int(ends_B.max())
    blocks = trial_blocks(len(order), windows_BTK.shape[1] * windows_BTK.shape[2])
    for block in blocks:
        first = int(starts_B[order[block.start]])
        stop = end if block is blocks[-1] else int(starts_B[order[block.stop]])
        earlier = order[: block.start]
        # Earlier windows that reach into this stretch contribute to it too.
        some = np.concatenate([earlier[ends_B[earlier] > first], order[block]])
        merged_TK = merge(windows_BTK[some], starts_B[some], lengths_B[some])
        found_TK = merged_TK[first - int(starts_B[some].min()) :][: stop - first]
        stretch_TK = np.full((stop - first, merged_TK.shape[1]), np.nan, merged_TK.dtype)
        stretch_TK[: len(found_TK)] = found_TK
        yield stretch_TK
