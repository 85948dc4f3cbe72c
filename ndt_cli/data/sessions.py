"""Several sessions as one recording: trials below one another, neurons beside one another.

Axes: B trials, T bins, N neurons.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.data.spike_data import Recording, Sessions, SpikeData, take_columns
from ndt_cli.errors import DataError


def stack_sessions(recordings: Sequence[Recording]) -> Recording:
    """Return the trials of several sessions as one recording.

    Each neuron belongs to one session; in trials of the others its counts stand as zero, and are
    neither seen nor predicted (`SpikeData.sessions`). True rates are kept if all sessions have
    them; conditions, behavior and names are not.

    Parameters
    ----------
    recordings : sequence of Recording
        Of the same bin width. Trials may differ in length, and neurons in number.

    Raises
    ------
    DataError
        If bin widths differ, or a session has forward bins.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> days = [make_lorenz(n_conditions=2, n_repeats=5, n_neurons=n) for n in (5, 7)]
    >>> both = stack_sessions(days)
    >>> both.train.spikes_BTN.shape, both.train.sessions.of_neuron_N
    ((16, 50, 12), array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]))
    """
    first = recordings[0]
    for recording in recordings:
        if recording.train.bin_ms != first.train.bin_ms:
            raise DataError(
                f"{recording.source} has bins of {recording.train.bin_ms:g} ms, and "
                f"{first.source} of {first.train.bin_ms:g} ms; sessions share one bin width",
                f"Sum narrower bins: `data.bin_ms={max(r.train.bin_ms for r in recordings):g}`.",
            )
        if recording.train.n_forward:
            raise DataError(
                f"{recording.source} has forward bins, which several sessions cannot have",
                "Train it alone, or leave its forward bins out.",
            )
    stems = [Path(recording.source).stem for recording in recordings]
    names = tuple(
        stem if stems.count(stem) == 1 else f"{stem}-{place}" for place, stem in enumerate(stems, 1)
    )
    train = _stacked([recording.train for recording in recordings], names)
    valid = _stacked([recording.valid for recording in recordings], names)
    notes = [
        f"{name}: {note}"
        for name, recording in zip(names, recordings, strict=True)
        for note in recording.notes
    ]
    return Recording(train, valid, "+".join(names), first.layout, tuple(notes))


def _stacked(parts: Sequence[SpikeData], names: tuple[str, ...]) -> SpikeData:
    # Held-out neurons of all sessions stand last, as in one.
    columns = [
        (place, heldout)
        for heldout in (False, True)
        for place, part in enumerate(parts)
        for _ in range(part.n_heldout if heldout else part.n_neurons - part.n_heldout)
    ]
    of_neuron_N = np.array([place for place, _ in columns])
    of_trial_B = np.repeat(np.arange(len(parts)), [part.n_trials for part in parts])
    n_bins = max(part.n_bins for part in parts)

    def both(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        if any(array is None for array in arrays):
            return None
        shape = (len(of_trial_B), n_bins, len(of_neuron_N))
        joined = np.zeros(shape, np.result_type(*arrays))
        for place, array in enumerate(arrays):
            trials, neurons = of_trial_B == place, of_neuron_N == place
            joined[np.ix_(trials, np.arange(array.shape[1]), neurons)] = array
        return joined

    return SpikeData(
        spikes_BTN=both("spikes_BTN"),
        bin_ms=parts[0].bin_ms,
        lengths_B=np.concatenate([part.lengths_B for part in parts]),
        rates_BTN=both("rates_BTN"),
        n_heldout=sum(part.n_heldout for part in parts),
        hidden_counts_known=all(part.hidden_counts_known for part in parts),
        sessions=Sessions(names, of_trial_B, of_neuron_N),
    )


def split_sessions(recording: Recording) -> list[Recording]:
    """Return each session of a stacked recording by itself, its neurons alone.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> days = [make_lorenz(n_conditions=2, n_repeats=5, n_neurons=n) for n in (5, 7)]
    >>> [day.train.spikes_BTN.shape for day in split_sessions(stack_sessions(days))]
    [(8, 50, 5), (8, 50, 7)]
    """
    sessions = recording.train.sessions
    if sessions is None:
        return [recording]
    halves = [split_trials(data) for data in (recording.train, recording.valid)]
    return [
        Recording(train, valid, name, recording.layout)
        for name, train, valid in zip(sessions.names, *halves, strict=True)
    ]


def split_trials(data: SpikeData) -> list[SpikeData]:
    """Return the trials of each session by themselves, its neurons alone.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> days = [make_lorenz(n_conditions=2, n_repeats=5, n_neurons=n) for n in (5, 7)]
    >>> [day.spikes_BTN.shape for day in split_trials(stack_sessions(days).valid)]
    [(2, 50, 5), (2, 50, 7)]
    """
    if data.sessions is None:
        return [data]
    first_heldout = data.n_neurons - data.n_heldout
    return [
        take_columns(
            data.take(trials),
            neurons,
            n_heldout=int((neurons >= first_heldout).sum()),
            sessions=None,
        )
        for trials, neurons in session_parts(data)
    ]


def session_parts(data: SpikeData) -> Iterator[tuple[Any, Any]]:
    """Give trials and neurons of each session, as indices of axes; of one session, all.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> list(session_parts(make_lorenz(n_conditions=2, n_repeats=5).train))
    [(slice(None, None, None), slice(None, None, None))]
    """
    if data.sessions is None:
        yield slice(None), slice(None)
        return
    for place in range(len(data.sessions.names)):
        trials_B = data.sessions.of_trial_B == place
        yield np.flatnonzero(trials_B), np.flatnonzero(data.sessions.of_neuron_N == place)
