"""Trials in memory: the type that every reader returns and every other module takes.

Axes in names: B trials, T bins, N neurons, V behavioral variables, K any other channel.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ndt_cli.errors import DataError, count

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]

Split = Literal["train", "valid", "all"]

# Fields of SpikeData with one entry per trial.
PER_TRIAL = (
    "spikes_BTN",
    "lengths_B",
    "rates_BTN",
    "conditions_B",
    "latents_BTK",
    "behavior_BTV",
    "trial_ids_B",
    "start_bins_B",
    "start_times_s_B",
    "places_B",
    "is_valid_B",
)


@dataclass(frozen=True, eq=False)
class Sessions:
    """Which trials and which neurons belong to which of several sessions.

    The counts of a neuron in trials of other sessions are unknown, and stand as zero.
    """

    names: tuple[str, ...]
    of_trial_B: IntArray  # the session of each trial, a position in `names`
    of_neuron_N: IntArray  # the session of each neuron

    @property
    def present_BN(self) -> NDArray[np.bool_]:
        """True where a neuron was recorded in a trial."""
        present_BN: NDArray[np.bool_] = self.of_trial_B[:, None] == self.of_neuron_N[None, :]
        return present_BN


@dataclass(frozen=True, eq=False)
class SpikeData:
    """Trials of binned spike counts, with rates, conditions, latents and behavior if known.

    Held-out neurons are the last ``n_heldout`` columns and forward bins the last ``n_forward``
    bins: the model predicts their counts without seeing them.

    Parameters
    ----------
    spikes_BTN : (trials, bins, neurons) unsigned int array
        Spike counts per bin; zero past the end of a shorter trial.
    bin_ms : float
        Bin width in milliseconds.
    lengths_B : (trials,) int array
        Bins of each trial; later ones are padding, which is never scored.
    rates_BTN : (trials, bins, neurons) float array, optional
        True rates in expected spikes per bin.
    conditions_B : (trials,) int array, optional
        Condition of each trial.
    latents_BTK : (trials, bins, latents) float array, optional
        Latent states behind synthetic data.
    behavior_BTV : (trials, bins, variables) float array, optional
        Behavior, one row per bin; NaN where missing, which is never scored.
    behavior_names : tuple of str
        Names of the behavioral variables; empty if unknown.
    trial_ids_B : (trials,) int array, optional
        Number of each trial in the recording; its row in the table of trials, from 0, where the
        table has no numbers of its own.
    start_bins_B : (trials,) int array, optional
        For windows chopped from a continuous recording: the first bin of each, counted from time 0
        of the recording's clock.
    neuron_ids_N : (neurons,) int array, optional
        Position of each column's neuron in the file, from 0, if the order differs.
    neuron_names : tuple of str
        Names of the neurons, in the order of the file; empty if unknown.
    n_heldout : int
        Held-out neurons.
    n_forward : int
        Forward bins, past the window.
    hidden_counts_known : bool
        False if the file lacks the counts of held-out neurons and forward bins (the test phase of
        a benchmark): they are stored as zero and cannot be scored.
    condition_names : dict of int to str
        Name of each condition, by its number; empty if unknown.
    trial_table : dict of str to (trials,) array
        Columns of the recording's table of trials, by name.
    event : str
        The event that the trials are aligned to; empty if unknown.
    start_ms : float
        Time of the beginning of the first bin, from the event.
    start_times_s_B : (trials,) float array, optional
        Time of the beginning of each trial's first bin, in seconds on the recording's clock.
    places_B : (trials,) int array, optional
        Place of each trial in the order of the file, from 0: with it, `all_trials` can join the
        two splits in that order.
    is_valid_B : (trials,) bool array, optional
        True for validation trials, False for training trials.
    sessions : Sessions, optional
        For trials of several sessions with neurons of their own.

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
    behavior_BTV: FloatArray | None = None
    behavior_names: tuple[str, ...] = ()
    trial_ids_B: IntArray | None = None
    start_bins_B: IntArray | None = None
    neuron_ids_N: IntArray | None = None
    neuron_names: tuple[str, ...] = ()
    n_heldout: int = 0
    n_forward: int = 0
    hidden_counts_known: bool = True
    condition_names: Mapping[int, str] = field(default_factory=dict)
    trial_table: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    event: str = ""
    start_ms: float = 0.0
    start_times_s_B: FloatArray | None = None
    places_B: IntArray | None = None
    is_valid_B: NDArray[np.bool_] | None = None
    sessions: Sessions | None = None

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

    @property
    def mean_rate_hz(self) -> float:
        """Mean rate over the known counts; unknown ones are stored as zero."""
        known = self.hidden_counts_known
        n_bins = self.n_bins - (0 if known else self.n_forward)
        n_neurons = self.n_neurons - (0 if known else self.n_heldout)
        n_entries = int(self.inside_BT[:, :n_bins].sum()) * n_neurons
        n_spikes = int(self.spikes_BTN[:, :n_bins, :n_neurons].sum(dtype=np.int64))
        return n_spikes / n_entries * 1000 / self.bin_ms

    @property
    def mean_rates_hz_N(self) -> NDArray[np.float64]:
        """Mean rate of each neuron over all bins of the trials."""
        seconds = float(np.sum(self.lengths_B)) * self.bin_ms / 1000
        rates_hz_N: NDArray[np.float64] = self.spikes_BTN.sum(axis=(0, 1), dtype=np.int64) / seconds
        return rates_hz_N

    @cached_property
    def inside_BT(self) -> NDArray[np.bool_]:
        """True for bins of the trial, False for padding."""
        return np.arange(self.n_bins)[None, :] < np.asarray(self.lengths_B)[:, None]

    @property
    def has_padding(self) -> bool:
        return bool((np.asarray(self.lengths_B) < self.n_bins).any())

    @property
    def times_ms_T(self) -> FloatArray:
        """Middle of each bin in ms, from the event that the trials are aligned to."""
        middles_T = np.arange(self.n_bins) + 0.5
        return self.start_ms + self.bin_ms * middles_T

    @property
    def column_names(self) -> tuple[str, ...]:
        """Name of each column's neuron; its position in the file, from 0, if it has none."""
        names = self.neuron_names or tuple(str(n) for n in range(self.n_neurons))
        return tuple(names[n] for n in self._ids_N)

    @property
    def condition_labels(self) -> tuple[str, ...] | None:
        """Name of each trial's condition; its number if it has none."""
        if self.conditions_B is None:
            return None
        return tuple(self.condition_names.get(n, str(n)) for n in self.conditions_B.tolist())

    @property
    def _ids_N(self) -> NDArray[np.int64]:
        if self.neuron_ids_N is None:
            return np.arange(self.n_neurons)
        return np.asarray(self.neuron_ids_N, dtype=np.int64)

    @property
    def file_order_N(self) -> NDArray[np.int64]:
        """Columns in the order of the file: use ``rates_BTN[..., file_order_N]``."""
        return np.argsort(self._ids_N)

    @property
    def heldin_ids(self) -> NDArray[np.int64]:
        """Positions in the file of the held-in neurons."""
        return self._ids_N[: self.n_neurons - self.n_heldout]

    @property
    def heldout_ids(self) -> NDArray[np.int64]:
        """Positions in the file of the held-out neurons."""
        return self._ids_N[self.n_neurons - self.n_heldout :]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the counts, trial lengths, bin width, held-out neurons and forward bins."""
        digest = hashlib.sha256()
        head = (self.spikes_BTN.shape, float(self.bin_ms), self.n_heldout, self.n_forward)
        digest.update(repr(head).encode())
        # One integer width for all: the same counts as uint8 or uint16 must agree.
        for trial_TN in self.spikes_BTN:
            digest.update(np.ascontiguousarray(trial_TN, dtype="<u2").tobytes())
        digest.update(np.ascontiguousarray(self.lengths_B, dtype="<i8").tobytes())
        if self.sessions is not None:
            for places in (self.sessions.of_trial_B, self.sessions.of_neuron_N):
                digest.update(np.ascontiguousarray(places, dtype="<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def rates_fingerprint(self) -> str:
        """SHA-256 of the true rates, to 5 decimals; empty if they are not known.

        Rounded, because machines differ in the last digits of rates that they compute.
        """
        if self.rates_BTN is None:
            return ""
        digest = hashlib.sha256()
        for trial_TN in self.rates_BTN:  # + 0.0: no negative zero
            rounded_TN = np.round(trial_TN.astype("<f8"), 5) + 0.0
            digest.update(rounded_TN.tobytes())
        return digest.hexdigest()

    def take(self, trials: IntArray) -> "SpikeData":
        """Return the trials at these indices, in this order."""
        known = {name: getattr(self, name) for name in PER_TRIAL}
        picked: dict[str, Any] = {n: None if v is None else v[trials] for n, v in known.items()}
        table = {name: column[trials] for name, column in self.trial_table.items()}
        sessions = self.sessions
        if sessions is not None:
            sessions = replace(sessions, of_trial_B=sessions.of_trial_B[trials])
        return replace(self, trial_table=table, sessions=sessions, **picked)


def bins_text(lengths_B: IntArray) -> str:
    """Return such text as "1 bin" or "51 to 76 bins", the range of the lengths of trials."""
    shortest, longest = int(lengths_B.min()), int(lengths_B.max())
    return count(longest, "bin") if shortest == longest else f"{shortest} to {longest} bins"


def take_columns(data: SpikeData, columns: IntArray, **changes: Any) -> SpikeData:
    """Return some columns of the counts and true rates, in this order, with further changes."""
    if data.rates_BTN is not None:
        changes["rates_BTN"] = np.ascontiguousarray(data.rates_BTN[:, :, columns])
    return replace(data, spikes_BTN=np.ascontiguousarray(data.spikes_BTN[:, :, columns]), **changes)


@dataclass(frozen=True, eq=False)
class Recording:
    """Training and validation trials of a file or a synthetic set.

    Parameters
    ----------
    train, valid : SpikeData
        The two splits, with the same neurons, number of bins and bin width.
    source : str
        The file's path, or the name of the synthetic set.
    layout : str
        ``"lfads"``, ``"nlb"``, ``"ndt"`` or ``"synthetic"``.
    notes : tuple of str
        What was assumed when reading, one sentence each, to be shown to the user.

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

    def trials(self, split: Split) -> SpikeData:
        """Return the trials of a split, or all of them in the order of the file."""
        if split == "all":
            return all_trials(self)
        data = self.train if split == "train" else self.valid
        if not data.n_trials:
            raise DataError(
                f"{self.source}: found no {split} trials", "Leave out `split`: take all trials."
            )
        return replace(data, is_valid_B=np.full(data.n_trials, split == "valid"))


