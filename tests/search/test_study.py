"""How a sweep chooses settings, stops members early, and what it makes of seeds and of time."""

import json
import shutil
from dataclasses import replace

import optuna
import pytest
from builders import changed, recording, tiny_settings

from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import SettingsError
from ndt_cli.search import loop, study
from ndt_cli.search.folder import SweepFolder, SweepPlan
from ndt_cli.search.loop import Watching, resume_sweep, sweep
from ndt_cli.search.member import read_rungs
from ndt_cli.search.pbt import Lineage
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Space
from ndt_cli.search.study import importance, importance_caveat, rung_epochs

SETTINGS = tiny_settings(train={"max_epochs": 3})
SPACE = Space.from_tables(
    "test",
    {
        "train": {"learning_rate": {"log-uniform": [1e-4, 1e-2]}},
        "mask": {"ratio": {"uniform": [0.1, 0.4]}, "max_span": {"integer": [1, 3]}},
    },
)


def _data():
    return recording(rates=True)


def _sweep(out, settings=SETTINGS, space=SPACE, **options):
    options = {"n_members": 4, "seed": 5, **options}
    return sweep(settings, space, out=out, recording=_data(), **options)


def _study(out):
    backend = optuna.storages.journal.JournalFileBackend(str(out / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="sweep", storage=storage)


def _drawn(out):
    return [member.drawn for member in SweepFolder.open(out).results().members]


# Samplers


def test_the_study_holds_the_members_with_their_scores(tmp_path):
    results = _sweep(tmp_path / "sweep").results
    trials = _study(tmp_path / "sweep").trials
    assert [trial.params for trial in trials] == [member.drawn for member in results.members]
    assert [trial.value for trial in trials] == [results.score(m) for m in results.members]
    assert [member.drawn for member in results.members] == [SPACE.draw(5, i) for i in range(4)]


def test_tpe_begins_as_a_random_search_and_then_chooses_values_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "N_RANDOM", 3)
    _sweep(tmp_path / "sweep", sampler="tpe", n_members=5)
    drawn = _drawn(tmp_path / "sweep")
    assert drawn[:3] == [SPACE.draw(5, i) for i in range(3)]
    assert all(drawn[i] != SPACE.draw(5, i) for i in (3, 4))
    folder = SweepFolder.open(tmp_path / "sweep")
    for index, values in enumerate(drawn):
        settings = RunFolder(folder.member_folder(index)).settings()
        assert SPACE.values_in(settings) == values
        assert settings.train.seed == index


def test_a_stopped_search_with_tpe_chooses_what_it_would_have_without_the_stop(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(study, "N_RANDOM", 2)
    _sweep(tmp_path / "whole", sampler="tpe")
    ended = []
    watching = Watching(ended=lambda member, results: ended.append(member))
    stopped = _sweep(
        tmp_path / "halves", sampler="tpe", watching=watching, should_stop=lambda: len(ended) == 3
    )
    assert stopped.interrupted
    # A kill has cut the last line that was written.
    journal = tmp_path / "halves" / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "wor')
    resume_sweep(tmp_path / "halves", recording=_data())
    assert _drawn(tmp_path / "halves") == _drawn(tmp_path / "whole")


def test_a_sweep_continues_without_its_lost_study(tmp_path):
    out = tmp_path / "sweep"
    _sweep(out)
    (out / "study.journal").unlink()
    resume_sweep(out, n_members=5, recording=_data())
    assert [trial.params for trial in _study(out).trials] == _drawn(out)


def test_values_that_are_not_possible_together_are_chosen_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "N_RANDOM", 1)
    its = Space.from_tables("test", {"train": {"warmup_epochs": {"integer": [0, 9]}}})
    settings = changed(SETTINGS, "train", schedule="cosine")  # a warm-up below 3
    done = _sweep(tmp_path / "sweep", settings, its, sampler="tpe", seed=11)
    assert [member.status for member in done.results.members] == ["finished"] * 4
    assert all(member.drawn["train.warmup_epochs"] < 3 for member in done.results.members)


# Settings that depend on others


