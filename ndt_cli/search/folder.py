"""The folder of a sweep, and the one place that writes it.

::

    sweep.toml                 the plan: members, seed, sampler, pruner
    base.toml                  the settings that all members share
    space.toml                 what is drawn
    study.journal              the Optuna study that samplers and pruners read
    members/000/ ...           run folders, as ndt train writes them
    default/                   the run with the shared settings alone
    pbt.json                   population-based training: who was copied from whom
    results.json, results.csv  one row per member, ranked; rewritten whenever one ends
    figures/

Members are drawn again from these files whenever they are needed, which gives the same values;
what a sampler chose from earlier results stands in the member's own settings.
"""

import json
import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ndt_cli import __version__
from ndt_cli.atomic import write_text_atomic
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError, called
from ndt_cli.jsonable import json_text
from ndt_cli.search.executors import Member
from ndt_cli.search.results import MemberResult, Scores, SweepResults, scores_from_json
from ndt_cli.search.space import Space, Value, read_space
from ndt_cli.settings.load import (
    ConfigSource,
    load_settings,
    parse_config,
    read_toml_text,
    settings_to_toml,
)
from ndt_cli.settings.tree import Settings

Sampler = Literal["random", "tpe"]
Pruner = Literal["none", "halving", "hyperband"]

MOST_MEMBERS = 10_000
"""Members that a sweep may have."""

_PLAN = "sweep.toml"
_DAMAGED = "Restore a copy, or start a new sweep."
_DEFAULT_RUN = -1


