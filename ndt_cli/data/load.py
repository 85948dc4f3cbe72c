"""From settings to a recording: find the layout, read, rebin, check."""

import re
from difflib import get_close_matches
from pathlib import Path

from ndt_cli.data import layout_lfads, layout_nlb
from ndt_cli.data.arrays import ArrayFile
from ndt_cli.data.chaotic_rnn import make_chaotic_rnn
from ndt_cli.data.checks import check_recording
from ndt_cli.data.hold_out import hold_out_neurons
from ndt_cli.data.layout_lfads import read_lfads
from ndt_cli.data.layout_nlb import read_nlb
from ndt_cli.data.layout_own import read_own
from ndt_cli.data.lorenz import make_lorenz
from ndt_cli.data.rebin import rebin_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import DataSettings

_READERS = {"lfads": read_lfads, "nlb": read_nlb, "ndt": read_own}
_NLB_KEY = re.compile(r"(train|eval)_(spikes|data)_held(in|out)(_forward)?")


def load_recording(settings: DataSettings) -> Recording:
    """Load the file of the settings, or make their synthetic set.

    Parameters
    ----------
    settings : DataSettings
        Which file or set, bin width, split, held-out neurons.

    Returns
    -------
    Recording
        Training and validation trials, ready to train on.

    Raises
    ------
    DataError
        If there is neither file nor set, or the file cannot be read or trained on.
    SettingsError
        If the neurons to hold out are not there.

    Examples
    --------
    >>> from ndt_cli import load_settings
    >>> recording = load_recording(load_settings(overrides=["data.file=spikes.npz"]).data)
    >>> recording.train.spikes_BTN.shape, recording.valid.spikes_BTN.shape
    ((16, 10, 4), (4, 10, 4))
    >>> recording.train.bin_ms
    20.0
    """
    if settings.file is not None:
        return load_file(settings.file, settings)
    if settings.synthetic == "none":
        raise DataError(
            "no spike file was given, and data.synthetic is none",
            hint="Give a file: --data FILE.",
        )
    made = make_lorenz() if settings.synthetic == "lorenz" else make_chaotic_rnn()
    return hold_out_neurons(rebin_recording(made, settings.bin_ms), settings)


def load_file(path: Path, settings: DataSettings) -> Recording:
    """Load a spike file of any layout.

    Parameters
    ----------
    path : Path
        HDF5 or .npz file, with or without an ending.
    settings : DataSettings
        Bin width, conversion factor, split and held-out neurons; its ``file`` is not looked at.

    Returns
    -------
    Recording
        Training and validation trials, ready to train on.

    Raises
    ------
    DataError
        If the file cannot be read or trained on.
    SettingsError
        If the neurons to hold out are not there.
    """
    with ArrayFile(path) as file:
        recording = _READERS[detect_layout(file)](file, settings)
    recording = rebin_recording(recording, settings.bin_ms)
    check_recording(recording)
    return hold_out_neurons(recording, settings)


def detect_layout(file: ArrayFile) -> str:
    """Return ``"lfads"``, ``"nlb"`` or ``"ndt"`` by the keys that the file has.

    Raises
    ------
    DataError
        If no layout has such keys.
    """
    if any(_NLB_KEY.fullmatch(key) for key in file.keys):
        return "nlb"
    if any(key in file for key in layout_lfads.COUNT_KEYS):
        return "lfads"
    if "spikes" in file:
        return "ndt"
    counts = ("spikes", *layout_lfads.COUNT_KEYS, *layout_nlb.COUNT_KEYS)
    # Only near misses: `spike_times` are no misspelt `spikes`.
    close = ((key, get_close_matches(key, counts, n=1, cutoff=0.75)) for key in file.keys)
    like = next(
        (f"`{key}` looks like `{known[0]}`: rename it." for key, known in close if known), ""
    )
    raise DataError(
        f"{file.path}: found {file.names}; expected `spikes`, or `train_data` and `valid_data` "
        "(LFADS), or `train_spikes_heldin` and `eval_spikes_heldin` (NLB)",
        hint=like or "`spikes` is trials x bins x neurons; `bin_ms` is the bin width.",
    )
