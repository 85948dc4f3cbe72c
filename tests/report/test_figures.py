"""Figures: what they show, their units, and how they are written."""

import dataclasses
import errno
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from builders import changed, evaluation_of, tiny_settings
from matplotlib.image import imread

from ndt_cli.baselines import smooth
from ndt_cli.data.spike_data import SpikeData
from ndt_cli.errors import DataError, ExistingFileError, RunError, SettingsError
from ndt_cli.report.curves import draw_training
from ndt_cli.report.figures import save_figure
from ndt_cli.report.neurons import score_figure
from ndt_cli.report.trial import draw_heatmaps, draw_rates, modulated_neurons


def _data(with_rates=True, n_bins=40):
    rng = np.random.default_rng(0)
    phase_B1N = rng.uniform(0, 2 * np.pi, (3, 1, 6))
    rates_BTN = 0.3 * (1 + np.sin(np.arange(n_bins)[:, None] / 5 + phase_B1N))
    spikes_BTN = rng.poisson(rates_BTN).astype(np.uint8)
    lengths_B = np.array([n_bins, 25, n_bins])
    inside_BT = np.arange(n_bins) < lengths_B[:, None]
    spikes_BTN[~inside_BT] = 0
    data = SpikeData(spikes_BTN, 20.0, lengths_B, rates_BTN=rates_BTN if with_rates else None)
    return data, 0.9 * rates_BTN, smooth(spikes_BTN, inside_BT, 60.0, 20.0)


def training_curves(history, choose_by="masked-loss"):
    n_trials = {"n_trials": 3}
    run = SimpleNamespace(
        history=history,
        is_ensemble=False,
        path="run",
        settings=changed(tiny_settings(), "train", choose_by=choose_by),
        about={"data": {"train": n_trials, "valid": n_trials}},
    )
    return draw_training(run).figure


def per_neuron_scores(model_N, smoothed_N):
    return score_figure("R2", model_N, smoothed_N, "", "no neuron has a rate").figure


def rates_over_raster(*arrays, **chosen):
    return draw_rates(evaluation_of(*arrays), **chosen).figure


def rate_heatmaps(*arrays, **chosen):
    return draw_heatmaps(evaluation_of(*arrays), **chosen).figure


def _history(n_epochs=30, with_r2=True):
    history = []
    for epoch in range(1, n_epochs + 1):
        record = {"epoch": epoch, "train_loss": 1 / epoch, "learning_rate": 1e-3}
        if epoch % 5 == 0:
            record["valid_masked_loss"] = (epoch - 15) ** 2 / 1000 + 0.1
            record["valid_unmasked_loss"] = 0.5 / epoch
            if with_r2:
                record["valid_rate_r2"] = 1 - 1 / epoch
        history.append(record)
    return history


def _labels(figure):
    return [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] + [
        axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()
    ]


def _texts(axes):
    return [text.get_text() for text in axes.texts]


def test_training_curves_draw_each_loss_and_mark_the_best_epoch():
    figure = training_curves(_history())
    loss, r2, rate = figure.axes
    drawn = {line.get_label(): line for line in loss.lines if "," in line.get_label()}
    assert set(drawn) == {
        "train, hidden bins",
        "validation, hidden bins",
        "validation, nothing hidden",
    }
    assert drawn["train, hidden bins"].get_xdata().tolist() == list(range(1, 31))
    assert drawn["validation, hidden bins"].get_xdata().tolist() == [5, 10, 15, 20, 25, 30]
    assert "best: epoch 15" in _texts(loss)
    assert set(drawn) == {text.get_text() for text in loss.get_legend().get_texts()}
    assert loss.get_ylabel() == "loss (nats per bin)"
    assert r2.get_ylabel() == "R² of the rate"
    assert rate.get_ylabel() == "learning rate"
    assert {loss.get_xlabel(), rate.get_xlabel()} == {"epoch"}


