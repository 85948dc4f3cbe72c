"""Several processes that train together, one per device, as torchrun starts them."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ndt_cli.errors import SettingsError, TrainingError

if dist.is_available():
    # Its functions take the process group of the moment of import as a default. Imported later, as
    # PyTorch itself does in a first step, they keep the group alive past its end, and its threads
    # can abort the process at exit.
    import torch.distributed.nn


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that train together this one is."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on its machine, which is also the number of its GPU

    @classmethod
    def from_environment(cls) -> "Ranks":
        """Read what torchrun sets; a single process where it set nothing."""
        world_size = _variable("WORLD_SIZE", "1", least=1)
        if world_size == 1:
            return cls()  # a scheduler, or what is left of it in a shell, may set the others
        rank = _variable("RANK", None, most=world_size - 1)
        return cls(rank, world_size, _variable("LOCAL_RANK", "0"))

    @property
    def is_first(self) -> bool:
        """True for the one process that validates and writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Return this process' share of the rows of a batch."""
        return rows[self.rank :: self.world_size]

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world_size > 1:
            value = value.clone()
            with _given_back(value):
                dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is set in any process."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(int(flag), device=device)).item())

    def gather(self, states: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """Return the states of all processes, named ``rank<number>.<name>``."""
        if self.world_size == 1:
            return {f"rank0.{name}": state for name, state in states.items()}
        gathered: dict[str, Tensor] = {}
        for name, state in states.items():
            mine = state.to(device)
            parts = [torch.empty_like(mine) for _ in range(self.world_size)]
            with _given_back(mine, *parts):
                dist.all_gather(parts, mine)
            gathered |= {f"rank{rank}.{name}": part for rank, part in enumerate(parts)}
        return gathered

    def from_first(self, values: list[float], device: torch.device) -> list[float]:
        """Return the first process' numbers in every process."""
        if self.world_size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64, device=device)
        with _given_back(numbers):
            dist.broadcast(numbers, src=0)
        return [float(number) for number in numbers.tolist()]


def _variable(name: str, default: str | None, least: int = 0, most: int | None = None) -> int:
    text = os.environ.get(name, default)
    number = int(text) if text is not None and text.isdecimal() else None
    if number is None or number < least or (most is not None and number > most):
        found = "is not set" if text is None else f"is {text!r}"
        expected = f"{least} or more" if most is None else f"{least} to {most}"
        raise _not_torchrun(name, found, expected)
    return number


def _not_torchrun(name: str, found: str, expected: str) -> SettingsError:
    return SettingsError(
        f"the environment variable {name} {found}; expected {expected}, as torchrun sets it "
        "for each process",
        "start several processes with torchrun; for one:  unset RANK LOCAL_RANK WORLD_SIZE",
    )


# How long gloo's threads may take to let go of a tensor before nobody waits for it any more.
_PATIENCE_S = 10.0


@contextmanager
def _given_back(*tensors: Tensor) -> Iterator[None]:
    """Run a collective, and wait until no thread of it holds these tensors any more.

    Gloo's threads drop them a moment after the collective has returned, and need Python's lock for
    that. A process group that ends just then waits for its threads while it has the lock: the
    process hangs or aborts.
    """

    def holders() -> list[tuple[int, int]]:
        return [
            (tensor._use_count(), sys.getrefcount(tensor))  # type: ignore[attr-defined]
            for tensor in tensors
        ]

    before = holders()
    yield
    deadline = time.monotonic() + _PATIENCE_S
    while holders() != before and time.monotonic() < deadline:
        time.sleep(1e-4)


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Join the other processes for as long as the block runs; a TrainingError if one is lost."""
    if ranks.world_size == 1 or dist.is_initialized():
        yield
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise _not_torchrun(name, "is not set", "the place of the first process")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    except RuntimeError as error:
        # Gloo has no kind of error of its own, and names its source file.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            f"process {ranks.rank} of {ranks.world_size} lost the others: "
            f"{str(error).strip().splitlines()[0]}",
            "See what the others printed, and resume the run: it is saved up to its last "
            "validation.",
        ) from error
    finally:
        dist.destroy_process_group()
