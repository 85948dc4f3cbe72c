"""What each setting is: its type, range, default and doc, read from the settings tree."""

import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w

from ndt_cli.settings.tree import Settings

_TYPE_WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
}
_BOUND_WORDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}


@dataclass(frozen=True)
class FieldDoc:
    """One setting, described for a person.

    Parameters
    ----------
    key : str
        Dotted name, such as ``"train.learning_rate"``.
    type : str
        ``"whole number"``, ``"number"``, ``"true or false"``, ``"text"``, ``"path"``,
        ``"choice"`` or ``"list of whole numbers"``.
    choices : tuple of str
        The values allowed, where there is a list of them.
    range : str
        The bounds in words, such as ``"above 0, at most 1"``; empty where there are none.
    default : str, int, float, bool, list or None
        None means that the setting is left out.
    doc : str
        What it does, on one line.
    """

    key: str
    type: str
    choices: tuple[str, ...]
    range: str
    default: str | int | float | bool | list[int] | None
    doc: str

    @property
    def expected(self) -> str:
        """The values allowed, to follow the words "must be"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = self.type if self.type == "true or false" else f"a {self.type}"
        return f"{kind}, {self.range}" if self.range else kind


def _describe(key: str, schema: dict[str, Any]) -> FieldDoc:
    # An optional field is anyOf[what it holds, null] in JSON Schema.
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0]
    choices = kind.get("enum") or kind.get("examples") or ()
    type_word = "path" if kind.get("format") == "path" else _TYPE_WORDS[kind["type"]]
    if kind["type"] == "array":
        kind = kind["items"]
        type_word += f" of {_TYPE_WORDS[kind['type']]}s"
    # JSON Schema holds whole bounds as 1.0 where the field is a float: 1 reads better.
    bounds = [
        f"{word} {int(kind[bound]) if kind[bound] == int(kind[bound]) else kind[bound]}"
        for bound, word in _BOUND_WORDS.items()
        if bound in kind
    ]
    return FieldDoc(
        key=key,
        type="choice" if choices else type_word,
        choices=tuple(choices),
        range=", ".join(bounds),
        default=schema.get("default"),
        doc=" ".join(schema["description"].split()),
    )


@cache
def field_table() -> tuple[FieldDoc, ...]:
    """Describe every setting, in the order of the tree."""
    fields = []
    for section, info in Settings.model_fields.items():
        assert info.annotation is not None
        properties = info.annotation.model_json_schema()["properties"]
        fields += [_describe(f"{section}.{name}", schema) for name, schema in properties.items()]
    return tuple(fields)


def plain_values(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings as TOML can hold them: no None, paths as absolute strings.

    A config's relative paths count from its own folder, so a path that is to keep its
    meaning wherever the text is stored has to be absolute.
    """

    def plain(value: Any) -> Any:
        return str(value.absolute()) if isinstance(value, Path) else value

    return {
        section: {name: plain(value) for name, value in values.items() if value is not None}
        for section, values in settings.model_dump().items()
    }


def commented_toml(settings: Settings, title: str) -> str:
    """Return all settings as TOML, the doc of each above it; unset ones stay commented out.

    Parameters
    ----------
    settings : Settings
        The settings to write.
    title : str
        The first line, as a comment.
    """
    values = plain_values(settings)
    lines = [f"# {title}"]
    section = ""
    for field in field_table():
        here, name = field.key.split(".")
        if here != section:
            section = here
            lines += ["", f"[{section}]"]
        lines += textwrap.wrap(
            f"{field.doc} ({field.expected[0].upper()}{field.expected[1:]}.)",
            width=80,
            initial_indent="# ",
            subsequent_indent="# ",
        )
        if name in values[section]:
            lines.append(tomli_w.dumps({name: values[section][name]}).rstrip())
        else:
            lines.append(f"# {name} =")
    return "\n".join(lines) + "\n"
