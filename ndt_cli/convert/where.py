"""Choosing rows of a table: ``column operator value``, read and never executed."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import SettingsError

_COMPARISON = re.compile(r"\s*([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*([^=!<>]+?)\s*")
_MEMBERSHIP = re.compile(r"\s*([^=!<>]+?)\s+in\s+(.+?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_BOOLEANS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True)
class Condition:
    """One condition on the rows of a table.

    Attributes
    ----------
    text : str
        As it was typed.
    flag : str
        Where it was typed, for messages.
    column : str
        Name of the column.
    operator : str
        ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``in``.
    values : tuple of str
        What to compare with; several for ``in``.
    """

    text: str
    flag: str
    column: str
    operator: str
    values: tuple[str, ...]

    def holds(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """Return for each row whether the condition holds; a missing number never fulfils it.

        Raises
        ------
        SettingsError
            If numbers are compared with a word, or words by size.
        """
        is_text = column.dtype.kind not in "buif"
        if is_text and self.operator in ("<", "<=", ">", ">="):
            raise self._wrong(f"column {self.column!r} holds text, which has no order")
        rows = column.astype(str) if is_text else column.astype(np.float64)
        wanted = [value if is_text else self._number(value) for value in self.values]
        if self.operator == "in":
            return np.isin(rows, np.array(wanted))
        fulfilled = np.asarray(_COMPARE[self.operator](rows, wanted[0]), dtype=bool)
        return fulfilled if is_text else fulfilled & ~np.isnan(rows)

    def _number(self, value: str) -> float:
        if value.lower() in _BOOLEANS:
            return _BOOLEANS[value.lower()]
        try:
            return float(value)
        except ValueError:
            raise self._wrong(
                f"column {self.column!r} holds numbers, and {value!r} is none"
            ) from None

    def _wrong(self, why: str) -> SettingsError:
        return SettingsError(
            f"{self.flag} {self.text!r}: {why}",
            hint="ndt convert FILE --list  shows the first values of each column.",
        )


def parse_condition(text: str, flag: str) -> Condition:
    """Read one condition, such as ``success == 1``, ``quality = good`` or ``block in 1, 3``.

    Raises
    ------
    SettingsError
        If it is none.

    Examples
    --------
    >>> import numpy as np
    >>> parse_condition("duration_ms >= 500", "--where").holds(np.array([499, 500]))
    array([False,  True])
    """
    compared, member = _COMPARISON.fullmatch(text), _MEMBERSHIP.fullmatch(text)
    if compared is not None:
        column, sign, value = compared.groups()
        return Condition(text, flag, column, "==" if sign == "=" else sign, (_bare(value),))
    if member is not None:
        column, values = member.groups()
        return Condition(text, flag, column, "in", tuple(_bare(v) for v in values.split(",")))
    raise SettingsError(
        f"{flag}: found {text!r}; expected a column, one of == != < <= > >= in, and a value",
        hint=f"Such as: {flag} 'success == 1'. Give {flag} again for a second condition: all must "
        "hold.",
    )


def _bare(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
