"""Do the arrays of a group have the right axes, in the right order, of the right length?"""

from collections import Counter
from collections.abc import Mapping
from itertools import permutations

from ndt_cli.nlb.findings import Finding
from ndt_cli.nlb.groups import (
    AXES,
    EVAL_TRIALS,
    FORWARD_BINS,
    HELDIN,
    HELDOUT,
    TRAIN_TRIALS,
    WINDOW_BINS,
    Group,
)

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
