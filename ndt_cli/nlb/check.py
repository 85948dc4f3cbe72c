"""Has a group a right name, and the right arrays of the right type?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ndt_cli.data.files import DAMAGE, Elsewhere, Item, check_announced, own_item
from ndt_cli.errors import DataError, nearest
from ndt_cli.nlb.catalog import AXES, FORWARD_KEYS, GROUPS, RATE_KEYS, Group, nearest_group
from ndt_cli.nlb.check_arrays import (
    Scale,
    Shape,
    check_order,
    check_scale,
    check_shapes,
    check_values,
    check_variation,
    group_by_bins,
    released_note,
)
from ndt_cli.nlb.findings import Array, Expected, Finding


def check_name(name: str, meant: Group | None) -> list[Finding]:
    """Check that a group is one of the benchmark's; ``meant`` is what its arrays look like."""
    if name in GROUPS:
        return []
    hint = f"Did you mean `{meant.name}`? Rename the group." if meant else groups_hint()
    return [Finding("error", name, "", "is no group of the benchmark: it would be skipped", hint)]


def check_keys(name: str, arrays: Mapping[str, Any]) -> list[Finding]:
    """Check which arrays a group has."""
    findings = []
    missing = [key for key in RATE_KEYS if key not in arrays]
    extra = [key for key in arrays if key not in AXES]
    meant = {right: key for key in extra if (right := _meant_key(key, missing)) is not None}
    for key in missing:
        findings.append(_missing(name, key, meant.get(key), missing))
    for key in extra:
        if key not in meant.values():
            text = "is no key of a submission; it is not looked at"
            findings.append(Finding("warning", name, key, text))
    return findings


def _meant_key(key: str, missing: list[str]) -> str | None:
    # Spikes are what goes in, and train rates have no forward bins: neither is misspelled.
    if "spikes" in key or key in ("train_rates_heldin_forward", "train_rates_heldout_forward"):
        return None
    return nearest(key, missing)


def _missing(name: str, key: str, found_as: str | None, missing: list[str]) -> Finding:
    if found_as is not None:
        text = f"is missing; there is `{found_as}`"
        return Finding("error", name, key, text, f"Rename `{found_as}` to `{key}`.")
    if key in FORWARD_KEYS and set(FORWARD_KEYS) <= set(missing):
        text = "is missing: there will be no fp-bps"
        hint = "Give rates for the 200 ms after the window to have forward prediction scored."
        return Finding("warning", name, key, text, hint)
    if key.startswith("train") and name.startswith("dmfc_rsg"):
        text = "is missing; the benchmark asks for it but decodes no behavior of dmfc_rsg"
        return Finding("warning", name, key, text)
    what = " x ".join(AXES[key])
    return Finding("error", name, key, "is missing", f"Add it: {what}, expected counts per bin.")


def check_type(name: str, key: str, array: Any) -> list[Finding]:
    """Check that an array holds real numbers along three axes."""
    if isinstance(array, Elsewhere):
        return [Finding("error", name, key, f"is {array.found}", array.hint)]
    if not isinstance(array, h5py.Dataset | np.ndarray) or array.shape is None:
        return [Finding("error", name, key, "is no array", "Store it as a dataset of floats.")]
    dtype = _type_of(array)
    if dtype is None or dtype.kind not in "fiu":
        text = f"holds values of type {dtype or 'unknown'}; expected floating-point numbers"
        return [Finding("error", name, key, text, "Store it as float32.")]
    if array.ndim != 3:
        text = f"has {array.ndim} axes; expected 3: trials x bins x neurons"
        return [Finding("error", name, key, text, "Trials must not be joined in one long array.")]
    if array.size == 0:
        text = f"is empty, of shape {' x '.join(map(str, array.shape))}"
        return [Finding("error", name, key, text, "Was it written before it was filled?")]
    if array.dtype.kind in "iu":
        text = f"holds whole numbers ({array.dtype}), as spike counts are"
        return [Finding("warning", name, key, text, "Give rates: expected counts, not counts.")]
    if array.dtype.itemsize < 4:
        text = f"is {array.dtype}: three digits, and nothing below 6e-8"
        return [Finding("warning", name, key, text, "Store it as float32.")]
    return []


