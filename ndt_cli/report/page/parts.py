"""What the pages of runs and sweeps share: figures, tables of settings, steps, templates."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ndt_cli.errors import NdtError
from ndt_cli.report.figures import TWO_COLUMNS_INCHES, CaptionedFigure, styled
from ndt_cli.settings.explain import field_table, plain_values
from ndt_cli.settings.load import settings_to_toml
from ndt_cli.settings.tree import Settings

Row = tuple[str, str]
AsTyped = Callable[[str], str]

# A figure of more lines than this is smaller, and opens faster, in pixels.
_MOST_SVG_BYTES = 150_000


@dataclass(frozen=True)
class PageFigure:
    """A figure on a page, or the reason why there is none."""

    name: str
    title: str
    caption: str
    alt: str = ""
    source: str = ""  # a data URI; empty if there is no such figure, and the caption says why
    width: int = 0  # pixels of the page
    height: int = 0
    percent: int = 100  # of the page's width

    @classmethod
    def of(cls, name: str, title: str, drawn: CaptionedFigure) -> "PageFigure":
        """Return a figure as part of a page."""
        width, height = (round(96 * inches) for inches in drawn.figure.get_size_inches())
        percent = round(100 * drawn.figure.get_figwidth() / TWO_COLUMNS_INCHES)
        source = data_uri(drawn.figure)
        return cls(name, title, drawn.caption, drawn.alt, source, width, height, percent)

    @classmethod
    def absent(cls, name: str, title: str, error: NdtError, as_typed: AsTyped) -> "PageFigure":
        """Return why there is no such figure."""
        hint = f" ({error.hint.rstrip('.')})" if error.hint else ""
        return cls(name, title, as_typed(f"{error.message}{hint}."))


@styled
def data_uri(figure: Figure) -> str:
    """Return a figure as a ``data:`` address: an SVG, or a PNG if that is smaller.

    Shown by an image element, scripts and links in an SVG do nothing, and its ids cannot meet
    those of the page.
    """
    text = _written(figure, "svg", {"Date": None})
    if len(text) <= _MOST_SVG_BYTES:
        return f"data:image/svg+xml;base64,{base64.b64encode(text).decode()}"
    return f"data:image/png;base64,{base64.b64encode(_written(figure, 'png', None)).decode()}"


def _written(figure: Figure, kind: str, metadata: dict[str, None] | None) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


@dataclass(frozen=True)
class ChangedSetting:
    """A setting that differs from its default."""

    key: str
    value: str
    default: str
    doc: str


def changed_settings(settings: Settings) -> list[ChangedSetting]:
    """Return the settings that differ from their defaults."""
    values, defaults = plain_values(settings), plain_values(Settings())
    rows = []
    for field in field_table():
        section, name = field.key.split(".")
        value, default = values[section].get(name), defaults[section].get(name)
        if value != default:
            rows.append(ChangedSetting(field.key, _shown(value), _shown(default), field.doc))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Step:
    """One step of reproducing something: a text, and a call in backticks or a command."""

    text: str
    code: str = ""

    def shown(self, as_typed: AsTyped) -> "Step":
        """Return the step as a page shows it: `as_typed`, without the backticks."""
        return Step(as_typed(self.text), as_typed(self.code).strip("`"))


def duration(seconds: float) -> str:
    """Return such text as "95 s", "14 min" or "3 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def render(template: str, settings: Settings, values: dict[str, Any]) -> str:
    """Fill a template of this folder; every value is escaped, a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("ndt_cli.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {
        "changed": changed_settings(settings),
        "n_settings": len(field_table()),
        "settings_toml": settings_to_toml(settings),
    }
    return environment.get_template(template).render(shared | values)
