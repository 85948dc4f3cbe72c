"""``ndt bench``: this package beside the stock reference, in one process."""

from collections.abc import Callable

import torch

from ndt_cli.bench.alone import Kind, make_training, train_alone
from ndt_cli.bench.cost import product_cost, stock_cost
from ndt_cli.bench.inference_times import (
    InferenceKind,
    product_rates,
    stock_rates,
    time_inference,
)
from ndt_cli.bench.limits import check_cost, check_size
from ndt_cli.bench.machine import Machine
from ndt_cli.bench.peak import measure_peak
from ndt_cli.bench.product import ProductTraining
from ndt_cli.bench.reference import StockTraining
from ndt_cli.bench.result import BenchResult, StepResult
from ndt_cli.bench.timing import time_in_turn
from ndt_cli.bench.workload import Workload
from ndt_cli.engine.device import choose_compute, cpu_threads
from ndt_cli.engine.openvino_network import MOST_BINS, require_openvino
from ndt_cli.errors import SettingsError


def run_bench(
    workload: Workload,
    n_steps: int = 20,
    watch: Callable[[str], None] = lambda text: None,
    *,
    openvino: bool = False,
) -> BenchResult:
    """Measure training steps, their parts, inference, memory, and the device's own limit.

    Parameters
    ----------
    workload : Workload
        Settings and size of the trials; ``train.device``, ``train.precision`` and
        ``train.n_threads`` are those of a run.
    n_steps : int
        Training steps of each kind.
    watch : callable
        Told what is measured next.
    openvino : bool
        Measure inference by OpenVINO too.

    Raises
    ------
    SettingsError
        When the stock reference cannot be built as the settings ask, or memory does not hold it;
        or OpenVINO is wanted for longer trials than it infers.
    DeviceError
        When the device or the precision is not there, or OpenVINO is wanted on a GPU.
    MissingExtraError
        When OpenVINO is wanted and not installed.
    """
    compute = choose_compute(workload.settings.train)
    device = compute.device
    if openvino:
        require_openvino(device)
        _check_bins(workload)
    check_size(workload, device)
    with (
        cpu_threads(workload.settings.train.n_threads) as n_threads,
        torch.random.fork_rng(devices=[]),  # stock layers draw from the global generator
    ):
        machine = Machine.here(compute, n_threads)
        ndt_cost = product_cost(workload, compute.dtype, device)
        costs = {"ndt": ndt_cost, "stock": stock_cost(workload)}
        for cost in costs.values():
            check_cost(workload, cost, device)
        watch("the fastest matrix products")
        peaks = {
            str(dtype).removeprefix("torch."): measure_peak(device, dtype)
            for dtype in (torch.float32, torch.bfloat16)
        }
        data = workload.spikes()
        ndt = ProductTraining(workload, data, compute)
        stock = StockTraining(workload.settings, data, device)
        plain = make_training("plain", workload, data, compute)
        watch(f"training: {n_steps} steps of each kind, in turn")
        training: dict[Kind, Callable[[], None]] = {
            "ndt": ndt.step,
            "plain": plain.step,
            "stock": stock.step,
        }
        times = time_in_turn(training, device, n_rounds=n_steps)
        watch("the parts of a step")
        parts = ndt.time_parts(n_steps)
        watch("inference")
        infer: dict[InferenceKind, Callable[[torch.Tensor], torch.Tensor]]
        network, settings = ndt.network.eval(), workload.settings.train
        infer = {"ndt": product_rates(network, settings, device)}
        if openvino:
            infer["openvino"] = product_rates(network, settings, device, openvino=True)
        infer["stock"] = stock_rates(stock.model, device)
        counts_BTN = torch.from_numpy(data.spikes_BTN)
        inference = time_inference(infer, counts_BTN, device, max(3, n_steps // 4))
        watch("memory, in processes of their own")
        steps: dict[Kind, StepResult] = {}
        for kind in training:
            alone = train_alone(workload, kind, n_threads, seconds=0)
            steps[kind] = StepResult(
                precision="float32" if kind == "stock" else machine.precision,
                times=times[kind],
                cost=costs["stock" if kind == "stock" else "ndt"],
                peak_bytes=None if alone is None else alone.peak_bytes,
            )
    return BenchResult(workload, machine, steps, parts, inference, peaks)


def _check_bins(workload: Workload) -> None:
    if workload.n_bins > MOST_BINS:
        raise SettingsError(
            f"OpenVINO infers trials of up to {MOST_BINS} bins here, and these have "
            f"{workload.n_bins}",
            "leave out --openvino, or measure shorter ones with --bins",
        )
