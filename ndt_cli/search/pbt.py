"""Population-based training: the worst members go on from the best, with settings changed a little.

Jaderberg et al. 2017. After every so many epochs members are ranked; each of the worst quarter
takes over weights, optimizer and history of one of the best quarter (exploit), and its settings,
each changed or drawn anew (explore).

::

    pbt.json                  every move: after which epoch, who goes on from whom, with what
    members/003/              the member as it is now, an ordinary run folder
    members/003-until-20/     what it was before it was replaced after epoch 20
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ndt_cli.atomic import write_text_atomic
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.search.draws import Choice, Draw, Integer, Value
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.in_turn import outcome_so_far, train_in_turn
from ndt_cli.search.member import Member, MemberTrainer, Outcome, StopRequest
from ndt_cli.search.scoring import lower_is_better, run_scores

# Share of the members that is replaced, and from which is copied.
_SHARE = 0.25
# Chance that a setting is drawn anew; otherwise it goes down or up by this factor.
_ANEW = 0.25
_FACTORS = (0.8, 1.25)


@dataclass(frozen=True)
class Move:
    """A member that goes on from another.

    Parameters
    ----------
    epoch : int
        Epochs that were complete.
    member, source : int
        Who is replaced, and from whom.
    drawn : dict of str to value
        The settings that it goes on with, by dotted name.
    """

    epoch: int
    member: int
    source: int
    drawn: dict[str, Value]


class TrainByGenerations:
    """Population-based training of a sweep's members.

    Parameters
    ----------
    interval_epochs : int
        Epochs between two rankings.
    trainer : callable
        What trains members from one ranking to the next: in turn or together.

    Raises
    ------
    SettingsError
        When the interval is below one epoch.
    """

    def __init__(self, interval_epochs: int, trainer: MemberTrainer = train_in_turn) -> None:
        if interval_epochs < 1:
            raise SettingsError(f"an interval of {interval_epochs} epochs; at least 1 is needed")
        self.interval_epochs = interval_epochs
        self.trainer = trainer

    def __call__(
        self,
        members: Sequence[Member],
        recording: Recording,
        watch: Watcher,
        should_stop: StopRequest,
    ) -> Iterator[Outcome]:
        """Train all members to the end; see `ndt_cli.search.member.MemberTrainer`."""
        folder = SweepFolder.open(members[0].folder.parents[1])
        lineage = Lineage.read(folder.path)
        if lineage is None:
            lineage = Lineage(self.interval_epochs)
            lineage.write(folder.path)
        elif lineage.interval_epochs != self.interval_epochs:
            raise SettingsError(
                f"{folder.path} ranks its members every {lineage.interval_epochs} epochs, not "
                f"every {self.interval_epochs}",
                "leave out --pbt-interval to go on",
            )
        max_epochs = folder.settings.train.max_epochs
        for epoch in range(self.interval_epochs, max_epochs, self.interval_epochs):
            if epoch > lineage.last_epoch:
                if not self._train(folder.members(), epoch, recording, watch, should_stop):
                    return
                lineage = lineage.after(epoch, _moves(folder, epoch, recording))
                lineage.write(folder.path)
            for move in lineage.moves:
                if move.epoch == epoch:
                    _make(folder, move)
        still = {member.index for member in members}
        last = [member for member in folder.members() if member.index in still]
        yield from self.trainer(last, recording, watch, should_stop)

    def _train(
        self,
        members: Sequence[Member],
        epoch: int,
        recording: Recording,
        watch: Watcher,
        should_stop: StopRequest,
    ) -> bool:
        """Train each member to an epoch; return False when asked to stop before."""
        behind = [
            replace(member, until_epoch=epoch)
            for member in members
            if outcome_so_far(member, "interrupted", "").epochs < epoch
        ]
        for member in behind:
            member.drop_false_start()
        n_ended = sum(1 for _ in self.trainer(behind, recording, watch, should_stop))
        return n_ended == len(behind) and not should_stop()


@dataclass(frozen=True)
class Lineage:
    """Every move of a sweep.

    Parameters
    ----------
    interval_epochs : int
        Epochs between two rankings.
    last_epoch : int
        Epochs that were complete at the last ranking; 0 before the first.
    moves : tuple of Move
        In their order.
    """

    interval_epochs: int
    last_epoch: int = 0
    moves: tuple[Move, ...] = ()

    @classmethod
    def read(cls, sweep: Path) -> "Lineage | None":
        """Read ``pbt.json``; None where the sweep is not population-based.

        Raises
        ------
        RunError
            When it is damaged.
        """
        file = sweep / "pbt.json"
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            moves = tuple(Move(**move) for move in content["moves"])
            return cls(int(content["interval_epochs"]), int(content["last_epoch"]), moves)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{file}: not whole ({error!r})",
                "it says who goes on from whom; take it from a copy",
            ) from error

    def after(self, epoch: int, moves: Sequence[Move]) -> "Lineage":
        """Return the lineage with a further ranking."""
        return replace(self, last_epoch=epoch, moves=(*self.moves, *moves))

    def write(self, sweep: Path) -> None:
        """Write ``pbt.json``, before any of its moves is made."""
        content: dict[str, Any] = {
            "interval_epochs": self.interval_epochs,
            "last_epoch": self.last_epoch,
            "moves": [asdict(move) for move in self.moves],
        }
        write_text_atomic(sweep / "pbt.json", json.dumps(content, indent=2) + "\n")


def _moves(folder: SweepFolder, epoch: int, recording: Recording) -> list[Move]:
    """Rank the members and choose who goes on from whom, with what."""
    choose_by = folder.settings.train.choose_by
    sign = 1 if lower_is_better(choose_by) else -1
    scores = []
    with cpu_threads(folder.settings.train.n_threads):
        for member in folder.members():
            if RunFolder(member.folder).checkpoint(f"best-{choose_by}").is_file():
                found = run_scores(member.folder, recording.valid, folder.settings)[choose_by]
                scores.append(sign * found if np.isfinite(found) else np.inf)
            else:
                scores.append(np.inf)
    order = np.argsort(scores, kind="stable").tolist()
    n_moves = int(_SHARE * len(order))
    rng = np.random.default_rng([folder.seed, epoch])
    moves = []
    for member in order[len(order) - n_moves :]:
        source = int(rng.choice(order[:n_moves]))
        if np.isfinite(scores[source]):
            drawn = explore(folder.drawn(source), folder.space.draws, rng)
            moves.append(Move(epoch, member, source, drawn))
    return moves


def explore(
    drawn: dict[str, Value], draws: dict[str, Draw], rng: np.random.Generator
) -> dict[str, Value]:
    """Change each setting a little, or draw it anew; it stays in its range."""
    return {
        key: draws[key].draw(rng)
        if rng.random() < _ANEW
        else _nearby(value, draws[key], _FACTORS[int(rng.integers(2))])
        for key, value in drawn.items()
    }


def _nearby(value: Value, draw: Draw, factor: float) -> Value:
    if isinstance(draw, Choice):
        return value
    moved = float(value) * factor
    if isinstance(draw, Integer):
        # At least by one: a small number would be rounded back to itself.
        step = 1 if factor > 1 else -1
        whole = round(moved) if round(moved) != value else int(value) + step
        return min(max(whole, draw.low), draw.high)
    return min(max(moved, draw.low), draw.high)


def _make(folder: SweepFolder, move: Move) -> None:
    """Let a member go on from another; made or half made before, it is finished.

    The new folder is whole before the old one is set aside, and the old one is kept.
    """
    now = folder.path / "members" / f"{move.member:03d}"
    before = now.with_name(f"{now.name}-until-{move.epoch}")
    if before.exists() and now.exists():
        return
    source = folder.path / "members" / f"{move.source:03d}"
    coming = now.with_name(f"{now.name}-coming")
    # What a kill left of it may be a part.
    shutil.rmtree(coming, ignore_errors=True)
    shutil.copytree(
        source, coming, ignore=shutil.ignore_patterns("figures", "tensorboard", "*.lock")
    )
    member = folder.choose(move.member, move.drawn)
    run = RunFolder(coming)
    run.write_settings(member.settings)
    last = Checkpoint.load(run.checkpoint("last"))
    # A best one stays as its source saved it: it is inferred with the context it was trained with.
    replace(last, model_settings=member.settings.model).save(run.checkpoint("last"))
    if not before.exists():
        now.rename(before)
    coming.rename(now)
