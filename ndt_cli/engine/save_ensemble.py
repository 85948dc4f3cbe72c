"""Writing an ensemble: one folder that needs none of the runs it was made of.

::

    ensemble.json              its members, where they are from, how their number was chosen
    settings.toml, run.json    as of a run: what the rates are measured with, the data
    members/000/               a run with one checkpoint: settings.toml, run.json, weights

The folder appears whole or not at all, and never replaces another.
"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ndt_cli import __version__
from ndt_cli.atomic import write_atomic
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.ensemble import FILE, FORMAT, VERSION, Ensemble
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.settings.tree import Settings


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
        Run folders, best first. Of each the best checkpoint by its ``train.choose_by`` is taken.
    out : Path
        New folder.
    settings : Settings, optional
        What the ensemble's rates are measured with. Default: those of the first run.
    about : mapping, optional
        More to keep in ``ensemble.json``, such as how the number of members was chosen.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    SettingsError
        When a run is given twice, or none is.
    RunError, CheckpointError
        When something is at ``out`` already, a run or its checkpoint is missing, or the runs were
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
        raise RunError(f"{out} is already there, and nothing is overwritten", "give another --out")
    folders = [_member(run) for run in runs]
    _check_same_trials(folders)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        _write(temporary, folders, settings or folders[0].settings(), dict(about or {}))
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return out


def _member(run: Path) -> RunFolder:
    if Ensemble.is_at(run):
        raise RunError(f"{run} is an ensemble itself", "give the runs that it was made of")
    folder = RunFolder.open(run)
    Checkpoint.load(_best(folder))  # a damaged one is found now
    return folder


def _best(folder: RunFolder) -> Path:
    return folder.checkpoint(f"best-{folder.settings().train.choose_by}")


def _check_same_trials(folders: Sequence[RunFolder]) -> None:
    first, *others = [folder.facts().data for folder in folders]
    for folder, data in zip(folders[1:], others, strict=True):
        for split in ("train", "valid"):
            mine, its = getattr(first, split), getattr(data, split)
            key = mine.difference(its)
            if key is not None:
                raise RunError(
                    f"{folder.path} was trained on other data than {folders[0].path}: of its "
                    f"{split} trials, {key} is {getattr(its, key)}, not {getattr(mine, key)}",
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
    write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))
