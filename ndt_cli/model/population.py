"""Several networks of the same shapes, computed as one with a leading axis of members.

Axes: M members, B trials, T bins, N neurons; K blocks of a trial, C bins of a block, W bins that a
block looks at.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ndt_cli.model.attention import Window
from ndt_cli.model.context import Blocks, widest
from ndt_cli.model.dropout import Dropout
from ndt_cli.model.dropout_sites import DrawnDropout, Site, find_sites
from ndt_cli.model.network import NeuralDataTransformer


class Population:
    """Networks whose weights have the same shapes.

    Each computes what it computes alone, dropout included, to rounding; their contexts and
    dropouts may differ. Computing them together pays where a device is not filled by one.

    Parameters
    ----------
    networks : sequence of NeuralDataTransformer
        The members, on one device; gradients arrive in their own parameters.
    """

    def __init__(self, networks: Sequence[NeuralDataTransformer]) -> None:
        self.networks = list(networks)
        self._sites: dict[int, list[tuple[Blocks, list[Site]]]] = {}

    def __call__(
        self,
        input_MBTN: Tensor,
        inside_MBT: Tensor | None = None,
        dropouts: Sequence[Dropout] | None = None,
    ) -> Tensor:
        """Return the read-outs, (M, B, T, N) or (M, B, T, N, classes).

        Parameters
        ----------
        input_MBTN : Tensor
            A batch for each member, as `NeuralDataTransformer.forward` takes it.
        inside_MBT : Tensor of bool, optional
            False for padding.
        dropouts : sequence of Dropout, optional
            Each member's own, while training.
        """
        context = widest([network.context for network in self.networks])
        blocks = Blocks.for_context(context, input_MBTN.shape[2], input_MBTN.device)
        masks = self._masks(input_MBTN, blocks, dropouts) if dropouts else None
        blocked = self._blocked(input_MBTN, inside_MBT, blocks)
        first = self.networks[0]
        members = [dict(network.named_parameters()) for network in self.networks]
        weights = {name: torch.stack([m[name] for m in members]) for name in members[0]}

        def member(weights: Any, input_BTN: Tensor, blocked: Tensor, masks: Any) -> Any:
            dropout = None if masks is None else DrawnDropout(masks)
            arguments = (input_BTN, None, dropout, Window(blocks, blocked))
            return functional_call(first, weights, arguments)

        # Parallel parts of a layer must not take the path that is written for one network.
        was_plain, first.plain = first.plain, True
        of_masks = None if masks is None else [None if mask is None else 0 for mask in masks]
        try:
            output: Tensor = torch.vmap(member, in_dims=(0, 0, 0, of_masks))(
                weights, input_MBTN, blocked, masks
            )
        finally:
            first.plain = was_plain
        return output

    def _blocked(self, input_MBTN: Tensor, inside_MBT: Tensor | None, blocks: Blocks) -> Tensor:
        device, n_bins = input_MBTN.device, input_MBTN.shape[2]
        windows = [
            network.windows(
                n_bins,
                None if inside_MBT is None else inside_MBT[i],
                network.compute_dtype,
                device,
                blocks,
            )
            for i, network in enumerate(self.networks)
        ]
        return torch.stack([window.blocked for window in windows])

    def _masks(
        self, input_MBTN: Tensor, blocks: Blocks, dropouts: Sequence[Dropout]
    ) -> list[Tensor | None]:
        """Draw each member's masks as it would draw them alone: 0, or the scale."""
        n_trials = input_MBTN.shape[1]
        if n_trials not in self._sites:
            self._sites[n_trials] = [
                _sites(network, input_BTN)
                for network, input_BTN in zip(self.networks, input_MBTN, strict=True)
            ]
        drawn = [
            [_recut(site.draw(dropout), own, blocks) for site in sites]
            for (own, sites), dropout in zip(self._sites[n_trials], dropouts, strict=True)
        ]
        masks: list[Tensor | None] = []
        for of_members in zip(*drawn, strict=True):
            given = [mask for mask in of_members if mask is not None]
            if not given:
                masks.append(None)
                continue
            whole = torch.ones_like(given[0])
            masks.append(torch.stack([whole if mask is None else mask for mask in of_members]))
        return masks


def _sites(network: NeuralDataTransformer, input_BTN: Tensor) -> tuple[Blocks, list[Site]]:
    """Return how a network alone cuts a trial, and where it drops."""
    was_plain, network.plain = network.plain, True
    try:
        sites = find_sites(lambda dropout: network(input_BTN[:1], None, dropout), len(input_BTN))
    finally:
        network.plain = was_plain
    return Blocks.for_context(network.context, input_BTN.shape[1], input_BTN.device), sites


def _recut(mask: Tensor | None, own: Blocks, blocks: Blocks) -> Tensor | None:
    """Move the mask of attention weights from a member's own blocks to those of all."""
    if mask is None or mask.dim() != 5 or own == blocks:
        return mask
    return own.recut(mask, blocks)
