"""What a submission comes to: its file, and for each data set runs and scores."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndt_cli.nlb.catalogue import Phase
from ndt_cli.nlb.estimates import Scores
from ndt_cli.nlb.findings import Finding
from ndt_cli.nlb.given_runs import SweepChoice
from ndt_cli.nlb.submission import SubmissionRates


@dataclass(frozen=True, eq=False)
class DatasetResult:
    """One data set of a submission.

    Attributes
    ----------
    key : str
        Its group in the file.
    phase : {"val", "test"}
    rates : SubmissionRates
        Mean over the members.
    runs : list of Path
        Run folders of the members.
    epochs : list of int
        Epochs that each member's weights were trained for.
    scores : dict of str to dict of str to float
        By estimate (``"NDT"``, ``"spike smoothing"``, ``"mean rate"`` and, where they are known,
        ``"true rates"``), then by metric; empty where there are no labels.
    choice : SweepChoice or None
        How the members were chosen, where they are a sweep's.
    """

    key: str
    phase: Phase
    rates: SubmissionRates
    runs: list[Path]
    epochs: list[int]
    scores: Scores
    choice: SweepChoice | None = None


@dataclass(frozen=True, eq=False)
class SubmitResult:
    """What `ndt_cli.nlb.submit.submit` returns.

    Attributes
    ----------
    file : Path
        The submission.
    datasets : list of DatasetResult
    findings : list of Finding
        Of the check of the file as written.
    """

    file: Path
    datasets: list[DatasetResult]
    findings: list[Finding]


def summary(result: SubmitResult) -> dict[str, Any]:
    """Return the scores as plain values; one that is not defined is None."""
    return {
        "file": str(result.file),
        "findings": [f"{finding.severity}: {finding}" for finding in result.findings],
        "datasets": {
            made.key: {
                "phase": made.phase,
                "scored_on": "validation split" if made.phase == "val" else "test split",
                "members": len(made.runs),
                "runs": [str(path) for path in made.runs],
                "epochs": made.epochs,
                "sweep": None if made.choice is None else _choice(made.choice),
                "scores": {
                    estimate: {k: v if math.isfinite(v) else None for k, v in metrics.items()}
                    for estimate, metrics in made.scores.items()
                },
            }
            for made in result.datasets
        },
    }


def _choice(choice: SweepChoice) -> dict[str, Any]:
    return {
        "folder": str(choice.sweep),
        "choose_by": choice.choose_by,
        "n_ranked": choice.n_ranked,
        "number_chosen": "on validation" if choice.curve else "given",
        "validation_curve": choice.curve,
    }
