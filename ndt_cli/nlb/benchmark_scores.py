"""Scores of a submission, computed by the benchmark's own evaluation."""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import DataError
from ndt_cli.nlb.baselines import BENCHMARK_SMOOTHING, mean_rate_submission, smoothing_submission
from ndt_cli.nlb.catalog import GROUPS, TEST_LABELS, Progress, no_progress
from ndt_cli.nlb.check import require_scorable
from ndt_cli.nlb.dependencies import require_nlb_extra
from ndt_cli.nlb.findings import Expected
from ndt_cli.nlb.recordings import scored_inputs, to_recording
from ndt_cli.nlb.submission import SubmissionRates
from ndt_cli.nlb.tensors import Arrays, NlbTensors

Targets = Mapping[str, Mapping[str, NDArray[Any]]]

METRICS = ("co-bps", "vel R2", "tp corr", "psth R2", "fp-bps")
"""Every score that the benchmark has; each dataset has some of them."""


@dataclass(frozen=True)
class SubmissionScores:
    """Scores by dataset.

    Parameters
    ----------
    by_group : dict of str to dict of str to float
        Those of `METRICS` that the dataset has, by group. NaN where a score is not defined, as
        the speed correlation of rates that are constant.
    original : list of dict
        What nlb_tools returns, under its own names: ``[{"mc_rtt_split": {"co-bps": ...}}]``,
        the three scaling sets together.
    """

    by_group: dict[str, dict[str, float]]
    original: list[dict[str, dict[str, float]]]


def score(
    targets: Targets,
    rates: Mapping[str, SubmissionRates | Mapping[str, NDArray[Any]]],
    progress: Progress = no_progress,
) -> SubmissionScores:
    """Score rates with ``nlb_tools.evaluation.evaluate``.

    Which trials are scored is the caller's choice, by what ``targets`` holds. Decoding behavior
    is a grid search of ridge regressions: about a minute for mc_rtt.

    Parameters
    ----------
    targets : mapping of str to mapping of str to array
        Target arrays by group, as nlb_tools makes and `read_groups` reads them.
    rates : mapping of str to SubmissionRates, or to arrays by key
        By group. Groups without targets are left out.
    progress : callable, optional
        Told when the scoring of a dataset begins, and when it has ended.

    Raises
    ------
    MissingExtraError
        If nlb_tools or scikit-learn is not installed.
    DataError
        If no group has targets, rates do not fit them, or a score cannot be computed from them.
    """
    require_nlb_extra("nlb_tools", "sklearn")
    from nlb_tools.evaluation import evaluate

    groups = [name for name in GROUPS if name in rates and name in targets]
    if not groups:
        raise DataError(
            f"nothing to score: the rates are of {', '.join(rates) or 'nothing'}, "
            f"the targets of {', '.join(targets) or 'nothing'}"
        )
    by_group: dict[str, dict[str, float]] = {}
    splits: dict[str, dict[str, float]] = {}
    for done, name in enumerate(groups):
        given = rates[name]
        arrays = given.arrays() if isinstance(given, SubmissionRates) else dict(given)
        _check_scorable(name, arrays, targets[name])
        progress(f"scoring {name}", done, len(groups))
        with _quiet():
            result: list[dict[str, dict[str, float]]] = evaluate(
                {name: dict(targets[name])}, {name: arrays}
            )
        progress(f"scoring {name}", done + 1, len(groups))
        ((split, scores),) = result[0].items()
        splits.setdefault(split, {}).update({k: float(v) for k, v in scores.items()})
        by_group[name] = {_plain(key): float(value) for key, value in scores.items()}
    return SubmissionScores(by_group, [{split: scores} for split, scores in splits.items()])


