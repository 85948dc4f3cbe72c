"""From settings to a recording: read a file of any layout, rebin it, hold out neurons, check it."""

import re
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from ndt_cli.data.bins import rebin_recording
from ndt_cli.data.files import ArrayFile
from ndt_cli.data.layouts import (
    LFADS_COUNT_KEYS,
    LFADS_TORCH_KEYS,
    NLB_COUNT_KEYS,
    read_lfads,
    read_nlb,
    read_own,
)
from ndt_cli.data.sessions import split_sessions, stack_sessions
from ndt_cli.data.spike_data import Recording, check_recording, take_columns
from ndt_cli.data.synthetic import make_chaotic_rnn, make_lorenz
from ndt_cli.errors import DataError, SettingsError, called
from ndt_cli.settings.tree import DataSettings

_MAX_LISTED = 12  # neurons in a note
_NLB_KEY = re.compile(r"(train|eval)_(spikes|data)_held(in|out)(_forward)?")


def load_recording(settings: DataSettings) -> Recording:
    """Load the file of the settings, or make their synthetic set.

    Parameters
    ----------
    settings : DataSettings
        File or synthetic set, bin width, split and held-out neurons.

    Returns
    -------
    Recording
        Training and validation trials, ready to train on.

    Raises
    ------
    DataError
        If there is neither file nor set, or the file cannot be read or trained on.
    SettingsError
        If the neurons to hold out do not exist.

    Examples
    --------
    >>> from ndt_cli import load_settings
    >>> recording = load_recording(load_settings(overrides=["data.file=spikes.npz"]).data)
    >>> recording.train.spikes_BTN.shape, recording.valid.spikes_BTN.shape
    ((16, 10, 4), (4, 10, 4))
    >>> recording.train.bin_ms
    20.0
    """
    if settings.files:
        return stack_sessions(load_files(settings))
    if settings.file is not None:
        return limit_training(load_file(settings.file, settings), settings)
    if settings.synthetic == "none":
        raise DataError(
            'no spike file was given, and `data.synthetic` is "none"',
            hint="Give a file: `data.file=FILE`.",
        )
    made = make_lorenz() if settings.synthetic == "lorenz" else make_chaotic_rnn()
    made = hold_out_neurons(rebin_recording(made, settings.bin_ms), settings)
    return limit_training(made, settings)


def load_files(settings: DataSettings) -> list[Recording]:
    """Load the files of several sessions."""
    recordings = [load_file(file, settings) for file in settings.files]
    return [*recordings[:-1], limit_training(recordings[-1], settings)]


def load_sessions(settings: DataSettings, recording: Recording) -> list[Recording]:
    """Return each session of a stacked recording: from its file, if there is one.

    The files have conditions, behavior and names of neurons, which a stacked recording has not.
    """
    return load_files(settings) if settings.files else split_sessions(recording)


def limit_training(recording: Recording, settings: DataSettings) -> Recording:
    """Keep as many training trials as ``train_trials``; a larger number includes a smaller one's.

    Raises
    ------
    SettingsError
        If there are fewer.
    """
    n_trials, n_kept = recording.train.n_trials, settings.train_trials
    if n_kept is None:
        return recording
    if n_kept > n_trials:
        raise SettingsError(
            f"data.train_trials is {n_kept}, and {recording.source} has {n_trials} training trials",
            "Ask for fewer, or leave it out.",
        )
    drawn = np.random.default_rng(settings.split_seed).permutation(n_trials)[:n_kept]
    return replace(recording, train=recording.train.take(np.sort(drawn)))


def load_file(path: Path | str, settings: DataSettings, *, to_train: bool = True) -> Recording:
    """Load a spike file of any layout, ready to train on; ``settings.file`` is ignored.

    With ``to_train`` False, for inference, a single trial or a single split is enough.
    """
    with ArrayFile(Path(path)) as file:
        layout = detect_layout(file)
        if layout == "ndt":
            recording = read_own(file, settings, to_train=to_train)
        else:
            recording = {"lfads": read_lfads, "nlb": read_nlb}[layout](file, settings)
    recording = rebin_recording(recording, settings.bin_ms)
    check_recording(recording, to_train=to_train)
    return hold_out_neurons(recording, settings)


