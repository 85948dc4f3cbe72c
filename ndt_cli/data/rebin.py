"""Wider bins: counts and rates are summed, latents and behavior are averaged."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import FloatArray, IntArray, Recording, SpikeData, compact_counts
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
    return replace(
        data,
        spikes_BTN=compact_counts(counts_BTN),
        bin_ms=bin_ms,
        lengths_B=lengths_B,
        rates_BTN=rates_BTN,
        latents_BTK=averaged(data.latents_BTK),
        behavior_BTV=averaged(data.behavior_BTV),
        start_bins_B=_wider_starts(data.start_bins_B, k),
        n_forward=data.n_forward // k,
    )


def _wider_starts(start_bins_B: IntArray | None, k: int) -> IntArray | None:
    """Return starts in wider bins; None if a window begins inside one."""
    if start_bins_B is None or (start_bins_B % k).any():
        return None
    return np.asarray(start_bins_B // k)


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
