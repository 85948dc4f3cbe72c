"""Rules for the arrays of a submission: type, shape, values, unit and order of trials.

A rule yields problems; `ndt_cli.nlb.check` applies the rules and adds the place in the file.

Axes in names: B trials, T bins, N neurons, X entries (bins and neurons together).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ndt_cli.data.files import DAMAGE, Elsewhere
from ndt_cli.nlb.catalog import (
    AXES,
    BINS_MS,
    EVAL_TRIALS,
    FORWARD_BINS,
    HELDIN,
    HELDOUT,
    SCORED_KEYS,
    TRAIN_TRIALS,
    WINDOW_BINS,
    SubmissionGroup,
)

Array = NDArray[Any]
Severity = Literal["error", "warning", "note"]
Shape = tuple[int, ...]
FloatArray = NDArray[np.float64]

PLAUSIBLE_HZ = (0.05, 100.0)
"""Range of the mean rate of any of the benchmark's populations."""

_SHOWN_NEURONS = 5


class Problem(NamedTuple):
    """Severity, message and hint of a finding."""

    severity: Severity
    message: str
    hint: str | None = None


@dataclass(frozen=True, eq=False)
class RateArray:
    """One array of a submission, and its spike counts if they are known."""

    key: str
    rates_BTN: Array
    counts_BTN: Array | None = None


def type_problem(array: Any) -> Problem | None:
    """Check that an array holds real numbers along three axes."""
    if isinstance(array, Elsewhere):
        return Problem("error", f"is {array.found}", array.hint)
    if not isinstance(array, h5py.Dataset | np.ndarray) or array.shape is None:
        return Problem("error", "is not an array", "Store it as a dataset of floats.")
    try:
        dtype = array.dtype
    except DAMAGE:  # HDF5 has types that NumPy does not have
        dtype = None
    if dtype is None or dtype.kind not in "fiu":
        text = f"has the type {dtype or 'unknown'}; expected floating-point numbers"
        return Problem("error", text, "Store it as float32.")
    if array.ndim != 3:
        text = f"has {array.ndim} axes; expected 3: trials x bins x neurons"
        return Problem("error", text, "Do not concatenate trials in time.")
    if array.size == 0:
        text = f"is empty, of shape {_text(array.shape)}"
        return Problem("error", text, "Was it written before it was filled?")
    if dtype.kind in "iu":
        text = f"has whole numbers ({dtype}), like spike counts"
        return Problem("warning", text, "Give rates (expected counts per bin), not spike counts.")
    if dtype.itemsize < 4:
        text = f"is {dtype}, which has three digits and nothing below 6e-8"
        return Problem("warning", text, "Store it as float32.")
    return None


_HINTS = {
    TRAIN_TRIALS: "Give rates for all training trials in their order: in the test phase, those of "
    "the train and val splits together.",
    EVAL_TRIALS: "Give rates for every evaluated trial, in the order of the input tensors.",
    WINDOW_BINS: "Give rates for every bin of the window; later bins belong under the keys that "
    "end in _forward.",
    FORWARD_BINS: "Give rates for the 200 ms after the window only.",
    HELDIN: "Give rates for every neuron, in the order of the input tensors.",
    HELDOUT: "Give rates for every neuron, in the order of the input tensors.",
}


def shape_problems(
    shapes: Mapping[str, Shape], group: SubmissionGroup | None, sizes: Mapping[str, int]
) -> Iterator[tuple[str, Problem]]:
    """Check the shapes of the arrays of one group; yield key and problem.

    ``sizes`` are known from targets or tensors, the window from the dataset; along other axes the
    arrays must agree with each other.
    """
    wanted = {**(group.sizes if group else {}), **sizes}
    agreed = {**_agreed_sizes(shapes, wanted), **wanted}
    for key, shape in shapes.items():
        axes = AXES[key]
        expected = tuple(agreed[axis] for axis in axes)
        if shape == expected:
            continue
        order = next(
            (p for p in permutations(range(3)) if tuple(shape[i] for i in p) == expected), None
        )
        if order is not None:
            names = ("trials", "bins", "neurons")
            found = " x ".join(names[order.index(axis)] for axis in range(3))
            text = (
                f"has the shape {_text(shape)}: its axes are {found}; expected {' x '.join(names)}"
            )
            yield key, Problem("error", text, f"Write numpy.transpose(rates, {order}).")
            continue
        for axis, size, right in zip(axes, shape, expected, strict=True):
            if size != right:
                if axis in sizes:
                    reason = "as in the targets"
                elif axis in wanted:
                    reason = "the benchmark's window" if axis == WINDOW_BINS else "200 ms"
                else:
                    others = [k for k in shapes if k != key and axis in AXES[k]]
                    reason = "as in " + ", ".join(f"`{k}`" for k in others)
                text = f"has {size} {axis}; expected {right}, {reason}"
                yield key, Problem("error", text, _size_hint(axis, size, agreed))


