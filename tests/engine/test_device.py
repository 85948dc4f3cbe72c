"""Device, precision and threads: what is chosen, and what is refused in words."""

from pathlib import Path

import pytest
import torch
from builders import recording, tiny_settings

from ndt_cli.engine import executors
from ndt_cli.engine.device import choose_compute, cpu_threads, multiplies_bfloat16
from ndt_cli.engine.preflight import runs_that_fit
from ndt_cli.errors import DeviceError
from ndt_cli.settings.tree import TrainSettings

CPU = torch.device("cpu")


def _machine(monkeypatch, *, n_cuda=0, mps=False, capability=(9, 0)):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def _choose(device="auto", precision="auto", local_rank=0):
    return choose_compute(TrainSettings(device=device, precision=precision), local_rank)


def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch):
    for machine, expected in (({"n_cuda": 1, "mps": True}, "cuda"), ({"mps": True}, "mps")):
        _machine(monkeypatch, **machine)
        assert _choose().device.type == expected
    _machine(monkeypatch)
    assert _choose().device == CPU


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch, wanted):
    _machine(monkeypatch, n_cuda=4)
    assert _choose(wanted, local_rank=2).device == torch.device("cuda:2")
    assert _choose("cuda:1", local_rank=2).device == torch.device("cuda:1")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_more_processes_than_gpus_is_refused(monkeypatch, wanted):
    _machine(monkeypatch, n_cuda=2)
    with pytest.raises(DeviceError, match="2 CUDA GPUs"):
        _choose(wanted, local_rank=2)


@pytest.mark.parametrize(
    ("wanted", "machine", "words"),
    [
        ("cuda", {}, "no CUDA GPU"),
        ("cuda:0", {}, "no CUDA GPU"),
        ("cuda:3", {"n_cuda": 2}, "2 CUDA GPUs"),
        ("mps", {}, "no Apple GPU"),
    ],
)
def test_a_missing_device_is_refused_with_the_next_step(monkeypatch, wanted, machine, words):
    _machine(monkeypatch, **machine)
    with pytest.raises(DeviceError, match=words) as caught:
        _choose(wanted)
    assert f'train.device = "{wanted}"' in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_bfloat16_on_mps_is_refused(monkeypatch):
    _machine(monkeypatch, mps=True)
    with pytest.raises(DeviceError, match="bfloat16") as caught:
        _choose("mps", "bfloat16")
    assert "float32" in caught.value.hint
    assert _choose("mps").dtype == torch.float32


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), torch.bfloat16), ((7, 5), torch.float32)]
)
def test_auto_precision_follows_the_hardware(monkeypatch, capability, expected):
    _machine(monkeypatch, n_cuda=1, capability=capability)
    assert _choose().dtype == expected
    assert _choose(precision="float32").dtype == torch.float32
    assert _choose(precision="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "instructions", "expected"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+", {"amx_tile", "avx512_bf16"}, True),
        ("Intel(R) Xeon(R) Platinum 8380H", {"avx512_bf16"}, False),  # no faster than float32
        ("AMD EPYC 9654 96-Core Processor", {"avx512_bf16"}, True),
        ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", {"avx512_bf16"}, True),
        ("AMD EPYC 7763 64-Core Processor", set(), False),
        ("AMD64", {"avx512_bf16"}, False),  # the architecture, where no name is known
    ],
)
def test_auto_precision_on_a_cpu_follows_what_it_multiplies_fast(
    monkeypatch, name, instructions, expected
):
    for known in ("amx_tile", "avx512_bf16"):
        there = known in instructions
        monkeypatch.setattr(
            torch.cpu, f"_is_{known}_supported", lambda there=there: there, raising=False
        )
    monkeypatch.setattr("ndt_cli.model.cpu.processor.processor_name", lambda: name)
    assert multiplies_bfloat16(CPU) == expected
    assert _choose("cpu").dtype == (torch.bfloat16 if expected else torch.float32)


