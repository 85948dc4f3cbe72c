"""Train, evaluate the best checkpoint and draw, in one call: what ``ndt train`` does."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ndt_cli.across_sessions import activations_of, fit_decoder, save_decoder
from ndt_cli.baselines.smoothing_reference import SmoothingReference
from ndt_cli.data.loading import load_recording, load_sessions
from ndt_cli.data.spike_data import KEPT_BYTES, Recording
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.preflight import load_own_data
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trackers import log_results
from ndt_cli.engine.trainer import TrainResult
from ndt_cli.engine.training import make_session_runs, resume, train
from ndt_cli.evaluation import Evaluation, evaluate, store_references
from ndt_cli.inferred_rates import infer_rates
from ndt_cli.metrics.decoding import variable_names
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
    sessions : dict of str to Evaluation
        Of a run of several sessions, by name; ``evaluation`` is None then.
    """

    training: TrainResult
    evaluation: Evaluation | None
    figures: list[Path]
    sessions: dict[str, Evaluation] = field(default_factory=dict)


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
    ['rates.png', 'heatmaps.png', 'training.png', 'neurons.png']
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
    folder = RunFolder.open(Path(run))
    recording = recording or load_own_data(folder.path, folder.settings(overrides).data)
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
    if recording.train.sessions is not None:
        return _finish_sessions(folder, result, recording, draw=draw)
    if recording.train.behavior_BTV is not None:  # for sessions that start from this run
        model = load_trained(folder.path, accept_changes=accept_changes)
        decoder = fit_decoder([(activations_of(model, recording.train), recording.train)])
        assert decoder is not None
        save_decoder(folder.own_decoder, decoder, recording.train)
    evaluation, figures = _conclude(
        folder, result, recording, draw=draw, accept_changes=accept_changes
    )
    settings = folder.settings()
    if settings.train.tensorboard:
        log_results(folder, settings, final_scores(evaluation), figures, len(result.history))
    return Fit(result, evaluation, figures)


def _conclude(
    folder: RunFolder,
    result: TrainResult,
    recording: Recording,
    *,
    draw: bool,
    accept_changes: bool = False,
) -> tuple[Evaluation, list[Path]]:
    """Evaluate a run of one session, write its rates, draw, and write its summary."""
    if not folder.smoothing.is_file():
        SmoothingReference.fit(recording.train).save(folder.smoothing)
    _log.info("scoring %d validation trials", recording.valid.n_trials)
    evaluation = evaluate(folder.path, recording=recording, accept_changes=accept_changes)
    store_references(evaluation, recording.train)
    rates = infer_rates(folder.path, recording=recording, accept_changes=accept_changes)
    # Larger ones take their time and place only when asked for.
    if 2 * 4 * rates.data.spikes_BTN.size <= KEPT_BYTES:
        write_rates(folder.rates, replace(rates, activations=None), overwrite=True)
    figures = write_run_figures(folder, evaluation) if draw else []
    # Last: it says that the run is complete.
    scores = evaluation.to_json()
    folder.write_json("summary.json", {**_outcome(folder, result), "evaluation": scores})
    return evaluation, figures


def _outcome(folder: RunFolder, result: TrainResult) -> dict[str, Any]:
    return {
        "run": folder.facts().id,
        "stopped": result.stopped,
        "epochs": len(result.history),
        "seconds": result.seconds,
        "best": {name: {"value": v, "epoch": epoch} for name, (v, epoch) in result.best.items()},
    }


def _finish_sessions(
    folder: RunFolder, result: TrainResult, recording: Recording, *, draw: bool
) -> Fit:
    """Make a run folder of each session, and conclude each."""
    alone = load_sessions(folder.settings().data, recording)
    folders = make_session_runs(folder, recording, alone)
    _decode_each_from_the_others(folder, folders, alone)
    evaluations: dict[str, Evaluation] = {}
    figures: list[Path] = []
    for own, session in zip(folders, alone, strict=True):
        evaluations[own.path.name], drawn = _conclude(own, result, session, draw=draw)
        figures += drawn
    scores = {name: evaluation.to_json() for name, evaluation in evaluations.items()}
    folder.write_json("summary.json", {**_outcome(folder, result), "sessions": scores})
    return Fit(result, None, figures, evaluations)


def complete_ensemble(path: Path) -> None:
    """Fit decoders of behavior to the rates of a new ensemble, if its runs have some.

    With them it scores other files without the training trials, as a run does.

    Raises
    ------
    DataError, RunError
        If the file that the runs were trained on cannot be read.
    """
    folder = RunFolder.open(path)
    made_of = [Path(member["from"]) for member in folder.read_json("ensemble.json")["members"]]
    if any(RunFolder(run).decoders.is_file() for run in made_of):
        recording = load_recording(folder.settings().data)
        store_references(evaluate(path, recording=recording), recording.train)


def _decode_each_from_the_others(
    folder: RunFolder, folders: list[RunFolder], recordings: list[Recording]
) -> None:
    """Fit decoders of behavior from activations: of each session, of the others, and of all."""
    trains = [recording.train for recording in recordings]
    if not all(variable_names(train) for train in trains):
        return
    models = [load_trained(own.path) for own in folders]
    sessions = [
        (activations_of(model, train), train) for model, train in zip(models, trains, strict=True)
    ]
    wanted = [(folder.own_decoder, sessions)]
    for own, session in zip(folders, sessions, strict=True):
        wanted.append((own.own_decoder, [session]))
        wanted.append((own.other_decoder, [one for one in sessions if one is not session]))
    for path, some in wanted:
        decoder = fit_decoder(some)
        if decoder is not None:
            save_decoder(path, decoder, some[0][1])
