"""The folder of a sweep: the one place that reads and writes it, and chooses members from it.

::

    sweep.toml                 the plan: members, seed, sampler, pruner
    base.toml                  the settings that all members share
    space.toml                 what is drawn
    references.json            scores of mean rates and of smoothing
    members/003/               run folders, as ndt train writes them
    members/003/member.json    once a member has ended: how, its scores, and what was drawn for it
    members/003/rungs.json     its score at each epoch at which members are compared
    members/003.stop           asks the process that trains it to save and stop, and says why
    default/                   the run with the shared settings alone
    pbt.json                   population-based training: who was copied from whom
    study.journal              the members as an Optuna study, made again whenever a sweep resumes
    results.json, results.csv  one row per member, ranked; rewritten whenever one ends, never read
    figures/

What is drawn at random for a member can be drawn again from the plan; what a sampler chose from
earlier results stands in the member's own settings.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ndt_cli import __version__
from ndt_cli.atomic import leftovers, remove_leftovers, write_text_atomic
from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import PLACES, Progress
from ndt_cli.engine.ensembles import save_ensembles
from ndt_cli.engine.inference import ensemble_curve
from ndt_cli.engine.measures import MEASURES, ValidationScores
from ndt_cli.engine.preflight import check_same_settings
from ndt_cli.engine.run_folder import RunFolder, read_record
from ndt_cli.errors import RunError, SettingsError, called
from ndt_cli.jsonable import json_text
from ndt_cli.search.member import Member
from ndt_cli.search.results import MemberResult, Status, SweepResults
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

_PLAN = "sweep.toml"
_DAMAGED = "Restore a copy, or start a new sweep."
# Written before the plan, which makes the folder a sweep.
_BEFORE_PLAN = ("base.toml", "space.toml", "members", "figures")
_FOUND = ("references.json", "results.json", "results.csv", "pbt.json")


class SweepPlan(BaseModel):
    """What a sweep does."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    members: int = Field(ge=1, le=10_000)  # settings to draw
    seed: int = Field(ge=0)  # of the draws
    # Members trained with each of the drawn settings, which differ in `train.seed`.
    seeds: int = Field(default=1, ge=1)
    # "tpe": after ten random draws, settings are chosen by what earlier ones scored (Bergstra et
    # al. 2011).
    sampler: Sampler = "random"
    # Stop members that are worse than others after as many epochs: asynchronous successive halving
    # (Li et al. 2020), or Hyperband (Li et al. 2018).
    pruner: Pruner = "none"
    grace_epochs: int | None = Field(default=None, ge=1)  # before a member can be stopped
    # Epochs between two rankings of population-based training (Jaderberg et al. 2017).
    pbt_interval: int | None = Field(default=None, ge=1)
    default_run: bool = False  # also train with the shared settings alone

    @classmethod
    def of(cls, **values: Any) -> "SweepPlan":
        """Return a plan; a SettingsError says which values are not possible."""
        try:
            plan = cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            name = f"n_{name}" if name in ("members", "seeds") else name
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


class _PlanFile(SweepPlan):
    space: str


