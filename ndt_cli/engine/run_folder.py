"""The run folder: what it holds, and the one place that writes it.

::

    settings.toml          every setting, resolved
    run.json               versions, device, data fingerprint, when and where
    metrics.jsonl          one line an epoch
    summary.json           final scores, once training has ended
    checkpoints/           last, and the best by each validation measure (.safetensors)
    figures/               training curves, rates over rasters
    tensorboard/           events, where asked for

A run folder is never overwritten: a new run takes a new folder, and a resumed one goes on in
its own.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ndt_cli.atomic import write_text_atomic
from ndt_cli.errors import RunError
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
        path = self.path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"{path} is already there, and runs are never overwritten",
                f"give another --out, or go on with it: ndt train --resume {path}",
            )
        try:
            (path / "checkpoints").mkdir(parents=True)
            (path / "figures").mkdir()
        except OSError as error:
            raise RunError(f"{path}: the run folder cannot be made ({error.strerror})") from error

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
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        write_text_atomic(self.path / name, text + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises
        ------
        RunError
            When it is missing or not JSON.
        """
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise RunError(f"{path} does not hold a JSON object")
        return content

    def append_metrics(self, record: Mapping[str, float]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(_finite(record), allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """Read all whole lines of ``metrics.jsonl``; a kill may have cut the last one."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        records = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            # JSON has no NaN: a measure that was not finite stands as null.
            records.append({key: math.nan if v is None else v for key, v in record.items()})
        return records

    def keep_metrics(self, last_epoch: int) -> list[dict[str, float]]:
        """Drop the lines past an epoch, which a resumed run will write again; return the rest."""
        records = [record for record in self.read_metrics() if record["epoch"] <= last_epoch]
        text = "".join(json.dumps(_finite(record)) + "\n" for record in records)
        write_text_atomic(self.path / "metrics.jsonl", text)
        return records


def default_path(name: str, now: datetime | None = None) -> Path:
    """Return a fresh folder name under ``runs``, as ``runs/lorenz-20260131-142500``."""
    stem = f"{name}-{now or datetime.now():%Y%m%d-%H%M%S}"
    path = Path("runs") / stem
    number = 2
    while path.exists():
        path = Path("runs") / f"{stem}-{number}"
        number += 1
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
