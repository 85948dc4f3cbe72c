"""The run folder: what it holds, and the one place that writes it.

::

    settings.toml          every setting, resolved
    run.json               versions, device, data fingerprint, when and where
    metrics.jsonl          one line an epoch
    summary.json           final scores, once training has ended
    checkpoints/           last, and the best by each validation measure (.safetensors)
    figures/               training curves, rates over rasters
    tensorboard/           events, where asked for
    run.lock               what keeps a second process from training here
    running.json           which process trains here, while one does

A run folder is never overwritten: a new run takes a new folder, and a resumed one goes on in
its own. Files appear whole (`ndt_cli.atomic`), but for the last line of ``metrics.jsonl``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ndt_cli.atomic import leftovers, write_text_atomic
from ndt_cli.engine.records import finite, read_line, to_line
from ndt_cli.engine.run_facts import RunFacts, check_run_facts
from ndt_cli.errors import RunError, typed
from ndt_cli.settings.load import load_settings, settings_to_toml
from ndt_cli.settings.tree import Settings

# Checkpoints by the measure that chose them: name -> (measure, whether lower is better).
BEST = {
    "best-masked-loss": ("valid_masked_loss", True),
    "best-unmasked-loss": ("valid_unmasked_loss", True),
    "best-rate-r2": ("valid_rate_r2", False),
    "best-co-bps": ("valid_co_bps", False),
}
CHECKPOINTS = (*BEST, "last")

LOCK_FILE, HOLDER_FILE = "run.lock", "running.json"
# What a start writes before settings.toml, which makes the folder a run.
_BEFORE_SETTINGS = ("run.json", LOCK_FILE, HOLDER_FILE)


class RunFolder:
    """A run's folder on disk.

    Parameters
    ----------
    path : Path
        The folder. `create` makes a new one; `open` takes one that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        RunError
            When something is already there, or the folder cannot be made.
        """
        self.check_unused()
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            self.figures.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path}: the run folder cannot be made ({error.strerror})"
            ) from error

    def check_unused(self) -> None:
        """Refuse a path where something is, other than a start that was cut off.

        Raises
        ------
        RunError
            When a new run there would overwrite or mix with what is there.
        """
        path = self.path
        if not path.exists():
            return
        temporary = leftovers(path, ("settings.toml", *_BEFORE_SETTINGS))
        if not path.is_dir() or not all(
            _is_of_a_start(p) or p in temporary for p in path.iterdir()
        ):
            raise RunError(
                f"{path} is already there, and runs are never overwritten",
                f"give another --out, or go on with it: ndt train --resume {typed(path)}",
            )

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open the folder of an earlier run.

        Raises
        ------
        RunError
            When it is not a run folder.
        """
        if not (path / "settings.toml").is_file():
            what = "no settings.toml in it" if path.is_dir() else "there is no such folder"
            if path.is_file():
                what = "it is a file"
            raise RunError(f"{path} is not a run folder: {what}", "runs are in runs/ by default")
        return cls(path)

    @property
    def figures(self) -> Path:
        """Folder of the pictures."""
        return self.path / "figures"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    def checkpoint(self, name: str) -> Path:
        """Path of a checkpoint: a name of `CHECKPOINTS`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """Read the run's settings, with some of them changed."""
        return load_settings(self.path / "settings.toml", overrides)

    def write_settings(self, settings: Settings) -> None:
        """Save the resolved settings, with every field."""
        write_text_atomic(self.path / "settings.toml", settings_to_toml(settings))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run; numbers that are not finite become null."""
        text = json.dumps(finite(content), indent=2, allow_nan=False)
        write_text_atomic(self.path / name, text + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises
        ------
        RunError
            When it is missing or not JSON, or ``run.json`` does not say what it should.
        """
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{path} cannot be read: {error}",
                "the file is missing or damaged; put back the one that ndt wrote",
            ) from error
        if not isinstance(content, dict):
            raise RunError(f"{path} does not hold a JSON object")
        if name == "run.json":
            check_run_facts(content, path)
        return content

    def facts(self) -> RunFacts:
        """Return what ``run.json`` says of data, device and packages.

        Raises
        ------
        RunError
            When it is missing, not JSON, or does not say what it should.
        """
        return check_run_facts(self.read_json("run.json"), self.path / "run.json")

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self._metrics.open("a", encoding="utf-8", newline="\n") as file:
            file.write(to_line(record))

    def write_metrics(self, records: Sequence[Mapping[str, float]]) -> None:
        """Write ``metrics.jsonl`` anew."""
        write_text_atomic(self._metrics, "".join(map(to_line, records)))

    def sync_metrics(self) -> None:
        """Wait until ``metrics.jsonl`` is on the disk, where a loss of power spares it."""
        if self._metrics.exists():
            with self._metrics.open("rb+") as file:
                os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, float]]:
        """Read ``metrics.jsonl`` without the lines that hold no record of an epoch.

        A kill may have cut the last line, and a loss of power may have filled it with anything.
        """
        try:
            lines = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        return [record for record in map(read_line, lines) if record is not None]

    def keep_metrics(self, last_epoch: int) -> list[dict[str, float]]:
        """Drop the lines past an epoch, which a resumed run will write again; return the rest."""
        records = [record for record in self.read_metrics() if record["epoch"] <= last_epoch]
        self.write_metrics(records)
        return records

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def is_untrained(self) -> bool:
        """Tell whether no step of the run is on disk: it was cut off as it began."""
        saved = any(self.checkpoint(name).exists() for name in CHECKPOINTS)
        return not saved and not self.read_metrics()

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half written; only for the process that trains."""
        mine = ("settings.toml", "metrics.jsonl", "summary.json", *_BEFORE_SETTINGS)
        for folder, names in (
            (self.path, mine),
            (self.path / "checkpoints", None),
            (self.figures, None),
        ):
            for path in leftovers(folder, names):
                path.unlink(missing_ok=True)


def default_path(name: str, now: datetime | None = None) -> Path:
    """Return a fresh folder name under ``runs``, as ``runs/lorenz-20260131-142500``."""
    stem = f"{name}-{now or datetime.now():%Y%m%d-%H%M%S}"
    path = Path("runs") / stem
    number = 2
    while path.exists():
        path = Path("runs") / f"{stem}-{number}"
        number += 1
    return path


def claim_default_path(name: str) -> Path:
    """Make the folder of `default_path`, which no other process can take then.

    Raises
    ------
    RunError
        When it cannot be made.
    """
    while True:
        path = default_path(name)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():  # what is in the way is `runs` itself
                raise RunError(f"{path}: the run folder cannot be made") from None
        except OSError as error:
            raise RunError(f"{path}: the run folder cannot be made ({error.strerror})") from error
        else:
            return path


def _is_of_a_start(path: Path) -> bool:
    if path.is_dir():
        return path.name in ("checkpoints", "figures") and not any(path.iterdir())
    return path.name in _BEFORE_SETTINGS