_MEMBER = TypeAdapter(MemberResult)
_REFERENCES = TypeAdapter(dict[str, ValidationScores])


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk: its folder, the settings that all members share, and what is drawn.

    Members go by number; below 0, the run with the shared settings alone is meant.
    """

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
        try:
            content = parse_config(ConfigSource(str(file), "file", text, file))
            plan = _PlanFile.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
            raise RunError(f"{file}: not the plan of a sweep ({problem})", _DAMAGED) from error
        for needed in ("base.toml", "space.toml"):
            if not (path / needed).is_file():
                raise RunError(f"{path / needed}: no such file", _DAMAGED)
        space = replace(read_space(path / "space.toml", plan.space), name=plan.space)
        return cls(path, load_settings(path / "base.toml"), space, plan)

    def create(self) -> None:
        """Make the folder, which must not exist, or hold only a start that was cut off."""
        if self.path.exists() and not self._is_of_a_start():
            raise RunError(
                f"{self.path} already exists, and sweeps are never overwritten",
                f"Choose another `out`, or resume it: {called('resume_sweep', self.path)}",
            )
        try:
            (self.path / "members").mkdir(parents=True, exist_ok=True)
            (self.path / "figures").mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made ({error.strerror})") from error
        self._write("base.toml", settings_to_toml(self.settings))
        self._write("space.toml", self.space.to_toml())
        self.write_plan()

    def write_plan(self) -> None:
        """Write ``sweep.toml``, which makes the folder a sweep."""
        content = {
            **self.plan.model_dump(exclude_none=True),
            "space": self.space.name,
            "ndt": __version__,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self._write(_PLAN, tomli_w.dumps(content))

    def write_references(self, references: dict[str, ValidationScores]) -> None:
        """Write ``references.json``."""
        self._write("references.json", json_text(references) + "\n")

    def write_results(self, results: SweepResults) -> None:
        """Write ``results.json`` and ``results.csv`` of the members that have ended."""
        ended = replace(results, members=tuple(m for m in results.members if m.has_ended))
        self._write("results.json", json_text(ended.to_json()) + "\n")
        self._write("results.csv", ended.to_csv())

    def remove_leftovers(self) -> None:
        """Remove half-written files of killed processes; only for the process that searches."""
        remove_leftovers(self.path, (*_BEFORE_PLAN, _PLAN, *_FOUND))
        remove_leftovers(self.path / "figures")
        remove_leftovers(self.path / "members")

    def member_folder(self, index: int) -> Path:
        """Return the run folder of a member."""
        return self.path / (f"members/{index:03d}" if index >= 0 else "default")

    def member(self, index: int, drawn: dict[str, Value] | None = None) -> Member:
        """Return a member, with what was drawn for it or, if given, these values."""
        drawn = self.drawn(index) if drawn is None else drawn
        settings = self.space.settings_with(self.settings, drawn, max(index, 0))
        return Member(self.member_folder(index), index, settings, drawn)

    def drawn(self, index: int) -> dict[str, Value]:
        """Return what was drawn for a member; empty if a sampler has not chosen it yet."""
        run = RunFolder(self.member_folder(index))
        if index >= 0 and (run.path / "settings.toml").is_file():
            return self.space.values_in(run.settings())
        if index < 0 or self.plan.sampler != "random":
            return {}
        return self.space.draw(self.plan.seed, index // self.plan.seeds)

    def check_members(self) -> list[int]:
        """Refuse to continue with settings that members were not trained with.

        Returns the members that were trained for more epochs than the others, by hand.
        """
        again = self.plan.sampler == "random" and self.plan.pbt_interval is None
        begun: dict[int, tuple[Settings, Settings]] = {}
        for index in range(-1, self.n_members):
            run = RunFolder(self.member_folder(index))
            if not (run.path / "settings.toml").is_file():
                continue
            drawn = self.drawn(index)
            if index >= 0 and again:
                drawn = self.space.draw(self.plan.seed, index // self.plan.seeds)
            begun[index] = run.settings(), self.member(index, drawn).settings
        longer = [
            i for i, (own, asked) in begun.items() if own.train.max_epochs > asked.train.max_epochs
        ]
        if len(longer) == len(begun):  # rather base.toml was edited
            longer = []
        for index, (own, asked) in begun.items():
            check_same_settings(
                own,
                asked,
                f"{self.member_folder(index)} has other settings",
                f"Put base.toml, space.toml and sweep.toml in {self.path} back as they were, or "
                "start a new sweep.",
                (*PLACES, "train.max_epochs") if index in longer else PLACES,
            )
        return longer

    def result(self, index: int) -> MemberResult:
        """Return what is known of a member."""
        folder = self.member_folder(index)
        file = folder / "member.json"
        progress = Progress.of(RunFolder(folder))
        if file.is_file():
            here = {"index": index, "folder": str(folder)}
            result: MemberResult = read_record(_MEMBER, file, self._hint, **here)
            if result.epochs >= progress.epoch:  # otherwise it was trained further since
                return result
        status: Status = "unfinished" if progress.epoch else "waiting"
        epochs, seconds, drawn = progress.epoch, progress.seconds, self.drawn(index)
        return MemberResult(index, folder, drawn, status, epochs=epochs, seconds=seconds)

    def results(self) -> SweepResults:
        """Return what is known of all members; a RunError names a damaged file."""
        file = self.path / "references.json"
        results = SweepResults(
            self.path,
            self.settings.train.choose_by,
            tuple(self.result(index) for index in range(self.n_members)),
            read_record(_REFERENCES, file, self._hint) if file.is_file() else {},
            self.plan.seeds,
        )
        default = self.result(-1)
        return results.with_member(default) if default.has_ended else results

    @property
    def _hint(self) -> str:
        return f"Remove it; {called('resume_sweep', self.path)} makes it again."

    def _write(self, name: str, text: str) -> None:
        write_text_atomic(self.path / name, text, overwrite=True)

    def _is_of_a_start(self) -> bool:
        if not self.path.is_dir():
            return False
        ours = {self.path / name for name in _BEFORE_PLAN}
        ours |= set(leftovers(self.path, (*_BEFORE_PLAN, _PLAN)))
        nested = (path for path in ours if path.is_dir() and any(path.iterdir()))
        return set(self.path.iterdir()) <= ours and not any(nested)


# Which members make an ensemble, by the validation trials alone -----------------------------------


@dataclass(frozen=True)
class EnsembleChoice:
    """The best ``n_members`` of a sweep's ranked members."""

    sweep: Path
    ranked: list[Path]
    n_members: int
    settings: Settings
    choose_by: str
    # Validation score of the mean rates of the best 1, 2, ... members; empty if their number was
    # given.
    curve: list[float]

    @property
    def runs(self) -> list[Path]:
        """Run folders of the chosen members, best first."""
        return self.ranked[: self.n_members]

    def save(self, out: Path) -> list[Path]:
        """Save the ensemble, or one of each session, as `save_ensembles` does."""
        about = {
            "sweep": str(self.sweep.absolute()),
            "choose_by": self.choose_by,
            "number_chosen": "on validation" if self.curve else "given",
            "validation_curve": self.curve,
        }
        return save_ensembles(self.runs, out, settings=self.settings, about=about)


