"""The fastest way to infer with a network on a device."""

import torch

from ndt_cli.engine.openvino_network import OpenVinoNetwork
from ndt_cli.engine.recorded_network import RecordedNetwork
from ndt_cli.model.network import NeuralDataTransformer
from ndt_cli.model.prepared import PreparedNetwork
from ndt_cli.settings.tree import TrainSettings

Inferring = NeuralDataTransformer | PreparedNetwork | RecordedNetwork | OpenVinoNetwork
"""Gives the read-out of a network when called, and its activations by ``encode``."""


def inferring(
    network: NeuralDataTransformer,
    settings: TrainSettings,
    device: torch.device,
    *,
    openvino: bool = False,
) -> Inferring:
    """Return what infers with a network.

    Parameters
    ----------
    network : NeuralDataTransformer
        On the device; its weights stay as they are.
    settings : TrainSettings
        What the run allows.
    device : torch.device
        Where to compute.
    openvino : bool
        Infer single trials by OpenVINO.

    Raises
    ------
    DeviceError, MissingExtraError
        When OpenVINO is wanted where it is not to be had.
    """
    if openvino:
        return OpenVinoNetwork(network, _by_torch(network, settings, device))
    return _by_torch(network, settings, device)


def _by_torch(
    network: NeuralDataTransformer, settings: TrainSettings, device: torch.device
) -> NeuralDataTransformer | PreparedNetwork | RecordedNetwork:
    if device.type == "cpu" and not settings.plain_layers:
        return PreparedNetwork(network)
    if device.type == "cuda" and settings.cuda_graph:
        return RecordedNetwork(network)
    return network
