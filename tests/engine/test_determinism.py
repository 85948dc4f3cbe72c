"""The same seed on the same machine is the same run; what changes that is said or refused."""

import json
import os

import pytest
import torch
from builders import changed, recording, same_tensors, tiny_settings
from same_run import assert_same_run

from ndt_cli.engine.checkpoint import Checkpoint
from ndt_cli.engine.device import deterministic_kernels
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import DeviceError, RunWarning

# Everything that draws: weights, order, spans, tokens, random counts, dropout.
SETTINGS = tiny_settings(
    model={"n_layers": 2, "n_heads": 2},
    mask={"max_span": 3, "token_ratio": 0.6},
    train={"learning_rate": 0.01, "max_epochs": 4},
)
CUDA = torch.device("cuda")


def _data(n_neurons=3):
    return recording(rates=True, n_neurons=n_neurons)


def _last(run):
    return Checkpoint.load(RunFolder(run).checkpoint("last"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
    for name in ("one", "two"):
        torch.rand(len(name))  # what the caller draws does not matter
        train(SETTINGS, out=tmp_path / name, recording=_data())
    assert_same_run(tmp_path / "one", tmp_path / "two")
    train(changed(SETTINGS, "train", seed=1), out=tmp_path / "other", recording=_data())
    assert not same_tensors(_last(tmp_path / "one").model, _last(tmp_path / "other").model)


def test_the_number_of_threads_changes_a_run_by_rounding_only(tmp_path):
    histories = []
    for n_threads in (1, 2):
        settings = changed(SETTINGS, "train", n_threads=n_threads, batch_size=64)
        # Wide enough that torch shares the work out.
        data = recording(64, 32, rates=True, n_neurons=40, n_bins=30)
        out = tmp_path / str(n_threads)
        histories.append(train(settings, out=out, recording=data).history)
    for one, two in zip(*histories, strict=True):
        for key in ("train_loss", "valid_masked_loss", "valid_unmasked_loss"):
            assert two[key] == pytest.approx(one[key], rel=1e-5), key


@pytest.mark.parametrize("error", [None, ValueError])
def test_deterministic_kernels_are_put_back(monkeypatch, error):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        with deterministic_kernels(True, CUDA):
            assert torch.are_deterministic_algorithms_enabled()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
            if error is not None:
                raise error
    except ValueError:
        assert error is ValueError
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_deterministic_kernels_leave_what_the_user_chose(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic_kernels(True, CUDA):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize(("wanted", "device"), [(False, "cuda"), (True, "cpu")])
def test_nothing_is_changed_where_nothing_is_asked(wanted, device):
    with deterministic_kernels(wanted, torch.device(device)):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_cpu_run_is_the_same_with_the_flag_and_without(tmp_path):
    train(SETTINGS, out=tmp_path / "without", recording=_data())
    train(changed(SETTINGS, "train", deterministic=True), out=tmp_path / "with", recording=_data())
    assert_same_run(tmp_path / "with", tmp_path / "without")


@pytest.mark.gpu
def test_two_runs_on_a_gpu_are_the_same_with_the_flag(tmp_path):
    settings = changed(SETTINGS, "train", device="cuda", deterministic=True)
    for name in ("one", "two"):
        train(settings, out=tmp_path / name, recording=_data(n_neurons=30))
    assert_same_run(tmp_path / "one", tmp_path / "two")


# Resuming elsewhere


def _half(tmp_path, **train_settings):
    """A run that was stopped half way, whose device and so on the machine chose."""
    settings = changed(SETTINGS, "train", **train_settings)
    done = []
    train(
        settings,
        out=tmp_path,
        recording=_data(),
        watch=done.append,
        should_stop=lambda: len(done) > 6,
    )
    return tmp_path


def _say(run, **facts):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, **facts}))


def test_a_resumed_run_keeps_the_precision_that_its_machine_chose(tmp_path, monkeypatch):
    monkeypatch.setattr("ndt_cli.engine.device.multiplies_bfloat16", lambda device: False)
    run = _half(tmp_path / "run", precision="auto")
    # On another machine "auto" would be bfloat16.
    monkeypatch.setattr("ndt_cli.engine.device.multiplies_bfloat16", lambda device: True)
    resume(run, recording=_data())
    train(SETTINGS, out=tmp_path / "whole", recording=_data())
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_is_not_resumed_without_one(tmp_path):
    run = _half(tmp_path / "run")
    (run / "settings.toml").write_text(
        (run / "settings.toml").read_text().replace('device = "cpu"', 'device = "auto"')
    )
    _say(run, device="cuda:0")
    with pytest.raises(
        DeviceError, match=r"was trained on cuda:0 in float32: .* no CUDA"
    ) as caught:
        resume(run, recording=_data())
    assert "start a new run here" in caught.value.hint


def test_fewer_threads_than_before_are_reported(tmp_path):
    run = _half(tmp_path / "run", n_threads=0)
    _say(run, n_threads=1000)
    said = r"started with 1000 CPU threads \(available now: \d+\): .*round"
    with pytest.warns(RunWarning, match=said):
        resume(run, recording=_data())


def test_other_vector_instructions_are_reported(tmp_path):
    run = _half(tmp_path / "run")
    _say(run, cpu_capability="AVX1024")
    with pytest.warns(RunWarning, match=r"started with AVX1024 instructions \(now: "):
        resume(run, recording=_data())


def test_another_torch_version_is_reported(tmp_path):
    run = _half(tmp_path / "run")
    _say(run, packages={"torch": "2.0.1"})
    with pytest.warns(RunWarning, match=r"started with torch 2\.0\.1 \(installed now"):
        resume(run, recording=_data())
