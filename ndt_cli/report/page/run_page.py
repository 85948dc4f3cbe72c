"""The page of a run: its data and training, scores, figures, settings, and how to repeat it."""

import platform
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from ndt_cli import __version__
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.trained_model import Model
from ndt_cli.errors import DataError, RunError, called
from ndt_cli.evaluation import Evaluation
from ndt_cli.report.figures import count
from ndt_cli.report.page.parts import AsTyped, PageFigure, Row, Step, duration, render
from ndt_cli.report.registry import FIGURES, RunContents, draw
from ndt_cli.report.trial import spread_trials
from ndt_cli.score_text import (
    MODEL,
    SMOOTHED,
    score_notes,
    score_number,
    score_tables,
    score_title,
)

_STOPPED = {
    "finished": "all epochs completed",
    "early": "no improvement for train.patience_epochs",
    "interrupted": "interrupted",
}


def run_html(run: RunContents, as_typed: AsTyped = str) -> str:
    """Return the page of a run as HTML, which needs no other file and no network.

    Parameters
    ----------
    run : RunContents
        A run or an ensemble. A figure that it does not have is replaced by the reason.
    as_typed : callable
        Rewrites the Python calls in texts; see `ndt_cli.report.page.write_report`.

    Raises
    ------
    RunError, CheckpointError, DataError
        If the run's weights or data cannot be read.
    """
    headings = list(dict.fromkeys(figure.section for figure in FIGURES.values()))
    sections = [
        (heading.lower().replace(" ", "-"), heading, _section_figures(run, heading, as_typed))
        for heading in headings
    ]
    found = run.evaluation
    values = {
        "title": f"Run {run.path.absolute().name}",
        "under": str(run.path.absolute()),
        "lead": _lead(found),
        "sections": [
            ("data", "Data and training"),
            ("scores", "Scores"),
            *((anchor, heading) for anchor, heading, _ in sections),
            ("settings", "Settings"),
            ("versions", "Versions"),
            ("reproduce", "How to reproduce"),
        ],
        "about_rows": data_rows(run.recording) + training_rows(run) + _member_rows(run),
        "data_notes": [as_typed(note) for note in run.recording.notes],
        "score_title": score_title(found),
        "score_tables": score_tables(found),
        "score_notes": [as_typed(note) for note in score_notes(found)],
        "smoothing_ms": found.smoothing_ms,
        "model": MODEL,
        "smoothed": SMOOTHED,
        "number": score_number,
        "figure_sections": sections,
        "version_rows": _version_rows(run),
        "steps": [step.shown(as_typed) for step in _steps(run)],
    }
    return render("run.html", run.settings, values)


def _lead(evaluation: Evaluation) -> list[str]:
    model, smoothed = evaluation.scores[MODEL], evaluation.scores[SMOOTHED]
    sentences = []
    if model.rates is not None and smoothed.rates is not None and np.isfinite(model.rates.r2_mean):
        sentences.append(
            f"R2 of the inferred rates against the true rates: {model.rates.r2_mean:.3f}; "
            f"smoothed spikes: {smoothed.rates.r2_mean:.3f}."
        )
    if np.isfinite(model.hidden.bits_per_spike):
        sentences.append(
            f"Prediction of hidden spike counts: {model.hidden.bits_per_spike:.3f} bits per "
            f"spike; smoothed spikes: {smoothed.hidden.bits_per_spike:.3f}."
        )
    return sentences


def _section_figures(run: RunContents, heading: str, as_typed: AsTyped) -> list[PageFigure]:
    figures = []
    for name, kind in FIGURES.items():
        if kind.section != heading or not kind.suits(run.evaluation.data):
            continue
        trials: Sequence[int | None] = [None]
        if name == "rates" and run.evaluation.data.conditions_B is None:
            trials = spread_trials(run.evaluation)
        for trial in trials:
            try:
                drawn = draw(run, name, trial=trial)
            except (DataError, RunError) as error:
                figures.append(PageFigure.absent(name, kind.title, error, as_typed))
            else:
                unique = name if trial is None else f"{name}-{trial}"
                figures.append(PageFigure.of(unique, kind.title, drawn))
    return figures


# ------------------------------------------------------------------------------------------------
# Data and training
# ------------------------------------------------------------------------------------------------


def data_rows(recording: Recording) -> list[Row]:
    """Return a description of the data, as rows of a table."""
    train, valid = recording.train, recording.valid
    return [
        ("data", f"{recording.source} (layout: {recording.layout})"),
        ("trials", f"{train.n_trials} training, {valid.n_trials} validation"),
        ("bins", _bins(recording)),
        ("neurons", _neurons(train)),
        ("spikes", _spikes(train)),
        ("conditions", _conditions(recording)),
        ("also known", _known(train)),
    ]


def _bins(recording: Recording) -> str:
    lengths = np.concatenate([recording.train.lengths_B, recording.valid.lengths_B])
    shortest, longest, bin_ms = int(lengths.min()), int(lengths.max()), recording.train.bin_ms
    bins = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    text = f"{bins} per trial, of {bin_ms:g} ms (longest trial: {longest * bin_ms:g} ms)"
    n_forward = recording.train.n_forward
    return f"{text}; the last {n_forward} are forward bins: only predicted" if n_forward else text


