"""The pages of a run and of a sweep: data, training, scores, figures, and how to repeat it."""

import base64
import hashlib
import io
import math
import platform
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ndt_cli import __version__
from ndt_cli.atomic import check_may_write, check_suffix, write_text_atomic
from ndt_cli.data.spike_data import Recording, Split
from ndt_cli.engine.measures import MEASURES, score_text
from ndt_cli.engine.trained_model import Model
from ndt_cli.errors import DataError, RunError, called, count
from ndt_cli.report.conditions import condition_label
from ndt_cli.report.curves import MEASURE_NAMES
from ndt_cli.report.figures import TWO_COLUMNS_INCHES, CaptionedFigure, write_figure
from ndt_cli.report.registry import FIGURES, RunContents, draw, draw_sweep
from ndt_cli.report.sweep_figures import SWEEP_FIGURES
from ndt_cli.report.trial import (
    TimeAxis,
    evenly_spaced,
    modulated_neurons,
    neuron_label,
    spread_trials,
    trial_label,
    typical_trial,
)
from ndt_cli.score_text import score_notes, score_tables, score_title
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import STATUSES, SweepResults
from ndt_cli.search.space import Draw
from ndt_cli.settings.explain import field_table, heading, plain_values, value_text
from ndt_cli.settings.load import settings_to_toml
from ndt_cli.settings.tree import Settings
from ndt_cli.verdict import MODEL, SMOOTHED

GENERATOR = "ndt report"
"""What a page of this program says that it was made by."""

Row = tuple[str, str]
Step = tuple[str, str]  # a text, and a call in backticks or a command
AsTyped = Callable[[str], str]

PAGE_FILE = "report.html"

# A figure of more lines than this is smaller, and opens faster, in pixels.
_MOST_SVG_BYTES = 150_000


def write_report(
    path: Path | str,
    out: Path | str | None = None,
    *,
    split: Split = "valid",
    data: Path | None = None,
    checkpoint: str | None = None,
    device: str = "auto",
    recording: Recording | None = None,
    overwrite: bool = False,
    accept_changes: bool = False,
    as_typed: Callable[[str], str] = str,
) -> Path:
    """Write the page of a run, an ensemble or a sweep: one HTML file that needs no network.

    Parameters
    ----------
    path : Path or str
        Folder of the run, ensemble or sweep.
    out : Path or str, optional
        File to write, ``.html`` or ``.htm``. Default: ``report.html`` in that folder.
    split, data, checkpoint, device, recording, accept_changes
        As in `ndt_cli.report.registry.RunContents`; ignored for a sweep.
    overwrite : bool
        Replace an existing file. The page in the folder itself is replaced without.
    as_typed : callable
        Rewrites the Python calls in the page's texts, which are in backticks. Default: they stay.
        The command line passes `ndt_cli.commands.wording.as_typed`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ExistingFileError
        If the file exists and may not be replaced.
    RunError
        If the folder is not a run or a sweep.
    CheckpointError, DataError, DeviceError
        If the weights, the data or the device are not usable.
    SettingsError
        If the file has another suffix.

    Examples
    --------
    >>> write_report("runs/first").name
    'report.html'
    """
    path = Path(path)
    file = Path(out) if out is not None else path / PAGE_FILE
    check_suffix(file, (".html", ".htm"))
    overwrite = overwrite or (out is None and _is_own(file))
    if SweepFolder.is_at(path):
        sweep = SweepFolder.open(path)
        check_may_write(file, overwrite)
        text = sweep_html(sweep, as_typed)
    else:
        run = RunContents(
            path,
            split=split,
            data=data,
            checkpoint=checkpoint,
            device=device,
            recording=recording,
            accept_changes=accept_changes,
        )
        check_may_write(file, overwrite)
        text = run_html(run, as_typed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, text, overwrite=overwrite)
    return file


def _is_own(file: Path) -> bool:
    """Return whether a file is a page that this program wrote."""
    if not file.is_file():
        return False
    with file.open("rb") as page:
        return f'name="generator" content="{GENERATOR}"'.encode() in page.read(4096)


