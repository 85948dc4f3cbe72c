"""Conditions on rows are read, never executed."""

import numpy as np
import pytest

from ndt_cli.convert.tables import parse_filter
from ndt_cli.errors import SettingsError

NUMBERS = np.array([1.0, 2.0, np.nan])
WORDS = np.array(["good", "mua", ""])


@pytest.mark.parametrize(
    ("text", "column", "kept"),
    [
        ("x == 1", NUMBERS, [0]),
        ("x=1", NUMBERS, [0]),
        ("x != 1", NUMBERS, [1]),  # a missing number meets nothing
        ("x <= 2", NUMBERS, [0, 1]),
        ("x < 2", NUMBERS, [0]),
        ("x > 1.5", NUMBERS, [1]),
        ("x >= 3", NUMBERS, []),
        ("x in 1, 2", NUMBERS, [0, 1]),
        ("x == -1", np.array([-1, 1]), [0]),
        ("x == good", WORDS, [0]),
        ("x == 'good'", WORDS, [0]),
        ("x != good", WORDS, [1, 2]),
        ('x in good, "mua"', WORDS, [0, 1]),
        ("x == true", np.array([True, False]), [0]),
        ("x == 0", np.array([True, False]), [1]),
        ("x == 10", np.array(["10", "1"]), [0]),
    ],
)
def test_rows_are_chosen(text, column, kept):
    assert np.flatnonzero(parse_filter(text, "where").holds(column)).tolist() == kept


def test_names_of_columns_may_hold_spaces_and_slashes():
    condition = parse_filter(" trial type/side  in  1, 2 ", "where")
    assert (condition.column, condition.values) == ("trial type/side", ("1", "2"))


@pytest.mark.parametrize(
    "text", ["", "success", "== 1", "x ==", "x == 1 == 2", "__import__('os')", "x is 1"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(SettingsError, match="expected a column, one of") as caught:
        parse_filter(text, "where")
    assert "success == 1" in caught.value.hint


def test_numbers_are_not_compared_with_words_and_words_have_no_order():
    with pytest.raises(
        SettingsError, match=r"`units_where=.* is numeric; cannot compare it with 'good'"
    ):
        parse_filter("x == good", "units_where").holds(NUMBERS)
    with pytest.raises(SettingsError, match="is text, which has no order"):
        parse_filter("x > good", "where").holds(WORDS)


@pytest.mark.parametrize("text", ["x == 1", "x == true", "x != 0", "x != False", "x in 1"])
def test_true_and_false_in_a_text_table_are_1_and_0(text):
    column = np.array(["True", "FALSE", "", "true"])  # as pandas and R write them
    assert np.flatnonzero(parse_filter(text, "where").holds(column)).tolist() == [0, 3]


def test_words_that_are_not_compared_with_a_truth_stay_words():
    column = np.array(["yes", "no", ""])
    assert parse_filter("x != ''", "where").holds(column).tolist() == [True, True, False]
    assert not parse_filter("x == 1", "where").holds(np.array(["", ""])).any()


@pytest.mark.parametrize(
    ("text", "kept"),
    [("x == 0.3", [1]), ("x != 0.3", [0, 2]), ("x in 0.1, 0.7", [0, 2]), ("x >= 0.7", [2])],
)
@pytest.mark.parametrize(
    "column", [np.array([0.1, 0.3, 0.7], dtype=np.float32), np.array([0.1, 0.1 + 0.2, 0.8 - 0.1])]
)
def test_a_fraction_is_found_in_spite_of_rounding_and_single_precision(text, kept, column):
    assert np.flatnonzero(parse_filter(text, "where").holds(column)).tolist() == kept


def test_whole_numbers_are_compared_exactly():
    column = np.array([16_777_214, 16_777_215], dtype=np.float32)
    assert parse_filter("x == 16777215", "where").holds(column).tolist() == [False, True]


@pytest.mark.parametrize("values", ["[R, L]", "(R, L)", "{R, L}", "['R', \"L\"]"])
def test_a_list_of_values_may_stand_in_brackets(values):
    column = np.array(["L", "M", "R"])
    kept = parse_filter(f"x in {values}", "where").holds(column)
    assert kept.tolist() == [True, False, True]
