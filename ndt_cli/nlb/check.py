"""Check of a submission file, whichever program wrote it: groups, keys, then the arrays.

The rules for arrays are in `ndt_cli.nlb.check_arrays`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from typing_extensions import Self

from ndt_cli.data.files import (
    DAMAGE,
    Elsewhere,
    Item,
    check_announced,
    damaged,
    open_hdf5,
    own_item,
    own_names,
)
from ndt_cli.errors import DataError, nearest
from ndt_cli.nlb.catalog import (
    AXES,
    EVAL_TRIALS,
    FORWARD_KEYS,
    GROUPS,
    RATE_KEYS,
    TRAIN_TRIALS,
    SubmissionGroup,
    nearest_group,
)
from ndt_cli.nlb.check_arrays import (
    Array,
    Problem,
    RateArray,
    Severity,
    Shape,
    group_by_bins,
    order_problem,
    plausibility_problems,
    released_sizes,
    shape_problems,
    type_problem,
    unit_problems,
    value_problems,
)


@dataclass(frozen=True)
class Finding:
    """One finding in a submission file.

    An error means that the file cannot be scored, or that its score would be wrong.
    """

    severity: Severity
    group: str  # such as ``mc_maze_20``; empty if it concerns the whole file
    key: str  # arrays of the group, separated by commas; empty if it concerns the whole group
    message: str
    hint: str | None = None

    @property
    def place(self) -> str:
        """Group and key, as a path in the file."""
        if self.key == ", ".join(RATE_KEYS):
            return f"{self.group}, all arrays"
        return f"{self.group}/{self.key}" if self.key else self.group

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


@dataclass(frozen=True, eq=False)
class Expected:
    """Known sizes and spike counts of one group.

    ``sizes`` are by axis, as in `ndt_cli.nlb.catalog.AXES`; ``counts`` (trials x bins x neurons) by
    the key of the rates that predict them, NaN where a count is not scored.
    """

    sizes: Mapping[str, int]
    counts: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, *arrays: Mapping[str, Array]) -> Self:
        """Collect sizes and counts from input tensors and targets of one group, by nlb_tools' keys.

        Later arrays replace earlier ones of the same key: give targets last.
        """
        known: dict[str, Array] = {}
        for mapping in arrays:
            known.update(mapping)
        counts: dict[str, Array] = {}
        sizes: dict[str, int] = {}
        for key, axes in AXES.items():
            name = key.replace("_rates_", "_spikes_")
            if name not in known:
                continue
            array = counts[key] = known[name]
            if np.ndim(array) != len(axes) or array.dtype.kind not in "buif":
                raise DataError(
                    f"targets: `{name}`: found shape {np.shape(array)} of type {array.dtype}; "
                    f"expected spike counts, {' x '.join(axes)}"
                )
            if np.isinf(array).any() or (array < 0).any():
                raise DataError(
                    f"targets: `{name}`: found infinite or negative numbers; expected spike counts"
                )
            sizes.update(zip(axes, np.shape(array), strict=True))
        for axis, name in ((TRAIN_TRIALS, "train_behavior"), (EVAL_TRIALS, "eval_behavior")):
            if name in known and np.ndim(known[name]):
                sizes.setdefault(axis, len(known[name]))
        return cls(sizes, counts)


_NOTHING = Expected({})
_SEVERITIES = ("error", "warning", "note")
_GROUP_NAMES = f"A group is one of {', '.join(GROUPS)}."


def check_submission(path: Path, targets: Mapping[str, Expected] | None = None) -> list[Finding]:
    """Check a submission file, one group per dataset and bin width.

    ``targets`` hold what is known of each group. Without them, arrays are compared with each other,
    with the benchmark's windows and with plausible firing rates. Findings are sorted by severity
    within each group.
    """
    if not path.is_file():
        what = "found a folder, device or pipe; expected a submission file"
        raise DataError(f"{path}: {what if path.exists() else 'no such file'}")
    if not h5py.is_hdf5(path):
        return [_not_hdf5(path)]
    try:
        file = open_hdf5(path)
    except DAMAGE as error:
        return _at("", "", [_damaged(f"the file cannot be opened as HDF5: {error}")])
    findings: list[Finding] = []
    with file:
        items = _items(file)
        groups = {name: item for name, item in items.items() if isinstance(item, h5py.Group)}
        links = {name: item for name, item in items.items() if isinstance(item, Elsewhere)}
        findings += [Finding("error", n, "", f"is {i.found}", i.hint) for n, i in links.items()]
        others = [name for name in items if name not in groups and name not in links]
        if others:
            findings.append(_outside_groups(others))
        if not groups and not any(finding.severity == "error" for finding in findings):
            findings.append(Finding("error", "", "", "the file holds no group", _GROUP_NAMES))
        for name, group in groups.items():
            known = (targets or {}).get(_meant(name))
            found = _joined(check_group(name, _items(group), known))
            if targets is not None and known is None:
                text = "the targets do not have this group; it was checked without them"
                found.append(Finding("note", name, "", text))
            findings += sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))
    return findings


def check_group(
    name: str, arrays: Mapping[str, Any], expected: Expected | None = None
) -> list[Finding]:
    """Check one group: arrays by key, in memory or in an open file; see `check_submission`."""
    expected = expected or _NOTHING
    group, readable, findings = _check_scorable(name, arrays, expected)
    if not readable:
        return findings
    if group is not None:
        findings += _at(name, "", released_sizes(group, _shapes(readable)))
    wrong = {finding.key for finding in findings if finding.severity == "error"}
    right = []
    for key, rates_BTN in readable.items():
        if key in wrong:
            continue
        counts_BTN = expected.counts.get(key)
        # Targets whose own arrays disagree have counts of another shape.
        if counts_BTN is not None and counts_BTN.shape != rates_BTN.shape:
            counts_BTN = None
        right.append(RateArray(key, rates_BTN, counts_BTN))
        findings += _at(name, key, plausibility_problems(key, rates_BTN))
    if group is not None:
        for keys, problem in unit_problems(right, group.bin_ms):
            findings += _at(name, ", ".join(keys), [problem])
    return findings + _check_orders(name, right)


def require_scorable(
    name: str, arrays: Mapping[str, Any], expected: Expected | None = None, source: str = ""
) -> None:
    """Raise DataError for the first reason that the benchmark's evaluation would fail."""
    for finding in _check_scorable(name, arrays, expected or _NOTHING)[2]:
        if finding.severity == "error":
            raise DataError(f"{source}{finding}", finding.hint)