@pytest.mark.parametrize(
    ("choose_by", "epoch", "circled"),
    [
        ("masked-loss", 15, ["loss (nats per bin)"]),
        ("unmasked-loss", 30, ["loss (nats per bin)"]),
        ("rate-r2", 30, ["R² of the rate"]),
        ("co-bps", 20, []),
    ],
)
def test_the_epoch_that_is_marked_is_that_of_the_best_checkpoint(choose_by, epoch, circled):
    history = _history()
    for record in history[4::5]:
        record["valid_co_bps"] = -abs(record["epoch"] - 20)
    figure = training_curves(history, choose_by)
    assert f"best: epoch {epoch}" in _texts(figure.axes[0])
    found = {axes.get_ylabel(): [line.get_marker() for line in axes.lines] for axes in figure.axes}
    assert [label for label, markers in found.items() if "o" in markers] == circled


def test_training_curves_leave_out_what_the_history_lacks():
    assert len(training_curves(_history(with_r2=False)).axes) == 2
    first = training_curves(_history(n_epochs=1))
    assert not any("best" in text for text in _texts(first.axes[0]))
    broken = [*_history(), {"epoch": 31, "train_loss": float("nan"), "learning_rate": 1e-3}]
    line = training_curves(broken).axes[0].lines[1]
    assert line.get_xdata()[-1] == 30
    with pytest.raises(RunError, match="no epoch is complete"):
        training_curves([])


def test_the_fall_of_the_first_epochs_does_not_flatten_the_rest():
    history = _history(n_epochs=200, with_r2=False)
    history[0]["train_loss"] = 1000.0
    assert training_curves(history).axes[0].get_ylim()[1] < 100


def test_an_r2_far_below_zero_neither_flattens_nor_hides_the_rest():
    history = _history()
    history[4]["valid_rate_r2"] = -300.0
    assert training_curves(history).axes[1].get_ylim()[0] == pytest.approx(-0.55)
    for record in history:
        record["valid_rate_r2"] = -5.0
    assert training_curves(history).axes[1].get_ylim()[0] < -5


def test_rates_over_raster_shows_one_line_a_source_in_hz():
    data, inferred_BTN, smoothed_BTN = _data()
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0, neurons=[4, 1])
    raster, first, second = figure.axes
    assert raster.get_ylabel() == "neuron"
    assert raster.images[0].get_array().shape == (6, 40)
    assert {"neuron 1", "neuron 4"} == set(_texts(raster))
    assert [first.get_ylabel(), second.get_ylabel()] == ["neuron 4\n(Hz)", "neuron 1\n(Hz)"]
    assert second.get_xlabel() == "time in trial (ms)"
    lines = {line.get_label(): line for line in first.lines}
    assert set(lines) == {"true rates", "smoothed spikes", "NDT"}
    # 20 ms bins: a count per bin is 50 per second.
    assert lines["NDT"].get_ydata() == pytest.approx(50 * inferred_BTN[0, :, 4])
    assert lines["NDT"].get_xdata()[:2] == pytest.approx([10.0, 30.0])
    assert len({line.get_linestyle() + str(line.get_linewidth()) for line in first.lines}) == 3
    ticks = first.collections[0].get_segments()
    assert len(ticks) == data.spikes_BTN[0, :, 4].sum()


def test_the_rates_of_a_single_bin_are_lines_over_that_bin():
    data, inferred_BTN, smoothed_BTN = _data(n_bins=1)
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0, neurons=[0])
    for line in figure.axes[1].lines:
        assert line.get_xdata().tolist() == [0.0, 20.0]
        assert line.get_ydata()[0] == line.get_ydata()[1]


def test_padding_is_not_drawn_and_unknown_rates_are_left_out():
    data, inferred_BTN, smoothed_BTN = _data(with_rates=False)
    inferred_BTN[1, 25:] = np.nan
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=1)
    assert figure.axes[0].images[0].get_array().shape == (6, 25)
    assert figure.axes[-1].get_xlim() == (0, 500)
    assert {line.get_label() for line in figure.axes[1].lines} == {"smoothed spikes", "NDT"}
    heat = rate_heatmaps(data, inferred_BTN, smoothed_BTN, trial=1)
    assert heat.axes[0].images[0].get_array().shape == (6, 25)
    titles = [axes.get_title() for axes in heat.axes if axes.get_title()]
    assert titles == ["NDT", "smoothed spikes"]


