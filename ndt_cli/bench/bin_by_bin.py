"""Time rates bin by bin, beside inferring a window of bins for each new bin.

Axes: B trials, T bins, N neurons.
"""

import gc
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndt_cli.bench.measure import StockModel
from ndt_cli.bench.workload import Machine, Times, Workload
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.backend import choose_backend
from ndt_cli.engine.device import choose_compute, cpu_threads
from ndt_cli.engine.run_folder import SplitFacts
from ndt_cli.engine.streaming import RateStream
from ndt_cli.engine.trainer import new_network
from ndt_cli.errors import SettingsError
from ndt_cli.model.network import ModelShape

# Rounds, in which what is compared takes turns, and windows that are inferred in each.
_N_ROUNDS, _WINDOWS_IN_A_ROW = 100, 5
# Before anything is timed; and in each turn, bins until the caches hold what they need: the turn
# before has filled them with its own.
_WARM_UP, _MOST_WARM_UP_OF_TURN = 50, 20
# Of the bins, but no more than this, one after another at the pace of a recording.
_SHARE_PACED, _MOST_PACED = 0.005, 500
# Of the bins, beside each busy neighbor.
_SHARE_BUSY = 0.25
# Copies 32 MB over and over: takes its core, and the cache that cores share.
_NEIGHBOR = "data = bytearray(2**25)\nwhile True: data[:] = bytes(data)"


