"""The rates that a submission is compared with, and the scores of all of them."""

from collections.abc import Mapping

from ndt_cli.nlb.mean_rate import mean_rate_submission
from ndt_cli.nlb.progress import Progress
from ndt_cli.nlb.recordings import scored_inputs, to_recording
from ndt_cli.nlb.scores import score
from ndt_cli.nlb.smoothing import BENCHMARK_SMOOTHING, smoothing_submission
from ndt_cli.nlb.submission import SubmissionRates
from ndt_cli.nlb.tensors import Arrays, NlbTensors

Scores = dict[str, dict[str, float]]
"""By estimate, such as ``"NDT"``, then by metric."""


def score_beside(
    rates: SubmissionRates,
    tensors: NlbTensors,
    target: Arrays,
    true_rates: SubmissionRates | None,
    progress: Progress,
) -> Scores:
    """Score a model's rates beside the benchmark's smoothing, the mean and the true rates.

    Parameters
    ----------
    rates : SubmissionRates
        Of the model; ``"NDT"`` in what is returned.
    tensors : NlbTensors
        What it was given.
    target : dict of str to array
        What the scored trials held.
    true_rates : SubmissionRates or None
        Where they are known.
    progress : callable
        Told what is done.
    """
    estimates = {"NDT": rates, **_references(tensors, progress)}
    if true_rates is not None:
        estimates["true rates"] = true_rates
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
