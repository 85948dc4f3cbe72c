"""Do the arrays of a group have the right axes, in the right order, of the right length?"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

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
    Group,
)
from ndt_cli.nlb.findings import Array, Finding, Severity

Shape = tuple[int, ...]

_HINTS = {
    TRAIN_TRIALS: "Give rates for all trials that trained, in their order: in the test phase "
    "those of the train and val splits together.",
    EVAL_TRIALS: "Give rates for every evaluated trial, in the order of the input tensors.",
    WINDOW_BINS: "Give rates for every bin of the window, and the bins after it under the keys "
    "that end in _forward.",
    FORWARD_BINS: "Give rates for the 200 ms after the window, and only those.",
    HELDIN: "Give rates for every neuron, in the order of the input tensors.",
    HELDOUT: "Give rates for every neuron, in the order of the input tensors.",
}


def check_shapes(
    name: str, group: Group | None, shapes: Mapping[str, Shape], sizes: Mapping[str, int]
) -> list[Finding]:
    """Check the shapes of the arrays of one group.

    Parameters
    ----------
    name : str
        Name of the group in the file.
    group : Group, optional
        What it is; None where the name says nothing.
    shapes : mapping of str to tuple
        Shape of each array, all with three axes.
    sizes : mapping of str to int
        Length of axes that are known from targets or tensors. Those of the window are known
        from the dataset; for others the arrays of the group must agree with one another.
    """
    wanted = {**(group.sizes if group else {}), **sizes}
    agreed = {**_agreed_sizes(shapes, wanted), **wanted}
    findings = []
    for key, shape in shapes.items():
        axes = AXES[key]
        expected = tuple(agreed[axis] for axis in axes)
        if shape == expected:
            continue
        swapped = _swapped_axes(shape, expected)
        if swapped is not None:
            findings.append(_swapped(name, key, shape, swapped))
            continue
        for axis, found, right in zip(axes, shape, expected, strict=True):
            if found != right:
                reason = _reason(key, axis, shapes, sizes, wanted)
                findings.append(
                    Finding(
                        "error",
                        name,
                        key,
                        f"has {found} {axis}; expected {right}, {reason}",
                        _hint(axis, found, agreed),
                    )
                )
    return findings


def group_by_bins(group: Group, shapes: Mapping[str, Shape]) -> Group:
    """Return the group at the bin width that its arrays really have."""
    other = group.other_width.sizes
    own = group.sizes
    found = [(AXES[key][1], shape[1]) for key, shape in shapes.items()]
    if found and all(n_bins == other[axis] != own[axis] for axis, n_bins in found):
        return group.other_width
    return group


def released_note(name: str, group: Group, shapes: Mapping[str, Shape]) -> list[Finding]:
    """Note where trials or neurons are not those of the released recording."""
    dataset = group.dataset
    sizes = _agreed_sizes(shapes, group.sizes)
    trials = (sizes.get(TRAIN_TRIALS), sizes.get(EVAL_TRIALS))
    neurons = (sizes.get(HELDIN), sizes.get(HELDOUT))
    phases = {
        "validation": (dataset.n_train, dataset.n_val),
        "test": (dataset.n_train + dataset.n_val, dataset.n_test),
    }
    said = []
    if None not in trials and trials not in phases.values():
        options = " or ".join(f"{a} and {b} ({phase})" for phase, (a, b) in phases.items())
        said.append(f"{trials[0]} train and {trials[1]} eval trials, not {options}")
    if None not in neurons and neurons != (dataset.n_heldin, dataset.n_heldout):
        said.append(
            f"{neurons[0]} held-in and {neurons[1]} held-out neurons, "
            f"not {dataset.n_heldin} and {dataset.n_heldout}"
        )
    if not said:
        return []
    message = f"differs from the released recording of {dataset.name}: it has " + "; ".join(said)
    hint = "That is as it should be for other recordings; --targets checks the exact numbers."
    return [Finding("note", name, "", message, hint)]


def _agreed_sizes(shapes: Mapping[str, Shape], wanted: Mapping[str, int]) -> dict[str, int]:
    """Return for each axis the length that most arrays have, seen with their axes upright."""
    votes: dict[str, Counter[int]] = {}
    for key, shape in shapes.items():
        for axis, size in zip(AXES[key], _upright(key, shape, wanted), strict=True):
            votes.setdefault(axis, Counter())[size] += 1
    return {axis: counter.most_common(1)[0][0] for axis, counter in votes.items()}


def _upright(key: str, shape: Shape, wanted: Mapping[str, int]) -> Shape:
    """Return the shape as trials x bins x neurons, where the number of bins gives it away."""
    n_trials, n_bins, n_neurons = shape
    right = wanted.get(AXES[key][1])
    if right is None or n_bins == right:
        return shape
    if n_neurons == right:
        return n_trials, n_neurons, n_bins
    return (n_bins, n_trials, n_neurons) if n_trials == right else shape


def _swapped_axes(shape: Shape, expected: Shape) -> tuple[int, ...] | None:
    """Return the transposition that makes the shape right."""
    for order in permutations(range(3)):
        if tuple(shape[axis] for axis in order) == expected:
            return order
    return None


def _swapped(name: str, key: str, shape: Shape, order: tuple[int, ...]) -> Finding:
    axes = ("trials", "bins", "neurons")
    found = " x ".join(axes[order.index(axis)] for axis in range(3))
    return Finding(
        "error",
        name,
        key,
        f"has the shape {_text(shape)}: its axes are {found}; expected trials x bins x neurons",
        f"Write numpy.transpose(rates, {order}).",
    )


def _reason(
    key: str,
    axis: str,
    shapes: Mapping[str, Shape],
    sizes: Mapping[str, int],
    wanted: Mapping[str, int],
) -> str:
    if axis in sizes:
        return "as in the targets"
    if axis in wanted:
        return "the benchmark's window" if axis == WINDOW_BINS else "200 ms"
    others = ", ".join(f"`{k}`" for k in shapes if k != key and axis in AXES[k])
    return f"as in {others}"


def _hint(axis: str, found: int, agreed: Mapping[str, int]) -> str:
    n_window, n_forward = agreed.get(WINDOW_BINS), agreed.get(FORWARD_BINS)
    if None not in (n_window, n_forward) and found == (n_window or 0) + (n_forward or 0):
        return (
            f"It holds window and forward bins together: the first {n_window} bins go here, the "
            f"last {n_forward} under the keys that end in _forward."
            if axis == WINDOW_BINS
            else f"It holds window and forward bins together: keep the last {n_forward}."
        )
    other = {HELDIN: HELDOUT, HELDOUT: HELDIN}.get(axis)
    if other is not None and found == agreed.get(other):
        return "Held-in and held-out rates seem to be exchanged."
    if other is not None and found == agreed.get(axis, 0) + agreed.get(other, 0):
        return "It holds all neurons: split them, held-in and held-out have keys of their own."
    return _HINTS[axis]


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape))


# ------------------------------------------------------------------------------------------------
# Are the numbers of an array rates at all?
# ------------------------------------------------------------------------------------------------


PLAUSIBLE_HZ = (0.05, 100.0)
"""Between these lies the mean rate of any of the benchmark's populations."""

