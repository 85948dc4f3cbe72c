"""A network that a GPU infers with by CUDA graphs, without launching its kernels one by one."""

import torch
from torch import Tensor

from ndt_cli.engine.cuda_graphs import CudaGraphs
from ndt_cli.engine.recording import Record, Recording
from ndt_cli.model.network import NeuralDataTransformer

WARM_UP_PASSES = 2
"""Batches of a shape before it is recorded: libraries set themselves up in the first."""

# Shapes that are recorded; of each the input and the read-out are kept.
_MOST_KINDS = 8


class RecordedNetwork:
    """Gives what a `NeuralDataTransformer` gives without dropout.

    A shape of batch that comes again is recorded, and replayed from then on.

    Parameters
    ----------
    network : NeuralDataTransformer
        Changes of its weights, in place, are seen.
    record : callable, optional
        How a pass is recorded. Default: as CUDA graphs.
    """

    def __init__(self, network: NeuralDataTransformer, record: Record | None = None) -> None:
        self.network = network
        self._record = record or CudaGraphs(next(network.parameters()).device)
        self._n_seen: dict[tuple[object, ...], int] = {}
        self._replays: dict[tuple[object, ...], _Pass] = {}

    @torch.inference_mode()
    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`.

        Warns
        -----
        RunWarning
            Once, when a pass cannot be recorded; kernels are then launched one by one.
        """
        key = (input_BTN.shape, input_BTN.dtype, inside_BT is None)
        n_seen = self._n_seen[key] = self._n_seen.get(key, 0) + 1
        if (
            key not in self._replays
            and n_seen > WARM_UP_PASSES
            and len(self._replays) < _MOST_KINDS
        ):
            recorded = Recording.attempt(
                "inference", lambda: _Pass(self.network, self._record, input_BTN, inside_BT)
            )
            if recorded is not None:
                self._replays[key] = recorded
        if key in self._replays:
            return self._replays[key](input_BTN, inside_BT)
        output: Tensor = self.network(input_BTN, inside_BT)
        return output

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations; never recorded."""
        return self.network.encode(input_BTN, inside_BT)


class _Pass:
    """A recorded pass, the batch that it reads and the read-out that it writes."""

    def __init__(
        self,
        network: NeuralDataTransformer,
        record: Record,
        input_BTN: Tensor,
        inside_BT: Tensor | None,
    ) -> None:
        self._input_BTN = input_BTN.clone()
        self._inside_BT = None if inside_BT is None else inside_BT.clone()

        self._output: Tensor

        def once() -> None:
            self._output = network(self._input_BTN, self._inside_BT)

        self._replay = record(once, ())

    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None) -> Tensor:
        self._input_BTN.copy_(input_BTN)
        if self._inside_BT is not None and inside_BT is not None:
            self._inside_BT.copy_(inside_BT)
        self._replay()
        return self._output.clone()  # the next replay writes over it
