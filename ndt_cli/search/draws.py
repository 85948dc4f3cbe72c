"""The ways of drawing one setting, and how each is written in a space's TOML file."""

import math
from dataclasses import dataclass
from typing import Any

from numpy.random import Generator

Value = int | float | str | bool


@dataclass(frozen=True)
class Uniform:
    """A number between two ends, each as likely as any other."""

    low: float
    high: float

    def draw(self, rng: Generator) -> float:
        return float(rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """A number above zero between two ends, each order of magnitude as likely as any other."""

    low: float
    high: float

    def draw(self, rng: Generator) -> float:
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)  # exp(log(x)) may miss x by a last digit


@dataclass(frozen=True)
class Integer:
    """A whole number between two ends, both included."""

    low: int
    high: int

    def draw(self, rng: Generator) -> int:
        return int(rng.integers(self.low, self.high, endpoint=True))


@dataclass(frozen=True)
class Choice:
    """One of a list of values."""

    values: tuple[Value, ...]

    def draw(self, rng: Generator) -> Value:
        return self.values[int(rng.integers(len(self.values)))]


Draw = Uniform | LogUniform | Integer | Choice
KINDS: dict[str, type[Draw]] = {
    "uniform": Uniform,
    "log-uniform": LogUniform,
    "integer": Integer,
    "choice": Choice,
}
EXAMPLES = (
    "{ uniform = [0.0, 0.3] }, { log-uniform = [1e-5, 5e-3] }, { integer = [1, 7] } or "
    '{ choice = ["pre", "post"] }'
)


def read_draw(kind: str, given: Any) -> Draw:
    """Return the draw that ``{ kind = given }`` means.

    Raises
    ------
    ValueError
        With what is wrong, to follow the name of the setting.
    """
    if kind == "choice":
        if not isinstance(given, list) or not given:
            raise ValueError(f"choice takes a list of values, not {given}")
        if not all(isinstance(value, Value) for value in given):
            raise ValueError(f"choice takes numbers, texts, true and false; found {given}")
        return Choice(tuple(given))
    # bool is an int to Python, and no number here.
    numbers = (int,) if kind == "integer" else (int, float)
    if (
        not isinstance(given, list)
        or len(given) != 2
        or not all(type(end) in numbers and math.isfinite(end) for end in given)
    ):
        what = "two whole numbers" if kind == "integer" else "two numbers"
        raise ValueError(f"{kind} takes {what}, the lowest and the highest; found {given}")
    low, high = given
    if low >= high:
        raise ValueError(f"{kind} needs its lower end first, below the upper one; found {given}")
    if kind == "integer":
        return Integer(low, high)
    if kind == "log-uniform":
        if low <= 0:
            raise ValueError(f"log-uniform needs numbers above zero; found {given}")
        return LogUniform(float(low), float(high))
    return Uniform(float(low), float(high))


def written(draw: Draw) -> dict[str, list[Value]]:
    """Return a draw as its TOML table holds it; `read_draw` reads it back."""
    kind = next(name for name, cls in KINDS.items() if type(draw) is cls)
    return {kind: list(extremes(draw))}


def extremes(draw: Draw) -> tuple[Value, ...]:
    """Return the values that a draw is checked by: its two ends, or all choices."""
    return draw.values if isinstance(draw, Choice) else (draw.low, draw.high)
