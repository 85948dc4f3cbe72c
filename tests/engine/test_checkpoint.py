"""Checkpoints: come back bit for bit, hold no code, and are refused in words when damaged."""

import errno
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from builders import (
    assert_generators_untouched,
    build_network,
    counts_BTN,
    model_settings,
    same_tensors,
    snapshot,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ndt_cli.engine.checkpoint import Checkpoint, Progress, optimizer_tensors
from ndt_cli.errors import CheckpointError
from ndt_cli.model.cpu.kernels import CpuMath

PROGRESS = Progress(
    epoch=7,
    step=2,
    loss_total=1.25,
    n_scored=300.0,
    seconds=0.1 + 0.2,
    best={"best-masked-loss": (0.1 + 0.7, 5), "best-rate-r2": (-1e-300, 6)},
)


def _trained(n_steps=3):
    network = build_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for i in range(n_steps):
        counts = counts_BTN(4, 6, 3, seed=i)
        network.loss_BTN(network(counts), counts).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network, optimizer


def _saved(path, **model):
    network = build_network(model_settings(**model))
    Checkpoint.of_model(network, PROGRESS.to_json()).save(path)
    return network


def _resaved(path, *, tensors=None, **header):
    """Write the file again with some tensors or header fields changed."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **header}
    save_file({**load_file(path), **(tensors or {})}, path, metadata)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"embedding": "linear", "readout": "mlp", "norm": "scale", "positions": "sinusoid"},
        {"embedding": "identity", "loss": "cross-entropy", "positions": "none"},
    ],
)
def test_a_model_comes_back_bit_for_bit(tmp_path, model):
    path = tmp_path / "last.safetensors"
    network = _saved(path, **model)
    loaded = Checkpoint.load(path)
    built = loaded.build_model(CpuMath())
    assert same_tensors(snapshot(built), snapshot(network))
    assert (loaded.model_settings, loaded.shape) == (network.settings, network.shape)
    counts = counts_BTN(2, 6, 3)
    assert torch.equal(built(counts), network(counts))


def test_optimizer_and_streams_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "last.safetensors"
    network, optimizer = _trained()
    stream = torch.Generator().manual_seed(3)
    torch.rand(5, generator=stream)
    states = optimizer_tensors(optimizer, network)
    Checkpoint.of_model(network, {}, states, {"rank0.mask": stream.get_state()}).save(path)
    expected = torch.rand(3, generator=stream)

    loaded = Checkpoint.load(path)
    restored = torch.Generator()
    restored.set_state(loaded.streams["rank0.mask"])
    assert torch.equal(torch.rand(3, generator=restored), expected)
    twin = loaded.build_model(CpuMath())
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2)
    loaded.load_optimizer(twin_optimizer, twin)
    assert same_tensors(optimizer_tensors(twin_optimizer, twin), states)
    counts = counts_BTN(4, 6, 3, seed=9)
    for model, adam in ((network, optimizer), (twin, twin_optimizer)):
        model.loss_BTN(model(counts), counts).mean().backward()
        adam.step()
    assert same_tensors(snapshot(twin), snapshot(network))


def test_progress_survives_json_exactly(tmp_path):
    assert Progress.from_json(json.loads(json.dumps(PROGRESS.to_json()))) == PROGRESS
    path = tmp_path / "last.safetensors"
    Checkpoint.of_model(build_network(), PROGRESS.to_json()).save(path)
    assert Progress.from_json(Checkpoint.load(path).progress) == PROGRESS
    assert Progress.from_json(Progress().to_json()) == Progress()


def test_progress_notes_what_is_better_and_forgets_what_is_not():
    progress = Progress(epoch=10)
    first = {"valid_masked_loss": 0.5, "valid_unmasked_loss": 0.4, "valid_rate_r2": 0.1}
    assert progress.validated(first) == ["best-masked-loss", "best-unmasked-loss", "best-rate-r2"]
    progress.epoch = 20
    second = {"valid_masked_loss": 0.5, "valid_unmasked_loss": 0.3, "valid_rate_r2": 0.0}
    assert progress.validated(second) == ["best-unmasked-loss"]
    assert progress.best == {
        "best-masked-loss": (0.5, 10),
        "best-unmasked-loss": (0.3, 20),
        "best-rate-r2": (0.1, 10),
    }
    progress.epoch = 35
    # Epochs after the last validation, at 20, have not been judged.
    assert progress.epochs_without_improvement("masked-loss") == 10
    nothing = {name: float("nan") for name in first}
    assert progress.validated(nothing) == []
    assert progress.epochs_without_improvement("masked-loss") == 25
    assert progress.epochs_without_improvement("unmasked-loss") == 15
    assert progress.epochs_without_improvement("co-bps") == 35  # never measured


def test_loading_takes_no_draw_from_the_global_generator(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    with assert_generators_untouched():
        Checkpoint.load(path).build_model()


def _assert_refused(path, match=None):
    with pytest.raises(CheckpointError, match=match) as caught:
        Checkpoint.load(path)
    assert str(path) in caught.value.message
    return caught.value


def test_a_missing_checkpoint_is_named(tmp_path):
    _assert_refused(tmp_path / "last.safetensors", "no such checkpoint")
    _assert_refused(tmp_path, "no such checkpoint")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    whole = path.read_bytes()
    path.with_name("best-masked-loss.safetensors").write_bytes(whole)
    for n_bytes in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        assert "The run has `checkpoint='best-masked-loss'`;" in _assert_refused(path).hint


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_ndt1_fault_checkpoints_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.safetensors"
    path.write_bytes(pickle.dumps(_Bomb()))
    assert _assert_refused(path).hint
    torch.save({"model": _Bomb()}, path)
    assert _assert_refused(path).hint
    assert not (tmp_path / "exploded").exists()
    pickle.loads(pickle.dumps(_Bomb()))  # noqa: S301  the bomb does work where it is let
    assert (tmp_path / "exploded").exists()


def test_ndt1_fault_checkpoints_hold_tensors_and_json_only(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert {"format", "version", "model_settings", "shape", "progress"} == set(header)
    for name in ("model_settings", "shape", "progress"):
        assert isinstance(json.loads(header[name]), dict)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata)
        assert _assert_refused(path, "not an ndt checkpoint").hint


@pytest.mark.parametrize("version", ["2", "999", "", "1.5"])
def test_a_newer_version_is_refused_with_how_to_read_it(tmp_path, version):
    path = tmp_path / "last.safetensors"
    _saved(path)
    _resaved(path, version=version)
    assert "update" in _assert_refused(path, "reads up to 1").hint


@pytest.mark.parametrize(
    "header",
    [
        {"model_settings": "{"},
        {"model_settings": '{"n_layers": 0}'},
        {"shape": "[]"},
        {"shape": '{"n_neurons": 3}'},
        {"progress": "not JSON"},
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header):
    path = tmp_path / "last.safetensors"
    _saved(path)
    _resaved(path, **header)
    assert _assert_refused(path).hint


def test_a_checkpoint_of_another_version_is_not_called_damaged(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    _resaved(path, model_settings='{"unheard_of": 1}')
    assert (
        "run.json" in _assert_refused(path, "another version of ndt, with .* model.unheard_of").hint
    )


def test_a_tensor_of_an_unknown_group_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    _resaved(path, tensors={"extra.weight": torch.zeros(1)})
    assert _assert_refused(path).hint


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.readout.last.bias": torch.zeros(99)},
        {"model.unknown": torch.zeros(1)},
        {"model.layers.0.expand.weight": torch.zeros(2, 2)},
    ],
)
def test_weights_of_other_shapes_are_refused_with_file_and_tensor(tmp_path, tensors):
    path = tmp_path / "last.safetensors"
    _saved(path)
    _resaved(path, tensors=tensors)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(path).build_model()
    assert next(iter(tensors)).removeprefix("model.") in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_missing_tensor_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    del tensors["model.readout.last.bias"]
    save_file(tensors, path, header)
    with pytest.raises(CheckpointError, match=r"readout\.last\.bias"):
        Checkpoint.load(path).build_model()


def test_a_failed_save_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    network = _saved(path)
    write = Path.write_bytes

    def full_disk(target, content):
        write(target, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        _saved(path, n_layers=2)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert same_tensors(snapshot(Checkpoint.load(path).build_model()), snapshot(network))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_whoever_may_read_a_run_may_read_its_checkpoints(tmp_path):
    path = tmp_path / "last.safetensors"
    _saved(path)
    (tmp_path / "run.json").write_text("{}")
    assert path.stat().st_mode == (tmp_path / "run.json").stat().st_mode
