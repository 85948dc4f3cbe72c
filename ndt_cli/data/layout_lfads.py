"""The LFADS layout: what the field's synthetic sets and many labs use, often without an ending.

Axes in names: B trials, T bins, N neurons, K latents.
"""

import numpy as np

from ndt_cli.data.arrays import ArrayFile
from ndt_cli.data.read_array import (
    as_whole,
    check_rates_per_bin,
    check_same_window,
    read_counts,
    read_labels,
    read_per_trial,
    read_rates,
    read_series,
)
from ndt_cli.data.scales import find_rate_scale, no_bin_ms, stored_bin_ms
from ndt_cli.data.spike_data import FloatArray, IntArray, Recording, SpikeData
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings

COUNT_KEYS = ("train_data", "valid_data")
_HALVES = ("train", "valid")
_LATENT_KEYS = ("lowd", "latents")


def read_lfads(file: ArrayFile, settings: DataSettings) -> Recording:
    """Read an LFADS file.

    Needed are ``train_data`` and ``valid_data`` (counts). Taken where present: ``train_truth``
    and ``valid_truth`` (true rates), ``conversion_factor``, ``dt`` (bin width in seconds),
    ``train_inds`` and ``valid_inds`` (trials' places in the original order, from 0 or 1),
    ``condition_labels_train`` and ``condition_labels_valid``, ``train_lowd`` and ``valid_lowd``
    (latents). Other keys are passed over.

    Raises
    ------
    DataError
        If a needed key is missing, an array is not as it should be, or neither file nor
        settings nor the scale of the rates tell the bin width.
    """
    for key in COUNT_KEYS:
        if key not in file:
            raise file.missing(key, known_keys=COUNT_KEYS)
    check_same_window(file, *COUNT_KEYS)
    counts = [read_counts(file, key) for key in COUNT_KEYS]
    bin_ms, notes = stored_bin_ms(file, "dt", settings, ms_per_unit=1000)

    rates, rate_notes = _read_truth(file, counts)
    notes += rate_notes
    if rates:
        scale = find_rate_scale(file, settings, bin_ms, _pooled_mean(rates), _pooled_mean(counts))
        bin_ms = scale.bin_ms
        notes += scale.notes
        for half, rates_BTN in zip(_HALVES, rates, strict=True):
            with np.errstate(over="ignore"):  # what is too large then is refused
                rates_BTN /= scale.factor
            check_rates_per_bin(file, f"{half}_truth", rates_BTN)
    if bin_ms is None:
        raise no_bin_ms(file, "dt")

    sizes = [len(spikes_BTN) for spikes_BTN in counts]
    ids, id_notes = _read_trial_ids(file, sizes)
    latents, latent_notes = _read_latents(file, counts)
    conditions = _read_conditions(file, sizes)
    train, valid = (
        SpikeData(
            spikes_BTN=spikes_BTN,
            bin_ms=bin_ms,
            lengths_B=np.full(len(spikes_BTN), spikes_BTN.shape[1]),
            rates_BTN=rates[i] if rates else None,
            conditions_B=conditions[i] if conditions else None,
            latents_BTK=latents[i] if latents else None,
            trial_ids_B=ids[i] if ids else None,
        )
        for i, spikes_BTN in enumerate(counts)
    )
    return Recording(train, valid, str(file.path), "lfads", (*notes, *id_notes, *latent_notes))


def _pooled_mean(arrays: list[IntArray] | list[FloatArray]) -> float:
    total = sum(float(array.sum(dtype=np.float64)) for array in arrays)
    return total / sum(array.size for array in arrays)


def _read_truth(file: ArrayFile, counts: list[IntArray]) -> tuple[list[FloatArray], list[str]]:
    keys = [f"{half}_truth" for half in _HALVES]
    present = [key for key in keys if key in file]
    if len(present) == 1:
        return [], [f"`{present[0]}` is not used: the other split has no true rates."]
    if not present:
        return [], []
    return [read_rates(file, k, c.shape) for k, c in zip(keys, counts, strict=True)], []


def _read_conditions(file: ArrayFile, sizes: list[int]) -> list[IntArray]:
    keys = [f"condition_labels_{half}" for half in _HALVES]
    if not all(key in file for key in keys):
        return []
    return [read_labels(file, key, size) for key, size in zip(keys, sizes, strict=True)]


def _read_latents(file: ArrayFile, counts: list[IntArray]) -> tuple[list[FloatArray], list[str]]:
    for name in _LATENT_KEYS:
        keys = [f"{half}_{name}" for half in _HALVES]
        if all(key in file for key in keys):
            try:
                return [
                    read_series(file, k, *c.shape[:2]) for k, c in zip(keys, counts, strict=True)
                ], []
            except DataError as error:
                return [], [f"Latents are not used: {error.message}."]
    return [], []


def _read_trial_ids(file: ArrayFile, sizes: list[int]) -> tuple[list[IntArray], list[str]]:
    """Return each split's places in the original order, from 0; MATLAB counts from 1."""
    keys = [f"{half}_inds" for half in _HALVES]
    if not all(key in file for key in keys):
        return [], []
    ids: list[IntArray] = []
    for key, size in zip(keys, sizes, strict=True):
        values = as_whole(read_per_trial(file, key, size))
        if values is None:
            return [], [f"`{key}` is not used: it holds no whole numbers."]
        ids.append(values)
    both = np.concatenate(ids)
    if len(np.unique(both)) < len(both):
        return [], ["`train_inds` and `valid_inds` are not used: some trials are named twice."]
    if both.min() == 1 and both.max() == len(both):
        return [i - 1 for i in ids], ["`train_inds` and `valid_inds` count from 1; now from 0."]
    return ids, []
