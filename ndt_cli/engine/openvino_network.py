"""Single trials inferred by OpenVINO, which does in one call what PyTorch does in two hundred."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from ndt_cli.engine.cuda_graphs import RecordedNetwork
from ndt_cli.engine.openvino_graph import build_graph
from ndt_cli.errors import DeviceError, MissingExtraError
from ndt_cli.model.cpu.prepared import PreparedNetwork
from ndt_cli.model.network import NeuralDataTransformer

MOST_BINS = 256
"""Of a trial; longer ones are cut into blocks, of which most pairs of bins need no score."""

MOST_LENGTHS = 32
"""Lengths of trials that a graph is made for; each holds a copy of the weights."""

_REPORTER = "openvino_telemetry"


def require_openvino(device: torch.device) -> None:
    """Check that OpenVINO can infer on a device.

    Raises
    ------
    DeviceError
        When it is not a CPU.
    MissingExtraError
        When OpenVINO is not installed.
    """
    if device.type != "cpu":
        raise DeviceError(
            f"OpenVINO infers on a CPU here, and the device is {device}", "ask for the device cpu"
        )
    found = find_spec("openvino")
    if found is None or found.origin is None:  # the second: a folder of that name lies about
        raise MissingExtraError(
            "OpenVINO is not installed", 'install it with: pip install "ndt-cli[openvino]"'
        )


def _load_openvino() -> Any:
    """Import OpenVINO, without what reports its use over the network."""
    if _REPORTER in sys.modules:
        return import_module("openvino")
    # To be told that the reporter is not installed is what it does without.
    sys.modules[_REPORTER] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    finally:
        del sys.modules[_REPORTER]


@cache
def _core() -> Any:
    """Return the one that compiles all graphs.

    Each has a stack for signal handlers of its own, and puts the one before it back when it ends:
    of two, the first to end leaves the other with memory that is gone, and the next Ctrl-C crashes.
    """
    return _load_openvino().Core()


class OpenVinoNetwork:
    """Gives what a `NeuralDataTransformer` gives without dropout; a single trial by OpenVINO.

    A graph is made for a length of trial when it first comes, which takes some tenths of a second.
    One thread computes it; threads that call it wait for one another.

    Parameters
    ----------
    network : NeuralDataTransformer
        On a CPU. Its weights must stay as they are.
    otherwise : NeuralDataTransformer, PreparedNetwork or RecordedNetwork
        Infers with that network what OpenVINO does not: several trials at once, more than
        `MOST_BINS` bins, further lengths than `MOST_LENGTHS`, and activations.

    Raises
    ------
    DeviceError, MissingExtraError
        See `require_openvino`.
    """

    def __init__(
        self,
        network: NeuralDataTransformer,
        otherwise: NeuralDataTransformer | PreparedNetwork | RecordedNetwork,
    ) -> None:
        require_openvino(next(network.parameters()).device)
        self.network = network
        self.otherwise = otherwise
        self._openvino = _load_openvino()
        self._requests: dict[int, _Request] = {}
        self._lock = Lock()  # a request has one place for counts, and one for its output

    @property
    def lengths(self) -> tuple[int, ...]:
        """Bins of the trials that graphs were made for."""
        return tuple(self._requests)

    def __call__(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the read-out; parameters as in `NeuralDataTransformer.forward`."""
        n_trials, n_bins, _ = input_BTN.shape
        if n_trials != 1:
            return self.otherwise(input_BTN, inside_BT)
        # Padding comes last, and nobody reads what is inferred there.
        length = n_bins if inside_BT is None else int(inside_BT.sum())
        with self._lock:
            request = self._request(length) if 0 < length <= MOST_BINS else None
            if request is None:
                return self.otherwise(input_BTN, inside_BT)
            output = request(input_BTN[:, :length])
        output = nn.functional.pad(output, (0, 0, 0, n_bins - length))
        n_classes = self.network.readout.n_classes
        return output if n_classes is None else output.unflatten(-1, (-1, n_classes))

    def encode(self, input_BTN: Tensor, inside_BT: Tensor | None = None) -> Tensor:
        """Return the encoder's activations, (B, T, D) float32."""
        return self.otherwise.encode(input_BTN, inside_BT)

    def _request(self, n_bins: int) -> "_Request | None":
        if n_bins not in self._requests and len(self._requests) < MOST_LENGTHS:
            graph = build_graph(self._openvino, self.network, n_bins)
            how = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": 1,
                # Which processor a thread runs on is not this library's to decide.
                "ENABLE_CPU_PINNING": False,
                # What is in bfloat16 says so in the graph.
                "INFERENCE_PRECISION_HINT": "f32",
            }
            self._requests[n_bins] = _Request(_core().compile_model(graph, "CPU", how))
        return self._requests.get(n_bins)


class _Request:
    """A compiled graph, with the memory that it reads counts from and writes its output to."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        # Handing arrays over at each call takes longer than copying numbers.
        self._counts_1TN = self._request.get_input_tensor().data
        self._output = self._request.get_output_tensor().data

    def __call__(self, input_1TN: Tensor) -> Tensor:
        self._counts_1TN[...] = input_1TN.numpy()
        self._request.infer()
        return torch.from_numpy(self._output.copy())
