"""The figures of a run by name, for ``ndt plot`` and for the page of a run."""

from collections.abc import Callable
from typing import NamedTuple

from ndt_cli.errors import SettingsError, nearest
from ndt_cli.report.draw_activity import (
    draw_conditions,
    draw_heatmaps,
    draw_rates,
    draw_trajectories_2d,
    draw_trajectories_3d,
)
from ndt_cli.report.draw_model import (
    draw_attention_lags,
    draw_attention_maps,
    draw_neurons_bits,
    draw_neurons_heldout,
    draw_neurons_r2,
    draw_training,
)
from ndt_cli.report.drawn import Choice, Drawn
from ndt_cli.report.run_contents import RunContents


class RunFigure(NamedTuple):
    """A figure that any run may have.

    Attributes
    ----------
    title : str
        Its heading.
    draw : callable
        Draws it; raises a `DataError` or `RunError` where the run has no such figure.
    takes : tuple of str
        Fields of `Choice` that it heeds.
    """

    title: str
    draw: Callable[[RunContents, Choice], Drawn]
    takes: tuple[str, ...] = ()


FIGURES = {
    "training": RunFigure("Learning curves", draw_training),
    "rates": RunFigure("Spikes and rates of one trial", draw_rates, ("trial", "neurons")),
    "heatmaps": RunFigure("Rates of all neurons in one trial", draw_heatmaps, ("trial",)),
    "conditions": RunFigure("Spikes and rates by condition", draw_conditions, ("neurons",)),
    "neurons-r2": RunFigure("R2 of each neuron", draw_neurons_r2),
    "neurons-bits": RunFigure("Bits per spike of each neuron", draw_neurons_bits),
    "neurons-heldout": RunFigure("Bits per spike of held-out neurons", draw_neurons_heldout),
    "trajectories-2d": RunFigure("Population trajectories in a plane", draw_trajectories_2d),
    "trajectories-3d": RunFigure("Population trajectories in space", draw_trajectories_3d),
    "attention-maps": RunFigure("Attention between bins", draw_attention_maps),
    "attention-lags": RunFigure("Attention by lag", draw_attention_lags),
}


def find_figure(name: str) -> RunFigure:
    """Return the figure of this name.

    Raises
    ------
    SettingsError
        When there is none; the message names the nearest.
    """
    if name in FIGURES:
        return FIGURES[name]
    close = nearest(name, FIGURES)
    raise SettingsError(
        f"there is no figure {name!r}" + (f"; did you mean {close}?" if close else ""),
        f"figures of a run: {', '.join(FIGURES)}",
    )


def draw(run: RunContents, name: str, choice: Choice | None = None) -> Drawn:
    """Draw one figure of a run.

    Parameters
    ----------
    run : RunContents
        The run.
    name : str
        A key of `FIGURES`.
    choice : Choice, optional
        Trial and neurons.

    Raises
    ------
    SettingsError
        When there is no such figure, or it takes no such choice.
    DataError, RunError
        When this run has no such figure: no conditions, one neuron, no true rates.

    Examples
    --------
    >>> drawn = draw(RunContents("runs/first"), "rates", Choice(trial=2))
    >>> drawn.caption[:26], drawn.figure.axes[-1].get_xlabel()
    ('Trial 2 of 4 validation tr', 'time in trial (ms)')
    """
    figure = find_figure(name)
    choice = choice or Choice()
    for field in ("trial", "neurons"):
        if getattr(choice, field) not in (None, ()) and field not in figure.takes:
            heed = ", ".join(key for key, each in FIGURES.items() if field in each.takes)
            raise SettingsError(
                f"the figure {name} has no {field} to choose", f"those that have: {heed}"
            )
    return figure.draw(run, choice)
