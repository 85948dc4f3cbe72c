"""Any settings on trials of any shape: a result that is whole, or a refusal in words."""

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st
from same_run import assert_same_run

from ndt_cli.data.spike_data import Recording, SpikeData
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import NdtError
from ndt_cli.evaluation import evaluate
from ndt_cli.settings.load import load_settings

FLAG = [False, True]
CHOICES = {
    "model.embedding": ["identity", "count-table", "linear"],
    "model.embedding_size": [1, 3],
    "model.width": ["auto", "auto", 16, 20],
    "model.positions": ["learned", "sinusoid", "none"],
    "model.position_offset": FLAG,
    "model.n_layers": [1, 2],
    "model.n_heads": [1, 2, 2, 3],
    "model.head_spans": [[], [], [1, 3.5]],
    "model.feedforward_size": [1, 8],
    "model.activation": ["relu", "gelu"],
    "model.norm": ["layer", "scale"],
    "model.norm_place": ["pre", "post"],
    "model.tfixup_init": FLAG,
    "model.context_back": [-1, 0, 1, 8],
    "model.context_forward": [-1, 0, 1, 8],
    "model.full_context": FLAG,
    "model.context_wrap_initial": [False, False, False, True],
    "model.dropout": [0.0, 0.1, 0.9],
    "model.dropout_embedding": [0.0, 0.2],
    "model.dropout_rates": [0.0, 0.9],
    "model.readout": ["linear", "mlp"],
    "model.readout_init": ["mean-rate", "zero"],
    "model.loss": ["poisson", "cross-entropy"],
    "model.log_rates": FLAG,
    "mask.mode": ["timestep", "full", "neuron", "timestep-only"],
    "mask.ratio": [0.01, 0.25, 1.0],
    "mask.token_ratio": [0.0, 0.5, 1.0],
    "mask.random_ratio": [0.0, 0.5, 1.0],
    "mask.empty_ratio": [0.0, 0.0, 0.5, 1.0],
    "mask.neuron_ratio": [0.0, 0.0, 0.3],
    "inference.passes": [1, 1, 2, 5],
    "inference.hidden_ratio": [0.25, 0.9],
    "mask.zero_token": FLAG,
    "mask.max_span": [1, 1, 1, 3],
    "mask.span_ramp_start_epoch": [0, 1],
    "mask.span_ramp_end_epoch": [1, 2],
    "train.precision": ["float32", "bfloat16"],
    "train.seed": [0, 7],
    "train.batch_size": [1, 2, 64],
    "train.learning_rate": [1e-3, 1e-3, 1.0],
    "train.weight_decay": [0.0, 0.1],
    "train.clip_norm": [0.001, 200.0],
    "train.schedule": ["constant", "cosine", "inverse-sqrt"],
    "train.warmup_epochs": [1, 1, 1, 0, 3],
    "train.topk_fraction": [0.01, 1.0],
    "train.val_interval_epochs": [1, 5],
    "train.patience_epochs": [1, 100],
    "train.plain_layers": FLAG,
    "train.choose_by": ["masked-loss"] * 3 + ["unmasked-loss", "rate-r2", "co-bps"],
}
FIXED = {"data.synthetic": "none", "train.device": "cpu", "train.n_threads": 1}


@st.composite
def recordings(draw):
    """Two splits of a few trials, from one silent neuron in one bin upwards."""
    n_bins, n_neurons = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    n_of = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    highest = draw(st.sampled_from([5, 1, 300, 5, 0]))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    counts_BTN = rng.integers(0, highest + 1, (sum(n_of), n_bins, n_neurons))
    lengths_B = np.full(sum(n_of), n_bins)
    if draw(st.booleans()):
        lengths_B = rng.integers(1, n_bins + 1, sum(n_of))
    counts_BTN[np.arange(n_bins) >= lengths_B[:, None]] = 0
    data = SpikeData(
        counts_BTN.astype(np.uint8 if highest < 256 else np.uint16),
        bin_ms=20.0,
        lengths_B=lengths_B,
        n_heldout=draw(st.integers(0, n_neurons - 1)),
        n_forward=draw(st.integers(0, n_bins - 1)),
    )
    if draw(st.booleans()):
        data = dataclasses.replace(data, rates_BTN=rng.gamma(2.0, 0.5, counts_BTN.shape))
    if draw(st.booleans()):
        data = dataclasses.replace(
            data,
            behavior_BTV=rng.standard_normal((*counts_BTN.shape[:2], 2)),
            conditions_B=np.arange(sum(n_of)) % 2,
        )
    splits = np.split(np.arange(sum(n_of)), [n_of[0]])
    return Recording(*(data.take(trials) for trials in splits), source="drawn", layout="synthetic")


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(recordings(), st.fixed_dictionaries({k: st.sampled_from(v) for k, v in CHOICES.items()}))
def test_any_settings_on_any_trials_give_a_whole_result_or_a_refusal(recording, chosen):
    overrides = [f"{key}={json.dumps(value)}" for key, value in {**FIXED, **chosen}.items()]
    refusal = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            train_and_check(Path(folder), overrides, recording)
        except NdtError as error:
            refusal = error
    event("trained" if refusal is None else f"refused: {type(refusal).__name__}")
    assert refusal is None or len(refusal.message) > 10


def train_and_check(folder, overrides, recording):
    """Train with a halt and without, to the same bits, and look at what comes out."""
    wanted = load_settings("lorenz-quick", [*overrides, "train.max_epochs=2"])
    train(wanted, out=folder / "halted", recording=recording, until_epoch=1)
    resume(folder / "halted", recording=recording)
    train(wanted, out=folder / "straight", recording=recording)
    assert_same_run(folder / "halted", folder / "straight")
    check_whole(evaluate(folder / "halted", recording=recording), recording.valid)


def check_whole(evaluation, data):
    """Rates of every entry, and a score wherever there is something to score."""
    for rates_BTN in (evaluation.rates_BTN, evaluation.smoothed_BTN):
        assert rates_BTN.shape == data.spikes_BTN.shape
        assert np.isfinite(rates_BTN).all()
        assert (rates_BTN >= 0).all()
        assert not rates_BTN[~data.inside_BT].any()
    assert evaluation.activations[:].shape[:2] == data.spikes_BTN.shape[:2]
    for estimate in evaluation.scores.values():
        assert (estimate.heldout is None) == (data.n_heldout == 0)
        assert (estimate.forward is None) == (data.n_forward == 0)
        for scores in (estimate.hidden, estimate.seen, estimate.heldout, estimate.forward):
            if scores is not None:
                assert np.isfinite(scores.nll) == (scores.n_scored > 0)
                assert np.isfinite(scores.bits_per_spike) == (scores.n_spikes > 0)
