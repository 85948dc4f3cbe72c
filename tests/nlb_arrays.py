"""A small benchmark dataset, its targets and rates that are right for it."""

from typing import Any, NamedTuple

import numpy as np

from ndt_cli.nlb.submission import SubmissionRates, split_rates

N_TRAIN, N_EVAL, N_HELDIN, N_HELDOUT = 16, 8, 6, 4
N_BINS, N_FORWARD = 35, 10  # mc_maze at 20 ms
GROUP = "mc_maze_small_20"


class Example(NamedTuple):
    tensors: dict[str, Any]
    targets: dict[str, Any]
    rates: SubmissionRates


def make_example(seed: int = 0) -> Example:
    """Return spikes drawn from known rates, and those rates as a submission."""
    rng = np.random.RandomState(seed)
    n_trials, n_all, n_neurons = N_TRAIN + N_EVAL, N_BINS + N_FORWARD, N_HELDIN + N_HELDOUT
    phases = rng.uniform(0, 2 * np.pi, (n_trials, 1, 2))
    times = np.linspace(0, 3 * np.pi, n_all)[None, :, None]
    latents = np.sin(times * [1.0, 1.4] + phases)
    weights = rng.standard_normal((2, n_neurons))
    rates = np.exp(np.clip(latents @ weights - 1.0, -4, 1))
    spikes = rng.poisson(rates).astype("float16")
    behavior = latents[:, :N_BINS] + 0.1 * rng.standard_normal((n_trials, N_BINS, 2))

    tensors = {}
    for half, trials in (("train", slice(N_TRAIN)), ("eval", slice(N_TRAIN, None))):
        window, forward = spikes[trials, :N_BINS], spikes[trials, N_BINS:]
        tensors[f"{half}_spikes_heldin"] = window[:, :, :N_HELDIN]
        tensors[f"{half}_spikes_heldout"] = window[:, :, N_HELDIN:]
        tensors[f"{half}_spikes_heldin_forward"] = forward[:, :, :N_HELDIN]
        tensors[f"{half}_spikes_heldout_forward"] = forward[:, :, N_HELDIN:]
    targets = {key: array for key, array in tensors.items() if key.startswith("eval")}
    del targets["eval_spikes_heldin"]
    conditions = np.empty(2, dtype=object)
    conditions[:] = [np.arange(0, N_EVAL, 2), np.arange(1, N_EVAL, 2)]
    evaluated = spikes[N_TRAIN:, :N_BINS].astype(float)
    targets |= {
        "train_behavior": behavior[:N_TRAIN],
        "eval_behavior": behavior[N_TRAIN:],
        "psth": np.stack([evaluated[trials].mean(axis=0) for trials in conditions]),
        "eval_cond_idx": conditions,
    }
    right = split_rates(rates[:N_TRAIN], rates[N_TRAIN:], N_HELDOUT, N_FORWARD)
    return Example(tensors, targets, right)


def as_dmfc(example: Example) -> dict[str, Any]:
    """Return targets like those of dmfc_rsg: conditions and interval, counts scored in part."""
    spikes = example.targets["eval_spikes_heldout"].astype(float)
    spikes[:, :10] = np.nan
    kinds = np.repeat([[0.0, 0, 0], [1, 0, 0]], N_EVAL // 2, axis=0)
    interval = np.linspace(600, 1000, N_EVAL)[:, None]
    behavior = np.hstack([kinds, np.full((N_EVAL, 1), 800.0), interval])
    return {
        "eval_spikes_heldout": spikes,
        "eval_behavior": behavior,
        "train_behavior": np.zeros((N_TRAIN, 5)),
    }


def errors(findings):
    return [finding for finding in findings if finding.severity == "error"]


def warned(findings):
    return [finding for finding in findings if finding.severity == "warning"]


def only(findings):
    (finding,) = findings
    return finding
