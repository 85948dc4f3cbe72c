"""Ensembles: the mean of the rates of several trained models, in one folder that stands alone.

Averaging rates over the best members of a search is how the published ensembles of NDT on the
Neural Latents Benchmark were made. A folder needs none of the runs that it was made of::

    ensemble.json              its members, where they come from, how their number was chosen
    settings.toml, run.json    as in a run: the data, and what the rates are measured with
    smoothing.safetensors      as in a run, if one of the runs has it; so psths.safetensors
    members/000/               a run with one checkpoint: settings.toml, run.json, weights

It appears whole or not at all, and never replaces another.

Axes: B trials, T bins, N neurons, D width of all encoders together.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli import __version__
from ndt_cli.atomic import write_atomic
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.checkpoint import Checkpoint, digest_weights
from ndt_cli.engine.measures import best_checkpoint
from ndt_cli.engine.run_folder import RunFolder, SplitFacts
from ndt_cli.engine.streaming import RateStream
from ndt_cli.engine.trained_model import Float32Array, TrainedModel, refuse_sessions
from ndt_cli.errors import CheckpointError, ExistingFileError, RunError, SettingsError
from ndt_cli.metrics.decoding import Decoder
from ndt_cli.settings.tree import Settings

FILE = "ensemble.json"
FORMAT = "ndt-ensemble"
VERSION = 1


@dataclass(frozen=True)
class Ensemble:
    """Models of the same trials, ready to infer together; a `Model`."""

    run: RunFolder
    checkpoint: str  # of the members; several names if they differ
    settings: Settings  # for the evaluation: the data, and which bins are hidden
    members: tuple[TrainedModel, ...]  # in the order given: of a sweep, best first
    trained_on: SplitFacts

    @staticmethod
    def is_at(path: Path) -> bool:
        """Return whether a folder holds an ensemble."""
        return (path / FILE).is_file()

    @classmethod
    def load(
        cls,
        path: Path,
        checkpoint: str | None = None,
        device: str = "auto",
        *,
        accept_changes: bool = False,
    ) -> "Ensemble":
        """Load an ensemble; see `ndt_cli.engine.inference.load_trained`."""
        folder = RunFolder.open(path)
        about = folder.read_json(FILE)
        members = tuple(
            TrainedModel.load(path / member, None, device, accept_changes=accept_changes)
            for member in _member_folders(path, about)
        )
        held = ", ".join(dict.fromkeys(member.checkpoint for member in members))
        if checkpoint not in (None, held):
            raise CheckpointError(
                f"{path}: it is an ensemble and holds one checkpoint per member: {held}",
                "leave out `checkpoint`, or make an ensemble of other runs",
            )
        return cls(folder, held, folder.settings(), members, members[0].trained_on)

    def check_fits(
        self,
        data: SpikeData,
        source: str,
        *,
        other_neurons: bool = False,
        other_window: bool = False,
    ) -> None:
        """Check that the trials are of the kind that the members were trained on.

        Parameters and errors as in `TrainedModel.check_fits`.
        """
        first = replace(self.members[0], run=self.run)
        first.check_fits(data, source, other_neurons=other_neurons, other_window=other_window)

    @property
    def weights_digest(self) -> str:
        return digest_weights(member.network for member in self.members)

    @property
    def width(self) -> int:
        """Channels of the activations."""
        return sum(member.width for member in self.members)

    def rates(self, data: SpikeData) -> Float32Array:
        """Return the mean of the members' rates from all counts, (B, T, N) in spikes per bin."""
        return self._mean(lambda member: member.rates(data))

    def rates_while_hidden(self, data: SpikeData, fold_BTN: NDArray[np.integer]) -> Float32Array:
        """Return the mean of the members' rates, each inferred while its own count is hidden.

        ``fold_BTN`` has the pass in which an entry is hidden (`hiding_folds`).
        """
        return self._mean(lambda member: member.rates_while_hidden(data, fold_BTN))

    def activations(self, data: SpikeData) -> Float32Array:
        """Return the activations of all encoders side by side, (B, T, D), from all counts."""
        return np.concatenate([member.activations(data) for member in self.members], axis=2)

    def stream(self, *, provisional: bool = False, decoder: Decoder | None = None) -> RateStream:
        """Infer the mean of the members' rates bin by bin; see `TrainedModel.stream`."""
        networks = [(member.network, member.settings.mask) for member in self.members]
        name = str(self.run.path)
        return RateStream(networks, self.trained_on, name, provisional=provisional, decoder=decoder)

    def _mean(self, rates_of: Callable[[TrainedModel], Float32Array]) -> Float32Array:
        total_BTN = rates_of(self.members[0]).astype(np.float64)
        for member in self.members[1:]:
            total_BTN += rates_of(member)
        return (total_BTN / len(self.members)).astype(np.float32)


def _member_folders(path: Path, about: dict[str, Any]) -> list[str]:
    refused = RunError(f"{path / FILE}: it does not describe an ensemble")
    members, version = about.get("members"), about.get("version")
    if about.get("format") != FORMAT or type(version) is not int:
        raise refused
    if version > VERSION:
        raise RunError(
            f"{path / FILE}: ensemble format {version}; this ndt reads up to {VERSION}",
            "update ndt-cli",
        )
    if not isinstance(members, list) or not members:
        raise refused
    folders = [member.get("folder") if isinstance(member, dict) else None for member in members]
    # A file from elsewhere must not lead out of the ensemble's own folder.
    for folder in folders:
        if not isinstance(folder, str) or not _is_inside(folder, path):
            raise RunError(f"{path / FILE}: {folder!r} is not the folder of a member in it")
    return [str(folder) for folder in folders]


