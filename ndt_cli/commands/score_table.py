"""The table of scores, the same after training and on evaluation."""

import math

from rich.table import Table

from ndt_cli.evaluation import Evaluation, Scores
from ndt_cli.metrics import SpikeScores


def score_table(evaluation: Evaluation) -> Table:
    """Return a table with one estimate a row."""
    # Two lines of header and of label: the table fits a terminal of 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    columns = _columns(evaluation.scores["NDT"])
    table.add_column("")
    for name in columns:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for estimate, scores in evaluation.scores.items():
        values = _columns(scores)
        label = estimate
        if estimate == "smoothed spikes":
            label += f"\n({evaluation.smoothing_ms:.0f} ms)"
        style = "bold" if estimate == "NDT" else ""
        table.add_row(label, *(_number(values.get(name)) for name in columns), style=style)
    return table


def score_title(evaluation: Evaluation) -> str:
    """Return one line that says what was scored."""
    data = evaluation.data
    return (
        f"{evaluation.split} trials of {evaluation.source}: {data.n_trials} trials x "
        f"{data.n_bins} bins of {data.bin_ms:g} ms x {data.n_neurons} neurons"
    )


def score_notes(evaluation: Evaluation) -> list[str]:
    """Return what a reader of the table needs to know, one line each."""
    notes = ["hidden: each count is predicted while it is hidden; seen: nothing is hidden"]
    rates = evaluation.scores["NDT"].rates
    if rates is not None:
        notes.insert(0, "R2, EV (explained variance): of the rates against the true rates")
        if rates.n_undefined:
            notes.append(
                f"{rates.n_undefined} neurons with a constant true rate have no R2 and are left out"
            )
    silent = evaluation.scores["NDT"].hidden.n_silent
    if silent:
        notes.append(f"{silent} neurons have no spike in these trials")
    return notes


def _columns(scores: Scores) -> dict[str, float]:
    columns: dict[str, float] = {}
    if scores.rates is not None:
        columns |= {
            "R2 mean": scores.rates.r2_mean,
            "R2 median": scores.rates.r2_median,
            "R2 pooled": scores.rates.r2_pooled,
            "EV mean": scores.rates.explained_variance_mean,
        }
    columns |= {
        "NLL hidden": scores.hidden.nll,
        "bits/spike hidden": scores.hidden.bits_per_spike,
        "bits/spike seen": scores.seen.bits_per_spike,
    }
    optional: dict[str, SpikeScores | None] = {
        "bits/spike held-out": scores.heldout,
        "bits/spike forward": scores.forward,
    }
    columns |= {name: part.bits_per_spike for name, part in optional.items() if part is not None}
    return columns


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"
