"""The pictures that are written with every run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndt_cli.evaluation import Evaluation
from ndt_cli.report.curves import training_curves
from ndt_cli.report.figures import save_figure
from ndt_cli.report.heatmaps import rate_heatmaps
from ndt_cli.report.rates import rates_over_raster
from ndt_cli.report.scores import per_neuron_scores


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


def typical_trial(evaluation: Evaluation) -> int:
    """Return the trial whose number of spikes per bin is the median one."""
    data = evaluation.data
    per_bin = data.spikes_BTN.sum(axis=(1, 2)) / np.maximum(data.lengths_B, 1)
    return int(per_bin.argsort(kind="stable")[data.n_trials // 2])
