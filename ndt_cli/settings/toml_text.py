"""TOML in, with the place of a syntax error said."""

import re
import sys
from typing import Any

from ndt_cli.errors import SettingsError
from ndt_cli.settings.sources import ConfigSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_HINT = 'A setting is written as  name = value  below its [section]; text needs "quotes".'


def parse_config(source: ConfigSource) -> dict[str, Any]:
    """Parse a config's text.

    Raises
    ------
    SettingsError
        The text is not TOML, or more than any config holds; the message names file, line and
        column.
    """
    try:
        return tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        if place and place[1]:
            line, column = int(place[1]), int(place[2])
        else:
            lines = source.text.split("\n")
            line, column = len(lines), len(lines[-1]) + 1
        raise SettingsError(
            f"{source.label}, line {line}, column {column}: {_PLACE.sub('', message)}",
            _HINT,
        ) from error
    except (RecursionError, ValueError) as error:
        what = "lists or tables in one another" if isinstance(error, RecursionError) else "digits"
        raise SettingsError(f"{source.label}: too many {what}", _HINT) from error


def parse_value(text: str, *, wants_text: bool) -> Any:
    """Parse the value of ``--set key=value``: a TOML value, or bare text.

    Parameters
    ----------
    text : str
        What follows the equals sign.
    wants_text : bool
        The setting holds text or a path, so that ``2024`` means the file of that name.
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text if wants_text else _shell_number(text)
    except (RecursionError, ValueError):  # brackets, or digits, by the thousand
        return text
    if len(parsed) > 1:  # a line break in the text began a second key
        return text
    value = parsed["value"]
    return text if wants_text and not isinstance(value, str) else value


def _shell_number(text: str) -> float | str:
    # TOML wants digits on both sides of the point; people type .1 and 5. on a command line.
    return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)", text) else text
