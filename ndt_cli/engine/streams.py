"""Named random streams, all made from one seed.

Each kind of draw has a stream of its own, so that changing one (another mask mode, say) leaves
the others as they were, validation never moves, and a resumed run continues exactly.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ndt_cli.model.dropout import RandomBits


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of a named stream, unrelated to that of any other name or seed."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits on every device


def make_stream(seed: int, name: str, device: torch.device) -> torch.Generator:
    """Return a fresh generator for a named stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name))


@dataclass(frozen=True)
class Streams:
    """What a training run draws from while it runs.

    ``order`` and ``mask`` are the same in every process of a distributed run: each draws for
    the whole batch and takes its share, so the number of processes changes no mask.
    """

    order: torch.Generator
    mask: torch.Generator
    dropout: torch.Generator | RandomBits

    @classmethod
    def from_seed(cls, seed: int, device: torch.device, rank: int = 0) -> "Streams":
        return cls(
            order=make_stream(seed, "order", device),
            mask=make_stream(seed, "mask", device),
            dropout=_dropout_stream(seed, f"dropout-{rank}", device),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the state of each stream by name."""
        return {name: stream.get_state() for name, stream in vars(self).items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set each stream to a state that `state` returned."""
        for name, stream in vars(self).items():
            stream.set_state(state[name])


def _dropout_stream(seed: int, name: str, device: torch.device) -> torch.Generator | RandomBits:
    return (
        RandomBits(stream_seed(seed, name))
        if device.type == "cpu"
        else make_stream(seed, name, device)
    )