_SHOWN_NEURONS = 5


def check_values(group: str, key: str, rates_BTN: Array, bin_ms: int | None) -> list[Finding]:
    """Check that rates are finite and not negative; errors only.

    Parameters
    ----------
    group, key : str
        Where the array lies.
    rates_BTN : (trials, bins, neurons) array
        Its numbers.
    bin_ms : int, optional
        Bin width, to recognize logarithms by.
    """
    finite = np.isfinite(rates_BTN)
    findings = []
    if not finite.all():
        n_nan = int(np.isnan(rates_BTN).sum())
        n_bad = int((~finite).sum())
        kinds = [f"{n_nan} NaN"] * (n_nan > 0) + [f"{n_bad - n_nan} infinite"] * (n_bad > n_nan)
        n_trials = int((~finite).any(axis=(1, 2)).sum())
        findings.append(
            Finding(
                "error",
                group,
                key,
                f"{' and '.join(kinds)} of {rates_BTN.size} values, in {n_trials} of "
                f"{len(rates_BTN)} trials; the first at {_first(~finite)}",
                "Every bin of every trial needs a rate, also bins that are not scored.",
            )
        )
    negative = finite & (rates_BTN < 0)
    if negative.any():
        n_negative = int(negative.sum())
        lowest = rates_BTN[negative].min()
        findings.append(
            Finding(
                "error",
                group,
                key,
                f"{n_negative} of {rates_BTN.size} values below 0, the lowest {lowest:.4g}; the "
                f"first at {_first(negative)}",
                _log_hint(rates_BTN[finite], n_negative / int(finite.sum()), bin_ms)
                or "Clip them with numpy.maximum(rates, 1e-9), or model log-rates instead.",
            )
        )
    return findings


