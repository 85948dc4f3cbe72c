"""Runs that train together give what each gives alone, and leave when they end."""

import json

import pytest
import torch
from builders import changed, recording, tiny_settings
from ndt_cli.search.together import TrainTogether

from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import StepDone
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.together import StepTogether
from ndt_cli.errors import SettingsError
from ndt_cli.search.in_turn import train_in_turn
from ndt_cli.search.member import Member

BASE = tiny_settings(
    model={"n_layers": 2, "dropout": 0.3},
    train={"max_epochs": 4, "learning_rate": 0.01, "plain_layers": True},
)
# What a search draws, and more: none of it may leak from one member into another.
DRAWN = [
    {},
    {"model": {"context_back": 1, "dropout": 0.0}, "train": {"learning_rate": 1e-3, "seed": 1}},
    {"mask": {"ratio": 0.4, "token_ratio": 0.5, "max_span": 3}, "train": {"weight_decay": 0.1}},
    {"model": {"dropout_rates": 0.6}, "train": {"schedule": "cosine", "topk_fraction": 0.5}},
    {"model": {"norm_place": "pre"}, "mask": {"mode": "full"}},  # takes steps of its own
]


def _settings(drawn):
    settings = BASE
    for section, values in drawn.items():
        settings = changed(settings, section, **values)
    return settings


def _members(folder, drawn=DRAWN):
    return [Member(i, _settings(values), folder / f"{i:03d}") for i, values in enumerate(drawn)]


def _train(trainer, members, data, *, after=10**9):
    taken = []

    def watch(event):
        if isinstance(event, StepDone):
            taken.append(event)

    outcomes = list(trainer(members, data, watch, lambda: len(taken) >= after))
    return {outcome.index: outcome for outcome in outcomes}


def _assert_same_runs(found, expected):
    for one, two in zip(found, expected, strict=True):
        names = {path.name for path in (two.folder / "checkpoints").glob("*.safetensors")}
        assert {p.name for p in (one.folder / "checkpoints").glob("*.safetensors")} == names
        first, second = (
            Checkpoint.load(RunFolder(m.folder).checkpoint("last")) for m in (one, two)
        )
        assert first.progress["epoch"] == second.progress["epoch"]
        for name, tensor in second.model.items():
            other = first.model[name]
            if name.endswith("qkv.bias"):
                # No output depends on the bias of keys. Its gradient is rounding, which AdamW
                # scales up to whole steps.
                q, _, v = tensor.chunk(3)
                tensor, other = torch.cat((q, v)), torch.cat((other.chunk(3)[0], other.chunk(3)[2]))
            torch.testing.assert_close(other, tensor, rtol=1e-3, atol=1e-4, msg=name)
        metrics = [RunFolder(m.folder).read_metrics() for m in (one, two)]
        for a, b in zip(*metrics, strict=True):
            a.pop("seconds"), b.pop("seconds")
            assert a == pytest.approx(b, rel=1e-3)


@pytest.mark.parametrize("fields", [{}, {"lengths": True}, {"n_heldout": 1, "n_forward": 1}])
def test_members_of_a_population_give_what_they_give_alone(tmp_path, fields):
    if fields.pop("lengths", False):
        fields["lengths_B"] = [6, 5, 1, 6, 3]
    data = recording(n_train=5, n_valid=5, rates=True, **fields)
    alone, together = _members(tmp_path / "alone"), _members(tmp_path / "together")
    expected = _train(train_in_turn, alone, data)
    found = _train(TrainTogether(3), together, data)  # as two end, the others come in
    assert {i: o.status for i, o in found.items()} == {i: o.status for i, o in expected.items()}
    _assert_same_runs(together, alone)


def test_members_of_different_precision_take_steps_of_their_own(tmp_path):
    precisions = ("float32", "bfloat16", "float32")
    drawn = [{"train": {"precision": p, "seed": i}} for i, p in enumerate(precisions)]
    found, expected = _members(tmp_path / "found", drawn), _members(tmp_path / "alone", drawn)
    outcomes = _train(TrainTogether(3), found, recording())
    assert all(outcome.status == "finished" for outcome in outcomes.values())
    _train(train_in_turn, expected, recording())
    _assert_same_runs(found[::2], expected[::2])


