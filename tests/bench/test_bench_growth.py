"""Growth: each size once, nothing that would take too long, and a picture of what was measured."""

import json
import math

import pytest
import torch
from builders import tiny_settings

from ndt_cli import app
from ndt_cli.bench import growth as growth_module
from ndt_cli.bench.alone import Alone
from ndt_cli.bench.cost import product_cost, stock_cost
from ndt_cli.bench.growth import Growth, GrowthPoint, measure_growth
from ndt_cli.bench.timing import Times
from ndt_cli.bench.workload import Workload
from ndt_cli.report.growth import growth_curves

WORKLOAD = Workload("tiny", tiny_settings(), n_bins=8, n_neurons=3)
FLOP_PER_S = 1e6


@pytest.fixture
def trained(monkeypatch):
    """What was trained; every machine here makes a million operations a second."""
    done = []

    def alone(workload, kind, n_threads, seconds):
        done.append((workload, kind))
        cost = (
            stock_cost(workload)
            if kind == "stock"
            else product_cost(workload, torch.float32, torch.device("cpu"))
        )
        if workload.n_bins == 13:
            return None
        return Alone(Times((cost.flop / FLOP_PER_S,)), 5_000_000)

    monkeypatch.setattr(growth_module, "train_alone", alone)
    return done


def values(points):
    return [point.value for point in points]


def test_an_axis_holds_the_own_size_too(trained):
    growth = measure_growth(WORKLOAD, {"neurons": (2, 5), "layers": (1, 2)})
    assert values(growth.on("neurons", "ndt")) == [2, 3, 5]
    assert values(growth.on("layers", "stock")) == [1, 2]
    sizes = {(w.n_neurons, w.settings.model.n_layers) for w, _ in trained}
    assert sizes == {(2, 1), (3, 1), (5, 1), (3, 2)}
    assert {point.peak_mb for point in growth.points} == {5.0}


def test_an_axis_is_gone_along_twice_and_the_faster_time_counts(trained, monkeypatch):
    slowdown = iter([3.0] * 6 + [1.0, 5.0, 1.0, 5.0, 1.0, 5.0])  # a busy minute, then a mixed one
    alone = growth_module.train_alone

    def busy(*args):
        times = alone(*args).times
        return Alone(Times((times.seconds[0] * next(slowdown),)), None)

    expected = measure_growth(WORKLOAD, {"neurons": (2, 4)}).points
    trained.clear()
    monkeypatch.setattr(growth_module, "train_alone", busy)
    points = measure_growth(WORKLOAD, {"neurons": (2, 4)}).points
    first, second = trained[:6], trained[6:]
    assert first == second
    ratios = [p.fastest_ms / q.fastest_ms for p, q in zip(points, expected, strict=True)]
    assert ratios == pytest.approx([1.0, 3.0] * 3)


def test_trials_are_those_of_a_step(trained):
    measure_growth(WORKLOAD, {"trials": (2,)})
    assert {w.settings.train.batch_size for w, _ in trained} == {2, 4}


def test_full_context_stands_beside_the_window_along_the_bins_only(trained):
    growth = measure_growth(WORKLOAD, {"bins": (100,), "neurons": (3,)})
    assert values(growth.on("bins", "full context")) == [8, 100]
    assert growth.on("neurons", "full context") == []
    limited, full = (growth.on("bins", line)[-1] for line in ("ndt", "full context"))
    assert full.fastest_ms > limited.fastest_ms
    everything = WORKLOAD.with_setting("model", full_context=True)
    assert measure_growth(everything, {"bins": (10,)}).on("bins", "full context") == []


def test_a_step_that_would_take_too_long_is_left_out_and_said_to(trained):
    growth = measure_growth(WORKLOAD, {"neurons": (3, 60)})
    ndt, stock = growth.on("neurons", "ndt")[-1], growth.on("neurons", "stock")[-1]
    seconds = stock_cost(WORKLOAD.resized(n_neurons=60)).flop / FLOP_PER_S
    assert 8 < seconds < 20
    assert (stock.fastest_ms, stock.peak_mb) == (None, None)
    assert stock.note == f"left out: a step would take about {seconds:.0f} s"
    assert ndt.fastest_ms == pytest.approx(1000 * seconds, rel=0.05)


