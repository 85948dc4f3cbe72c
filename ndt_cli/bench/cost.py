"""What a training step costs whatever the machine: floating-point operations, and memory.

Counted on PyTorch's meta device, which knows shapes and computes nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ndt_cli.bench.reference import StockModel
from ndt_cli.bench.workload import Workload
from ndt_cli.model.attention import Window
from ndt_cli.model.context import Blocks
from ndt_cli.model.network import ModelShape, NeuralDataTransformer


@dataclass(frozen=True)
class StepCost:
    """Cost of one training step.

    Attributes
    ----------
    flop : int
        In matrix products, forward and backward; a multiplication and an addition are two.
    saved_bytes : int
        What the forward pass keeps for the backward pass, and four numbers a weight: the weight,
        its gradient and AdamW's two moments.
    n_parameters : int
        Weights.
    """

    flop: int
    saved_bytes: int
    n_parameters: int


@lru_cache
def product_cost(workload: Workload, dtype: torch.dtype, device: torch.device) -> StepCost:
    """Return what a step of `NeuralDataTransformer` costs, scores outside the blocks left out.

    The fast path for CPUs rounds the width of its matrices up, which is not counted.
    """
    network = NeuralDataTransformer(workload.settings.model, _shape(workload))
    network.compute_dtype = dtype
    # As that device cuts trials.
    blocks = Blocks.for_context(network.context, workload.n_bins, device)
    window = network.windows(workload.n_bins, None, dtype, torch.device("meta"), blocks)
    return _cost(network, workload, window=window)


@lru_cache
def stock_cost(workload: Workload) -> StepCost:
    """Return what a step of `StockModel` costs."""
    return _cost(StockModel(workload.settings.model, _shape(workload)), workload)


def _shape(workload: Workload) -> ModelShape:
    return ModelShape(workload.n_neurons, workload.n_bins, max_count=1)


def _cost(model: nn.Module, workload: Workload, **more: Window) -> StepCost:
    model = model.to("meta").train()
    size = (workload.n_trials, workload.n_bins, workload.n_neurons)
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = model(torch.zeros(size, dtype=torch.uint8, device="meta"), **more)
        output.sum().backward()
    n_parameters = sum(p.numel() for p in model.parameters())
    n_bytes = sum(storage.nbytes() for storage in saved.values()) + 16 * n_parameters
    return StepCost(counter.get_total_flops(), n_bytes, n_parameters)