def all_trials(recording: Recording) -> SpikeData:
    """Return the trials of both splits, in the order of the file.

    Where that is not known, the order is that of their numbers; without these, validation trials
    follow the training trials.

    Examples
    --------
    >>> from ndt_cli import make_lorenz
    >>> recording = make_lorenz(n_conditions=2, n_repeats=5)
    >>> all_trials(recording).trial_ids_B
    array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    train, valid = recording.train, recording.valid
    places_B = np.arange(train.n_trials + valid.n_trials)
    for name in ("places_B", "trial_ids_B"):
        orders = [getattr(train, name), getattr(valid, name)]
        if all(order is not None for order in orders):
            places_B = np.argsort(np.argsort(np.concatenate(orders), kind="stable"))
            break

    def joined(parts: list[Any]) -> Any:
        if any(part is None for part in parts):
            return None
        # Copy each trial straight to its place: counts may fill much of the memory.
        whole = np.empty((len(places_B), *parts[0].shape[1:]), np.result_type(*parts))
        whole[places_B[: train.n_trials]], whole[places_B[train.n_trials :]] = parts
        return whole

    values: dict[str, Any] = {
        name: joined([getattr(train, name), getattr(valid, name)]) for name in PER_TRIAL
    }
    values["is_valid_B"] = joined([np.zeros(train.n_trials, bool), np.ones(valid.n_trials, bool)])
    shared = [name for name in train.trial_table if name in valid.trial_table]
    return replace(
        train,
        trial_table={n: joined([train.trial_table[n], valid.trial_table[n]]) for n in shared},
        condition_names={**valid.condition_names, **train.condition_names},
        hidden_counts_known=train.hidden_counts_known and valid.hidden_counts_known,
        **values,
    )


# Blocks of trials --------------------------------------------------------------------------------
#
# A count takes one byte, and a large set of counts may fill much of the memory; rates take four to
# eight times as much. So only one block of a large set is held as floats at a time.


# Limits of a block: 32 MiB as float64, and the size from which larger batches are no faster.
BLOCK_TRIALS = 128
BLOCK_ENTRIES = 2**22

# Smaller sets are computed once and kept.
KEPT_BYTES = 2**28


def trial_blocks(n_trials: int, n_entries: int) -> list[slice]:
    """Return slices that cover the trials, each of at most 128 trials and 4 million entries.

    A trial of more than 4 million entries (``n_entries``) is a block of its own.

    Examples
    --------
    >>> trial_blocks(200, n_entries=5000)
    [slice(0, 128, None), slice(128, 200, None)]
    >>> trial_blocks(3, n_entries=2_000_000)
    [slice(0, 2, None), slice(2, 3, None)]
    """
    size = max(1, min(BLOCK_TRIALS, BLOCK_ENTRIES // max(1, n_entries)))
    return [slice(start, min(start + size, n_trials)) for start in range(0, n_trials, size)]


class ByTrial:
    """Values of trials, (trials, bins, channels), computed when indexed by trials.

    ``make`` returns the values of the trials at an array of indices. A set of at most `KEPT_BYTES`
    is computed as a whole on first use and kept, unless ``keep`` is False. Of a larger one, the
    indexed trials are computed each time.

    Examples
    --------
    >>> doubled = ByTrial((4, 1, 1), float, lambda trials: 2.0 * trials[:, None, None])
    >>> doubled[1:3].ravel(), doubled[np.array([3, 0])].ravel()
    (array([2., 4.]), array([6., 0.]))
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: DTypeLike,
        make: Callable[[NDArray[np.int64]], FloatArray],
        keep: bool = True,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._make = make
        self._is_kept = keep and math.prod(shape) * self.dtype.itemsize <= KEPT_BYTES

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, trials: slice | IntArray) -> FloatArray:
        if self._is_kept:
            return self._all[trials]
        return self._made(np.arange(len(self))[trials])

    @cached_property
    def _all(self) -> FloatArray:
        return self._made(np.arange(len(self)))

    def take(self, trials: IntArray) -> "ByTrial":
        """Return the values of the trials at these indices, in this order."""
        shape = (len(trials), *self.shape[1:])
        return ByTrial(shape, self.dtype, lambda places: self[trials[places]])

    def _made(self, trials: NDArray[np.int64]) -> FloatArray:
        values_BTK = np.empty((len(trials), *self.shape[1:]), self.dtype)
        for block in trial_blocks(len(trials), self.shape[1] * self.shape[2]):
            values_BTK[block] = self._make(trials[block])
        return values_BTK


