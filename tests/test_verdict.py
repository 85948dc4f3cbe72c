"""The verdict: what it says of better and worse scores, and when it warns."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders import changed, recording, spike_data, tiny_settings

from ndt_cli.commands.wording import as_typed
from ndt_cli.engine.training import train
from ndt_cli.evaluation import Scores, evaluate
from ndt_cli.metrics import DecodingScores, RateScores, SpikeScores
from ndt_cli.score_text import ScoreTable, score_notes, score_title
from ndt_cli.verdict import TrainingFacts, judge, overfitting, still_improving

SETTINGS = tiny_settings()


def spike_scores(bits, bits_N=(0.1, 0.2)):
    return SpikeScores(bits, np.array(bits_N), bits, bits, 0.5, 0.5, 100, 1000, 0)


def scores(hidden, *, hidden_N=(0.1, 0.2), heldout=None, r2=None, behavior=None):
    rates = None if r2 is None else RateScores(np.array([r2]), np.array([r2]), *[r2] * 6, 0)
    decoded = None
    if behavior is not None:
        none_V = np.zeros(1)
        decoded = DecodingScores(("x",), np.array([behavior]), behavior, none_V, none_V, 0, 10)
    return Scores(
        rates=rates,
        hidden=spike_scores(hidden, hidden_N),
        seen=spike_scores(9.0),
        heldout=None if heldout is None else spike_scores(heldout),
        forward=None,
        behavior=decoded,
    )


def facts(**values):
    first = TrainingFacts(Path("runs/a"), SETTINGS, [], n_weights=10, n_trials=100, n_spikes=1000)
    return first._replace(**values)


def verdict(model, smoothed, n_scored_trials=100, **values):
    estimates = {
        "NDT": model,
        "smoothed spikes": smoothed,
        "mean rate": scores(0.0, heldout=0.0, r2=0.0),
    }
    return judge(estimates, facts(**values), n_scored_trials)


def history(valid, train_loss):
    """Records of epochs 1, 2, ... with these losses."""
    return [
        {"epoch": epoch, "train_loss": at_training, "valid_masked_loss": at_validation}
        for epoch, (at_validation, at_training) in enumerate(
            zip(valid, train_loss, strict=True), start=1
        )
    ]


def test_a_better_model_is_praised_with_numbers_and_neurons():
    found = verdict(
        scores(0.284, hidden_N=(0.3, 0.2, 0.1)), scores(0.129, hidden_N=(0.2, 0.1, 0.2))
    )
    assert found.sentence == (
        "NDT predicts hidden bins better than smoothing: 0.284 against 0.129 bits/spike, "
        "2 of 3 neurons."
    )
    assert (found.better, found.worse, found.advice) == (("hidden bins",), (), ())


def test_scores_that_are_lost_are_named_with_what_to_try():
    model = scores(0.284, heldout=0.3, r2=0.7, behavior=0.18)
    found = verdict(model, scores(0.129, heldout=0.2, r2=0.7, behavior=0.304))
    assert found.sentence.endswith(
        "; also better on held-out neurons (0.300 against 0.200 bits/spike); equal on true rates "
        "(R2 0.700 against 0.700); worse on behavior (R2 0.180 against 0.304)."
    )
    assert found.better == ("hidden bins", "held-out neurons")
    assert found.worse == ("behavior",)
    assert found.advice[-1].startswith("A search for better settings: `sweep(")


def test_a_model_worse_than_smoothing_is_reported_as_worse():
    found = verdict(scores(-0.05, hidden_N=(-0.1, 0.3)), scores(0.129))
    assert found.sentence.startswith(
        "NDT predicts hidden bins worse than smoothing: -0.050 against 0.129 bits/spike, "
        "better for 1 of 2 neurons"
    )
    assert "worse than the mean rate on hidden bins (-0.050 bits/spike)" in found.warnings


def test_better_than_smoothing_is_not_yet_good():
    found = verdict(scores(-0.015, r2=-0.56), scores(-0.041, r2=-37.0))
    assert found.sentence == (
        "NDT predicts hidden bins better than smoothing: -0.015 against -0.041 bits/spike "
        "(both worse than the mean rate), 0 of 2 neurons; also better on true rates "
        "(R2 -0.560 against -37.000, both worse than the mean rate)."
    )
    assert found.warnings == (
        "worse than the mean rate on hidden bins (-0.015 bits/spike) and true rates (R2 -0.560)",
    )
    assert found.advice


def test_copying_what_is_seen_wins_nothing():
    assert verdict(scores(0.1), scores(0.2)).better == ()


def test_trials_without_spikes_give_no_verdict():
    silent = scores(np.nan, hidden_N=(np.nan, np.nan))
    found = verdict(silent, silent)
    assert "cannot be compared" in found.sentence
    assert found.n_neurons == 0


def test_advice_begins_with_the_most_promising_change_and_is_typed_as_a_command():
    rising = history([1.0, 0.8, 0.6, 0.4], [1.0, 0.8, 0.6, 0.4])
    found = verdict(scores(0), scores(1), history=rising)
    advice = [as_typed(line) for line in found.advice]
    assert "ndt train --config recordings" in advice[0]
    assert "Longer training: ndt train --resume runs/a --set train.max_epochs=6" in advice
    assert any("ndt train --resume runs/a --set" in as_typed(text) for text in found.warnings)
    assert "ndt train --config runs/a/settings.toml --seeds 5" in advice[-2]
    assert "ndt sweep --config runs/a/settings.toml" in advice[-1]
    short = [as_typed(line) for line in verdict(scores(0), scores(1)).advice]
    assert "More dropout: ndt train --config runs/a/settings.toml --set model.dropout=" in short[1]
    assert not any(
        "--seeds" in as_typed(a) for a in verdict(scores(0), scores(1), n_networks=2).advice
    )
    whole = changed(SETTINGS, "mask", empty_ratio=1.0)
    advice = verdict(scores(0), scores(1), settings=whole, history=rising).advice
    assert not any("recordings" in line for line in advice)


def test_overfitting_is_a_validation_loss_that_rises_while_the_training_loss_falls():
    falling = np.linspace(1.0, 0.3, 10)
    valid = [1.0, 0.8, 0.7, 0.6, 0.65, 0.7, 0.75, 0.8, 0.8, 0.8]
    assert "from epoch 4 on" in overfitting(history(valid, falling))
    assert overfitting(history(valid, falling[::-1])) is None  # the training diverges
    assert overfitting(history(falling, falling)) is None
    noisy = [1.0, 0.8, 0.7, 0.6, 0.61, 0.62, 0.61, 0.62, 0.61, 0.62]
    assert overfitting(history(noisy, falling)) is None
    assert overfitting([]) is None


def test_a_run_whose_best_epoch_is_the_last_trained_too_short_a_time():
    steep = np.linspace(1.0, 0.5, 20)
    assert "train longer" in still_improving(facts(history=history(steep, steep)))
    flat = 1.0 - 0.5 * (1 - np.exp(-np.arange(20)))  # still falling, by almost nothing
    assert still_improving(facts(history=history(flat, flat))) is None
    # Validations are rare: between two of them the loss is taken to fall evenly.
    rare = [
        {"epoch": e, "train_loss": 0.44, "valid_masked_loss": v}
        for e, v in ((10, 0.3953), (20, 0.3909), (21, 0.3908))
    ]
    assert still_improving(facts(history=rare)) is None
    risen = [*steep, 0.6]
    assert still_improving(facts(history=history(risen, risen))) is None


def test_the_best_epoch_is_that_of_the_measure_that_chooses():
    by_r2 = changed(SETTINGS, "train", choose_by="rate-r2")
    records = [{"epoch": e, "train_loss": 1.0, "valid_rate_r2": e / 10} for e in range(1, 11)]
    assert still_improving(facts(settings=by_r2, history=records))
    assert still_improving(facts(settings=by_r2, history=records[::-1][1:] + records[:1])) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_weights": 600_000, "n_spikes": 1000}, "600,000 weights for 1,000 spikes"),
        ({"n_trials": 20}, "20 to train on"),
        ({"n_scored_trials": 3}, "these scores come from 3"),
    ],
)
def test_too_little_data_is_a_warning(values, words):
    (warning,) = verdict(scores(0.2), scores(0.1), **values).warnings
    assert words in warning
    assert verdict(scores(0.2), scores(0.1)).warnings == ()


def test_an_older_run_without_spike_totals_is_not_warned_about():
    assert verdict(scores(0.2), scores(0.1), n_spikes=0, n_weights=10**9).warnings == ()


def test_every_evaluation_has_a_verdict_and_its_json(tmp_path):
    spikes = recording(12, 6, rates=True, n_bins=8)
    run = train(SETTINGS, out=tmp_path / "run", recording=spikes).run
    found = evaluate(run, recording=spikes)
    content = found.to_json()["verdict"]
    assert content["sentence"] == found.verdict.sentence
    by_label = {c["score"]: c for c in content["comparisons"]}
    assert by_label["hidden bins"]["model"] == found.scores["NDT"].hidden.bits_per_spike
    assert by_label["true rates"]["smoothing"] == found.scores["smoothed spikes"].rates.r2_mean
    assert any("12 to train on" in warning for warning in content["warnings"])


def test_the_best_of_each_column_is_marked_whoever_has_it():
    table = ScoreTable(
        "",
        ("R2\nmean", "NLL\nhidden", "bits/spike\nhidden"),
        {
            "NDT": (0.5, 0.4, np.nan),
            "smoothed spikes": (0.6, 0.5, 0.2),
            "mean rate": (0.60001, 0.6, 0.1),
            "true rates": (1.0, 0.1, 0.9),
        },
    )
    best = [[name for name in table.rows if table.is_best(name, column)] for column in range(3)]
    # Equal in the decimals shown is equal; the true rates are no estimate.
    assert best == [["smoothed spikes", "mean rate"], ["NDT"], ["smoothed spikes"]]


def test_notes_name_the_lag_of_each_variable_and_those_without_a_score():
    r2_V, lags_ms_V = np.array([0.5, np.nan, 0.4]), np.array([40.0, 0.0, -20.0])
    decoded = DecodingScores(("x", "paw", "y"), r2_V, 0.45, lags_ms_V, lags_ms_V, 0, 10)
    model = dataclasses.replace(scores(0.1), behavior=decoded)
    evaluation = SimpleNamespace(scores={"NDT": model}, warnings=(), hiding="", across={})
    notes = score_notes(evaluation)
    assert notes[-1].endswith(
        "NDT's rates are earlier by 40 ms (x), -20 ms (y) (negative: later); "
        "without a score, since missing or constant: paw"
    )
    notes = score_notes(evaluation, 1)
    assert notes[-1].endswith("earlier by 40 ms (x); 1 of 3 variables are shown")


def test_one_trial_and_one_neuron_are_one():
    data = spike_data(1, 5, n_neurons=1)
    title = score_title(SimpleNamespace(split="valid", source="a.npz", data=data))
    assert title == "valid trials of a.npz: 1 trial x 5 bins of 10 ms x 1 neuron"
    unequal = spike_data(2, 9, lengths_B=[4, 6])  # not the 9 bins to which they are padded
    title = score_title(SimpleNamespace(split="valid", source="a.npz", data=unequal))
    assert title == "valid trials of a.npz: 2 trials x 4 to 6 bins of 10 ms x 3 neurons"
    found = verdict(scores(0.2, hidden_N=[0.2]), scores(0.1, hidden_N=[0.1]))
    assert "1 of 1 neuron." in found.sentence