def check_variation(group: str, key: str, rates_BTN: Array) -> list[Finding]:
    """Warn of rates that carry nothing: zeros, and no change over time or trials.

    The parameters are those of `check_values`, which must have found nothing.
    """
    if not rates_BTN.any():
        return [
            Finding("warning", group, key, "is 0 everywhere", "Was the array ever filled?"),
        ]
    findings = []
    if (rates_BTN == rates_BTN[:, :1]).all():
        findings.append(
            Finding(
                "warning",
                group,
                key,
                "is constant over time in every trial, as a mean rate is",
                "If a model made it, it has collapsed: look at its training.",
            )
        )
    elif len(rates_BTN) > 1 and (rates_BTN == rates_BTN[:1]).all():
        findings.append(
            Finding(
                "warning",
                group,
                key,
                "is the same in every trial",
                "If a model made it, it does not see its input.",
            )
        )
    return findings + (_zeros(group, key, rates_BTN) if key in SCORED_KEYS else [])


def _zeros(group: str, key: str, rates_BTN: Array) -> list[Finding]:
    zero = rates_BTN == 0
    if not zero.any():
        return []
    text = f"{zero.mean():.1%} of the rates are exactly 0"
    silent = np.flatnonzero(zero.all(axis=(0, 1)))
    if len(silent):
        shown = ", ".join(map(str, silent[:_SHOWN_NEURONS]))
        more = ", ..." if len(silent) > _SHOWN_NEURONS else ""
        text += f"; throughout for {len(silent)} of {zero.shape[2]} neurons: {shown}{more}"
    hint = (
        "The benchmark puts 1e-9 there, and a spike in such a bin costs 30 bits: give a small "
        "positive rate."
    )
    return [Finding("warning", group, key, text, hint)]


def _first(bad_BTN: Array) -> str:
    trial, bin_, neuron = np.unravel_index(int(np.argmax(bad_BTN)), bad_BTN.shape)
    return f"trial {trial}, bin {bin_}, neuron {neuron} (from 0)"


def _log_hint(values: Array, negative_share: float, bin_ms: int | None) -> str | None:
    """Recognize logarithms by what they are logarithms of."""
    if bin_ms is None:
        return None
    low, high = PLAUSIBLE_HZ
    # Rates this large would overflow, and are no logarithms of any rate.
    values = values.astype(np.float64)
    mean_exp = float(np.exp(np.minimum(values, 50.0)).mean())
    with np.errstate(over="ignore"):
        mean = float(values.mean())
    if negative_share > 0.5 and low <= mean_exp * 1000 / bin_ms <= high:
        return "They look like log-rates: write numpy.exp(rates)."
    if mean > 1 and low <= mean_exp <= high:
        return (
            f"They look like logarithms of rates in Hz: write numpy.exp(rates) / {1000 // bin_ms}."
        )
    return None


# ------------------------------------------------------------------------------------------------
# Are rates expected counts per bin, or in Hz, or of another bin width?
# ------------------------------------------------------------------------------------------------


# Any model gets a population's mean rate right within this factor.
_TOLERATED = 2.0
# A ratio this near to a factor is called by the factor's name.
_NAMED_WITHIN = 1.6


class _Verdict(NamedTuple):
    severity: Severity
    message: str
    hint: str


