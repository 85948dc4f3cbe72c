"""The scores of an evaluation as tables of numbers and notes, for a terminal or a page."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ndt_cli.data.spike_data import bins_text
from ndt_cli.errors import count
from ndt_cli.evaluation import Evaluation, Scores
from ndt_cli.metrics import PSTH_SMOOTHING_MS, DecodingScores
from ndt_cli.verdict import MODEL, TRUE_RATES

_DECIMALS = 4

# Header and score of each column.
_Columns: TypeAlias = list[tuple[str, float]]


@dataclass(frozen=True)
class ScoreTable:
    """Scores, one row per estimate of the rates.

    Attributes
    ----------
    corner : str
        Header of the first column: what is scored, unless the other headers say it.
    columns : tuple of str
        Headers, some of two lines.
    rows : dict of str to tuple of float
        Scores by estimate; NaN if undefined.
    """

    corner: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]

    def is_best(self, estimate: str, column: int) -> bool:
        """Return whether an estimate has the best score of a column, in the decimals shown.

        The true rates are no estimate: nothing can be better.
        """
        sign = -1 if self.columns[column].startswith("NLL") else 1
        shown = {
            name: sign * round(values[column], _DECIMALS)
            for name, values in self.rows.items()
            if name != TRUE_RATES and math.isfinite(values[column])
        }
        return estimate in shown and shown[estimate] == max(shown.values())


def score_tables(evaluation: Evaluation, most_variables: int | None = None) -> list[ScoreTable]:
    """Return the tables of scores, without columns for what the data do not have.

    The third table, if the data have several behavioral variables, has a column for each, up to
    ``most_variables``.
    """

    def variables(scores: Scores) -> _Columns:
        assert scores.behavior is not None
        names, r2_V = scores.behavior.names, scores.behavior.r2_V
        return list(zip(names, r2_V.tolist(), strict=True))[:most_variables]

    tables = [_table(evaluation, _columns), _table(evaluation, _more_columns)]
    behavior = evaluation.scores[MODEL].behavior
    if behavior is not None and len(behavior.names) > 1:
        tables.append(_table(evaluation, variables, "behavior R2"))
    if evaluation.across:
        columns = tuple(f"fitted in {whose}" for whose in evaluation.across)
        values = tuple(found.r2_mean for found in evaluation.across.values())
        tables.append(ScoreTable("behavior R2 from activations", columns, {MODEL: values}))
    return tables


def final_scores(evaluation: Evaluation) -> dict[str, float]:
    """Return the model's scores in all tables, by name in full."""
    scores: dict[str, float] = {}
    for table in score_tables(evaluation):
        prefix = f"{table.corner} " if table.corner else ""
        for name, score in zip(table.columns, table.rows[MODEL], strict=True):
            scores[prefix + name.replace("\n", " ").replace("bits/spike", "bits per spike")] = score
    return scores


def score_title(evaluation: Evaluation) -> str:
    """Describe the trials that were scored, in one line."""
    data = evaluation.data
    return (
        f"{evaluation.split} trials of {evaluation.source}: {count(data.n_trials, 'trial')} "
        f"x {bins_text(data.lengths_B)} of {data.bin_ms:g} ms x {count(data.n_neurons, 'neuron')}"
    )