@dataclass(frozen=True)
class StreamBenchResult:
    """Times for a new bin: bin by bin, or by inferring a window of bins that ends with it.

    Attributes
    ----------
    workload : Workload
    machine : Machine
    lag_bins : int
        Bins that the model looks ahead: a delay beside that of computing.
    times : dict of str to Times
        What was timed: ``stream``; ``plain loop``, as many products of a matrix and a vector as
        take as long as a bin, which shows what of the slowest bins is the machine's; of ndt and of
        the stock layers the window of all bins that matter to a bin, and the window of one layer,
        which gives other rates. Also the stream and the plain loop as a recording calls them, with
        a pause until the next bin, in which caches are lost; and, on Linux, beside a busy process
        on another core, if there is one, and on the same core.
    processor_times : dict of str to Times
        The same without waiting: what the thread itself computed, whatever else ran beside it.
    window_bins : dict of str to int
        Bins of each window.
    n_bytes : int
        Of the stream's weights and of what it remembers.
    grown_bytes : int or None
        What the process took from the first timed bin to the last; None where that is not known.
    """

    workload: Workload
    machine: Machine
    lag_bins: int
    times: dict[str, Times]
    processor_times: dict[str, Times]
    window_bins: dict[str, int]
    n_bytes: int
    grown_bytes: int | None

    def speedup(self, name: str) -> float:
        """Return how many times as fast as this the stream is (medians of processor times)."""
        return self.processor_times[name].median_ms / self.processor_times["stream"].median_ms

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        percents = {"p50_ms": 50, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
        return {
            "workload": {
                "name": self.workload.name,
                "n_neurons": self.workload.n_neurons,
                "model": self.workload.settings.model.model_dump(mode="json"),
            },
            "machine": asdict(self.machine),
            "lag_bins": self.lag_bins,
            "n_bytes": self.n_bytes,
            "grown_bytes": self.grown_bytes,
            "times": {
                name: {
                    "n": len(times.seconds),
                    "window_bins": self.window_bins.get(name, 1),
                    **{key: times.percentile_ms(percent) for key, percent in percents.items()},
                    "processor": {
                        key: self.processor_times[name].percentile_ms(percent)
                        for key, percent in percents.items()
                    },
                    "stream_speedup": self.speedup(name),
                }
                for name, times in self.times.items()
            },
        }


def run_stream_bench(
    workload: Workload, n_bins: int = 100_000, watch: Callable[[str], None] = lambda text: None
) -> StreamBenchResult:
    """Time ``n_bins`` bins of a stream, and windows of ndt and of stock layers in between.

    Then a quarter as many beside each busy neighbor. On one CPU thread. The stock model has no
    relative positions: they are left out there.

    Raises
    ------
    SettingsError
        If the model knows bins by their position in a trial, which a stream outgrows.
    """
    settings = workload.settings
    model = settings.model
    if model.positions in ("learned", "sinusoid") or model.context_back < 0:
        raise SettingsError(
            f"{workload.name} cannot be measured bin by bin for long: its model ends with the "
            "trained trial",
            "Use `model.positions=relative` and a `model.context_back`, as the preset "
            "recordings-causal has.",
        )
    compute = choose_compute(settings.train.model_copy(update={"device": "cpu"}))
    counts_TN = workload.spikes().spikes_BTN.reshape(-1, workload.n_neurons)
    with cpu_threads(1), torch.random.fork_rng(devices=[]), torch.inference_mode():
        one = SpikeData(counts_TN[None], settings.data.bin_ms or 20.0, np.array([len(counts_TN)]))
        network = new_network(settings, one, choose_backend(settings.train, compute).math)
        stream = RateStream([(network, settings.mask)], SplitFacts.of(one), workload.name)
        forward = choose_backend(settings.train, compute).inference(network)
        of_layer = model.context_back + 1 + model.context_forward
        windows = {"all": model.n_layers * (of_layer - 1) + 1, "of a layer": of_layer}
        bins: dict[str, Callable[[int], object]] = {
            "stream": lambda t: stream.step(counts_TN[t % len(counts_TN)])
        }
        bins["plain loop"] = _plain_loop_as_long_as(bins["stream"])
        actions: dict[str, Callable[[int], object]] = {}
        window_bins: dict[str, int] = {}
        for name, n in windows.items():
            stock = StockModel(model, ModelShape(workload.n_neurons, n, one.max_count)).eval()
            for kind, infer in (
                ("ndt", lambda x, f=forward: network.rates(f(x))),
                ("stock", lambda x, f=stock: f.rates(f(x))),
            ):
                actions[f"{kind}, {name}"] = _last_of(infer, counts_TN[:n])
                window_bins[f"{kind}, {name}"] = n
        watch(f"{n_bins} bins")
        seconds, grown = _timed({**bins, **actions}, n_bins)
        bin_ms = one.bin_ms
        n_paced = min(_MOST_PACED, math.ceil(n_bins * _SHARE_PACED))
        watch(f"{n_paced} bins, one every {bin_ms:g} ms")
        for name, action in bins.items():
            seconds[f"{name}, one every {bin_ms:g} ms"] = _paced(action, bin_ms / 1000, n_paced)
        for where, cpus in _neighbors().items():
            watch(f"beside a busy process on {where}")
            with _busy_neighbor(*cpus):
                found, _ = _timed(bins, math.ceil(n_bins * _SHARE_BUSY))
            seconds |= {f"{name}, {where} busy": both for name, both in found.items()}
    times, processor = (
        {name: Times(tuple(both[:, clock].tolist())) for name, both in seconds.items()}
        for clock in (0, 1)
    )
    machine = Machine.here(compute, 1)
    return StreamBenchResult(
        workload, machine, stream.lag_bins, times, processor, window_bins, stream.n_bytes, grown
    )


def _last_of(
    infer: Callable[[torch.Tensor], torch.Tensor], window_TN: NDArray[Any]
) -> Callable[[int], object]:
    return lambda t: infer(torch.from_numpy(window_TN)[None])[0, -1].numpy()


def _plain_loop_as_long_as(action: Callable[[int], object]) -> Callable[[int], object]:
    """Return products of a matrix and a vector that take together as long as a call of this."""
    matrix, vector = np.ones((64, 65), dtype=np.float32), np.ones(65, dtype=np.float32)
    out = np.zeros(64, dtype=np.float32)

    def multiply(n: int) -> None:
        for _ in range(n):
            matrix.dot(vector, out)

    both, _ = _timed({"action": action, "ten": lambda t: multiply(10)}, 10 * _WARM_UP)
    action_s, ten_s = (np.median(seconds[:, 1]) for seconds in both.values())
    n = max(1, round(10 * float(action_s / ten_s)))
    return lambda t: multiply(n)


def _timed(
    actions: dict[str, Callable[[int], object]], n_bins: int
) -> tuple[dict[str, NDArray[np.float64]], int | None]:
    """Let them take turns; return of each the seconds on the clock and of the processor, (n, 2).

    Those of windows, by their names, are called less often. Also returns the bytes by which the
    process has grown.
    """
    n_rounds = min(_N_ROUNDS, n_bins)
    rounds = np.linspace(0, n_bins, n_rounds + 1).astype(int).tolist()
    windows = range(0, n_rounds * _WINDOWS_IN_A_ROW + 1, _WINDOWS_IN_A_ROW)
    turns = {name: windows if "," in name else rounds for name in actions}
    # Filled, so that their memory is taken before the first bin.
    seconds = {name: np.full((turns[name][-1], 2), np.nan) for name in actions}
    for action in actions.values():
        for _ in range(_WARM_UP):
            action(0)
    gc.collect()
    gc.disable()
    before = _resident_bytes()
    try:
        for i in range(n_rounds):
            for name, action in actions.items():
                turn = range(turns[name][i], turns[name][i + 1])
                for t in turn[: min(_MOST_WARM_UP_OF_TURN, len(turn) // 4)]:
                    action(t)
                for t in turn:
                    seconds[name][t] = _time(action, t)
        after = _resident_bytes()
    finally:
        gc.enable()
    return seconds, None if before is None or after is None else after - before


def _time(action: Callable[[int], object], t: int) -> tuple[float, float]:
    """Return the seconds of a call on the clock, and of the processor."""
    own, start = time.thread_time(), time.perf_counter()
    action(t)
    stop = time.perf_counter()
    return stop - start, time.thread_time() - own


def _paced(action: Callable[[int], object], pause_s: float, n_bins: int) -> NDArray[np.float64]:
    """Time calls of which each waits for its moment, as `_timed` does."""
    first, seconds = time.perf_counter(), np.full((n_bins, 2), np.nan)
    for t in range(n_bins):
        time.sleep(max(0.0, first + t * pause_s - time.perf_counter()))
        seconds[t] = _time(action, t)
    return seconds


def _neighbors() -> dict[str, tuple[int, set[int]]]:
    """Return where a neighbor can be put: the own CPU, and those of the neighbor."""
    if not hasattr(os, "sched_getaffinity"):
        return {}
    own, *others = sorted(os.sched_getaffinity(0))
    found = {"another core": (own, set(others))} if others else {}
    return {**found, "the same core": (own, {own})}


@contextmanager
def _busy_neighbor(own: int, cpus: set[int]) -> Iterator[None]:
    """Keep to one CPU, and have these CPUs kept busy by another process, one at a time."""
    before = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", _NEIGHBOR]) as neighbor:
        try:
            os.sched_setaffinity(neighbor.pid, cpus)
            os.sched_setaffinity(0, {own})
            yield
        finally:
            neighbor.kill()
            os.sched_setaffinity(0, before)


def _resident_bytes() -> int | None:
    """Return the memory of this process; None where Linux does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096
    except OSError:
        return None
