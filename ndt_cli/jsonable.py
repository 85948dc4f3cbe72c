"""Values as JSON, which has no NaN: numbers that are not finite become null."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def jsonable(value: Any) -> Any:
    """Return a value that JSON can represent.

    Parameters
    ----------
    value
        Mappings, sequences, dataclasses, arrays, paths, numbers and text, nested to any depth.

    Returns
    -------
    dict, list, str, int, float, bool or None
        NaN and infinities are None.

    Examples
    --------
    >>> import numpy as np
    >>> jsonable({"r2_N": np.array([0.5, np.nan]), "run": Path("runs/a")})
    {'r2_N': [0.5, None], 'run': 'runs/a'}
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # an array or number of NumPy or PyTorch, without importing them
        return jsonable(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON text, one line if ``indent`` is None.

    The text is ASCII: it can be printed and stored in any encoding, names that are not UTF-8
    included.
    """
    return json.dumps(jsonable(value), indent=indent, allow_nan=False)
