"""What all figures share: their look, their captions, and the files they are written to.

Sizes are those of two-column journals, colors those that color-blind readers tell apart. Figures
are built with matplotlib's objects alone: pyplot would keep them alive and would choose a window
system. In a notebook, ``%matplotlib inline`` shows a figure that a cell returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backend_bases import get_registered_canvas_class
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ndt_cli.atomic import check_suffix, write_stream_atomic
from ndt_cli.data.spike_data import bins_text
from ndt_cli.errors import count

if TYPE_CHECKING:
    from ndt_cli.evaluation import Evaluation

# Okabe & Ito (2008); the model is the same blue in every figure.
MODEL = "#0072B2"
SMOOTHED = "#D55E00"
TRUTH = "#000000"
SECOND = "#009E73"
MUTED = "#777777"

# Text widths of two-column journals: 89 mm and 183 mm.
TWO_COLUMNS_INCHES = 7.2
_WIDTH_INCHES = {"one": 3.5, "two": TWO_COLUMNS_INCHES}

# Any: matplotlib's own type of these keys differs between its versions.
_RC: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titley": 1.0,  # otherwise matplotlib searches for ticks above each panel, at length
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "figure.dpi": 200,
    # Text stays text, and the ids in an SVG stay the same from run to run.
    "svg.fonttype": "none",
    "svg.hashsalt": "ndt",
    "pdf.fonttype": 42,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function under the common look, and give the caller's settings back after it."""

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_RC):
            return function(*args, **kwargs)

    return inner


def new_figure(columns: Literal["one", "two"], height_inches: float) -> Figure:
    """Return an empty figure as wide as one or two columns of a journal."""
    figure = Figure(figsize=(_WIDTH_INCHES[columns], height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_panels(figure: Figure, n: int, n_columns: int) -> list[Axes]:
    """Return ``n`` panels in rows of ``n_columns``; the last row may have fewer."""
    grid = figure.add_gridspec(-(-n // n_columns), n_columns)
    return [figure.add_subplot(grid[divmod(place, n_columns)]) for place in range(n)]


def draw_lines(
    axes: Axes, lines: Sequence[NDArray[Any]], colors: Sequence[str], width: float, **look: Any
) -> None:
    """Draw lines, each (points, 2), all at once: one by one they take ten times as long.

    The limits of the axes stay as they are.
    """
    axes.add_collection(LineCollection(lines, colors=colors, lw=width, **look), autolim=False)


def sequence_colors(n: int) -> list[str]:
    """Return ``n`` colors in an order, told apart by color-blind readers and on gray paper."""
    # The lightest quarter of the map is too pale for lines on white.
    return [to_hex(mpl.colormaps["plasma"](0.75 * i / max(n - 1, 1))) for i in range(n)]


def circle_color(share: float) -> str:
    """Return the color of a direction, given as a share of a whole turn."""
    # Darker than pure hues, of which yellow is lost on white.
    red, green, blue = hsv_to_rgb((share % 1.0, 0.85, 0.8)).tolist()
    return to_hex((red, green, blue))


def add_color_bar(figure: Figure, image: AxesImage, axes: Any, label: str, *, cut: bool) -> None:
    """Draw the color scale of an image; ``cut``: some values lie above its end."""
    bar = figure.colorbar(
        image, ax=axes, extend="max" if cut else "neither", fraction=0.03, pad=0.01
    )
    bar.set_label(label)
    bar.outline.set_linewidth(0.6)


@dataclass(frozen=True, eq=False)
class CaptionedFigure:
    """A figure with its text."""

    figure: Figure
    caption: str
    alt: str


def trials_text(evaluation: "Evaluation") -> str:
    """Return such text as "22 validation trials of 51 to 76 bins of 20 ms"."""
    data = evaluation.data
    kind = {"train": "training trial", "valid": "validation trial", "all": "trial"}
    trials = count(data.n_trials, kind[evaluation.split])
    return f"{trials} of {bins_text(data.lengths_B)} of {data.bin_ms:g} ms"


def shortened(name: str, most: int) -> str:
    """Return a name without its middle if it is longer than this; names differ at their ends."""
    if len(name) <= most:
        return name
    n_last = most // 2
    return f"{name[: most - 1 - n_last]}\N{HORIZONTAL ELLIPSIS}{name[-n_last:]}"


FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


@styled
def write_figure(figure: Figure, file: BinaryIO, suffix: str) -> None:
    """Write a figure to an open file. The same figure gives the same bytes."""
    # What takes half of the layout's time and moves nothing: the extents of spines, which are those
    # of the tick labels, and places for labels without text.
    for axes in figure.axes:
        for spine in axes.spines.values():
            spine.set_in_layout(False)
        for axis in (axes.xaxis, axes.yaxis):
            if not axis.get_label_text():
                axis.set_label_coords(0.0, 0.0)
    # A date would differ; and `savefig` draws twice, once for the layout. A canvas is loaded when
    # it is asked for: that of PDF takes as long as half of matplotlib.
    kind = suffix.removeprefix(".")
    dates: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    canvas: Any = get_registered_canvas_class(kind)(figure)
    # PNG in two thirds of the time, and a tenth larger, than matplotlib's own choice.
    more: dict[str, Any] = {"pil_kwargs": {"compress_level": 2}} if kind == "png" else {}
    getattr(canvas, f"print_{kind}")(file, metadata=dates.get(kind, {}), **more)


def save_figure(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Write a figure in the format that the file's suffix names.

    The same figure gives the same bytes: ``.png`` (200 dots per inch), ``.svg`` or ``.pdf``. A
    missing folder is created.

    Examples
    --------
    >>> from ndt_cli import evaluate
    >>> from ndt_cli.report.trial import draw_heatmaps
    >>> drawn = draw_heatmaps(evaluate("runs/first"), trial=0)
    >>> save_figure(drawn.figure, Path("heatmaps.pdf")).suffix
    '.pdf'
    """
    check_suffix(path, FIGURE_SUFFIXES)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    write_stream_atomic(path, lambda file: write_figure(figure, file, suffix), overwrite=overwrite)
    return path
