"""The project's own layout: one set of trials in an .npz or HDF5 file.

===================  =======================  ====================================================
key                  shape                    meaning
===================  =======================  ====================================================
``spikes``           trials x bins x neurons  spike counts
``bin_ms``           one number               bin width in milliseconds
``lengths``          trials                   bins of each trial, where they differ
``length_ms``        trials                   the same in milliseconds
``split``            trials                   ``train`` or ``valid``; without it a seeded split
``conditions``       trials                   condition (``condition`` is read too)
``trial_ids``        trials                   place in the original order, from 0
``start_bins``       trials                   first bin on the clock of a chopped recording
``rates``            as ``spikes``            true rates, expected spikes per bin
``latents``          trials x bins x latents  latent states behind synthetic data
``behaviour``        trials x bins x values   behaviour, NaN where it is missing
``behaviour_names``  values                   what each of them is, such as ``hand velocity x``
``neuron_names``     neurons                  what tells them apart; compared when evaluating
``n_heldout``        one number               the last neurons, never seen by the model
``n_forward``        one number               the last bins, never seen by the model
``hidden_known``     trials                   False: counts of those two are not in the file
===================  =======================  ====================================================

All but the first two are optional. ``behavior`` and ``behavior_names`` are read too.
"""

from dataclasses import replace

import numpy as np

from ndt_cli.data.arrays import ArrayFile
from ndt_cli.data.read_array import (
    as_whole,
    check_rates_per_bin,
    read_counts,
    read_labels,
    read_names,
    read_per_trial,
    read_rates,
    read_series,
    read_words,
)
from ndt_cli.data.scales import no_bin_ms, stored_bin_ms
from ndt_cli.data.spike_data import FloatArray, IntArray, Recording, SpikeData
from ndt_cli.data.split import split_trials
from ndt_cli.settings.tree import DataSettings


def read_own(file: ArrayFile, settings: DataSettings) -> Recording:
    """Read a file of the own layout.

    Without ``split``, trials are drawn for validation as `DataSettings` says.

    Raises
    ------
    DataError
        If an array is not as it should be, nobody says the bin width, or there are too few
        trials to split.
    """
    bin_ms, notes = stored_bin_ms(file, "bin_ms", settings)
    if bin_ms is None:
        raise no_bin_ms(file, "bin_ms")
    spikes_BTN = read_counts(file, "spikes")
    n_trials, n_bins, n_neurons = spikes_BTN.shape
    lengths_B, length_notes = _read_lengths(file, n_trials, n_bins, bin_ms)
    inside_BT = np.arange(n_bins) < lengths_B[:, None]
    n_past = int(np.count_nonzero(spikes_BTN[~inside_BT]))
    if n_past:
        spikes_BTN[~inside_BT] = 0
        notes.append(f"Counts in {n_past} entries past the end of their trial were set to 0.")

    rates_BTN = None
    if "rates" in file:
        rates_BTN = read_rates(file, "rates", spikes_BTN.shape, inside_BT)
        if settings.conversion_factor is not None:
            with np.errstate(over="ignore"):  # what is too large then is refused below
                rates_BTN /= settings.conversion_factor
            notes.append(
                f"True rates were divided by {settings.conversion_factor:.6g}, as "
                "data.conversion_factor says."
            )
        check_rates_per_bin(file, "rates", rates_BTN)
    condition_key = "conditions" if "conditions" in file else "condition"
    conditions_B = read_labels(file, condition_key, n_trials) if condition_key in file else None
    behaviour_BTV, behaviour_names = _read_behaviour(file, n_trials, n_bins)
    whole = SpikeData(
        spikes_BTN=spikes_BTN,
        bin_ms=bin_ms,
        lengths_B=lengths_B,
        rates_BTN=rates_BTN,
        conditions_B=conditions_B,
        latents_BTK=_read_optional_series(file, "latents", n_trials, n_bins),
        behaviour_BTV=behaviour_BTV,
        behaviour_names=behaviour_names,
        trial_ids_B=(
            read_labels(file, "trial_ids", n_trials) if "trial_ids" in file else np.arange(n_trials)
        ),
        neuron_names=_read_neuron_names(file, n_neurons),
        start_bins_B=_read_start_bins(file, n_trials),
        n_heldout=_read_size(file, "n_heldout", n_neurons),
        n_forward=_read_size(file, "n_forward", n_bins),
    )
    train, valid, split_notes = _read_split(file, whole, settings)
    return Recording(
        train=_with_hidden(file, whole, train),
        valid=_with_hidden(file, whole, valid),
        source=str(file.path),
        layout="ndt",
        notes=(*notes, *length_notes, *split_notes),
    )


