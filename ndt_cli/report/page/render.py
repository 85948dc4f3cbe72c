"""From a template and plain values to the text of a page, and figures within it."""

import base64
import io
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ndt_cli.report.style import TWO_COLUMNS_INCHES, styled

# A picture of more lines than this is smaller, and opens faster, in pixels.
_MOST_SVG_BYTES = 150_000


@dataclass(frozen=True)
class PageFigure:
    """A figure on a page, or why there is none.

    Attributes
    ----------
    name : str
        What ``ndt plot`` calls it.
    title, caption, alt : str
        Its words.
    source : str
        A data URI; empty where there is no such figure, and the caption says why.
    width, height : int
        Size in pixels of a page.
    percent : int
        Share of the page's width.
    """

    name: str
    title: str
    caption: str
    alt: str = ""
    source: str = ""
    width: int = 0
    height: int = 0
    percent: int = 100

    @classmethod
    def of(cls, name: str, title: str, figure: Figure, caption: str, alt: str) -> "PageFigure":
        """Return a figure as an SVG, or as a PNG where that is smaller."""
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        percent = round(100 * figure.get_figwidth() / TWO_COLUMNS_INCHES)
        return cls(name, title, caption, alt, data_uri(figure), width, height, percent)


@styled
def data_uri(figure: Figure) -> str:
    """Return a figure as a ``data:`` address, which a page holds within itself.

    An image element shows it: scripts and links in such an SVG do nothing, and its ids cannot
    meet those of the page.
    """
    text = _written(figure, "svg", {"Date": None})
    if len(text) <= _MOST_SVG_BYTES:
        return f"data:image/svg+xml;base64,{base64.b64encode(text).decode()}"
    return f"data:image/png;base64,{base64.b64encode(_written(figure, 'png', None)).decode()}"


def _written(figure: Figure, kind: str, metadata: dict[str, None] | None) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def render(template: str, values: dict[str, Any]) -> str:
    """Fill a template of this folder; every value is escaped.

    Parameters
    ----------
    template : str
        File name.
    values : dict
        What the template names; a name that is not there is an error.
    """
    environment = Environment(
        loader=PackageLoader("ndt_cli.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
