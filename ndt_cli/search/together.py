"""Training the members of a sweep together, as one model with a leading axis of members."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import choose_compute
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.step import Sums
from ndt_cli.engine.together import StepTogether, batch_key, members_that_fit, pays_together
from ndt_cli.engine.trainer import StepRequest, Steps, Trainer, ignore
from ndt_cli.engine.training import computing, earlier_run, new_run
from ndt_cli.errors import SettingsError, TrainingError
from ndt_cli.search.in_turn import outcome_at_end, outcome_so_far
from ndt_cli.search.member import Member, Outcome, StopRequest


class TrainTogether:
    """Trains up to so many members at once; see `ndt_cli.search.member.MemberTrainer`.

    A member gives the result that it gives alone, to rounding, and leaves an ordinary run folder.
    One that ends makes room for the next.

    Parameters
    ----------
    size : int, optional
        Members that train at once. Default: as many as the device's memory holds.

    Raises
    ------
    SettingsError
        When it is below one.
    """

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise SettingsError(f"a population of {size} members; at least 1 is needed")
        self.size = size

    def __call__(
        self,
        members: Sequence[Member],
        recording: Recording,
        watch: Watcher,
        should_stop: StopRequest,
    ) -> Iterator[Outcome]:
        """Train or resume each member."""
        waiting, active, together = deque(members), list[_Running](), StepTogether()
        room = 1  # until the first has told how large it is
        with ExitStack() as closing:
            if members:
                # Members end in any order, and each puts back the threads that it found.
                train = members[0].settings.train
                compute = choose_compute(train)
                closing.enter_context(computing(train, train.n_threads, compute, Ranks()))
            closing.callback(_close_all, active)
            while True:
                while waiting and len(active) < (self.size or room) and not should_stop():
                    # One of them is watched: what all tell at once, no one could read.
                    tell = ignore if active else watch
                    active.append(_Running(waiting.popleft(), recording, tell, should_stop))
                    if self.size is None and room == 1:
                        room = members_that_fit(active[0].trainer)
                for running in [running for running in active if running.outcome is not None]:
                    active.remove(running)
                    running.close()
                    together.forget(running.trainer)
                    if running.outcome is not None:
                        yield running.outcome
                if active:
                    _step(active, together)
                elif not waiting or should_stop():
                    return


def _close_all(active: "Sequence[_Running]") -> None:
    for running in active:
        running.close()


def _step(active: "Sequence[_Running]", together: StepTogether) -> None:
    """Take one step of each, together where they fit."""
    groups: dict[object, list[_Running]] = defaultdict(list)
    for running in active:
        groups[batch_key(running.trainer, running.request)].append(running)
    for group in groups.values():
        trainers = [running.trainer for running in group]
        requests = [running.request for running in group]
        if len(group) > 1 and pays_together(trainers[0], requests[0]):
            sums = together(trainers, requests)
        else:
            sums = [t.take(request) for t, request in zip(trainers, requests, strict=True)]
        for running, its_sums in zip(group, sums, strict=True):
            running.go_on(its_sums)


class _Running:
    """A member that is being trained: its run folder is held, and it asks for a step."""

    def __init__(
        self, member: Member, recording: Recording, watch: Watcher, should_stop: StopRequest
    ) -> None:
        self.member = member
        self.outcome: Outcome | None = None
        self.request: StepRequest
        self._held = ExitStack()
        run = (
            earlier_run(member.folder, (), recording)
            if member.has_begun
            else new_run(member.settings, member.folder, recording)
        )
        self.trainer: Trainer
        self.trainer, n_threads = self._held.enter_context(run)
        self._steps: Steps = self.trainer.steps(n_threads, watch, should_stop, member.until_epoch)
        self._held.callback(self._steps.close)
        self.go_on(None)

    def go_on(self, sums: Sums | None) -> None:
        """Answer the step that was asked for, and wait for the next request or the end."""
        try:
            self.request = next(self._steps) if sums is None else self._steps.send(sums)
        except StopIteration as ended:
            self.outcome = outcome_at_end(self.member, ended.value)
        except TrainingError as error:
            self.outcome = outcome_so_far(self.member, "diverged", error.message)

    def close(self) -> None:
        """Let go of the run folder."""
        self._held.close()
