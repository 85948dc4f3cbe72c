"""Ways to compute a network: which layers, which training step, which way to infer.

Three ways exist, each with a home of its own: PyTorch's operations with automatic gradients (here),
kernels for CPUs (`ndt_cli.engine.cpu_parallel`) and CUDA graphs (`ndt_cli.engine.cuda_graphs`).
All train to the same weights but for rounding.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ndt_cli.engine.cpu_parallel import CpuBackend
from ndt_cli.engine.cuda_graphs import CudaGraphBackend
from ndt_cli.engine.device import Compute
from ndt_cli.engine.step import StepParts, TrainingStep
from ndt_cli.model.network import LayerMath, NeuralDataTransformer, PlainMath
from ndt_cli.settings.tree import TrainSettings


class Inference(Protocol):
    """A network that infers: nothing is dropped, and no gradients are kept."""

    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`."""

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations, (B, T, D)."""


class Backend(Protocol):
    """One way to compute a network on one kind of device."""

    @property
    def math(self) -> LayerMath:
        """How the layers of the network are computed."""

    def training_step(self, parts: StepParts) -> TrainingStep:
        """Return what takes the training steps of a run."""

    def inference(self, network: NeuralDataTransformer) -> Inference:
        """Return what infers with a network; its weights must stay as they are."""


@dataclass(frozen=True)
class PlainBackend:
    """PyTorch's own operations with automatic gradients: the reference, on any device."""

    dtype: torch.dtype

    @property
    def math(self) -> LayerMath:
        return PlainMath(self.dtype)

    def training_step(self, parts: StepParts) -> TrainingStep:
        return TrainingStep(parts)

    def inference(self, network: NeuralDataTransformer) -> Inference:
        return network


def choose_backend(settings: TrainSettings, compute: Compute, world_size: int = 1) -> Backend:
    """Return the fastest way to compute that the settings allow.

    Parameters
    ----------
    settings : TrainSettings
        ``plain_layers`` and ``cuda_graph`` rule out the faster ways.
    compute : Compute
        Device and dtype.
    world_size : int
        Number of processes that train together. They wait for one another within a step, so a
        step is neither captured as a CUDA graph nor shared among CPU threads.
    """
    kind = compute.device.type
    if kind == "cpu" and not settings.plain_layers:
        return CpuBackend(compute.dtype, shares_steps=world_size == 1)
    if kind == "cuda" and settings.cuda_graph:
        return CudaGraphBackend(compute.dtype, captures_steps=world_size == 1)
    return PlainBackend(compute.dtype)
