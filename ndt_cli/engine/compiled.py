"""Layers whose kernels torch.compile makes for a GPU, while training."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ndt_cli.errors import RunWarning
from ndt_cli.model.attention import Window
from ndt_cli.model.dropout import Dropout
from ndt_cli.model.dropout_sites import DrawnDropout, Site, find_sites
from ndt_cli.model.network import EncoderLayer
from ndt_cli.settings.tree import TrainSettings


def compiles_layers(settings: TrainSettings, device: torch.device) -> bool:
    """Tell whether the layers of a run are compiled."""
    return settings.compile_layers and device.type == "cuda" and not settings.plain_layers


class CompiledLayers:
    """Computes layers with dropout; all of a network are compiled as one (PyTorch 2.4: each alone).

    What is dropped is drawn as without compiling.

    Parameters
    ----------
    n_trials : int
        In a batch. Those of another size, such as the last of an epoch, are not compiled for.
    backend : str or callable
        Of `torch.compile`.
    """

    def __init__(self, n_trials: int, backend: str | Callable[..., Any] = "inductor") -> None:
        # What earlier runs of the process compiled counts against what is compiled.
        torch.compiler.reset()
        self.n_trials = n_trials
        self._compute = torch.compile(_compute, backend=backend, dynamic=False)
        self._sites: list[Site] = []
        self._works: bool | None = None  # not known before the first call

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
        if self._works is False or len(x_BTD) != self.n_trials:
            output: Tensor = layer(x_BTD, window, dropout, dtype, plain=False)
            return output
        if not self._sites:  # those of one layer are those of all
            self._sites = find_sites(
                lambda noted: layer(x_BTD, window, noted, dtype, plain=True), self.n_trials
            )
        masks = [site.draw(dropout) for site in self._sites]
        if self._works is None:
            self._works = self._try(layer, x_BTD, window, masks, dtype)
        compute = self._compute if self._works else _compute
        return compute(layer, x_BTD, window, masks, dtype)

    def _try(
        self,
        layer: EncoderLayer,
        x_BTD: Tensor,
        window: Window,
        masks: list[Tensor | None],
        dtype: torch.dtype,
    ) -> bool:
        """Compile, forward and backward, and tell whether it went well."""
        try:
            with warnings.catch_warnings():
                # The compiler's hints are for those who write the network.
                warnings.simplefilter("ignore")
                output = self._compute(layer, x_BTD, window, masks, dtype)
                if output.requires_grad:
                    wanted = [p for p in layer.parameters() if p.requires_grad]
                    torch.autograd.grad(output.sum(), wanted, allow_unused=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # from a compiler, or for want of one: of any class
            told = " ".join(str(error).strip().splitlines()[:2])  # who failed, and of what
            warnings.warn(
                "the layers cannot be compiled here, and PyTorch's own kernels compute them, which "
                f"are slower (train.compile_layers): {told}",
                RunWarning,
                stacklevel=3,
            )
            return False
        return True


def _compute(
    layer: EncoderLayer,
    x_BTD: Tensor,
    window: Window,
    masks: list[Tensor | None],
    dtype: torch.dtype,
) -> Tensor:
    # By the class: a call of a module asks for hooks, at each of which compiling would end.
    return EncoderLayer.forward(layer, x_BTD, window, DrawnDropout(masks), dtype, plain=True)
