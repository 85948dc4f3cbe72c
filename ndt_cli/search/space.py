"""A search space: which settings are drawn, each from what."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from ndt_cli.errors import SettingsError, nearest
from ndt_cli.search.draws import EXAMPLES, KINDS, Draw, Value, extremes, read_draw, written
from ndt_cli.settings.explain import describe_problem, field_table, unknown_key
from ndt_cli.settings.tree import Settings

_HINT = "Spaces to start from: ndt sweep spaces. All settings: ndt presets --fields"


@dataclass(frozen=True)
class Space:
    """Settings to draw, by dotted name.

    Parameters
    ----------
    name : str
        A shipped space's name, or a file.
    draws : dict of str to Draw
        ``"train.learning_rate"`` and the like, in the order in which they are drawn.
    """

    name: str
    draws: dict[str, Draw]

    @classmethod
    def from_tables(cls, name: str, tables: dict[str, Any]) -> "Space":
        """Make a space of a parsed TOML file: sections as in a config, a draw for each value.

        Raises
        ------
        SettingsError
            When a key is no setting, or a draw is none or leaves the setting's range: all of
            them, one a line.

        Examples
        --------
        >>> space = Space.from_tables("mine", {"mask": {"ratio": {"uniform": [0.1, 0.4]}}})
        >>> 0.1 <= space.draw(seed=0, member=0)["mask.ratio"] <= 0.4
        True
        """
        draws: dict[str, Draw] = {}
        problems = []
        for section, keys in tables.items():
            if not isinstance(keys, dict):
                problems.append(f"{section} ({name}): expected sections such as [train]")
                continue
            for key, given in keys.items():
                try:
                    draws[f"{section}.{key}"] = _checked(f"{section}.{key}", given, name)
                except ValueError as error:
                    problems.append(str(error))
        if not draws and not problems:
            problems.append(f"{name}: no setting is searched in it")
        if problems:
            raise SettingsError("\n".join(problems), _HINT)
        return cls(name, draws)

    def draw(self, seed: int, member: int) -> dict[str, Value]:
        """Draw the values of a member, by dotted name.

        Each member has a generator of its own, made of the sweep's seed and its number: how many
        others there are changes nothing.
        """
        rng = np.random.default_rng([seed, member])
        return {key: draw.draw(rng) for key, draw in self.draws.items()}

    def settings_with(self, base: Settings, drawn: dict[str, Value], member: int) -> Settings:
        """Return the settings of a member for which these values were drawn.

        Its ``train.seed`` is that of the base plus its number, unless the space draws it.

        Raises
        ------
        SettingsError
            When the settings refuse what was drawn.
        """
        values = base.model_dump()
        values["train"]["seed"] = base.train.seed + member
        for key, value in drawn.items():
            section, name = key.split(".")
            values[section][name] = value
        try:
            return Settings.model_validate(values, strict=True)
        except ValidationError as error:
            origins = {field.key: "settings" for field in field_table()}
            origins |= dict.fromkeys(drawn, f"drawn from space {self.name}")
            problems = [describe_problem(item, origins) for item in error.errors()]
            raise SettingsError(
                f"member {member}: " + "\n".join(problems),
                "change the settings (--set), or search narrower: ndt sweep spaces NAME > "
                "mine.toml, then --space mine.toml",
            ) from error

    def to_toml(self) -> str:
        """Return the space as TOML that `from_tables` reads back to the same draws."""
        sections: dict[str, list[str]] = {}
        for key, draw in self.draws.items():
            section, name = key.split(".")
            ((kind, values),) = written(draw).items()
            # JSON writes numbers, true, false and text as TOML does.
            line = f"{name} = {{ {kind} = {json.dumps(values)} }}"
            sections.setdefault(section, []).append(line)
        return "\n".join(
            "\n".join([f"[{section}]", *lines, ""]) for section, lines in sections.items()
        )


def _checked(key: str, given: Any, origin: str) -> Draw:
    """Return the draw of a setting.

    Raises
    ------
    ValueError
        With the whole sentence.
    """
    if key not in {field.key for field in field_table()}:
        raise ValueError(unknown_key(key, origin))
    if key.startswith("data."):
        raise ValueError(f"{key} ({origin}): all members of a sweep share the same data")
    if not isinstance(given, dict) or len(given) != 1:
        raise ValueError(f"{key} ({origin}): expected a draw, such as {EXAMPLES}; found {given}")
    ((kind, content),) = given.items()
    if kind not in KINDS:
        close = nearest(kind, KINDS)
        known = f"did you mean {close}?" if close else f"there are {', '.join(KINDS)}"
        raise ValueError(f"{key} ({origin}): {kind} is no kind of draw; {known}")
    try:
        draw = read_draw(kind, content)
    except ValueError as error:
        raise ValueError(f"{key} ({origin}): {error}") from error
    for value in extremes(draw):
        problem = _refusal(key, value, origin)
        if problem:
            raise ValueError(problem)
    return draw


def _refusal(key: str, value: Value, origin: str) -> str | None:
    """Say why a setting cannot have this value, whatever the others are."""
    section, name = key.split(".")
    try:
        Settings.model_validate({section: {name: value}}, strict=True)
    except ValidationError as error:
        # Combinations with other settings are checked member by member.
        for item in error.errors():
            if item["loc"] == (section, name):
                return describe_problem(item, {key: origin})
    return None
