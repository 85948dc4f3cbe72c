"""A resumed run is the run that never stopped; what would make it another is refused."""

import json
import shutil

import pytest
import torch
from builders import (
    assert_generators_untouched,
    changed,
    recording,
    same_tensors,
    tiny_settings,
    with_spikes,
)
from safetensors.torch import load_file

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import EpochDone, StepDone
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.train import resume, train
from ndt_cli.errors import CheckpointError, MissingExtraError, RunError, SettingsError

# Everything that draws: dropout, spans, tokens and random counts; three steps an epoch.
SETTINGS = tiny_settings(
    mask={"max_span": 3, "token_ratio": 0.6, "span_ramp_end_epoch": 3},
    train={
        "max_epochs": 4,
        "val_interval_epochs": 2,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "learning_rate": 0.01,
        "weight_decay": 0.01,
    },
)
N_STEPS = 12


def _data():
    return recording(rates=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(SETTINGS, out=out, recording=_data())
    return out


def _stop_after(n_steps):
    """Watch and should_stop that end a run after so many steps."""
    taken = []

    def watch(event):
        if isinstance(event, StepDone):
            taken.append(event)

    return {"watch": watch, "should_stop": lambda: len(taken) >= n_steps}


def _timeless(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def _metrics(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [_timeless(json.loads(line)) for line in lines]


def _contents(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


def assert_same_run(found, expected):
    """Compare all that two runs leave, bit for bit, except how long they took."""
    assert _metrics(found) == _metrics(expected)
    names = [p.name for p in (expected / "checkpoints").iterdir()]
    assert sorted(p.name for p in (found / "checkpoints").iterdir()) == sorted(names)
    for name in names:
        one, other = (Checkpoint.load(run / "checkpoints" / name) for run in (found, expected))
        assert same_tensors(one.model, other.model), name
        assert same_tensors(one.optimizer, other.optimizer), name
        assert same_tensors(one.streams, other.streams), name
        assert _timeless(one.progress) == _timeless(other.progress), name


@pytest.mark.parametrize("n_steps", range(1, N_STEPS + 1))
def test_a_run_stopped_after_any_step_and_resumed_is_the_whole_run(tmp_path, whole, n_steps):
    stopped = train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(n_steps))
    assert stopped.stopped == ("interrupted" if n_steps < N_STEPS else "finished")
    assert len(stopped.history) == n_steps // 3
    progress = Checkpoint.load(RunFolder(tmp_path).checkpoint("last")).progress
    assert (progress["epoch"], progress["step"]) == divmod(n_steps, 3)

    steps = []
    result = resume(tmp_path, recording=_data(), watch=steps.append)
    assert result.stopped == "finished"
    assert sum(isinstance(event, StepDone) for event in steps) == N_STEPS - n_steps
    assert [_timeless(record) for record in result.history] == _metrics(whole)
    assert_same_run(tmp_path, whole)


def test_a_run_stopped_after_every_single_step_is_the_whole_run(tmp_path, whole):
    result = train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(1))
    for _ in range(N_STEPS - 1):
        assert result.stopped == "interrupted"
        result = resume(tmp_path, recording=_data(), **_stop_after(1))
    assert result.stopped == "finished"
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("rubbish", ["", '{"epoch": 4, "train_lo', "\n\n", '{"epoch": 4}\n'])
def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path, whole, rubbish):
    # Killed in epoch 4: the checkpoint is of epoch 2, and metrics went on.
    def kill(event):
        if isinstance(event, EpochDone) and event.record["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, out=tmp_path, recording=_data(), watch=kill)
    assert [record["epoch"] for record in _metrics(tmp_path)] == [1, 2, 3]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rubbish)
    resume(tmp_path, recording=_data())
    assert_same_run(tmp_path, whole)


def test_a_run_killed_between_two_checkpoints_of_one_validation_resumes(
    tmp_path, whole, monkeypatch
):
    # The best checkpoints are of epoch 4 already, the last one still of epoch 2.
    save, saved = Checkpoint.save, []

    def killed_at_the_second_last(checkpoint, path):
        saved.append(path.stem)
        if saved.count("last") == 2:
            raise KeyboardInterrupt
        save(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "save", killed_at_the_second_last)
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, out=tmp_path, recording=_data())
    monkeypatch.undo()
    assert Checkpoint.load(RunFolder(tmp_path).checkpoint("last")).progress["epoch"] == 2
    assert len(_metrics(tmp_path)) == 4
    resume(tmp_path, recording=_data())
    assert_same_run(tmp_path, whole)


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = _contents(run)
    result = resume(run, recording=_data())
    assert result.stopped == "finished"
    assert [_timeless(record) for record in result.history] == _metrics(whole)
    after = _contents(run)
    assert {p.name: text for p, text in after.items()} == {
        p.name: text for p, text in before.items()
    }