TrialValues: TypeAlias = FloatArray | ByTrial
"""An array (trials, bins, channels), or one whose trials are computed when indexed."""


# Checks of counts and recordings, wherever they come from -----------------------------------------


MAX_COUNT = int(np.iinfo(np.uint16).max)
"""Largest spike count of a bin."""

# Of this many counts, not all are multiples of so many; rates in Hz of bins of 20 ms are, of 50.
_ENOUGH, _NO_STEP = 20, 5
# Rates of trials do not differ by half of their mean, and four times as much as those of neurons.
_FEW, _UNLIKE_TRIALS, _FAR_MORE = 5, 0.25, 4
_FAR_LONGER = 3  # empty bins at the end of trials, of those that chance has


def check_recording(recording: Recording, *, to_train: bool = True) -> None:
    """Refuse a recording that cannot be trained on: no spikes, or splits that do not match.

    With ``to_train`` False, for inference, one split may be empty, and there may be no spikes.
    """
    train, valid, source = recording.train, recording.valid, recording.source
    for name, data in (("training", train), ("validation", valid)):
        if to_train and data.n_trials == 0:
            raise DataError(
                f"{source}: found no {name} trials; expected at least one",
                "See 'split' in the file, or `valid_where` where it is converted.",
            )
    kinds = [(d.n_bins, d.n_neurons, d.bin_ms, d.n_heldout, d.n_forward) for d in (train, valid)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{source}: training and validation trials differ in bins, neurons, bin width in ms, "
            f"held-out neurons or forward bins: found {kinds[0]} and {kinds[1]}; expected the same"
        )
    variables = [
        None if d.behavior_BTV is None else d.behavior_BTV.shape[2] for d in (train, valid)
    ]
    if None not in variables and variables[0] != variables[1]:
        raise DataError(
            f"{source}: training and validation trials differ in behavior: found {variables[0]} "
            f"and {variables[1]} variables; expected the same"
        )
    if to_train and train.max_count == 0:
        raise DataError(
            f"{source}: found no spike in {train.n_trials} training trials; expected some",
            hint="Was the right array saved? See `describe_file(FILE)`.",
        )
    data = train if train.n_trials else valid
    if data.max_count >= _NO_STEP and not (data.spikes_BTN == 1).any():
        step = np.gcd.reduce(data.spikes_BTN, axis=None)
        if step >= _NO_STEP and np.count_nonzero(data.spikes_BTN) >= _ENOUGH:
            raise DataError(
                f"{source}: found multiples of {step} alone; expected counts",
                "Spikes per second, times the bin width in seconds, are counts.",
            )


