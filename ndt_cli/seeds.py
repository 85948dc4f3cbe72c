"""Train one model per seed: how much scores differ by chance, and the mean of the models' rates.

The folder of several seeds::

    seeds.json             the seeds
    seeds.toml             the settings that they share
    seed-0/, seed-1/, ...  an ordinary run of each
    ensemble/              the mean of their rates, once all are trained; of several sessions, a
                           folder for each
    summary.json           mean and standard deviation of each score, once all are trained
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.atomic import write_text_atomic
from ndt_cli.data.loading import load_recording, load_sessions
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.ensembles import Ensemble, save_ensemble
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.preflight import check_same_settings, load_own_data
from ndt_cli.engine.run_folder import RunFolder, claim_default_path
from ndt_cli.engine.training import for_trials
from ndt_cli.errors import ExistingFileError, RunError, SettingsError, called
from ndt_cli.evaluation import Evaluation, evaluate, store_references
from ndt_cli.fitting import fit, resume_fit
from ndt_cli.jsonable import jsonable
from ndt_cli.settings.load import load_settings, settings_to_toml
from ndt_cli.settings.tree import Settings
from ndt_cli.verdict import COMPARED, MODEL, SMOOTHED

FILE, SETTINGS_FILE = "seeds.json", "seeds.toml"
FORMAT, VERSION = "ndt-seeds", 1


@dataclass(frozen=True)
class SeedScore:
    """One score of the models of all seeds.

    Attributes
    ----------
    label, unit : str
        What is scored, as in `ndt_cli.verdict.COMPARED`.
    values : tuple of float
        Score of each seed.
    ensemble, smoothing : float
        Score of the models' averaged rates, and of smoothed spikes.
    """

    label: str
    unit: str
    values: tuple[float, ...]
    ensemble: float
    smoothing: float

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float:
        """Standard deviation over seeds, of the sample (n - 1)."""
        return float(np.std(self.values, ddof=1))

    def to_json(self) -> dict[str, Any]:
        """Return the scores and their mean and standard deviation as JSON values."""
        found = {**jsonable(self), "mean": self.mean, "sd": self.sd}
        return {"score": found.pop("label"), **found}


@dataclass(frozen=True, eq=False)
class SeedsFit:
    """What `fit_seeds` returns.

    Attributes
    ----------
    path : Path
        The folder of all seeds.
    runs : list of Path
        The run folder of each seed.
    finished : bool
        False if training was interrupted; then there are no scores.
    scores : list of SeedScore
        Every score that the data allow.
    evaluation : Evaluation or None
        Of the ensemble, on the validation trials.
    sessions : dict of str to SeedsFit
        Of several sessions, by name, with the folder of the session's ensemble as ``path``;
        ``scores`` and ``evaluation`` are those of the sessions then.
    """

    path: Path
    runs: list[Path]
    finished: bool
    scores: list[SeedScore]
    evaluation: Evaluation | None
    sessions: "dict[str, SeedsFit]" = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return folders and scores as JSON values."""
        return {
            "folder": str(self.path),
            "runs": [str(run) for run in self.runs],
            "finished": self.finished,
            "scores": [score.to_json() for score in self.scores],
            "ensemble": None if self.evaluation is None else self.evaluation.to_json(),
            "sessions": {name: found.to_json() for name, found in self.sessions.items()},
        }


def is_seeds_folder(path: Path) -> bool:
    """Return whether a folder holds the runs of several seeds."""
    return (path / FILE).is_file()


