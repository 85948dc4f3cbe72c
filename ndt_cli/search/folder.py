"""The folder of a sweep, and the one place that writes it.

::

    sweep.toml                 how many members, the seed, where settings and space came from
    base.toml                  the settings that all members share, what is drawn aside
    space.toml                 what is drawn
    draws.json                 what a searcher chose for its members, where one did
    members/000/ ...           run folders, as ndt train writes them
    results.json, results.csv  a row a member, ranked; written anew as each member ends
    figures/

Members are drawn anew from these files whenever they are needed, which gives the same values; only
what a searcher chose by the results of others is kept.
"""

import json
import math
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import tomli_w

from ndt_cli import __version__
from ndt_cli.atomic import write_text_atomic
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError, typed
from ndt_cli.search.draws import Value
from ndt_cli.search.find_space import read_space
from ndt_cli.search.member import Member
from ndt_cli.search.results import MemberResult, SweepResults, scores_from_json
from ndt_cli.search.scoring import Scores
from ndt_cli.search.space import Space
from ndt_cli.settings.load import (
    ConfigSource,
    load_settings,
    parse_config,
    read_toml_text,
    settings_to_toml,
)
from ndt_cli.settings.tree import Settings

MOST_MEMBERS = 10_000
"""Members that a sweep may have; all are drawn before the first is trained."""

