"""What is wrong with a setting, in words: key, value found, where it came from, what is allowed."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

from ndt_cli.errors import nearest
from ndt_cli.settings.explain import field_table
from ndt_cli.settings.tree import Settings

_SHOWN = 60

# Dotted key -> where its value was written, such as "lab.toml" or "--set".
Origins = Mapping[str, str]


def unknown_key(key: str, origin: str) -> str:
    """Say that no setting has this name, and which one comes nearest."""
    return f"{shortened(key)} ({origin}) is not a setting{_did_you_mean(key)}"


def shortened(text: str) -> str:
    """Return a text as a message can show it, whatever somebody has put there."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def describe_problem(error: ErrorDetails, origins: Origins) -> str:
    """Put one of pydantic's errors into a sentence.

    Parameters
    ----------
    error : ErrorDetails
        One entry of ``ValidationError.errors()`` of the settings tree.
    origins : mapping of str to str
        Where the value of each dotted key, and each section, was written.
    """
    # Of a list, the place in it follows section and name.
    key = ".".join(str(part) for part in error["loc"][:2])
    if error["type"] == "extra_forbidden":
        return unknown_key(key, origins[key])
    if key in Settings.model_fields:
        if error["type"] == "value_error":
            return _describe_combination(key, str(error["ctx"]["error"]), origins)
        return f"{key} = {_shown(error['input'])} ({origins[key]}): [{key}] must be a section"
    field = next(field for field in field_table() if field.key == key)
    found = error["input"]
    close = nearest(found, field.choices) if isinstance(found, str) else None
    suggestion = f"; did you mean {close}?" if close else ""
    return f"{key} = {_shown(found)} ({origins[key]}): must be {field.expected}{suggestion}"


def _describe_combination(section: str, message: str, origins: Origins) -> str:
    names = [
        key.partition(".")[2]
        for key in (field.key for field in field_table())
        if key.startswith(f"{section}.")
    ]
    involved = [name for name in names if re.search(rf"\b{name}\b", message)]
    sources = ", ".join(
        f"{name}: {origins.get(f'{section}.{name}', 'default')}" for name in involved
    )
    return f"[{section}] {message} ({sources})"


def _did_you_mean(key: str) -> str:
    section, _, name = key.rpartition(".")
    known = {field.key.partition(".")[2]: field.key for field in field_table()}
    beside = [name for name, full in known.items() if full.startswith(f"{section}.")]
    # A right name in the wrong section is the likelier slip than a wrong name in the right one.
    close = name if name in known else nearest(name, beside)
    if close is None:
        if not section:
            known |= {part: f"[{part}]" for part in Settings.model_fields}
        close = nearest(name, known)
    if close is not None:
        return f"; did you mean {known[close]}?"
    if section not in Settings.model_fields:
        return "; the sections are " + ", ".join(Settings.model_fields)
    return f"; section {section} has {', '.join(beside)}"


def _shown(value: Any) -> str:
    if isinstance(value, (str, bool)):
        return shortened(json.dumps(value, ensure_ascii=False))
    try:
        return shortened(str(value))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
