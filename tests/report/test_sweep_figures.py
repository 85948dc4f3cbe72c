"""Figures of a sweep show every member, the best one, those that diverged, and what is cut off."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from builders import tiny_settings

from ndt_cli.errors import RunError
from ndt_cli.report import page as sweep_page
from ndt_cli.report.sweep_figures import (
    draw_curves,
    draw_importance,
    draw_measures,
    draw_parallel,
    draw_settings,
    limits_of,
    write_sweep_figures,
)
from ndt_cli.search.results import STATUSES, MemberResult, SweepResults
from ndt_cli.search.space import Draw

DRAWS = {
    "train.learning_rate": Draw("log-uniform", (1e-5, 1e-2)),
    "model.dropout": Draw("uniform", (0.0, 0.3)),
    "mask.max_span": Draw("integer", (1, 5)),
    "model.norm_place": Draw("choice", ("pre", "post")),
    "model.tfixup_init": Draw("choice", (True, False)),
}


def member(index, loss=math.nan, status="finished", r2=None):
    drawn = {
        "train.learning_rate": 10.0 ** (-5 + index % 4),
        "model.dropout": 0.05 * (index % 6),
        "mask.max_span": 1 + index % 5,
        "model.norm_place": ("pre", "post")[index % 2],
        "model.tfixup_init": bool(index % 2),
    }
    scores = {} if math.isnan(loss) else {"masked-loss": loss}
    if r2 is not None:
        scores["rate-r2"] = r2
    return MemberResult(index, None, drawn, status, scores)


def results(*members, choose_by="masked-loss"):
    return SweepResults(None, choose_by, members, {"mean rate": {"masked-loss": 0.46}})


def drawn_points(axes, marker="o"):
    return [
        tuple(point)
        for line in axes.get_lines()
        if line.get_marker() == marker
        for point in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def curves_of(members, histories, folder):
    """The figure of learning curves of members whose epochs are these."""
    placed = []
    for one in members:
        lines = map(json.dumps, histories.get(one.index, []))
        run = folder / f"{len(list(folder.iterdir()))}"
        run.mkdir()
        (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
        placed.append(replace(one, folder=run))
    return draw_curves(results(*placed), DRAWS).figure


MEMBERS = [member(i, 0.40 + 0.01 * i) for i in range(5)]


def test_each_setting_has_a_panel_with_every_ranked_member_and_the_best_once_more():
    figure = draw_settings(results(*MEMBERS), DRAWS).figure
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == list(DRAWS)
    assert [axes.get_xscale() for axes in panels] == ["log"] + ["linear"] * 4
    for axes in panels:
        assert len(drawn_points(axes)) == len(MEMBERS) + 1
        assert drawn_points(axes)[-1][1] == pytest.approx(0.40)
    assert [tick.get_text() for tick in panels[3].get_xticklabels()] == ["pre", "post"]
    assert [tick.get_text() for tick in panels[4].get_xticklabels()] == ["true", "false"]
    assert "member 0" in figure.get_suptitle()


def test_diverged_members_are_drawn_as_crosses_and_counted():
    lost = member(5, 9.0, "diverged")
    figure = draw_settings(results(*MEMBERS, lost), DRAWS).figure
    assert len(drawn_points(figure.axes[1], "x")) == 1
    assert "1 diverged" in figure.get_suptitle()
    without = draw_settings(results(*MEMBERS), DRAWS).figure
    assert drawn_points(without.axes[1], "x") == []
    assert "diverged" not in without.get_suptitle()


def test_a_score_far_worse_than_the_others_does_not_flatten_them_and_is_counted():
    figure = draw_settings(results(*MEMBERS, member(5, 80.0)), DRAWS).figure
    assert figure.axes[0].get_ylim()[1] < 1
    assert len(drawn_points(figure.axes[0])) == 7  # it is there, at the edge
    assert "1 far worse" in figure.get_suptitle()


def test_the_mean_rate_is_named_where_its_line_is_outside_of_the_panels():
    for losses, words in (([0.45, 0.47], "; dotted: mean rate"), ([0.5, 0.51], "panels: 0.4600")):
        figure = draw_settings(results(*map(member, (0, 1), losses)), DRAWS).figure
        assert figure.get_suptitle().endswith(words)


def test_limits_follow_the_better_direction():
    down, up = (
        limits_of([0.1, 0.2, 0.3, 50.0], "masked-loss"),
        limits_of([-50, 0.7, 0.8, 0.9], "rate-r2"),
    )
    assert down.ends[0] < 0.1 < 0.3 < down.ends[1] == down.worst < 1
    assert up.ends[0] == up.worst > -1
    assert up.ends[1] > 0.9
    assert (down.n_outside, up.n_outside) == (1, 1)
    assert down.held(50.0) == down.worst
    assert up.held(math.nan) == up.worst
    alone = limits_of([0.4], "masked-loss").ends
    assert alone[0] < 0.4 < alone[1]


def test_loss_is_drawn_against_r2_where_r2_is_known():
    scored = [member(i, 0.40 + 0.01 * i, r2=0.9 - 0.1 * i) for i in range(4)]
    figure = draw_measures(results(*scored), DRAWS).figure
    (axes,) = figure.axes
    assert drawn_points(axes)[0] == (pytest.approx(0.40), pytest.approx(0.9))
    with pytest.raises(RunError, match="nothing to compare the loss with"):
        draw_measures(results(*MEMBERS), DRAWS)


def test_every_member_has_a_curve_and_the_best_one_is_named(tmp_path):
    lost = member(5, status="diverged")
    histories = {
        i: [{"epoch": e, "valid_masked_loss": 0.5 - 0.01 * e} for e in range(1, 5)]
        for i in range(6)
    }
    histories[4] = [{"epoch": 1, "train_loss": 0.5}]  # not validated yet
    figure = curves_of([*MEMBERS, lost], histories, tmp_path)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["5 members", "best: member 0", "diverged"]
    curves = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 4]
    assert len(curves) == 5
    with pytest.raises(RunError, match="no member has validated"):
        curves_of(MEMBERS, {0: [{"epoch": 1, "train_loss": 0.5}]}, tmp_path)


def test_a_curve_beyond_the_axis_is_counted(tmp_path):
    def legend(worst):
        histories = {
            i: [{"epoch": e, "valid_masked_loss": 0.4 + 0.001 * i} for e in (1, 2)]
            for i in range(5)
        }
        histories[4] = [{"epoch": e, "valid_masked_loss": worst} for e in (1, 2)]
        figure = curves_of(MEMBERS, histories, tmp_path)
        return figure.axes[0].get_legend().get_texts()[0].get_text()

    assert legend(worst=0.404) == "5 members"
    assert legend(worst=40.0) == "5 members, 1 beyond the axis"


def test_without_a_member_that_has_validated_nothing_is_drawn(tmp_path):
    waiting = MemberResult(0, tmp_path / "members" / "000", member(0).drawn, "waiting", {})
    found = SweepResults(tmp_path, "masked-loss", (waiting,), {})
    assert write_sweep_figures(tmp_path / "figures", found, DRAWS) == []
    for draw in (draw_settings, draw_parallel, draw_curves, draw_importance):
        with pytest.raises(RunError, match="no member has finished yet"):
            draw(found, DRAWS)


def test_a_line_of_each_member_goes_through_its_settings_to_its_score():
    members = [member(0, 0.40), replace(member(1, 0.42), drawn={"mask.max_span": 5})]
    (axes,) = draw_parallel(results(*members), DRAWS).figure.axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == len(DRAWS) + 1]
    worse, best = (line.get_ydata() for line in lines)  # the best is drawn last, on top
    assert best[-1] == 1
    assert worse[-1] == 0
    place = list(DRAWS).index("mask.max_span")
    assert (best[place], worse[place]) == (0, 1)
    # A setting that was not drawn leaves a gap.
    assert [math.isnan(height) for height in worse[:-1]] == [i != place for i in range(len(DRAWS))]
    assert not any(math.isnan(height) for height in best)


def test_a_setting_that_was_not_drawn_has_no_point():
    members = [member(0, 0.40), replace(member(1, 0.42), drawn={"mask.max_span": 5})]
    figure = draw_settings(results(*members), DRAWS).figure
    counts = {axes.get_xlabel(): len(set(drawn_points(axes))) for axes in figure.axes[:3]}
    assert counts == {"train.learning_rate": 1, "model.dropout": 1, "mask.max_span": 2}


def test_the_most_important_setting_is_at_the_top(monkeypatch):
    shares = {"mask.ratio": 0.7, "train.learning_rate": 0.3}
    monkeypatch.setattr("ndt_cli.search.study.importance", lambda *given: shares)
    drawn = draw_importance(results(*MEMBERS), DRAWS)
    (axes,) = drawn.figure.axes
    assert axes.get_title().startswith("uncertain")  # from so few draws
    assert "Uncertain" in drawn.caption
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "learning rate", "mask ratio"
    ]  # fmt: skip
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.7]


def test_the_page_counts_members_of_every_status():
    members = [member(i, status=status) for i, status in enumerate(STATUSES)]
    sweep = SimpleNamespace(
        settings=tiny_settings(),
        space=SimpleNamespace(name="mine", draws=DRAWS),
        plan=SimpleNamespace(seed=0),
    )
    about = dict(sweep_page._about(sweep, results(*members)))
    assert about["members"].startswith(f"{len(STATUSES)}: ")
    assert all(f"1 {status}" in about["members"] for status in STATUSES)
    [lead] = sweep_page._lead(results(*MEMBERS))
    assert lead.endswith("member 0, loss of hidden bins 0.4000; mean rate 0.4600.")