_PLAN = "sweep.toml"
_CHOSEN = "draws.json"
_DAMAGED = "take it from a copy, or start a new sweep"
# What reading a JSON file of somebody else's can end in.
_NOT_WHOLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk.

    Parameters
    ----------
    path : Path
        Its folder.
    settings : Settings
        What all members share, what is drawn aside.
    space : Space
        What is drawn.
    n_members, seed : int
        How many, and the seed of the draws.

    Raises
    ------
    SettingsError
        For less than one member or more than `MOST_MEMBERS`, or a seed below zero.
    """

    path: Path
    settings: Settings
    space: Space
    n_members: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.n_members <= MOST_MEMBERS:
            raise SettingsError(
                f"a sweep of {self.n_members} members; expected 1 to {MOST_MEMBERS}",
                "give such a number to --members",
            )
        if self.seed < 0:
            raise SettingsError(f"the seed of a sweep is {self.seed}; expected 0 or more")

    @staticmethod
    def is_at(path: Path) -> bool:
        """Tell whether a folder holds a sweep."""
        return (path / _PLAN).is_file()

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """Open the folder of an earlier sweep.

        Raises
        ------
        RunError
            When it is not a sweep's folder, or is damaged.
        SettingsError
            When one of its TOML files is no TOML, or says what it may not.
        """
        if not cls.is_at(path):
            what = f"no {_PLAN} in it" if path.is_dir() else "there is no such folder"
            raise RunError(f"{path} is not a sweep: {what}", "sweeps are in runs/ by default")
        file = path / _PLAN
        text = read_toml_text(file, "the plan of a sweep", _DAMAGED)
        plan = parse_config(ConfigSource(str(file), "file", text, file))
        try:
            n_members, seed, name = int(plan["members"]), int(plan["seed"]), str(plan["space"])
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise RunError(
                f"{file}: expected members, seed and space ({error!r})", _DAMAGED
            ) from error
        for needed in ("base.toml", "space.toml"):
            if not (path / needed).is_file():
                raise RunError(f"{path / needed}: there is no such file", _DAMAGED)
        space = Space(name, read_space(path / "space.toml", name).draws)
        settings = load_settings(path / "base.toml")
        try:
            return cls(path, settings, space, n_members, seed)
        except SettingsError as error:
            raise RunError(f"{file}: {error.message}", _DAMAGED) from error

    def create(self) -> None:
        """Make the folder.

        Raises
        ------
        RunError
            When something is already there, or the folder cannot be made.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(
                f"{self.path} is already there, and sweeps are never overwritten",
                f"give another --out, or go on with it: ndt sweep --resume {typed(self.path)}",
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
        plan = {
            "members": self.n_members,
            "seed": self.seed,
            "space": self.space.name,
            "ndt": __version__,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_text_atomic(self.path / _PLAN, tomli_w.dumps(plan), overwrite=True)

    def members(self) -> list[Member]:
        """Return all members, with their settings.

        Raises
        ------
        SettingsError
            When the settings refuse what was drawn for one of them.
        """
        chosen = self._chosen()
        return [self._member_with(i, self._drawn(i, chosen)) for i in range(self.n_members)]

    def drawn(self, index: int) -> dict[str, Value]:
        """Return what was drawn for a member, by a searcher or else from the sweep's seed."""
        return self._drawn(index, self._chosen())

    def is_chosen(self, index: int) -> bool:
        """Tell whether a searcher has chosen the values of a member."""
        return index in self._chosen()

    def choose(self, index: int, drawn: dict[str, Value]) -> Member:
        """Keep what a searcher chose for a member, and return the member.

        Raises
        ------
        SettingsError
            When the settings refuse it; nothing is kept then.
        """
        member = self._member_with(index, drawn)
        chosen = {str(i): values for i, values in {**self._chosen(), index: drawn}.items()}
        write_text_atomic(self.path / _CHOSEN, json.dumps(chosen, indent=2) + "\n", overwrite=True)
        return member

    def results(self) -> SweepResults:
        """Return what is known of each member.

        Raises
        ------
        RunError
            When ``results.json`` cannot be read.
        """
        file = self.path / "results.json"
        known: dict[int, MemberResult] = {}
        mean_rate: Scores = {}
        if file.is_file():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                mean_rate = scores_from_json(content["mean_rate"])
                results = [MemberResult.from_json(self.path, row) for row in content["members"]]
            except _NOT_WHOLE as error:
                raise RunError(
                    f"{file}: not whole ({error!r})",
                    "remove it: ndt sweep --resume makes it anew from the members",
                ) from error
            known = {result.index: result for result in results}
        chosen = self._chosen()
        members = tuple(known.get(i) or self._unknown(i, chosen) for i in range(self.n_members))
        return SweepResults(self.path, self.settings.train.choose_by, members, mean_rate)

    def write_results(self, results: SweepResults) -> None:
        """Write ``results.json`` and ``results.csv``: the members that have ended."""
        ended = [member for member in results.members if member.index not in results.to_do]
        kept = replace(results, members=tuple(ended))
        text = json.dumps(kept.to_json(), indent=2, allow_nan=False)
        write_text_atomic(self.path / "results.json", text + "\n", overwrite=True)
        write_text_atomic(self.path / "results.csv", kept.to_csv(), overwrite=True)

    def _drawn(self, index: int, chosen: dict[int, dict[str, Value]]) -> dict[str, Value]:
        return chosen.get(index) or self.space.draw(self.seed, index)

    def _unknown(self, index: int, chosen: dict[int, dict[str, Value]]) -> MemberResult:
        folder = self._member(index)
        records = RunFolder(folder).read_metrics()
        seconds = records[-1].get("seconds", 0.0) if records else 0.0
        return MemberResult(
            index=index,
            folder=folder,
            drawn=self._drawn(index, chosen),
            status="unfinished" if records else "waiting",
            scores={},
            epochs=int(records[-1]["epoch"]) if records else 0,
            seconds=seconds if math.isfinite(seconds) else 0.0,
        )

    def _chosen(self) -> dict[int, dict[str, Value]]:
        file = self.path / _CHOSEN
        if not file.is_file():
            return {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            chosen = {int(index): dict(drawn) for index, drawn in content.items()}
            for drawn in chosen.values():
                if not drawn.keys() <= self.space.draws.keys():
                    raise ValueError("a setting that the space does not draw")
            return chosen
        except _NOT_WHOLE as error:
            raise RunError(
                f"{file}: not whole ({error!r})",
                "it says what was chosen for each member; take it from a copy",
            ) from error

    def _member_with(self, index: int, drawn: dict[str, Value]) -> Member:
        settings = self.space.settings_with(self.settings, drawn, index)
        return Member(index, settings, self._member(index))

    def _member(self, index: int) -> Path:
        return self.path / "members" / f"{index:03d}"
