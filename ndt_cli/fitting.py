"""Train, evaluate the best checkpoint and draw, in one call: what ``ndt train`` does."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import KEPT_BYTES, Recording
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.tensorboard import log_results
from ndt_cli.engine.trainer import TrainResult
from ndt_cli.engine.training import resume, train
from ndt_cli.evaluation import Evaluation, evaluate
from ndt_cli.inferred_rates import infer_rates
from ndt_cli.metrics.decoding import save_decoders, variable_names
from ndt_cli.rates_file import write_rates
from ndt_cli.report.registry import write_run_figures
from ndt_cli.score_text import final_scores
from ndt_cli.settings.load import Overrides
from ndt_cli.settings.tree import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fit:
    """What `fit` returns.

    Attributes
    ----------
    training : TrainResult
        The run folder, the history, why it stopped.
    evaluation : Evaluation or None
        Scores of the best checkpoint on the validation trials; None if training was interrupted,
        and in every process but the first.
    figures : list of Path
        Figures in the run folder.
    """

    training: TrainResult
    evaluation: Evaluation | None
    figures: list[Path]


def fit(
    settings: Settings,
    *,
    out: Path | str | None = None,
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    draw: bool = True,
) -> Fit:
    """Train, then evaluate on the validation trials, draw, and write the rates of all trials.

    Parameters
    ----------
    settings : Settings
        Settings of the run, from `load_settings`.
    out : Path or str, optional
        A new run folder. Default: ``runs/<data>-<time>``.
    recording : Recording, optional
        The data, if they are in memory already. Default: read as the settings say.
    watch : callable, optional
        Called with each event of the training; see `ndt_cli.engine.events`.
    should_stop : callable
        Asked after each step; training saves and stops when it returns True.
    draw : bool
        Draw the figures of the run.

    Returns
    -------
    Fit

    Raises
    ------
    SettingsError, DataError, RunError, DeviceError, TrainingError
        As `ndt_cli.engine.training.train` and `evaluate` do.

    Examples
    --------
    >>> from ndt_cli import fit, load_settings
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> result = fit(settings, out="runs/new")
    >>> list(result.evaluation.scores)
    ['NDT', 'smoothed spikes', 'mean rate']
    >>> [figure.name for figure in result.figures]
    ['rates.png', 'heatmaps.png', 'training.png']
    """
    recording = recording or load_recording(settings.data)
    result = train(settings, out=out, recording=recording, watch=watch, should_stop=should_stop)
    return _finish(result, recording, draw=draw)


def resume_fit(
    run: Path | str,
    *,
    overrides: Overrides = (),
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    accept_changes: bool = False,
) -> Fit:
    """Resume a run from its last checkpoint, then evaluate and draw.

    Parameters
    ----------
    run : Path or str
        The run folder.
    overrides : sequence of str, or mapping
        Changes to its settings, such as ``"train.max_epochs=200"``; see
        `ndt_cli.engine.training.resume` for those that may change.
    recording, watch, should_stop
        As for `fit`.
    accept_changes : bool
        See `ndt_cli.engine.training.resume`.

    Returns
    -------
    Fit

    Raises
    ------
    SettingsError, DataError, RunError, DeviceError, TrainingError
        As `ndt_cli.engine.training.resume` and `evaluate` do.

    Examples
    --------
    >>> from ndt_cli import load_settings, resume_fit, train
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> result = train(settings, out="runs/new", until_epoch=3)
    >>> resume_fit("runs/new").training.stopped
    'finished'
    """
    recording = recording or load_recording(RunFolder.open(Path(run)).settings().data)
    result = resume(
        run,
        overrides=overrides,
        recording=recording,
        watch=watch,
        should_stop=should_stop,
        accept_changes=accept_changes,
    )
    return _finish(result, recording, accept_changes=accept_changes)


def _finish(
    result: TrainResult, recording: Recording, *, draw: bool = True, accept_changes: bool = False
) -> Fit:
    # Of several processes only the first evaluates and writes.
    if result.stopped == "interrupted" or not Ranks.from_environment().is_first:
        return Fit(result, None, [])
    folder = RunFolder.open(result.run)
    if not folder.smoothing.is_file():
        SmoothingReference.fit(recording.train).save(folder.smoothing)
    _log.info("scoring %d validation trials", recording.valid.n_trials)
    evaluation = evaluate(result.run, recording=recording, accept_changes=accept_changes)
    if evaluation.decoders:
        names = variable_names(evaluation.data)
        save_decoders(folder.decoders, evaluation.decoders, evaluation.checkpoint, names)
    rates = infer_rates(result.run, recording=recording, accept_changes=accept_changes)
    # Larger ones take their time and place only when asked for.
    if 2 * 4 * rates.data.spikes_BTN.size <= KEPT_BYTES:
        write_rates(folder.rates, replace(rates, activations=None), overwrite=True)
    summary = {
        "stopped": result.stopped,
        "epochs": len(result.history),
        "seconds": result.seconds,
        "best": {name: {"value": v, "epoch": epoch} for name, (v, epoch) in result.best.items()},
        "evaluation": evaluation.to_json(),
    }
    folder.write_json("summary.json", summary)
    settings = folder.settings()
    choose_by = settings.train.choose_by
    figures = (
        write_run_figures(folder.figures, result.history, evaluation, choose_by) if draw else []
    )
    if settings.train.tensorboard:
        log_results(folder, settings, final_scores(evaluation), figures, len(result.history))
    return Fit(result, evaluation, figures)
