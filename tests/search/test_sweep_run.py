"""A sweep: resumed it is the one that never stopped; who diverged is said; who is best is fair."""

import csv
import io
import json
import math
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
from builders import changed, recording, same_tensors, tiny_settings

from ndt_cli.engine import executors
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import EpochDone, StepDone
from ndt_cli.engine.executors import InTurn
from ndt_cli.engine.inference import run_scores
from ndt_cli.engine.measures import scores_of_rates
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.step import TrainingStep
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import DataError, RunError, RunWarning, SettingsError
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.loop import Watching, resume_sweep, sweep
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Space

SETTINGS = tiny_settings(train={"max_epochs": 3, "learning_rate": 0.01})
SPACE = Space.from_tables(
    "test",
    {
        "train": {"learning_rate": {"log-uniform": [1e-4, 1e-2]}},
        "mask": {"ratio": {"uniform": [0.1, 0.4]}, "max_span": {"integer": [1, 3]}},
    },
)
N_STEPS = 9  # of a member: three batches, three epochs


def _data():
    return recording(rates=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep of three that was never stopped."""
    out = tmp_path_factory.mktemp("sweeps") / "whole"
    done = sweep(SETTINGS, SPACE, n_members=3, seed=5, out=out, recording=_data())
    assert not done.interrupted
    return out


def _rows(path):
    rows = json.loads((path / "results.json").read_text())["members"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_sweep(found, expected):
    """Compare results and every checkpoint, bit for bit."""
    assert _rows(found) == _rows(expected)
    for member in sorted((expected / "members").iterdir()):
        names = sorted(p.name for p in (member / "checkpoints").iterdir())
        other = found / "members" / member.name / "checkpoints"
        assert sorted(p.name for p in other.iterdir()) == names
        for name in names:
            one, two = (Checkpoint.load(p / name) for p in (member / "checkpoints", other))
            assert same_tensors(one.model, two.model), (member.name, name)


def _stop_after(n_steps):
    taken = []

    def watch(event):
        if isinstance(event, StepDone):
            taken.append(event)

    return {"watching": Watching(training=watch), "should_stop": lambda: len(taken) >= n_steps}


# What a sweep leaves


def test_members_are_ordinary_runs_of_what_was_drawn_for_them(whole, tmp_path):
    folder = SweepFolder.open(whole)
    for index, member in enumerate(map(folder.member, range(3))):
        assert member.folder.name == f"{index:03d}"
        assert RunFolder.open(member.folder).settings() == member.settings
        assert member.settings.train.seed == index
        drawn = SPACE.draw(5, index)
        assert member.settings.mask.ratio == drawn["mask.ratio"]
    # And what ndt train would make of these settings.
    alone = train(folder.member(1).settings, out=tmp_path / "alone", recording=_data())
    one, two = (
        Checkpoint.load(RunFolder(run).checkpoint("last"))
        for run in (alone.run, folder.member(1).folder)
    )
    assert same_tensors(one.model, two.model)


def test_a_sweep_of_more_members_has_the_same_first_ones(whole, tmp_path):
    out = tmp_path / "sweep"
    sweep(SETTINGS, SPACE, n_members=2, seed=5, out=out, recording=_data())
    done = resume_sweep(out, n_members=3, recording=_data())
    assert len(done.results.members) == 3
    assert_same_sweep(out, whole)
    with pytest.raises(SettingsError, match="3 members"):
        resume_sweep(out, n_members=2, recording=_data())


def test_the_table_is_ranked_and_the_same_in_json_and_csv(whole):
    rows = _rows(whole)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    losses = [row["scores"]["masked-loss"] for row in rows]
    assert losses == sorted(losses)
    table = list(csv.DictReader(io.StringIO((whole / "results.csv").read_text())))
    for row, line in zip(rows, table, strict=True):
        assert int(line["member"]) == row["member"]
        assert float(line["masked-loss"]) == row["scores"]["masked-loss"]
        assert float(line["mask.ratio"]) == row["drawn"]["mask.ratio"]


def test_r2_ranks_when_asked_to_and_higher_is_better(tmp_path):
    settings = changed(SETTINGS, "train", choose_by="rate-r2")
    done = sweep(settings, SPACE, n_members=3, out=tmp_path / "sweep", recording=_data())
    scores = [done.results.score(member) for member in done.results.ranked]
    assert scores == sorted(scores, reverse=True)
    for member in done.results.ranked:  # nothing is hidden, so training measured the same
        best = max(r["valid_rate_r2"] for r in RunFolder(member.folder).read_metrics())
        assert done.results.score(member) == pytest.approx(best, abs=1e-5)


def test_the_same_weights_score_the_same_whatever_masks_they_trained_with(tmp_path):
    # A smaller mask ratio makes a member's own validation loss lower, not its model better.
    data = _data()
    settings = [changed(SETTINGS, "mask", ratio=ratio) for ratio in (0.1, 0.9)]
    runs = [
        train(changed(one, "train", learning_rate=1e-12), out=tmp_path / str(i), recording=data)
        for i, one in enumerate(settings)
    ]
    own = [run.history[-1]["valid_masked_loss"] for run in runs]
    assert own[0] != pytest.approx(own[1], rel=1e-6)
    scores = [run_scores(run.run, data.valid, SETTINGS)["masked-loss"] for run in runs]
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def test_held_out_neurons_and_forward_bins_count_when_they_are_known():
    data = recording(n_bins=8, n_neurons=4, n_heldout=1, n_forward=2).valid
    rates_BTN = data.spikes_BTN + 0.5
    scores = scores_of_rates(data, rates_BTN, rates_BTN)
    other_BTN = rates_BTN.copy()
    other_BTN[:, :6, 3] *= 2
    other = scores_of_rates(data, other_BTN, other_BTN)
    assert other["co-bps"] < scores["co-bps"]
    assert other["masked-loss"] > scores["masked-loss"]
    assert other["unmasked-loss"] == scores["unmasked-loss"]  # of what the model sees
    assert "rate-r2" not in scores


def test_rates_that_are_not_finite_have_no_score(whole):
    data = _data().valid
    rates_BTN = data.spikes_BTN + 0.5
    rates_BTN[0, 0, 0] = math.inf
    assert scores_of_rates(data, rates_BTN, rates_BTN) == {}
    member = MemberResult(0, whole, {}, "finished", {"masked-loss": math.nan})
    assert SweepResults(whole, "masked-loss", (member,), {}).ranked == []


# Stopping and going on


@pytest.mark.parametrize("n_steps", [1, 4, N_STEPS, N_STEPS + 2, 2 * N_STEPS])
def test_a_sweep_that_was_stopped_and_resumed_is_the_whole_sweep(tmp_path, whole, n_steps):
    out = tmp_path / "sweep"
    stopping = _stop_after(n_steps)
    done = sweep(SETTINGS, SPACE, n_members=3, seed=5, out=out, recording=_data(), **stopping)
    assert done.interrupted
    assert len(done.results.ranked) == n_steps // N_STEPS
    done = resume_sweep(out, recording=_data())
    assert not done.interrupted
    assert_same_sweep(out, whole)


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_killed_sweep_resumes_to_the_whole_sweep(tmp_path, whole, epoch):
    # In member 1: before its first epoch ended, so without a checkpoint, or after one or two.
    seen = []

    def kill(event):
        seen.append(event)
        done = sum(isinstance(event, EpochDone) for event in seen)
        if isinstance(event, StepDone) and done == 3 + epoch:
            raise KeyboardInterrupt

    out = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        sweep(
            SETTINGS,
            SPACE,
            n_members=3,
            seed=5,
            out=out,
            recording=_data(),
            watching=Watching(training=kill),
        )
    results = SweepFolder.open(out).results()
    expected = ["finished", "unfinished" if epoch else "waiting", "waiting"]
    assert [member.status for member in results.members] == expected

    trained = []
    resume_sweep(out, recording=_data(), watching=Watching(training=trained.append))
    n_steps = sum(isinstance(event, StepDone) for event in trained)
    assert n_steps == 2 * N_STEPS - 3 * epoch
    assert_same_sweep(out, whole)


def test_a_sweep_killed_before_it_wrote_a_member_s_result_trains_nothing_twice(tmp_path, whole):
    out = tmp_path / "sweep"

    class KilledAfterOne(InTurn):
        def wait(self, look):
            super().wait(look)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(
            SETTINGS, SPACE, n_members=3, seed=5, out=out, recording=_data(),
            executor=KilledAfterOne(),
        )  # fmt: skip
    trained = []
    resume_sweep(out, recording=_data(), watching=Watching(training=trained.append))
    assert sum(isinstance(event, StepDone) for event in trained) == 2 * N_STEPS
    assert_same_sweep(out, whole)


@pytest.mark.parametrize("written", [(), ("members",), ("members", "figures", "base.toml")])
def test_a_sweep_that_was_cut_off_as_it_made_its_folder_is_started_again(tmp_path, whole, written):
    out = tmp_path / "sweep"
    for name in written:
        if name.endswith("toml"):
            shutil.copy(whole / name, out / name)
        else:
            (out / name).mkdir(parents=True)
    with pytest.raises(RunError, match="not a sweep"):
        resume_sweep(out, recording=_data())
    sweep(SETTINGS, SPACE, n_members=3, seed=5, out=out, recording=_data())
    assert_same_sweep(out, whole)


def test_a_sweep_whose_members_were_removed_trains_them_again(tmp_path, whole):
    out = shutil.copytree(whole, tmp_path / "sweep", ignore=shutil.ignore_patterns("members"))
    resume_sweep(out, recording=_data())
    assert_same_sweep(out, whole)


@pytest.mark.parametrize("name", ["notes.txt", "members/000/settings.toml"])
def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        sweep(SETTINGS, SPACE, n_members=3, out=tmp_path, recording=_data())
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "old", "new", "what"),
    [
        ("base.toml", "max_epochs = 3", "max_epochs = 4", "train.max_epochs was 3, and is 4"),
        ("base.toml", "max_epochs = 3", "max_epochs = 2", "train.max_epochs was 3, and is 2"),
        ("space.toml", "max_span", "span_ramp_end_epoch", "mask.max_span was"),
        ("sweep.toml", "seed = 5", "seed = 6", "train.learning_rate was"),
    ],
)
def test_a_sweep_whose_settings_were_edited_trains_no_other_members(
    tmp_path, whole, file, old, new, what
):
    shutil.copytree(whole, tmp_path / "sweep")
    text = (whole / file).read_text()
    (tmp_path / "sweep" / file).write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError, match=rf"members.000 has other settings: .*{what}"):
        resume_sweep(tmp_path / "sweep", n_members=4, recording=_data())


def test_a_member_that_was_trained_further_by_hand_is_measured_again(tmp_path, whole):
    path = tmp_path / "sweep"
    shutil.copytree(whole, path)
    longer = ["train.max_epochs=5"]
    resume(path / "members" / "001", overrides=longer, recording=_data(), until_epoch=4)
    # It does not keep the score of weights that it no longer has.
    assert SweepFolder.open(path).results().members[1].status == "unfinished"
    with pytest.warns(RunWarning, match="member 1: trained for more epochs than the other"):
        results = resume_sweep(path, recording=_data()).results
    member = results.members[1]
    assert (member.status, member.epochs) == ("finished", 5)
    assert member.scores == run_scores(member.folder, _data().valid, SETTINGS)
    before = SweepFolder.open(whole).results().members
    assert [one.scores for one in results.members if one.index != 1] == [
        one.scores for one in before if one.index != 1
    ]
    with pytest.warns(RunWarning, match="member 1"):
        assert resume_sweep(path, recording=_data()).results.members == results.members


def test_a_sweep_that_has_ended_trains_nothing_more(whole):
    trained = []
    before = _rows(whole)
    done = resume_sweep(whole, recording=_data(), watching=Watching(training=trained.append))
    assert trained == []
    assert not done.interrupted
    assert _rows(whole) == before


def test_what_a_killed_sweep_was_writing_is_removed_on_resuming(whole):
    mine = whole / ".thesis.0123abcd.part.tex"  # of another program
    mine.touch()
    for name in (".results.0123abcd.part.json", "figures/.settings.0123abcd.part.png"):
        (whole / name).touch()
    resume_sweep(whole, recording=_data())
    assert list(whole.rglob(".*.part.*")) == [mine]
    mine.unlink()


# Members that fail


def _diverging_member(monkeypatch, index, n_epochs):
    """Make one member's loss infinite after so many epochs."""
    take, finite, bad = TrainingStep.__call__, TrainingStep.loss_sum, {}

    def take_step(step, batch, epoch):
        bad[step] = step.settings.train.seed == index and epoch == n_epochs
        return take(step, batch, epoch)

    def loss_sum(step, batch):
        total, n_scored = finite(step, batch)
        return (total * math.inf if bad[step] else total), n_scored

    monkeypatch.setattr(TrainingStep, "__call__", take_step)
    monkeypatch.setattr(TrainingStep, "loss_sum", loss_sum)


@pytest.mark.parametrize("n_epochs", [0, 2])
def test_a_diverged_member_is_reported_and_the_sweep_continues(tmp_path, monkeypatch, n_epochs):
    _diverging_member(monkeypatch, 1, n_epochs)
    out = tmp_path / "sweep"
    results = sweep(SETTINGS, SPACE, n_members=3, seed=5, out=out, recording=_data()).results
    lost = results.members[1]
    assert (lost.status, lost.epochs) == ("diverged", n_epochs)
    assert f"not finite in epoch {n_epochs + 1}" in lost.message
    assert bool(lost.scores) == bool(n_epochs)  # of its checkpoint from before
    assert [member.index for member in results.in_order][-1] == 1
    assert len(results.ranked) == 2
    row = _rows(out)[-1]
    assert (row["rank"], row["status"]) == (None, "diverged")
    assert row["message"] == lost.message
    # And it stays so.
    trained = []
    assert (
        resume_sweep(out, recording=_data(), watching=Watching(training=trained.append)).results
        == results
    )
    assert trained == []


def test_a_learning_rate_that_is_far_too_high_diverges(tmp_path):
    wild = Space.from_tables("wild", {"train": {"learning_rate": {"choice": [1e-3, 1.0]}}})
    settings = changed(SETTINGS, "train", max_epochs=12, clip_norm=1e9)
    settings = changed(settings, "model", norm_place="pre")
    out = tmp_path / "sweep"
    results = sweep(settings, wild, n_members=4, seed=1, out=out, recording=_data()).results
    found = {member.status: member.drawn["train.learning_rate"] for member in results.members}
    assert found == {"finished": 1e-3, "diverged": 1.0}


def test_members_that_are_no_better_than_the_mean_rate_have_collapsed(tmp_path):
    def member(index, loss):
        return MemberResult(index, tmp_path, {}, "finished", {"masked-loss": loss})

    members = (member(0, 0.5), member(1, 0.4), member(2, 0.45))
    results = SweepResults(tmp_path, "masked-loss", members, {"mean rate": {"masked-loss": 0.45}})
    assert [m.index for m in results.collapsed] == [2, 0]


# What is refused


def test_a_draw_that_some_member_cannot_train_with_is_refused_before_any_trains(tmp_path):
    # The fifth or so of the members draws it.
    its = Space.from_tables("test", {"train": {"warmup_epochs": {"integer": [0, 9]}}})
    settings = changed(SETTINGS, "train", schedule="cosine", max_epochs=8)
    with pytest.raises(SettingsError, match="warmup_epochs"):
        sweep(settings, its, n_members=20, out=tmp_path / "sweep", recording=_data())
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_is_never_overwritten(whole):
    before = _rows(whole)
    with pytest.raises(RunError, match="already exists") as caught:
        sweep(SETTINGS, SPACE, n_members=1, out=whole, recording=_data())
    assert f"resume_sweep('{whole}')" in caught.value.hint
    assert _rows(whole) == before


def test_a_sweep_resumes_with_its_own_data_only(tmp_path):
    out = tmp_path / "sweep"
    stopping = _stop_after(N_STEPS)
    sweep(SETTINGS, SPACE, n_members=2, out=out, recording=_data(), **stopping)
    with pytest.raises(RunError, match="train trials"):
        resume_sweep(out, recording=recording(11, rates=True))


def test_data_that_lack_the_measure_are_refused_before_the_folder_is_made(tmp_path):
    settings = changed(SETTINGS, "train", choose_by="co-bps")
    with pytest.raises(DataError, match="held-out"):
        sweep(settings, SPACE, n_members=1, out=tmp_path / "sweep", recording=_data())
    assert not (tmp_path / "sweep").exists()


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SettingsError, match="one process"):
        sweep(SETTINGS, SPACE, out=tmp_path / "sweep", recording=_data())


