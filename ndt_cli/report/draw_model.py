"""Figures of how a run trained, how well it scores each neuron, and where it looks."""

import numpy as np

from ndt_cli.errors import DataError, RunError
from ndt_cli.report.attention import (
    MOST_HEADS,
    MOST_LAYERS,
    attention_by_lag,
    attention_maps,
    is_narrow,
)
from ndt_cli.report.curves import training_curves
from ndt_cli.report.draw_sweep import MEASURE_NAMES
from ndt_cli.report.drawn import Choice, Drawn, count, trials_text
from ndt_cli.report.run_contents import RunContents
from ndt_cli.report.scores import per_neuron_scores


def draw_training(run: RunContents, _: Choice) -> Drawn:
    """Draw the learning curves."""
    if run.is_ensemble:
        raise RunError(
            f"{run.path} is an ensemble: its members were trained, each in a run of its own",
            "ndt plot MEMBER training, with a run that ensemble.json names",
        )
    if not run.history:
        raise RunError(f"{run.path}: no epoch has ended yet, so there are no learning curves")
    choose_by = run.settings.train.choose_by
    figure = training_curves(run.history, choose_by)
    data = run.about["data"]
    validated = [record for record in run.history if "valid_masked_loss" in record]
    caption = (
        f"{count(len(run.history), 'epoch')} of {count(data['train']['n_trials'], 'trial')}; "
        f"validated {count(len(validated), 'time')} on {count(data['valid']['n_trials'], 'trial')} "
        "with the same hidden bins each time. The dotted line marks the epoch of the best "
        f"checkpoint, by {MEASURE_NAMES[choose_by]}."
    )
    losses = [record["valid_masked_loss"] for record in validated]
    ends = f", from {losses[0]:.4f} to {losses[-1]:.4f} on validation trials" if losses else ""
    return Drawn(figure, caption, f"Learning curves: loss over the epochs{ends}.")


def draw_neurons_r2(run: RunContents, _: Choice) -> Drawn:
    """Draw each neuron's R2 against that of smoothed spikes."""
    scores = run.evaluation.scores
    model, smoothed = scores["NDT"].rates, scores["smoothed spikes"].rates
    if model is None or smoothed is None:
        raise DataError(
            "there are no true rates to compare with, so neurons have no R2",
            "bits per spike need none: neurons-bits",
        )
    defined_N = np.isfinite(model.r2_N) & np.isfinite(smoothed.r2_N)
    if not defined_N.any():
        raise DataError("no neuron's true rate changes, so none has an R2")
    figure = per_neuron_scores(model.r2_N, smoothed.r2_N)
    caption = (
        f"R2 of the rates against the true ones, a point a neuron, over {trials_text(run)}. Lines "
        "on the right are medians."
    )
    return Drawn(figure, caption, _pairs_text("R2", model.r2_N, smoothed.r2_N))


def draw_neurons_bits(run: RunContents, _: Choice) -> Drawn:
    """Draw each neuron's bits per spike against those of smoothed spikes."""
    scores = run.evaluation.scores
    model_N = scores["NDT"].hidden.bits_per_spike_N
    smoothed_N = scores["smoothed spikes"].hidden.bits_per_spike_N
    if not (np.isfinite(model_N) & np.isfinite(smoothed_N)).any():
        raise DataError("no neuron has a spike in these trials, so none has bits per spike")
    figure = per_neuron_scores(model_N, smoothed_N, score="bits per spike", highest=None)
    held = "held-in " if run.evaluation.data.n_heldout else ""
    caption = (
        f"Bits per spike over the mean rate, a point a {held}neuron, over {trials_text(run)}; each "
        "count is predicted while it is hidden. Lines on the right are medians."
    )
    return Drawn(figure, caption, _pairs_text("bits per spike", model_N, smoothed_N))


def draw_neurons_heldout(run: RunContents, _: Choice) -> Drawn:
    """Draw each held-out neuron's bits per spike against those of the reference."""
    scores = run.evaluation.scores
    model, smoothed = scores["NDT"].heldout, scores["smoothed spikes"].heldout
    if model is None or smoothed is None:
        raise DataError(
            "no neurons are held out, or their counts are not known",
            "hold some out with: ndt train --set data.heldout_fraction=0.25",
        )
    model_N, smoothed_N = model.bits_per_spike_N, smoothed.bits_per_spike_N
    if not (np.isfinite(model_N) & np.isfinite(smoothed_N)).any():
        raise DataError("no held-out neuron has a spike in these trials")
    figure = per_neuron_scores(model_N, smoothed_N, score="bits per spike", highest=None)
    caption = (
        "Bits per spike over the mean rate, a point a held-out neuron, predicted from the other "
        f"neurons (co-smoothing), over {trials_text(run)}. Lines on the right are medians."
    )
    return Drawn(figure, caption, _pairs_text("bits per spike", model_N, smoothed_N))


def draw_attention_maps(run: RunContents, _: Choice) -> Drawn:
    """Draw the mean attention between all bins."""
    figure = attention_maps(run.attention)
    what = "that a bin (row) gives to each bin (column)"
    if is_narrow(run.attention):
        what = "that a bin (along) gives to bins before (negative lag) and after it"
    caption = (
        f"Which bins the model looks at: mean attention weight {what}. {_averaged_text(run)} Grey: "
        "no such bin, or outside the context window."
    )
    return Drawn(figure, caption, f"Maps of attention weights between bins. {_shown_text(run)}")


def draw_attention_lags(run: RunContents, _: Choice) -> Drawn:
    """Draw the mean attention by lag."""
    figure = attention_by_lag(run.attention)
    caption = (
        "Mean attention weight by how far the bin looked at lies before (negative) or after the "
        f"bin that looks. {_averaged_text(run)} Dashed: even attention to all that a bin may see."
    )
    return Drawn(figure, caption, f"Attention weights against lag. {_shown_text(run)}")


def _averaged_text(run: RunContents) -> str:
    of_best = " of the ensemble's best member" if run.is_ensemble else ""
    return f"{_shown_text(run)} Mean{of_best} over {trials_text(run)}, nothing hidden."


def _shown_text(run: RunContents) -> str:
    n_layers, n_heads = run.attention.by_lag_LHK.shape[:2]

    def part(n: int, most: int, noun: str) -> str:
        return count(n, noun) if n <= most else f"{most} of {n} {noun}s"

    return f"{part(n_layers, MOST_LAYERS, 'layer')}, {part(n_heads, MOST_HEADS, 'head')}."


def _pairs_text(score: str, model_N: "np.ndarray", smoothed_N: "np.ndarray") -> str:
    defined_N = np.isfinite(model_N) & np.isfinite(smoothed_N)
    higher = int((model_N > smoothed_N)[defined_N].sum())
    return (
        f"{score} of each neuron under NDT (median {np.median(model_N[defined_N]):.3f}) against "
        f"smoothed spikes (median {np.median(smoothed_N[defined_N]):.3f}); NDT is higher in "
        f"{higher} of {int(defined_N.sum())}."
    )
