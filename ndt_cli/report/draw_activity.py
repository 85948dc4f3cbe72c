"""Figures of what a run inferred: rates of trials, of conditions, of the population."""

from ndt_cli.report.condition_rates import MOST_CONDITIONS, rates_by_condition
from ndt_cli.report.conditions import condition_groups
from ndt_cli.report.drawn import Choice, Drawn, count, groups_text, trials_text
from ndt_cli.report.heatmaps import rate_heatmaps
from ndt_cli.report.pca import SOFT_HZ
from ndt_cli.report.run_contents import RunContents
from ndt_cli.report.run_figures import draw_trial, typical_trial
from ndt_cli.report.trajectories import trajectories_2d, trajectories_3d, trajectory_groups


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
        f"{trials_text(run)}. Each neuron is centred and divided by its range plus {SOFT_HZ:g} Hz."
    )
