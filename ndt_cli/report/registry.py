"""Figures of what a run inferred: rates of trials, of conditions, of the population."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ndt_cli.errors import DataError, RunError, SettingsError, nearest
from ndt_cli.report.attention_weights import (
    MOST_HEADS,
    MOST_LAYERS,
    attention_by_lag,
    attention_maps,
    is_narrow,
)
from ndt_cli.report.conditions import MOST_CONDITIONS, condition_groups, rates_by_condition
from ndt_cli.report.curves import training_curves
from ndt_cli.report.figures import draw_trial, typical_trial
from ndt_cli.report.neurons import per_neuron_scores
from ndt_cli.report.run_contents import Choice, Drawn, RunContents, count, groups_text, trials_text
from ndt_cli.report.sweep_figures import MEASURE_NAMES
from ndt_cli.report.trajectories import SOFT_HZ, trajectories_2d, trajectories_3d, trajectory_groups
from ndt_cli.report.trial import rate_heatmaps


def draw_rates(run: RunContents, choice: Choice) -> Drawn:
    """Draw spikes and rates of one trial."""
    ev = run.evaluation
    trial = typical_trial(ev) if choice.trial is None else choice.trial
    figure = draw_trial(ev, trial, choice.neurons)
    known = ", and the true rates" if ev.data.rates_BTN is not None else ""
    caption = (
        f"Trial {trial} of {trials_text(run)}. Top: spike counts of all "
        f"{count(ev.data.n_neurons, 'neuron')}. Below: rates that NDT infers with nothing hidden, "
        f"spikes smoothed by a Gaussian of {ev.smoothing_ms:.0f} ms{known}; ticks are spikes."
    )
    shown = len(figure.axes) - 1
    alt = f"Raster of the spikes in trial {trial}, and rates of {count(shown, 'neuron')} over time."
    return Drawn(figure, caption, alt)


def draw_heatmaps(run: RunContents, choice: Choice) -> Drawn:
    """Draw the rates of all neurons in one trial."""
    ev = run.evaluation
    trial = typical_trial(ev) if choice.trial is None else choice.trial
    figure = rate_heatmaps(ev.data, ev.rates_BTN, ev.smoothed_BTN, trial=trial)
    order = "inferred" if ev.data.rates_BTN is None else "true"
    caption = (
        f"Rates of {count(ev.data.n_neurons, 'neuron')} in trial {trial} of {trials_text(run)}. "
        f"Neurons are sorted by the time of their largest {order} rate, in all panels alike."
    )
    alt = f"Heat maps of the rates in trial {trial}, one for each source, neurons by time."
    return Drawn(figure, caption, alt)


def draw_conditions(run: RunContents, choice: Choice) -> Drawn:
    """Draw spikes and rates of a few neurons by condition."""
    ev = run.evaluation
    groups = condition_groups(ev.data, MOST_CONDITIONS)
    figure = rates_by_condition(
        ev.data, ev.rates_BTN, ev.smoothed_BTN, neurons=choice.neurons or None
    )
    caption = (
        f"Spikes and rates of single neurons by condition: {groups_text(groups, run)}, of "
        f"{trials_text(run)}. Thick lines are averages over the trials of a condition, as far as "
        "half of them go; thin lines are the single trials of the raster."
    )
    alt = "For each of a few neurons: spikes of trials sorted by condition, and rates over time."
    return Drawn(figure, caption, alt)


def draw_trajectories_2d(run: RunContents, _: Choice) -> Drawn:
    """Draw population trajectories in a plane."""
    ev = run.evaluation
    figure = trajectories_2d(ev.data, ev.rates_BTN, ev.smoothed_BTN)
    known = " and true rates" if ev.data.rates_BTN is not None else ""
    caption = (
        f"{_what_moves(run)} Smoothed spikes{known} are drawn in the plane of NDT's first two "
        "components; shares are of the variance of NDT's rates."
    )
    return Drawn(figure, caption, "Trajectories of the population in two dimensions, by source.")


def draw_trajectories_3d(run: RunContents, _: Choice) -> Drawn:
    """Draw population trajectories in space."""
    figure = trajectories_3d(run.evaluation.data, run.evaluation.rates_BTN)
    caption = f"{_what_moves(run)} The same trajectories are seen from two sides."
    return Drawn(figure, caption, "Trajectories of the population in three dimensions, two views.")


def _what_moves(run: RunContents) -> str:
    groups = trajectory_groups(run.evaluation.data)
    averaged = run.evaluation.data.conditions_B is not None
    how = "Averages of NDT's rates over conditions" if averaged else "NDT's rates in single trials"
    return (
        f"{how} along their principal components: {groups_text(groups, run)}, of "
        f"{trials_text(run)}. Each neuron is centered and divided by its range plus {SOFT_HZ:g} Hz."
    )


# ------------------------------------------------------------------------------------------------
# Figures of how a run trained, how well it scores each neuron, and where it looks.
# ------------------------------------------------------------------------------------------------


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
        f"Which bins the model looks at: mean attention weight {what}. {_averaged_text(run)} Gray: "
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


# ------------------------------------------------------------------------------------------------
# The figures of a run by name, for ``ndt plot`` and for the page of a run.
# ------------------------------------------------------------------------------------------------


class RunFigure(NamedTuple):
    """A figure that any run may have.

    Attributes
    ----------
    title : str
        Its heading.
    draw : callable
        Draws it; raises a `DataError` or `RunError` where the run has no such figure.
    takes : tuple of str
        Fields of `Choice` that it heeds.
    """

    title: str
    draw: Callable[[RunContents, Choice], Drawn]
    takes: tuple[str, ...] = ()


FIGURES = {
    "training": RunFigure("Learning curves", draw_training),
    "rates": RunFigure("Spikes and rates of one trial", draw_rates, ("trial", "neurons")),
    "heatmaps": RunFigure("Rates of all neurons in one trial", draw_heatmaps, ("trial",)),
    "conditions": RunFigure("Spikes and rates by condition", draw_conditions, ("neurons",)),
    "neurons-r2": RunFigure("R2 of each neuron", draw_neurons_r2),
    "neurons-bits": RunFigure("Bits per spike of each neuron", draw_neurons_bits),
    "neurons-heldout": RunFigure("Bits per spike of held-out neurons", draw_neurons_heldout),
    "trajectories-2d": RunFigure("Population trajectories in a plane", draw_trajectories_2d),
    "trajectories-3d": RunFigure("Population trajectories in space", draw_trajectories_3d),
    "attention-maps": RunFigure("Attention between bins", draw_attention_maps),
    "attention-lags": RunFigure("Attention by lag", draw_attention_lags),
}


def find_figure(name: str) -> RunFigure:
    """Return the figure of this name.

    Raises
    ------
    SettingsError
        When there is none; the message names the nearest.
    """
    if name in FIGURES:
        return FIGURES[name]
    close = nearest(name, FIGURES)
    raise SettingsError(
        f"there is no figure {name!r}" + (f"; did you mean {close}?" if close else ""),
        f"figures of a run: {', '.join(FIGURES)}",
    )


def draw(run: RunContents, name: str, choice: Choice | None = None) -> Drawn:
    """Draw one figure of a run.

    Parameters
    ----------
    run : RunContents
        The run.
    name : str
        A key of `FIGURES`.
    choice : Choice, optional
        Trial and neurons.

    Raises
    ------
    SettingsError
        When there is no such figure, or it takes no such choice.
    DataError, RunError
        When this run has no such figure: no conditions, one neuron, no true rates.

    Examples
    --------
    >>> drawn = draw(RunContents("runs/first"), "rates", Choice(trial=2))
    >>> drawn.caption[:26], drawn.figure.axes[-1].get_xlabel()
    ('Trial 2 of 4 validation tr', 'time in trial (ms)')
    """
    figure = find_figure(name)
    choice = choice or Choice()
    for field in ("trial", "neurons"):
        if getattr(choice, field) not in (None, ()) and field not in figure.takes:
            heed = ", ".join(key for key, each in FIGURES.items() if field in each.takes)
            raise SettingsError(
                f"the figure {name} has no {field} to choose", f"those that have: {heed}"
            )
    return figure.draw(run, choice)
