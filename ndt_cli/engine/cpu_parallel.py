"""A training step for CPUs whose threads each compute some of the trials.

PyTorch's threads share every operation: they wait for one another hundreds of times in a step, and
either spin meanwhile, which collapses beside a busy neighbor, or sleep, and waking takes longer
than many an operation. Here each thread takes its trials from counts to gradients, and they wait
for one another once. This way to compute has a file of its own, as CUDA graphs have.
"""

import copy
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ndt_cli.engine.batches import TrialSet
from ndt_cli.engine.step import StepParts, Sums, TrainingStep
from ndt_cli.model.cpu.kernels import CpuMath
from ndt_cli.model.cpu.prepared import PreparedNetwork
from ndt_cli.model.cpu.processor import torch_threads
from ndt_cli.model.dropout import RandomBits, SharedDropout
from ndt_cli.model.network import NeuralDataTransformer

# Numbers (trials by bins by width) of a share, below which one thread more brings nothing.
_LEAST_NUMBERS = 60_000

# Threads wait for Python's own lock: many small shares would mostly wait.
_MOST_SHARES = 4


@dataclass(frozen=True)
class CpuBackend:
    """Kernels with written-out gradients, and trials shared among threads; a `Backend`."""

    dtype: torch.dtype
    shares_steps: bool = True

    @property
    def math(self) -> CpuMath:
        return CpuMath(self.dtype)

    def training_step(self, parts: StepParts) -> TrainingStep:
        return ShardedStep(parts) if self.shares_steps else TrainingStep(parts)

    def inference(self, network: NeuralDataTransformer) -> PreparedNetwork:
        return PreparedNetwork(network)


class ShardedStep(TrainingStep):
    """Updates the weights by one batch, as `TrainingStep` does but for rounding.

    Torch's number of threads is how many compute; a small batch is computed by one. Masks and
    dropout do not depend on it.
    """

    def compute(self, batch: TrialSet) -> Sums:
        """Take the step; see `TrainingStep.compute`."""
        n_shares, n_threads = self._sharing(batch)
        with torch_threads(n_threads):
            if n_shares == 1:
                return super().compute(batch)
            totals, weight, n_scored = self._backward(batch, n_shares)
            total = torch.stack(totals).sum()
            self.update(total * weight)
            return total, n_scored

    def _sharing(self, batch: TrialSet) -> tuple[int, int]:
        """Return the number of shares of a batch, and of threads for each."""
        n_threads = torch.get_num_threads()
        n_trials, n_bins, _ = batch.shape
        numbers = n_trials * n_bins * self.network.embedding.width
        if numbers < 2 * _LEAST_NUMBERS:
            return 1, 1
        if self.settings.train.topk_fraction < 1:  # the worst entries are those of all shares
            return 1, n_threads
        n_shares = max(1, min(n_threads, _MOST_SHARES, n_trials, numbers // _LEAST_NUMBERS))
        return n_shares, n_threads // n_shares

    def _backward(self, batch: TrialSet, n_shares: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Compute the gradients; return each share's loss, their weight and the scored entries."""
        masked = self.masked(batch)
        scored_BTN = masked.scored_BTN.expand(batch.shape)
        n_scored = scored_BTN.count_nonzero().float()
        weight = 1 / n_scored.clamp_min(1)
        networks = self._networks[:n_shares]
        assert isinstance(self.dropout.stream, RandomBits)
        dropout = SharedDropout(self.dropout.stream, len(batch))
        n_threads = torch.get_num_threads()

        def compute(share: int) -> Tensor:
            torch.set_num_threads(n_threads)  # it is each thread's own
            first, last = (len(batch) * i // n_shares for i in (share, share + 1))
            trials, network = batch.take(slice(first, last)), networks[share]
            network.zero_grad(set_to_none=True)
            output = network(
                masked.input_BTN[first:last],
                trials.inside_BT,
                dropout.share(first, last - first),
            )
            total, _ = self.scored_sum(output, trials.counts_BTN, scored_BTN[first:last])
            (total * weight).backward()
            return total.detach()

        others = [self._pool.submit(compute, share) for share in range(1, n_shares)]
        try:
            totals = [compute(0), *(other.result() for other in others)]
        finally:
            wait(others)  # also after an error: they draw from the streams
        mine, *theirs = (_gradients(network) for network in networks)
        for gradients in theirs:
            torch._foreach_add_(mine, gradients)
        return totals, weight, n_scored

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_MOST_SHARES - 1, thread_name_prefix="ndt-share")

    @cached_property
    def _networks(self) -> list[NeuralDataTransformer]:
        """The network, and others with its weights and gradients of their own."""
        return [self.network, *(_twin(self.network) for _ in range(_MOST_SHARES - 1))]


def _twin(network: NeuralDataTransformer) -> NeuralDataTransformer:
    weights = {id(p): nn.Parameter(p.detach()) for p in network.parameters()}
    return copy.deepcopy(network, dict[int, object](weights))


def _gradients(network: NeuralDataTransformer) -> tuple[Tensor, ...]:
    return tuple(p.grad for p in network.parameters() if p.grad is not None)
