"""Benchmark tensors as trials for training, and as a spike file.

Held-out neurons are the last columns, forward bins the last bins.

Axes in names: B trials, T bins, N neurons.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import IntArray, Recording, SpikeData
from ndt_cli.data.write import check_target, write_recording
from ndt_cli.nlb.catalog import Progress
from ndt_cli.nlb.tensors import NlbTensors, make_tensors


def to_recording(tensors: NlbTensors) -> Recording:
    """Return the trials of a benchmark dataset for training.

    Parameters
    ----------
    tensors : NlbTensors

    Returns
    -------
    Recording
        Validation phase: train and validation split, all counts known. Test phase: ``train``
        holds train and validation trials, ``valid`` the test trials, whose held-out and forward
        counts are unknown: nothing may be chosen by them.
    """
    train = _spike_data(tensors, tensors.train_trial_ids, *_train_parts(tensors))
    if tensors.phase == "test":
        valid = scored_inputs(tensors)
    else:
        target = tensors.target or {}
        valid = _spike_data(
            tensors,
            tensors.eval_trial_ids,
            tensors.eval["eval_spikes_heldin"],
            # Not from the target, which in dmfc_rsg is blank before the interval.
            tensors.eval["eval_spikes_heldout"],
            target["eval_spikes_heldin_forward"],
            target["eval_spikes_heldout_forward"],
        )
    source = f"{tensors.key}, {tensors.phase} phase"
    notes = (*tensors.notes, *_missing_notes(tensors))
    return Recording(train, valid, source, "nlb", notes)


def scored_inputs(tensors: NlbTensors) -> SpikeData:
    """Return the scored trials with their held-in counts only.

    Counts of held-out neurons and forward bins are zero, and marked as unknown.
    """
    heldin_BTN = tensors.eval["eval_spikes_heldin"]
    n_trials = len(heldin_BTN)
    shapes = [array.shape[1:] for array in _train_parts(tensors)[1:]]
    blank = [np.zeros((n_trials, *shape), dtype=np.uint8) for shape in shapes]
    return _spike_data(tensors, tensors.eval_trial_ids, heldin_BTN, *blank, known=False)


def _train_parts(tensors: NlbTensors) -> list[NDArray[Any]]:
    parts = ("heldin", "heldout", "heldin_forward", "heldout_forward")
    return [tensors.train[f"train_spikes_{part}"] for part in parts]


def _spike_data(
    tensors: NlbTensors,
    trial_ids_B: IntArray,
    heldin_BTN: NDArray[Any],
    heldout_BTN: NDArray[Any],
    heldin_forward_BTN: NDArray[Any],
    heldout_forward_BTN: NDArray[Any],
    *,
    known: bool = True,
) -> SpikeData:
    window_BTN = np.concatenate([heldin_BTN, heldout_BTN], axis=2)
    forward_BTN = np.concatenate([heldin_forward_BTN, heldout_forward_BTN], axis=2)
    counts_BTN = np.nan_to_num(np.concatenate([window_BTN, forward_BTN], axis=1))
    small = counts_BTN.max(initial=0) <= np.iinfo(np.uint8).max
    return SpikeData(
        spikes_BTN=counts_BTN.astype(np.uint8 if small else np.uint16),
        bin_ms=float(tensors.bin_ms),
        lengths_B=np.full(len(counts_BTN), counts_BTN.shape[1]),
        trial_ids_B=np.asarray(trial_ids_B),
        n_heldout=heldout_BTN.shape[2],
        n_forward=forward_BTN.shape[1],
        hidden_counts_known=known,
    )


def _missing_notes(tensors: NlbTensors) -> tuple[str, ...]:
    n_missing = int(np.isnan(tensors.eval["eval_spikes_heldin"]).any(axis=2).sum())
    if not n_missing:
        return ()
    return (
        f"{n_missing} bins of the scored trials have no recording; their counts are taken as zero.",
    )


# ------------------------------------------------------------------------------------------------
# The spike file.
# ------------------------------------------------------------------------------------------------


def write_spike_file(
    name: str,
    bin_ms: int,
    data_dir: Path | str,
    spikes: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Write the train and validation trials of a dataset as a spike file.

    The same bytes as the file that `ndt_cli.nlb.submit.submit` writes beside its runs: a model
    trained on either can be submitted.

    Parameters
    ----------
    name : str
        Dataset, such as ``"mc_maze"``.
    bin_ms : {5, 20}
        Bin width in milliseconds.
    data_dir : Path or str
        Folder of the NWB files.
    spikes : Path
        File to write, ``.h5`` or ``.npz``.
    overwrite : bool
        Replace an existing file.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Recording
        The trials that were written.

    Raises
    ------
    SettingsError
        If the benchmark has no such dataset or bin width.
    ExistingFileError
        If the file exists and may not be replaced.
    DataError
        If the name ends otherwise, or an NWB file is missing or damaged.
    MissingExtraError
        If nlb_tools or a package it needs is not installed.
    """
    check_target(spikes, overwrite=overwrite)
    recording = to_recording(make_tensors(name, bin_ms, "val", data_dir, progress=progress))
    write_recording(recording, spikes, overwrite=overwrite)
    return recording