@dataclass(frozen=True)
class Scale:
    """Mean of one array, and of the spike counts that it predicts, where they are known."""

    mean_rate: float
    mean_count: float | None

    @classmethod
    def of(cls, rates_BTN: Array, counts_BTN: Array | None) -> "Scale":
        """Measure an array; counts that are NaN are left out on both sides."""
        if counts_BTN is None:
            return cls(float(rates_BTN.mean(dtype=np.float64)), None)
        known = ~np.isnan(counts_BTN)
        if not known.any():
            return cls(float(rates_BTN.mean(dtype=np.float64)), None)
        return cls(
            float(rates_BTN.mean(dtype=np.float64, where=known)),
            float(counts_BTN.mean(dtype=np.float64, where=known)),
        )


def check_scale(group: str, scales: Mapping[str, Scale], bin_ms: int) -> list[Finding]:
    """Recognize rates that are not counts per bin, by their mean.

    Compared with spike counts where they are known, else with what a population can fire.

    Parameters
    ----------
    group : str
        Where the arrays lie.
    scales : mapping of str to Scale
        By key.
    bin_ms : int
        Bin width.
    """
    verdicts: dict[_Verdict, list[str]] = {}
    for key, scale in scales.items():
        verdict = _verdict(scale, bin_ms)
        if verdict is not None:
            verdicts.setdefault(verdict, []).append(key)
    findings = []
    for verdict, keys in verdicts.items():
        means = [scales[key].mean_rate for key in keys]
        text = (
            f"mean of {_range(means)} per bin of {bin_ms} ms, "
            f"{_range([mean * 1000 / bin_ms for mean in means])} Hz: {verdict.message}"
        )
        findings.append(Finding(verdict.severity, group, ", ".join(keys), text, verdict.hint))
    return findings


def _range(values: list[float]) -> str:
    ends = (min(values), max(values))
    shown = dict.fromkeys(f"{end:,.0f}" if end >= 100 else f"{end:.3g}" for end in ends)
    return " to ".join(shown)


def _verdict(scale: Scale, bin_ms: int) -> _Verdict | None:
    if scale.mean_rate == 0:
        return None
    if not scale.mean_count:
        return _implausible(scale.mean_rate * 1000 / bin_ms, bin_ms)
    ratio = scale.mean_rate / scale.mean_count
    if 1 / _TOLERATED <= ratio <= _TOLERATED:
        return None
    named = _named_factors(bin_ms)

    def distance(factor: float) -> float:
        return abs(math.log(ratio / factor))

    nearest_factor = min(named, key=distance)
    if distance(nearest_factor) <= math.log(_NAMED_WITHIN):
        return named[nearest_factor]
    message = f"{ratio:.3g} times the mean spike count, {scale.mean_count:.3g}"
    return _Verdict("warning", message, "Rates are expected spike counts per bin: is that so?")


def _implausible(as_hz: float, bin_ms: int) -> _Verdict | None:
    low, high = PLAUSIBLE_HZ
    if as_hz > high:
        return _named_factors(bin_ms)[1000 / bin_ms]
    if as_hz < low:
        message = f"a population fires at {low:g} Hz or more"
        return _Verdict("warning", message, "Rates are expected spike counts per bin: is that so?")
    return None


def _named_factors(bin_ms: int) -> dict[float, _Verdict]:
    """Return what a ratio of rates to counts means, by the ratio."""
    to_hz = 1000 // bin_ms
    (other_ms,) = set(BINS_MS) - {bin_ms}
    return {
        1000 / bin_ms: _Verdict(
            "error",
            f"these are rates in Hz, not expected counts per bin, {to_hz} times too large",
            f"Divide by {to_hz} (1000 / bin_ms).",
        ),
        bin_ms / 1000: _Verdict(
            "error",
            f"{to_hz} times too small, as if counts per bin were taken for Hz and divided again",
            f"Multiply by {to_hz} (1000 / bin_ms).",
        ),
        other_ms / bin_ms: _Verdict(
            "error",
            f"these are counts per bin of {other_ms} ms",
            f"Multiply by {bin_ms} / {other_ms}.",
        ),
        1 / bin_ms: _Verdict(
            "error",
            f"these are counts per ms, {bin_ms} times too small",
            f"Multiply by {bin_ms} (bin_ms).",
        ),
    }


