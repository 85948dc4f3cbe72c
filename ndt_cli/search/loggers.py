"""Send the members of a sweep to an experiment tracker as they train.

A logger lives in the process that runs the sweep, and reads nothing but the run folders; so it
works wherever members train. TensorBoard needs none: with ``train.tensorboard`` each member writes
its own events, and TensorBoard shows all members of the folder.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from ndt_cli.errors import MissingExtraError, SettingsError, nearest
from ndt_cli.settings.explain import plain_values
from ndt_cli.settings.tree import Settings


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
            config=_flat(settings),
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
        for key, value in _flat(settings).items():
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


def _flat(settings: Settings) -> dict[str, Any]:
    sections = plain_values(settings).items()
    return {f"{section}.{key}": values[key] for section, values in sections for key in values}