class SweepPlan(BaseModel):
    """What a sweep does.

    Parameters
    ----------
    members : int
        Settings to draw.
    seed : int
        Seed of the draws.
    seeds : int
        Members trained with each of the drawn settings, which differ in ``train.seed``.
    sampler : {"random", "tpe"}
        ``"tpe"``: after ten random draws, settings are chosen by what earlier ones scored (Bergstra
        et al. 2011).
    pruner : {"none", "halving", "hyperband"}
        Stop members that are worse than others after as many epochs: asynchronous successive
        halving (Li et al. 2020), or Hyperband (Li et al. 2018).
    grace_epochs : int, optional
        Epochs before a member can be stopped.
    pbt_interval : int, optional
        Population-based training: epochs between two rankings.
    default_run : bool
        Also train with the shared settings alone.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    members: int = Field(ge=1, le=MOST_MEMBERS)
    seed: int = Field(ge=0)
    seeds: int = Field(default=1, ge=1)
    sampler: Sampler = "random"
    pruner: Pruner = "none"
    grace_epochs: int | None = Field(default=None, ge=1)
    pbt_interval: int | None = Field(default=None, ge=1)
    default_run: bool = False

    @classmethod
    def of(cls, **values: Any) -> "SweepPlan":
        """Return a plan; a SettingsError says which values are not possible."""
        try:
            plan = cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            name = {"members": "n_members", "seeds": "n_seeds"}.get(name, name)
            raise SettingsError(f"`{name}={first['input']}`: {first['msg'].lower()}") from error
        if plan.pbt_interval and (plan.sampler, plan.pruner, plan.seeds) != ("random", "none", 1):
            raise SettingsError(
                "population-based training replaces the worse members and changes their settings "
                "itself",
                "Leave out `sampler`, `pruner` and `n_seeds`, or `pbt_interval`.",
            )
        if plan.pruner != "none" and plan.seeds > 1:
            raise SettingsError(
                f"`n_seeds={plan.seeds}` averages members over their whole training, and "
                f"`pruner={plan.pruner}` stops some of them early",
                "Leave out one of them.",
            )
        if plan.grace_epochs is not None and plan.pruner == "none":
            raise SettingsError("`grace_epochs` needs a `pruner`", "Use `pruner=halving`.")
        return plan


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk: its folder, the settings that all members share, and what is drawn."""

    path: Path
    settings: Settings
    space: Space
    plan: SweepPlan

    @property
    def n_members(self) -> int:
        """Members to train: those of all drawn settings and all seeds."""
        return self.plan.members * self.plan.seeds

    @staticmethod
    def is_at(path: Path) -> bool:
        """Tell whether a folder holds a sweep."""
        return (path / _PLAN).is_file()

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """Open the folder of an earlier sweep; a RunError says what is wrong with it."""
        if not cls.is_at(path):
            what = f"no {_PLAN} in it" if path.is_dir() else "no such folder"
            raise RunError(f"{path} is not a sweep: {what}", "Sweeps are in runs/ by default.")
        file = path / _PLAN
        text = read_toml_text(file, "the plan of a sweep", _DAMAGED)
        content = parse_config(ConfigSource(str(file), "file", text, file))
        try:
            plan, name = SweepPlan.model_validate(content), str(content["space"])
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
            raise RunError(f"{file}: not the plan of a sweep ({problem})", _DAMAGED) from error
        except KeyError as error:
            raise RunError(
                f"{file}: not the plan of a sweep ({error} is missing)", _DAMAGED
            ) from error
        for needed in ("base.toml", "space.toml"):
            if not (path / needed).is_file():
                raise RunError(f"{path / needed}: no such file", _DAMAGED)
        space = replace(read_space(path / "space.toml", name), name=name)
        return cls(path, load_settings(path / "base.toml"), space, plan)

    def create(self) -> None:
        """Make the folder, which must not exist."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(
                f"{self.path} already exists, and sweeps are never overwritten",
                f"Choose another `out`, or resume it: {called('resume_sweep', self.path)}",
            )
        try:
            (self.path / "members").mkdir(parents=True)
            (self.path / "figures").mkdir()
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made ({error.strerror})") from error
        write_text_atomic(self.path / "base.toml", settings_to_toml(self.settings), overwrite=True)
        write_text_atomic(self.path / "space.toml", self.space.to_toml(), overwrite=True)
        self.write_plan()

    def write_plan(self) -> None:
        """Write ``sweep.toml``, which makes the folder a sweep."""
        content = {
            **self.plan.model_dump(exclude_none=True),
            "space": self.space.name,
            "ndt": __version__,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_text_atomic(self.path / _PLAN, tomli_w.dumps(content), overwrite=True)

    def member_folder(self, index: int) -> Path:
        """Return the run folder of a member."""
        return self.path / "members" / f"{index:03d}"

    def member(self, index: int, drawn: dict[str, Value] | None = None) -> Member:
        """Return a member, with what was drawn for it or, if given, these values."""
        drawn = self.drawn(index) if drawn is None else drawn
        settings = self.space.settings_with(self.settings, drawn, index)
        return Member(index, settings, self.member_folder(index))

    def members(self) -> list[Member]:
        """Return all members whose settings are known."""
        return [self.member(i) for i in range(self.n_members) if self.drawn(i)]

    def default_run(self) -> Member:
        """Return the run with the settings that all members share, and none drawn."""
        return Member(_DEFAULT_RUN, self.settings, self.path / "default")

    def drawn(self, index: int) -> dict[str, Value]:
        """Return what was drawn for a member; empty if a sampler has not chosen it yet."""
        run = RunFolder(self.member_folder(index))
        if (run.path / "settings.toml").is_file():
            return self.space.values_in(run.settings())
        if self.plan.sampler != "random":
            return {}
        return self.space.draw(self.plan.seed, index // self.plan.seeds)

    def results(self) -> SweepResults:
        """Return what is known of each member; a damaged ``results.json`` is a RunError."""
        file = self.path / "results.json"
        known: dict[int, MemberResult] = {}
        references: dict[str, Scores] = {}
        if file.is_file():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                given = content.get("references") or {"mean rate": content["mean_rate"]}
                references = {str(name): scores_from_json(given[name]) for name in given}
                rows = [MemberResult.from_json(self.path, row) for row in content["members"]]
            # What reading somebody else's JSON file can end in.
            except (
                OSError,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
                RecursionError,
            ) as e:
                raise RunError(
                    f"{file}: damaged ({e!r})",
                    f"Remove it; {called('resume_sweep', self.path)} makes it again from the "
                    "members.",
                ) from e
            known = {row.index: row for row in rows}
        members = tuple(known.get(i) or self._unfinished(i) for i in range(self.n_members))
        choose_by = self.settings.train.choose_by
        return SweepResults(self.path, choose_by, members, references, self.plan.seeds)

    def write_results(self, results: SweepResults) -> None:
        """Write ``results.json`` and ``results.csv``: the members that have ended."""
        to_do = set(results.to_do)
        kept = replace(results, members=tuple(m for m in results.members if m.index not in to_do))
        text = json_text(kept.to_json()) + "\n"
        write_text_atomic(self.path / "results.json", text, overwrite=True)
        write_text_atomic(self.path / "results.csv", kept.to_csv(), overwrite=True)

    def _unfinished(self, index: int) -> MemberResult:
        folder = self.member_folder(index)
        records = RunFolder(folder).read_metrics()
        seconds = records[-1].get("seconds", 0.0) if records else 0.0
        return MemberResult(
            index=index,
            folder=folder,
            drawn=self.drawn(index),
            status="unfinished" if records else "waiting",
            scores={},
            epochs=int(records[-1]["epoch"]) if records else 0,
            seconds=seconds if math.isfinite(seconds) else 0.0,
        )
