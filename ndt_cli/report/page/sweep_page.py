"""The page of a sweep: what was searched, what the settings did, and the best members."""

import math
from datetime import datetime

from ndt_cli import __version__
from ndt_cli.engine.measures import MEASURES
from ndt_cli.errors import RunError, called
from ndt_cli.report.curves import MEASURE_NAMES
from ndt_cli.report.figures import count
from ndt_cli.report.page.parts import AsTyped, PageFigure, Row, Step, duration, render
from ndt_cli.report.registry import SWEEP_FIGURES, draw_sweep
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.results import STATUSES, SweepResults
from ndt_cli.search.space import Draw, OneOf, heading, score_text, value_text, written


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
        "figures": [_figure(sweep, name, as_typed) for name in SWEEP_FIGURES],
        "columns": columns,
        "rows": rows,
        "notes": [as_typed(note) for note in _notes(results)],
        "steps": [step.shown(as_typed) for step in _steps(sweep, results)],
    }
    return render("sweep.html", sweep.settings, values)


def _lead(results: SweepResults) -> list[str]:
    if not results.ranked:
        return ["No member has finished yet."]
    best = results.ranked[0]
    return [
        f"Best of {count(len(results.ranked), 'ranked member')}: member {best.index}, "
        f"{MEASURE_NAMES[results.choose_by]} {results.score(best):.4f}."
    ]


def _about(sweep: SweepFolder, results: SweepResults) -> list[Row]:
    words = {status: results.count(status) for status in STATUSES}
    states = ", ".join(f"{n} {status}" for status, n in words.items() if n)
    better = "lower" if MEASURES[results.choose_by].lower_is_better else "higher"
    file = sweep.settings.data.file or f"synthetic dataset {sweep.settings.data.synthetic}"
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


def _figure(sweep: SweepFolder, name: str, as_typed: AsTyped) -> PageFigure:
    title = SWEEP_FIGURES[name].title
    try:
        return PageFigure.of(name, title, draw_sweep(sweep, name))
    except RunError as error:
        return PageFigure.absent(name, title, error, as_typed)


def _steps(sweep: SweepFolder, results: SweepResults) -> list[Step]:
    """Return how to continue with the sweep, and how to repeat it."""
    path = sweep.path.absolute()
    base, space, again = str(path / "base.toml"), str(path / "space.toml"), f"{path}-again"
    steps = []
    if results.to_do:
        steps.append(Step("Train the remaining members:", called("resume_sweep", path)))
    if results.ranked:
        best = results.ranked[0].folder.absolute()
        steps.append(Step("The page of the best member:", called("write_report", best)))
        steps.append(
            Step("The best members, to be averaged as one model:", called("choose_members", path))
        )
    return [
        *steps,
        Step(
            "Repeat the sweep:",
            f"`sweep(load_settings({base!r}), find_space({space!r}), "
            f"n_members={sweep.plan.members}, seed={sweep.plan.seed}, out={again!r})`",
        ),
        Step(
            f"A figure as PNG, SVG or PDF; names: {', '.join(SWEEP_FIGURES)}.",
            called("plot", path, "settings", out="settings.pdf"),
        ),
    ]
