"""The pictures that are written with every run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ndt_cli.evaluation import Evaluation
from ndt_cli.report.curves import training_curves
from ndt_cli.report.figures import save_figure
from ndt_cli.report.heatmaps import rate_heatmaps
from ndt_cli.report.rates import rates_over_raster
from ndt_cli.report.scores import per_neuron_scores
from ndt_cli.report.trial import trial_bins


def write_run_figures(
    folder: Path, history: Sequence[dict[str, float]], evaluation: Evaluation, choose_by: str
) -> list[Path]:
    """Draw a run: how it trained, and what it inferred in one trial.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    history : sequence of dict
        Records of the epochs.
    evaluation : Evaluation
        Of the run.
    choose_by : str
        Its setting ``train.choose_by``.

    Returns
    -------
    list of Path
        ``rates.png``, ``heatmaps.png``, ``training.png`` and, where true rates are known and
        change, ``neurons.png``.
    """
    trial = typical_trial(evaluation)
    data, inferred, smoothed = evaluation.data, evaluation.rates_BTN, evaluation.smoothed_BTN
    figures = {
        "rates.png": rates_over_raster(data, inferred, smoothed, trial=trial),
        "heatmaps.png": rate_heatmaps(data, inferred, smoothed, trial=trial),
        "training.png": training_curves(history, choose_by),
    }
    model, smoothing = evaluation.scores["NDT"], evaluation.scores["smoothed spikes"]
    if model.rates is not None and smoothing.rates is not None:
        both_N = np.isfinite(model.rates.r2_N) & np.isfinite(smoothing.rates.r2_N)
        if both_N.any():
            figures["neurons.png"] = per_neuron_scores(model.rates.r2_N, smoothing.rates.r2_N)
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def draw_trial(
    evaluation: Evaluation, trial: int | None = None, neurons: Sequence[int] = ()
) -> Figure:
    """Draw spikes and rates of one trial.

    Parameters
    ----------
    evaluation : Evaluation
        Of the run.
    trial : int, optional
        Default: the `typical_trial`.
    neurons : sequence of int
        Whose rates are drawn, by their places in the file; if none are named, those of
        `rates_over_raster`.

    Raises
    ------
    DataError
        When there is no such trial or neuron.
    """
    trial = typical_trial(evaluation) if trial is None else trial
    trial_bins(evaluation.data, trial)  # refuses one that is not there
    one = evaluation.take(np.array([trial]))  # the rates of all may not fit the memory
    return rates_over_raster(
        one.data, one.rates_BTN, one.smoothed_BTN, trial=0, neurons=list(neurons) or None
    )


def typical_trial(evaluation: Evaluation) -> int:
    """Return the trial whose number of spikes per bin is the median one."""
    data = evaluation.data
    per_bin = data.spikes_BTN.sum(axis=(1, 2)) / np.maximum(data.lengths_B, 1)
    return int(per_bin.argsort(kind="stable")[data.n_trials // 2])