def _is_inside(folder: str, path: Path) -> bool:
    try:
        return (path / folder).resolve().is_relative_to(path.resolve())
    except ValueError:  # not a possible file name
        return False


def save_ensemble(
    runs: Sequence[Path],
    out: Path,
    *,
    settings: Settings | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Copy the weights of some runs into one new folder that ``load_trained`` takes.

    Parameters
    ----------
    runs : sequence of Path
        Run folders. Of each the best checkpoint by its ``train.choose_by`` is taken.
    out : Path
        New folder.
    settings : Settings, optional
        What the ensemble's rates are measured with. Default: those of the first run.
    about : mapping, optional
        Further content of ``ensemble.json``, such as how the number of members was chosen.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    SettingsError
        If a run is given twice, or none is.
    RunError, CheckpointError
        If something is at ``out`` already, a run or its checkpoint is missing, or the runs were
        trained on different trials.

    Examples
    --------
    >>> from ndt_cli import load_trained
    >>> runs = [Path("runs/sweep/members/000"), Path("runs/sweep/members/001")]
    >>> ensemble = save_ensemble(runs, Path("runs/both"))
    >>> len(load_trained(ensemble).members)
    2
    """
    if not runs or len({run.resolve() for run in runs}) < len(runs):
        raise SettingsError(
            "an ensemble needs one run or more, each of them once; given were: "
            + (", ".join(map(str, runs)) or "none")
        )
    if out.exists():
        raise ExistingFileError(out, "Choose another folder with `out`.")
    folders = [_member(run) for run in runs]
    _check_same_trials(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        _write(temporary, folders, settings or folders[0].settings(), dict(about or {}))
        try:
            temporary.rename(out)
        except OSError as error:
            if out.exists():  # another process made it meanwhile
                raise ExistingFileError(out, "Choose another folder with `out`.") from error
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return out


def save_ensembles(
    runs: Sequence[Path],
    out: Path,
    *,
    settings: Settings | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Save an ensemble; of runs of several sessions one for each, in ``out`` under its name.

    Parameters and errors as in `save_ensemble`; a RunError also says that runs have other
    sessions.

    Returns
    -------
    list of Path
        The ensembles.
    """
    facts = [RunFolder.open(run).facts().data.train for run in runs]
    names = facts[0].session_names if facts else []
    if not names:
        return [save_ensemble(runs, out, settings=settings, about=about)]
    for run, its in zip(runs, facts, strict=True):
        if its.session_names != names:
            found = ", ".join(its.session_names) or "one without a name"
            raise RunError(
                f"{run} has other sessions than {runs[0]}: {found}; expected {', '.join(names)}",
                "An ensemble of several sessions averages runs of the same ones.",
            )
    if out.exists():
        raise ExistingFileError(out, "Choose another folder with `out`.")
    saved = []
    for name in names:
        of_session = [run / "sessions" / name for run in runs]
        if settings is not None:  # the trials of the session, measured as those of all
            data = RunFolder.open(of_session[0]).settings().data
            settings = settings.model_copy(update={"data": data})
        saved.append(save_ensemble(of_session, out / name, settings=settings, about=about))
    return saved


def _member(run: Path) -> RunFolder:
    if Ensemble.is_at(run):
        raise RunError(f"{run} is an ensemble itself", "give the runs that it was made of")
    folder = RunFolder.open(run)
    refuse_sessions(folder, folder.facts().data.train)
    Checkpoint.load(_best(folder))  # a damaged one is found now
    return folder


def _best(folder: RunFolder) -> Path:
    return folder.checkpoint(best_checkpoint(folder.settings().train.choose_by))


def _check_same_trials(folders: Sequence[RunFolder]) -> None:
    first, *others = [folder.facts().data for folder in folders]
    for folder, data in zip(folders[1:], others, strict=True):
        for split in ("train", "valid"):
            mine, its = getattr(first, split), getattr(data, split)
            key = mine.difference(its)
            if key is not None:
                what = f"{key} is {getattr(its, key)}, not {getattr(mine, key)}"
                if key.endswith("fingerprint"):
                    what = "the true rates differ" if key.startswith("rates") else "counts differ"
                raise RunError(
                    f"{folder.path} was trained on other data than {folders[0].path}: of its "
                    f"{split} trials, {what}",
                    "an ensemble averages models of the same trials in the same bins",
                )


def _write(
    path: Path, folders: Sequence[RunFolder], settings: Settings, about: dict[str, Any]
) -> None:
    members = []
    for number, folder in enumerate(folders):
        name = f"members/{number:03d}"
        kept = [folder.path / "settings.toml", folder.path / "run.json", _best(folder)]
        for source in kept:
            _copy(source, path / name / source.relative_to(folder.path))
        members.append({"folder": name, "from": str(folder.path.absolute())})
    _copy(folders[0].path / "run.json", path / "run.json")
    for name in (folders[0].smoothing.name, folders[0].psths.name):
        stored = [folder.path / name for folder in folders if (folder.path / name).is_file()]
        if stored:  # all runs have the same training trials
            _copy(stored[0], path / name)
    RunFolder(path).write_settings(settings)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "ndt": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **about,
        "members": members,
    }
    RunFolder(path).write_json(FILE, content)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, lambda temporary: shutil.copyfile(source, temporary), overwrite=True)
