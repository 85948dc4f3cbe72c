"""Several seeds: ordinary runs, their spread, their ensemble, and exact resuming."""

import json
import shutil

import numpy as np
import pytest
from builders import changed, recording, run_files, tiny_settings
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.data.write import write_recording
from ndt_cli.engine.events import EpochDone
from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.training import resume
from ndt_cli.errors import ExistingFileError, RunError, SettingsError
from ndt_cli.evaluation import evaluate
from ndt_cli.fitting import fit, resume_fit
from ndt_cli.seeds import fit_seeds, resume_seeds

SETTINGS = tiny_settings(train={"max_epochs": 2, "seed": 4})


@pytest.fixture(scope="module")
def spikes():
    return recording(12, 6, rates=True, n_bins=8)


@pytest.fixture(scope="module")
def made(spikes, tmp_path_factory):
    return fit_seeds(SETTINGS, 2, out=tmp_path_factory.mktemp("runs") / "two", recording=spikes)


def test_each_seed_is_an_ordinary_run_and_together_they_are_an_ensemble(made, spikes):
    assert [run.name for run in made.runs] == ["seed-4", "seed-5"]
    rates = [load_trained(run).rates(spikes.valid).astype(float) for run in made.runs]
    assert not np.array_equal(*rates)
    np.testing.assert_allclose(made.evaluation.rates_BTN, np.mean(rates, axis=0), rtol=1e-6)
    assert len(load_trained(made.path / "ensemble").members) == 2


def test_mean_and_standard_deviation_are_those_of_the_runs(made, spikes):
    hidden = [
        evaluate(run, recording=spikes).scores["NDT"].hidden.bits_per_spike for run in made.runs
    ]
    score = made.scores[0]
    assert (score.label, score.values) == ("hidden bins", tuple(hidden))
    assert score.mean == pytest.approx(np.mean(hidden))
    assert score.sd == pytest.approx(abs(hidden[0] - hidden[1]) / np.sqrt(2))
    assert score.ensemble == made.evaluation.scores["NDT"].hidden.bits_per_spike
    assert [score.label for score in made.scores] == ["hidden bins", "true rates"]
    content = json.loads((made.path / "summary.json").read_text())
    assert content["scores"][0]["mean"] == score.mean


def test_an_interrupted_training_resumes_to_the_same_result(made, spikes, tmp_path):
    done = []

    def watch(event):
        done.extend([event] if isinstance(event, EpochDone) else [])

    def in_the_second_run():
        return len(done) >= 3

    cut = fit_seeds(
        SETTINGS, 2, out=tmp_path / "two", recording=spikes, watch=watch,
        should_stop=in_the_second_run,
    )  # fmt: skip
    assert (cut.finished, cut.scores, cut.evaluation) == (False, [], None)
    assert not (tmp_path / "two" / "ensemble").exists()
    first = (tmp_path / "two" / "seed-4" / "metrics.jsonl").stat().st_mtime_ns
    whole = resume_seeds(tmp_path / "two", recording=spikes)
    assert whole.scores == made.scores
    np.testing.assert_array_equal(whole.evaluation.rates_BTN, made.evaluation.rates_BTN)
    # What was finished is not trained again.
    assert (tmp_path / "two" / "seed-4" / "metrics.jsonl").stat().st_mtime_ns == first
    assert resume_seeds(tmp_path / "two", recording=spikes).scores == made.scores


def test_a_seed_that_was_killed_while_it_was_drawn_is_drawn_on_resuming(
    made, spikes, tmp_path, monkeypatch
):
    class KilledError(Exception):
        pass

    def killed(folder, evaluation):
        (folder.figures / ".rates.0123abcd.part.png").touch()
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("ndt_cli.fitting.write_run_figures", killed)
        with pytest.raises(KilledError):
            fit_seeds(SETTINGS, 2, out=tmp_path / "two", recording=spikes)
    assert not (tmp_path / "two" / "seed-4" / "summary.json").exists()
    assert resume_seeds(tmp_path / "two", recording=spikes).scores == made.scores
    assert run_files(tmp_path / "two") == run_files(made.path)


def test_a_run_that_is_trained_further_keeps_no_scores_of_its_earlier_end(spikes, tmp_path):
    longer = ["train.max_epochs=4"]
    fit(SETTINGS, out=tmp_path / "run", recording=spikes, draw=False)
    ended = {"summary.json", "rates.h5"}
    assert ended <= set(run_files(tmp_path / "run"))
    # Nothing is left to train: the scores stay those of its weights.
    resume(tmp_path / "run", recording=spikes)
    assert ended <= set(run_files(tmp_path / "run"))
    resume(tmp_path / "run", overrides=longer, recording=spikes, until_epoch=3)
    assert ended.isdisjoint(run_files(tmp_path / "run"))
    resume_fit(tmp_path / "run", recording=spikes)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 4


def test_seeds_with_other_settings_are_not_averaged(made, spikes, tmp_path):
    shutil.copytree(made.path, tmp_path / "two")
    file = tmp_path / "two" / "seeds.toml"
    file.write_text(file.read_text().replace("max_epochs = 2", "max_epochs = 3"))
    with pytest.raises(SettingsError, match=r"seed-4 has .*max_epochs was 2, and is 3"):
        resume_seeds(tmp_path / "two", recording=spikes)


def test_a_folder_is_never_overwritten_and_one_seed_is_none(spikes, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ExistingFileError, match="mine already exists"):
        fit_seeds(SETTINGS, 2, out=tmp_path / "mine", recording=spikes)
    with pytest.raises(SettingsError, match=r"`n_seeds=1`: expected 2 or more"):
        fit_seeds(SETTINGS, 1, out=tmp_path / "new", recording=spikes)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "content", ["{}", '{"format": "ndt-seeds", "version": 1, "seeds": ["../x"]}']
)
def test_a_damaged_list_of_seeds_is_named(tmp_path, content):
    (tmp_path / "seeds.json").write_text(content)
    with pytest.raises(RunError, match=r"seeds\.json"):
        resume_seeds(tmp_path)


def test_the_command_prints_the_spread_and_resumes(spikes, tmp_path):
    write_recording(spikes, tmp_path / "spikes.h5")
    settings = changed(SETTINGS, "data", file=tmp_path / "spikes.h5")
    out = tmp_path / "two"
    assert not fit_seeds(settings, 2, out=out, should_stop=lambda: True).finished
    refused = CliRunner().invoke(app, ["train", "--resume", str(out), "--set", "train.seed=1"])
    assert refused.exit_code == 2
    assert "keep their settings" in refused.stderr
    result = CliRunner().invoke(app, ["train", "--resume", str(out)])
    assert result.exit_code == 0, result.output
    for words in ("mean", "SD", "ensemble", "hidden bins (bits/spike)", "smoothing:"):
        assert words in result.stdout
    shown = CliRunner().invoke(app, ["train", "--resume", str(out), "--json"])
    assert json.loads(shown.stdout)["ensemble"]["verdict"]["sentence"].startswith("NDT")