def fit_seeds(
    settings: Settings,
    n_seeds: int,
    *,
    out: Path | str | None = None,
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SeedsFit:
    """Train one model per seed, one after another, and average their rates.

    Parameters
    ----------
    settings : Settings
        Of all runs; the seeds count up from ``train.seed``.
    n_seeds : int
        Number of seeds, at least 2.
    out : Path or str, optional
        A new folder. Default: ``runs/<data>-<time>``.
    recording, watch, should_stop
        As for `ndt_cli.fitting.fit`.

    Raises
    ------
    SettingsError
        If there are too few seeds, or several processes train together.
    ExistingFileError
        If the folder exists.
    DataError, RunError, DeviceError, TrainingError
        As `ndt_cli.fitting.fit` does.

    Examples
    --------
    >>> from ndt_cli import fit_seeds, load_settings
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=3"])
    >>> found = fit_seeds(settings, 2, out="runs/seeds")
    >>> [run.name for run in found.runs], found.scores[0].label, len(found.scores[0].values)
    (['seed-0', 'seed-1'], 'hidden bins', 2)
    """
    if n_seeds < 2:
        raise SettingsError(f"`n_seeds={n_seeds}`: expected 2 or more")
    if Ranks.from_environment().world_size > 1:
        raise SettingsError(
            "the models of several seeds are trained one after another by one process, and "
            "several processes were started",
            "Start one process, or train each seed by itself: `train.seed=1`.",
        )
    if settings.train.seed + n_seeds > 2**31:
        raise SettingsError(f"train.seed is {settings.train.seed}: no {n_seeds} seeds follow it")
    if out is not None and Path(out).exists():
        raise ExistingFileError(Path(out), "Choose another folder with `out`.")
    recording = recording or load_recording(settings.data)
    if out is None:
        path = claim_default_path(Path(recording.source).stem)
    else:
        path = Path(out)
        path.mkdir(parents=True)
    seeds = [settings.train.seed + i for i in range(n_seeds)]
    write_text_atomic(path / SETTINGS_FILE, settings_to_toml(settings), overwrite=False)
    # Last: it makes the folder one that can be resumed.
    content = {"format": FORMAT, "version": VERSION, "seeds": seeds}
    RunFolder(path).write_json(FILE, content)
    return _fit_all(path, settings, seeds, recording, watch, should_stop)


def resume_seeds(
    path: Path | str,
    *,
    recording: Recording | None = None,
    watch: Watcher | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SeedsFit:
    """Resume an interrupted `fit_seeds`, with the same result as if it had never stopped.

    Parameters
    ----------
    path : Path or str
        The folder of all seeds.
    recording, watch, should_stop
        As for `ndt_cli.fitting.fit`.

    Raises
    ------
    DataError, RunError, DeviceError, TrainingError
        As `ndt_cli.fitting.resume_fit` does, or if the folder is damaged.

    Examples
    --------
    >>> from ndt_cli import fit_seeds, load_settings, resume_seeds
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=3"])
    >>> fit_seeds(settings, 2, out="runs/seeds", should_stop=lambda: True).finished
    False
    >>> resume_seeds("runs/seeds").finished
    True
    """
    path = Path(path)
    content = RunFolder(path).read_json(FILE)
    seeds = content.get("seeds")
    if (
        content.get("format") != FORMAT
        or content.get("version") != VERSION
        or not isinstance(seeds, list)
        or not all(type(seed) is int for seed in seeds)
        or len(set(seeds)) < max(len(seeds), 2)
    ):
        raise RunError(
            f"{path / FILE}: it does not list the seeds of some runs",
            "The file is damaged, or of a later version of ndt.",
        )
    settings = load_settings(path / SETTINGS_FILE)
    hint = f"Give its new place, as file in the section data of {path / SETTINGS_FILE}."
    recording = recording or load_own_data(path, settings.data, hint)
    return _fit_all(path, settings, seeds, recording, watch, should_stop)


def _fit_all(
    path: Path,
    settings: Settings,
    seeds: list[int],
    recording: Recording,
    watch: Watcher | None,
    should_stop: Callable[[], bool],
) -> SeedsFit:
    """Train what is not trained yet, then average and score."""
    settings = for_trials(settings, recording.train)
    runs = [path / f"seed-{seed}" for seed in seeds]
    for seed, run in zip(seeds, runs, strict=True):
        train = settings.train.model_copy(update={"seed": seed})
        own = settings.model_copy(update={"train": train})
        is_begun = (run / "settings.toml").is_file()
        if is_begun:
            hint = f"Put {path / SETTINGS_FILE} back as it was, or start again in another folder."
            check_same_settings(RunFolder(run).settings(), own, f"{run} has other settings", hint)
        if (run / "summary.json").is_file():
            continue
        if should_stop():
            return SeedsFit(path, runs, False, [], None)
        if is_begun:
            done = resume_fit(run, recording=recording, watch=watch, should_stop=should_stop)
        else:
            done = fit(own, out=run, recording=recording, watch=watch, should_stop=should_stop)
        if done.training.stopped == "interrupted":
            return SeedsFit(path, runs, False, [], None)
    ensemble = path / "ensemble"
    if recording.train.sessions is None:
        result = _averaged(path, ensemble, runs, seeds, recording)
    else:
        names, alone = recording.train.sessions.names, load_sessions(settings.data, recording)
        sessions = {}
        for name, session in zip(names, alone, strict=True):
            members = [run / "sessions" / name for run in runs]
            sessions[name] = _averaged(ensemble / name, ensemble / name, members, seeds, session)
        result = SeedsFit(path, runs, True, [], None, sessions)
    RunFolder(path).write_json("summary.json", result.to_json())
    return result


def _averaged(
    path: Path, ensemble: Path, runs: list[Path], seeds: list[int], recording: Recording
) -> SeedsFit:
    """Average the rates of the runs, and score them."""
    if not Ensemble.is_at(ensemble):
        save_ensemble(runs, ensemble, about={"seeds": seeds})
    evaluation = evaluate(ensemble, recording=recording)
    store_references(evaluation, recording.train)
    return SeedsFit(path, runs, True, _scores(runs, evaluation), evaluation)


def _scores(runs: list[Path], evaluation: Evaluation) -> list[SeedScore]:
    summaries = [_model_scores(run) for run in runs]
    scores = []
    for compared in COMPARED:
        values = tuple(compared.of(summary) for summary in summaries)
        if np.isfinite(values).all():
            averaged, smoothed = (compared.of(evaluation.scores[e]) for e in (MODEL, SMOOTHED))
            scores.append(SeedScore(compared.label, compared.unit, values, averaged, smoothed))
    return scores


def _model_scores(run: Path) -> dict[str, Any]:
    """Return the scores of a finished run's model as its summary has them."""
    found: Any = RunFolder(run).read_json("summary.json")
    for key in ("evaluation", "scores", MODEL):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise RunError(
            f"{run / 'summary.json'}: found no scores of {MODEL}",
            f"Remove the file, and score the run again: {called('resume_seeds', run.parent)}.",
        )
    return found
