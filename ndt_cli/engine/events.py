"""What training tells its caller while it runs; the engine itself prints nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """Training is about to take its first step."""

    run: Path
    compute: str
    n_threads: int
    n_parameters: int
    n_train_trials: int
    n_valid_trials: int
    first_epoch: int
    max_epochs: int
    steps_per_epoch: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StepDone:
    """A step was handed to the device, which may still be at work on it."""

    epoch: int
    step: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch has ended; the record is the line that ``metrics.jsonl`` got."""

    record: dict[str, float]


Event = Started | StepDone | EpochDone
Watcher = Callable[[Event], None]
