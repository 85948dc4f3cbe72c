"""Population-based training: the worst members go on from the best, with settings changed a little.

Jaderberg et al. 2017. After every so many epochs members are ranked; each of the worst quarter
takes over weights, optimizer and history of one of the best quarter (exploit), and its settings,
each changed or drawn anew (explore).

::

    pbt.json                  every move: after which epoch, who goes on from whom, with what
    members/003/              the member as it is now, an ordinary run folder
    members/003-until-20/     what it was before it was replaced after epoch 20
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.device import cpu_threads
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import SettingsError
from ndt_cli.search.draws import Choice, Draw, Integer, Value
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.in_turn import outcome_so_far, train_in_turn
from ndt_cli.search.lineage import Lineage, Move, MovesWatcher
from ndt_cli.search.member import Member, MemberTrainer, Outcome, StopRequest
from ndt_cli.search.scoring import lower_is_better, run_scores
from ndt_cli.settings.tree import Settings

# Share of the members that is replaced, and from which is copied.
_SHARE = 0.25
# Chance that a setting is drawn anew; otherwise it goes down or up by this factor.
_ANEW = 0.25
_FACTORS = (0.8, 1.25)


def check_generations(interval_epochs: int, n_members: int, settings: Settings) -> None:
    """Refuse a sweep in which no member would ever go on from another.

    Parameters
    ----------
    interval_epochs : int
        Epochs between two rankings.
    n_members : int
        Members of the sweep.
    settings : Settings
        The sweep's.

    Raises
    ------
    SettingsError
        When a quarter of the members is none, the first ranking comes after the last epoch, or
        members are ranked more often than they validate.
    """
    fewest = math.ceil(1 / _SHARE)
    if n_members < fewest:
        raise SettingsError(
            f"population-based training of {n_members} members: the worst quarter of them is none",
            f"give --members {fewest} or more, or leave out --pbt-interval",
        )
    if interval_epochs >= settings.train.max_epochs:
        raise SettingsError(
            f"--pbt-interval {interval_epochs}: members train for {settings.train.max_epochs} "
            "epochs, and would never be ranked before their end",
            "give a smaller one, or a larger train.max_epochs",
        )
    if interval_epochs < settings.train.val_interval_epochs:
        raise SettingsError(
            f"--pbt-interval {interval_epochs}: members validate every "
            f"{settings.train.val_interval_epochs} epochs, and are ranked by that",
            "give a larger one, or a smaller train.val_interval_epochs",
        )


class TrainByGenerations:
    """Population-based training of a sweep's members.

    Parameters
    ----------
    interval_epochs : int
        Epochs between two rankings.
    trainer : callable
        What trains members from one ranking to the next: in turn or on Ray.
    tell : callable, optional
        Told of each ranking.

    Raises
    ------
    SettingsError
        When the interval is below one epoch.
    """

    def __init__(
        self,
        interval_epochs: int,
        trainer: MemberTrainer = train_in_turn,
        tell: MovesWatcher = lambda epoch, moves: None,
    ) -> None:
        if interval_epochs < 1:
            raise SettingsError(f"an interval of {interval_epochs} epochs; at least 1 is needed")
        self.interval_epochs = interval_epochs
        self.trainer = trainer
        self.tell = tell

    def __call__(
        self,
        members: Sequence[Member],
        recording: Recording,
        watch: Watcher,
        should_stop: StopRequest,
    ) -> Iterator[Outcome]:
        """Train all members to the end; see `ndt_cli.search.member.MemberTrainer`."""
        if not members:
            return
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
                moves = _moves(folder, epoch, recording)
                lineage = lineage.after(epoch, moves)
                lineage.write(folder.path)
                self.tell(epoch, moves)
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
