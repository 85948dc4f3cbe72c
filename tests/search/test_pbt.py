"""Population-based training: the worst go on from the best, and nothing of it is lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import recording, same_tensors, tiny_settings

from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import StepDone
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError
from ndt_cli.search import pbt
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.loop import Watching, resume_sweep, sweep
from ndt_cli.search.pbt import Lineage, explore
from ndt_cli.search.space import Draw, Space

SETTINGS = tiny_settings(train={"max_epochs": 5})
SPACE = Space.from_tables(
    "test",
    {
        "train": {"learning_rate": {"log-uniform": [1e-5, 3e-2]}},
        "mask": {"max_span": {"integer": [1, 3]}},
        "model": {"dropout": {"uniform": [0.0, 0.5]}, "context_back": {"integer": [1, 6]}},
    },
)


def _sweep(out, **options):
    return sweep(
        SETTINGS,
        SPACE,
        n_members=4,
        seed=3,
        out=out,
        recording=recording(),
        pbt_interval=2,
        **options,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("pbt") / "whole"
    assert not _sweep(out).interrupted
    return out


def _last(member):
    return Checkpoint.load(RunFolder(member).checkpoint("last"))


def _assert_same(found, expected):
    assert Lineage.read(found) == Lineage.read(expected)
    for member in sorted((expected / "members").glob("[0-9][0-9][0-9]")):
        one, two = _last(member), _last(found / "members" / member.name)
        assert same_tensors(one.model, two.model), member.name
        assert same_tensors(one.optimizer, two.optimizer), member.name


def test_after_each_interval_the_worst_quarter_copies_the_best(whole):
    lineage = Lineage.read(whole)
    assert [move.epoch for move in lineage.moves] == [2, 4]
    for move in lineage.moves:
        assert move.member != move.source
        before = whole / "members" / f"{move.member:03d}-until-{move.epoch}"
        assert RunFolder(before).read_metrics()[-1]["epoch"] == move.epoch  # what it was is kept


def test_a_replaced_member_has_the_history_of_its_source_and_its_own_settings(whole):
    moves = Lineage.read(whole).moves
    folder = SweepFolder.open(whole)
    for move in moves:
        if any(m.epoch > move.epoch and m.member in (move.member, move.source) for m in moves):
            continue
        member, source = (folder.member(i) for i in (move.member, move.source))
        metrics = [RunFolder(m.folder).read_metrics() for m in (member, source)]
        assert metrics[0][: move.epoch] == metrics[1][: move.epoch]
        assert metrics[0][move.epoch :] != metrics[1][move.epoch :]
        assert RunFolder(member.folder).settings() == member.settings
        rate = member.settings.train.learning_rate
        assert rate == move.drawn["train.learning_rate"] != source.settings.train.learning_rate
        assert RunFolder(member.folder).read_metrics()[-1]["learning_rate"] == rate


@pytest.mark.parametrize("key", ["model.n_layers", "train.max_epochs"])
def test_what_a_copy_cannot_take_over_is_not_drawn(tmp_path, key):
    section, name = key.split(".")
    space = Space.from_tables("deep", {section: {name: {"integer": [1, 3]}}})
    with pytest.raises(SettingsError, match=f"keeps its network.* draws {key}"):
        sweep(SETTINGS, space, n_members=4, out=tmp_path, recording=recording(), pbt_interval=2)


def test_each_ranking_is_reported_once_with_its_copies(tmp_path):
    told = []
    watching = Watching(moves=lambda epoch, moves: told.append((epoch, *moves)))
    _sweep(tmp_path / "sweep", watching=watching)
    lineage = Lineage.read(tmp_path / "sweep")
    assert told == [(move.epoch, move) for move in lineage.moves]
    # A sweep that has ended is not ranked again.
    assert not resume_sweep(
        tmp_path / "sweep", recording=recording(), watching=watching
    ).interrupted
    assert len(told) == 2


def test_every_member_is_trained_to_the_end_and_ranked(whole):
    results = SweepFolder.open(whole).results()
    assert [member.epochs for member in results.members] == [5] * 4
    assert len(results.ranked) == 4
    drawn = {m.index: m.drawn for m in results.members}
    final = {move.member: move.drawn for move in Lineage.read(whole).moves}
    assert all(drawn[index] == values for index, values in final.items())


@pytest.mark.parametrize(
    "after", [1, 26, 52, *(pytest.param(n, marks=pytest.mark.slow) for n in (7, 20, 40))]
)
def test_a_search_stopped_anywhere_ends_the_same(whole, tmp_path, after):
    taken = []

    def watch(event):
        if isinstance(event, StepDone):
            taken.append(event)

    out = tmp_path / "halves"
    stopped = _sweep(
        out, watching=Watching(training=watch), should_stop=lambda: len(taken) >= after
    )
    assert stopped.interrupted
    done = resume_sweep(out, recording=recording())
    assert not done.interrupted
    _assert_same(out, whole)


@pytest.mark.parametrize("at", ["copytree", "rename old", "rename new"])
def test_a_search_killed_while_copying_ends_the_same(whole, tmp_path, monkeypatch, at):
    class Killed(BaseException):
        pass

    real_copy, real_rename = shutil.copytree, Path.rename

    def copytree(source, coming, *rest, **options):
        real_copy(source, coming, *rest, **options)
        if at == "copytree" and str(coming).endswith("-coming"):
            (coming / "metrics.jsonl").write_text("half")
            raise Killed

    def rename(self, target):
        if at == ("rename new" if self.name.endswith("-coming") else "rename old"):
            raise Killed
        return real_rename(self, target)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(pbt.shutil, "copytree", copytree)
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            _sweep(out)
    resume_sweep(out, recording=recording())
    _assert_same(out, whole)


def test_exploring_stays_in_range_and_changes_whole_numbers_too():
    draws = {
        "a": Draw("uniform", (0.0, 1.0)),
        "b": Draw("log-uniform", (1e-4, 1e-2)),
        "c": Draw("integer", (1, 7)),
        "d": Draw("choice", ("x", "y")),
    }
    space, rng = Space("test", draws), np.random.default_rng(0)
    drawn = {"a": 0.9, "b": 1.1e-4, "c": 2, "d": "x"}
    seen = {key: set() for key in draws}
    for _ in range(300):
        for key, value in explore(drawn, space, rng).items():
            seen[key].add(value)
    assert min(seen["a"]) >= 0
    assert max(seen["a"]) <= 1
    assert min(seen["b"]) >= 1e-4
    assert {1, 3} <= seen["c"] <= set(range(1, 8))
    assert seen["d"] == {"x", "y"}


@pytest.mark.parametrize(
    "content",
    [
        {"moves": []},
        {"interval_epochs": 2, "last_epoch": 4},
        {"interval_epochs": 2, "last_epoch": float("inf"), "moves": []},
        {"interval_epochs": 2, "last_epoch": 4, "moves": [{"epoch": 2, "member": "a"}]},
        [],
    ],
)
def test_a_damaged_lineage_is_named(content, tmp_path):
    (tmp_path / "pbt.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"pbt\.json"):
        Lineage.read(tmp_path)


def test_a_lineage_comes_back_as_it_was(whole):
    lineage = Lineage.read(whole)
    assert lineage.moves
    assert all(type(move.member) is int for move in lineage.moves)
