"""Population-based training: the worst members are replaced by perturbed copies of the best.

Jaderberg et al. 2017. Every ``interval`` epochs members are ranked; each member of the worst
quarter takes over weights, optimizer and history of one of the best quarter (exploit), and its
settings, each perturbed or drawn again (explore).

::

    pbt.json                  every copy: after which epoch, which member from which, with what
    members/003/              the member as it is now, an ordinary run folder
    members/003-until-20/     what it was before it was replaced after epoch 20
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from ndt_cli.atomic import write_text_atomic
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint, Origin, Progress
from ndt_cli.engine.inference import run_scores
from ndt_cli.engine.measures import MEASURES, best_checkpoint
from ndt_cli.engine.run_folder import RunFolder, read_record
from ndt_cli.errors import SettingsError
from ndt_cli.jsonable import json_text
from ndt_cli.search.folder import SweepFolder, SweepPlan
from ndt_cli.search.member import Member
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Draw, Space, Value
from ndt_cli.settings.tree import Settings

# Share of the members that is replaced, and from which is copied.
_SHARE = 0.25
# Probability that a setting is drawn again; otherwise it is multiplied by one of these factors.
_AGAIN = 0.25
_FACTORS = (0.8, 1.25)
# What of a network may change while it trains.
_CHANGEABLE = ("model.dropout", "model.context_", "model.full_context")
# What of a run is of its end.
_NOT_COPIED = ("figures", "tensorboard", "*.lock", "member.json", "sessions")


@dataclass(frozen=True)
class Move:
    """After ``epoch``, ``member`` was replaced by a copy of ``source`` with other settings."""

    epoch: int
    member: int
    source: int
    drawn: dict[str, Value]


# Told after each ranking how many epochs were complete, and what was decided.
MovesWatcher = Callable[[int, Sequence[Move]], None]


@dataclass(frozen=True)
class Lineage:
    """Which member was copied from which, up to the last ranking: ``pbt.json`` of a sweep."""

    interval_epochs: int
    last_epoch: int
    moves: tuple[Move, ...]

    @classmethod
    def read(cls, sweep: Path) -> "Lineage | None":
        """Read ``pbt.json``; None if the sweep is not population-based."""
        file = sweep / "pbt.json"
        if not file.is_file():
            return None
        lineage: Lineage = read_record(TypeAdapter(cls), file, "Restore a copy.")
        return lineage


def check_population(plan: SweepPlan, settings: Settings, space: Space) -> None:
    """Refuse a population in which no member would ever be copied, or could not train on."""
    interval, train, fewest = plan.pbt_interval, settings.train, math.ceil(1 / _SHARE)
    if interval is None:
        return
    if plan.members < fewest:
        raise SettingsError(
            f"population-based training needs at least {fewest} members, got {plan.members}",
            f"Use `n_members={fewest}` or more, or leave out `pbt_interval`.",
        )
    given = f"`pbt_interval={interval}`"
    fixed = [
        key
        for key in space.draws
        if key in ("train.optimizer", "train.max_epochs")
        or (key.startswith("model.") and not key.startswith(_CHANGEABLE))
    ]
    if fixed:
        raise SettingsError(
            f"{given}: a copied member keeps its network, optimizer and length, and space "
            f"{space.name} draws {', '.join(fixed)}",
            "Leave them out of the space, or leave out `pbt_interval`.",
        )
    if interval >= train.max_epochs:
        raise SettingsError(
            f"{given}: members train for {train.max_epochs} epochs and would never be ranked",
            "Use a smaller interval, or a larger train.max_epochs.",
        )
    if interval < train.val_interval_epochs:
        raise SettingsError(
            f"{given}: members are ranked by validation, every {train.val_interval_epochs} epochs",
            "Use a larger interval, or a smaller train.val_interval_epochs.",
        )


class PopulationStrategy:
    """A strategy of `loop.Strategy`: trains all members from one ranking to the next."""

    def __init__(
        self,
        folder: SweepFolder,
        results: SweepResults,
        recording: Recording,
        tell_moves: MovesWatcher = lambda epoch, moves: None,
    ) -> None:
        self._folder, self._recording, self._tell_moves = folder, recording, tell_moves
        self._to_do, self._training = results.to_do, set[int]()
        self._waiting: list[Member] = []
        self._until: int | None = None
        assert folder.plan.pbt_interval is not None
        self._lineage = Lineage.read(folder.path) or Lineage(folder.plan.pbt_interval, 0, ())
        if self._to_do:
            self._next_generation()

    def ask(self) -> Member | None:
        if not self._waiting and not self._training and self._until is not None:
            moves = self._moves(self._until)
            self._lineage = replace(
                self._lineage, last_epoch=self._until, moves=(*self._lineage.moves, *moves)
            )
            self._tell_moves(self._until, moves)
            self._next_generation()
        if not self._waiting:
            return None
        member = self._waiting.pop(0)
        self._training.add(member.index)
        return member

    def tell(self, member: MemberResult, results: SweepResults) -> None:
        self._training.discard(member.index)

    def to_stop(self, member: Member) -> str | None:
        return None

    def _next_generation(self) -> None:
        """Make the moves of the last ranking, and prepare training to the next, or to the end."""
        folder, lineage = self._folder, self._lineage
        # Before any move is made: one that is cut off is completed on resuming.
        write_text_atomic(folder.path / "pbt.json", json_text(lineage) + "\n", overwrite=True)
        for move in lineage.moves:
            if move.epoch == lineage.last_epoch:
                _make(folder, move)
        until = lineage.last_epoch + lineage.interval_epochs
        self._until = until if until < folder.settings.train.max_epochs else None
        for index in self._to_do:
            member = replace(folder.member(index), until_epoch=self._until)
            if self._until is None or Progress.of(RunFolder(member.folder)).epoch < self._until:
                self._waiting.append(member)

    def _moves(self, epoch: int) -> list[Move]:
        """Rank the members and choose which is replaced by which, with what settings."""
        folder, choose_by = self._folder, self._folder.settings.train.choose_by
        sign = 1 if MEASURES[choose_by].lower_is_better else -1
        scores = []
        for index in range(folder.n_members):
            run, measured = RunFolder(folder.member_folder(index)), {}
            if run.checkpoint(best_checkpoint(choose_by)).is_file():
                measured = run_scores(run.path, self._recording.valid, folder.settings)
            scores.append(sign * measured.get(choose_by, sign * np.inf))
        order = np.argsort(scores, kind="stable").tolist()
        n_moves = int(_SHARE * len(order))
        rng = np.random.default_rng([folder.plan.seed, epoch])
        moves = []
        for member in order[len(order) - n_moves :]:
            source = int(rng.choice(order[:n_moves]))
            if np.isfinite(scores[source]):
                drawn = explore(folder.drawn(source), folder.space, rng)
                moves.append(Move(epoch, member, source, drawn))
        return moves


def explore(drawn: Mapping[str, Value], space: Space, rng: np.random.Generator) -> dict[str, Value]:
    """Perturb each setting, or draw it again; it stays in its range.

    Those that depend on a choice that has changed are dropped or drawn.
    """
    explored: dict[str, Value] = {}
    for key, draw in space.draws.items():
        if not space.applies(key, explored):
            continue
        if key not in drawn or rng.random() < _AGAIN:
            explored[key] = draw.draw(rng)
        else:
            explored[key] = _nearby(drawn[key], draw, _FACTORS[int(rng.integers(2))])
    return explored


def _nearby(value: Value, draw: Draw, factor: float) -> Value:
    if draw.kind == "choice":
        return value
    low, high = draw.values
    moved: float = float(value) * factor
    if draw.kind == "integer":
        # By at least 1: a small number would be rounded back to itself.
        moved = round(moved) if round(moved) != value else int(value) + (1 if factor > 1 else -1)
    nearby: float = min(max(moved, low), high)
    return nearby


def _make(folder: SweepFolder, move: Move) -> None:
    """Replace a member by a copy of another; a move that was cut off is completed.

    The new folder is complete before the old one is set aside, and the old one is kept.
    """
    now = folder.member_folder(move.member)
    before = now.with_name(f"{now.name}-until-{move.epoch}")
    if before.exists() and now.exists():
        return
    coming = now.with_name(f"{now.name}-coming")
    shutil.rmtree(coming, ignore_errors=True)  # a kill may have left a part of it
    shutil.copytree(
        folder.member_folder(move.source),
        coming,
        ignore=shutil.ignore_patterns(*_NOT_COPIED),
    )
    member, run = folder.member(move.member, move.drawn), RunFolder(coming)
    run.write_settings(member.settings)
    origin = Origin.of(run, member.settings)
    for path in sorted((coming / "checkpoints").glob("*.safetensors")):
        checkpoint = replace(Checkpoint.load(path), origin=origin)
        # The best ones infer with the context that they were trained with.
        if path.stem == "last":
            checkpoint = replace(checkpoint, model_settings=member.settings.model)
        checkpoint.save(path)
    if not before.exists():
        now.rename(before)
    coming.rename(now)
