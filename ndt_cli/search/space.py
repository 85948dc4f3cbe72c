"""Search spaces: which settings are drawn, from which range, and the spaces that are shipped.

A space is a TOML file with the sections of a settings file and one draw for each setting::

    [train]
    learning_rate = { log-uniform = [1e-5, 5e-3] }
    schedule = { choice = ["constant", "cosine"] }
    warmup_epochs = { integer = [1, 20], when = { "train.schedule" = ["cosine"] } }
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.random import Generator
from pydantic import ValidationError

from ndt_cli.errors import SettingsError, called, nearest
from ndt_cli.settings.explain import describe_problem, field_table, unknown_key
from ndt_cli.settings.load import ConfigSource, at_home, parse_config, read_toml_text
from ndt_cli.settings.tree import Settings

Value = int | float | str | bool

_HINT = f"Spaces to start from: {called('find_space')}. All settings: {called('field_table')}"


@dataclass(frozen=True)
class Draw:
    """How the value of one setting is drawn.

    A "uniform" number; a "log-uniform" one, all orders of magnitude equally likely; a whole number
    ("integer"), each from the lowest to the highest value, both included; or a "choice" of values.
    """

    kind: str
    values: tuple[Any, ...]

    @classmethod
    def read(cls, given: Any) -> "Draw":
        """Return the draw of ``{ kind = given }``; a ValueError completes "<setting>: ..."."""
        if not isinstance(given, dict) or len(given) != 1:
            raise ValueError(f"expected a draw, such as {_EXAMPLES}")
        ((kind, values),) = given.items()
        if kind not in _KINDS:
            close = nearest(kind, _KINDS)
            known = f"did you mean {close}?" if close else f"expected {', '.join(_KINDS)}"
            raise ValueError(f"{kind} is not a kind of draw; {known}")
        what, types = _KINDS[kind]
        # bool is an int to Python, but not a number here.
        fits = isinstance(values, list) and all(type(value) in types for value in values)
        if kind == "choice" and fits and values:
            return cls(kind, tuple(values))
        if kind == "choice" or not fits or len(values) != 2 or not all(map(math.isfinite, values)):
            raise ValueError(f"{kind} takes {what}; found {values}")
        if values[0] >= values[1]:
            raise ValueError(f"{kind} needs its lower end first, below the other; found {values}")
        if kind == "log-uniform" and values[0] <= 0:
            raise ValueError(f"log-uniform needs numbers above zero; found {values}")
        return cls(kind, tuple(values if kind == "integer" else map(float, values)))

    def draw(self, rng: Generator) -> Value:
        """Draw a value."""
        low, high = self.values[0], self.values[-1]
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        if self.kind == "log-uniform":
            drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
            return float(min(max(drawn, low), high))  # exp(log(x)) may miss x by a last digit
        if self.kind == "integer":
            return int(rng.integers(low, high, endpoint=True))
        value: Value = self.values[int(rng.integers(len(self.values)))]
        return value


_NUMBERS = "numbers, the lowest and the highest"
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "uniform": (f"two {_NUMBERS}", (int, float)),
    "log-uniform": (f"two {_NUMBERS}", (int, float)),
    "integer": (f"two whole {_NUMBERS}", (int,)),
    "choice": ("a list of values, no lists in it", (int, float, str, bool)),
}
_EXAMPLES = (
    "{ uniform = [0.0, 0.3] }, { log-uniform = [1e-5, 5e-3] }, { integer = [1, 7] } or "
    '{ choice = ["pre", "post"] }'
)


@dataclass(frozen=True)
class Space:
    """Settings to draw, by dotted name, in the order in which they are drawn."""

    name: str  # of a shipped space, or a file
    draws: dict[str, Draw]
    # Settings that are drawn only when settings drawn before them have one of these values:
    # {"train.warmup_epochs": {"train.schedule": ("cosine",)}}
    conditions: dict[str, dict[str, tuple[Value, ...]]] = field(default_factory=dict)

    @classmethod
    def from_tables(cls, name: str, tables: dict[str, Any]) -> "Space":
        """Make a space from a parsed TOML file; all problems are in one SettingsError.

        Examples
        --------
        >>> space = Space.from_tables("mine", {"mask": {"ratio": {"uniform": [0.1, 0.4]}}})
        >>> 0.1 <= space.draw(seed=0, member=0)["mask.ratio"] <= 0.4
        True
        """
        space, problems = cls(name, {}), []
        for section, keys in tables.items():
            if "." in section:
                first, _, key = section.partition(".")
                problems.append(f"{section} ({name}): expected {key} in a section [{first}]")
                continue
            if not isinstance(keys, dict):
                problems.append(f"{section} ({name}): expected sections such as [train]")
                continue
            for key, given in keys.items():
                try:
                    space._add(f"{section}.{key}", given)
                except ValueError as error:
                    problems.append(str(error))
        if not space.draws and not problems:
            problems.append(f"{name}: no setting is searched in it")
        if problems:
            raise SettingsError("\n".join(problems), _HINT)
        return space

    def applies(self, key: str, drawn: Mapping[str, Value]) -> bool:
        """Tell whether a setting is drawn, given what was drawn before it."""
        conditions = self.conditions.get(key, {})
        return all(other in drawn and drawn[other] in ok for other, ok in conditions.items())

    def draw(self, seed: int, member: int) -> dict[str, Value]:
        """Draw the values of a member, by dotted name.

        Each member has its own generator, made from the seed of the sweep and its number, so its
        values do not depend on how many members there are.
        """
        rng = np.random.default_rng([seed, member])
        drawn: dict[str, Value] = {}
        for key, draw in self.draws.items():
            value = draw.draw(rng)  # also where it is dropped: the next setting's does not move
            if self.applies(key, drawn):
                drawn[key] = value
        return drawn

    def values_in(self, settings: Settings) -> dict[str, Value]:
        """Return the values that settings have for what this space draws."""
        values: dict[str, Value] = {}
        for key in self.draws:
            section, name = key.split(".")
            if self.applies(key, values):
                values[key] = getattr(getattr(settings, section), name)
        return values

    def settings_with(self, base: Settings, drawn: Mapping[str, Value], member: int) -> Settings:
        """Return the settings of a member: those of ``base`` with the drawn values.

        ``train.seed`` is that of the base plus the number of the member, unless it is drawn. A
        SettingsError says which values are not possible together.
        """
        values = base.model_dump()
        values["train"]["seed"] = base.train.seed + member
        for key, value in drawn.items():
            section, name = key.split(".")
            values[section][name] = value
        try:
            return Settings.model_validate(values, strict=True)
        except ValidationError as error:
            origins = {row.key: "settings" for row in field_table()}
            origins |= dict.fromkeys(drawn, f"drawn from space {self.name}")
            problems = [describe_problem(item, origins) for item in error.errors()]
            raise SettingsError(
                f"member {member}: " + "\n".join(problems),
                "Change the settings, or search a narrower `space` of your own; one to start "
                f"from: {called('find_space', self.name)}",
            ) from error

    def to_toml(self) -> str:
        """Return the space as TOML text."""
        tables: dict[str, dict[str, Any]] = {}
        for key, draw in self.draws.items():
            section, name = key.split(".")
            table: dict[str, Any] = {draw.kind: draw.values}
            if key in self.conditions:
                table["when"] = self.conditions[key]
            tables.setdefault(section, {})[name] = table
        return tomli_w.dumps(tables)

    def _add(self, key: str, given: Any) -> None:
        """Add the draw of a setting; a ValueError is the whole message."""
        where = f"{key} ({self.name})"
        if key not in {row.key for row in field_table()}:
            raise ValueError(unknown_key(key, self.name))
        if key.startswith("data."):
            raise ValueError(f"{where}: all members of a sweep share the same data")
        if key.endswith("_steps") or key == "model.dropout_bins":
            instead = key.replace("_steps", "_epochs").replace("_bins", "")
            raise ValueError(
                f"{where}: it is worked out for the size of the data before values are drawn; "
                f"draw {instead}"
            )
        when = {}
        if isinstance(given, dict) and "when" in given:
            given = dict(given)
            when = given.pop("when")
        try:
            draw, conditions = Draw.read(given), self._conditions(when)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        for value in draw.values:
            problem = _refusal(key, value, self.name)
            if problem:
                raise ValueError(problem)
        self.draws[key] = draw
        if conditions:
            self.conditions[key] = conditions

    def _conditions(self, when: Any) -> dict[str, tuple[Value, ...]]:
        if not isinstance(when, dict):
            raise ValueError('when takes a table, such as { "train.schedule" = ["cosine"] }')
        conditions = {}
        for other, ok in when.items():
            draw = self.draws.get(other)
            if draw is None or draw.kind != "choice":
                raise ValueError(f"when names {other}; expected a choice that is drawn before it")
            values = tuple(ok) if isinstance(ok, list) else (ok,)
            if not values or any(value not in draw.values for value in values):
                raise ValueError(f"when {other} is {ok}; expected one of {list(draw.values)}")
            conditions[other] = values
        return conditions


def _refusal(key: str, value: Value, origin: str) -> str | None:
    """Say why a setting cannot have this value, whatever the other settings are."""
    section, name = key.split(".")
    try:
        Settings.model_validate({section: {name: value}}, strict=True)
    except ValidationError as error:
        # Combinations with other settings are checked member by member.
        for item in error.errors():
            if item["loc"] == (section, name):
                return describe_problem(item, {key: origin})
    return None


# Shipped spaces, and a user's own files -----------------------------------------------------------

_DEFAULT_SPACE = "generic"

# The presets of the Neural Latents Benchmark have their own spaces (Ye & Pandarinath 2021); the
# ablations are of mc_maze, and short runs search near the best settings found for them.
_PRESETS_OF_SPACE = {
    "quick": "chaotic-rnn-quick lorenz-quick",
    "maze-rtt": "mc_maze mc_maze_large mc_maze_medium mc_maze_small mc_rtt ablation-low-dropout "
    "ablation-mask-token ablation-no-span ablation-postnorm ablation-rates",
    "recordings": "recordings nlb-quick",
    "recordings-causal": "recordings-causal",
    "area2_bump": "area2_bump",
    "dmfc_rsg": "dmfc_rsg",
}
SPACE_OF_PRESET = {
    preset: space for space, presets in _PRESETS_OF_SPACE.items() for preset in presets.split()
}


_FILES = files("ndt_cli.search").joinpath("spaces")


def space_names() -> list[str]:
    """Return the names of the shipped spaces, the default first."""
    names = [entry.name.removesuffix(".toml") for entry in _FILES.iterdir()]
    return sorted(names, key=lambda name: (name != _DEFAULT_SPACE, name))


def space_text(name: str) -> str:
    """Return the TOML text of a shipped space; the comment in its first line describes it."""
    return _FILES.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def default_space(settings: Settings, preset: str = "") -> str:
    """Return the shipped space for settings, and for the preset or file that they are from."""
    if settings.train.start_from is not None:
        return "from-run"  # others would draw another network
    if settings.model.context_forward == 0 and not settings.model.full_context:
        return "recordings-causal"  # others would make the model look ahead
    ours = "recordings" if settings.train.optimizer == "muon" else _DEFAULT_SPACE
    return SPACE_OF_PRESET.get(preset, ours)


def find_space(space: str | Path) -> Space:
    """Return a space: from the file if it exists, otherwise the shipped one of that name.

    A SettingsError says that there is neither, or what is wrong in the file.

    Examples
    --------
    >>> space = find_space("generic")
    >>> space.draws["train.learning_rate"]
    Draw(kind='log-uniform', values=(1e-05, 0.005))
    >>> list(space.draw(seed=0, member=3))[:2]
    ['model.dropout', 'model.dropout_embedding']
    """
    path, name = at_home(space), str(space)
    if path.is_file():
        return read_space(path, name)
    stem = name.removesuffix(".toml")
    if stem in space_names():
        return Space.from_tables(
            stem, parse_config(ConfigSource(stem, "file", space_text(stem), None))
        )
    close = nearest(path.stem, space_names())
    suggestion = f"; did you mean the space {close}?" if close else ""
    raise SettingsError(
        f"there is no file {name}, and no space of that name{suggestion}",
        f"List the spaces: {called('find_space')}",
    )


def read_space(path: Path, name: str) -> Space:
    """Read the file of a space; ``name`` is what messages call it."""
    hint = f"Expected a TOML file or the name of a space ({called('find_space')})."
    text = read_toml_text(path, "a space", hint)
    return Space.from_tables(name, parse_config(ConfigSource(name, "file", text, path)))
