"""The training of members in a worker process of Ray.

The worker trains as ``ndt sweep`` does without Ray and writes the same run folders, so a member of
a Ray sweep is the member of any other. What it reports to Ray Tune is the score at each rung, and
how each member ended.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.events import EpochDone, Event, Started
from ndt_cli.errors import NdtError, RunError
from ndt_cli.search.in_turn import train_in_turn
from ndt_cli.search.member import Member, Outcome
from ndt_cli.search.ray_monitor import LineToMonitor, warnings_sent
from ndt_cli.search.ray_rungs import Rung, read_rungs, score_so_far, write_rungs
from ndt_cli.settings.tree import Settings

# Keys of what is reported to Tune.
EPOCH, SCORE, OUTCOME, REFUSAL = "epoch", "score", "outcome", "refusal"


@dataclass(frozen=True)
class Job:
    """What all workers of a sweep need to know.

    Parameters
    ----------
    settings : Settings
        The sweep's, which members are measured by.
    cpus : int
        Threads of a worker.
    rungs : list of int
        Epochs after which members are compared.
    scored : bool
        Whether to report a score at the end.
    """

    settings: Settings
    cpus: int
    rungs: list[int]
    scored: bool


def called(members: Sequence[Member]) -> str:
    """Return what to call members that one worker trains: their numbers."""
    return "+".join(str(member.index) for member in members)


def config_of(members: Sequence[Member]) -> dict[str, Any]:
    """Return members as the config of a trial; `train_members` reads it."""
    return {
        "members": [
            {
                "index": member.index,
                "folder": str(member.folder.resolve()),
                "settings": member.settings.model_dump_json(),
                "until_epoch": member.until_epoch,
            }
            for member in members
        ]
    }


def train_members(config: Mapping[str, Any], recording: Recording, monitor: Any, job: Job) -> None:
    """Train or resume members, as a function that Ray Tune takes.

    Parameters
    ----------
    config : mapping
        From `config_of`.
    recording : Recording
        The sweep's data.
    monitor : actor handle
        See `ndt_cli.search.ray_monitor`.
    job : Job
        The rest.
    """
    members = [
        Member(
            index=row["index"],
            settings=Settings.model_validate_json(row["settings"]),
            folder=Path(row["folder"]),
            until_epoch=row["until_epoch"],
        )
        for row in config["members"]
    ]
    try:
        with cpu_threads(job.cpus), warnings_sent(monitor):
            _train(members, recording, LineToMonitor(monitor, called(members)), job)
    except NdtError as error:
        # Another try would end the same way, so Tune is not to see it fail.
        tune.report({REFUSAL: [type(error).__name__, error.message, error.hint]})


def _train(members: Sequence[Member], recording: Recording, line: LineToMonitor, job: Job) -> None:
    for member in members:
        _check_shared(member)
        member.drop_false_start()
    watch = _Watch(members[0], recording, line, job)
    watch.report_past_rungs()
    left = {member.index: member for member in members}
    for outcome in train_in_turn(members, recording, watch, line):
        member = left.pop(outcome.index)
        tune.report({OUTCOME: asdict(outcome), **_score(member, outcome, recording, job)})
    for index in left:  # they had not begun when the sweep was to stop
        tune.report({OUTCOME: asdict(Outcome(index, "interrupted", {}, 0, 0.0))})


def _check_shared(member: Member) -> None:
    if not member.folder.parent.is_dir():
        raise RunError(
            f"{member.folder.parent} is not there on {platform.node()}, where member "
            f"{member.index} was to train",
            "all machines of the cluster must see the sweep's folder under the same path: give an "
            "--out that they share",
        )


def _score(member: Member, outcome: Outcome, recording: Recording, job: Job) -> dict[str, float]:
    if not job.scored or outcome.status not in ("finished", "early"):
        return {}
    score = score_so_far(member.folder, recording.valid, job.settings)
    return {EPOCH: outcome.epochs, SCORE: score}


class _Watch:
    """Follows a member's training, and reports its score at each rung."""

    def __init__(self, member: Member, recording: Recording, line: LineToMonitor, job: Job) -> None:
        self._member = member
        self._recording = recording
        self._line = line
        self._job = job
        self._passed = read_rungs(member.folder) if job.rungs else []

    def report_past_rungs(self) -> None:
        """Report again what was reported before a kill or an interruption.

        Tune has forgotten it or, where only the worker died, sees that it knows it.
        """
        for rung in self._passed:
            _report(rung)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._line.epoch = event.first_epoch
        if isinstance(event, EpochDone):
            epoch = int(event.record["epoch"])
            self._line.epoch = epoch
            if "valid_masked_loss" in event.record and self._is_rung(epoch):
                self._compare(epoch)

    def _is_rung(self, epoch: int) -> bool:
        if epoch >= self._member.settings.train.max_epochs:
            return False
        # A member may validate at other epochs than the rest, where that is drawn.
        last = self._passed[-1].epoch if self._passed else 0
        return any(last < rung <= epoch for rung in self._job.rungs)

    def _compare(self, epoch: int) -> None:
        score = score_so_far(self._member.folder, self._recording.valid, self._job.settings)
        # Written before it is reported: Tune may end this process there.
        self._passed.append(Rung(epoch, score))
        write_rungs(self._member.folder, self._passed)
        _report(self._passed[-1])


def _report(rung: Rung) -> None:
    tune.report({EPOCH: rung.epoch, SCORE: rung.score})