NEURONS_FIRST = (
    "Mean rates differ far more along the first axis than along the last: is the order trials x "
    "bins x neurons?"
)
"""What `looks_neurons_first` means, for people."""


def looks_neurons_first(data: SpikeData) -> bool:
    """Tell whether the first axis looks like neurons, and the last like trials.

    Mean rates differ far more between neurons than between trials. Compared is their squared
    coefficient of variation, less that of Poisson counts.
    """
    totals_B = data.spikes_BTN.sum(axis=(1, 2), dtype=np.int64)
    totals_N = data.spikes_BTN.sum(axis=(0, 1), dtype=np.int64)
    if min(len(totals_B), len(totals_N)) < _FEW or not totals_B.sum():
        return False
    rates_B = totals_B / data.lengths_B
    first, last = (
        np.var(rates) / np.mean(rates) ** 2 - 1 / np.mean(totals)
        for rates, totals in ((rates_B, totals_B), (totals_N, totals_N))
    )
    return bool(first > max(_UNLIKE_TRIALS, _FAR_MORE * last))


def unmarked_padding(data: SpikeData) -> list[str]:
    """Return a note if trials end with far more bins without any spike than chance has.

    With a share p of empty bins before the last spike, chance has p / (1 - p) of them after it.
    """
    fired_BT: NDArray[np.bool_] = np.asarray(data.spikes_BTN.any(axis=2))
    has_spike_B = np.asarray(fired_BT.any(axis=1))
    lasts_B = data.n_bins - 1 - np.argmax(fired_BT[has_spike_B, ::-1], axis=1)
    n_after = float(np.mean(np.asarray(data.lengths_B)[has_spike_B] - 1 - lasts_B))
    n_fired = int(fired_BT.sum())
    n_chance = float((lasts_B + 1).sum()) / n_fired - 1  # p / (1 - p)
    if len(lasts_B) < _FEW or n_after <= 1 + _FAR_LONGER * n_chance:
        return []
    return [
        f"On average, {n_after:.3g} bins without a spike of any neuron end a trial, where chance "
        f"has {n_chance:.2g}. If they pad shorter trials, give the bins of each as `lengths`: "
        "padding that is not marked is learned and scored."
    ]