def submission_shapes(path: Path) -> dict[str, dict[str, Shape]]:
    """Return the shapes of the arrays of a submission file, by group and key.

    Items that are not arrays of a group are left out; a file that cannot be opened has none.
    """
    try:
        with open_hdf5(path) as file:
            return {
                name: {
                    key: tuple(item.shape or ())
                    for key, item in _items(group).items()
                    if isinstance(item, h5py.Dataset)
                }
                for name, group in _items(file).items()
                if isinstance(group, h5py.Group)
            }
    except (DataError, *DAMAGE):
        return {}


def _check_scorable(
    name: str, arrays: Mapping[str, Any], expected: Expected
) -> tuple[SubmissionGroup | None, dict[str, Any], list[Finding]]:
    """Check names, keys, types, shapes, and that all rates are finite and not negative.

    Returns the group that the arrays fit, the arrays that can be read, and the findings.
    """
    findings = _check_keys(name, arrays)
    readable: dict[str, Any] = {}
    for key in RATE_KEYS:
        if key in arrays:
            problem = type_problem(arrays[key])
            if problem is not None:
                findings += _at(name, key, [problem])
            if problem is None or problem.severity != "error":
                readable[key] = arrays[key]
    shapes = _shapes(readable)
    meant = GROUPS.get(_meant(name))
    group = None if meant is None else group_by_bins(meant, shapes)
    if name not in GROUPS:
        hint = f"Did you mean `{group.name}`? Rename the group." if group else _GROUP_NAMES
        text = "is not a group of the benchmark: it would be skipped"
        findings.insert(0, Finding("error", name, "", text, hint))
    elif group is not None and group.name != name:
        n_bins = next(iter(shapes.values()))[1]
        text = (
            f"has {n_bins} bins per trial, as for bins of {group.bin_ms} ms, but its name means "
            f"{GROUPS[name].bin_ms} ms"
        )
        findings.append(Finding("error", name, "", text, f"Name the group `{group.name}`."))
    for key, problem in shape_problems(shapes, group, expected.sizes):
        findings += _at(name, key, [problem])
    bin_ms = None if group is None else group.bin_ms
    for key in list(readable):
        try:
            if isinstance(readable[key], h5py.Dataset):
                check_announced(Path(readable[key].file.filename), readable[key])
            readable[key] = np.asarray(readable[key])
        except (DataError, *DAMAGE) as error:
            del readable[key]
            problem = _damaged(f"cannot be read: {error}")
            if isinstance(error, DataError):
                problem = Problem("error", error.message, error.hint)
            findings += _at(name, key, [problem])
            continue
        findings += _at(name, key, value_problems(readable[key], bin_ms))
    return group, readable, findings


