"""Training steps in a process of their own: its memory is theirs alone."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

import torch

from ndt_cli.bench.memory import PeakMemory
from ndt_cli.bench.product import ProductTraining
from ndt_cli.bench.reference import StockTraining
from ndt_cli.bench.timing import Times, time_in_turn
from ndt_cli.bench.workload import Workload
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.cuda_graphs import WARM_UP_STEPS
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.memory import ran_out_of_memory

Kind = Literal["ndt", "plain", "stock"]
"""What trains: this package, the same with ``train.plain_layers``, the stock reference."""

_MOST_STEPS = 20


@dataclass(frozen=True)
class Alone:
    """What training steps took.

    Attributes
    ----------
    times : Times
        Of the steps after the first.
    peak_bytes : int or None
        Most memory beyond what the process held before: weights, optimizer, trials, and what a
        step computes. None where the system does not tell.
    """

    times: Times
    peak_bytes: int | None


def make_training(
    kind: Kind, workload: Workload, data: SpikeData, compute: Compute
) -> ProductTraining | StockTraining:
    """Return what takes training steps of this kind."""
    if kind == "stock":
        return StockTraining(workload.settings, data, compute.device)
    if kind == "plain":
        workload = workload.with_setting("train", plain_layers=True)
    return ProductTraining(workload, data, compute)


def train_alone(workload: Workload, kind: Kind, n_threads: int, seconds: float) -> Alone | None:
    """Take training steps in a fresh process.

    Parameters
    ----------
    workload : Workload
        Settings and size.
    kind : {"ndt", "plain", "stock"}
        What trains.
    n_threads : int
        CPU threads.
    seconds : float
        Time to spend on steps: there are at least two of them, and at most 20.

    Returns
    -------
    Alone, or None where memory ran out.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_train, workload, kind, n_threads, seconds).result()
        except BrokenProcessPool:  # as when the system ends the process that takes most memory
            return None


def _train(workload: Workload, kind: Kind, n_threads: int, seconds: float) -> Alone | None:
    compute = choose_compute(workload.settings.train)
    with cpu_threads(n_threads):
        data = workload.spikes()
        _load_libraries(compute)
        memory = PeakMemory(compute.device)
        try:
            training = make_training(kind, workload, data, compute)
            for _ in range(WARM_UP_STEPS + 2 if compute.device.type == "cuda" else 1):
                training.step()
            action = {kind: training.step}
            first = time_in_turn(action, compute.device, n_rounds=1, warm_up=0)[kind].seconds[0]
            n_more = max(1, min(_MOST_STEPS - 1, int(seconds / first)))
            more = time_in_turn(action, compute.device, n_rounds=n_more, warm_up=0)[kind].seconds
        except (MemoryError, RuntimeError) as error:
            if ran_out_of_memory(error):
                return None
            raise
        return Alone(Times((first, *more)), memory.n_bytes())


def _load_libraries(compute: Compute) -> None:
    """Multiply once, so that what the libraries take for themselves is not counted."""
    for dtype in {torch.float32, compute.dtype}:
        weights = torch.ones(64, 64, dtype=dtype, device=compute.device, requires_grad=True)
        (weights @ weights).sum().backward()
