"""Trials of a benchmark data set as a spike file, to train on and search with."""

from pathlib import Path

from ndt_cli.data.spike_data import Recording
from ndt_cli.data.write_own import check_target, write_recording
from ndt_cli.nlb.progress import Progress
from ndt_cli.nlb.recordings import to_recording
from ndt_cli.nlb.tensors import make_tensors


def write_spike_file(
    name: str,
    bin_ms: int,
    data_dir: Path | str,
    path: Path,
    *,
    progress: Progress | None = None,
) -> Recording:
    """Write the trials of the validation phase in the project's own layout.

    It is the file that `ndt_cli.nlb.submit.submit` leaves beside its runs, byte for byte: a model
    trained on either can be submitted.

    Parameters
    ----------
    name : str
        Data set, such as ``"mc_maze"``.
    bin_ms : {5, 20}
        Bin width in milliseconds.
    data_dir : Path or str
        Folder of the NWB files.
    path : Path
        File to write, ``.h5`` or ``.npz``; nothing is overwritten.
    progress : callable, optional
        Told what is done and how far it is.

    Returns
    -------
    Recording
        What was written: train and validation split, held-out neurons as the last columns and
        forward bins as the last bins.

    Raises
    ------
    SettingsError
        When there is no such data set or bin width.
    DataError
        When the file is there already, or an NWB file is missing or damaged.
    MissingExtraError
        When nlb_tools or a package it needs is not installed.
    """
    check_target(path)
    recording = to_recording(make_tensors(name, bin_ms, "val", data_dir, progress=progress))
    write_recording(recording, path)
    return recording
