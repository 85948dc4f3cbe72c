"""The figures of a run, and how they are written.

Nothing here opens a window. In a notebook, ``%matplotlib inline`` shows a figure that a cell
returns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ndt_cli.atomic import write_atomic
from ndt_cli.errors import SettingsError
from ndt_cli.report.curves import training_curves
from ndt_cli.report.neurons import per_neuron_scores
from ndt_cli.report.style import styled
from ndt_cli.report.trial import choose_neurons, rate_heatmaps, rates_over_raster, trial_bins

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation

__all__ = [
    "choose_neurons",
    "per_neuron_scores",
    "rate_heatmaps",
    "rates_over_raster",
    "save_figure",
    "training_curves",
]

# What would differ between two writings of the same figure: the date.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@styled
def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, in the format that the file's ending names.

    The same figure gives the same bytes. The file appears whole or not at all; a missing
    folder is made.

    Parameters
    ----------
    figure : Figure
        Any of this project's figures.
    path : Path
        File to write, ending in ``.png`` (200 dots per inch), ``.svg`` or ``.pdf``.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    SettingsError
        Another ending.

    Examples
    --------
    >>> from ndt_cli import evaluate
    >>> found = evaluate("runs/first")
    >>> figure = rate_heatmaps(found.data, found.rates_BTN, found.smoothed_BTN, trial=0)
    >>> save_figure(figure, Path("heatmaps.pdf")).suffix
    '.pdf'
    """
    metadata = _METADATA[check_ending(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(
        path, lambda temporary: figure.savefig(temporary, metadata=metadata), overwrite=True
    )
    return path


def check_ending(path: Path) -> str:
    """Return the ending of a figure's file.

    Raises
    ------
    SettingsError
        When a figure cannot be written so.
    """
    ending = path.suffix.lower()
    if ending not in _METADATA:
        raise SettingsError(
            f"{path}: a figure cannot be written as {ending or 'a file without an ending'!r}.",
            hint=f"End the file's name in one of: {', '.join(_METADATA)}.",
        )
    return ending


# ------------------------------------------------------------------------------------------------
# The pictures that are written with every run.
# ------------------------------------------------------------------------------------------------


def write_run_figures(
    folder: Path, history: Sequence[dict[str, float]], evaluation: "Evaluation", choose_by: str
) -> list[Path]:
    """Draw a run: how it trained, and what it inferred in one trial.

    Parameters
    ----------
    folder : Path
        Where the pictures go.
    history : sequence of dict
        Records of the epochs.
    evaluation : "Evaluation"
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
    evaluation: "Evaluation", trial: int | None = None, neurons: Sequence[int] = ()
) -> Figure:
    """Draw spikes and rates of one trial.

    Parameters
    ----------
    evaluation : "Evaluation"
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


def typical_trial(evaluation: "Evaluation") -> int:
    """Return the trial whose number of spikes per bin is the median one."""
    data = evaluation.data
    per_bin = data.spikes_BTN.sum(axis=(1, 2)) / np.maximum(data.lengths_B, 1)
    return int(per_bin.argsort(kind="stable")[data.n_trials // 2])
