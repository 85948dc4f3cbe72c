"""Time training steps and inference, beside the same model of stock PyTorch layers."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from ndt_cli.bench.reference import StockTraining
from ndt_cli.bench.result import INFERENCE_BATCH_SIZE, BenchResult, Kind, Machine, Times
from ndt_cli.bench.workload import Workload
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.backend import choose_backend
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.step import StepParts, make_optimizer
from ndt_cli.engine.streams import Streams
from ndt_cli.engine.trainer import new_network
from ndt_cli.engine.trial_set import TrialSet

Name = TypeVar("Name", bound=str)

# Before anything is timed. On a GPU, a step or an inference has been captured as a graph by then.
_WARM_UP = 5

# Inference of single trials: rounds, and how many trials are timed and not timed in each.
_N_ROUNDS, _IN_A_ROW, _UNTIMED = 40, 25, 3


def run_bench(
    workload: Workload, n_steps: int = 20, watch: Callable[[str], None] = lambda text: None
) -> BenchResult:
    """Measure training steps, inference and (on a GPU) memory of ndt and of the stock model.

    Parameters
    ----------
    workload : Workload
        Settings and size of the trials; ``train.device``, ``train.precision`` and
        ``train.n_threads`` apply as in a training run.
    n_steps : int
        Training steps of each kind.
    watch : callable, optional
        Called with a description of what is measured next.

    Raises
    ------
    SettingsError
        When stock layers cannot compute what the settings ask for, or memory is too small.
    DeviceError
        When this machine lacks the device or the precision.
    """
    compute = choose_compute(workload.settings.train)
    device = compute.device
    workload.check_memory(device)
    with (
        cpu_threads(workload.settings.train.n_threads) as n_threads,
        torch.random.fork_rng(devices=[]),  # stock layers draw from the global generator
    ):
        machine = Machine.here(compute, n_threads)
        data = workload.spikes()
        watch(f"training: {n_steps} steps of each model, in turn")
        _load_libraries(compute)
        ndt, ndt_bytes = _warmed_up(lambda: NdtTraining(workload, data, compute), device)
        stock, stock_bytes = _warmed_up(
            lambda: StockTraining(workload.settings, data, device), device
        )
        steps: dict[Kind, Callable[[], None]] = {"ndt": ndt.step, "stock": stock.step}
        step_times = time_in_turn(steps, device, n_rounds=n_steps)
        watch("inference")
        infer: dict[Kind, Callable[[Tensor], Tensor]]
        infer = {"ndt": ndt.infer(), "stock": stock.infer()}
        counts_BTN = torch.from_numpy(data.spikes_BTN)
        one_trial, batch = time_inference(infer, counts_BTN, device, n_rounds=max(3, n_steps // 4))
    peak_bytes: dict[Kind, int | None] = {"ndt": ndt_bytes, "stock": stock_bytes}
    return BenchResult(workload, machine, step_times, one_trial, batch, peak_bytes)


class NdtTraining:
    """Training of a `NeuralDataTransformer`, step by step, as a run trains it.

    Parameters
    ----------
    workload : Workload
        Settings.
    data : SpikeData
        Training trials.
    compute : Compute
        Device and precision.
    """

    def __init__(self, workload: Workload, data: SpikeData, compute: Compute) -> None:
        settings = workload.settings
        self.device = compute.device
        self.trials = TrialSet.load(data, self.device)
        self.backend = choose_backend(settings.train, compute)
        self.network = new_network(settings, data, self.backend.math).to(self.device)
        self.streams = Streams.from_seed(settings.train.seed, self.device)
        optimizer = make_optimizer(self.network.parameters(), settings, self.device)
        self._step = self.backend.training_step(
            StepParts(self.network, optimizer, settings, self.streams, Ranks())
        )
        self._batch_size = settings.train.batch_size
        self._batches: list[Tensor] = []
        # From this epoch to the end of a run, masks may span several bins.
        self._epoch = settings.mask.span_ramp_end_epoch

    def step(self) -> None:
        """Train on the next batch of shuffled trials."""
        if not self._batches:
            order = torch.randperm(
                len(self.trials), generator=self.streams.order, device=self.device
            )
            self._batches = list(order.split(self._batch_size))
        self._step(self.trials.take(self._batches.pop()), self._epoch)

    def infer(self) -> Callable[[Tensor], Tensor]:
        """Return the function from counts to rates, (B, T, N) in host memory, of these weights."""
        network, forward = self.network, self.backend.inference(self.network)
        return lambda counts_BTN: network.rates(forward(counts_BTN.to(self.device))).cpu()


# Timing


def time_in_turn(
    actions: Mapping[Name, Callable[[], object]],
    device: torch.device,
    *,
    n_rounds: int,
    in_a_row: int = 1,
    untimed: int = 0,
) -> dict[Name, Times]:
    """Time each action ``n_rounds`` times ``in_a_row``, with the device idle before and after.

    Actions alternate, so that other load on the machine affects all of them alike.

    Parameters
    ----------
    actions : mapping of callables
        What to time, by name.
    device : torch.device
        Where they compute.
    n_rounds : int
        Rounds; in each, every action has its turn.
    in_a_row, untimed : int
        Timed repeats of an action in its turn, after some untimed ones that fill the caches.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in actions}
    for _ in range(n_rounds):
        for name, action in actions.items():
            for _ in range(untimed):
                action()
            for _ in range(in_a_row):
                _synchronize(device)
                start = time.perf_counter()
                action()
                _synchronize(device)
                seconds[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def time_inference(
    infer: Mapping[Name, Callable[[Tensor], Tensor]],
    counts_BTN: Tensor,
    device: torch.device,
    n_rounds: int,
) -> tuple[dict[Name, Times], dict[Name, Times]]:
    """Time functions from counts to rates: of one trial, and of `INFERENCE_BATCH_SIZE` at once.

    Parameters
    ----------
    infer : mapping of callables
        From counts to rates, by name.
    counts_BTN : Tensor
        Trials in host memory, (B, T, N); repeated when there are fewer than a batch.
    device : torch.device
        Where they compute.
    n_rounds : int
        Rounds of the large batch; single trials have many more.

    Returns
    -------
    one_trial, batch : dict of Times
        By name.
    """
    one_1TN = counts_BTN[:1]
    batch_BTN = counts_BTN[torch.arange(INFERENCE_BATCH_SIZE) % len(counts_BTN)]
    with torch.inference_mode():
        for function in infer.values():
            for _ in range(_WARM_UP):
                function(one_1TN)
                function(batch_BTN)
        one_trial = time_in_turn(
            _called_with(infer, one_1TN),
            device,
            n_rounds=_N_ROUNDS,
            in_a_row=_IN_A_ROW,
            untimed=_UNTIMED,
        )
        batch = time_in_turn(_called_with(infer, batch_BTN), device, n_rounds=n_rounds)
    return one_trial, batch


def _called_with(
    functions: Mapping[Name, Callable[[Tensor], Tensor]], counts_BTN: Tensor
) -> dict[Name, Callable[[], Tensor]]:
    """Bind each function to these counts."""

    def bound(function: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: function(counts_BTN)

    return {name: bound(function) for name, function in functions.items()}


Training = TypeVar("Training", NdtTraining, StockTraining)


def _warmed_up(make: Callable[[], Training], device: torch.device) -> tuple[Training, int | None]:
    """Make a training and take its first steps; on a GPU, also return the peak memory of that."""
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    training = make()
    for _ in range(_WARM_UP):
        training.step()
    if device.type != "cuda":
        return training, None
    return training, torch.cuda.max_memory_allocated(device) - before


def _load_libraries(compute: Compute) -> None:
    """Multiply once, so that the working memory of the libraries is not counted."""
    for dtype in {torch.float32, compute.dtype}:
        weights = torch.ones(64, 64, dtype=dtype, device=compute.device, requires_grad=True)
        (weights @ weights).sum().backward()


def _synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