def test_long_trials_are_drawn_in_seconds():
    data, inferred_BTN, smoothed_BTN = _data(n_bins=200)
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0, neurons=[0])
    assert figure.axes[-1].get_xlabel() == "time in trial (s)"
    assert figure.axes[-1].get_xlim() == (0, pytest.approx(4.0))


def test_heatmaps_share_one_scale_for_each_neuron_and_one_order():
    data, inferred_BTN, smoothed_BTN = _data()
    figure = rate_heatmaps(data, inferred_BTN, smoothed_BTN, trial=0)
    true, ndt, smoothed, bar = figure.axes
    assert [axes.get_title() for axes in (true, ndt, smoothed)] == [
        "true rates",
        "NDT",
        "smoothed spikes",
    ]
    assert len({axes.images[0].get_clim() for axes in (true, ndt, smoothed)}) == 1
    peaks = true.images[0].get_array().argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    assert np.asarray(ndt.images[0].get_array()) == pytest.approx(
        0.9 * np.asarray(true.images[0].get_array())
    )
    assert bar.get_ylabel() == "rate / peak of the neuron"


def test_neurons_are_chosen_among_the_modulated_from_quiet_to_busy():
    time_T = np.linspace(0, 2 * np.pi, 50)
    depth_N = np.array([0.0, 0.9, 0.0, 0.9, 0.8, 0.0, 0.9, 0.1])
    mean_N = np.array([5.0, 0.4, 1.0, 0.1, 0.2, 0.3, 0.3, 0.2])
    rates_TN = mean_N * (1 + depth_N * np.sin(time_T)[:, None])
    assert modulated_neurons(rates_TN, 4) == [3, 4, 6, 1]
    assert modulated_neurons(rates_TN, 2) == [3, 1]
    assert len(modulated_neurons(rates_TN, 99)) == 8


def test_what_does_not_exist_is_refused():
    data, inferred_BTN, smoothed_BTN = _data()
    with pytest.raises(DataError, match="trial 3 does not exist"):
        rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=3)
    with pytest.raises(DataError, match="neuron 6 does not exist"):
        rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0, neurons=[6])
    with pytest.raises(DataError, match="no neuron has a rate, so none has a score"):
        per_neuron_scores(np.array([np.nan]), np.array([0.5]))
    with pytest.raises(ValueError, match="1 and of 2"):
        per_neuron_scores(np.zeros(1), np.zeros(2))


def test_scores_below_the_axis_and_undefined_ones_are_counted():
    model_N = np.array([0.9, 0.8, 0.7, np.nan, 0.1])
    smoothed_N = np.array([0.5, -40.0, 0.6, 0.2, 0.3])
    figure = per_neuron_scores(model_N, smoothed_N)
    scatter, strips = figure.axes
    points = next(line for line in scatter.lines if line.get_marker() == "o")
    assert points.get_xdata().tolist() == [0.5, -1.0, 0.6, 0.3]
    assert points.get_ydata().tolist() == [0.9, 0.8, 0.7, 0.1]
    assert _texts(scatter) == ["NDT higher: 3 of 4"]
    assert strips.get_title() == "of 5 neurons, 1 below −1, drawn there; 1 without a score"  # noqa: RUF001
    assert _texts(strips) == ["median 0.40", "median 0.75"]
    assert per_neuron_scores(model_N[:3], model_N[:3]).axes[1].get_title() == ""


def test_every_axis_is_named():
    data, inferred_BTN, smoothed_BTN = _data()
    for figure in (
        training_curves(_history()),
        rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0),
        rate_heatmaps(data, inferred_BTN, smoothed_BTN, trial=0),
        per_neuron_scores(np.array([0.5, 0.6]), np.array([0.2, 0.7])),
    ):
        assert len(_labels(figure)) >= 3
        figure.draw_without_rendering()