def _type_of(array: Any) -> "np.dtype[Any] | None":
    try:
        dtype: np.dtype[Any] = array.dtype
    except DAMAGE:  # HDF5 has types that numpy has not
        return None
    return dtype


def get_items(group: h5py.Group) -> dict[str, Item]:
    """Return what is in a group, by name; None for what cannot be opened."""
    return {name: _get_item(group, name) for name in group}


def _get_item(group: h5py.Group, name: str) -> Item:
    try:
        return own_item(group, name)
    except DAMAGE:
        return None


def groups_hint() -> str:
    """Return what a group may be called."""
    return f"A group is one of {', '.join(GROUPS)}."


# ------------------------------------------------------------------------------------------------
# The check of a submission file, also of one that another program wrote.
# ------------------------------------------------------------------------------------------------


_NOTHING = Expected({})
_SEVERITIES = ("error", "warning", "note")


def check_submission(path: Path, expected: Mapping[str, Expected] | None = None) -> list[Finding]:
    """Check a submission file.

    Parameters
    ----------
    path : Path
        HDF5 file with one group a dataset and bin width.
    expected : mapping of str to Expected, optional
        Sizes and spike counts by group. Without them, arrays are held against one another, the
        benchmark's windows and what neurons can fire.

    Returns
    -------
    list of Finding
        Errors first within each group; empty when there is nothing to say.

    Raises
    ------
    DataError
        If there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not h5py.is_hdf5(path):
        return [_not_hdf5(path)]
    try:
        file = h5py.File(path, "r")
    except DAMAGE as error:
        return [_broken("", "", f"the file cannot be opened as HDF5: {error}")]
    findings: list[Finding] = []
    with file:
        items = get_items(file)
        groups = {name: item for name, item in items.items() if isinstance(item, h5py.Group)}
        far = {name: item for name, item in items.items() if isinstance(item, Elsewhere)}
        findings += [Finding("error", n, "", f"is {i.found}", i.hint) for n, i in far.items()]
        loose = [name for name in items if name not in groups and name not in far]
        if loose:
            findings.append(_loose(loose))
        if not groups and not any(finding.severity == "error" for finding in findings):
            findings.append(Finding("error", "", "", "the file holds no group", groups_hint()))
        for name, group in groups.items():
            known = (expected or {}).get(_meant(name))
            found = _joined(check_group(name, get_items(group), known))
            if expected is not None and known is None:
                text = "the targets hold nothing for this group; it was checked without"
                found.append(Finding("note", name, "", text))
            findings += sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))
    return findings


def check_group(
    name: str, arrays: Mapping[str, Any], expected: Expected | None = None
) -> list[Finding]:
    """Check one group: arrays by key, in memory or in a file that is open.

    See `check_submission` for the rest.
    """
    readable, findings = check_arrays(name, arrays, expected)
    expected = expected or _NOTHING
    if not readable:
        return findings
    group = _group(name, {key: array.shape for key, array in readable.items()})
    if group is not None:
        findings += released_note(name, group, {k: a.shape for k, a in readable.items()})
    wrong = {finding.key for finding in findings if finding.severity == "error"}
    right = {key: np.asarray(array) for key, array in readable.items() if key not in wrong}
    for key, rates_BTN in right.items():
        findings += check_variation(name, key, rates_BTN)
    # Targets whose own arrays disagree leave counts of another shape.
    counts = {
        key: c for key, c in expected.counts.items() if key in right and c.shape == right[key].shape
    }
    if group is not None:
        scales = {key: Scale.of(rates, counts.get(key)) for key, rates in right.items()}
        findings += check_scale(name, scales, group.bin_ms)
    return findings + _check_orders(name, right, counts)


def check_arrays(
    name: str, arrays: Mapping[str, Any], expected: Expected | None = None
) -> tuple[dict[str, Any], list[Finding]]:
    """Check what the benchmark's evaluation cannot do without.

    Names, keys, types, shapes, and that all is finite and not negative.

    Returns
    -------
    dict of str to array
        The arrays that have a right key, a type of number and three axes.
    list of Finding
        What is wrong.
    """
    findings = check_keys(name, arrays)
    readable: dict[str, Any] = {}
    for key in RATE_KEYS:
        if key not in arrays:
            continue
        problem = check_type(name, key, arrays[key])
        findings += problem
        if not any(finding.severity == "error" for finding in problem):
            readable[key] = arrays[key]
    shapes: dict[str, Shape] = {key: tuple(array.shape) for key, array in readable.items()}
    group = _group(name, shapes)
    findings = check_name(name, group) + findings
    if group is not None and group.name != name and name in GROUPS:
        findings.append(_wrong_width(name, group, shapes))
    findings += check_shapes(name, group, shapes, (expected or _NOTHING).sizes)
    for key in list(readable):
        try:
            if isinstance(readable[key], h5py.Dataset):
                check_announced(Path(readable[key].file.filename), readable[key])
            values = np.asarray(readable[key])
        except DataError as error:
            del readable[key]
            findings.append(Finding("error", name, key, error.message, error.hint))
            continue
        except DAMAGE as error:
            del readable[key]
            findings.append(_broken(name, key, f"cannot be read: {error}"))
            continue
        findings += check_values(name, key, values, group.bin_ms if group else None)
    return readable, findings


def submission_shapes(path: Path) -> dict[str, dict[str, Shape]]:
    """Return the shapes of the arrays of a submission file, by group and key.

    What is no array of a group is left out; of a file that cannot be opened, everything.
    """
    if not h5py.is_hdf5(path):
        return {}
    try:
        with h5py.File(path, "r") as file:
            return {
                name: {
                    key: tuple(item.shape or ())
                    for key, item in get_items(group).items()
                    if isinstance(item, h5py.Dataset)
                }
                for name, group in get_items(file).items()
                if isinstance(group, h5py.Group)
            }
    except DAMAGE:
        return {}


def _check_orders(
    name: str, rates: Mapping[str, Array], counts: Mapping[str, Array]
) -> list[Finding]:
    findings = []
    unknown = []
    for half in ("train", "eval"):
        keys = [key for key in rates if key.startswith(half)]
        known = {key: counts[key] for key in keys if key in counts}
        if known:
            findings += check_order(name, {key: rates[key] for key in known}, known)
        elif keys:
            unknown.append(half)
    if unknown:
        text = f"the order of {' and '.join(unknown)} trials cannot be told without their spikes"
        hint = None if counts else "Compare with the targets: --targets FILE."
        findings.append(Finding("note", name, "", text, hint))
    return findings


def _meant(name: str) -> str:
    """Return the name that a group should have."""
    group = nearest_group(name)
    return name if name in GROUPS or group is None else group.name


def _joined(findings: list[Finding]) -> list[Finding]:
    """Join findings that say the same of several arrays."""
    keys: dict[Finding, list[str]] = {}
    for finding in findings:
        keys.setdefault(replace(finding, key=""), []).append(finding.key)
    return [replace(finding, key=", ".join(k)) for finding, k in keys.items()]


def _group(name: str, shapes: Mapping[str, Shape]) -> Group | None:
    group = GROUPS.get(_meant(name))
    return None if group is None else group_by_bins(group, shapes)


def _wrong_width(name: str, group: Group, shapes: Mapping[str, Shape]) -> Finding:
    n_bins = next(iter(shapes.values()))[1]
    return Finding(
        "error",
        name,
        "",
        f"has {n_bins} bins a trial: bins of {group.bin_ms} ms, but the name stands for "
        f"{GROUPS[name].bin_ms} ms",
        f"Name the group `{group.name}`.",
    )


def _loose(names: list[str]) -> Finding:
    shown = ", ".join(f"`{name}`" for name in names)
    if any(name in AXES for name in names):
        text = f"arrays lie outside of any group: {shown}"
        return Finding("error", "", "", text, "Put them in a group. " + groups_hint())
    return Finding("warning", "", "", f"the file holds more than groups, not looked at: {shown}")


def _not_hdf5(path: Path) -> Finding:
    with path.open("rb") as file:
        start = file.read(4)
    kinds = {b"PK\x03\x04": "a zip or .npz file", b"\x93NUM": "a .npy file", b"": "empty"}
    what = kinds.get(start, "something else")
    text = f"the file is not HDF5: it is {what}"
    return Finding("error", "", "", text, "Write it with h5py, one group a dataset.")


def _broken(name: str, key: str, text: str) -> Finding:
    return Finding("error", name, key, text, "The file is damaged or cut short: write it again.")
