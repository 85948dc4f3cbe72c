"""Figures by condition and of the population: what they average, and when there are none."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from builders import evaluation_of, spike_data

from ndt_cli.baselines import smooth
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError
from ndt_cli.report.conditions import (
    condition_groups,
    draw_conditions,
    draw_psth,
    group_average,
    group_colors,
    trial_groups,
)
from ndt_cli.report.figures import shortened
from ndt_cli.report.neurons import score_figure
from ndt_cli.report.trajectories import (
    draw_behavior,
    draw_trajectories_2d,
    draw_trajectories_3d,
    principal_components,
    shown_trials,
)
from ndt_cli.report.trial import draw_heatmaps, draw_rates, neuron_columns, trial_text


def _figure_of(draw):
    return lambda *arrays, **chosen: draw(evaluation_of(*arrays), **chosen).figure


rates_over_raster, rate_heatmaps = _figure_of(draw_rates), _figure_of(draw_heatmaps)
rates_by_condition, psth_overlay = _figure_of(draw_conditions), _figure_of(draw_psth)
trajectories_2d, trajectories_3d = (
    _figure_of(draw_trajectories_2d),
    _figure_of(draw_trajectories_3d),
)


def reaches(n_trials=12, n_neurons=5, with_rates=True):
    """Trials of three conditions with rates that turn in a plane; trial 0 is short."""
    rng = np.random.default_rng(0)
    conditions_B = np.arange(n_trials) % 3
    phase_B11 = conditions_B[:, None, None] * 2.0
    angle = np.arange(40)[None, :, None] / 6 + rng.uniform(0, 6, (1, 1, n_neurons))
    rates_BTN = 0.4 * (1.2 + np.sin(angle + phase_B11))
    lengths_B = np.full(n_trials, 40)
    lengths_B[0] = 25
    inside_BT = np.arange(40) < lengths_B[:, None]
    spikes_BTN = (rng.poisson(rates_BTN) * inside_BT[:, :, None]).astype(np.uint8)
    data = SpikeData(
        spikes_BTN,
        20.0,
        lengths_B,
        rates_BTN=rates_BTN if with_rates else None,
        conditions_B=conditions_B,
    )
    return data, 0.9 * rates_BTN, smooth(spikes_BTN, inside_BT, 60.0, 20.0)


def without_conditions(data):
    return dataclasses.replace(data, conditions_B=None)


def test_groups_are_the_conditions_evenly_spaced_when_there_are_many():
    data = spike_data(40, conditions_B=np.arange(40) // 2)
    assert [g.label for g in condition_groups(data, 4)] == [
        "condition 0",
        "condition 6",
        "condition 13",
        "condition 19",
    ]
    groups = condition_groups(data, 100)
    assert len(groups) == 20
    assert groups[3].trials.tolist() == [6, 7]
    assert [g.trials.tolist() for g in trial_groups(data, 2)] == [[0], [39]]
    with pytest.raises(DataError, match="no conditions") as caught:
        condition_groups(spike_data(4), 4)
    assert "conditions" in caught.value.hint


def test_an_average_leaves_out_padding_and_ends_where_half_of_the_trials_do():
    data = spike_data(4, 6, 1, lengths_B=[6, 2, 4, 4], conditions_B=np.zeros(4, dtype=int))
    values_BTN = np.arange(24, dtype=float).reshape(4, 6, 1)
    values_BTN[~data.inside_BT] = np.nan
    (group,) = condition_groups(data, 1)
    average_TN = group_average(data, values_BTN, group)
    assert average_TN[:, 0].tolist() == [9.0, 10.0, (2 + 14 + 20) / 3, (3 + 15 + 21) / 3]


def test_trials_without_a_bin_belong_to_no_group():
    data = spike_data(3, 6, 1, lengths_B=[6, 0, 6], conditions_B=np.array([1, 2, 3]))
    assert [group.label for group in condition_groups(data, 9)] == ["condition 1", "condition 3"]
    assert [group.label for group in trial_groups(data, 9)] == ["trial 0", "trial 2"]


def test_long_names_are_shortened_in_the_middle_and_stay_inside_the_figure():
    assert shortened("unit 12", 14) == "unit 12"
    assert shortened("unit probe1_shank2_unit_0004", 14) == "unit p\N{HORIZONTAL ELLIPSIS}it_0004"
    data, inferred_BTN, smoothed_BTN = reaches()
    names = {
        c: f"reach to the upper left, target number {c}" for c in range(len(set(data.conditions_B)))
    }
    data = dataclasses.replace(data, condition_names=names)
    figure = rates_by_condition(data, inferred_BTN, smoothed_BTN, neurons=[4, 1])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().x0 >= 0


def test_rates_by_condition_has_a_column_a_neuron_and_a_row_a_source():
    data, inferred_BTN, smoothed_BTN = reaches()
    figure = rates_by_condition(data, inferred_BTN, smoothed_BTN, neurons=[4, 1])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["neuron 4", "neuron 1"]
    raster, _, true, _, smoothed, _, ndt, _ = figure.axes
    labels = [axes.get_ylabel() for axes in (raster, true, smoothed, ndt)]
    assert labels == ["trials", "true rates\n(Hz)", "smoothed spikes\n(Hz)", "NDT\n(Hz)"]
    assert figure.get_supxlabel() == "time in trial (ms)"
    single, average = (lines.get_segments() for lines in ndt.collections)
    assert (len(single), len(average)) == (12, 3)
    assert [len(lines.get_segments()) for lines in true.collections] == [0, 3]
    mean_T = inferred_BTN[[1, 4, 7, 10], :, 4].mean(axis=0) * 50
    assert average[1][:, 1] == pytest.approx(mean_T)
    assert average[1][:2, 0] == pytest.approx([10.0, 30.0])
    rows = (true, smoothed, ndt)
    lines = [line for axes in rows for drawn in axes.collections for line in drawn.get_segments()]
    highest = max(line[:, 1].max() for line in lines)
    assert [axes.get_ylim() for axes in rows] == [(0, pytest.approx(1.05 * highest))] * 3
    (ticks,) = raster.collections
    assert len(ticks.get_segments()) == data.spikes_BTN[:, :, 4].sum()
    # Rows of trials by condition, each spike in the color of its own.
    colors = {tuple(color) for color in ticks.get_color()[: data.spikes_BTN[::3, :, 4].sum()]}
    assert len(colors) == 1 < len({tuple(color) for color in ticks.get_color()}) == 3
    assert [t.get_text() for t in figure.legends[0].texts] == [f"condition {i}" for i in range(3)]


def test_without_true_rates_there_is_no_such_row_and_neurons_are_chosen():
    data, inferred_BTN, smoothed_BTN = reaches(with_rates=False)
    figure = rates_by_condition(data, inferred_BTN, smoothed_BTN)
    assert len(figure.axes) == 3 * 3
    with pytest.raises(DataError, match="neuron 5 does not exist"):
        rates_by_condition(data, inferred_BTN, smoothed_BTN, neurons=[5])


def test_neurons_are_named_by_their_place_in_the_file():
    data, inferred_BTN, smoothed_BTN = reaches()
    # Neuron 0 of the file is held out, so its column is the last.
    moved = dataclasses.replace(data, neuron_ids_N=np.array([1, 2, 3, 4, 0]), n_heldout=1)
    figure = rates_over_raster(moved, inferred_BTN, smoothed_BTN, trial=1, neurons=[0])
    line = next(line for line in figure.axes[1].lines if line.get_label() == "NDT")
    assert line.get_ydata() == pytest.approx(50 * inferred_BTN[1, :, 4])
    raster = np.asarray(figure.axes[0].images[0].get_array())
    assert (raster[0] == data.spikes_BTN[1, :, 4]).all()
    chosen = rates_by_condition(moved, inferred_BTN, smoothed_BTN, neurons=[0])
    assert chosen.axes[0].get_title() == "neuron 0"
    average = chosen.axes[-1].collections[1].get_segments()
    assert average[1][:, 1] == pytest.approx(inferred_BTN[[1, 4, 7, 10], :, 4].mean(0) * 50)


def test_components_find_the_plane_in_which_rates_move():
    rng = np.random.default_rng(1)
    angle_T = np.linspace(0, 6, 200)
    plane_2N = rng.normal(size=(2, 8))
    circle_T2 = np.stack([3 * np.cos(angle_T), np.sin(angle_T)], axis=1)
    rates_hz_TN = 50 + circle_T2 @ plane_2N
    components = principal_components(rates_hz_TN, 3)
    assert components.share_P[:2].sum() == pytest.approx(1)
    assert components.share_P[0] > components.share_P[1] > 0.01
    states_TP = components.project(rates_hz_TN)
    assert states_TP.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert np.abs(states_TP[:, 2]).max() < 1e-9
    # The sign of a component is no accident of the machine.
    largest_P = np.abs(components.axes_PN).argmax(axis=1)
    assert (components.axes_PN[np.arange(3), largest_P] > 0).all()


def test_a_busy_neuron_does_not_dominate_the_picture():
    rng = np.random.default_rng(2)
    common_T = np.sin(np.linspace(0, 20, 300))
    quiet_TN = 10 + 5 * common_T[:, None] * np.ones(9)
    busy_T1 = 200 * rng.random((300, 1))
    axes_PN = principal_components(np.hstack([quiet_TN, busy_T1]), 1).axes_PN
    assert np.abs(axes_PN[0, 9]) < 0.5


def test_trajectories_need_neurons_and_movement():
    data, inferred_BTN, smoothed_BTN = reaches(n_neurons=2)
    trajectories_2d(data, inferred_BTN, smoothed_BTN)
    with pytest.raises(DataError, match="3 dimensions need at least 3 neurons; found 2"):
        trajectories_3d(data, inferred_BTN)
    one, inferred_BT1, smoothed_BT1 = reaches(n_neurons=1)
    with pytest.raises(DataError, match="at least 2 neurons; found 1"):
        trajectories_2d(one, inferred_BT1, smoothed_BT1)
    with pytest.raises(DataError, match="do not vary"):
        trajectories_2d(data, np.full(inferred_BTN.shape, 0.1), smoothed_BTN)


def test_trajectories_are_of_conditions_or_else_of_single_trials():
    data, inferred_BTN, smoothed_BTN = reaches()
    figure = trajectories_2d(data, inferred_BTN, smoothed_BTN)
    assert [axes.get_title() for axes in figure.axes] == ["NDT", "smoothed spikes", "true rates"]
    names = [text.get_text() for text in figure.legends[0].texts]
    assert names == ["condition 0", "condition 1", "condition 2", "first bin", "last bin"]
    assert "% of variance" in figure.axes[0].get_xlabel()
    (x_low, x_high), (y_low, y_high) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert x_high - x_low == pytest.approx(y_high - y_low)
    single = trajectories_3d(without_conditions(data), inferred_BTN)
    names = [text.get_text() for text in single.legends[0].texts]
    assert names == [
        "trial 0",
        "trial 3",
        "trial 6",
        "trial 8",
        "trial 11",
        "first bin",
        "last bin",
    ]
    assert len(single.axes) == 2


def test_padding_is_in_no_trajectory():
    data, inferred_BTN, smoothed_BTN = reaches()
    clean = trajectories_2d(without_conditions(data), inferred_BTN, smoothed_BTN)
    inferred_BTN[~data.inside_BT] = 1e6
    smoothed_BTN[~data.inside_BT] = np.nan
    dirty = trajectories_2d(without_conditions(data), inferred_BTN, smoothed_BTN)
    first, second = (each.axes[0].collections[0].get_segments()[0] for each in (clean, dirty))
    assert len(first) == 25
    assert second == pytest.approx(first)


def test_scores_without_a_best_value_end_at_the_largest():
    best, other = np.array([0.1, 2.5]), np.array([0.0, 0.4])
    figure = score_figure("bits per spike", best, other, "", "").figure
    low, high = figure.axes[0].get_xlim()
    assert 2.5 < high < 3
    assert low < 0
    of_rates = score_figure("R2", np.array([0.1]), np.array([0.2]), "", "").figure
    assert of_rates.axes[0].get_xlim()[1] == 1.0


def recorded(**fields):
    """The same trials as a lab knows them: an event, names of units and numbers of trials."""
    data, inferred_BTN, smoothed_BTN = reaches(with_rates=False)
    known = {
        "event": "go_cue",
        "start_ms": -200.0,
        "neuron_names": ("7", "19", "23", "40", "41"),
        "trial_ids_B": np.arange(12) + 100,
        "condition_names": {0: "left", 1: "middle", 2: "right"},
        **fields,
    }
    return dataclasses.replace(data, **known), inferred_BTN, smoothed_BTN


def test_figures_name_units_trials_and_conditions_as_the_recording_does():
    data, inferred_BTN, smoothed_BTN = recorded()
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=2, neurons=[4])
    assert figure.axes[1].get_ylabel() == "unit 41\n(Hz)"
    assert figure.axes[1].get_xlabel() == "time from go cue (ms)"
    assert trial_text(data, 2, "12 validation trials") == (
        "trial 102 (place 2, from 0, of 12 validation trials, condition right)"
    )
    assert [group.label for group in condition_groups(data, 3)] == ["left", "middle", "right"]
    by_condition = rates_by_condition(data, inferred_BTN, smoothed_BTN, neurons=[0])
    assert by_condition.axes[0].get_title() == "unit 7"


def test_time_runs_from_the_event_which_has_a_line():
    data, inferred_BTN, smoothed_BTN = recorded()
    for figure in (
        rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=1, neurons=[4]),
        rate_heatmaps(data, inferred_BTN, smoothed_BTN, trial=1),
        psth_overlay(data, inferred_BTN),
    ):
        axes = figure.axes[0]
        assert axes.get_xlim() == (-200.0, 600.0)
        assert [0.0, 0.0] in [list(line.get_xdata()) for line in axes.lines]
    line = figure.axes[0].collections[0].get_segments()[0]
    assert line[0, 0] == -190.0  # the middle of the first bin
    late, *_ = recorded(start_ms=100.0)
    without = rate_heatmaps(late, inferred_BTN, smoothed_BTN, trial=1)
    assert without.axes[0].get_xlim() == (100.0, 900.0)
    assert len(without.axes[0].lines) == 0


def test_directions_have_colors_around_the_circle():
    def colors(names):
        data, *_ = recorded(condition_names=dict(enumerate(names)))
        return group_colors(data, condition_groups(data, 3))

    ordered = colors(["left", "middle", "right"])
    assert colors(["0", "120", "240"]) != ordered
    assert colors(["0", "120", "240"])[0] == colors(["0", "2.094", "4.189"])[0]
    assert colors(["-120", "0", "120"]) == [colors(["0", "120", "240"])[i] for i in (2, 0, 1)]
    assert colors(["0", "45", "90"]) == ordered  # a quarter of a turn is no circle
    assert colors(["1", "2", "3"]) == ordered


def test_a_heat_map_divides_each_neuron_by_its_own_peak():
    data, inferred_BTN, smoothed_BTN = recorded()
    inferred_BTN = inferred_BTN * np.array([0.001, 1, 1, 1, 10])
    figure = rate_heatmaps(data, inferred_BTN, smoothed_BTN, trial=1)
    shown_NT = np.asarray(figure.axes[0].images[0].get_array())
    peaks_N = np.sort(shown_NT.max(axis=1))
    assert peaks_N[1:] == pytest.approx(1.0)
    assert peaks_N[0] < 0.1  # below one spike per second


def test_the_psth_lies_below_the_rates_of_the_model():
    data, inferred_BTN, _ = recorded()
    figure = psth_overlay(data, inferred_BTN, neurons=[3, 0])
    assert [axes.get_title() for axes in figure.axes] == ["unit 40", "unit 7"]
    psths, rates = figure.axes[0].collections
    group = condition_groups(data, 3)[0]
    average_T = group_average(data, inferred_BTN, group)[:, 3] * 50
    assert rates.get_segments()[0][:, 1] == pytest.approx(average_T)
    assert len(psths.get_segments()) == len(rates.get_segments()) == 3  # of each condition
    assert len(figure.axes[0].lines) == 1  # the event
    assert figure.axes[0].get_ylim()[1] > average_T.max()


def test_decoded_behavior_stands_beside_the_true_one():
    hand_BTV = np.random.default_rng(0).normal(size=(12, 40, 2))
    data, *_ = recorded(behavior_BTV=hand_BTV, behavior_names=("hand_x", "hand_y"))
    trials = shown_trials(data)
    assert sorted(data.conditions_B[trials].tolist()) == [0, 1, 2]
    shown = data.take(trials)
    decoder = SimpleNamespace(decode=lambda rates_BTN, data, trials: data.behavior_BTV[trials] + 1)
    behavior = SimpleNamespace(behavior=SimpleNamespace(r2_mean=0.5))
    scores = {"NDT": behavior, "smoothed spikes": behavior}
    decoded = evaluation_of(data, np.ones((12, 40, 5)), scores=scores, decoders={"NDT": decoder})
    drawn = draw_behavior(decoded)
    axes = drawn.figure.axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert lines["decoded"] == pytest.approx(lines["true"] + 1)
    assert axes.get_ylabel() == "hand x"
    assert axes.get_title() == f"trial {shown.trial_ids_B[0]}\nleft"
    assert "NDT: 0.500, smoothed spikes: 0.500" in drawn.caption
    with pytest.raises(DataError, match="no decoder of behavior that was fitted to other trials"):
        draw_behavior(evaluation_of(data, np.ones((12, 40, 5))))
    one_bin = dataclasses.replace(data, lengths_B=np.ones(12, int))  # has a line, from end to end
    short = evaluation_of(one_bin, np.ones((12, 40, 5)), scores=scores, decoders={"NDT": decoder})
    assert len(draw_behavior(short).figure.axes[0].lines[0].get_xdata()) == 2
    behavior.behavior.r2_mean = np.nan  # of variables that never change
    assert "R2" not in draw_behavior(decoded).caption
    data.behavior_BTV[:] = np.nan
    with pytest.raises(DataError, match="no behavior could be decoded"):
        draw_behavior(decoded)


def test_neurons_are_found_by_name_and_by_place():
    data, *_ = recorded(neuron_ids_N=np.array([1, 2, 3, 4, 0]), n_heldout=1)
    assert neuron_columns(data, ["41", "7", 0, 4]) == [3, 4]  # units 41 and 7, twice
    assert neuron_columns(data, ["3", 3]) == [2]  # no unit has the name 3: it is a place
    with pytest.raises(DataError, match="neuron 12 does not exist: there are 5 neurons") as caught:
        neuron_columns(data, ["12"])
    assert "its units are 7, 19, 23, 40, 41" in caught.value.hint
    for wrong in (-1, "-1", "x"):
        with pytest.raises(DataError, match=f"neuron {wrong} does not exist"):
            neuron_columns(data, [wrong])
