"""Neurons held out of a recording, to score how well the others foretell them (co-smoothing)."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import IntArray, Recording, SpikeData
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.settings.tree import DataSettings

_SHOWN = 12


def hold_out_neurons(recording: Recording, settings: DataSettings) -> Recording:
    """Hold out the neurons that the settings name, or a seeded draw of them.

    They become the last columns; `SpikeData.neuron_ids_N` keeps each neuron's place in the file.

    Parameters
    ----------
    recording : Recording
        Without held-out neurons.
    settings : DataSettings
        ``heldout_neurons``, or ``heldout_fraction`` and ``heldout_seed``. A fraction stands for
        ``round(fraction * neurons)`` of them, at least one held out and one kept.

    Returns
    -------
    Recording
        The same recording where nothing is to be held out; else with a note that names the
        neurons.

    Raises
    ------
    DataError
        If the recording has held-out neurons of its own, or only one neuron.
    SettingsError
        If a neuron is named that is not there, or none is left to be seen.
    """
    if not (settings.heldout_neurons or settings.heldout_fraction):
        return recording
    n_neurons = recording.train.n_neurons
    if recording.train.n_heldout:
        raise DataError(
            f"{recording.source}: the file itself holds out {recording.train.n_heldout} neurons",
            hint="Leave data.heldout_fraction and data.heldout_neurons out.",
        )
    if settings.heldout_neurons:
        heldout = _named(settings.heldout_neurons, n_neurons, recording.source)
        how = "data.heldout_neurons"
    else:
        if n_neurons < 2:
            raise DataError(f"{recording.source}: found 1 neuron; holding out needs at least 2")
        n_heldout = round(settings.heldout_fraction * n_neurons)
        rng = np.random.default_rng(settings.heldout_seed)
        n_drawn = min(max(n_heldout, 1), n_neurons - 1)
        heldout = np.sort(rng.choice(n_neurons, n_drawn, replace=False))
        how = f"data.heldout_seed {settings.heldout_seed}"
    heldin = np.setdiff1d(np.arange(n_neurons), heldout)
    order_N = np.concatenate([heldin, heldout])
    shown = ", ".join(str(n) for n in heldout[:_SHOWN]) + (", ..." if len(heldout) > _SHOWN else "")
    note = f"{len(heldout)} of {n_neurons} neurons are held out ({how}): {shown}."
    return replace(
        recording,
        train=_reordered(recording.train, order_N, len(heldout)),
        valid=_reordered(recording.valid, order_N, len(heldout)),
        notes=(*recording.notes, note),
    )


def _named(neurons: tuple[int, ...], n_neurons: int, source: str) -> NDArray[np.int64]:
    if max(neurons) >= n_neurons:
        raise SettingsError(
            f"data.heldout_neurons names neuron {max(neurons)}, but {source} has {n_neurons} "
            f"neurons; expected 0 to {n_neurons - 1}"
        )
    if len(neurons) == n_neurons:
        raise SettingsError(
            f"data.heldout_neurons names all {n_neurons} neurons of {source}; expected at least "
            "one that the model can see"
        )
    return np.array(sorted(neurons))


def _reordered(data: SpikeData, order_N: IntArray, n_heldout: int) -> SpikeData:
    def columns(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array[:, :, order_N])

    return replace(
        data,
        spikes_BTN=columns(data.spikes_BTN),
        rates_BTN=None if data.rates_BTN is None else columns(data.rates_BTN),
        neuron_ids_N=order_N,
        n_heldout=n_heldout,
    )
