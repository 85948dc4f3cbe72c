"""What it takes to make a run again: settings, versions, commands."""

import platform
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ndt_cli import __version__
from ndt_cli.report.page.facts import Row
from ndt_cli.report.run_contents import RunContents
from ndt_cli.settings.explain import field_table, plain_values
from ndt_cli.settings.load import settings_to_toml
from ndt_cli.settings.tree import Settings


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