def test_names_that_would_overlap_are_moved_apart():
    data, inferred_BTN, smoothed_BTN = _data()
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0, neurons=[2, 5, 1])
    placed = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert placed == {"neuron 1": 1, "neuron 2": 2, "neuron 5": 5}
    many = dataclasses.replace(
        data, spikes_BTN=np.repeat(data.spikes_BTN, 20, axis=2), rates_BTN=None
    )
    wide = (np.repeat(rates_BTN, 20, axis=2) for rates_BTN in (inferred_BTN, smoothed_BTN))
    figure = rates_over_raster(many, *wide, trial=0, neurons=[61, 60, 5, 62])
    placed = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert list(placed) == ["neuron 5", "neuron 60", "neuron 61", "neuron 62"]
    assert np.diff(list(placed.values())).min() > 10


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_same_figure_gives_the_same_bytes(tmp_path, ending):
    first = save_figure(training_curves(_history()), tmp_path / "new" / f"a{ending}")
    second = save_figure(training_curves(_history()), tmp_path / f"b{ending}")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [f"b{ending}"]


def test_files_open_in_the_size_of_the_page(tmp_path):
    path = save_figure(training_curves(_history()), tmp_path / "curves.png")
    # 183 mm, the width of two columns, and 2.8 inches at 200 dots per inch.
    assert imread(path).shape[:2] == (560, 1440)
    svg = save_figure(training_curves(_history()), tmp_path / "curves.svg")
    assert ElementTree.parse(svg).getroot().get("width") == "518.4pt"


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"jpeg; expected \.png, \.svg, \.pdf") as caught:
        save_figure(training_curves(_history()), tmp_path / "curves.jpeg")
    assert "curves.png" in caught.value.hint
    with pytest.raises(SettingsError, match="no suffix"):
        save_figure(training_curves(_history()), tmp_path / "curves")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_figure_is_kept_unless_overwritten(tmp_path):
    path = save_figure(training_curves(_history()), tmp_path / "curves.png")
    before = path.read_bytes()
    with pytest.raises(ExistingFileError):
        save_figure(training_curves(_history(5)), path)
    assert path.read_bytes() == before
    save_figure(training_curves(_history(5)), path, overwrite=True)
    assert path.read_bytes() != before


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_figure(training_curves(_history()), tmp_path / "curves.png")
    before = path.read_bytes()
    full = OSError(errno.ENOSPC, "disk full")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="disk full"):
        save_figure(training_curves(_history(5)), path, overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


def test_drawing_leaves_the_callers_settings_alone(tmp_path):
    before = dict(mpl.rcParams)
    save_figure(training_curves(_history()), tmp_path / "curves.png")
    assert dict(mpl.rcParams) == before


def test_figures_need_no_window_system_and_no_torch():
    code = (
        "import sys, ndt_cli.metrics, ndt_cli.baselines;"
        "from ndt_cli.report import conditions, curves, neurons, trajectories, trial;"
        "print([m for m in ('matplotlib.pyplot', 'torch', 'tkinter') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_single_spike_is_seen_and_named_whatever_the_largest_count():
    data, inferred_BTN, smoothed_BTN = _data()
    data.spikes_BTN[0, :6, 0] = [0, 1, 2, 3, 5, 9]
    figure = rates_over_raster(data, inferred_BTN, smoothed_BTN, trial=0)
    raster = figure.axes[0]
    names = [text.get_text() for text in raster.get_legend().get_texts()]
    assert names == ["1", "3", "6", "9 spikes per bin"]
    (image,) = raster.get_images()
    shades = image.cmap(image.norm([1, 9]))[:, 0]
    assert shades[1] < shades[0] < 0.8  # black, and no lighter than a clear gray
    assert np.ma.getmaskarray(image.get_array())[0, 0]  # no spike: nothing is drawn
