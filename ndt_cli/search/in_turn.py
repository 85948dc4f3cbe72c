"""Training the members of a sweep one after another, in this process."""

from collections.abc import Iterator, Sequence

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Progress
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trainer import TrainResult
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import TrainingError
from ndt_cli.search.member import Member, Outcome, Status, StopRequest


def train_in_turn(
    members: Sequence[Member], recording: Recording, watch: Watcher, should_stop: StopRequest
) -> Iterator[Outcome]:
    """Train or resume each member; see `ndt_cli.search.member.MemberTrainer`."""
    for member in members:
        if should_stop():
            return
        try:
            result = _train(member, recording, watch, should_stop)
        except TrainingError as error:
            yield outcome_so_far(member, "diverged", error.message)
        else:
            yield outcome_at_end(member, result)


def outcome_at_end(member: Member, result: TrainResult) -> Outcome:
    """Return the outcome of a member whose training has come to an end."""
    return Outcome(member.index, result.stopped, result.best, len(result.history), result.seconds)


def outcome_so_far(member: Member, status: Status, message: str) -> Outcome:
    """Return the outcome of a member that ended before its time, as its run folder tells it."""
    progress = Progress()
    for record in RunFolder(member.folder).read_metrics():
        progress.epoch = int(record["epoch"])
        progress.seconds = record["seconds"]
        progress.validated(record)
    return Outcome(member.index, status, progress.best, progress.epoch, progress.seconds, message)


def _train(
    member: Member, recording: Recording, watch: Watcher, should_stop: StopRequest
) -> TrainResult:
    if member.has_begun:
        return resume(
            member.folder,
            recording=recording,
            watch=watch,
            should_stop=should_stop,
            until_epoch=member.until_epoch,
        )
    return train(
        member.settings,
        out=member.folder,
        recording=recording,
        watch=watch,
        should_stop=should_stop,
        until_epoch=member.until_epoch,
    )
