"""What a run was trained on and how, as rows of two columns."""

import base64
import io
import platform
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from ndt_cli import __version__
from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.ensembles import Ensemble
from ndt_cli.report.run_contents import RunContents, count
from ndt_cli.report.style import TWO_COLUMNS_INCHES, styled
from ndt_cli.settings.explain import field_table, plain_values
from ndt_cli.settings.load import settings_to_toml
from ndt_cli.settings.tree import Settings

Row = tuple[str, str]

_STOPPED = {
    "finished": "all epochs done",
    "early": "no improvement for train.patience_epochs",
    "interrupted": "interrupted",
}


def data_rows(run: RunContents) -> list[Row]:
    """Say what the data are and how the run went."""
    recording = run.recording
    train, valid = recording.train, recording.valid
    rows = [
        ("data", f"{recording.source} (layout: {recording.layout})"),
        ("trials", f"{train.n_trials} training, {valid.n_trials} validation"),
        ("bins", _bins(recording)),
        ("neurons", _neurons(train)),
        ("spikes", _spikes(recording)),
        ("conditions", _conditions(recording)),
        ("also known", _known(train)),
    ]
    return rows + training_rows(run)


def _bins(recording: Recording) -> str:
    lengths = np.concatenate([recording.train.lengths_B, recording.valid.lengths_B])
    shortest, longest, bin_ms = int(lengths.min()), int(lengths.max()), recording.train.bin_ms
    bins = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
    text = f"{bins} a trial, of {bin_ms:g} ms (the longest trial: {longest * bin_ms:g} ms)"
    n_forward = recording.train.n_forward
    return f"{text}; the last {n_forward} are never seen" if n_forward else text


def _neurons(train: SpikeData) -> str:
    if not train.n_heldout:
        return str(train.n_neurons)
    return f"{train.n_neurons}, of which {train.n_heldout} are held out: never seen, only predicted"


def _spikes(recording: Recording) -> str:
    train = recording.train
    n_bins = max(int(train.inside_BT.sum()), 1)
    rates_hz_N = train.spikes_BTN.sum(axis=(0, 1)) / n_bins * 1000 / train.bin_ms
    return (
        f"{rates_hz_N.mean():.3g} Hz a neuron on average ({rates_hz_N.min():.2g} to "
        f"{rates_hz_N.max():.3g} Hz); at most {train.max_count} in a bin"
    )


def _conditions(recording: Recording) -> str:
    splits = (recording.train.conditions_B, recording.valid.conditions_B)
    known = [conditions_B for conditions_B in splits if conditions_B is not None]
    return str(len(np.unique(np.concatenate(known)))) if known else "none named"


def _known(train: SpikeData) -> str:
    known = {
        "true rates": train.rates_BTN,
        "latent states": train.latents_BTK,
        "behavior": train.behavior_BTV,
    }
    return ", ".join(name for name, array in known.items() if array is not None) or "nothing"


def training_rows(run: RunContents) -> list[Row]:
    """Say what was trained, how long, and where."""
    about, settings, summary = run.about, run.settings, run.summary
    rows = [("model", _model(run))]
    if run.is_ensemble:
        return rows
    done, most = len(run.history), settings.train.max_epochs
    stopped = str(summary.get("stopped", "finished" if done == most else "interrupted"))
    epochs = f"{done} of at most {most} epochs ({_STOPPED.get(stopped, stopped)})"
    seconds = summary.get("seconds") or (run.history[-1]["seconds"] if run.history else None)
    took = f" in {duration(float(seconds))}" if seconds else ""
    rows.append(("training", f"{epochs}{took}; begun {_moment(about['started'])}"))
    threads = count(about["n_threads"], "CPU thread")
    rows.append(("device", f"{about['device']}, {about['precision']}, {threads}"))
    checkpoint = run.trained.checkpoint
    best = summary.get("best", {}).get(checkpoint)
    when = f", of epoch {best['epoch']}" if best else ""
    rows.append(("weights", f"{checkpoint}{when}"))
    return rows


def _model(run: RunContents) -> str:
    trained = run.trained
    if isinstance(trained, Ensemble):
        return f"the mean of {count(len(trained.members), 'model')}"
    network, model = trained.network, trained.settings.model
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    context = network.context
    back, forward = (
        "all" if bins is None else f"{bins} bins" for bins in (context.back, context.forward)
    )
    return (
        f"{count(model.n_layers, 'layer')} of {count(model.n_heads, 'head')}, width "
        f"{network.embedding.width}, {n_parameters:,} parameters; a layer sees {back} before and "
        f"{forward} after"
    )


def _moment(started: str) -> str:
    """Return a time of ``run.json`` as people write it."""
    try:
        return f"{datetime.fromisoformat(started):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def member_rows(run: RunContents) -> list[Row]:
    """Say what an ensemble is made of; nothing for a run."""
    if not run.is_ensemble:
        return []
    members = run.folder.read_json("ensemble.json")["members"]
    return [(f"member {i}", f"{m.get('from', m['folder'])}") for i, m in enumerate(members)]


# ------------------------------------------------------------------------------------------------
# What it takes to make a run again: settings, versions, commands.
# ------------------------------------------------------------------------------------------------


def version_rows(run: RunContents) -> list[Row]:
    """Say which versions trained the run, and which made the page."""
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


@dataclass(frozen=True)
class ChangedSetting:
    """A setting that differs from its default."""

    key: str
    value: str
    default: str
    doc: str


def changed_settings(settings: Settings) -> list[ChangedSetting]:
    """Return the settings that differ from their defaults."""
    values = plain_values(settings)
    rows = []
    for field in field_table():
        section, name = field.key.split(".")
        value, default = values[section].get(name), plain_values(Settings())[section].get(name)
        if value != default:
            rows.append(ChangedSetting(field.key, _shown(value), _shown(default), field.doc))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Step:
    """One step of reproducing a run: words, and a command where there is one."""

    text: str
    command: str = ""


def reproduction(run: RunContents) -> list[Step]:
    """Say how to repeat the run, its scores and its figures."""
    path = run.path.absolute()
    steps = []
    if run.is_ensemble:
        steps.append(Step("The members are runs of their own; each is repeated from its settings."))
    else:
        argv = [str(word) for word in run.about.get("command", [])]
        if argv and Path(argv[0]).name in ("ndt", "ndt.exe", "__main__.py"):
            started = shlex.join(["ndt", *argv[1:]])
            steps.append(Step("The run was started by this command:", started))
        else:
            steps.append(Step("The run was started from Python."))
        again = ["ndt", "train", "--config", str(path / "settings.toml"), "--out", f"{path}-again"]
        steps.append(
            Step(
                "The same run anew; on a CPU with as many threads it is the same to the last bit:",
                shlex.join(again),
            )
        )
    rates = shlex.join(["ndt", "evaluate", str(path), "--rates", "rates.h5"])
    plot = shlex.join(["ndt", "plot", str(path), "rates", "--out", "rates.pdf"])
    page = shlex.join(["ndt", "report", str(path), "--force"])
    steps.append(Step("Scores, and the rates as a file:", rates))
    steps.append(Step("Any figure of this page as PNG, SVG or PDF (names: ndt plot --help):", plot))
    steps.append(Step("This page:", page))
    return steps


def settings_text(run: RunContents) -> str:
    """Return ``settings.toml`` of the run."""
    return settings_to_toml(run.settings)


# ------------------------------------------------------------------------------------------------
# From a template and plain values to the text of a page, and figures within it.
# ------------------------------------------------------------------------------------------------


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
