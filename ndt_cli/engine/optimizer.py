"""The optimizer of a run and its learning rates."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ndt_cli.settings.tree import Settings, TrainSettings

# As in the reference implementation of Muon: how much of the momentum stays from step to step, and
# a polynomial whose repetition takes all singular values from 0.01 to 1 close to 1.
_MOMENTUM = 0.95
_POLYNOMIAL, _N_REPEATS = (3.4445, -4.7750, 2.0315), 5

# Learning rate of a matrix, relative to that of what AdamW trains. Chosen on premotor cortex and
# the chaotic RNN (see ndt_cli/bench/RESULTS.md).
_MATRIX_RATE = 10.0


class Muon(torch.optim.AdamW):
    """AdamW, but orthogonalized momentum for the matrices of the encoder's layers.

    The step of a matrix is its momentum with all singular values set to about 1, so that rare
    directions of the gradient are learned as fast as frequent ones (Jordan et al. 2024, "Muon: An
    optimizer for hidden layers in neural networks"). Embedding, read-out, norms and biases are left
    to AdamW. `make_optimizer` makes the groups of parameters.

    Parameters
    ----------
    groups : list of dict
        Groups as AdamW takes them. In one with ``n_blocks`` above 0 the parameters are matrices,
        and each has that number of blocks of rows, which are orthogonalized apart.
    options
        Of AdamW.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights; on the device, nothing changes where ``found_inf`` is 1."""
        for group in self.param_groups:
            if group["n_blocks"]:
                self._step_matrices(group)
        return super().step(closure)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Update a group of matrices, those of one shape together, and drop their gradients."""
        of_shape: dict[torch.Size, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            tensors = (parameter, parameter.grad, state["momentum"])
            for matrix in zip(*(t.chunk(group["n_blocks"]) for t in tensors), strict=True):
                of_shape[matrix[0].shape].append(matrix)
            parameter.grad = None  # AdamW then leaves it alone
        skip = getattr(self, "found_inf", None)
        for matrices in of_shape.values():
            weights, gradients, momenta = zip(*matrices, strict=True)
            n_out, n_in = weights[0].shape
            weight, gradient, before = map(torch.stack, (weights, gradients, momenta))
            momentum = _MOMENTUM * before + gradient
            step = orthogonalized(gradient + _MOMENTUM * momentum)
            step = step * (_MATRIX_RATE * max(1.0, n_out / n_in) ** 0.5)
            change = group["lr"] * (step + group["weight_decay"] * weight)
            if skip is not None:
                momentum = torch.where(skip > 0, before, momentum)
                change = torch.where(skip > 0, 0.0, change)
            torch._foreach_sub_(weights, list(change.unbind()))
            torch._foreach_copy_(momenta, list(momentum.unbind()))


def orthogonalized(matrices: Tensor) -> Tensor:
    """Set the singular values of matrices to about 1, by Newton-Schulz iterations.

    Parameters
    ----------
    matrices : (n, rows, columns) Tensor
        Of any scale; a matrix of zeros stays one.

    Returns
    -------
    (n, rows, columns) Tensor
        With the same singular vectors and values between 0.7 and 1.2, for all but the values below
        about a thousandth of the largest.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    a, b, c = _POLYNOMIAL
    for _ in range(_N_REPEATS):
        square = x @ x.mT
        x = a * x + torch.baddbmm(b * square, square, square, alpha=c) @ x
    result: Tensor = x.mT if is_tall else x
    return result


def make_optimizer(
    network: nn.Module, settings: Settings, device: torch.device
) -> torch.optim.AdamW:
    """Return the optimizer of the settings, as one fused kernel where possible.

    After a start from a run, read-in and read-out are a group apart from the encoder, with a rate
    of their own: see `set_learning_rate`.
    """
    train, on_gpu = settings.train, device.type == "cuda"
    groups: dict[tuple[bool, int], list[nn.Parameter]] = defaultdict(list)
    for name, weights in network.named_parameters():
        of_neurons = name.startswith(("embedding.table.", "embedding.projection.", "readout."))
        is_matrix = name.startswith("layers.") and weights.ndim == 2 and "relative" not in name
        n_blocks = 0
        if train.optimizer == "muon" and is_matrix:
            n_blocks = 3 if name.endswith("qkv.weight") else 1  # queries, keys and values
        groups[train.start_from is None or not of_neurons, n_blocks].append(weights)

    def rate() -> float | Tensor:  # a captured step reads the rates of its epoch from the device
        peak = train.learning_rate
        return torch.tensor(peak, dtype=torch.float32, device=device) if on_gpu else peak

    kind = Muon if train.optimizer == "muon" else torch.optim.AdamW
    return kind(
        [
            {"params": weights, "lr": rate(), "is_encoder": is_encoder, "n_blocks": n_blocks}
            for (is_encoder, n_blocks), weights in groups.items()
        ],
        lr=rate(),
        weight_decay=train.weight_decay,
        fused=device.type in ("cpu", "cuda"),
        capturable=on_gpu,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Set the learning rate of the steps that follow: of all, or of read-in and -out, encoder."""
    for group in optimizer.param_groups:
        rate = rates[-1] if group["is_encoder"] else rates[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_names(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[str, ...]:
    """Return the names of the tensors that an optimizer keeps for a parameter."""
    for group in optimizer.param_groups:
        if group.get("n_blocks") and any(parameter is other for other in group["params"]):
            return ("momentum",)
    return ("step", "exp_avg", "exp_avg_sq")


def learning_rate(epoch: int, settings: TrainSettings) -> float:
    """Return the learning rate of an epoch, counted from 0.

    1. Warm-up: rises linearly and reaches the peak in the last warm-up epoch.
    2. After it: stays, falls as a half cosine to zero at ``max_epochs``, or falls as
       ``sqrt(warmup_epochs / (epoch + 1))``, which starts at the peak. (NDT1 multiplies the
       inverse square root by the base rate twice.)
    """
    peak, warmup = settings.learning_rate, settings.warmup_epochs
    if epoch < warmup:
        return peak * (epoch + 1) / warmup
    if settings.schedule == "cosine":
        progress = (epoch - warmup) / (settings.max_epochs - warmup)
        return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    if settings.schedule == "inverse-sqrt":
        return peak * math.sqrt(warmup / (epoch + 1))
    return peak


def learning_rates(epoch: int, settings: TrainSettings) -> tuple[float, ...]:
    """Return the rate of all weights; after a start from a run, of read-in and -out, encoder.

    In the first ``frozen_share`` of the epochs only the read-in and the read-out learn. From then
    on everything does, at ``thawed_rate`` of the rate.
    """
    rate = learning_rate(epoch, settings)
    if settings.start_from is None:
        return (rate,)
    if epoch < round(settings.frozen_share * settings.max_epochs):
        # At a rate of zero the optimizer changes nothing, and decays nothing.
        return rate, 0.0
    return rate * settings.thawed_rate, rate * settings.thawed_rate
