"""Search spaces: what they may hold, and what is drawn from them."""

import math

import numpy as np
import pytest
from builders import tiny_settings

from ndt_cli.errors import SettingsError
from ndt_cli.search.space import (
    SPACE_OF_PRESET,
    Draw,
    Space,
    default_space,
    find_space,
    space_names,
)
from ndt_cli.settings.load import load_settings, preset_names

# Three dropouts, context, random ratio, token ratio, widest span; warm-up where it is searched.
PAPER = {
    "generic": ((0, 0.3), (4, 32), (0.9, 1), Draw("uniform", (0.5, 1)), (1, 5), None),
    "maze-rtt": ((0.3, 0.7), (10, 100), (0.8, 1), Draw("log-uniform", (0.5, 1)), (1, 7), (0, 2000)),
    "area2_bump": ((0.2, 0.6), (4, 100), (0.9, 1), Draw("log-uniform", (0.5, 1)), (1, 5), None),
    "dmfc_rsg": ((0.3, 0.7), (40, 240), (0.9, 1), Draw("log-uniform", (0.5, 1)), (1, 7), (0, 2000)),
}
OURS = {
    "quick": "chaotic-rnn-quick", "recordings": "recordings",
    "recordings-causal": "recordings-causal",
}  # fmt: skip


def space(**tables):
    return Space.from_tables("mine", tables)


@pytest.mark.parametrize("name", PAPER)
def test_a_shipped_space_is_that_of_the_paper(name):
    dropout, context, random_ratio, token_ratio, max_span, warmup = PAPER[name]
    expected = {
        "model.dropout": Draw("uniform", dropout),
        "model.dropout_embedding": Draw("uniform", dropout),
        "model.dropout_rates": Draw("uniform", dropout),
        "model.context_forward": Draw("integer", context),
        "model.context_back": Draw("integer", context),
        "mask.ratio": Draw("uniform", (0.1, 0.4)),
        "mask.token_ratio": token_ratio,
        "mask.random_ratio": Draw("uniform", random_ratio),
        "mask.max_span": Draw("integer", max_span),
        "train.learning_rate": Draw("log-uniform", (1e-5, 5e-3)),
        "train.weight_decay": Draw("log-uniform", (1e-8, 1e-3)),
    }
    if warmup:
        expected["train.warmup_epochs"] = Draw("integer", warmup)
    found = find_space(name)
    assert found.draws == expected


@pytest.mark.parametrize(("name", "preset"), OURS.items())
def test_a_space_of_our_own_lies_around_its_preset(name, preset):
    its, settings = find_space(name), load_settings(preset)
    for key, draw in its.draws.items():
        section, _, field = key.partition(".")
        low, high = draw.values
        assert low <= getattr(getattr(settings, section), field) <= high, key


def test_the_space_of_a_causal_preset_keeps_it_causal():
    causal = load_settings("recordings-causal")
    assert default_space(causal, "settings") == default_space(causal) == "recordings-causal"
    draws = find_space(default_space(causal, "recordings-causal")).draws
    assert not draws.keys() & {"model.context_forward", "model.positions", "model.full_context"}
    assert load_settings("recordings-causal").model.context_forward == 0


def test_the_shipped_spaces_are_these_and_presets_name_them():
    assert set(space_names()) == {*PAPER, *OURS, "from-run"}
    assert set(SPACE_OF_PRESET) <= set(preset_names())
    assert set(SPACE_OF_PRESET.values()) <= {*PAPER, *OURS}
    assert default_space(load_settings("mc_rtt"), "mc_rtt") == "maze-rtt"
    assert default_space(load_settings("lorenz-quick"), "lorenz-quick") == "quick"
    assert default_space(load_settings("lorenz"), "lorenz") == "generic"
    assert default_space(load_settings("recordings"), "settings") == "recordings"


def test_training_that_starts_from_a_run_draws_no_other_network():
    for preset in preset_names():
        settings = load_settings(preset, ["train.start_from=runs/first"])
        its = find_space(default_space(settings, preset))
        assert its.name == "from-run"
        drawn = {key for key in its.draws if key.startswith("model.")}
        assert drawn == {"model.dropout", "model.dropout_embedding", "model.dropout_rates"}
        for member in range(20):
            its.settings_with(settings, its.draw(0, member), member)


@pytest.mark.parametrize("preset", preset_names())
def test_the_settings_of_every_preset_take_what_its_space_draws(preset):
    settings = load_settings(preset)
    its = find_space(default_space(settings, preset))
    for member in range(50):
        its.settings_with(settings, its.draw(0, member), member)


# What is drawn


def test_a_member_s_draw_depends_on_the_seed_and_its_number_alone():
    its = find_space("generic")
    first = [its.draw(3, member) for member in range(10)]
    assert [its.draw(3, member) for member in reversed(range(20))][:-11:-1] == first
    assert its.draw(4, 0) != first[0]
    assert len({draw["train.learning_rate"] for draw in first}) == 10


def test_draws_keep_to_their_ranges_and_are_spread_as_they_say():
    its = space(
        train={"learning_rate": {"log-uniform": [1e-4, 1e-2]}},
        model={
            "dropout": {"uniform": [0.2, 0.6]},
            "context_back": {"integer": [4, 6]},
            "norm_place": {"choice": ["pre", "post"]},
        },
    )
    drawn = [its.draw(0, member) for member in range(2000)]
    rates = np.array([values["train.learning_rate"] for values in drawn])
    dropouts = np.array([values["model.dropout"] for values in drawn])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-2
    assert np.log10(rates).mean() == pytest.approx(-3, abs=0.05)
    assert (dropouts.min() >= 0.2, dropouts.max() <= 0.6) == (True, True)
    assert dropouts.mean() == pytest.approx(0.4, abs=0.01)
    counts = np.unique([values["model.context_back"] for values in drawn], return_counts=True)
    assert counts[0].tolist() == [4, 5, 6]  # both ends
    assert counts[1].min() > 550
    assert {values["model.norm_place"] for values in drawn} == {"pre", "post"}


