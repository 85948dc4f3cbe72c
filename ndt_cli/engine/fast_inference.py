"""The fastest way to infer with a network on a device."""

import torch

from ndt_cli.engine.recorded_network import RecordedNetwork
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.model.prepared import PreparedNetwork
from ndt_cli.settings.tree import TrainSettings


def inferring(
    network: NeuralDataTransformer, settings: TrainSettings, device: torch.device
) -> NeuralDataTransformer | PreparedNetwork | RecordedNetwork:
    """Return what gives the read-out of a network when called, and its activations by ``encode``.

    Parameters
    ----------
    network : NeuralDataTransformer
        On the device; its weights stay as they are.
    settings : TrainSettings
        What the run allows.
    device : torch.device
        Where to compute.
    """
    if device.type == "cpu" and not settings.plain_layers:
        return PreparedNetwork(network)
    if device.type == "cuda" and settings.cuda_graph:
        return RecordedNetwork(network)
    return network