def verify_label_file(path: Path) -> None:
    """Check that a file is the benchmark's published file of test labels.

    Raises
    ------
    DataError
        If it is not there, or not that file.
    """
    labels = TEST_LABELS
    expected = f"expected {labels.n_bytes:,} bytes with the sha256 {labels.sha256}"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; {expected}",
            f"It is {labels.path} of the nlb_tools repository: {labels.urls[0]}",
        )
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise DataError(
                f"{path}: holds a Git LFS pointer, not the labels; {expected}",
                "Run `git lfs pull` in that repository.",
            )
        if n_bytes != labels.n_bytes:
            raise DataError(f"{path}: has {n_bytes:,} bytes; {expected}", "Copy it again.")
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != labels.sha256:
        raise DataError(
            f"{path}: has the sha256 {digest.hexdigest()}; {expected}",
            "Copy it again; labels of another origin are not used.",
        )


def _check_scorable(
    name: str, arrays: Mapping[str, NDArray[Any]], targets: Mapping[str, NDArray[Any]]
) -> None:
    require_scorable(name, arrays, Expected.of(targets))
    if name.startswith("dmfc_rsg"):
        _check_timing_groups(name, targets)


def _check_timing_groups(name: str, targets: Mapping[str, NDArray[Any]]) -> None:
    """Refuse targets with a group of one trial, which has no correlation."""
    behavior = np.asarray(targets["eval_behavior"], dtype=float)[:, :3]
    known = behavior[~np.isnan(behavior).all(axis=1)]
    kinds, n_trials = np.unique(known, axis=0, return_counts=True)
    if (n_trials < 2).any():
        raise DataError(
            f"{name}: tp corr needs two evaluated trials of each prior, effector and direction; "
            f"{int((n_trials < 2).sum())} of {len(kinds)} combinations have only one",
            "Evaluate more trials.",
        )


def _plain(key: str) -> str:
    """Drop the trial count that nlb_tools puts before scores of the scaling sets."""
    return key.rpartition("] ")[2]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the evaluation logs and what numpy warns of undefined scores."""
    logger = logging.getLogger("nlb_tools.evaluation")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


# ------------------------------------------------------------------------------------------------
# The rates that a submission is compared with, and the scores of all of them.
# ------------------------------------------------------------------------------------------------


Scores = dict[str, dict[str, float]]
"""By estimate, such as ``"NDT"``, then by metric."""


def score_beside(
    rates: SubmissionRates,
    tensors: NlbTensors,
    target: Arrays,
    progress: Progress,
) -> Scores:
    """Score a model's rates beside the benchmark's smoothing and the mean rate.

    Parameters
    ----------
    rates : SubmissionRates
        Of the model; ``"NDT"`` in what is returned.
    tensors : NlbTensors
        What it was given.
    target : dict of str to array
        What the scored trials held.
    progress : callable
        Told what is done.
    """
    estimates = {"NDT": rates, **_references(tensors, progress)}
    return _score_each(tensors.key, target, estimates, progress)


def _references(tensors: NlbTensors, progress: Progress) -> dict[str, SubmissionRates]:
    train = to_recording(tensors).train
    window = slice(0, train.n_bins - train.n_forward)
    heldin = slice(0, train.n_neurons - train.n_heldout)
    heldout = slice(train.n_neurons - train.n_heldout, None)
    counts = (
        train.spikes_BTN[:, window, heldin],
        train.spikes_BTN[:, window, heldout],
        train.spikes_BTN[:, window.stop :],
    )
    inputs = scored_inputs(tensors).spikes_BTN[:, window, heldin]
    smoothing = BENCHMARK_SMOOTHING[tensors.dataset.name]
    return {
        "spike smoothing": smoothing_submission(
            *counts, inputs, tensors.bin_ms, smoothing, progress
        ),
        "mean rate": mean_rate_submission(*counts, len(inputs)),
    }


def _score_each(
    key: str, target: Arrays, estimates: Mapping[str, SubmissionRates], progress: Progress
) -> Scores:
    scores = {}
    for estimate, rates in estimates.items():

        def scoring(what: str, done: int, total: int, estimate: str = estimate) -> None:
            progress(f"scoring {estimate}", done, total)

        scores[estimate] = score({key: target}, {key: rates}, scoring).by_group[key]
    return scores