def test_more_epochs_continue_a_finished_run(tmp_path):
    settings = changed(SETTINGS, "train", schedule="constant", val_interval_epochs=1)
    longer = changed(settings, "train", max_epochs=6)
    train(longer, out=tmp_path / "whole", recording=_data())
    train(settings, out=tmp_path / "run", recording=_data())
    result = resume(tmp_path / "run", recording=_data(), overrides=["train.max_epochs=6"])
    assert result.stopped == "finished"
    assert len(result.history) == 6
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert RunFolder(tmp_path / "run").settings() == longer


def test_more_patience_continues_a_run_that_stopped_early(tmp_path):
    # The masked loss of a model that cannot learn is best at once.
    settings = changed(SETTINGS, "train", learning_rate=1e-12, weight_decay=0.0, max_epochs=12)
    settings = changed(settings, "train", schedule="constant", patience_epochs=2)
    out = tmp_path / "run"
    stopped = train(settings, out=out, recording=_data())
    assert stopped.stopped == "early"
    n_before = len(stopped.history)
    again = resume(out, recording=_data())
    assert (again.stopped, len(again.history)) == ("early", n_before)
    result = resume(out, recording=_data(), overrides=["train.patience_epochs=6"])
    assert len(result.history) > n_before


@pytest.mark.parametrize(
    "override",
    [
        "train.learning_rate=0.1",
        "train.seed=3",
        "model.n_layers=2",
        "mask.ratio=0.5",
        "data.bin_ms=20",
        "train.batch_size=8",
    ],
)
def test_other_settings_are_refused_and_nothing_changes(tmp_path, override):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(4))
    before = _contents(tmp_path)
    with pytest.raises(SettingsError, match="max_epochs") as caught:
        resume(tmp_path, recording=_data(), overrides=[override])
    assert "new run" in caught.value.hint
    assert _contents(tmp_path) == before


def _other_count(data):
    spikes_BTN = data.spikes_BTN.copy()
    spikes_BTN[0, 0, 0] += 1
    return with_spikes(data, spikes_BTN)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_other_data_are_refused_and_nothing_changes(tmp_path, split):
    data = _data()
    train(SETTINGS, out=tmp_path, recording=data, **_stop_after(4))
    before = _contents(tmp_path)
    splits = {"train": data.train, "valid": data.valid}
    splits[split] = _other_count(splits[split])
    other = Recording(**splits, source="lab.h5", layout="ndt")
    with pytest.raises(RunError, match=split) as caught:
        resume(tmp_path, recording=other)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint
    assert _contents(tmp_path) == before


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="not a run folder"):
            resume(path, recording=_data())


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(1))
    RunFolder(tmp_path).checkpoint("last").unlink()
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        resume(tmp_path, recording=_data())


def test_a_truncated_checkpoint_is_refused_and_nothing_changes(tmp_path):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(4))
    path = RunFolder(tmp_path).checkpoint("last")
    path.write_bytes(path.read_bytes()[:-100])
    before = _contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        resume(tmp_path, recording=_data())
    assert _contents(tmp_path) == before


def test_a_best_checkpoint_in_the_place_of_the_last_is_refused(tmp_path):
    # It holds no optimizer: to go on from it would be another run.
    train(SETTINGS, out=tmp_path, recording=_data())
    folder = RunFolder(tmp_path)
    shutil.copy(folder.checkpoint("best-masked-loss"), folder.checkpoint("last"))
    before = _contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        resume(tmp_path, recording=_data())
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("group", ["model.", "optimizer.", "stream."])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path, group):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(4))
    path = RunFolder(tmp_path).checkpoint("last")
    checkpoint = Checkpoint.load(path)
    for states in (checkpoint.model, checkpoint.optimizer, checkpoint.streams):
        first = next(iter(states))
        if any(f"{group}{first}" == name for name in load_file(path)):
            del states[first]
    checkpoint.save(path)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        resume(tmp_path, recording=_data())


def test_tensorboard_that_is_gone_is_said_in_words(tmp_path, monkeypatch):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(1))
    folder = RunFolder(tmp_path)
    folder.write_settings(changed(SETTINGS, "train", tensorboard=True))
    monkeypatch.setattr("ndt_cli.engine.tensorboard.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="TensorBoard"):
        resume(tmp_path, recording=_data())


def test_resuming_prints_nothing_and_leaves_threads_and_generators(tmp_path, capfd):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(4))
    n_threads = torch.get_num_threads()
    with assert_generators_untouched():
        resume(tmp_path, recording=_data())
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == n_threads


def test_the_time_of_all_parts_is_added_up(tmp_path):
    first = train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(7))
    result = resume(tmp_path, recording=_data())
    assert result.seconds > first.seconds > 0
    seconds = [record["seconds"] for record in result.history]
    assert seconds == sorted(seconds)


@pytest.mark.gpu
@pytest.mark.parametrize("n_steps", [4, 6])
def test_a_run_on_a_gpu_resumes_bit_for_bit(tmp_path, n_steps):
    settings = changed(SETTINGS, "train", device="cuda")
    train(settings, out=tmp_path / "whole", recording=_data())
    train(settings, out=tmp_path / "run", recording=_data(), **_stop_after(n_steps))
    resume(tmp_path / "run", recording=_data())
    assert_same_run(tmp_path / "run", tmp_path / "whole")