def group_by_bins(group: SubmissionGroup, shapes: Mapping[str, Shape]) -> SubmissionGroup:
    """Return the group at the bin width that its arrays really have."""
    other, own = group.other_width.sizes, group.sizes
    found = [(AXES[key][1], shape[1]) for key, shape in shapes.items()]
    if found and all(n_bins == other[axis] != own[axis] for axis, n_bins in found):
        return group.other_width
    return group


def released_sizes(group: SubmissionGroup, shapes: Mapping[str, Shape]) -> Iterator[Problem]:
    """Note trials or neurons that differ from the released recording."""
    dataset = group.dataset
    sizes = _agreed_sizes(shapes, group.sizes)
    trials = (sizes.get(TRAIN_TRIALS), sizes.get(EVAL_TRIALS))
    neurons = (sizes.get(HELDIN), sizes.get(HELDOUT))
    phases = {
        "validation": (dataset.n_train, dataset.n_val),
        "test": (dataset.n_train + dataset.n_val, dataset.n_test),
    }
    differences = []
    if None not in trials and trials not in phases.values():
        options = " or ".join(f"{a} and {b} ({phase})" for phase, (a, b) in phases.items())
        differences.append(f"{trials[0]} train and {trials[1]} eval trials, not {options}")
    if None not in neurons and neurons != (dataset.n_heldin, dataset.n_heldout):
        differences.append(
            f"{neurons[0]} held-in and {neurons[1]} held-out neurons, "
            f"not {dataset.n_heldin} and {dataset.n_heldout}"
        )
    if differences:
        yield Problem(
            "note",
            f"differs from the released recording of {dataset.name}: {'; '.join(differences)}",
            "Right for another recording; `targets=FILE` checks the exact sizes.",
        )


