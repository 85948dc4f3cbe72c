"""Layers whose kernels torch.compile makes for a GPU, while training."""

import warnings

import torch
from torch import Tensor

from ndt_cli.engine.run_folder import RunWarning
from ndt_cli.model.attention import Window
from ndt_cli.model.dropout import Drawn, DrawnDropout, Dropout
from ndt_cli.model.network import EncoderLayer
from ndt_cli.settings.tree import TrainSettings


def compiles_layers(settings: TrainSettings, device: torch.device) -> bool:
    """Tell whether the layers of a run are compiled."""
    return settings.compile_layers and device.type == "cuda" and not settings.plain_layers


class CompiledLayers:
    """Computes layers with dropout; all of a network are compiled once.

    What is dropped is drawn as without compiling. Batches of another size than the first, the last
    of an epoch, are not compiled for.

    Parameters
    ----------
    backend : str
        Of `torch.compile`.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self._compute = torch.compile(_compute, backend=backend, dynamic=False)
        self._shape: torch.Size | None = None
        self._works = True

    def __call__(
        self,
        layer: EncoderLayer,
        x_BTD: Tensor,
        window: Window,
        dropout: Dropout,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the output of a layer; parameters as of `EncoderLayer.forward`.

        Warns
        -----
        RunWarning
            Once, when it cannot be compiled.
        """
        self._shape = self._shape or x_BTD.shape
        if not self._works or x_BTD.shape != self._shape:
            output: Tensor = layer(x_BTD, window, dropout, dtype, plain=False)
            return output
        drawn = layer.draw(x_BTD, window, dropout)
        try:
            with warnings.catch_warnings():
                # The compiler's hints are for those who write the network.
                warnings.simplefilter("ignore")
                return self._compute(layer, x_BTD, window, drawn, dtype)
        except Exception as error:  # from a compiler, or for want of one: of any class
            self._works = False
            told = " ".join(str(error).strip().splitlines()[:2])  # who failed, and of what
        warnings.warn(
            "the layers cannot be compiled here, and PyTorch's own kernels compute them, which are "
            f"slower (train.compile_layers): {told}",
            RunWarning,
            stacklevel=2,
        )
        return _compute(layer, x_BTD, window, drawn, dtype)


def _compute(
    layer: EncoderLayer, x_BTD: Tensor, window: Window, drawn: list[Drawn], dtype: torch.dtype
) -> Tensor:
    # By the class: a call of a module asks for hooks, at each of which compiling would end.
    return EncoderLayer.forward(layer, x_BTD, window, DrawnDropout(drawn), dtype, plain=True)