# ------------------------------------------------------------------------------------------------
# Are the trials in the order of the targets?
#
# Rates of a trial predict its own spikes better than those of other trials, if they predict
# anything that differs between trials. Under a Poisson model the log-likelihood of the spikes s_j
# of trial j with the rates of trial i is sum(s_j log r_i - r_i), up to a term of s_j alone. Rows
# and columns of this matrix are centered, which takes away what trials have in common; the mean of
# the entries (i, order[i]) then tells how well an order fits.
# ------------------------------------------------------------------------------------------------


_FIT = 4.0  # standard errors above chance that count as a fit
_BETTER = 3.0  # and above the file's own order, for another one to be the right one
_FEWEST_TRIALS = 4
# Bins x neurons that are looked at: enough to tell, and few enough for a large file.
_MOST_ENTRIES = 10_000

FloatArray = NDArray[np.float64]


def check_order(
    group: str, rates: Mapping[str, Array], counts: Mapping[str, Array]
) -> list[Finding]:
    """Tell by spike counts whether trials are in the right order.

    Parameters
    ----------
    group : str
        Where the arrays lie.
    rates, counts : mapping of str to array
        Rates and spike counts of the same trials, trials x bins x neurons, by the same keys.
        A count that is NaN is left out.

    Returns
    -------
    list of Finding
        An error where another order fits clearly better; a note where nothing can be told.
    """
    key = ", ".join(rates)
    n_trials = len(next(iter(rates.values())))
    if n_trials < _FEWEST_TRIALS:
        text = f"the order of {n_trials} trials cannot be told from their spikes"
        return [Finding("note", group, key, text)]
    signal, spikes = _signal_and_spikes(rates, counts)
    # The order that fits best is looked for on one half and judged on the other: a search over
    # all orders fits noise.
    searched, judged = (_gains(signal[:, half::2], spikes[:, half::2]) for half in (0, 1))
    own = np.arange(n_trials)
    found = linear_sum_assignment(-searched)[1]
    fits = {
        "in reverse": own[::-1],
        "one trial late": np.roll(own, 1),
        "one trial early": np.roll(own, -1),
        "in another order": found,
    }
    own_fit = _fit(judged, own)
    for what, order in fits.items():
        fit = _fit(judged, order)
        if fit > _FIT and fit > own_fit + _BETTER:
            pairs = ", ".join(f"{i} fits trial {order[i]}" for i in range(min(3, n_trials)))
            return [
                Finding(
                    "error",
                    group,
                    key,
                    f"the trials are {what}: by their spikes, trial {pairs} and so on",
                    "Put the rates in the order of the input tensors (a shuffling data loader?).",
                )
            ]
    if own_fit < _FIT:
        text = "the order of the trials cannot be told: their rates differ too little"
        return [Finding("note", group, key, text)]
    return []


def _signal_and_spikes(
    rates: Mapping[str, Array], counts: Mapping[str, Array]
) -> tuple[FloatArray, FloatArray]:
    """Return log-rates without what all trials share, and counts, in the same random entries."""
    draw = np.random.default_rng(0)
    signal, spikes = [], []
    for key, rates_BTN in rates.items():
        n_trials = len(rates_BTN)
        entries = draw.permutation(rates_BTN[0].size)[: _MOST_ENTRIES // len(rates)]
        rates_BX = rates_BTN.reshape(n_trials, -1)[:, entries].astype(np.float64)
        counts_BX = counts[key].reshape(n_trials, -1)[:, entries].astype(np.float64)
        known = ~np.isnan(counts_BX)
        # One rate of almost nothing would outweigh every other entry.
        logs_BX = np.log(np.maximum(rates_BX, 0.01 * rates_BX.mean(axis=0) + 1e-9))
        n_known_X = np.maximum(known.sum(axis=0), 1)
        mean_X = logs_BX.sum(axis=0, where=known) / n_known_X
        signal.append(np.where(known, logs_BX - mean_X, 0.0))
        spikes.append(np.where(known, counts_BX, 0.0))
    order = draw.permutation(sum(part.shape[1] for part in signal))
    return np.concatenate(signal, axis=1)[:, order], np.concatenate(spikes, axis=1)[:, order]


def _gains(signal: FloatArray, spikes: FloatArray) -> FloatArray:
    """Return the log-likelihood of trial j's spikes under trial i's rates, doubly centered."""
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