def test_a_member_that_stops_early_or_diverges_leaves_and_the_others_go_on(tmp_path):
    data = recording()
    drawn = [
        {"train": {"patience_epochs": 1, "learning_rate": 1e-9}},
        {"train": {"learning_rate": 1.0, "clip_norm": 1e9}, "model": {"log_rates": True}},
        {},
    ]
    alone, together = _members(tmp_path / "alone", drawn), _members(tmp_path / "together", drawn)
    expected = _train(train_in_turn, alone, data)
    found = _train(TrainTogether(3), together, data)
    assert expected[0].status == found[0].status == "early"
    assert found[2].status == "finished"
    assert {i: o.status for i, o in found.items()} == {i: o.status for i, o in expected.items()}
    _assert_same_runs([together[0], together[2]], [alone[0], alone[2]])


def test_one_whose_loss_is_not_finite_is_reported_and_harms_no_other(tmp_path, monkeypatch):
    members = _members(tmp_path / "with", [{}, {"train": {"seed": 3}}])
    without = _members(tmp_path / "without", [{}])
    _train(TrainTogether(2), without, recording())
    from ndt_cli.engine.trainer import Trainer

    start = Trainer.__init__

    def poisoned(self, settings, *rest):
        start(self, settings, *rest)
        if settings.train.seed == 3:
            with torch.no_grad():
                self.network.readout.last.bias.fill_(torch.inf)

    monkeypatch.setattr(Trainer, "__init__", poisoned)
    found = _train(TrainTogether(2), members, recording())
    assert found[1].status == "diverged"
    assert "not finite" in found[1].message
    assert found[0].status == "finished"
    _assert_same_runs(members[:1], without)


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_population_that_was_stopped_goes_on_to_the_same_end(tmp_path, after):
    data = recording()
    whole, halves = _members(tmp_path / "whole"), _members(tmp_path / "halves")
    _train(TrainTogether(4), whole, data)
    stopped = _train(TrainTogether(4), halves, data, after=after)
    assert "interrupted" in {outcome.status for outcome in stopped.values()}
    finished = _train(TrainTogether(4), halves, data)
    assert all(outcome.status == "finished" for outcome in finished.values())
    _assert_same_runs(halves, whole)


def test_every_folder_is_let_go_when_one_fails(tmp_path):
    members = _members(tmp_path, [{}, {}])
    members[1].folder.mkdir()
    (members[1].folder / "notes.txt").write_text("mine")
    with pytest.raises(Exception, match="already there"):
        _train(TrainTogether(2), members, recording())
    assert not (members[0].folder / "running.json").exists()
    outcomes = _train(TrainTogether(2), members[:1], recording())
    assert outcomes[0].status == "finished"
    assert json.loads((members[0].folder / "run.json").read_text())


def test_a_population_needs_a_member():
    with pytest.raises(SettingsError, match="at least 1"):
        TrainTogether(0)


def test_large_batches_on_a_cpu_are_stepped_one_by_one(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(StepTogether, "__call__", lambda *given: taken.append(given))
    settings = changed(BASE, "train", batch_size=300)
    members = [Member(i, settings, tmp_path / str(i)) for i in range(2)]
    outcomes = _train(TrainTogether(), members, recording(n_train=200))  # 1200 bins a batch
    assert [outcomes[i].status for i in (0, 1)] == ["finished", "finished"]
    assert not taken


@pytest.mark.gpu
def test_as_many_members_as_fit_the_memory_of_a_gpu_train_together(tmp_path, graphs, monkeypatch):
    on_gpu = [
        Member(m.index, changed(m.settings, "train", device="cuda"), m.folder)
        for m in _members(tmp_path)
    ]
    n_together = []
    take = StepTogether._take

    def noted(self, steps, batches):
        n_together.append(len(steps))
        return take(self, steps, batches)

    monkeypatch.setattr(StepTogether, "_take", noted)
    outcomes = _train(TrainTogether(), on_gpu, recording())
    assert all(outcome.status == "finished" for outcome in outcomes.values())
    assert max(n_together) > 1
    assert graphs["replayed"]
