"""Scores of a submission by the benchmark's own evaluation, beside those of two baselines.

The baselines are the mean rate and spike smoothing. Smoothing follows
``examples/baselines/smoothing`` of the nlb_tools repository (run_smoothing.py and its sweep), whose
scores the benchmark publishes:

- held-in rates are the counts convolved with a Gaussian kernel, 6 standard deviations long, with
  zeros outside the window;
- held-out rates are, neuron by neuron, a Poisson regression with log link and an L2 penalty on the
  logarithm of all held-in rates plus 1e-4;
- kernel width and penalty were chosen there for each dataset by cross-validated co-bps over train
  and val trials at 5 ms, and are used at both bin widths.

The benchmark's smoothing has no forward bins. Here, a second regression of the same kind predicts
each neuron's count over all forward bins from the held-in rates at the end of the window, and
scales the neuron's mean time course over the forward bins.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d
from scipy.signal.windows import gaussian

from ndt_cli.errors import DataError
from ndt_cli.nlb.catalog import GROUPS, Progress, no_progress
from ndt_cli.nlb.check import Expected, require_scorable
from ndt_cli.nlb.dependencies import require_nlb_extra
from ndt_cli.nlb.submission import SubmissionRates, split_rates
from ndt_cli.nlb.tensors import Arrays, NlbTensors, scored_inputs, to_recording

Array = NDArray[Any]
FloatArray = NDArray[np.float64]

Scores = dict[str, dict[str, float]]
"""By group or by estimate, such as ``"mc_maze_20"`` or ``"NDT"``, then by metric."""


def score(
    targets: Mapping[str, Arrays],
    rates: Mapping[str, SubmissionRates],
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
        arrays = dict(rates[name])
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


def _check_timing_groups(name: str, targets: Arrays) -> None:
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
    estimates = {
        "NDT": rates,
        "spike smoothing": smoothing_submission(
            *counts, inputs, tensors.bin_ms, smoothing, progress
        ),
        "mean rate": mean_rate_submission(*counts, len(inputs)),
    }
    scores = {}
    for estimate, estimated in estimates.items():

        def scoring(what: str, done: int, total: int, estimate: str = estimate) -> None:
            progress(f"scoring {estimate}", done, total)

        by_group = score({tensors.key: target}, {tensors.key: estimated}, scoring)
        scores[estimate] = by_group[tensors.key]
    return scores


# ------------------------------------------------------------------------------------------------
# The baselines
# ------------------------------------------------------------------------------------------------


def mean_rate_submission(
    train_heldin_BTN: Array,
    train_heldout_BTN: Array,
    train_forward_BTN: Array,
    n_eval_trials: int,
) -> SubmissionRates:
    """Give each neuron its mean rate in the training trials, separately for window and forward.

    The forward counts hold all neurons, held-out ones last. A silent neuron gets half a spike, so
    that a spike in an evaluated trial is unlikely but not impossible.
    """
    window_N = np.append(_mean_rates(train_heldin_BTN), _mean_rates(train_heldout_BTN))
    forward_N = _mean_rates(train_forward_BTN)
    n_train, n_bins, n_heldin = train_heldin_BTN.shape
    n_forward = train_forward_BTN.shape[1]
    train_BTN = np.broadcast_to(window_N, (n_train, n_bins, len(window_N)))
    eval_TN = np.vstack([[window_N] * n_bins, [forward_N] * n_forward])
    eval_BTN = np.broadcast_to(eval_TN, (n_eval_trials, *eval_TN.shape))
    return split_rates(train_BTN, eval_BTN, len(window_N) - n_heldin, n_forward)


def _mean_rates(counts_BTN: Array) -> Array:
    n_entries = counts_BTN.shape[0] * counts_BTN.shape[1]
    # nlb_tools stores counts as float16, in which sums saturate at 2048.
    counts_N = counts_BTN.sum(axis=(0, 1), dtype=np.float64)
    return np.asarray(np.maximum(counts_N, 0.5) / n_entries)


class Smoothing(NamedTuple):
    """Kernel width (standard deviation, ms) and penalty of the regression."""

    width_ms: float
    alpha: float


BENCHMARK_SMOOTHING = {
    "mc_maze": Smoothing(50, 0.01),
    "mc_rtt": Smoothing(30, 0.1),
    "area2_bump": Smoothing(30, 0.01),
    "dmfc_rsg": Smoothing(60, 0.001),
    "mc_maze_large": Smoothing(40, 0.1),
    "mc_maze_medium": Smoothing(60, 0.1),
    "mc_maze_small": Smoothing(60, 0.1),
}
"""Values that the benchmark's sweep chose for each dataset."""

_LOG_OFFSET = 1e-4
_LOWEST_RATE = 1e-9

# Forward bins: penalty of the regression with one entry per trial, times the number of trials. A
# fixed prior on the weights, so its influence decreases with the number of trials.
_FORWARD_PENALTY = 100.0


