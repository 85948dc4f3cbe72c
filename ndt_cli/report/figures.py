"""The figures of a run, and how they are written.

Nothing here opens a window. In a notebook, ``%matplotlib inline`` shows a figure that a cell
returns.
"""

from pathlib import Path

from matplotlib.figure import Figure

from ndt_cli.atomic import write_atomic
from ndt_cli.errors import SettingsError
from ndt_cli.report.curves import training_curves
from ndt_cli.report.heatmaps import rate_heatmaps
from ndt_cli.report.rates import rates_over_raster
from ndt_cli.report.scores import per_neuron_scores
from ndt_cli.report.style import styled
from ndt_cli.report.trial import choose_neurons

__all__ = [
    "choose_neurons",
    "per_neuron_scores",
    "rate_heatmaps",
    "rates_over_raster",
    "save_figure",
    "training_curves",
]

# What would differ between two writings of the same figure: the date.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@styled
def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, in the format that the file's ending names.

    The same figure gives the same bytes. The file appears whole or not at all; a missing
    folder is made.

    Parameters
    ----------
    figure : Figure
        Any of this project's figures.
    path : Path
        File to write, ending in ``.png`` (200 dots per inch), ``.svg`` or ``.pdf``.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    SettingsError
        Another ending.

    Examples
    --------
    >>> from ndt_cli import evaluate
    >>> found = evaluate("runs/first")
    >>> figure = rate_heatmaps(found.data, found.rates_BTN, found.smoothed_BTN, trial=0)
    >>> save_figure(figure, Path("heatmaps.pdf")).suffix
    '.pdf'
    """
    metadata = _METADATA[check_ending(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: figure.savefig(temporary, metadata=metadata))
    return path


def check_ending(path: Path) -> str:
    """Return the ending of a figure's file.

    Raises
    ------
    SettingsError
        When a figure cannot be written so.
    """
    ending = path.suffix.lower()
    if ending not in _METADATA:
        raise SettingsError(
            f"{path}: a figure cannot be written as {ending or 'a file without an ending'!r}.",
            hint=f"End the file's name in one of: {', '.join(_METADATA)}.",
        )
    return ending