@pytest.mark.parametrize("file", ["sweep.toml", "members/001/member.json", "references.json"])
def test_a_damaged_file_of_a_sweep_is_named(tmp_path, whole, file):
    out = tmp_path / "sweep"
    shutil.copytree(whole, out)
    (out / file).write_text("[]" if file.endswith("json") else 'members = "x"')
    with pytest.raises(RunError, match=file):
        SweepFolder.open(out).results()
    if file != "sweep.toml":  # it is made again from the run
        (out / file).unlink()
        resume_sweep(out, recording=_data())
        assert_same_sweep(out, whole)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "best"},
        {"scores": {"co-bps": "high"}},
        {"scores": {"co-bps": None}},
        {"seconds": None},
        {"epochs": 1.5},
        {"drawn": [1]},
    ],
)
def test_a_member_that_is_none_is_named(tmp_path, whole, change):
    out = tmp_path / "sweep"
    shutil.copytree(whole, out)
    file = out / "members/001/member.json"
    good = json.loads(file.read_text())
    file.write_text(json.dumps({**good, "index": 7, "folder": "../../elsewhere"}))
    assert SweepFolder.open(out).results().members[1].folder == file.parent
    file.write_text(json.dumps({**good, **change}))
    with pytest.raises(RunError, match=r"members/001/member\.json: damaged"):
        SweepFolder.open(out).results()


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="not a sweep"):
            SweepFolder.open(path)


@pytest.mark.parametrize(("n_letters", "folder"), [(38, None), (39, "/tmp")])
def test_ray_puts_its_sockets_where_their_names_are_not_too_long(monkeypatch, n_letters, folder):
    seen = {}
    fake = SimpleNamespace(init=lambda **options: seen.update(os.environ))
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setenv("TMPDIR", "/" + "t" * (n_letters - 1))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    executors._start_ray("local")
    assert seen.get("RAY_TMPDIR") == folder
