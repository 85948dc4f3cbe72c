"""Scores of a submission and its baselines, computed by the benchmark's own evaluation."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndt_cli.errors import DataError
from ndt_cli.nlb.baselines import BENCHMARK_SMOOTHING, mean_rate_submission, smoothing_submission
from ndt_cli.nlb.catalog import (
    GROUPS,
    TEST_LABELS,
    Progress,
    StopRequest,
    no_progress,
    stop_if_asked,
)
from ndt_cli.nlb.check import Expected, require_scorable
from ndt_cli.nlb.dependencies import require_nlb_extra
from ndt_cli.nlb.download import check_file
from ndt_cli.nlb.submission import SubmissionRates
from ndt_cli.nlb.tensors import Arrays, NlbTensors, scored_inputs, to_recording

Targets = Mapping[str, Mapping[str, NDArray[Any]]]

Scores = dict[str, dict[str, float]]
"""By group or by estimate, such as ``"mc_maze_20"`` or ``"NDT"``, then by metric."""


def score(
    targets: Targets,
    rates: Mapping[str, SubmissionRates | Mapping[str, NDArray[Any]]],
    progress: Progress = no_progress,
) -> Scores:
    """Score rates by group with ``nlb_tools.evaluation.evaluate``.

    ``targets`` determine which trials are scored; groups without targets are left out. A score
    that is not defined, such as the speed correlation of constant rates, is NaN. Decoding behavior
    is a grid search of ridge regressions: about a minute for mc_rtt.
    """
    require_nlb_extra("nlb_tools", "sklearn")
    from nlb_tools.evaluation import evaluate

    groups = [name for name in GROUPS if name in rates and name in targets]
    if not groups:
        raise DataError(
            f"nothing to score: there are rates of {', '.join(rates) or 'no group'} and targets of "
            f"{', '.join(targets) or 'no group'}"
        )
    by_group: Scores = {}
    for done, name in enumerate(groups):
        given = rates[name]
        arrays = given.arrays() if isinstance(given, SubmissionRates) else dict(given)
        require_scorable(name, arrays, Expected.of(targets[name]))
        if name.startswith("dmfc_rsg"):
            _check_timing_groups(name, targets[name])
        progress(f"scoring {name}", done, len(groups))
        with _quiet():
            (by_split,) = evaluate({name: dict(targets[name])}, {name: arrays})
        (scores,) = by_split.values()
        progress(f"scoring {name}", done + 1, len(groups))
        # nlb_tools puts the number of trials before scores of the scaling datasets.
        by_group[name] = {k.rpartition("] ")[2]: float(v) for k, v in scores.items()}
    return by_group


def verify_label_file(path: Path) -> None:
    """Check that a file is the benchmark's published file of test labels."""
    labels = TEST_LABELS
    expected = f"expected {labels.n_bytes:,} bytes with the sha256 {labels.sha256}"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; {expected}",
            f"Download {labels.path} of the nlb_tools repository: {labels.urls[0]}",
        )
    with path.open("rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise DataError(
                f"{path}: holds a Git LFS pointer, not the labels; {expected}",
                "Run `git lfs pull` in that repository.",
            )
    found = check_file(labels, path)
    if found.state == "wrong size":
        raise DataError(f"{path}: has {found.found}; {expected}", "Copy it again.")
    if found.state == "wrong digest":
        raise DataError(
            f"{path}: has the sha256 {found.found}; {expected}",
            "Copy it again; other labels are not accepted.",
        )


def _check_timing_groups(name: str, targets: Mapping[str, NDArray[Any]]) -> None:
    """Refuse targets with a condition of one trial, which has no correlation."""
    behavior = np.asarray(targets["eval_behavior"], dtype=float)[:, :3]
    known = behavior[~np.isnan(behavior).all(axis=1)]
    kinds, n_trials = np.unique(known, axis=0, return_counts=True)
    if (n_trials < 2).any():
        raise DataError(
            f"{name}: tp corr needs two evaluated trials of each prior, effector and direction; "
            f"{int((n_trials < 2).sum())} of {len(kinds)} combinations have only one",
            "Evaluate more trials.",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the evaluation's log, and NumPy's warnings about undefined scores."""
    logger = logging.getLogger("nlb_tools.evaluation")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def score_with_baselines(
    rates: SubmissionRates,
    tensors: NlbTensors,
    target: Arrays,
    progress: Progress = no_progress,
    should_stop: StopRequest = lambda: False,
) -> Scores:
    """Score a model's rates, the benchmark's spike smoothing and the mean rate."""
    train = to_recording(tensors).train
    window = slice(0, train.n_bins - train.n_forward)
    heldin = slice(0, train.n_neurons - train.n_heldout)
    counts = (
        train.spikes_BTN[:, window, heldin],
        train.spikes_BTN[:, window, heldin.stop :],
        train.spikes_BTN[:, window.stop :],
    )
    inputs = scored_inputs(tensors).spikes_BTN[:, window, heldin]
    smoothing = BENCHMARK_SMOOTHING[tensors.dataset.name]
    stop_if_asked(should_stop)
    estimates = {
        "NDT": rates,
        "spike smoothing": smoothing_submission(
            *counts, inputs, tensors.bin_ms, smoothing, progress
        ),
        "mean rate": mean_rate_submission(*counts, len(inputs)),
    }
    scores = {}
    for estimate, estimated in estimates.items():
        stop_if_asked(should_stop)

        def scoring(what: str, done: int, total: int, estimate: str = estimate) -> None:
            progress(f"scoring {estimate}", done, total)

        by_group = score({tensors.key: target}, {tensors.key: estimated}, scoring)
        scores[estimate] = by_group[tensors.key]
    return scores
