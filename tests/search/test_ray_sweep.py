"""A sweep on Ray is the sweep without it: member by member, killed, stopped or resumed."""

import json
import os
import signal
from importlib.util import find_spec

import numpy as np
import pytest
from builders import changed, recording, tiny_settings
from ndt_cli.search.ray_options import RayOptions
from ndt_cli.search.ray_rungs import read_rungs
from ray_cluster import ray_cluster
from same_run import assert_same_run
from test_sweep_run import assert_same_sweep

from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import DeviceError, RunError, RunWarning
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.loop import resume_sweep, sweep
from ndt_cli.search.pbt import Lineage, TrainByGenerations
from ndt_cli.search.space import Space

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, ("ray", "optuna"))), reason="needs the extra ray: ray and optuna"
    ),
]

SPACE = Space.from_tables(
    "test",
    {
        "train": {"learning_rate": {"log-uniform": [1e-4, 1e-2]}},
        "mask": {"ratio": {"uniform": [0.1, 0.4]}, "max_span": {"integer": [1, 3]}},
    },
)
SHORT = tiny_settings(train={"max_epochs": 3})
# Seconds of training, so that there is a middle of it.
LONG = tiny_settings(
    train={"max_epochs": 240, "val_interval_epochs": 10, "save_interval_minutes": 0.01}
)


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(n_cpus=2) as address:
        yield address


def _data():
    return recording(rates=True)


def _on_ray(settings, out, n_members=None, *, options=None, tell=lambda standing: None, **more):
    """Sweep on Ray; go on with the sweep that is there."""
    from ndt_cli.search.ray_trainer import ray_trainer

    options = options or RayOptions()
    with ray_trainer(options, settings, SPACE, tell) as (trainer, _):
        wrap = more.pop("wrap", lambda trainer: trainer)
        if out.exists():
            return resume_sweep(
                out, n_members=n_members, recording=_data(), trainer=wrap(trainer), **more
            )
        return sweep(
            settings,
            SPACE,
            n_members=n_members or 3,
            seed=5,
            out=out,
            recording=_data(),
            trainer=wrap(trainer),
            **more,
        )


def _here(settings, out, n_members=3, **more):
    return sweep(settings, SPACE, n_members=n_members, seed=5, out=out, recording=_data(), **more)


@pytest.fixture(scope="module")
def long_sweep(tmp_path_factory):
    """A sweep of three, trained without Ray."""
    out = tmp_path_factory.mktemp("sweeps") / "long"
    _here(LONG, out)
    return out


def _epochs(run):
    return len(RunFolder(run).read_metrics())


def _assert_same(found, expected):
    assert_same_sweep(found, expected)
    for member in sorted((expected / "members").iterdir()):
        assert_same_run(found / "members" / member.name, member)


class KillsWorker:
    """Kills the process that trains a member, each time that it is seen to have got on."""

    def __init__(self, member, times, min_epochs):
        self._member = member
        self._times = times
        self._min_epochs = min_epochs
        self.killed = []
        self.epochs = []

    def __call__(self, standing):
        try:
            pid = json.loads((self._member / "running.json").read_text())["pid"]
        except (OSError, ValueError):
            return
        n_epochs = _epochs(self._member)
        is_due = len(self.killed) < self._times and pid not in self.killed
        if is_due and n_epochs >= self._min_epochs:
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)
            self.epochs.append(n_epochs)


# The same members


def test_members_on_ray_are_those_of_a_sweep_in_turn_bit_for_bit(cluster, tmp_path):
    done = _on_ray(SHORT, tmp_path / "ray", 4)
    assert not done.interrupted
    _here(SHORT, tmp_path / "here", 4)
    _assert_same(tmp_path / "ray", tmp_path / "here")
    assert not (tmp_path / "ray" / "ray").exists()  # of Tune nothing is left


def test_generations_on_ray_are_those_of_population_based_training_here(cluster, tmp_path):
    settings = changed(SHORT, "train", max_epochs=5)
    _on_ray(settings, tmp_path / "ray", 4, wrap=lambda trainer: TrainByGenerations(2, trainer))
    _here(settings, tmp_path / "here", 4, trainer=TrainByGenerations(2))
    assert Lineage.read(tmp_path / "ray") == Lineage.read(tmp_path / "here")
    assert Lineage.read(tmp_path / "ray").moves
    assert_same_sweep(tmp_path / "ray", tmp_path / "here")


# Killed, stopped, resumed


