"""Has a group a right name, and the right arrays of the right type?"""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from ndt_cli.data.arrays import DAMAGE
from ndt_cli.data.own_items import Elsewhere, Item, own_item
from ndt_cli.errors import nearest
from ndt_cli.nlb.findings import Finding
from ndt_cli.nlb.groups import AXES, FORWARD_KEYS, GROUPS, RATE_KEYS, Group


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
    # Spikes are what goes in, and train rates have no forward bins: neither is misspelt.
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
        text = "is missing; the benchmark asks for it but decodes no behaviour of dmfc_rsg"
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
