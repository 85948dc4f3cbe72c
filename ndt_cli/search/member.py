"""A member of a sweep: a run, its training in whatever process, and how it ended."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter

from ndt_cli.engine.checkpoint import Checkpoint, Progress
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.events import EpochDone, Event, Watcher
from ndt_cli.engine.executors import SECONDS_TO_SAVE, Job, StopRequest, Task
from ndt_cli.engine.inference import run_scores
from ndt_cli.engine.measures import ValidationScores, best_checkpoint
from ndt_cli.engine.run_folder import RunFolder, read_record, wait_until_free
from ndt_cli.engine.trainer import Stopped
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import TrainingError
from ndt_cli.search.results import Ended
from ndt_cli.search.space import Value
from ndt_cli.settings.tree import Settings


@dataclass(frozen=True)
class Member(Task):
    """One model of a sweep, to be trained or resumed in its run folder.

    The number of the run with the default settings is below 0. With ``until_epoch``, training is
    interrupted after that epoch.
    """

    index: int
    settings: Settings
    drawn: dict[str, Value]
    until_epoch: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"member {self.index}" if self.index >= 0 else "the default run"

    def end(self, status: Ended, message: str, scores: ValidationScores) -> None:
        """Write ``member.json``: the member has ended."""
        progress = Progress.of(RunFolder(self.folder))
        best = progress.best.get(best_checkpoint(self.settings.train.choose_by))
        content = {
            "status": status,
            "scores": scores,
            "best_epoch": best and best[1],
            "epochs": progress.epoch,
            "seconds": round(progress.seconds, 3),
            "message": message,
            "drawn": self.drawn,
        }
        RunFolder(self.folder).write_json("member.json", content)


def train_member(
    rungs: tuple[int, ...], member: Member, job: Job, watch: Watcher, should_stop: StopRequest
) -> None:
    """Train or resume a member; once it has ended, measure it and write ``member.json``.

    It is also measured after the epochs ``rungs``. An error other than divergence is raised.
    """
    scores = read_rungs(member.folder) if rungs else {}

    def measure(epoch: int) -> None:
        # A member may validate at other epochs than the rest, if that is drawn.
        if any(max(scores, default=0) < rung <= epoch for rung in rungs):
            scores[epoch] = _scores(member, job).get(job.settings.train.choose_by, math.nan)
            content = {str(epoch): score for epoch, score in scores.items()}
            RunFolder(member.folder).write_json("rungs.json", content)

    def tell(event: Event) -> None:
        watch(event)
        if isinstance(event, EpochDone) and "valid_masked_loss" in event.record:
            measure(int(event.record["epoch"]))

    how: dict[str, Any] = {
        "recording": job.recording,
        "watch": tell,
        "should_stop": should_stop,
        "until_epoch": member.until_epoch,
    }
    wait_until_free(member.folder, SECONDS_TO_SAVE)  # for a worker of a killed sweep
    status: Stopped | Ended
    message = ""
    try:
        if (member.folder / "settings.toml").is_file():
            if rungs:  # it may have been killed after the checkpoint, before the score
                measure(_last_validation(member))
            status = "interrupted" if should_stop() else resume(member.folder, **how).stopped
        else:
            status = train(member.settings, out=member.folder, **how).stopped
    except TrainingError as error:
        status, message = "diverged", error.message
    if status == "interrupted":
        message = member.stop_file.read_text("utf-8") if member.stop_file.is_file() else ""
        if not message:  # to be resumed
            return
        status = "stopped"
    member.end(status, message, _scores(member, job))


def _last_validation(member: Member) -> int:
    """Return the epoch of the last validation, if its checkpoint is the last one; else 0."""
    last = RunFolder(member.folder).checkpoint("last")
    if not last.is_file():
        return 0
    progress = Progress.from_json(Checkpoint.load(last).progress)
    is_last = progress.validated_epoch == progress.epoch and not progress.step
    return progress.epoch if is_last else 0


def _scores(member: Member, job: Job) -> ValidationScores:
    """Measure the best checkpoint of a member, if it has one."""
    chosen = best_checkpoint(member.settings.train.choose_by)
    if not RunFolder(member.folder).checkpoint(chosen).is_file():
        return {}
    with cpu_threads(job.settings.train.n_threads):
        return run_scores(member.folder, job.recording.valid, job.settings)


_RUNGS = TypeAdapter(dict[int, FiniteFloat | None])


def read_rungs(run: Path) -> dict[int, float]:
    """Return the scores of a member by epoch, NaN where it had none yet."""
    file = run / "rungs.json"
    content = read_record(_RUNGS, file, "Remove it.") if file.is_file() else {}
    return {epoch: math.nan if score is None else score for epoch, score in content.items()}
