"""Load a trained model or an ensemble, and score it on validation trials.

Axes: B trials, T bins, N neurons.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndt_cli.baselines import constant_rates, mean_rate
from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.loading import limit_training, load_file
from ndt_cli.data.sessions import split_sessions, split_trials
from ndt_cli.data.spike_data import IntArray, Recording, SpikeData
from ndt_cli.engine.batches import stream_seed
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.engine.measures import ValidationScores, mean_scores, scores_of_rates
from ndt_cli.engine.preflight import check_same_data, is_same_data, load_own_data
from ndt_cli.engine.trained_model import Float32Array, Model, TrainedModel
from ndt_cli.errors import DataError, SettingsError
from ndt_cli.settings.tree import Settings

__all__ = [
    "Ensemble",
    "Float32Array",
    "Model",
    "TrainedModel",
    "ensemble_curve",
    "hiding_folds",
    "load_trained",
    "recording_of",
    "reference_scores",
    "run_scores",
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
        settings = trained.run.settings(overrides).data
        recording = load_file(data, settings, to_train=False)
        if recording.train.n_trials >= (settings.train_trials or 0):
            as_trained = limit_training(recording, settings)
            if is_same_data(trained.run, as_trained):
                return as_trained, True
        return recording, False
    hint = "Give its new place, or another file of the same neurons: `data='FILE'`."
    recording = load_own_data(trained.run.path, trained.settings.data, hint)
    # Other trials would pass for those of the training.
    check_same_data(trained.run, recording, accept_changes=accept_changes)
    return recording, True


def check_overrides(data: Path | str | None, overrides: Sequence[str]) -> None:
    """Refuse changes of settings that would not be used.

    Raises
    ------
    SettingsError
        If no file is given, which ``overrides`` could change the reading of, or one of them is not
        of the ``[data]`` settings.
    """
    if overrides and data is None:
        raise SettingsError(
            "`overrides` can only change how another file is read, and no file is given",
            "add `data='FILE'`, or train a run with those settings",
        )
    for override in overrides:
        if not override.strip().startswith("data."):
            raise SettingsError(
                f"`{override.strip()}`: the run was trained with its own settings; only those of "
                "[data] can change",
                "such as `data.file_bin_ms=5`",
            )


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


def run_scores(run: Path, data: SpikeData, settings: Settings) -> ValidationScores:
    """Measure the best checkpoint of a run or ensemble on validation trials.

    The settings say which bins are hidden, and are the same for all that are compared. Of several
    sessions, each score is the mean over them.
    """
    sessions, found = split_trials(data), []
    for place, own in enumerate(sessions):
        trained = _load_session(run, data, place, settings.train.device)
        folds_BTN = hiding_folds(own, settings)
        found.append(
            scores_of_rates(own, trained.rates(own), trained.rates_while_hidden(own, folds_BTN))
        )
    return mean_scores(sessions, found)


def _load_session(run: Path, data: SpikeData, place: int, device: str) -> Model:
    """Load the model of the session at ``place``; without sessions, that of the run."""
    if data.sessions is None:
        return load_trained(run, device=device)
    neurons = np.flatnonzero(data.sessions.of_neuron_N == place)
    return TrainedModel.load(run, device=device, session=neurons)


def reference_scores(recording: Recording, settings: Settings) -> dict[str, ValidationScores]:
    """Measure each neuron's mean rate in the training trials, and smoothed spikes.

    The kernel is chosen on the training trials, and held-out neurons are predicted from the
    smoothed held-in ones. Without their counts, smoothing is left out. Of several sessions, each
    score is the mean over them.
    """
    sessions = split_sessions(recording)
    found = [_reference_scores(own, settings) for own in sessions]
    names = [name for name in found[0] if all(name in scores for scores in found)]
    trials = [own.valid for own in sessions]
    return {name: mean_scores(trials, [scores[name] for scores in found]) for name in names}


def _reference_scores(recording: Recording, settings: Settings) -> dict[str, ValidationScores]:
    train, data = recording.train, recording.valid
    mean_BTN = constant_rates(mean_rate(train), data)
    scores = {"mean rate": scores_of_rates(data, mean_BTN, mean_BTN)}
    with suppress(DataError):
        smoothing = SmoothingReference.fit(train)
        seen_BTN = smoothing.rates(data)
        hidden_BTN = smoothing.rates_while_hidden(data, hiding_folds(data, settings))
        heldout = slice(data.n_neurons - data.n_heldout, None)
        hidden_BTN[:, :, heldout] = seen_BTN[:, :, heldout]
        scores["smoothing"] = scores_of_rates(data, seen_BTN, hidden_BTN)
    return scores


def ensemble_curve(runs: Sequence[Path], data: SpikeData, settings: Settings) -> list[float]:
    """Return the score of the mean rates of the first 1, 2, ... runs on validation trials.

    The measure is ``train.choose_by`` of the settings, which also say which bins are hidden. Of
    several sessions, it is the mean over them.
    """
    sessions, curves = split_trials(data), []
    for place, own in enumerate(sessions):
        folds_BTN = hiding_folds(own, settings)
        seen_BTN, hidden_BTN = np.zeros(own.spikes_BTN.shape), np.zeros(own.spikes_BTN.shape)
        curve = []
        for n, run in enumerate(runs, start=1):
            trained = _load_session(run, data, place, settings.train.device)
            # Running means: the rates of all members need not be in memory together.
            seen_BTN += (trained.rates(own) - seen_BTN) / n
            hidden_BTN += (trained.rates_while_hidden(own, folds_BTN) - hidden_BTN) / n
            curve.append(scores_of_rates(own, seen_BTN, hidden_BTN))
        curves.append(curve)
    choose_by = settings.train.choose_by
    return [mean_scores(sessions, scores)[choose_by] for scores in zip(*curves, strict=True)]