def compact_counts(counts: IntArray) -> IntArray:
    """Return counts as uint8 if all are below 256, else as uint16; refuse larger ones."""
    largest = int(counts.max(initial=0))
    if largest > MAX_COUNT:
        raise DataError(
            f"found a spike count of {largest} in a bin; expected at most {MAX_COUNT}",
            hint="Use narrower bins or lower rates.",
        )
    return counts.astype(np.uint8 if largest < 256 else np.uint16)


# A seeded split into training and validation trials, for data without one -------------------------


def split_trials(
    n_trials: int,
    *,
    valid_fraction: float,
    seed: int,
    conditions_B: IntArray | None = None,
    source: str = "the data",
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the validation trials, in proportion within each condition; return both halves' indices.

    The total is ``round(valid_fraction * n_trials)``, at least one trial in each split. Each
    condition gives its proportional share, rounded down; the trials still missing come from the
    conditions with the largest remainders, ties in random order. Every condition keeps at least
    one training trial; if each has only one trial, conditions are ignored.

    Examples
    --------
    >>> train, valid = split_trials(10, valid_fraction=0.2, seed=0)
    >>> len(train), len(valid)
    (8, 2)
    """
    if n_trials < 2:
        raise DataError(
            f"{source}: found {n_trials} trial; training needs at least 2, one for validation",
            hint="Cut the recording into more trials, or, as it is converted, into windows: "
            "`chop_ms=1000`.",
        )
    rng = np.random.default_rng(seed)
    groups = [np.arange(n_trials)]
    if conditions_B is not None:
        _, sizes = np.unique(conditions_B, return_counts=True)
        by_condition = np.split(np.argsort(conditions_B, kind="stable"), np.cumsum(sizes)[:-1])
        if len(by_condition) < n_trials:
            groups = by_condition
    sizes = np.array([len(group) for group in groups])
    spare = sizes - 1
    wanted = round(valid_fraction * n_trials)
    n_valid = min(max(wanted, 1), int(spare.sum()))

    # Integer arithmetic: a share such as 4.8 trials must not depend on float rounding.
    taken, remainders = np.divmod(n_valid * sizes, n_trials)
    shuffled = rng.permutation(len(groups))
    largest_first = shuffled[np.argsort(-remainders[shuffled], kind="stable")]
    missing = n_valid - int(taken.sum())
    for group in cycle(largest_first):
        if missing == 0:
            break
        if taken[group] < spare[group]:
            taken[group] += 1
            missing -= 1

    is_valid = np.zeros(n_trials, dtype=bool)
    for group, n_taken in zip(groups, taken, strict=True):
        is_valid[rng.choice(group, size=n_taken, replace=False)] = True
    return np.flatnonzero(~is_valid), np.flatnonzero(is_valid)
