"""Dropout from cheap random bits, drawn from a generator that the caller owns.

A Bernoulli draw costs a CPU several nanoseconds, and a training step of NDT1 spends 29 % of
its time on them. Here one 64-bit draw decides for eight entries, a byte each, and the mask is
made by integer operations that the processor runs on whole vectors.
"""

from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LEVELS = 256  # of a byte

# Integers as wide as a number, to keep or clear all of its bits at once.
LANES = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class RandomBits:
    """A stream of random bits on the CPU, with the interface of `torch.Generator` for its state.

    SFC64 (Doty-Humphrey) through NumPy: a third of the time of torch's Mersenne twister.
    """

    device = torch.device("cpu")

    def __init__(self, seed: int) -> None:
        self._bits = np.random.SFC64(seed)

    def draw(self, n: int) -> Tensor:
        """Return ``n`` random int16 numbers."""
        return torch.from_numpy(self._bits.random_raw(-(-n // 4)).view(np.int16)[:n])

    def get_state(self) -> Tensor:
        """Return the state, four int64 numbers."""
        state: Any = self._bits.state
        return torch.from_numpy(state["state"]["state"].view(np.int64).copy())

    def set_state(self, state: Tensor) -> None:
        """Go to a state that `get_state` returned."""
        if state.shape != (4,) or state.dtype != torch.int64:
            raise ValueError(f"not a state of SFC64: {tuple(state.shape)} {state.dtype}")
        words = state.cpu().numpy().view(np.uint64).copy()
        self._bits.state = {
            "bit_generator": "SFC64",
            "state": {"state": words},
            "has_uint32": 0,
            "uinteger": 0,
        }


class Dropout:
    """Inverted dropout: entries are kept with probability 1 - p and scaled by 1 / (1 - p).

    On a CPU, p is rounded to a multiple of 1/256, between 1/256 and 255/256, and the scale is that
    of the rounded p, so that the expectation holds.
    """

    def __init__(self, stream: RandomBits | torch.Generator) -> None:
        self.stream = stream

    def __call__(self, x: Tensor, p: float) -> Tensor:
        """Return ``x`` with a fraction ``p`` of its entries set to zero, the rest scaled up."""
        return x if p == 0.0 else x * self.kept(x, p).mul_(self.scale(p))

    def scale(self, p: float) -> float:
        """Return what a kept entry is multiplied by."""
        if isinstance(self.stream, RandomBits):
            return _LEVELS / _levels_kept(p)
        return 1 / (1 - p)

    def kept(self, like: Tensor, p: float) -> Tensor:
        """Return a tensor shaped like ``like`` that is 1 where an entry is kept, else 0."""
        if isinstance(self.stream, RandomBits):
            return self.kept_lanes(like.shape, p, torch.bfloat16).neg_().to(like.dtype)
        kept = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        return kept.bernoulli_(1 - p, generator=self.stream)

    def kept_lanes(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
        """Return integers as wide as ``dtype``: all bits set where an entry is kept, else none.

        Ands with the entry's own bits; only for a stream of `RandomBits`.
        """
        assert isinstance(self.stream, RandomBits)
        bits = self.stream.draw(_n_pairs(shape.numel()))
        return _lanes(bits, 0, shape, p, dtype)


class SharedDropout:
    """Dropout of a batch of which each of several threads computes some trials.

    An entry is dropped or kept as it is when one thread computes them all: whoever comes first to
    a place where dropout acts draws there for all.
    """

    def __init__(self, stream: RandomBits, n_trials: int) -> None:
        self.stream = stream
        self.n_trials = n_trials
        self._drawn: list[Tensor] = []
        self._lock = Lock()

    def share(self, first: int, n_trials: int) -> Dropout:
        """Return the dropout of ``n_trials`` trials from ``first`` on."""
        return _Share(self, first, n_trials)

    def bits(self, place: int, n_entries: int) -> Tensor:
        """Return the random bits of a place, counted in the order of the computation."""
        with self._lock:
            if place == len(self._drawn):
                self._drawn.append(self.stream.draw(_n_pairs(n_entries)))
            return self._drawn[place]


class _Share(Dropout):
    def __init__(self, whole: SharedDropout, first: int, n_trials: int) -> None:
        super().__init__(whole.stream)
        self._whole, self._first, self._n_trials = whole, first, n_trials
        self._place = 0

    def kept_lanes(self, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
        per_trial = shape.numel() // self._n_trials
        bits = self._whole.bits(self._place, per_trial * self._whole.n_trials)
        self._place += 1
        return _lanes(bits, per_trial * self._first, shape, p, dtype)


def _n_pairs(n_entries: int) -> int:
    return -(-n_entries // 2)


def _lanes(bits: Tensor, start: int, shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """Make lanes of ``shape`` of the random bytes from ``start`` on: first low ones, then high."""
    n_pairs, stop = len(bits), start + shape.numel()
    low = bits[min(start, n_pairs) : min(stop, n_pairs)]
    high = bits[max(start - n_pairs, 0) : max(stop - n_pairs, 0)]
    lanes = torch.empty(shape.numel(), dtype=torch.int16)
    torch.bitwise_and(low, _LEVELS - 1, out=lanes[: len(low)])
    torch.bitwise_right_shift(high, 8, out=lanes[len(low) :]).bitwise_and_(_LEVELS - 1)
    # Negative, and so all ones after the shift, where the byte is below the threshold.
    lanes.sub_(_levels_kept(p)).bitwise_right_shift_(15)
    return lanes.view(shape).to(LANES[dtype])


def _levels_kept(p: float) -> int:
    return min(_LEVELS - 1, max(1, round((1 - p) * _LEVELS)))