def _agreed_sizes(shapes: Mapping[str, Shape], wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the most common length of each axis, with swapped axes put right."""
    votes: dict[str, Counter[int]] = {}
    for key, shape in shapes.items():
        for axis, size in zip(AXES[key], _unswapped(key, shape, wanted), strict=True):
            votes.setdefault(axis, Counter())[size] += 1
    return {axis: counter.most_common(1)[0][0] for axis, counter in votes.items()}


def _unswapped(key: str, shape: Shape, wanted: Mapping[str, int]) -> Shape:
    """Return the shape as trials x bins x neurons, recognized by the number of bins."""
    n_trials, n_bins, n_neurons = shape
    right = wanted.get(AXES[key][1])
    if right is None or n_bins == right:
        return shape
    if n_neurons == right:
        return n_trials, n_neurons, n_bins
    return (n_bins, n_trials, n_neurons) if n_trials == right else shape


def _size_hint(axis: str, size: int, agreed: Mapping[str, int]) -> str:
    n_window, n_forward = agreed.get(WINDOW_BINS), agreed.get(FORWARD_BINS)
    if None not in (n_window, n_forward) and size == (n_window or 0) + (n_forward or 0):
        if axis == WINDOW_BINS:
            return (
                f"It holds window and forward bins together: the first {n_window} bins go here, "
                f"the last {n_forward} under the keys that end in _forward."
            )
        return f"It holds window and forward bins together: keep the last {n_forward}."
    other = {HELDIN: HELDOUT, HELDOUT: HELDIN}.get(axis)
    if other is not None and size == agreed.get(other):
        return "Held-in and held-out rates seem to be swapped."
    if other is not None and size == agreed.get(axis, 0) + agreed.get(other, 0):
        return "It holds all neurons: split them into the held-in and the held-out array."
    return _HINTS[axis]


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


# ------------------------------------------------------------------------------------------------
# Values.
# ------------------------------------------------------------------------------------------------


def value_problems(rates_BTN: Array, bin_ms: int | None) -> Iterator[Problem]:
    """Check that rates are finite and not negative, as the benchmark's evaluation needs them."""
    is_finite = np.isfinite(rates_BTN)
    if not is_finite.all():
        bad = ~is_finite
        n_bad, n_nan = int(bad.sum()), int(np.isnan(rates_BTN).sum())
        kinds = [f"{n_nan} NaN"] * (n_nan > 0) + [f"{n_bad - n_nan} infinite"] * (n_bad > n_nan)
        yield Problem(
            "error",
            f"{' and '.join(kinds)} of {rates_BTN.size} values, in "
            f"{int(bad.any(axis=(1, 2)).sum())} of {len(rates_BTN)} trials; the first at "
            f"{_first(bad)}",
            "Every bin of every trial needs a rate, including bins that are not scored.",
        )
    negative = is_finite & (rates_BTN < 0)
    if negative.any():
        n_negative = int(negative.sum())
        yield Problem(
            "error",
            f"{n_negative} of {rates_BTN.size} values below 0, the lowest "
            f"{rates_BTN[negative].min():.4g}; the first at {_first(negative)}",
            _log_hint(rates_BTN[is_finite], n_negative / int(is_finite.sum()), bin_ms)
            or "Clip them with numpy.maximum(rates, 1e-9), or model log-rates instead.",
        )


def plausibility_problems(key: str, rates_BTN: Array) -> Iterator[Problem]:
    """Check that rates change, and that none is 0 where a spike would be scored."""
    if not rates_BTN.any():
        yield Problem("warning", "is 0 everywhere", "Was the array ever filled?")
        return
    if (rates_BTN == rates_BTN[:, :1]).all():
        text = "is constant over time in every trial, like a mean rate"
        yield Problem("warning", text, "If a model predicted it, its training has collapsed.")
    elif len(rates_BTN) > 1 and (rates_BTN == rates_BTN[:1]).all():
        text = "is the same in every trial"
        yield Problem("warning", text, "If a model predicted it, it ignores its input.")
    zero = rates_BTN == 0
    if key in SCORED_KEYS and zero.any():
        text = f"{zero.mean():.1%} of the rates are exactly 0"
        silent = np.flatnonzero(zero.all(axis=(0, 1)))
        if len(silent):
            shown = ", ".join(map(str, silent[:_SHOWN_NEURONS]))
            more = ", ..." if len(silent) > _SHOWN_NEURONS else ""
            text += f"; throughout for {len(silent)} of {zero.shape[2]} neurons: {shown}{more}"
        yield Problem(
            "warning",
            text,
            "The benchmark replaces 0 by 1e-9, and a spike in such a bin costs 30 bits: give a "
            "small positive rate.",
        )


def _first(bad_BTN: Array) -> str:
    trial, bin_, neuron = np.unravel_index(int(np.argmax(bad_BTN)), bad_BTN.shape)
    return f"trial {trial}, bin {bin_}, neuron {neuron} (from 0)"


def _log_hint(values: Array, negative_share: float, bin_ms: int | None) -> str | None:
    """Recognize logarithms by the mean rate that they stand for."""
    if bin_ms is None:
        return None
    low, high = PLAUSIBLE_HZ
    # Larger values would overflow, and are not logarithms of any rate.
    values = values.astype(np.float64)
    mean_exp = float(np.exp(np.minimum(values, 50.0)).mean())
    with np.errstate(over="ignore"):
        mean = float(values.mean())
    if negative_share > 0.5 and low <= mean_exp * 1000 / bin_ms <= high:
        return "They look like log-rates: write numpy.exp(rates)."
    if mean > 1 and low <= mean_exp <= high:
        to_hz = 1000 // bin_ms
        return f"They look like logarithms of rates in Hz: write numpy.exp(rates) / {to_hz}."
    return None


# ------------------------------------------------------------------------------------------------
# Unit: expected counts per bin, not Hz and not counts of another bin width.
# ------------------------------------------------------------------------------------------------


# Any model predicts a population's mean rate within this factor.
_TOLERATED = 2.0
# A ratio within this factor of a conversion factor is taken for it.
_NAMED_WITHIN = 1.6
_CHECK_UNIT = "Rates must be expected spike counts per bin: check their unit."


def unit_problems(arrays: Sequence[RateArray], bin_ms: int) -> Iterator[tuple[list[str], Problem]]:
    """Recognize the unit of rates by their mean; yield keys and problem.

    The mean is compared with that of the spike counts if known, else with plausible rates.
    """
    means: dict[Problem, dict[str, float]] = {}
    for array in arrays:
        rates_BTN, counts_BTN = array.rates_BTN, array.counts_BTN
        known = None if counts_BTN is None else ~np.isnan(counts_BTN)
        mean_count = None
        if counts_BTN is None or known is None or not known.any():
            mean_rate = float(rates_BTN.mean(dtype=np.float64))
        else:
            mean_rate = float(rates_BTN.mean(dtype=np.float64, where=known))
            mean_count = float(counts_BTN.mean(dtype=np.float64, where=known))
        problem = _unit_problem(mean_rate, mean_count, bin_ms)
        if problem is not None:
            means.setdefault(problem, {})[array.key] = mean_rate
    for problem, by_key in means.items():
        per_bin = list(by_key.values())
        text = (
            f"mean of {_range(per_bin)} per bin of {bin_ms} ms, "
            f"{_range([mean * 1000 / bin_ms for mean in per_bin])} Hz: {problem.message}"
        )
        yield list(by_key), problem._replace(message=text)


def _range(values: list[float]) -> str:
    ends = (min(values), max(values))
    shown = dict.fromkeys(f"{end:,.0f}" if end >= 100 else f"{end:.3g}" for end in ends)
    return " to ".join(shown)


def _unit_problem(mean_rate: float, mean_count: float | None, bin_ms: int) -> Problem | None:
    if mean_rate == 0:
        return None
    factors = _named_factors(bin_ms)
    if not mean_count:
        low, high = PLAUSIBLE_HZ
        if mean_rate * 1000 / bin_ms > high:
            return factors[1000 / bin_ms]
        if mean_rate * 1000 / bin_ms < low:
            return Problem("warning", f"a population fires at {low:g} Hz or more", _CHECK_UNIT)
        return None
    ratio = mean_rate / mean_count
    if 1 / _TOLERATED <= ratio <= _TOLERATED:
        return None
    nearest = min(factors, key=lambda factor: abs(math.log(ratio / factor)))
    if abs(math.log(ratio / nearest)) <= math.log(_NAMED_WITHIN):
        return factors[nearest]
    text = f"{ratio:.3g} times the mean spike count, {mean_count:.3g}"
    return Problem("warning", text, _CHECK_UNIT)


def _named_factors(bin_ms: int) -> dict[float, Problem]:
    """Return what a ratio of rates to counts means, by ratio."""
    to_hz = 1000 // bin_ms
    (other_ms,) = set(BINS_MS) - {bin_ms}
    return {
        1000 / bin_ms: Problem(
            "error",
            f"these are rates in Hz, not expected counts per bin, {to_hz} times too large",
            f"Divide by {to_hz} (1000 / bin_ms).",
        ),
        bin_ms / 1000: Problem(
            "error",
            f"{to_hz} times too small, as if counts per bin were taken for Hz and divided again",
            f"Multiply by {to_hz} (1000 / bin_ms).",
        ),
        other_ms / bin_ms: Problem(
            "error",
            f"these are counts per bin of {other_ms} ms",
            f"Multiply by {bin_ms} / {other_ms}.",
        ),
        1 / bin_ms: Problem(
            "error",
            f"these are counts per ms, {bin_ms} times too small",
            f"Multiply by {bin_ms} (bin_ms).",
        ),
    }


# ------------------------------------------------------------------------------------------------
# Order of the trials.
#
# The rates of a trial predict its own spikes better than those of other trials, if they differ
# between trials at all. Under a Poisson model the log-likelihood of the spikes s_j of trial j given
# the rates of trial i is sum(s_j log r_i - r_i), up to a term of s_j alone. Centering the rows and
# columns of this matrix removes what trials have in common; the mean of the entries (i, order[i])
# then measures how well an order fits.
# ------------------------------------------------------------------------------------------------


_FIT = 4.0  # standard errors above chance for an order to fit
_BETTER = 3.0  # and above the file's own order, for another one to be right
_FEWEST_TRIALS = 4
# Bins x neurons to look at: enough to decide, and few enough for a large file.
_MOST_ENTRIES = 10_000


def order_problem(arrays: Sequence[RateArray]) -> Problem | None:
    """Compare the order of trials with their spike counts, which all arrays must have.

    An error if another order fits clearly better; a note if the order cannot be checked.
    """
    n_trials = len(arrays[0].rates_BTN)
    if n_trials < _FEWEST_TRIALS:
        return Problem("note", f"the order of {n_trials} trials cannot be checked: too few trials")
    signal, spikes = _signal_and_spikes(arrays)
    # The best order is searched for on one half of the entries and judged on the other: a search
    # over all orders fits noise.
    searched, judged = (_gains(signal[:, half::2], spikes[:, half::2]) for half in (0, 1))
    own = np.arange(n_trials)
    orders = {
        "in reverse": own[::-1],
        "one trial late": np.roll(own, 1),
        "one trial early": np.roll(own, -1),
        "in another order": linear_sum_assignment(-searched)[1],
    }
    own_fit = _fit(judged, own)
    for what, order in orders.items():
        fit = _fit(judged, order)
        if fit > _FIT and fit > own_fit + _BETTER:
            pairs = ", ".join(f"{i} fits trial {order[i]}" for i in range(min(3, n_trials)))
            return Problem(
                "error",
                f"the trials are {what}: by their spikes, trial {pairs} and so on",
                "Put the rates in the order of the input tensors (a shuffling data loader?).",
            )
    if own_fit < _FIT:
        text = "the order of the trials cannot be checked: their rates differ too little"
        return Problem("note", text)
    return None


def _signal_and_spikes(arrays: Sequence[RateArray]) -> tuple[FloatArray, FloatArray]:
    """Return log-rates minus their mean over trials, and counts, at the same random entries."""
    draw = np.random.default_rng(0)
    signal, spikes = [], []
    for array in arrays:
        n_trials = len(array.rates_BTN)
        entries = draw.permutation(array.rates_BTN[0].size)[: _MOST_ENTRIES // len(arrays)]
        rates_BX = array.rates_BTN.reshape(n_trials, -1)[:, entries].astype(np.float64)
        counts = np.asarray(array.counts_BTN).reshape(n_trials, -1)
        counts_BX = counts[:, entries].astype(np.float64)
        known = ~np.isnan(counts_BX)
        # A single rate near 0 would outweigh every other entry.
        logs_BX = np.log(np.maximum(rates_BX, 0.01 * rates_BX.mean(axis=0) + 1e-9))
        n_known_X = np.maximum(known.sum(axis=0), 1)
        mean_X = logs_BX.sum(axis=0, where=known) / n_known_X
        signal.append(np.where(known, logs_BX - mean_X, 0.0))
        spikes.append(np.where(known, counts_BX, 0.0))
    order = draw.permutation(sum(part.shape[1] for part in signal))
    return np.concatenate(signal, axis=1)[:, order], np.concatenate(spikes, axis=1)[:, order]


def _gains(signal: FloatArray, spikes: FloatArray) -> FloatArray:
    """Return the doubly centered log-likelihood of trial j's spikes under trial i's rates."""
    gains = signal @ spikes.T
    gains = gains - gains.mean(axis=0) - gains.mean(axis=1)[:, None] + gains.mean()
    return np.asarray(gains)


def _fit(gains: FloatArray, order: NDArray[np.intp]) -> float:
    """Return how far above chance an order fits, in standard errors."""
    n_trials = len(gains)
    others = gains[~np.eye(n_trials, dtype=bool)]
    error = float(others.std()) / np.sqrt(n_trials)
    # Rates that are equal in all trials leave rounding errors, which are no evidence.
    if error <= 1e-9 * max(1.0, float(np.abs(gains).max())):
        return 0.0
    return float(gains[np.arange(n_trials), order].mean() / error)
