"""The figures of a sweep by name, with their words."""

from collections.abc import Callable
from typing import NamedTuple

from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.errors import RunError, SettingsError, nearest, typed
from ndt_cli.report.drawn import Drawn, count
from ndt_cli.report.sweep import learning_curves, loss_against_measure, score_by_setting
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import SweepResults

MEASURE_NAMES = {
    "masked-loss": "loss of hidden bins",
    "unmasked-loss": "loss with nothing hidden",
    "rate-r2": "R2 of the rates",
    "co-bps": "co-bps",
}


class SweepFigure(NamedTuple):
    """A figure that a sweep may have.

    Attributes
    ----------
    title : str
        Its heading.
    draw : callable
        Draws it; raises a `RunError` where the sweep has no such figure yet.
    """

    title: str
    draw: Callable[[SweepFolder], Drawn]


def draw_sweep(sweep: SweepFolder, name: str) -> Drawn:
    """Draw one figure of a sweep.

    Raises
    ------
    SettingsError
        When there is no such figure; the message names the nearest.
    RunError
        When the sweep has none yet.
    """
    if name in SWEEP_FIGURES:
        return SWEEP_FIGURES[name].draw(sweep)
    close = nearest(name, SWEEP_FIGURES)
    raise SettingsError(
        f"a sweep has no figure {name!r}" + (f"; did you mean {close}?" if close else ""),
        f"figures of a sweep: {', '.join(SWEEP_FIGURES)}",
    )


def _draw_settings(sweep: SweepFolder) -> Drawn:
    results = sweep.results()
    if not results.ranked:
        raise _nothing_yet(sweep)
    figure = score_by_setting(results, sweep.space.draws)
    measure = MEASURE_NAMES[results.choose_by].capitalize()
    caption = (
        f"{measure} on validation trials against each setting that was drawn, a point a member: "
        f"{len(results.ranked)} ranked of {len(results.members)}."
    )
    return Drawn(
        figure, caption, f"The score of each member against each setting. {_best(results)}"
    )


def _draw_measures(sweep: SweepFolder) -> Drawn:
    results = sweep.results()
    if not any({"rate-r2", "co-bps"} & member.scores.keys() for member in results.ranked):
        raise RunError(
            f"{sweep.path}: there are neither true rates nor held-out neurons to compare the loss "
            "with"
        )
    caption = (
        "How well the loss of hidden bins foretells the measure that matters, a point a member: "
        f"{count(len(results.ranked), 'member')}."
    )
    alt = "R2 or co-bps of each member against its loss of hidden bins."
    return Drawn(loss_against_measure(results), caption, f"{alt} {_best(results)}")


def _draw_curves(sweep: SweepFolder) -> Drawn:
    results = sweep.results()
    histories = {m.index: RunFolder(m.folder).read_metrics() for m in results.members}
    try:
        figure = learning_curves(results, histories)
    except ValueError as error:
        raise _nothing_yet(sweep) from error
    measure = MEASURE_NAMES[results.choose_by]
    members = count(len(results.members), "member")
    caption = f"Validation ({measure}) of {members} over the epochs; the best one is blue."
    return Drawn(figure, caption, "Learning curves of all members of the sweep.")


def _best(results: SweepResults) -> str:
    best = results.ranked[0]
    return f"Best: member {best.index} with {results.score(best):.4f}."


def _nothing_yet(sweep: SweepFolder) -> RunError:
    return RunError(
        f"{sweep.path}: no member has come to its end yet",
        f"ndt sweep --resume {typed(sweep.path)}",
    )


SWEEP_FIGURES = {
    "settings": SweepFigure("Score by setting", _draw_settings),
    "measures": SweepFigure("Loss against the measure that matters", _draw_measures),
    "curves": SweepFigure("Learning curves of all members", _draw_curves),
}
