"""Numbers as JSON: those that are not finite become null, and come back as NaN."""

import json
import math
from collections.abc import Mapping
from typing import Any


def to_line(record: Mapping[str, float]) -> str:
    """Return a record as a line of ``metrics.jsonl``."""
    return json.dumps(finite(record), allow_nan=False) + "\n"


def read_line(line: str) -> dict[str, float] | None:
    """Return the record of an epoch that a line holds, or None where it holds none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("epoch")) is not int:
        return None
    # JSON has no NaN: a measure that was not finite stands as null.
    record = {key: math.nan if value is None else value for key, value in record.items()}
    return record if all(type(value) in (int, float) for value in record.values()) else None


def finite(value: Any) -> Any:
    """Return plain values with null in the place of what is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