def test_a_torch_that_does_not_say_multiplies_in_float32(monkeypatch):
    for known in ("amx_tile", "avx512_bf16"):
        monkeypatch.delattr(torch.cpu, f"_is_{known}_supported", raising=False)
    assert not multiplies_bfloat16(CPU)
    assert _choose("cpu").dtype == torch.float32
    assert _choose("cpu", "bfloat16").dtype == torch.bfloat16  # slow, but works anywhere


def test_the_name_says_device_and_precision():
    assert _choose("cpu", "float32").name == "cpu, float32"


def test_threads_are_put_back_also_after_an_error():
    before = torch.get_num_threads()
    wanted = before + 1
    with cpu_threads(wanted) as n_threads:
        assert n_threads == torch.get_num_threads() == wanted
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="stop"), cpu_threads(wanted):
        raise ValueError("stop")
    assert torch.get_num_threads() == before


def test_zero_threads_takes_what_torch_would_up_to_eight(monkeypatch):
    for n_torch, expected in ((3, 3), (64, 8)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_torch: n)
        asked = []
        monkeypatch.setattr(torch, "set_num_threads", asked.append)
        with cpu_threads(0) as n_threads:
            assert n_threads == expected
        assert asked == [expected, n_torch]


# Several runs at the same time


def _gpu_memory(monkeypatch, free_gb):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 2**30), 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr("ndt_cli.engine.preflight.n_cores", lambda: 64)


@pytest.mark.parametrize(
    ("n_cuda", "free_gb", "device", "expected"),
    [
        # A tiny network needs little more than what torch itself takes, 1 GB; a fifth stays free.
        (1, 16, "auto", 12),
        (4, 16, "auto", 48),
        (4, 16, "cuda:1", 12),  # all of them on the one that is named
        (4, 64, "cuda", 64),  # no more than there are CPU cores
        (1, 0.5, "auto", 1),
    ],
)
def test_as_many_runs_fit_at_the_same_time_as_the_memory_of_all_gpus_holds(
    monkeypatch, n_cuda, free_gb, device, expected
):
    _machine(monkeypatch, n_cuda=n_cuda)
    _gpu_memory(monkeypatch, free_gb)
    settings = tiny_settings(train={"device": device})
    assert runs_that_fit(settings, recording().train) == expected


def test_without_a_gpu_one_run_fits_on_each_core(monkeypatch):
    _machine(monkeypatch)
    monkeypatch.setattr("ndt_cli.engine.preflight.n_cores", lambda: 6)
    assert runs_that_fit(tiny_settings(), recording().train) == 6


class _Connection:
    def close(self):
        pass


class _Processes:
    """Stands in for `multiprocessing`: notes what each process would be started with."""

    def __init__(self):
        self.started = []

    def Pipe(self):
        return _Connection(), _Connection()

    def Process(self, target, args, daemon):
        self.started.append(args)
        return self

    def start(self):
        pass

    def set_forkserver_preload(self, names):
        pass


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "auto", ["0", "1", "0", "1"]),
        ("3,5", "auto", ["3", "5", "3", "5"]),
        (None, "cuda:1", [None] * 4),  # each process sees all, and takes the one that is named
    ],
)
def test_runs_side_by_side_are_dealt_out_to_the_gpus(monkeypatch, visible, device, expected):
    _machine(monkeypatch, n_cuda=2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    context = _Processes()
    monkeypatch.setattr(executors.multiprocessing, "get_context", lambda method: context)
    several = executors.Processes(4)
    settings = tiny_settings(train={"device": device, "n_threads": 1})
    several.open(executors.Job(recording(), settings, None), None)
    for number in range(4):
        several.submit(executors.Task(Path(f"runs/{number}")))
    environments = [arguments[1] for arguments in context.started]
    assert [its.get("CUDA_VISIBLE_DEVICES") for its in environments] == expected