def test_a_setting_is_drawn_only_where_its_condition_holds(tmp_path):
    its = Space.from_tables(
        "test",
        {
            "train": {
                "schedule": {"choice": ["constant", "cosine"]},
                "warmup_epochs": {"integer": [1, 2], "when": {"train.schedule": ["cosine"]}},
            }
        },
    )
    done = _sweep(tmp_path / "sweep", space=its, n_members=6)
    kinds = set()
    for member in done.results.members:
        cosine = member.drawn["train.schedule"] == "cosine"
        kinds.add(cosine)
        assert ("train.warmup_epochs" in member.drawn) == cosine
        settings = RunFolder(member.folder).settings()
        expected = member.drawn.get("train.warmup_epochs", SETTINGS.train.warmup_epochs)
        assert settings.train.warmup_epochs == expected
    assert kinds == {True, False}
    (tmp_path / "mine.toml").write_text(its.to_toml())
    assert loop.SweepFolder.open(tmp_path / "sweep").space.conditions == its.conditions


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"train.schedule": ["linear"]}, "expected one of"),
        ({"train.learning_rate": [0.1]}, "a choice that is drawn before it"),
        ("cosine", "takes a table"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(when, said):
    tables = {
        "train": {
            "schedule": {"choice": ["constant", "cosine"]},
            "warmup_epochs": {"integer": [1, 2], "when": when},
        }
    }
    with pytest.raises(SettingsError, match=said):
        Space.from_tables("test", tables)


# Members that are stopped early

LONG = tiny_settings(train={"max_epochs": 9, "val_interval_epochs": 1, "choose_by": "masked-loss"})
# Two kinds of members: those that learn, and those that cannot.
SLOW_OR_FAST = Space.from_tables("test", {"train": {"learning_rate": {"choice": [1e-9, 1e-2]}}})


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_members_that_lag_behind_are_stopped_and_still_ranked(tmp_path, pruner):
    out = tmp_path / "sweep"
    done = _sweep(out, LONG, SLOW_OR_FAST, n_members=9, pruner=pruner, grace_epochs=1)
    results = done.results
    stopped = [member for member in results.members if member.status == "stopped"]
    assert stopped
    assert all(member.epochs in (1, 3) for member in stopped)
    assert all("not among the best 1 in 3" in member.message for member in stopped)
    assert len(results.ranked) == 9
    assert results.count("finished") >= 1
    for member in stopped:
        assert max(read_rungs(member.folder)) == member.epochs


@pytest.mark.parametrize("killed", ["before it was measured", "before it was stopped"])
def test_a_member_killed_where_it_is_compared_is_stopped_there_all_the_same(tmp_path, killed):
    how = {"n_members": 5, "pruner": "halving", "grace_epochs": 1}
    whole = _sweep(tmp_path / "sweep", LONG, SLOW_OR_FAST, **how).results
    stopped = next(member for member in whole.members if member.status == "stopped")
    for later in whole.members[stopped.index + 1 :]:
        shutil.rmtree(later.folder)
    (stopped.folder / "member.json").unlink()
    if killed == "before it was measured":
        rungs = read_rungs(stopped.folder)
        del rungs[max(rungs)]
        RunFolder(stopped.folder).write_json("rungs.json", rungs)
    results = resume_sweep(tmp_path / "sweep", recording=_data()).results
    for found, member in zip(results.members, whole.members, strict=True):
        assert replace(found, seconds=0) == replace(member, seconds=0)


def _folder(space=SPACE, pruner="halving", grace_epochs=None, **train):
    settings = tiny_settings(train={"max_epochs": 270, "val_interval_epochs": 1, **train})
    plan = SweepPlan.of(members=3, seed=0, pruner=pruner, grace_epochs=grace_epochs)
    return SweepFolder(None, settings, space, plan)


def test_members_are_compared_after_a_27th_of_the_epochs_and_three_times_as_many_each_time():
    assert rung_epochs(_folder()) == (10, 30, 90)
    assert rung_epochs(_folder(grace_epochs=50)) == (50, 150)
    assert rung_epochs(_folder(pruner="none")) == ()
    assert rung_epochs(_folder(val_interval_epochs=4)) == (12, 36, 108)


def test_no_member_is_judged_while_the_learning_rate_of_some_still_rises():
    assert rung_epochs(_folder(warmup_epochs=40))[0] == 40
    drawn = Space.from_tables("test", {"train": {"warmup_epochs": {"integer": [0, 60]}}})
    assert rung_epochs(_folder(drawn))[0] == 60


IN_STEPS = {"max_epochs": 100_000, "max_steps": 27, "val_interval_steps": 3, "batch_size": 4}


@pytest.mark.parametrize(
    ("options", "rungs"),
    [({"pruner": "halving"}, (1, 3)), ({"pruner": "hyperband"}, (1, 3)), ({"pbt_interval": 8}, ())],
)
def test_members_are_compared_by_a_length_that_is_given_in_steps(tmp_path, options, rungs):
    # Three batches of four: 27 steps are 9 epochs, and 3 steps are one.
    settings = tiny_settings(train=IN_STEPS)
    _sweep(tmp_path / "sweep", settings, SLOW_OR_FAST, **options)
    folder = SweepFolder.open(tmp_path / "sweep")
    assert (folder.settings.train.max_epochs, folder.settings.train.val_interval_epochs) == (9, 1)
    assert rung_epochs(folder) == rungs
    assert {member.epochs for member in folder.results().members} <= {1, 3, 9}
    if "pbt_interval" in options:
        assert Lineage.read(folder.path).last_epoch == 8
        with pytest.raises(SettingsError, match="members train for 9 epochs"):
            _sweep(tmp_path / "late", settings, SLOW_OR_FAST, pbt_interval=9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pruner": "halving", "grace_epochs": 3}, "after 3 epochs"),
        ({"grace_epochs": 1}, "needs a `pruner`"),
        ({"pruner": "halving", "n_seeds": 2}, "stops some of them early"),
        ({"pbt_interval": 1, "sampler": "tpe"}, "population-based training"),
        ({"sampler": "grid"}, "sampler"),
        ({"n_members": 0}, "n_members"),
        ({"time_budget": 0}, "time_budget"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(SettingsError, match=said):
        _sweep(tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


# Seeds, the default run, time


def test_settings_with_several_seeds_are_ranked_by_the_mean(tmp_path):
    results = _sweep(tmp_path / "sweep", n_members=2, n_seeds=2).results
    assert [m.drawn for m in results.members] == [SPACE.draw(5, i // 2) for i in range(4)]
    assert [RunFolder(m.folder).settings().train.seed for m in results.members] == [0, 1, 2, 3]
    groups = results.by_settings
    assert sorted(groups[0].members + groups[1].members, key=lambda m: m.index) == list(
        results.members
    )
    means = [sum(results.score(m) for m in group.members) / 2 for group in groups]
    assert [group.mean for group in groups] == pytest.approx(means)
    assert means == sorted(means)
    assert results.best in groups[0].members
    assert [trial.value for trial in _study(tmp_path / "sweep").trials] == pytest.approx(
        [next(g.mean for g in groups if results.members[2 * i] in g.members) for i in range(2)]
    )


def test_the_default_run_and_smoothing_stand_beside_the_members(tmp_path):
    out = tmp_path / "sweep"
    results = _sweep(out, n_members=1, default_run=True).results
    assert list(results.references) == ["mean rate", "smoothing", "default run"]
    assert RunFolder(out / "default").settings() == SETTINGS
    assert all("masked-loss" in scores for scores in results.references.values())
    assert json.loads((out / "results.json").read_text())["references"].keys() == {
        "mean rate", "smoothing", "default run"
    }  # fmt: skip
    trained = []
    resume_sweep(out, recording=_data(), watching=Watching(training=trained.append))
    assert trained == []


def test_a_time_budget_ends_a_sweep_which_can_be_resumed(tmp_path):
    out = tmp_path / "sweep"
    done = _sweep(out, time_budget=1e-6)
    assert (done.interrupted, done.out_of_time) == (False, True)
    assert done.results.to_do
    done = resume_sweep(out, recording=_data(), time_budget=60)
    assert (done.interrupted, done.out_of_time) == (False, False)
    assert done.results.to_do == []


# What made members good


def test_the_setting_that_makes_members_good_is_the_most_important(tmp_path):
    members = []
    for i in range(40):
        drawn = SPACE.draw(0, i)
        score = 0.5 + 0.1 * drawn["mask.ratio"]
        members.append(MemberResult(i, tmp_path, drawn, "finished", {"masked-loss": score}))
    found = importance(SweepResults(tmp_path, "masked-loss", tuple(members), {}), SPACE.draws)
    assert next(iter(found)) == "mask.ratio"
    assert sum(found.values()) == pytest.approx(1)
    few = SweepResults(tmp_path, "masked-loss", tuple(members[:3]), {})
    assert importance(few, SPACE.draws) == {}


def test_importance_from_a_few_draws_is_called_uncertain(tmp_path):
    members = tuple(
        MemberResult(i, tmp_path, SPACE.draw(0, i // 2), "finished", {"masked-loss": 0.5 + i})
        for i in range(38)
    )
    results = SweepResults(tmp_path, "masked-loss", members, {}, n_seeds=2)
    assert importance_caveat(results).startswith("uncertain: 19 draws")  # seeds are no draws
    assert importance_caveat(replace(results, n_seeds=1)) == ""


# Experiment trackers


def test_tensorboard_gets_the_final_scores_of_each_member(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = changed(SETTINGS, "train", tensorboard=True)
    done = _sweep(tmp_path / "sweep", settings, n_members=1)
    (member,) = done.results.members
    events = accumulator.EventAccumulator(str(member.folder / "tensorboard"))
    events.Reload()
    (final,) = events.Scalars("final/masked-loss")
    assert final.value == pytest.approx(done.results.score(member))
    assert "_hparams_/experiment" in events.summary_metadata


class Recorder:
    """Keeps what a tracker would be told."""

    def __init__(self):
        self.told = []

    def begin(self, member, settings):
        self.told.append(("begin", member, settings.train.seed))

    def log(self, member, epoch, measures):
        assert measures["epoch"] == epoch
        self.told.append(("log", member, epoch))

    def end(self, member, scores, status):
        assert "masked-loss" in scores
        self.told.append(("end", member, status))


def test_a_tracker_receives_every_epoch_of_every_member_once(tmp_path):
    tracker = Recorder()
    _sweep(tmp_path / "sweep", n_members=2, watching=Watching(loggers=[tracker]))
    expected = []
    for member in range(2):
        epochs = [("log", member, epoch) for epoch in (1, 2, 3)]
        expected += [("begin", member, member), *epochs, ("end", member, "finished")]
    assert tracker.told == expected