def smoothing_submission(
    train_heldin_BTN: Array,
    train_heldout_BTN: Array,
    train_forward_BTN: Array,
    eval_heldin_BTN: Array,
    bin_ms: float,
    smoothing: Smoothing,
    progress: Progress = no_progress,
) -> SubmissionRates:
    """Predict all six arrays from smoothed held-in spikes.

    The forward counts hold all neurons, held-out ones last. ``progress`` counts regressions: one
    per held-out neuron, and one per neuron for the forward bins.
    """
    require_nlb_extra("sklearn")
    n_heldin, n_heldout = train_heldin_BTN.shape[2], train_heldout_BTN.shape[2]
    kernel = _kernel(smoothing.width_ms, bin_ms)
    train_rates, eval_rates = (
        _smooth(counts_BTN, kernel) for counts_BTN in (train_heldin_BTN, eval_heldin_BTN)
    )
    train_logs, eval_logs = (np.log(rates + _LOG_OFFSET) for rates in (train_rates, eval_rates))
    n_regressions = n_heldout + train_forward_BTN.shape[2]

    train_heldout, eval_heldout = _regress(
        train_logs.reshape(-1, n_heldin),
        eval_logs.reshape(-1, n_heldin),
        train_heldout_BTN.reshape(-1, n_heldout),
        smoothing.alpha,
        lambda done: progress("smoothing", done, n_regressions),
    )
    _, ends = _regress(
        train_logs[:, -1],
        eval_logs[:, -1],
        train_forward_BTN.mean(axis=1, dtype=np.float64),
        _FORWARD_PENALTY / len(train_forward_BTN),
        lambda done: progress("smoothing", n_heldout + done, n_regressions),
    )
    forward_BTN = np.maximum(ends[:, None] * _course(train_forward_BTN, kernel), _LOWEST_RATE)
    train_BTN = np.dstack([train_rates, train_heldout.reshape(*train_rates.shape[:2], -1)])
    eval_BTN = np.dstack([eval_rates, eval_heldout.reshape(*eval_rates.shape[:2], -1)])
    both_BTN = np.concatenate([eval_BTN, forward_BTN], axis=1)
    return split_rates(train_BTN, both_BTN, n_heldout, forward_BTN.shape[1])


def _kernel(width_ms: float, bin_ms: float) -> FloatArray:
    # nlb_tools truncates both to whole bins, so 50 ms is two bins of 20 ms.
    weights = gaussian(int(6 * width_ms / bin_ms), int(width_ms / bin_ms))
    return np.asarray(weights / weights.sum())


def _smooth(counts_BTN: Array, kernel: FloatArray) -> FloatArray:
    """Smooth along time as numpy.convolve(..., "same") does, with zeros outside."""
    # NumPy and SciPy center a kernel of even length differently.
    origin = -1 if len(kernel) % 2 == 0 else 0
    counts = counts_BTN.astype(np.float64)
    return np.asarray(convolve1d(counts, kernel, axis=1, mode="constant", origin=origin))


def _regress(
    train_XF: FloatArray,
    eval_XF: FloatArray,
    counts_XN: Array,
    alpha: float,
    done: Callable[[int], None],
) -> tuple[FloatArray, FloatArray]:
    """Fit a Poisson regression per neuron; return predictions for both sets of features.

    ``alpha`` is the penalty relative to the mean deviance over entries.
    """
    from sklearn.linear_model import PoissonRegressor

    n_neurons = counts_XN.shape[1]
    # A neuron without spikes keeps this: its likelihood has no maximum, the rate would go to 0.
    train_XN = np.full((len(train_XF), n_neurons), _LOWEST_RATE)
    eval_XN = np.full((len(eval_XF), n_neurons), _LOWEST_RATE)
    for neuron, counts_X in enumerate(counts_XN.astype(np.float64).T):
        done(neuron)
        if counts_X.any():
            # A tenth of the default solver's time, and it converges where that stops early.
            model = PoissonRegressor(alpha=alpha, solver="newton-cholesky", max_iter=500)
            model.fit(train_XF, counts_X)
            train_XN[:, neuron] = np.maximum(model.predict(train_XF), _LOWEST_RATE)
            eval_XN[:, neuron] = np.maximum(model.predict(eval_XF), _LOWEST_RATE)
    done(n_neurons)
    return train_XN, eval_XN


def _course(counts_BTN: Array, kernel: FloatArray) -> FloatArray:
    """Return each neuron's smoothed mean time course divided by its mean, (bins, neurons)."""
    mean_TN = counts_BTN.mean(axis=0, dtype=np.float64)
    course_TN = convolve1d(mean_TN, kernel, axis=0, mode="nearest")
    mean_N = mean_TN.mean(axis=0)
    ratio_TN = np.ones(course_TN.shape)
    np.divide(course_TN, mean_N, out=ratio_TN, where=mean_N > 0)
    return ratio_TN
