"""Time training steps and inference, beside the same model of stock PyTorch layers.

Axes: B trials, T bins, N neurons, D width of the encoder.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ndt_cli.bench.workload import INFERENCE_BATCH_SIZE, BenchResult, Kind, Machine, Times, Workload
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.engine.backend import choose_backend
from ndt_cli.engine.batches import Streams, TrialSet
from ndt_cli.engine.device import Compute, choose_compute, cpu_threads
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.optimizer import make_optimizer
from ndt_cli.engine.step import StepParts
from ndt_cli.engine.trainer import new_network
from ndt_cli.errors import SettingsError
from ndt_cli.model.context import Blocks, Context
from ndt_cli.model.embedding import encoder_width, sinusoid_TD
from ndt_cli.model.network import ModelShape
from ndt_cli.settings.tree import ModelSettings, Settings

Name = TypeVar("Name", bound=str)

# Before anything is timed. On a GPU, a step or an inference has been captured as a graph by then.
_WARM_UP = 5

# Inference of single trials: rounds, and how many trials are timed and not timed in each.
_N_ROUNDS, _IN_A_ROW, _UNTIMED = 40, 25, 3


def run_bench(
    workload: Workload, n_steps: int = 20, watch: Callable[[str], None] = lambda text: None
) -> BenchResult:
    """Measure training steps, inference and (on a GPU) memory of ndt and of the stock model."""
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
    """Training of a `NeuralDataTransformer`, step by step, as a run trains it."""

    def __init__(self, workload: Workload, data: SpikeData, compute: Compute) -> None:
        settings = workload.settings
        self.device = compute.device
        self.trials = TrialSet.load(data, self.device)
        self.backend = choose_backend(settings.train, compute)
        self.network = new_network(settings, data, self.backend.math).to(self.device)
        self.streams = Streams.from_seed(settings.train.seed, self.device)
        optimizer = make_optimizer(self.network, settings, self.device)
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

    Actions alternate, so that other load on the machine affects all of them alike; ``untimed``
    repeats fill the caches first.
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
    """Time functions from counts to rates: of one trial, and of `INFERENCE_BATCH_SIZE` at once."""
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


Training = TypeVar("Training", NdtTraining, "StockTraining")


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


# ------------------------------------------------------------------------------------------------
# The baseline: the same model of stock PyTorch layers, `torch.nn.TransformerEncoder` and a
# `DataLoader`, in eager mode and float32. It computes what the settings ask for, dropout included.
# ------------------------------------------------------------------------------------------------


class StockModel(nn.Module):
    """Stock layers with the sizes, context window and dropout of a `NeuralDataTransformer`."""

    positions: Tensor | None
    added_HTS: Tensor

    def __init__(self, settings: ModelSettings, shape: ModelShape) -> None:
        super().__init__()
        if settings.norm != "layer" or settings.loss != "poisson" or settings.readout != "linear":
            raise SettingsError(
                "The stock model has LayerNorm, the Poisson loss and a linear readout; found "
                f'model.norm = "{settings.norm}", model.loss = "{settings.loss}" and '
                f'model.readout = "{settings.readout}".',
                "Use `model.norm=layer`, `model.loss=poisson` and `model.readout=linear`.",
            )
        self.settings = settings
        width = encoder_width(settings, shape.n_neurons)
        self.width = width
        if settings.embedding == "count-table":
            self.embed: nn.Module = nn.Embedding(shape.max_count + 4, settings.embedding_size)
        elif settings.embedding == "linear":
            self.embed = nn.Linear(shape.n_neurons, width)
        else:
            self.embed = nn.Identity()
        if settings.positions == "learned":
            self.positions = nn.Parameter(0.1 * torch.randn(shape.n_bins, width))
        elif settings.positions == "sinusoid":
            offset = int(settings.position_offset)
            self.register_buffer("positions", sinusoid_TD(shape.n_bins, width, offset))
        else:
            self.positions = None
        layer = nn.TransformerEncoderLayer(
            width,
            settings.n_heads,
            settings.feedforward_size,
            settings.dropout,
            settings.activation,
            batch_first=True,
            norm_first=settings.norm_place == "pre",
        )
        self.encoder = nn.TransformerEncoder(
            layer, settings.n_layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.drop_embedding = nn.Dropout(settings.dropout_embedding)
        self.drop_rates = nn.Dropout(settings.dropout_rates)
        self.readout = nn.Linear(width, shape.n_neurons)
        context = Context.from_settings(settings)
        blocked_TS = ~context.allowed_TS(shape.n_bins)
        distance_KCW = Blocks.whole(shape.n_bins).distance_KCW(blocked_TS.device)
        added_HTS = context.lowered(distance_KCW)[0].masked_fill(blocked_TS, -math.inf)
        self.register_buffer("added_HTS", added_HTS)

    def forward(self, input_BTN: Tensor) -> Tensor:
        """Return log-rates (rates without ``model.log_rates``) of counts; both (B, T, N)."""
        if self.settings.embedding == "count-table":
            x_BTD = self.embed(input_BTN.long()).flatten(-2)
        else:
            x_BTD = self.embed(input_BTN.float())
        if x_BTD.shape[-1] < self.width:
            x_BTD = F.pad(x_BTD, (0, self.width - x_BTD.shape[-1]))
        x_BTD = x_BTD * math.sqrt(self.width)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions
        added = self.added_HTS
        # One mask for all, or one for each trial and head.
        added = added[0] if len(added) == 1 else added.repeat(len(x_BTD), 1, 1)
        # Without `is_causal=False` the encoder compares the mask with a causal one: a GPU sync.
        x_BTD = self.encoder(self.drop_embedding(x_BTD), mask=added, is_causal=False)
        output_BTN: Tensor = self.readout(self.drop_rates(x_BTD))
        return output_BTN if self.settings.log_rates else output_BTN.relu()

    def rates(self, output_BTN: Tensor) -> Tensor:
        """Turn the output into rates, (B, T, N) in expected spikes per bin."""
        return output_BTN.exp() if self.settings.log_rates else output_BTN


class StockTraining:
    """Training of a `StockModel`, step by step: shuffled trials, masked Poisson loss, AdamW.

    Whole bins are masked and replaced by zeros, whatever masking the settings ask for.
    """

    def __init__(self, settings: Settings, data: SpikeData, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        shape = ModelShape(data.n_neurons, data.n_bins, data.max_count)
        self.model = StockModel(settings.model, shape).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.train.learning_rate,
            weight_decay=settings.train.weight_decay,
        )
        # Held-out neurons and forward bins are always masked, and always predicted.
        unseen_TN = torch.zeros(data.n_bins, data.n_neurons, dtype=torch.bool)
        unseen_TN[:, data.n_neurons - data.n_heldout :] = True
        unseen_TN[data.n_bins - data.n_forward :] = True
        self.unseen_TN = unseen_TN.to(device)
        self.loader = DataLoader(
            TensorDataset(torch.from_numpy(data.spikes_BTN)),
            batch_size=settings.train.batch_size,
            shuffle=True,
        )
        self._batches = iter(self.loader)

    def step(self) -> None:
        """Train on the next batch of shuffled trials."""
        try:
            (counts_BTN,) = next(self._batches)
        except StopIteration:
            self._batches = iter(self.loader)
            (counts_BTN,) = next(self._batches)
        counts_BTN = counts_BTN.to(self.device)
        hidden_BT = torch.rand(counts_BTN.shape[:2], device=self.device) < self.settings.mask.ratio
        scored_BTN = hidden_BT[..., None] | self.unseen_TN
        output_BTN = self.model(counts_BTN.masked_fill(scored_BTN, 0))
        loss_BTN = F.poisson_nll_loss(
            output_BTN, counts_BTN, log_input=self.settings.model.log_rates, reduction="none"
        )
        # In a small batch, nothing may be masked.
        loss = (loss_BTN * scored_BTN).sum() / scored_BTN.sum().clamp_min(1)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.train.clip_norm)
        self.optimizer.step()

    def infer(self) -> Callable[[Tensor], Tensor]:
        """Return the function from counts to rates, (B, T, N) in host memory, of these weights."""
        model = self.model.eval()
        return lambda counts_BTN: model.rates(model(counts_BTN.to(self.device))).cpu()
