"""The two consoles: results go to standard output, everything else to standard error."""

import json
import os
import sys
from typing import Any, TextIO

from rich.console import Console


def _width(stream: TextIO) -> int | None:
    # Rich folds at 80 columns where there is no terminal, which breaks tables in a log file.
    if stream.isatty() or "COLUMNS" in os.environ:
        return None
    return 120


# Text is printed as it is: brackets in the name of a folder or a neuron are no markup.
out = Console(width=_width(sys.stdout), emoji=False, markup=False)
"""What the user asked for: tables, values, JSON."""

log = Console(width=_width(sys.stderr), emoji=False, markup=False, stderr=True)
"""Progress, notes, warnings and errors."""


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on standard output; not-a-number is refused, as JSON has none."""
    out.out(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), highlight=False)