def _figure(
    name: str, title: str, draw_it: Callable[[], CaptionedFigure], as_typed: AsTyped
) -> dict[str, Any]:
    """Return a figure as part of a page, or why there is no such figure."""
    shared = {"name": name, "title": title}
    try:
        drawn = draw_it()
    except (DataError, RunError) as error:
        hint = f" ({error.hint.rstrip('.')})" if error.hint else ""
        return {**shared, "caption": as_typed(f"{error.message}{hint}."), "source": ""}
    width, height = (round(96 * inches) for inches in drawn.figure.get_size_inches())
    return {
        **shared,
        "caption": drawn.caption,
        "alt": drawn.alt,
        "source": data_uri(drawn.figure),
        "width": width,
        "height": height,
        "percent": round(100 * drawn.figure.get_figwidth() / TWO_COLUMNS_INCHES),
    }


def data_uri(figure: Figure) -> str:
    """Return a figure as a ``data:`` address: an SVG, or a PNG if that is smaller.

    Shown by an image element, scripts and links in an SVG do nothing, and its ids cannot meet
    those of the page.
    """
    buffer = io.BytesIO()
    write_figure(figure, buffer, ".svg")
    kind = "svg+xml"
    if buffer.tell() > _MOST_SVG_BYTES:
        buffer, kind = io.BytesIO(), "png"
        write_figure(figure, buffer, ".png")
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def changed_settings(settings: Settings) -> list[dict[str, str]]:
    """Return the key, value, default and doc of each setting that differs from its default."""
    values, defaults = plain_values(settings), plain_values(Settings())

    def shown(value: Any) -> str:
        if value is None:
            return "unset"
        return str(value).lower() if isinstance(value, bool) else str(value)

    rows = []
    for field in field_table():
        section, name = field.key.split(".")
        value, default = values[section].get(name), defaults[section].get(name)
        if value != default:
            values_shown = {"value": shown(value), "default": shown(default)}
            rows.append({"key": field.key, **values_shown, "doc": field.doc})
    return rows


def duration(seconds: float) -> str:
    """Return such text as "95 s", "14 min" or "3 h 5 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def render(
    template: str, settings: Settings, values: dict[str, Any], as_typed: AsTyped = str
) -> str:
    """Fill a template of this folder; every value is escaped, a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("ndt_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = values.get("script", "")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {
        "script": script,
        "script_hash": f"sha256-{digest}",  # the only script that a browser runs here
        "generator": GENERATOR,
        "changed": changed_settings(settings),
        "n_settings": len(field_table()),
        "settings_toml": settings_to_toml(settings),
    }
    for key in ("data_notes", "warnings", "advice", "score_notes", "notes"):
        values[key] = [as_typed(text) for text in values.get(key, ())]
    values["steps"] = [
        (as_typed(text), as_typed(code).strip("`")) for text, code in values.get("steps", ())
    ]
    return environment.get_template(template).render(shared | values)


_STOPPED = {
    "finished": "all epochs completed",
    "early": "no improvement for train.patience_epochs",
    "interrupted": "interrupted",
}


def run_html(run: RunContents, as_typed: AsTyped = str) -> str:
    """Return the page of a run or an ensemble as HTML, which needs no other file and no network."""
    headings = list(dict.fromkeys(figure.section for figure in FIGURES.values()))
    sections = [
        (heading.lower().replace(" ", "-"), heading, figures)
        for heading in headings
        if (figures := _section_figures(run, heading, as_typed))
    ]
    found = run.evaluation
    values = {
        "title": f"Run {run.path.absolute().name}",
        "under": str(run.path.absolute()),
        "lead": [found.verdict.sentence],
        "sections": [
            ("data", "Data and training"),
            ("scores", "Scores"),
            *((anchor, heading) for anchor, heading, _ in sections),
            ("settings", "Settings"),
            ("versions", "Versions"),
            ("reproduce", "How to reproduce"),
        ],
        "about_rows": data_rows(run.recording) + training_rows(run) + _member_rows(run),
        "data_notes": run.recording.notes,
        "warnings": found.verdict.warnings,
        "advice": found.verdict.advice,
        "score_title": score_title(found),
        "score_tables": score_tables(found),
        "score_notes": score_notes(found),
        "smoothing_ms": found.smoothing_ms,
        "model": MODEL,
        "smoothed": SMOOTHED,
        "number": score_text,
        "figure_sections": sections,
        **_picker(run),
        "version_rows": _version_rows(run),
        "steps": _steps(run),
    }
    return render("run.html", run.settings, values, as_typed)