def score_notes(evaluation: Evaluation, most_variables: int | None = None) -> list[str]:
    """Return warnings and explanations for a reader of the tables, one line each."""
    model = evaluation.scores[MODEL]
    notes = [
        *evaluation.warnings,
        f"hidden: each count is predicted while it is hidden ({evaluation.hiding})",
        "bits/spike: of the population; per neuron: the median neuron's",
    ]
    if model.rates is not None:
        of_rates = (
            "R2, EV (explained variance): inferred rates against true rates, whose own scores are "
            "the highest that can be expected"
        )
        notes.insert(len(evaluation.warnings), of_rates)
        if model.rates.n_undefined:
            notes.append(f"neurons without R2, of a constant true rate: {model.rates.n_undefined}")
    if model.heldout is not None:
        notes.append(
            f"held-out: {count(evaluation.data.n_heldout, 'neuron')} that the model never sees; "
            "smoothing predicts each by regression on the held-in ones"
        )
    if model.psth is not None:
        whose = "the other half of the trials" if model.psth.split_half else "the training trials"
        notes.append(
            f"PSTH: condition-averaged rates against spikes of {whose}, both smoothed with "
            f"{PSTH_SMOOTHING_MS:g} ms; conditions: {model.psth.n_conditions}"
        )
    if model.behavior is not None:
        notes.append(_behavior_note(model.behavior, most_variables))
    if evaluation.across:
        notes.append(
            "behavior from activations: ridge regression from the encoder's activations, which the "
            "sessions share; fitted in the other sessions, it knows no behavior of this one"
        )
    silent = model.hidden.n_silent + (0 if model.heldout is None else model.heldout.n_silent)
    if silent:
        neurons = "neuron has" if silent == 1 else "neurons have"
        notes.append(f"{silent} {neurons} no spike in these trials")
    return notes


def _behavior_note(behavior: DecodingScores, most_variables: int | None) -> str:
    where = (
        f"cross-validated over {behavior.n_folds} folds of the trials"
        if behavior.n_folds
        else "fitted to the training trials"
    )
    found = list(zip(behavior.names, behavior.lag_ms_V, behavior.r2_V, strict=True))[
        :most_variables
    ]
    named = len(behavior.names) > 1
    lags = [f"{lag:g} ms{f' ({name})' * named}" for name, lag, r2 in found if math.isfinite(r2)]
    unscored = [name for name, _, r2 in found if not math.isfinite(r2)]
    note = f"behavior: ridge regression from rates, {where}"
    if lags:
        note += f"; NDT's rates are earlier by {', '.join(lags)}"
        note += " (negative: later)" * any(lag.startswith("-") for lag in lags)
    if len(found) < len(behavior.names):
        note += f"; {len(found)} of {len(behavior.names)} variables are shown"
    if unscored:
        note += f"; without a score, since missing or constant: {', '.join(unscored)}"
    return note


def _table(
    evaluation: Evaluation, columns_of: Callable[[Scores], _Columns], corner: str = ""
) -> ScoreTable:
    return ScoreTable(
        corner,
        tuple(name for name, _ in columns_of(evaluation.scores[MODEL])),
        {
            estimate: tuple(value for _, value in columns_of(scores))
            for estimate, scores in evaluation.scores.items()
        },
    )


def _columns(scores: Scores) -> _Columns:
    columns: _Columns = []
    if scores.rates is not None:
        columns += [
            ("R2\nmean", scores.rates.r2_mean),
            ("R2\nmedian", scores.rates.r2_median),
            ("R2\npooled", scores.rates.r2_pooled),
            ("EV\nmean", scores.rates.explained_variance_mean),
        ]
    return [
        *columns,
        ("NLL\nhidden", scores.hidden.nll),
        ("bits/spike\nhidden", scores.hidden.bits_per_spike),
    ]


def _more_columns(scores: Scores) -> _Columns:
    columns: _Columns = [("per neuron\nhidden", scores.hidden.bits_per_spike_median)]
    if scores.heldout is not None:
        columns += [
            ("bits/spike\nheld-out", scores.heldout.bits_per_spike),
            ("per neuron\nheld-out", scores.heldout.bits_per_spike_median),
        ]
    if scores.forward is not None:
        columns += [("bits/spike\nforward", scores.forward.bits_per_spike)]
    if scores.psth is not None:
        columns += [("PSTH\nR2", scores.psth.r2_mean)]
    if scores.behavior is not None:
        columns += [("behavior\nR2", scores.behavior.r2_mean)]
    return columns
