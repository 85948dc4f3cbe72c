"""Describe each setting, and explain what is wrong with one; all read from the settings tree."""

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from pydantic_core import ErrorDetails

from ndt_cli.errors import nearest
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
_SHOWN = 60  # characters of a user's text in a message


@dataclass(frozen=True)
class FieldDoc:
    """Description of one setting."""

    key: str  # "train.learning_rate"
    type: str  # such as "whole number", "path" or "choice"
    choices: tuple[str, ...]  # of a choice
    range: str  # "above 0, at most 1", or empty
    default: str | int | float | bool | list[int] | None  # None: unset
    doc: str  # one line

    @property
    def expected(self) -> str:
        """The allowed values, to follow the words "must be"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = self.type if self.type == "true or false" else f"a {self.type}"
        return f"{kind}, {self.range}" if self.range else kind


@cache
def field_table() -> tuple[FieldDoc, ...]:
    """Describe every setting, in the order of the tree."""
    return tuple(
        _describe(f"{section}.{name}", schema)
        for section, info in Settings.model_fields.items()
        if info.annotation is not None
        for name, schema in info.annotation.model_json_schema()["properties"].items()
    )


def _describe(key: str, schema: dict[str, Any]) -> FieldDoc:
    # JSON Schema writes an optional field as anyOf[the type, null].
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0]
    choices = kind.get("enum") or kind.get("examples") or ()
    words = [other["const"] for other in kinds[1:] if "const" in other]
    type_word = "path" if kind.get("format") == "path" else _TYPE_WORDS[kind["type"]]
    if kind["type"] == "array":
        kind = kind["items"]
        word = "path" if kind.get("format") == "path" else _TYPE_WORDS[kind["type"]]
        type_word += f" of {word}s"
    # The bounds of a float field are floats: print 1, not 1.0.
    bounds = [
        f"{word} {int(kind[bound]) if kind[bound] == int(kind[bound]) else kind[bound]}"
        for bound, word in _BOUND_WORDS.items()
        if bound in kind
    ]
    return FieldDoc(
        key=key,
        type=" or ".join(["choice" if choices else type_word, *words]),
        choices=tuple(choices),
        range=", ".join(bounds),
        default=schema.get("default"),
        doc=" ".join(schema["description"].split()),
    )


# Settings as TOML --------------------------------------------------------------------------------


def plain_values(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings as TOML can hold them: unset ones left out, paths as absolute text.

    A relative path in a config counts from the config's folder, so only an absolute one keeps its
    meaning when the text is stored elsewhere.
    """
    return {
        section: {name: _plain(value) for name, value in values.items() if value is not None}
        for section, values in settings.model_dump().items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def commented_toml(settings: Settings, title: str) -> str:
    """Return all settings as TOML, each below its description; unset ones are commented out."""
    values = plain_values(settings)
    lines = [f"# {title}"]
    section = ""
    for field in field_table():
        here, name = field.key.split(".")
        if here != section:
            section = here
            lines += ["", f"[{section}]"]
        text = f"{field.doc} ({field.expected[0].upper()}{field.expected[1:]}.)"
        lines += textwrap.wrap(text, 80, initial_indent="# ", subsequent_indent="# ")
        if name in values[section]:
            lines.append(tomli_w.dumps({name: values[section][name]}).rstrip())
        else:
            lines.append(f"# {name} =")
    return "\n".join(lines) + "\n"


def heading(key: str) -> str:
    """Return the heading of a setting in a table, such as ``learning rate``."""
    section, _, name = key.partition(".")
    # "ratio" alone would not say of what.
    return name.replace("_", " ") if "_" in name else f"{section} {name}"


def value_text(value: int | float | str | bool | None) -> str:
    """Return a value for a table, with three significant digits; a dash if there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# Error messages ----------------------------------------------------------------------------------


def describe_problem(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """Return one of pydantic's errors as a sentence.

    ``origins`` tells where the value of each dotted key and section was written: ``"lab.toml"``.
    """
    # In a list, the position follows section and name.
    key = ".".join(str(part) for part in error["loc"][:2])
    found = error["input"]
    if error["type"] == "extra_forbidden":
        return unknown_key(key, origins[key])
    if key in Settings.model_fields:
        if error["type"] != "value_error":
            return f"{key} = {_shown(found)} ({origins[key]}): [{key}] must be a section"
        message = str(error["ctx"]["error"])
        involved = [
            f"{name}: {origins.get(f'{key}.{name}', 'default')}"
            for name in _names_in(key)
            if re.search(rf"\b{name}\b", message)
        ]
        return f"[{key}] {message} ({', '.join(involved)})"
    field = next(field for field in field_table() if field.key == key)
    close = nearest(found, field.choices) if isinstance(found, str) else None
    suggestion = f"; did you mean {close}?" if close else ""
    return f"{key} = {_shown(found)} ({origins[key]}): must be {field.expected}{suggestion}"


def unknown_key(key: str, origin: str) -> str:
    """Return the message that no setting has this name, with the nearest one."""
    return f"{shortened(key)} ({origin}) is not a setting{_did_you_mean(key)}"


def shortened(text: str) -> str:
    """Return the first 60 characters of a user's text, for a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _names_in(section: str) -> list[str]:
    keys = (field.key.partition(".") for field in field_table())
    return [name for here, _, name in keys if here == section]


def _did_you_mean(key: str) -> str:
    section, _, name = key.rpartition(".")
    known = {field.key.partition(".")[2]: field.key for field in field_table()}
    siblings = _names_in(section)
    # The right name in the wrong section is likelier than a wrong name in the right one.
    close = name if name in known else nearest(name, siblings)
    if close is None:
        if not section:
            known |= {part: f"[{part}]" for part in Settings.model_fields}
        close = nearest(name, known)
    if close is not None:
        return f"; did you mean {known[close]}?"
    if section not in Settings.model_fields:
        return "; the sections are " + ", ".join(Settings.model_fields)
    return f"; section {section} has {', '.join(siblings)}"


def _shown(value: Any) -> str:
    if isinstance(value, (str, bool)):
        return shortened(json.dumps(value, ensure_ascii=False))
    try:
        return shortened(str(value))
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"
