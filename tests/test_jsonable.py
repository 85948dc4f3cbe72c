"""Values as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from ndt_cli.jsonable import json_text, jsonable


@dataclass
class Inner:
    r2_N: np.ndarray
    names: tuple[str, ...] = ("x", "y")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32("nan"), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.5, np.inf], [0.0, 1.0]]), [[1.5, None], [0.0, 1.0]]),
        (torch.tensor([1.0, float("nan")]), [1.0, None]),
        (np.array(["a", "b"]), ["a", "b"]),
        ((1, "a", None, True), [1, "a", None, True]),
        ({3: Path("runs") / "a"}, {"3": str(Path("runs") / "a")}),
        ({1}, [1]),
        (
            {"a": [Inner(np.array([np.nan, 0.5]))]},
            {"a": [{"r2_N": [None, 0.5], "names": ["x", "y"]}]},
        ),
    ],
    ids=str,
)
def test_any_nesting_of_values_becomes_what_json_can_hold(value, expected):
    assert jsonable(value) == expected
    assert json.loads(json_text(value)) == expected


def test_a_number_beyond_float_precision_is_kept():
    assert json.loads(json_text(2**63 + 1)) == 2**63 + 1
    assert jsonable(np.uint64(2**63 + 1)) == 2**63 + 1


def test_text_is_ascii_and_one_line_on_request():
    text = json_text({"unit": "µs", "n": [1, 2]}, indent=None)
    assert text == '{"unit": "\\u00b5s", "n": [1, 2]}'
    assert json.loads(text)["unit"] == "µs"
    assert json_text({"n": 1}) == '{\n  "n": 1\n}'


def test_what_json_cannot_hold_is_an_error():
    with pytest.raises(TypeError, match="not JSON serializable"):
        json_text({"value": object()})
