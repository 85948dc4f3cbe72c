"""The page of a sweep: what was searched, what the settings did, and the best members."""

import math
import shlex
from datetime import datetime

from ndt_cli import __version__
from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import RunError
from ndt_cli.report.page.parts import PageFigure, Row, Step, changed_settings, duration, render
from ndt_cli.report.run_contents import count
from ndt_cli.report.sweep_figures import MEASURE_NAMES, SWEEP_FIGURES, draw_sweep
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import STATUSES, SweepResults
from ndt_cli.search.space import Draw, OneOf, heading, score_text, value_text, written
from ndt_cli.settings.explain import field_table
from ndt_cli.settings.load import settings_to_toml


def sweep_page(sweep: SweepFolder) -> str:
    """Return the page of a sweep as HTML, which needs no other file and no network.

    Also while it runs: what is not known yet is left out.

    Parameters
    ----------
    sweep : SweepFolder
        An opened sweep.

    Raises
    ------
    RunError
        When its results cannot be read.
    """
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
        "figures": [_figure(sweep, name) for name in SWEEP_FIGURES],
        "columns": columns,
        "rows": rows,
        "notes": _notes(results),
        "changed": changed_settings(sweep.settings),
        "n_settings": len(field_table()),
        "settings_toml": settings_to_toml(sweep.settings),
        "steps": _steps(sweep, results),
    }
    return render("sweep.html", values)


def _lead(results: SweepResults) -> list[str]:
    if not results.ranked:
        return ["No member has come to its end yet."]
    best = results.ranked[0]
    return [
        f"Best of {count(len(results.ranked), 'ranked member')}: member {best.index}, "
        f"{MEASURE_NAMES[results.choose_by]} {results.score(best):.4f}."
    ]


def _about(sweep: SweepFolder, results: SweepResults) -> list[Row]:
    words = {status: results.count(status) for status in STATUSES}
    states = ", ".join(f"{n} {status}" for status, n in words.items() if n)
    better = "lower" if MEASURES[results.choose_by].lower_is_better else "higher"
    file = sweep.settings.data.file or f"synthetic set {sweep.settings.data.synthetic}"
    return [
        ("data", str(file)),
        ("members", f"{len(results.members)}: {states}"),
        ("ranked by", f"{MEASURE_NAMES[results.choose_by]}; {better} is better"),
        ("space", f"{sweep.space.name}: {count(len(sweep.space.draws), 'setting')}"),
        ("seed", str(sweep.plan.seed)),
        ("time spent", duration(sum(member.seconds for member in results.members))),
        ("page made", f"{datetime.now():%Y-%m-%d %H:%M} with ndt {__version__}"),
    ]


def _describe(draw: Draw) -> str:
    ((kind, values),) = written(draw).items()
    texts = [value_text(value) for value in values]
    if isinstance(draw, OneOf):
        return f"{kind}: {', '.join(texts)}"
    return f"{kind}: {' to '.join(texts)}"


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
        rows.append(row + [value_text(member.drawn[key]) for key in drawn])
    return columns, rows


def _notes(results: SweepResults) -> list[str]:
    notes = [f"member {m.index}: {m.message}" for m in results.members if m.message]
    if results.collapsed:
        floor = results.mean_rate.get(results.choose_by, math.nan)
        numbers = ", ".join(str(member.index) for member in results.collapsed)
        members = "member" if len(results.collapsed) == 1 else "members"
        notes.append(f"collapsed, no better than the mean rate ({floor:.4f}): {members} {numbers}")
    return notes


def _figure(sweep: SweepFolder, name: str) -> PageFigure:
    title = SWEEP_FIGURES[name].title
    try:
        drawn = draw_sweep(sweep, name)
    except RunError as error:
        return PageFigure(name, title, f"{error.message}.")
    return PageFigure.of(name, title, drawn.figure, drawn.caption, drawn.alt)


def _steps(sweep: SweepFolder, results: SweepResults) -> list[Step]:
    path = sweep.path.absolute()
    again = ["ndt", "sweep", "--config", str(path / "base.toml")]
    again += ["--space", str(path / "space.toml"), "--members", str(sweep.plan.members)]
    again += ["--seed", str(sweep.plan.seed), "--out", f"{path}-again"]
    steps = []
    if results.to_do:
        go_on = shlex.join(["ndt", "sweep", "--resume", str(path)])
        steps.append(Step("Train the members that are left:", go_on))
    if results.ranked:
        best = str(results.ranked[0].folder.absolute())
        steps.append(Step("The page of the best member:", shlex.join(["ndt", "report", best])))
        steps.append(
            Step("The best members as one model:", shlex.join(["ndt", "ensemble", str(path)]))
        )
    steps.append(Step("The same sweep anew:", shlex.join(again)))
    plot = shlex.join(["ndt", "plot", str(path), "settings", "--out", "settings.pdf"])
    steps.append(Step("Any figure of this page as PNG, SVG or PDF:", plot))
    return steps
