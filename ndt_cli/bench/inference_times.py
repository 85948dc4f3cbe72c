"""How long rates take: one trial at a time, and many at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ndt_cli.bench.reference import StockModel
from ndt_cli.bench.timing import Times, time_in_turn
from ndt_cli.engine.cuda_graphs import WARM_UP_PASSES
from ndt_cli.engine.trained_model import inferring
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
    many : Times or None
        Of `BATCH_SIZE` trials at once; None where that is not what infers them.
    """

    one: Times
    many: Times | None

    @property
    def trials_per_s(self) -> float | None:
        """In batches."""
        return None if self.many is None else BATCH_SIZE / (self.many.median_ms / 1000)


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
    infer: Mapping[InferenceKind, Callable[[Tensor], Tensor]],
    counts_BTN: Tensor,
    device: torch.device,
    n_rounds: int,
) -> dict[InferenceKind, InferenceTimes]:
    """Time functions from counts to rates, in turn.

    Parameters
    ----------
    infer : mapping of callables
        By kind.
    counts_BTN : Tensor
        Trials, on the host; repeated where there are fewer than `BATCH_SIZE`.
    device : torch.device
        Where they compute.
    n_rounds : int
        Turns of the large batch; single trials have many more.
    """
    single_1TN = counts_BTN[:1]
    many_BTN = counts_BTN[torch.arange(BATCH_SIZE) % len(counts_BTN)]

    with torch.inference_mode():
        singles = {kind: _bound(function, single_1TN) for kind, function in infer.items()}
        one = time_in_turn(singles, device, n_rounds=_TURNS, in_a_row=_IN_A_ROW, untimed=_UNTIMED)
        batches: dict[InferenceKind, Callable[[], object]] = {
            kind: _bound(function, many_BTN)
            for kind, function in infer.items()
            if kind != "openvino"
        }
        # On a GPU passes are recorded before they are timed.
        warm_up = WARM_UP_PASSES + 1 if device.type == "cuda" else 1
        many = time_in_turn(batches, device, n_rounds=n_rounds, warm_up=warm_up)
    return {kind: InferenceTimes(one[kind], many.get(kind)) for kind in infer}


def _bound(function: Callable[[Tensor], Tensor], counts_BTN: Tensor) -> Callable[[], object]:
    return lambda: function(counts_BTN)
