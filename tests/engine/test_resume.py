"""A resumed run is the run that never stopped; what would make it another is refused."""

import shutil

import pytest
import torch
from builders import (
    assert_generators_untouched,
    changed,
    recording,
    tiny_settings,
    with_spikes,
)
from safetensors.torch import load_file
from same_run import assert_same_run, timeless, timeless_metrics

from ndt_cli.data.spike_data import Recording
from ndt_cli.data.write import write_recording
from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.events import EpochDone, StepDone
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.trainer import Validator
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import CheckpointError, DataError, MissingExtraError, RunError, SettingsError

# Everything that draws: dropout, spans, tokens and random counts; three steps an epoch.
SETTINGS = tiny_settings(
    mask={"max_span": 3, "token_ratio": 0.6, "span_ramp_end_epoch": 3},
    train={
        "max_epochs": 4,
        "val_interval_epochs": 2,
        "schedule": "cosine",
        "warmup_epochs": 1,
        "optimizer": "muon",
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


def _contents(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


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
    assert [timeless(record) for record in result.history] == timeless_metrics(whole)
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
    assert [record["epoch"] for record in timeless_metrics(tmp_path)] == [1, 2, 3]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rubbish)
    resume(tmp_path, recording=_data())
    assert_same_run(tmp_path, whole)


def test_a_run_killed_between_two_checkpoints_of_one_validation_resumes(
    tmp_path, whole, monkeypatch
):
    # The best checkpoints are of epoch 4 already, the last one still of epoch 2.
    save = Checkpoint.save

    def killed_at_the_last_of_epoch_4(checkpoint, path):
        if path.stem == "last" and checkpoint.progress["epoch"] == 4:
            raise KeyboardInterrupt
        save(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "save", killed_at_the_last_of_epoch_4)
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, out=tmp_path, recording=_data())
    monkeypatch.undo()
    assert Checkpoint.load(RunFolder(tmp_path).checkpoint("last")).progress["epoch"] == 2
    assert len(timeless_metrics(tmp_path)) == 4
    resume(tmp_path, recording=_data())
    assert_same_run(tmp_path, whole)


def _kill_after(n_steps):
    """Watch that ends a run as a kill does, without any saving, after so many steps."""
    taken = []

    def watch(event):
        if isinstance(event, StepDone):
            taken.append(event)
            if len(taken) == n_steps:
                raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("n_steps", range(2, N_STEPS + 1))
def test_a_run_that_saves_within_an_epoch_loses_only_what_came_after(tmp_path, whole, n_steps):
    often = changed(SETTINGS, "train", save_interval_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        train(often, out=tmp_path, recording=_data(), watch=_kill_after(n_steps))
    progress = Checkpoint.load(RunFolder(tmp_path).checkpoint("last")).progress
    assert progress["epoch"] * 3 + progress["step"] == n_steps - 1
    # How often a run is saved is no part of what it computes.
    resume(tmp_path, recording=_data(), overrides=["train.save_interval_minutes=60"])
    assert_same_run(tmp_path, whole)


def test_a_run_killed_during_validation_is_the_whole_run(tmp_path, whole, monkeypatch):
    validate, calls = Validator.__call__, []

    def killed_the_second_time(validator, model):
        calls.append(model)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(validator, model)

    monkeypatch.setattr(Validator, "__call__", killed_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, out=tmp_path, recording=_data())
    monkeypatch.undo()
    resume(tmp_path, recording=_data())
    assert_same_run(tmp_path, whole)


def test_early_stopping_comes_at_the_same_epoch(tmp_path):
    settings = changed(SETTINGS, "train", learning_rate=0.1, max_epochs=40, patience_epochs=6)
    settings = changed(settings, "train", schedule="constant")
    expected = train(settings, out=tmp_path / "whole", recording=_data())
    assert expected.stopped == "early"
    n_epochs = len(expected.history)
    assert n_epochs < 40
    for n_steps in (3 * n_epochs - 7, 3 * n_epochs - 1, 3 * n_epochs):
        out = tmp_path / f"run{n_steps}"
        train(settings, out=out, recording=_data(), **_stop_after(n_steps))
        assert resume(out, recording=_data()).stopped == "early"
        assert_same_run(out, tmp_path / "whole")


def test_weights_better_than_the_resumed_run_finds_again_are_kept(tmp_path, monkeypatch):
    # As after a kill on a GPU, where the same epochs again are not the same to the last bit: the
    # best checkpoints are of epoch 4, the last one of epoch 2.
    losses = iter([1.0, 0.5, 0.6])
    validate = Validator.__call__

    def measured(validator, model):
        return {**validate(validator, model), "valid_unmasked_loss": next(losses)}

    monkeypatch.setattr(Validator, "__call__", measured)
    folder, name = RunFolder(tmp_path / "run"), "best-unmasked-loss"
    settings = changed(SETTINGS, "train", max_epochs=6)
    train(settings, out=folder.path, recording=_data(), **_stop_after(6))
    shutil.copy(folder.checkpoint("last"), tmp_path)
    once = resume(folder.path, recording=_data(), **_stop_after(6))
    assert once.best[name] == (0.5, 4)
    best = folder.checkpoint(name).read_bytes()
    shutil.copy(tmp_path / "last.safetensors", folder.checkpoint("last"))
    again = resume(folder.path, recording=_data(), **_stop_after(6))
    assert [record.get("valid_unmasked_loss") for record in again.history][1::2] == [1.0, 0.6]
    assert again.best[name] == (0.5, 4)
    assert folder.checkpoint(name).read_bytes() == best


def _scalars(run):
    """All TensorBoard scalars of a run, as the program would show them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "seconds"
    }


def test_tensorboard_shows_each_epoch_of_a_resumed_run_once(tmp_path):
    pytest.importorskip("tensorboard")
    settings = changed(SETTINGS, "train", tensorboard=True)
    with pytest.raises(KeyboardInterrupt):  # in epoch 4; the checkpoint is of epoch 2
        train(settings, out=tmp_path / "run", recording=_data(), watch=_kill_after(10))
    resume(tmp_path / "run", recording=_data())
    # Files of one second may sort in any order, and the later one takes the earlier one's events.
    files = sorted(path.name for path in (tmp_path / "run" / "tensorboard").iterdir())
    assert len({name.split(".")[3] for name in files}) == len(files) == 2
    train(settings, out=tmp_path / "whole", recording=_data())
    expected = _scalars(tmp_path / "whole")
    assert [step for step, _ in expected["train_loss"]] == [1, 2, 3, 4]
    assert _scalars(tmp_path / "run") == expected
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_finished_run_is_left_as_it_is(tmp_path, whole):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = _contents(run)
    result = resume(run, recording=_data())
    assert result.stopped == "finished"
    assert [timeless(record) for record in result.history] == timeless_metrics(whole)
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


def test_a_run_goes_on_with_its_data_in_another_place(tmp_path):
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    write_recording(_data(), old)
    settings = changed(SETTINGS, "data", file=old)
    train(settings, out=tmp_path / "run", until_epoch=2)
    old.rename(new)
    with pytest.raises(DataError, match=r"old\.h5: the spike file that .* is not there"):
        resume(tmp_path / "run")
    assert resume(tmp_path / "run", overrides=[f"data.file={new}"]).stopped == "finished"
    assert RunFolder(tmp_path / "run").settings().data.file == new


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunError, match="not a run folder"):
            resume(path, recording=_data())


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path, whole, monkeypatch):
    def killed(checkpoint, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(SETTINGS, out=tmp_path, recording=_data())
    monkeypatch.undo()
    resume(tmp_path, recording=_data())
    assert_same_run(tmp_path, whole)


def test_a_run_that_lost_its_last_checkpoint_is_not_restarted(tmp_path):
    train(SETTINGS, out=tmp_path, recording=_data())
    RunFolder(tmp_path).checkpoint("last").unlink()
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


def test_missing_tensorboard_is_an_error_message(tmp_path, monkeypatch):
    train(SETTINGS, out=tmp_path, recording=_data(), **_stop_after(1))
    folder = RunFolder(tmp_path)
    folder.write_settings(changed(SETTINGS, "train", tensorboard=True))
    monkeypatch.setattr("ndt_cli.engine.trackers.find_spec", lambda name: None)
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