def _read_lengths(
    file: ArrayFile, n_trials: int, n_bins: int, bin_ms: float
) -> tuple[IntArray, list[str]]:
    """Return the bins of each trial; a partial last bin does not count."""
    key = "lengths" if "lengths" in file else "length_ms"
    if key not in file:
        return np.full(n_trials, n_bins), []
    values = read_per_trial(file, key, n_trials)
    if values.dtype.kind not in "uif":
        raise file.wrong(key, f"values of type {values.dtype}", "numbers")
    bins = values / bin_ms if key == "length_ms" else values.astype(float)
    whole = np.floor(bins + 1e-6)
    bad = ~((whole >= 1) & (whole <= n_bins))
    if key == "lengths":
        bad |= whole != bins
    if bad.any():
        trial = int(np.argmax(bad))
        limits = f"{bin_ms:g} to {n_bins * bin_ms:g} ms" if key == "length_ms" else f"1 to {n_bins}"
        raise file.wrong(
            key, f"{values[trial]:g} at trial {trial}", f"{limits}, the bins there are"
        )
    n_cut = int((bins - whole > 1e-6).sum())
    notes = [f"{n_cut} of {n_trials} trials lost a partial last bin."] if n_cut else []
    return whole.astype(np.int64), notes


def _read_optional_series(
    file: ArrayFile, key: str, n_trials: int, n_bins: int
) -> FloatArray | None:
    return read_series(file, key, n_trials, n_bins) if key in file else None


def _read_behaviour(
    file: ArrayFile, n_trials: int, n_bins: int
) -> tuple[FloatArray | None, tuple[str, ...]]:
    """Return behaviour and the names of its variables, no names where the file has none."""
    key = "behaviour" if "behaviour" in file else "behavior"
    behaviour_BTV = _read_optional_series(file, key, n_trials, n_bins)
    if behaviour_BTV is None or f"{key}_names" not in file:
        return behaviour_BTV, ()
    names = read_names(file, f"{key}_names", behaviour_BTV.shape[2])
    return behaviour_BTV, tuple(names)


def _read_neuron_names(file: ArrayFile, n_neurons: int) -> tuple[str, ...]:
    if "neuron_names" not in file:
        return ()
    if file.dtype("neuron_names").kind in "iu":  # numbers of units
        names = [str(number) for number in file.read("neuron_names").reshape(-1).tolist()]
    else:
        names = read_names(file, "neuron_names", n_neurons)
    if len(names) != n_neurons or len(set(names)) < n_neurons:
        found = f"{len(set(names))} different ones"
        raise file.wrong("neuron_names", found, f"{n_neurons}, another for each neuron")
    return tuple(names)


def _read_start_bins(file: ArrayFile, n_trials: int) -> IntArray | None:
    key = "start_bins"
    if key not in file:
        return None
    values = read_per_trial(file, key, n_trials)
    starts_B = as_whole(values) if values.dtype.kind in "ui" else None
    if starts_B is None:
        raise file.wrong(key, f"values of type {values.dtype}", "whole numbers, in bins")
    return starts_B


def _read_size(file: ArrayFile, key: str, n_all: int) -> int:
    if key not in file:
        return 0
    values = file.read(key)
    whole = values.size == 1 and values.dtype.kind in "ui"
    if not whole or not 0 <= int(values.reshape(())) < n_all:
        found = str(values.reshape(-1)[:3].tolist())
        raise file.wrong(key, found, f"one whole number from 0 to {n_all - 1}")
    return int(values.reshape(()))


def _read_split(
    file: ArrayFile, whole: SpikeData, settings: DataSettings
) -> tuple[IntArray, IntArray, list[str]]:
    """Return the trials of each split: the file's own, or drawn."""
    if "split" in file:
        words = np.array(read_words(file, "split", whole.n_trials))
        train, valid = (np.flatnonzero(words == word) for word in ("train", "valid"))
        if len(train) + len(valid) < whole.n_trials or not (len(train) and len(valid)):
            found = ", ".join(f"`{word}`" for word in np.unique(words)[:5])
            raise file.wrong("split", found, "`train` and `valid`, one of them for each trial")
        return train, valid, []
    train, valid = split_trials(
        whole.n_trials,
        valid_fraction=settings.valid_fraction,
        seed=settings.split_seed,
        conditions_B=whole.conditions_B,
        source=f"{file.path}: `spikes`",
    )
    within = "" if whole.conditions_B is None else ", in proportion within each condition"
    note = (
        f"No `split` in the file: {len(valid)} of {whole.n_trials} trials were drawn for "
        f"validation{within} (data.split_seed {settings.split_seed})."
    )
    return train, valid, [note]


def _with_hidden(file: ArrayFile, whole: SpikeData, trials: IntArray) -> SpikeData:
    known = True
    if "hidden_known" in file:
        known = bool(read_per_trial(file, "hidden_known", whole.n_trials)[trials].all())
    return replace(whole.take(trials), hidden_counts_known=known)
