"""What Ray Tune tells of its trials while it runs, and how it is told to end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ray.tune import Callback, Stopper


@dataclass(frozen=True)
class Begun:
    """The members of a trial have begun to train, for the first time or again."""

    trial: str


@dataclass(frozen=True)
class Reported:
    """A worker has told something.

    Attributes
    ----------
    trial : str
        Name of the trial.
    report : mapping
        See `ndt_cli.search.ray_worker`.
    """

    trial: str
    report: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Ended:
    """A trial is over: its worker has told all, or Tune has stopped it."""

    trial: str


@dataclass(frozen=True)
class WorkerLost:
    """The worker of a trial died, or failed in a way that nobody foresaw.

    Attributes
    ----------
    trial : str
        Name of the trial.
    reason : str
        What Ray knows of it, in a line.
    for_good : bool
        False where the trial goes on in another worker.
    """

    trial: str
    reason: str
    for_good: bool


@dataclass(frozen=True)
class TuneEnded:
    """All trials are over, or Tune itself has failed.

    Attributes
    ----------
    error : Exception or None
        Why it failed.
    """

    error: Exception | None


TrialNews = Begun | Reported | Ended | WorkerLost
News = TrialNews | TuneEnded


class OfThisProcess:
    """A part of a Tune run that lives in this process; the copy that Tune writes of it is empty.

    Nothing reads that copy: all that a sweep goes on from is in its own folder.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TellTrials(OfThisProcess, Callback):
    """Puts what happens to trials into a queue, from the thread that Tune runs in."""

    def __init__(self, news: "SimpleQueue[News]") -> None:
        super().__init__()
        self._news = news

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._news.put(Begun(trial.trial_id))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._news.put(Reported(trial.trial_id, dict(result)))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._news.put(Ended(trial.trial_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._news.put(WorkerLost(trial.trial_id, _reason(trial), for_good=False))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._news.put(WorkerLost(trial.trial_id, _reason(trial), for_good=True))


class StopWhen(OfThisProcess, Stopper):
    """Ends all trials at once when asked to."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._asked()


def _reason(trial: Any) -> str:
    """Return the sentence of Ray's account that says what happened."""
    if trial.error_file is None:
        return "no reason is known"
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].partition(". ")[0] if lines else "no reason is known"