def _check_keys(name: str, arrays: Mapping[str, Any]) -> list[Finding]:
    """Check which arrays a group has; misspelled keys are recognized."""
    missing = [key for key in RATE_KEYS if key not in arrays]
    extra = [key for key in arrays if key not in AXES]
    meant = {right: key for key in extra if (right := _meant_key(key, missing)) is not None}
    findings = []
    for key in missing:
        findings += _at(name, key, [_missing(name, key, meant.get(key), missing)])
    for key in extra:
        if key not in meant.values():
            findings.append(
                Finding("warning", name, key, "is not a key of a submission; it is ignored")
            )
    return findings


def _meant_key(key: str, missing: list[str]) -> str | None:
    # Spikes are inputs, and train rates have no forward bins: neither is a misspelling.
    if "spikes" in key or key in ("train_rates_heldin_forward", "train_rates_heldout_forward"):
        return None
    return nearest(key, missing)


def _missing(name: str, key: str, found_as: str | None, missing: list[str]) -> Problem:
    if found_as is not None:
        hint = f"Rename `{found_as}` to `{key}`."
        return Problem("error", f"is missing; there is `{found_as}`", hint)
    if key in FORWARD_KEYS and set(FORWARD_KEYS) <= set(missing):
        hint = "Give rates for the 200 ms after the window to have forward prediction scored."
        return Problem("warning", "is missing: fp-bps will not be scored", hint)
    if key.startswith("train") and name.startswith("dmfc_rsg"):
        text = "is missing; the benchmark asks for it, but decodes no behavior of dmfc_rsg"
        return Problem("warning", text)
    return Problem(
        "error", "is missing", f"Add it: {' x '.join(AXES[key])}, expected counts per bin."
    )


def _check_orders(name: str, arrays: list[RateArray]) -> list[Finding]:
    findings: list[Finding] = []
    unknown = []
    for half in ("train", "eval"):
        of_half = [array for array in arrays if array.key.startswith(half)]
        known = [array for array in of_half if array.counts_BTN is not None]
        problem = order_problem(known) if known else None
        if problem is not None:
            findings += _at(name, ", ".join(array.key for array in known), [problem])
        if of_half and not known:
            unknown.append(half)
    if unknown:
        text = f"the order of {' and '.join(unknown)} trials cannot be checked without their spikes"
        none_known = all(array.counts_BTN is None for array in arrays)
        hint = "Compare with the targets: `targets=FILE`." if none_known else None
        findings.append(Finding("note", name, "", text, hint))
    return findings


def _at(name: str, key: str, problems: Iterable[Problem]) -> list[Finding]:
    return [Finding(p.severity, name, key, p.message, p.hint) for p in problems]


def _joined(findings: list[Finding]) -> list[Finding]:
    """Join findings that are the same for several arrays."""
    keys: dict[Finding, list[str]] = {}
    for finding in findings:
        keys.setdefault(replace(finding, key=""), []).append(finding.key)
    return [replace(finding, key=", ".join(k)) for finding, k in keys.items()]


def _shapes(arrays: Mapping[str, Array]) -> dict[str, Shape]:
    return {key: tuple(array.shape) for key, array in arrays.items()}


def _meant(name: str) -> str:
    """Return the name that a group should have."""
    group = nearest_group(name)
    return name if name in GROUPS or group is None else group.name


def _items(group: h5py.Group) -> dict[str, Item]:
    """Return the items of a group by name; None for one that cannot be opened."""
    items: dict[str, Item] = {}
    try:
        names = own_names(group)
    except DAMAGE as error:
        raise damaged(Path(group.file.filename), str(error)) from error
    for name in names:
        try:
            items[name] = own_item(group, name)
        except DAMAGE:
            items[name] = None
    return items


def _outside_groups(names: list[str]) -> Finding:
    shown = ", ".join(f"`{name}`" for name in names)
    if any(name in AXES for name in names):
        text = f"arrays are outside any group: {shown}"
        return Finding("error", "", "", text, "Put them in a group. " + _GROUP_NAMES)
    return Finding("warning", "", "", f"the file has items other than groups, ignored: {shown}")


def _not_hdf5(path: Path) -> Finding:
    with path.open("rb") as file:
        start = file.read(4)
    kinds = {b"PK\x03\x04": "a zip or .npz file", b"\x93NUM": "a .npy file", b"": "empty"}
    text = f"the file is not HDF5: it is {kinds.get(start, 'something else')}"
    return Finding("error", "", "", text, "Write it with h5py, one group per dataset.")


def _damaged(text: str) -> Problem:
    return Problem("error", text, "The file is damaged or cut short: write it again.")
