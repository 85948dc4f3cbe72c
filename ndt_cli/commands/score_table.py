"""The tables of scores, the same after training and on evaluation."""

from rich.console import Group
from rich.table import Table

from ndt_cli.evaluation import Evaluation
from ndt_cli.score_text import MODEL, SMOOTHED, ScoreTable, score_number, score_tables
from ndt_cli.score_text import score_notes as all_score_notes
from ndt_cli.score_text import score_title as score_title

# As many as fit; --json has them all.
_SHOWN_VARIABLES = 5
_WIDEST = 16


def score_table(evaluation: Evaluation) -> Group:
    """Return tables with one estimate a row."""
    parts: list[Table | str] = []
    for table in score_tables(evaluation, _SHOWN_VARIABLES):
        parts += ["", _drawn(table, evaluation)] if parts else [_drawn(table, evaluation)]
    return Group(*parts)


def score_notes(evaluation: Evaluation) -> list[str]:
    """Return what a reader of the tables needs to know, one line each."""
    return all_score_notes(evaluation, _SHOWN_VARIABLES)


def _drawn(scores: ScoreTable, evaluation: Evaluation) -> Table:
    # Two lines of header and of label: the table fits a terminal of 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(scores.corner)
    for name in scores.columns:
        header = name.replace(" ", "\n") if scores.corner else name
        table.add_column(header, justify="right", max_width=_WIDEST, overflow="fold")
    for estimate, values in scores.rows.items():
        label = estimate
        if estimate == SMOOTHED:
            label += f"\n({evaluation.smoothing_ms:.0f} ms)"
        style = "bold" if estimate == MODEL else ""
        table.add_row(label, *map(score_number, values), style=style)
    return table