def test_a_member_whose_worker_is_killed_goes_on_from_its_last_checkpoint(
    cluster, tmp_path, long_sweep
):
    kills = KillsWorker(tmp_path / "ray/members/000", times=1, min_epochs=15)
    with pytest.warns(RunWarning, match="member 0: its worker died"):
        done = _on_ray(LONG, tmp_path / "ray", tell=kills)
    assert len(kills.killed) == 1
    assert kills.epochs[0] < LONG.train.max_epochs
    assert not done.interrupted
    _assert_same(tmp_path / "ray", long_sweep)


def test_a_member_whose_workers_die_again_and_again_is_said_to_and_the_others_end(
    cluster, tmp_path, long_sweep
):
    kills = KillsWorker(tmp_path / "ray/members/001", times=4, min_epochs=1)
    with (
        pytest.raises(RunError, match="member 1: its worker died 4 times") as caught,
        pytest.warns(RunWarning, match="member 1"),
    ):
        _on_ray(LONG, tmp_path / "ray", tell=kills)
    assert f"--resume {tmp_path / 'ray'}" in caught.value.hint
    statuses = [m.status for m in SweepFolder.open(tmp_path / "ray").results().members]
    assert statuses[0] != "unfinished"
    assert statuses[1] == "unfinished"
    assert statuses[2] != "unfinished"
    resume_sweep(tmp_path / "ray", recording=_data())
    _assert_same(tmp_path / "ray", long_sweep)


@pytest.mark.parametrize("resumed_on_ray", [True, False])
def test_a_sweep_that_was_asked_to_stop_saves_and_goes_on_with_ray_or_without(
    cluster, tmp_path, long_sweep, resumed_on_ray
):
    out = tmp_path / "ray"
    done = _on_ray(LONG, out, should_stop=lambda: _epochs(out / "members/000") >= 15)
    assert done.interrupted
    stopped_after = _epochs(out / "members/000")
    assert 15 <= stopped_after < LONG.train.max_epochs
    assert (out / "members/000/checkpoints/last.safetensors").is_file()
    if resumed_on_ray:
        _on_ray(LONG, out)
    else:
        resume_sweep(out, recording=_data())
    _assert_same(out, long_sweep)


def test_what_a_worker_refuses_is_raised_as_it_is_and_the_sweep_can_go_on(
    cluster, tmp_path, monkeypatch
):
    settings = changed(SHORT, "train", device="cuda")
    # As on a machine that has the device which the workers lack.
    monkeypatch.setattr("ndt_cli.search.loop.choose_compute", lambda train: None)
    with pytest.raises(DeviceError, match="cuda"):
        _on_ray(settings, tmp_path / "ray", options=RayOptions(gpus_per_worker=0))
    assert SweepFolder.open(tmp_path / "ray").results().to_do == [0, 1, 2]


def test_more_than_any_machine_of_the_cluster_has_is_refused_at_once(cluster, tmp_path):
    for options in (RayOptions(cpus_per_worker=3), RayOptions(gpus_per_worker=1)):
        settings = changed(SHORT, "train", n_threads=0)
        with pytest.raises(DeviceError, match="the most of each on one is CPU: 2, GPU: 0"):
            _on_ray(settings, tmp_path / "ray", options=options)
    assert not (tmp_path / "ray").exists()


# Stopping the worse ones


def test_asha_stops_the_worse_members_and_leaves_the_others_as_they_are(cluster, tmp_path):
    settings = changed(SHORT, "train", max_epochs=30, choose_by="rate-r2")
    options = RayOptions(scheduler="asha", grace_epochs=3)
    done = _on_ray(settings, tmp_path / "ray", 8, options=options)
    assert not done.interrupted
    members = done.results.members
    stopped = [member for member in members if member.status == "stopped"]
    whole = [member for member in members if member.status == "finished"]
    assert len(stopped) >= 2
    assert whole
    _here(settings, tmp_path / "here", 8)
    for member in whole:
        assert_same_run(member.folder, tmp_path / "here/members" / member.folder.name)
    for member in stopped:
        rung = read_rungs(member.folder)[-1]
        assert member.epochs == rung.epoch in (3, 9, 27)
        assert f"after {rung.epoch} epochs" in member.message
        # The best checkpoint by then is what it is ranked by.
        assert done.results.score(member) == pytest.approx(rung.score, abs=1e-12)
        others = [r.score for m in members for r in read_rungs(m.folder) if r.epoch == rung.epoch]
        assert rung.score < max(others)


