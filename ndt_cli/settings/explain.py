"""What each setting is: its type, range, default and doc, read from the settings tree."""

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


@dataclass(frozen=True)
class FieldDoc:
    """One setting, described for a person.

    Parameters
    ----------
    key : str
        Dotted name, such as ``"train.learning_rate"``.
    type : str
        ``"whole number"``, ``"number"``, ``"true or false"``, ``"text"``, ``"path"``,
        ``"choice"``, ``"list of whole numbers"`` or ``"whole number or auto"``.
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
    words = [other["const"] for other in kinds[1:] if "const" in other]
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
        type=" or ".join(["choice" if choices else type_word, *words]),
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


# ------------------------------------------------------------------------------------------------
# What is wrong with a setting, in words: key, value found, where it came from, what is allowed.
# ------------------------------------------------------------------------------------------------


_SHOWN = 60

# Dotted key -> where its value was written, such as "lab.toml" or "--set".
Origins = Mapping[str, str]


def unknown_key(key: str, origin: str) -> str:
    """Say that no setting has this name, and which one comes nearest."""
    return f"{shortened(key)} ({origin}) is not a setting{_did_you_mean(key)}"


def shortened(text: str) -> str:
    """Return a text as a message can show it, whatever somebody has put there."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def describe_problem(error: ErrorDetails, origins: Origins) -> str:
    """Put one of pydantic's errors into a sentence.

    Parameters
    ----------
    error : ErrorDetails
        One entry of ``ValidationError.errors()`` of the settings tree.
    origins : mapping of str to str
        Where the value of each dotted key, and each section, was written.
    """
    # Of a list, the place in it follows section and name.
    key = ".".join(str(part) for part in error["loc"][:2])
    if error["type"] == "extra_forbidden":
        return unknown_key(key, origins[key])
    if key in Settings.model_fields:
        if error["type"] == "value_error":
            return _describe_combination(key, str(error["ctx"]["error"]), origins)
        return f"{key} = {_shown(error['input'])} ({origins[key]}): [{key}] must be a section"
    field = next(field for field in field_table() if field.key == key)
    found = error["input"]
    close = nearest(found, field.choices) if isinstance(found, str) else None
    suggestion = f"; did you mean {close}?" if close else ""
    return f"{key} = {_shown(found)} ({origins[key]}): must be {field.expected}{suggestion}"


def _describe_combination(section: str, message: str, origins: Origins) -> str:
    names = [
        key.partition(".")[2]
        for key in (field.key for field in field_table())
        if key.startswith(f"{section}.")
    ]
    involved = [name for name in names if re.search(rf"\b{name}\b", message)]
    sources = ", ".join(
        f"{name}: {origins.get(f'{section}.{name}', 'default')}" for name in involved
    )
    return f"[{section}] {message} ({sources})"


def _did_you_mean(key: str) -> str:
    section, _, name = key.rpartition(".")
    known = {field.key.partition(".")[2]: field.key for field in field_table()}
    beside = [name for name, full in known.items() if full.startswith(f"{section}.")]
    # A right name in the wrong section is the likelier slip than a wrong name in the right one.
    close = name if name in known else nearest(name, beside)
    if close is None:
        if not section:
            known |= {part: f"[{part}]" for part in Settings.model_fields}
        close = nearest(name, known)
    if close is not None:
        return f"; did you mean {known[close]}?"
    if section not in Settings.model_fields:
        return "; the sections are " + ", ".join(Settings.model_fields)
    return f"; section {section} has {', '.join(beside)}"


def _shown(value: Any) -> str:
    if isinstance(value, (str, bool)):
        return shortened(json.dumps(value, ensure_ascii=False))
    try:
        return shortened(str(value))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
