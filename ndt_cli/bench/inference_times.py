"""How long rates take: one trial at a time, and many at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ndt_cli.bench.reference import StockModel
from ndt_cli.bench.timing import Name, Times, time_in_turn
from ndt_cli.engine.fast_inference import inferring
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.settings.tree import TrainSettings

InferenceKind = Literal["ndt", "openvino", "stock"]
"""What infers: this package, the same with OpenVINO for single trials, the stock reference."""

BATCH_SIZE = 256
"""Trials inferred at once."""

# Single trials: turns, and trials timed and not timed in each.
_TURNS, _IN_A_ROW, _UNTIMED = 40, 25, 3


@dataclass(frozen=True)
class InferenceTimes:
    """Rates of whole trials, from counts on the host to rates on the host.

    Attributes
    ----------
    one : Times
        Of one trial.
    many : Times
        Of `BATCH_SIZE` trials at once.
    """

    one: Times
    many: Times

    @property
    def trials_per_s(self) -> float:
        return BATCH_SIZE / (self.many.median_ms / 1000)


def product_rates(
    network: NeuralDataTransformer,
    settings: TrainSettings,
    device: torch.device,
    *,
    openvino: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Return the function by which a trained model infers rates, from host to host."""
    forward = inferring(network, settings, device, openvino=openvino)
    return lambda counts_BTN: network.rates(forward(counts_BTN.to(device), None)).cpu()


def stock_rates(model: StockModel, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the same of the reference, with its dropout off."""
    model.eval()
    return lambda counts_BTN: model.rates(model(counts_BTN.to(device))).cpu()


def time_inference(
    infer: Mapping[Name, Callable[[Tensor], Tensor]],
    counts_BTN: Tensor,
    device: torch.device,
    n_rounds: int,
) -> dict[Name, InferenceTimes]:
    """Time functions from counts to rates, in turn.

    Parameters
    ----------
    infer : mapping of callables
        By name.
    counts_BTN : Tensor
        Trials, on the host; repeated where there are fewer than `BATCH_SIZE`.
    device : torch.device
        Where they compute.
    n_rounds : int
        Turns of the large batch; single trials have many more.
    """
    single_1TN = counts_BTN[:1]
    many_BTN = counts_BTN[torch.arange(BATCH_SIZE) % len(counts_BTN)]

    def calls(counts_BTN: Tensor) -> dict[Name, Callable[[], object]]:
        return {name: _bound(function, counts_BTN) for name, function in infer.items()}

    with torch.inference_mode():
        one = time_in_turn(
            calls(single_1TN), device, n_rounds=_TURNS, in_a_row=_IN_A_ROW, untimed=_UNTIMED
        )
        many = time_in_turn(calls(many_BTN), device, n_rounds=n_rounds, warm_up=1)
    return {name: InferenceTimes(one[name], many[name]) for name in infer}


def _bound(function: Callable[[Tensor], Tensor], counts_BTN: Tensor) -> Callable[[], object]:
    return lambda: function(counts_BTN)