def _neurons(train: SpikeData) -> str:
    if not train.n_heldout:
        return str(train.n_neurons)
    return f"{train.n_neurons}, of which {train.n_heldout} are held out: only predicted"


def _spikes(train: SpikeData) -> str:
    n_bins = max(int(train.inside_BT.sum()), 1)
    rates_hz_N = train.spikes_BTN.sum(axis=(0, 1)) / n_bins * 1000 / train.bin_ms
    return (
        f"{rates_hz_N.mean():.3g} Hz per neuron on average ({rates_hz_N.min():.2g} to "
        f"{rates_hz_N.max():.3g} Hz); at most {train.max_count} in a bin"
    )


def _conditions(recording: Recording) -> str:
    splits = (recording.train.conditions_B, recording.valid.conditions_B)
    known = [conditions_B for conditions_B in splits if conditions_B is not None]
    return str(len(np.unique(np.concatenate(known)))) if known else "not labeled"


def _known(train: SpikeData) -> str:
    known = {
        "true rates": train.rates_BTN,
        "latent states": train.latents_BTK,
        "behavior": train.behavior_BTV,
    }
    return ", ".join(name for name, array in known.items() if array is not None) or "nothing"


def training_rows(run: RunContents) -> list[Row]:
    """Return the model and how it was trained, as rows of a table."""
    about, summary = run.about, run.summary
    rows = [("model", _model(run.trained))]
    if run.is_ensemble:
        return rows
    done, most = len(run.history), run.settings.train.max_epochs
    stopped = str(summary.get("stopped", "finished" if done == most else "interrupted"))
    epochs = f"{done} of at most {most} epochs ({_STOPPED.get(stopped, stopped)})"
    seconds = summary.get("seconds") or (run.history[-1]["seconds"] if run.history else None)
    took = f" in {duration(float(seconds))}" if seconds else ""
    rows.append(("training", f"{epochs}{took}; started {_moment(about['started'])}"))
    threads = count(about["n_threads"], "CPU thread")
    rows.append(("device", f"{about['device']}, {about['precision']}, {threads}"))
    checkpoint = run.trained.checkpoint
    best = summary.get("best", {}).get(checkpoint)
    epoch = f", of epoch {best['epoch']}" if best else ""
    rows.append(("weights", f"{checkpoint}{epoch}"))
    return rows


def _model(trained: Model) -> str:
    if len(trained.members) > 1:
        return f"the mean of {count(len(trained.members), 'model')}"
    network, model = trained.members[0].network, trained.settings.model
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    window = (network.context.back, network.context.forward)
    back, forward = ("all bins" if bins is None else count(bins, "bin") for bins in window)
    return (
        f"{count(model.n_layers, 'layer')} of {count(model.n_heads, 'head')}, width "
        f"{network.embedding.width}, {n_parameters:,} parameters; context window: {back} before, "
        f"{forward} after"
    )


def _moment(started: str) -> str:
    """Return a time of ``run.json`` as people write it."""
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started


def _member_rows(run: RunContents) -> list[Row]:
    if not run.is_ensemble:
        return []
    members = run.folder.read_json("ensemble.json")["members"]
    return [(f"member {i}", f"{m.get('from', m['folder'])}") for i, m in enumerate(members)]


# ------------------------------------------------------------------------------------------------
# Versions, and how to reproduce the run
# ------------------------------------------------------------------------------------------------


def _version_rows(run: RunContents) -> list[Row]:
    about = run.about
    packages = ", ".join(f"{name} {v}" for name, v in about.get("packages", {}).items() if v)
    made = f"ndt {__version__}, Python {platform.python_version()}"
    return [
        ("trained with", f"ndt {about.get('ndt', 'unknown')}, Python {about.get('python', '')}"),
        ("packages", packages or "unknown"),
        ("machine", str(about.get("platform", "unknown"))),
        ("training trials", f"sha256 {about['data']['train']['fingerprint']}"),
        ("validation trials", f"sha256 {about['data']['valid']['fingerprint']}"),
        ("page made", f"{datetime.now():%Y-%m-%d %H:%M} with {made}"),
    ]


def _steps(run: RunContents) -> list[Step]:
    """Return how to repeat the run, its scores and its figures."""
    path = run.path.absolute()
    steps = []
    if run.is_ensemble:
        steps.append(Step("The members are separate runs; each is repeated from its own settings."))
    else:
        argv = [str(word) for word in run.about.get("command", [])]
        if argv and Path(argv[0]).name in ("ndt", "ndt.exe", "__main__.py"):
            steps.append(
                Step("The run was started by this command:", shlex.join(["ndt", *argv[1:]]))
            )
        else:
            steps.append(Step("The run was started from Python."))
        settings, again = str(path / "settings.toml"), f"{path}-again"
        steps.append(
            Step(
                "Repeat the run; on a CPU with the same number of threads the result is identical "
                "to the last bit:",
                f"`train(load_settings({settings!r}), out={again!r})`",
            )
        )
    return [
        *steps,
        Step("Scores, and the inferred rates:", f"`evaluate({str(path)!r}).rates_BTN`"),
        Step(
            f"A figure as PNG, SVG or PDF; names: {', '.join(FIGURES)}.",
            called("plot", path, "rates", out="rates.pdf"),
        ),
        Step("This page:", called("write_report", path, overwrite=True)),
    ]