def _section_figures(run: RunContents, heading: str, as_typed: AsTyped) -> list[dict[str, Any]]:
    figures = []
    for name, kind in FIGURES.items():
        if kind.section != heading or not kind.suits(run.evaluation.data):
            continue
        trials: Sequence[int | None] = [None]
        if name == "rates" and run.evaluation.data.conditions_B is None:
            trials = spread_trials(run.evaluation.data)
        for trial in trials:
            unique = name if trial is None else f"{name}-{trial}"
            draw_it = partial(draw, run, name, trial=trial)
            figures.append(_figure(unique, kind.title, draw_it, as_typed))
    return figures


# Bytes of the picker's numbers, four thirds of it in the page.
_PICKER_BYTES = 400_000


def _picker(run: RunContents) -> dict[str, Any]:
    """Return what the page needs to draw any of some trials, and any neuron in them.

    Rates are stored in 255 steps up to each neuron's peak.
    """
    found = run.evaluation
    data = found.data
    n_sources = 2 + (data.rates_BTN is not None)
    per_trial = (n_sources + 1) * data.n_bins * data.n_neurons
    usable = np.flatnonzero(np.asarray(data.lengths_B) > 0)
    n_trials = min(len(usable), _PICKER_BYTES // per_trial)
    values: dict[str, Any] = {"picker": None, "picker_section": "", "picker_note": ""}
    if n_trials == 0:
        return values
    first = typical_trial(data)
    trials = np.union1d(usable[evenly_spaced(len(usable), n_trials)], [first])
    some, order_N = found.take(trials), data.file_order_N
    rates = some.sources
    peak_N = np.max([rates_BTN.max(axis=(0, 1)) for rates_BTN in rates.values()], axis=0)
    peak_N = np.maximum(peak_N, 1e-9)
    times = TimeAxis.of(data, data.n_bins)
    numbers = [] if data.conditions_B is None else data.conditions_B.tolist()
    conditions = [condition_label(data, number) for number in numbers]
    styles = {"NDT": "model", "smoothed spikes": "smoothed", "true rates": "truth"}

    def packed(values_BTN: NDArray[Any]) -> str:
        bytes_BNT = np.ascontiguousarray(values_BTN[:, :, order_N].transpose(0, 2, 1), np.uint8)
        return base64.b64encode(bytes_BNT.tobytes()).decode()

    shown_TN = next(iter(rates.values()))[trials == first][0, : data.lengths_B[first]]
    neurons = modulated_neurons(np.asarray(shown_TN, dtype=np.float64), 4)
    values["picker"] = {
        "trials": [
            {
                "label": ", ".join([trial_label(data, t), *conditions[t : t + 1]]),
                "n_bins": int(data.lengths_B[t]),
            }
            for t in trials.tolist()
        ],
        "units": [neuron_label(data, column) for column in order_N.tolist()],
        "n_bins": data.n_bins,
        "start": times.start,
        "step": times.step,
        "time_label": times.label,
        "has_event": times.has_event,
        "first_trial": int(np.flatnonzero(trials == first)[0]),
        "first_unit": order_N.tolist().index(neurons[-1]),
        "peak_hz": (peak_N * 1000 / data.bin_ms)[order_N].round(3).tolist(),
        "spikes": packed(np.minimum(some.data.spikes_BTN, 255)),
        "sources": [
            {"name": name, "css": styles[name], "rates": packed(np.rint(r / peak_N * 255))}
            for name, r in rates.items()
        ],
    }
    values["picker_section"] = FIGURES["rates"].section.lower().replace(" ", "-")
    values["picker_note"] = (
        f"{len(trials)} of {count(data.n_trials, 'trial')}. Choose a trial and a neuron above, or "
        "click on a row of spikes."
    )
    values["script"] = files("ndt_cli.report").joinpath("templates", "picker.js").read_text("utf-8")
    return values


# Data and training --------------------------------------------------------------------------------


def data_rows(recording: Recording) -> list[Row]:
    """Return a description of the data, as rows of a table."""
    train, valid, bin_ms = recording.train, recording.valid, recording.train.bin_ms
    lengths = np.concatenate([train.lengths_B, valid.lengths_B])
    shortest, longest = int(lengths.min()), int(lengths.max())
    bins = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    bins += f" per trial, of {bin_ms:g} ms (longest trial: {longest * bin_ms:g} ms)"
    if train.n_forward:
        bins += f"; the last {train.n_forward} are forward bins: only predicted"
    neurons = str(train.n_neurons)
    if train.n_heldout:
        neurons += f", of which {train.n_heldout} are held out: only predicted"
    n_bins = max(int(train.inside_BT.sum()), 1)
    rates_hz_N = train.spikes_BTN.sum(axis=(0, 1)) / n_bins * 1000 / bin_ms
    spikes = (
        f"{rates_hz_N.mean():.3g} Hz per neuron on average ({rates_hz_N.min():.3g} to "
        f"{rates_hz_N.max():.3g} Hz); at most {train.max_count} in a bin"
    )
    labeled = [d.conditions_B for d in (train, valid) if d.conditions_B is not None]
    known = {
        "true rates": train.rates_BTN,
        "latent states": train.latents_BTK,
        "behavior": train.behavior_BTV,
    }
    return [
        ("data", f"{recording.source} (layout: {recording.layout})"),
        ("trials", f"{train.n_trials} training, {valid.n_trials} validation"),
        ("bins", bins),
        ("neurons", neurons),
        ("spikes", spikes),
        ("conditions", str(len(np.unique(np.concatenate(labeled)))) if labeled else "not labeled"),
        ("also known", ", ".join(k for k, v in known.items() if v is not None) or "nothing"),
    ]


def training_rows(run: RunContents) -> list[Row]:
    """Return the model and how it was trained, as rows of a table."""
    about, summary = run.about, run.summary
    rows = [("model", _model(run.trained))]
    if run.is_ensemble:
        return rows
    done, most = len(run.history), run.settings.train.max_epochs
    stopped = str(summary.get("stopped", "finished" if done == most else "interrupted"))
    epochs = f"{done} of at most {count(most, 'epoch')} ({_STOPPED.get(stopped, stopped)})"
    seconds = summary.get("seconds") or (run.history[-1]["seconds"] if run.history else None)
    took = f" in {duration(float(seconds))}" if seconds else ""
    started = about["started"].replace("T", " ")[:16] + " UTC"
    rows.append(("training", f"{epochs}{took}; started {started}"))
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


def _member_rows(run: RunContents) -> list[Row]:
    if not run.is_ensemble:
        return []
    members = run.folder.read_json("ensemble.json")["members"]
    return [(f"member {i}", f"{m.get('from', m['folder'])}") for i, m in enumerate(members)]


# Versions, and how to reproduce the run -----------------------------------------------------------


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
    steps: list[Step] = []
    if run.is_ensemble:
        steps.append(("The members are separate runs; each is repeated from its own settings.", ""))
    else:
        argv = [str(word) for word in run.about.get("command", [])]
        if argv and Path(argv[0]).name in ("ndt", "ndt.exe", "__main__.py"):
            typed = shlex.join(["ndt", *argv[1:]])
            steps.append(("The run was started by this command:", typed))
        else:
            steps.append(("The run was started from Python.", ""))
        whole = Path(run.about.get("trained_in", path))  # a session is trained with the others
        settings, again = str(whole / "settings.toml"), f"{whole}-again"
        identical = (
            "Repeat the run; on a CPU with the same number of threads the result is identical to "
            "the last bit:"
        )
        steps.append((identical, f"`train(load_settings({settings!r}), out={again!r})`"))
    names = f"A figure as PNG, SVG or PDF; names: {', '.join(FIGURES)}."
    return [
        *steps,
        ("Scores:", f"`evaluate({str(path)!r})`"),
        ("Rates as a file:", f"`write_rates('rates.h5', infer_rates({str(path)!r}))`"),
        (names, called("plot", path, "rates", out="rates.pdf")),
        ("This page:", called("write_report", path)),
    ]


# The page of a sweep ------------------------------------------------------------------------------


def sweep_html(sweep: SweepFolder, as_typed: AsTyped = str) -> str:
    """Return the page of a sweep as HTML, which needs no other file and no network."""
    results = sweep.results()
    columns, rows = _table(results)
    values = {
        "title": f"Sweep {sweep.path.absolute().name}",
        "under": str(sweep.path.absolute()),
        "lead": _lead(results),
        "sections": [
            ("sweep", "What was searched"),
            ("figures", "What the settings did"),
            ("members", "Members"),
            ("settings", "Settings"),
            ("reproduce", "How to reproduce"),
        ],
        "about_rows": _about(sweep, results),
        "drawn_rows": [(key, _describe(draw)) for key, draw in sweep.space.draws.items()],
        "figures": [
            _figure(name, title, partial(draw_sweep, sweep, name), as_typed)
            for name, (title, _) in SWEEP_FIGURES.items()
        ],
        "columns": columns,
        "rows": rows,
        "notes": _notes(results),
        "steps": _sweep_steps(sweep, results),
        "changed": [
            r for r in changed_settings(sweep.settings) if r["key"] not in sweep.space.draws
        ],
    }
    return render("sweep.html", sweep.settings, values, as_typed)


def _lead(results: SweepResults) -> list[str]:
    if not results.ranked:
        return ["No member has finished yet."]
    best = results.ranked[0]
    found = [
        f"Best of {count(len(results.ranked), 'ranked member')}: member {best.index}, "
        f"{MEASURE_NAMES[results.choose_by]} {results.score(best):.4f}"
    ]
    for name, scores in results.references.items():
        found.append(f"{name} {score_text(scores.get(results.choose_by))}")
    return ["; ".join(found) + "."]


def _about(sweep: SweepFolder, results: SweepResults) -> list[Row]:
    words = {status: results.count(status) for status in STATUSES}
    states = ", ".join(f"{n} {status}" for status, n in words.items() if n)
    better = "lower" if MEASURES[results.choose_by].lower_is_better else "higher"
    data = sweep.settings.data
    files = data.files or [data.file or f"synthetic dataset {data.synthetic}"]
    return [
        ("data", ", ".join(map(str, files))),
        ("members", f"{len(results.members)}: {states}"),
        ("ranked by", f"{MEASURE_NAMES[results.choose_by]}; {better} is better"),
        ("space", f"{sweep.space.name}: {count(len(sweep.space.draws), 'setting')}"),
        ("seed", str(sweep.plan.seed)),
        ("time spent", duration(sum(member.seconds for member in results.members))),
        ("page made", f"{datetime.now():%Y-%m-%d %H:%M} with ndt {__version__}"),
    ]


def _describe(draw: Draw) -> str:
    between = ", " if draw.kind == "choice" else " to "
    return f"{draw.kind}: {between.join(map(value_text, draw.values))}"


def _table(results: SweepResults) -> tuple[list[str], list[list[str]]]:
    measures = [name for name in MEASURES if any(name in m.scores for m in results.members)]
    measures.sort(key=lambda name: name != results.choose_by)
    drawn = list(results.members[0].drawn) if results.members else []
    columns = ["rank", "member", *(MEASURES[name].label for name in measures)]
    columns += ["epochs", "status", *map(heading, drawn)]
    n_ranked = len(results.ranked)
    rows = []
    for place, member in enumerate(results.in_order, start=1):
        row = [str(place) if place <= n_ranked else "-", str(member.index)]
        row += [score_text(member.scores.get(name)) for name in measures]
        row += [str(member.epochs), member.status]
        rows.append(row + [value_text(member.drawn.get(key)) for key in drawn])
    return columns, rows


def _notes(results: SweepResults) -> list[str]:
    notes = [f"member {m.index}: {m.message}" for m in results.members if m.message]
    if results.collapsed:
        floor = results.mean_rate.get(results.choose_by, math.nan)
        numbers = ", ".join(str(member.index) for member in results.collapsed)
        members = "member" if len(results.collapsed) == 1 else "members"
        notes.append(f"collapsed, no better than the mean rate ({floor:.4f}): {members} {numbers}")
    return notes


def _sweep_steps(sweep: SweepFolder, results: SweepResults) -> list[Step]:
    """Return how to continue with the sweep, and how to repeat it."""
    path = sweep.path.absolute()
    base, space, again = str(path / "base.toml"), str(path / "space.toml"), f"{path}-again"
    steps: list[Step] = []
    if results.to_do:
        steps.append(("Train the remaining members:", called("resume_sweep", path)))
    if results.ranked:
        best = results.ranked[0].folder.absolute()
        best = next(iter(sorted(best.glob("sessions/*"))), best)  # one of several has a page
        steps.append(("The page of the best member:", called("write_report", best)))
        averaged = "The best members, to be averaged as one model:"
        steps.append((averaged, called("choose_members", path)))
    repeated = (
        f"`sweep(load_settings({base!r}), find_space({space!r}), n_members={sweep.plan.members}, "
        f"seed={sweep.plan.seed}, out={again!r})`"
    )
    names = f"A figure as PNG, SVG or PDF; names: {', '.join(SWEEP_FIGURES)}."
    return [
        *steps,
        ("Repeat the sweep:", repeated),
        (names, called("plot", path, "settings", out="settings.pdf")),
    ]
