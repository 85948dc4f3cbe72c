"""The page of a run: what was trained on what, how well, and what it found."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError, RunError
from ndt_cli.evaluation import Evaluation
from ndt_cli.report.page.parts import (
    PageFigure,
    changed_settings,
    data_rows,
    member_rows,
    render,
    reproduction,
    settings_text,
    version_rows,
)
from ndt_cli.report.registry import FIGURES, draw
from ndt_cli.report.run_contents import Choice, RunContents
from ndt_cli.score_text import (
    MODEL,
    SMOOTHED,
    score_notes,
    score_number,
    score_tables,
    score_title,
)
from ndt_cli.settings.explain import field_table

_SECTIONS = {
    "training": ("Learning curves", ("training",)),
    "rates": ("Spikes and inferred rates", ("rates", "heatmaps", "conditions")),
    "neurons": ("Single neurons", ("neurons-r2", "neurons-bits", "neurons-heldout")),
    "trajectories": ("Population trajectories", ("trajectories-2d", "trajectories-3d")),
    "attention": ("Attention", ("attention-maps", "attention-lags")),
}

# Figures that nobody misses where the data cannot have them; of others the page says why.
_ONLY_WITH: dict[str, Callable[[SpikeData], bool]] = {
    "neurons-r2": lambda data: data.rates_BTN is not None,
    "neurons-heldout": lambda data: data.n_heldout > 0,
}


@dataclass(frozen=True)
class FigureSection:
    """A section of figures."""

    anchor: str
    heading: str
    figures: list[PageFigure]


def run_page(run: RunContents) -> str:
    """Return the page of a run as HTML, which needs no other file and no network.

    Parameters
    ----------
    run : RunContents
        A run or an ensemble. A figure that it does not have is replaced by the reason.

    Raises
    ------
    RunError, CheckpointError, DataError
        When the run's weights or data cannot be read.
    """
    figures = [
        FigureSection(anchor, heading, _figures(run, names))
        for anchor, (heading, names) in _SECTIONS.items()
    ]
    values = {
        "title": f"Run {run.path.absolute().name}",
        "under": str(run.path.absolute()),
        "lead": _lead(run.evaluation),
        "sections": [
            ("data", "Data and training"),
            ("scores", "Scores"),
            *((section.anchor, section.heading) for section in figures),
            ("settings", "Settings"),
            ("versions", "Versions"),
            ("reproduce", "How to reproduce"),
        ],
        "about_rows": data_rows(run) + member_rows(run),
        "data_notes": run.recording.notes,
        "score_title": score_title(run.evaluation),
        "score_tables": score_tables(run.evaluation),
        "score_notes": score_notes(run.evaluation),
        "smoothing_ms": run.evaluation.smoothing_ms,
        "model": MODEL,
        "smoothed": SMOOTHED,
        "number": score_number,
        "figure_sections": figures,
        "changed": changed_settings(run.settings),
        "n_settings": len(field_table()),
        "settings_toml": settings_text(run),
        "version_rows": version_rows(run),
        "steps": reproduction(run),
    }
    return render("run.html", values)


def _lead(evaluation: Evaluation) -> list[str]:
    model, smoothed = evaluation.scores[MODEL], evaluation.scores[SMOOTHED]
    sentences = []
    if model.rates is not None and smoothed.rates is not None and np.isfinite(model.rates.r2_mean):
        sentences.append(
            f"R2 of the inferred rates against the true ones: {model.rates.r2_mean:.3f}; smoothed "
            f"spikes: {smoothed.rates.r2_mean:.3f}."
        )
    if np.isfinite(model.hidden.bits_per_spike):
        sentences.append(
            f"Hidden counts are predicted with {model.hidden.bits_per_spike:.3f} bits per spike; "
            f"smoothed spikes: {smoothed.hidden.bits_per_spike:.3f}."
        )
    return sentences


def _figures(run: RunContents, names: tuple[str, ...]) -> list[PageFigure]:
    figures = []
    for name in names:
        if name in _ONLY_WITH and not _ONLY_WITH[name](run.evaluation.data):
            continue
        choices = [Choice()]
        if name == "rates" and run.evaluation.data.conditions_B is None:
            choices = [Choice(trial=trial) for trial in spread_trials(run.evaluation)]
        figures += [_figure(run, name, choice) for choice in choices]
    return figures


def _figure(run: RunContents, name: str, choice: Choice) -> PageFigure:
    title = FIGURES[name].title
    try:
        drawn = draw(run, name, choice)
    except (DataError, RunError) as error:
        hint = f" ({error.hint})" if error.hint else ""
        return PageFigure(name, title, f"{error.message}{hint}.")
    anchor = name if choice.trial is None else f"{name}-{choice.trial}"
    return PageFigure.of(anchor, title, drawn.figure, drawn.caption, drawn.alt)


def spread_trials(evaluation: Evaluation) -> list[int]:
    """Return a quiet, a typical and a busy trial: of few, middling and many spikes per bin."""
    data = evaluation.data
    usable = np.flatnonzero(np.asarray(data.lengths_B) > 0)
    per_bin = data.spikes_BTN.sum(axis=(1, 2))[usable] / np.asarray(data.lengths_B)[usable]
    order = usable[per_bin.argsort(kind="stable")]
    places = {round(share * (len(order) - 1)) for share in (0.1, 0.5, 0.9)}
    return [int(order[place]) for place in sorted(places)]