def test_a_step_that_would_take_more_memory_than_is_free_is_left_out(trained, monkeypatch):
    free = stock_cost(WORKLOAD).saved_bytes * 3
    monkeypatch.setattr(growth_module, "free_bytes_on", lambda device: free)
    growth = measure_growth(WORKLOAD, {"bins": (8, 40)})
    small, large = growth.on("bins", "stock")
    assert small.note == ""
    assert "memory" in large.note
    monkeypatch.setattr(growth_module, "free_bytes_on", lambda device: None)  # not known
    assert measure_growth(WORKLOAD, {"bins": (8, 40)}).on("bins", "stock")[-1].note == ""


def test_memory_that_runs_out_is_said_and_the_rest_is_measured(trained):
    told = []
    growth = measure_growth(WORKLOAD, {"bins": (13, 20)}, watch=told.append)
    assert [point.note for point in growth.on("bins", "ndt")] == ["", "memory ran out", ""]
    assert set(growth.points) <= set(told)
    assert told[0] == growth.points[0]


# The picture


def growth_of(points):
    machine = growth_module.Machine("cpu", "a CPU", 1, "float32", "2", "0")
    return Growth(WORKLOAD, machine, tuple(points))


def points_on(axis, sizes, *, memory=True, gap=None):
    return [
        GrowthPoint(
            axis, size, line,
            None if (size, line) == gap else size * scale,
            None if not memory or (size, line) == gap else size * 2.0,
        )
        for size in sizes
        for line, scale in (("ndt", 1.0), ("stock", 3.0))
    ]  # fmt: skip


def line_of(panel, label):
    (line,) = [line for line in panel.get_lines() if line.get_label() == label]
    return list(line.get_ydata())


def test_each_axis_has_time_above_and_memory_below_on_logarithmic_scales():
    figure = growth_curves(growth_of([*points_on("bins", (8, 50)), *points_on("layers", (1, 2))]))
    assert len(figure.axes) == 4
    assert {panel.get_xscale() for panel in figure.axes} == {"log"}
    assert {panel.get_yscale() for panel in figure.axes} == {"log"}
    time, memory = figure.axes[0], figure.axes[2]
    assert (time.get_ylabel(), memory.get_ylabel()) == ("training step (ms)", "peak memory (MB)")
    assert memory.get_xlabel() == "bins per trial"
    assert line_of(time, "stock layers") == [24.0, 150.0]
    assert line_of(memory, "ndt") == [16.0, 100.0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["ndt", "stock layers"]
    assert [text.get_text() for text in memory.get_xticklabels()] == ["8", "50"]


def test_what_was_not_measured_is_a_gap():
    figure = growth_curves(growth_of(points_on("bins", (8, 50), gap=(50, "stock"))))
    drawn = line_of(figure.axes[0], "stock layers")
    assert drawn[0] == 24.0
    assert math.isnan(drawn[1])


def test_without_any_memory_known_there_is_only_time():
    figure = growth_curves(growth_of(points_on("bins", (8, 50), memory=False)))
    assert [panel.get_ylabel() for panel in figure.axes] == ["training step (ms)"]


# The command


def test_the_command_prints_a_table_an_axis_and_writes_the_picture(
    capsys, tmp_path, trained, monkeypatch
):
    monkeypatch.setattr(growth_module, "AXES", {"bins": (8, 13), "layers": (1, 2)})
    picture = tmp_path / "growth.png"
    args = ["--growth", "--trials=4", "--bins=8", "--neurons=3", "--set=model.n_layers=1"]
    for more in (["--figure", str(picture)], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            app.main(["bench", *args, *more])
        assert caught.value.code == 0
        printed = capsys.readouterr()
        if more == ["--json"]:
            points = json.loads(printed.out)["points"]
            assert {point["axis"] for point in points} == {"bins", "layers"}
        else:
            assert "8 *" in printed.out
            assert "13 bins, stock: memory ran out" in printed.out
            assert f"picture: {picture}" in printed.err
    assert picture.read_bytes().startswith(b"\x89PNG")