def test_a_log_uniform_draw_never_leaves_its_ends_by_rounding():
    class End:
        def uniform(self, low, high):
            return high

    # exp(log(x)) is above x for some x.
    assert any(math.exp(math.log(x / 1000)) > x / 1000 for x in range(1, 1000))
    for x in range(1, 1000):
        assert Draw("log-uniform", (1e-9, x / 1000)).draw(End()) <= x / 1000


def test_a_member_has_the_base_s_settings_but_for_what_is_drawn_and_its_seed():
    base = tiny_settings(train={"seed": 7})
    its = space(train={"learning_rate": {"uniform": [0.1, 0.2]}})
    member = its.settings_with(base, its.draw(0, 3), 3)
    assert 0.1 <= member.train.learning_rate <= 0.2
    assert member.train.seed == 10
    undone = {"learning_rate": base.train.learning_rate, "seed": 7}
    restored = member.model_copy(update={"train": member.train.model_copy(update=undone)})
    assert restored == base


def test_a_space_that_is_written_reads_back_the_same(tmp_path):
    its = space(
        train={"learning_rate": {"log-uniform": [1e-5, 5e-3]}, "seed": {"integer": [0, 9]}},
        model={"norm_place": {"choice": ["pre", "post"]}, "tfixup_init": {"choice": [True, False]}},
    )
    (tmp_path / "mine.toml").write_text(its.to_toml(), encoding="utf-8")
    assert find_space(tmp_path / "mine.toml").draws == its.draws


# What is refused


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"train": {"learing_rate": {"uniform": [0, 1]}}}, "did you mean train.learning_rate"),
        ({"mask": {"dropout": {"uniform": [0, 0.5]}}}, "did you mean model.dropout"),
        ({"data": {"bin_ms": {"choice": [5.0, 10.0]}}}, "share the same data"),
        ({"train": {"learning_rate": [1e-5, 1e-3]}}, "expected a draw"),
        ({"train": {"learning_rate": {"low": 0.1, "high": 0.2}}}, "expected a draw"),
        ({"train": {"learning_rate": {"loguniform": [0.1, 0.2]}}}, "did you mean log-uniform"),
        ({"train": {"learning_rate": {"uniform": [0.2, 0.1]}}}, "lower end first"),
        ({"train": {"learning_rate": {"uniform": [0.1]}}}, "takes two numbers"),
        ({"train": {"learning_rate": {"uniform": [0.1, math.inf]}}}, "takes two numbers"),
        ({"train": {"learning_rate": {"uniform": [False, True]}}}, "takes two numbers"),
        ({"train": {"weight_decay": {"log-uniform": [0.0, 0.1]}}}, "above zero"),
        ({"train": {"warmup_epochs": {"integer": [0.0, 9.0]}}}, "two whole numbers"),
        ({"model": {"norm_place": {"choice": []}}}, "a list of values"),
        ({"model": {"norm_place": {"choice": [["pre"]]}}}, "found"),
        # The setting's own range and type.
        ({"train": {"learning_rate": {"uniform": [0.1, 2.0]}}}, "2.0 .* above 0, at most 1"),
        ({"train": {"warmup_epochs": {"uniform": [0, 9]}}}, "0.0 .* whole number"),
        ({"model": {"norm_place": {"choice": ["pre", "pst"]}}}, "did you mean post"),
        ({"train": {"max_steps": {"integer": [10, 99]}}}, "draw train.max_epochs"),
        ({"model": {"dropout_bins": {"integer": [10, 99]}}}, "draw model.dropout"),
        ({"train": 3}, "sections"),
        ({"train.dropout": {"uniform": [0, 1]}}, r"expected dropout in a section \[train\]"),
        ({}, "no setting"),
    ],
)
def test_an_error_in_a_space_is_named(tables, said):
    with pytest.raises(SettingsError, match=said) as caught:
        space(**tables)
    assert "mine" in caught.value.message
    assert "find_space()" in caught.value.hint
    assert "field_table()" in caught.value.hint


def test_all_mistakes_of_a_space_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        space(train={"learing_rate": {"uniform": [0, 1]}, "clip": {"uniform": [0, 1]}})
    assert len(caught.value.message.splitlines()) == 2


def test_a_drawn_value_that_the_settings_refuse_is_named_with_its_member():
    its = space(train={"warmup_epochs": {"integer": [50, 60]}})
    base = tiny_settings(train={"schedule": "cosine", "max_epochs": 10})
    with pytest.raises(SettingsError, match=r"member 4: .*warmup_epochs.*drawn from space mine"):
        its.settings_with(base, its.draw(0, 4), 4)
    assert its.settings_with(tiny_settings(train={"max_epochs": 100}), its.draw(0, 4), 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[train\n", "line 1, column 7"),
        (b"\x80", "not UTF-8"),
        (b"[train]\nlearning_rat = { uniform = [0.1, 0.2] }", "did you mean"),
    ],
)
def test_a_file_that_is_no_space_is_named(tmp_path, content, said):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as caught:
        find_space(path)
    assert "mine.toml" in caught.value.message


def test_a_space_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match="did you mean the space generic"):
        find_space("generik")
