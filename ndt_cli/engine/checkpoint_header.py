"""The header of a checkpoint: what model it is, and where training stood, as JSON texts."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ndt_cli.data.checks import MAX_COUNT
from ndt_cli.engine.progress import Progress
from ndt_cli.errors import CheckpointError
from ndt_cli.model.network import ModelShape
from ndt_cli.settings.tree import ModelSettings

FORMAT = "ndt-checkpoint"
VERSION = 1

# Far more than can be trained on: a damaged number must not take the machine's memory.
_MOST_BINS, _MOST_NEURONS = 2**17, 2**20


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes
    ----------
    model_settings : ModelSettings
        The ``[model]`` section that the network was built from.
    shape : ModelShape
        Neurons, bins and largest count that it was built for.
    progress : dict
        Where training stood: the fields of `Progress` as plain JSON values.
    """

    model_settings: ModelSettings
    shape: ModelShape
    progress: dict[str, Any]

    def to_text(self) -> dict[str, str]:
        """Return the texts that the file carries."""
        return {
            "format": FORMAT,
            "version": str(VERSION),
            "model_settings": self.model_settings.model_dump_json(),
            "shape": json.dumps(asdict(self.shape)),
            "progress": json.dumps(self.progress, allow_nan=False),
        }


def read_header(path: Path, texts: Mapping[str, str]) -> Header:
    """Read what `Header.to_text` made, and believe nothing of it.

    Raises
    ------
    CheckpointError
        When it is none, of a newer version, or a value is missing, of another type or absurd.
    """
    if texts.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a safetensors file, but not an ndt checkpoint",
            "give the run folder that ndt train wrote",
        )
    version = texts.get("version", "")
    # At most four digits: Python refuses to read a number of thousands of them.
    if not (version.isascii() and version.isdecimal() and len(version) < 5) or (
        int(version) > VERSION
    ):
        raise CheckpointError(
            f"{path}: checkpoint format {version[:9] or 'unknown'}; this ndt reads up to {VERSION}",
            "update ndt-cli",
        )
    try:
        header = Header(
            model_settings=ModelSettings.model_validate_json(texts["model_settings"]),
            shape=TypeAdapter(ModelShape).validate_json(texts["shape"], strict=True),
            progress=_read_progress(texts["progress"]),
        )
        _check_shape(header.shape)
    except (KeyError, ValueError, ValidationError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: its header is damaged ({reason[:300]})",
            "use another checkpoint of the run: --checkpoint last, or best-masked-loss",
        ) from error
    return header


def _read_progress(text: str) -> dict[str, Any]:
    progress = TypeAdapter(Progress).validate_json(text, strict=True)
    best_values = [value for value, _ in progress.best.values()]
    numbers = [progress.loss_total, progress.n_scored, progress.seconds, *best_values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("progress holds a number that is not finite")
    if min(progress.epoch, progress.step, progress.validated_epoch) < 0:
        raise ValueError("progress holds a negative epoch or step")
    return progress.to_json()


def _check_shape(shape: ModelShape) -> None:
    limits = (
        ("n_neurons", 1, _MOST_NEURONS),
        ("n_bins", 1, _MOST_BINS),
        ("max_count", 0, MAX_COUNT),
    )
    for name, least, most in limits:
        if not least <= getattr(shape, name) <= most:
            raise ValueError(f"{name} is {getattr(shape, name)}; expected {least} to {most}")
