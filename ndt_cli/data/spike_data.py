"""One set of trials in memory: what every reader makes and everything else takes.

Axes in names: B trials, T bins, N neurons, V behavioural variables, K any other channel.
"""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class SpikeData:
    """Trials of binned spike counts, with what is known about them.

    Held-out neurons are the last ``n_heldout`` columns and forward bins the last
    ``n_forward`` bins: the model never sees their counts, it only predicts them.

    Parameters
    ----------
    spikes_BTN : (trials, bins, neurons) unsigned int array
        Spike counts per bin; zero past the end of a shorter trial.
    bin_ms : float
        Bin width in milliseconds.
    lengths_B : (trials,) int array
        Bins that each trial really has; what lies past them is padding, never scored.
    rates_BTN : (trials, bins, neurons) float array, optional
        True rates in expected spikes per bin.
    conditions_B : (trials,) int array, optional
        Condition of each trial.
    latents_BTK : (trials, bins, latents) float array, optional
        Latent states behind synthetic data.
    behaviour_BTV : (trials, bins, variables) float array, optional
        Behaviour, one row a bin; NaN where it is not known, which is never scored.
    behaviour_names : tuple of str
        Name of each behavioural variable; empty where nobody named them.
    trial_ids_B : (trials,) int array, optional
        Position of each trial in the order of the file or the recording, from 0.
    start_bins_B : (trials,) int array, optional
        For windows chopped from a continuous recording: the bin at which each begins, counted
        from time 0 of the recording's clock.
    neuron_ids_N : (neurons,) int array, optional
        Place of each neuron in the order of the file, from 0, where the columns stand in another
        one.
    neuron_names : tuple of str
        Name of each neuron in the order of the file; empty where nobody named them.
    n_heldout : int
        Neurons that are never seen.
    n_forward : int
        Bins past the window, never seen.
    hidden_counts_known : bool
        False where the file lacks the counts of held-out neurons and forward bins (a
        benchmark's test phase): they are stored as zero and cannot be scored.

    Examples
    --------
    >>> data = SpikeData(
    ...     spikes_BTN=np.ones((2, 5, 3), np.uint8), bin_ms=20.0, lengths_B=np.array([5, 4])
    ... )
    >>> data.n_trials, data.n_bins, data.n_neurons
    (2, 5, 3)
    >>> data.inside_BT[1]
    array([ True,  True,  True,  True, False])
    """

    spikes_BTN: IntArray
    bin_ms: float
    lengths_B: IntArray
    rates_BTN: FloatArray | None = None
    conditions_B: IntArray | None = None
    latents_BTK: FloatArray | None = None
    behaviour_BTV: FloatArray | None = None
    behaviour_names: tuple[str, ...] = ()
    trial_ids_B: IntArray | None = None
    start_bins_B: IntArray | None = None
    neuron_ids_N: IntArray | None = None
    neuron_names: tuple[str, ...] = ()
    n_heldout: int = 0
    n_forward: int = 0
    hidden_counts_known: bool = True

    @property
    def n_trials(self) -> int:
        return int(self.spikes_BTN.shape[0])

    @property
    def n_bins(self) -> int:
        return int(self.spikes_BTN.shape[1])

    @property
    def n_neurons(self) -> int:
        return int(self.spikes_BTN.shape[2])

    @property
    def max_count(self) -> int:
        """Largest count in any bin, 0 for a silent or empty set."""
        return int(self.spikes_BTN.max(initial=0))

    @cached_property
    def inside_BT(self) -> NDArray[np.bool_]:
        """True for bins of the trial, False for padding."""
        return np.arange(self.n_bins)[None, :] < np.asarray(self.lengths_B)[:, None]

    @property
    def has_padding(self) -> bool:
        return bool((np.asarray(self.lengths_B) < self.n_bins).any())

    @property
    def _ids_N(self) -> NDArray[np.int64]:
        if self.neuron_ids_N is None:
            return np.arange(self.n_neurons)
        return np.asarray(self.neuron_ids_N, dtype=np.int64)

    @property
    def file_order_N(self) -> NDArray[np.int64]:
        """Column of each neuron of the file: ``rates_BTN[..., file_order_N]`` is in its order."""
        return np.argsort(self._ids_N)

    @property
    def heldin_ids(self) -> NDArray[np.int64]:
        """Places of the neurons that are seen, in the order of the file."""
        return self._ids_N[: self.n_neurons - self.n_heldout]

    @property
    def heldout_ids(self) -> NDArray[np.int64]:
        """Places of the held-out neurons in the order of the file."""
        return self._ids_N[self.n_neurons - self.n_heldout :]

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 of the counts, lengths, bin width and held-out layout."""
        digest = hashlib.sha256()
        head = (self.spikes_BTN.shape, float(self.bin_ms), self.n_heldout, self.n_forward)
        digest.update(repr(head).encode())
        # One width for all, so that the same counts stored as uint8 or uint16 agree.
        for trial_TN in self.spikes_BTN:
            digest.update(np.ascontiguousarray(trial_TN, dtype="<u2").tobytes())
        digest.update(np.ascontiguousarray(self.lengths_B, dtype="<i8").tobytes())
        return digest.hexdigest()

    def take(self, trials: IntArray) -> "SpikeData":
        """Return the trials at these positions, in this order."""

        def pick(array: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if array is None else array[trials]

        return replace(
            self,
            spikes_BTN=self.spikes_BTN[trials],
            lengths_B=self.lengths_B[trials],
            rates_BTN=pick(self.rates_BTN),
            conditions_B=pick(self.conditions_B),
            latents_BTK=pick(self.latents_BTK),
            behaviour_BTV=pick(self.behaviour_BTV),
            trial_ids_B=pick(self.trial_ids_B),
            start_bins_B=pick(self.start_bins_B),
        )


@dataclass(frozen=True, eq=False)
class Recording:
    """What a file, or a synthetic set, holds.

    Parameters
    ----------
    train, valid : SpikeData
        The two splits: same neurons, same number of bins, same bin width.
    source : str
        The file's path, or the name of the synthetic set.
    layout : str
        ``"lfads"``, ``"nlb"``, ``"ndt"`` or ``"synthetic"``.
    notes : tuple of str
        What was assumed on the way in, one sentence each, to be shown to the user.

    Examples
    --------
    >>> data = SpikeData(np.ones((10, 5, 3), np.uint8), bin_ms=20.0, lengths_B=np.full(10, 5))
    >>> recording = Recording(data.take(np.arange(8)), data.take(np.arange(8, 10)), "mine", "ndt")
    >>> recording.train.n_trials, recording.valid.n_trials
    (8, 2)
    """

    train: SpikeData
    valid: SpikeData
    source: str
    layout: str
    notes: tuple[str, ...] = field(default=())
