"""The look that all figures share: print sizes, colors that color-blind readers tell apart.

Figures are built with matplotlib's objects alone. pyplot would keep them alive and would choose
a window system.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

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
    # "figure": a figure is saved at its own size and resolution, whatever the user's own file says.
    "savefig.dpi": "figure",
    "savefig.bbox": None,
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


def sequence_colors(n: int) -> list[str]:
    """Return ``n`` colors in an order, told apart by color-blind readers and on gray paper."""
    # The lightest quarter of the map is too pale for lines on white.
    return [to_hex(mpl.colormaps["plasma"](0.75 * i / max(n - 1, 1))) for i in range(n)]


def label_beside(
    figure: Figure,
    axes: Axes,
    y_values: Sequence[float],
    texts: Sequence[str],
    colors: Sequence[str],
) -> None:
    """Write texts to the right of the axes, beside values of y, moved apart where they overlap.

    Parameters
    ----------
    figure : Figure
        The axes' figure.
    axes : Axes
        Axes whose y limits are final.
    y_values : sequence of float
        Where each text belongs, in data units.
    texts, colors : sequence of str
        Texts and their colors.
    """
    # The layout decides how high a line of text is in the axes' own units.
    figure.draw_without_rendering()
    axes_points = axes.get_position().height * figure.get_figheight() * 72
    text_height = 9.0 * max(text.count("\n") + 1 for text in texts) / axes_points
    points = axes.transData.transform([(0.0, y) for y in y_values])
    wanted = axes.transAxes.inverted().transform(points)[:, 1].tolist()
    for y, text, color in zip(spread(wanted, text_height), texts, colors, strict=True):
        axes.annotate(
            text,
            (1.0, y),
            (4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=color,
            fontsize=7,
            va="center",
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return positions in 0..1 near the wanted ones, in their order, at least a gap apart.

    Where they cannot all fit, they run past 1.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [min(max(wanted[i], 0.0), 1.0) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    ceiling = max(1.0, gap * (len(placed) - 1))
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    result = [0.0] * len(placed)
    for position, i in zip(placed, order, strict=True):
        result[i] = position
    return result