def test_members_of_a_resumed_sweep_are_compared_with_those_that_ended_before(cluster, tmp_path):
    settings = changed(SHORT, "train", max_epochs=9, choose_by="rate-r2")
    options = RayOptions(scheduler="asha", grace_epochs=3)
    out = tmp_path / "ray"
    _on_ray(settings, out, 1, options=options)
    # The first one of a rung always passes; no other is as good as this.
    rungs = out / "members/000/rungs.json"
    rungs.write_text(json.dumps({"rungs": [{"epoch": 3, "score": 0.99}]}))
    done = _on_ray(settings, out, 3, options=options)
    assert [member.status for member in done.results.members] == ["finished", *["stopped"] * 2]


# Optuna


def _searcher(out, base, n_members=40):
    from ndt_cli.search.ray_searchers import ChosenMembers

    if not out.exists():
        SweepFolder(out, base, SPACE, n_members, seed=5).create()
    folder = SweepFolder.open(out)
    pending = [folder.members()[i] for i in folder.results().to_do]
    return folder, ChosenMembers(folder, pending, lambda: False)


def _lr(folder, index):
    return np.log10(folder.drawn(index)["train.learning_rate"])


def test_optuna_begins_with_the_members_of_a_random_search_then_goes_where_scores_are_good(
    tmp_path,
):
    def run(out):
        folder, searcher = _searcher(out, SHORT)
        for index in range(40):
            config = searcher.suggest(f"trial-{index}")
            assert [row["index"] for row in config["members"]] == [index]
            loss = abs(_lr(folder, index) + 3.0)
            searcher.on_trial_complete(f"trial-{index}", {"score": loss})
        assert searcher.suggest("trial-40") == "FINISHED"
        return folder

    folder = run(tmp_path / "one")
    for index in range(10):
        assert folder.drawn(index) == SPACE.draw(5, index)
    missed = [abs(_lr(folder, index) + 3.0) for index in range(40)]
    assert np.median(missed[20:]) < 0.5 * np.median(missed[:10])
    again = run(tmp_path / "two")
    assert [again.drawn(i) for i in range(40)] == [folder.drawn(i) for i in range(40)]


def test_optuna_asks_again_where_values_do_not_go_together(tmp_path, monkeypatch):
    from ndt_cli.search import ray_searchers

    base = changed(SHORT, "train", schedule="cosine", max_epochs=8)
    its = Space.from_tables("test", {"train": {"warmup_epochs": {"integer": [0, 40]}}})
    # The member that a sweep of these seeds draws trains; most values that Optuna draws do not.
    seeds = [s for s in range(60) if its.draw(s, 0)["train.warmup_epochs"] < 8]
    monkeypatch.setattr(ray_searchers, "N_RANDOM", 0)
    asked = []
    choose = SweepFolder.choose
    monkeypatch.setattr(
        SweepFolder, "choose", lambda *args: (asked.append(args[2]), choose(*args))[1]
    )
    for seed in seeds:
        folder = SweepFolder(tmp_path / f"sweep-{seed}", base, its, 1, seed)
        folder.create()
        searcher = ray_searchers.ChosenMembers(folder, folder.members(), lambda: False)
        searcher.suggest("trial")
        assert asked[-1] == folder.drawn(0)
        assert folder.drawn(0)["train.warmup_epochs"] < 8
    assert len(asked) > len(seeds) > 4


def test_optuna_draws_no_member_anew(tmp_path):
    folder, searcher = _searcher(tmp_path / "sweep", SHORT)
    for index in range(12):
        searcher.suggest(f"trial-{index}")
    chosen = [folder.drawn(index) for index in range(12)]
    folder, searcher = _searcher(tmp_path / "sweep", SHORT)  # as after a kill
    for index in range(12):
        searcher.suggest(f"trial-{index}")
    assert [folder.drawn(index) for index in range(12)] == chosen


def test_optuna_on_ray_leaves_members_of_what_was_chosen(cluster, tmp_path, monkeypatch):
    from ndt_cli.search import ray_searchers

    monkeypatch.setattr(ray_searchers, "N_RANDOM", 2)
    done = _on_ray(SHORT, tmp_path / "ray", 5, options=RayOptions(searcher="optuna"))
    folder = SweepFolder.open(tmp_path / "ray")
    for member in done.results.members:
        settings = RunFolder(member.folder).settings()
        assert settings.train.learning_rate == member.drawn["train.learning_rate"]
        assert settings.mask.max_span == member.drawn["mask.max_span"]
        assert member.drawn == folder.drawn(member.index)
    assert done.results.members[1].drawn == SPACE.draw(5, 1)
    assert done.results.members[4].drawn != SPACE.draw(5, 4)
