"""Rates from what was trained: a run, or an ensemble of runs.

Axes: B trials, T bins, N neurons.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.ensemble import Ensemble
from ndt_cli.engine.streams import stream_seed
from ndt_cli.engine.trained_model import Float32Array, TrainedModel
from ndt_cli.settings.tree import Settings

__all__ = ["Ensemble", "Float32Array", "TrainedModel", "hiding_folds", "load_trained"]


def load_trained(
    run: Path | str, checkpoint: str | None = None, device: str = "auto"
) -> TrainedModel | Ensemble:
    """Load a model from a run folder, or several from an ensemble's.

    Both infer by the same methods: ``check_fits``, ``rates``, ``rates_while_hidden`` and
    ``activations``.

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

    Raises
    ------
    RunError, CheckpointError
        When there is no such run or checkpoint, or it is damaged.
    DeviceError
        When the device is not there.
    """
    path = Path(run)
    if Ensemble.is_at(path):
        return Ensemble.load(path, checkpoint, device)
    return TrainedModel.load(path, checkpoint, device)


def hiding_folds(data: SpikeData, settings: Settings) -> NDArray[np.int64]:
    """Deal the entries of each trial into folds, so that each can be hidden once.

    A fold hides about ``mask.ratio`` of the entries, of the kind that ``mask.mode`` hides: whole
    bins, whole neurons, or single entries.

    Returns
    -------
    int array that broadcasts to (trials, bins, neurons), values from 0 to the folds less one.
    """
    n_folds = max(2, math.ceil(1 / settings.mask.ratio))
    size = {
        "timestep": (data.n_trials, data.n_bins, 1),
        "timestep-only": (1, data.n_bins, 1),
        "full": data.spikes_BTN.shape,
        "neuron": (data.n_trials, 1, data.n_neurons),
    }[settings.mask.mode]
    rng = np.random.default_rng(stream_seed(settings.train.seed, "evaluation-folds"))
    # Ranks of random numbers, dealt round: folds of a trial differ by one entry at most.
    order = rng.random((size[0], size[1] * size[2])).argsort(axis=1).argsort(axis=1)
    return (order % n_folds).reshape(size)
