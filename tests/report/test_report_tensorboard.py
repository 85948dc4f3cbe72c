"""What a finished run leaves in TensorBoard's log."""

import dataclasses

import numpy as np
import pytest
from builders import recording, tiny_settings

from ndt_cli.fitting import fit, resume_fit
from ndt_cli.score_text import final_scores

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

SETTINGS = tiny_settings(train={"max_epochs": 2, "tensorboard": True})


def events(run):
    log = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    return log


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own dependencies
def test_a_run_logs_curves_hyperparameters_final_scores_and_pictures(tmp_path):
    spikes = recording(12, 6, rates=True, n_bins=8)
    done = fit(SETTINGS, out=tmp_path / "run", recording=spikes)
    log = events(tmp_path / "run")
    tags = log.Tags()
    assert {"train_loss", "valid_masked_loss", "learning_rate"} <= set(tags["scalars"])
    for name, score in final_scores(done.evaluation).items():
        (event,) = log.Scalars(f"final/{name}")
        assert event.value == pytest.approx(score, rel=1e-5)
        assert event.step == 2
    assert {f"figures/{path.stem}" for path in done.figures} == set(tags["images"])
    assert log.Images("figures/training")[0].width == 1440
    started = log.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.n_layers" in started
    assert b"train.learning_rate" in started

    resume_fit(tmp_path / "run", overrides=["train.max_epochs=3"], recording=spikes)
    assert [event.step for event in events(tmp_path / "run").Scalars("final/R2 mean")] == [2, 3]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_score_that_is_not_defined_is_left_out(tmp_path):
    spikes = recording(12, 6, n_bins=8)
    silent = dataclasses.replace(spikes.valid, spikes_BTN=np.zeros_like(spikes.valid.spikes_BTN))
    fit(SETTINGS, out=tmp_path / "run", recording=dataclasses.replace(spikes, valid=silent))
    scalars = events(tmp_path / "run").Tags()["scalars"]
    assert "final/NLL hidden" in scalars
    assert "final/bits per spike hidden" not in scalars


def test_without_being_asked_nothing_is_logged(tmp_path):
    quiet = tiny_settings(train={"max_epochs": 1})
    fit(quiet, out=tmp_path / "run", recording=recording(6, 3))
    assert not (tmp_path / "run" / "tensorboard").exists()
