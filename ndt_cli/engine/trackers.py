"""Experiment trackers: TensorBoard events of a run, and W&B and MLflow for the runs of a sweep."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import MissingExtraError, SettingsError, nearest
from ndt_cli.settings.explain import plain_values
from ndt_cli.settings.tree import Settings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


# ------------------------------------------------------------------------------------------------
# TensorBoard: a run writes its own events, in its folder
# ------------------------------------------------------------------------------------------------


def require_tensorboard() -> None:
    """Check that TensorBoard is installed, before anything is written."""
    if find_spec("tensorboard") is None:
        raise MissingExtraError(
            "train.tensorboard = true needs TensorBoard, which is not installed",
            'install it with: pip install "ndt-cli[tensorboard]"',
        )


class EventLog:
    """Scalars by epoch; writes nothing when made without a writer."""

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    @classmethod
    def maybe(cls, folder: RunFolder, wanted: bool, first_epoch: int) -> "EventLog":
        """Open a run's log where it is wanted; events past ``first_epoch`` are dropped."""
        if not wanted:
            return cls(None)
        from torch.utils.tensorboard import SummaryWriter

        _wait_for_the_next_second(folder.tensorboard)
        return cls(SummaryWriter(str(folder.tensorboard), purge_step=first_epoch + 1))

    def add(self, record: Mapping[str, float]) -> None:
        """Add the record of an epoch."""
        if self._writer is not None:
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(record["epoch"]))

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def _wait_for_the_next_second(events: Path) -> None:
    """Wait while a file of this second is there.

    TensorBoard reads files in the order of their names, which begin with the second; a resumed
    run's file that sorts before the first one would take its events away.
    """
    now = time.time()
    if any(events.glob(f"events.out.tfevents.{int(now):010d}.*")):
        time.sleep(1 - now % 1)


def log_results(
    folder: RunFolder,
    settings: Settings,
    scores: Mapping[str, float],
    pictures: Sequence[Path],
    epoch: int,
) -> None:
    """Add what a finished run came to: its line on the hyperparameter page, and its pictures.

    Scores that are not finite are left out.
    """
    from matplotlib.image import imread
    from torch.utils.tensorboard import SummaryWriter

    hyperparameters = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in _by_dotted_name(settings).items()
    }
    final = {f"final/{name}": score for name, score in scores.items() if math.isfinite(score)}
    _wait_for_the_next_second(folder.tensorboard)
    with SummaryWriter(str(folder.tensorboard)) as writer:
        # The name "." puts them into the run itself; any other would be a run of its own.
        writer.add_hparams(hyperparameters, final, run_name=".", global_step=epoch)
        for picture in pictures:
            pixels = imread(picture)[:, :, :3]
            writer.add_image(f"figures/{picture.stem}", pixels, epoch, dataformats="HWC")


# ------------------------------------------------------------------------------------------------
# W&B and MLflow: the process that runs a sweep sends all members, wherever they train. It reads
# nothing but the run folders.
# ------------------------------------------------------------------------------------------------


class MemberLogger(Protocol):
    """What an experiment tracker needs to know of a sweep; members go by their number."""

    def begin(self, member: int, settings: Settings) -> None:
        """Take note that a member starts, or resumes, with these settings."""

    def log(self, member: int, epoch: int, measures: Mapping[str, float]) -> None:
        """Take note of the measures of an epoch: the line that ``metrics.jsonl`` got."""

    def end(self, member: int, scores: Mapping[str, float], status: str) -> None:
        """Take note that a member has ended with these scores."""


class WandbLogger:
    """Weights & Biases: one run per member, grouped by the sweep."""

    def __init__(self, sweep: str) -> None:
        self._sweep, self._runs = sweep, dict[int, Any]()

    def begin(self, member: int, settings: Settings) -> None:
        import wandb

        self._runs[member] = wandb.init(
            id=f"{self._sweep}-{member}",
            name=_name(member),
            group=self._sweep,
            config=_by_dotted_name(settings),
            resume="allow",
            reinit="create_new",
        )

    def log(self, member: int, epoch: int, measures: Mapping[str, float]) -> None:
        self._runs[member].log(dict(measures), step=epoch)

    def end(self, member: int, scores: Mapping[str, float], status: str) -> None:
        self._runs[member].summary.update({**scores, "status": status})
        self._runs.pop(member).finish()


class MlflowLogger:
    """MLflow: one run per member, in an experiment named after the sweep."""

    def __init__(self, sweep: str) -> None:
        from mlflow import MlflowClient

        self._client, self._runs = MlflowClient(), dict[int, str]()
        known = self._client.get_experiment_by_name(sweep)
        self._experiment = known.experiment_id if known else self._client.create_experiment(sweep)

    def begin(self, member: int, settings: Settings) -> None:
        run = self._client.create_run(self._experiment, run_name=_name(member))
        self._runs[member] = run.info.run_id
        for key, value in _by_dotted_name(settings).items():
            self._client.log_param(self._runs[member], key, value)

    def log(self, member: int, epoch: int, measures: Mapping[str, float]) -> None:
        for name, value in measures.items():
            self._client.log_metric(self._runs[member], name, value, step=epoch)

    def end(self, member: int, scores: Mapping[str, float], status: str) -> None:
        for name, value in scores.items():
            self._client.log_metric(self._runs[member], f"final-{name}", value)
        self._client.set_tag(self._runs[member], "status", status)
        self._client.set_terminated(self._runs.pop(member))


_LOGGERS: dict[str, Callable[[str], MemberLogger]] = {
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}


def find_logger(name: str, sweep: str) -> MemberLogger:
    """Return a logger by name; a MissingExtraError says which package it lacks."""
    if name not in _LOGGERS:
        close = nearest(name, _LOGGERS)
        hint = f"did you mean {close}?" if close else f"expected {' or '.join(_LOGGERS)}"
        raise SettingsError(f"`logger={name}`: {hint}")
    if find_spec(name) is None:
        raise MissingExtraError(
            f"The logger {name} needs the package {name}, which is not installed.",
            f'Install it with: pip install "ndt-cli[{name}]"',
        )
    return _LOGGERS[name](sweep)


def _name(member: int) -> str:
    return f"member {member}" if member >= 0 else "default run"


def _by_dotted_name(settings: Settings) -> dict[str, Any]:
    sections = plain_values(settings).items()
    return {f"{section}.{key}": values[key] for section, values in sections for key in values}
