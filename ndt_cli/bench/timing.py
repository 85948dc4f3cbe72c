"""Timing of several things in turn, so that a busy machine hits them all alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Times:
    """Repeated measurements of one thing.

    Attributes
    ----------
    seconds : tuple of float
        One a repeat.
    """

    seconds: tuple[float, ...]

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile, in ms."""
        return float(np.percentile(self.seconds, percent)) * 1000

    @property
    def median_ms(self) -> float:
        return self.percentile_ms(50)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def time_in_turn(
    actions: Mapping[Name, Callable[[], object]],
    device: torch.device,
    *,
    n_rounds: int,
    in_a_row: int = 1,
    untimed: int = 0,
    warm_up: int = 5,
) -> dict[Name, Times]:
    """Time each action ``n_rounds`` times ``in_a_row``, with the device idle before and after.

    Parameters
    ----------
    actions : mapping of callables
        What to time, by name.
    device : torch.device
        Where they compute.
    n_rounds : int
        How often all of them take their turn.
    in_a_row, untimed : int
        Timed repeats of an action in its turn, after some that are not: caches hold what the
        action before it used.
    warm_up : int
        Repeats of each before the first turn.
    """
    for action in actions.values():
        for _ in range(warm_up):
            action()
    seconds: dict[Name, list[float]] = {name: [] for name in actions}
    for _ in range(n_rounds):
        for name, action in actions.items():
            for _ in range(untimed):
                action()
            for _ in range(in_a_row):
                synchronise(device)
                start = time.perf_counter()
                action()
                synchronise(device)
                seconds[name].append(time.perf_counter() - start)
    return {name: Times(tuple(values)) for name, values in seconds.items()}