def choose_members(
    sweep: Path | str, n_members: int | None = None, *, recording: Recording | None = None
) -> EnsembleChoice:
    """Choose the best members of a sweep.

    Parameters
    ----------
    sweep : Path or str
        A sweep's folder; a RunError says if it is none, or no member is ranked yet.
    n_members : int, optional
        How many; a SettingsError says that fewer are ranked. Default: members are added in order
        of rank, and the number whose mean rates score best on the validation trials is kept.
    recording : Recording, optional
        The data of the sweep, if they are in memory already.

    Examples
    --------
    >>> choice = choose_members("runs/sweep")
    >>> len(choice.curve) == len(choice.ranked) == 2
    True
    >>> [ensemble.name for ensemble in choice.save(Path("runs/best"))]
    ['best']
    """
    folder = SweepFolder.open(Path(sweep))
    results = folder.results()
    runs = [member.folder for member in results.ranked]
    others = len(results.members) - len(runs)
    if not runs:
        hint = f"Resume it: {called('resume_sweep', sweep)}"
        raise RunError(f"{sweep}: no member is ranked yet", hint)
    if n_members is not None and not 1 <= n_members <= len(runs):
        more = f"; {others} more have diverged or are not trained" if others else ""
        raise SettingsError(
            f"`n_members={n_members}`: {sweep} has {len(runs)} ranked members{more}",
            f"Ask for at most {len(runs)}.",
        )
    curve: list[float] = []
    if n_members is None:
        data = (recording or load_recording(folder.settings.data)).valid
        curve = ensemble_curve(runs, data, folder.settings)
        best = np.argmin if MEASURES[results.choose_by].lower_is_better else np.argmax
        n_members = int(best(curve)) + 1
    return EnsembleChoice(Path(sweep), runs, n_members, folder.settings, results.choose_by, curve)
