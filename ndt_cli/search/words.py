"""Settings, values and scores of members in words, for tables and pages."""

import math

from ndt_cli.search.draws import Value


def heading(key: str) -> str:
    """Return the heading of a drawn setting, such as ``learning rate``."""
    section, _, name = key.partition(".")
    # "ratio" alone would not say of what.
    return name.replace("_", " ") if "_" in name else f"{section} {name}"


def value_text(value: Value) -> str:
    """Return a drawn value with three digits that count."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def score_text(score: float | None) -> str:
    """Return a score with four decimals, a dash where there is none."""
    return "-" if score is None or not math.isfinite(score) else f"{score:.4f}"