def detect_layout(file: ArrayFile) -> str:
    """Return ``"lfads"``, ``"nlb"`` or ``"ndt"``, by the keys of the file."""
    if any(_NLB_KEY.fullmatch(key) for key in file.keys):
        return "nlb"
    if any(key in file for key in (*LFADS_COUNT_KEYS, *LFADS_TORCH_KEYS)):
        return "lfads"
    if "spikes" in file:
        return "ndt"
    counts = ("spikes", *LFADS_COUNT_KEYS, *NLB_COUNT_KEYS)
    # Spike times, trials or time series: a recording, not counts in trials.
    is_recording = any("time" in key.lower() for key in (*file.keys, *file.groups))
    if is_recording or {"units", "acquisition", "intervals"} & set(file.groups):
        raise DataError(
            f"{file.path}: found {file.names}, a recording; expected `spikes`, counts in trials",
            f"Convert it: {called('list_contents', file.path)} shows what is in it, and how.",
        )
    close = ((key, get_close_matches(key, counts, n=1, cutoff=0.75)) for key in file.keys)
    like = next(
        (f"`{key}` looks like `{known[0]}`: rename it." for key, known in close if known), ""
    )
    raise DataError(
        f"{file.path}: found {file.names}; expected `spikes`, or `train_data` and `valid_data` "
        "(LFADS), or `train_spikes_heldin` and `eval_spikes_heldin` (NLB)",
        hint=like or "`spikes` is trials x bins x neurons; `bin_ms` is the bin width.",
    )


def hold_out_neurons(recording: Recording, settings: DataSettings) -> Recording:
    """Hold out neurons, to score how well the others predict them (co-smoothing).

    The settings name them, or ask for a fraction: ``round(fraction * neurons)`` are drawn, at
    least one, and not all. They become the last columns; `SpikeData.neuron_ids_N` keeps each
    neuron's position in the file. A note names them.
    """
    if not (settings.heldout_neurons or settings.heldout_fraction):
        return recording
    n_neurons = recording.train.n_neurons
    if recording.train.n_heldout:
        raise DataError(
            f"{recording.source}: the file already holds out {recording.train.n_heldout} neurons",
            hint="Leave out `data.heldout_fraction` and `data.heldout_neurons`.",
        )
    if settings.heldout_neurons:
        heldout = np.array(sorted(settings.heldout_neurons))
        how = "`data.heldout_neurons`"
        if heldout[-1] >= n_neurons:
            raise SettingsError(
                f"{how} names neuron {heldout[-1]}, but {recording.source} has {n_neurons} "
                f"neurons; expected 0 to {n_neurons - 1}"
            )
        if len(heldout) == n_neurons:
            raise SettingsError(
                f"{how} names all {n_neurons} neurons of {recording.source}; expected at least "
                "one to be left as input"
            )
    else:
        if n_neurons < 2:
            raise DataError(f"{recording.source}: found 1 neuron; holding out needs at least 2")
        n_drawn = min(max(round(settings.heldout_fraction * n_neurons), 1), n_neurons - 1)
        rng = np.random.default_rng(settings.heldout_seed)
        heldout = np.sort(rng.choice(n_neurons, n_drawn, replace=False))
        how = f"`data.heldout_seed` {settings.heldout_seed}"
    heldin = np.setdiff1d(np.arange(n_neurons), heldout)
    order_N = np.concatenate([heldin, heldout])
    shown = ", ".join(str(n) for n in heldout[:_MAX_LISTED])
    shown += ", ..." if len(heldout) > _MAX_LISTED else ""
    note = f"{len(heldout)} of {n_neurons} neurons are held out ({how}): {shown}."
    train, valid = (
        take_columns(data, order_N, neuron_ids_N=order_N, n_heldout=len(heldout))
        for data in (recording.train, recording.valid)
    )
    return replace(recording, train=train, valid=valid, notes=(*recording.notes, note))
