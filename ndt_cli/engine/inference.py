"""Load a trained model or an ensemble, and choose which entries are hidden to score it.

Axes: B trials, T bins, N neurons.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.loading import load_file, load_recording
from ndt_cli.data.spike_data import IntArray, Recording, SpikeData
from ndt_cli.engine.batches import stream_seed
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.preflight import check_same_data, is_same_data
from ndt_cli.engine.trained_model import Float32Array, Model, TrainedModel
from ndt_cli.errors import DataError
from ndt_cli.settings.tree import Settings

__all__ = [
    "Ensemble",
    "Float32Array",
    "Model",
    "TrainedModel",
    "hiding_folds",
    "load_trained",
    "recording_of",
]


def load_trained(
    run: Path | str,
    checkpoint: str | None = None,
    device: str = "auto",
    *,
    accept_changes: bool = False,
) -> Model:
    """Load the model of a run folder, or the models of an ensemble's folder.

    Both are a `Model`: they infer by the same methods.

    Parameters
    ----------
    run : Path or str
        The folder of a run or of an ensemble.
    checkpoint : str, optional
        ``last``, or ``best-`` and a validation measure. Default: the best by the run's
        ``train.choose_by``. An ensemble holds the one checkpoint of each member that it was made
        of.
    device : str
        As the setting ``train.device``.
    accept_changes : bool
        Warn, instead of refusing, if the checkpoint was saved by another run, or the run's settings
        were changed since.

    Raises
    ------
    RunError, CheckpointError
        If there is no such run or checkpoint, it is damaged, or it is not of this run.
    DeviceError
        If this machine does not have the device.

    Examples
    --------
    >>> from ndt_cli import load_recording
    >>> model = load_trained("runs/first")
    >>> trials = load_recording(model.settings.data).valid
    >>> rates_hz = model.rates(trials) * 1000 / trials.bin_ms
    >>> rates_hz.shape
    (4, 10, 4)
    """
    path = Path(run)
    if Ensemble.is_at(path):
        return Ensemble.load(path, checkpoint, device, accept_changes=accept_changes)
    return TrainedModel.load(path, checkpoint, device, accept_changes=accept_changes)


def recording_of(
    trained: Model,
    data: Path | str | None = None,
    overrides: Sequence[str] = (),
    *,
    accept_changes: bool = False,
) -> tuple[Recording, bool]:
    """Load the trials that a model was trained on, or those of another file.

    Parameters
    ----------
    trained : Model
        From `load_trained`.
    data : Path or str, optional
        A spike file, read with the run's ``[data]`` settings. Default: the run's own.
    overrides : sequence of str
        Changes to those settings.
    accept_changes : bool
        Warn, instead of refusing, if the run's own file holds other trials now.

    Returns
    -------
    recording : Recording
    is_own : bool
        True for the trials of the training, wherever their file is now.

    Raises
    ------
    DataError, SettingsError
        If the file cannot be read.
    RunError
        If the run's own file holds other trials now.
    """
    if data is not None:
        recording = load_file(data, trained.run.settings(overrides).data)
        return recording, is_same_data(trained.run, recording)
    file = trained.settings.data.file
    if file is not None and not Path(file).exists():
        raise DataError(
            f"{file}: the spike file that {trained.run.path} was trained on is not there",
            "Give its new place, or another file of the same neurons: `data='FILE'`.",
        )
    recording = load_recording(trained.settings.data)
    # Other trials would pass for those of the training.
    check_same_data(trained.run, recording, accept_changes=accept_changes)
    return recording, True


def hiding_folds(
    data: SpikeData, settings: Settings, trials: IntArray | None = None
) -> NDArray[np.integer]:
    """Divide the entries of each trial into folds, so that each can be hidden once.

    A fold hides about ``mask.ratio`` of the entries, of the kind that ``mask.mode`` hides: whole
    bins, whole neurons, or single entries. The folds, numbered from 0, broadcast to the counts.
    ``trials`` are positions of some trials, whose folds are the same as among all.

    Examples
    --------
    >>> from ndt_cli import load_recording
    >>> model = load_trained("runs/first")
    >>> trials = load_recording(model.settings.data).valid
    >>> folds_BTN = hiding_folds(trials, model.settings)
    >>> folds_BTN.shape  # whole bins are hidden
    (4, 10, 1)
    >>> np.unique(folds_BTN).tolist()  # a quarter of them at a time
    [0, 1, 2, 3]
    >>> model.rates_while_hidden(trials, folds_BTN).shape
    (4, 10, 4)
    """
    n_folds = max(2, math.ceil(1 / settings.mask.ratio))
    n_bins, n_neurons = {
        "timestep": (data.n_bins, 1),
        "timestep-only": (data.n_bins, 1),
        "full": (data.n_bins, data.n_neurons),
        "neuron": (1, data.n_neurons),
    }[settings.mask.mode]
    rows = range(data.n_trials) if trials is None else trials.tolist()
    if settings.mask.mode == "timestep-only":
        rows = range(1)
    stream = np.random.PCG64(stream_seed(settings.train.seed, "evaluation-folds"))
    rng, n_entries, drawn = np.random.Generator(stream), n_bins * n_neurons, 0
    folds = np.empty((len(rows), n_entries), dtype=np.min_scalar_type(n_folds))
    # Row by row: the random numbers of all take many times the memory of the counts.
    for fold_X, row in zip(folds, rows, strict=True):
        # To where the numbers of this trial begin: each is one step of the stream.
        stream.advance(row * n_entries - drawn)
        drawn = (row + 1) * n_entries
        # Ranks of random numbers, dealt round: folds of a trial differ by one entry at most.
        fold_X[:] = rng.random(n_entries).argsort().argsort() % n_folds
    return folds.reshape(len(rows), n_bins, n_neurons)
