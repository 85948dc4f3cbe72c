"""A run is one run: its settings, its data, its log and its checkpoints belong together."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from builders import changed, recording, tiny_settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ndt_cli.engine.inference import load_trained
from ndt_cli.engine.run_folder import RunFolder
from ndt_cli.engine.training import resume, train
from ndt_cli.errors import RunError, RunWarning
from ndt_cli.evaluation import evaluate

SETTINGS = tiny_settings()
LONGER = ["train.max_epochs=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(SETTINGS, out=out, recording=recording(rates=True))
    return out


@pytest.fixture
def run(tmp_path, trained):
    return shutil.copytree(trained, tmp_path / "run")


def _edit(run, **values):
    """Change settings of the folder by hand, as section__name."""
    settings = SETTINGS
    for key, value in values.items():
        section, _, name = key.partition("__")
        settings = changed(settings, section, **{name: value})
    RunFolder(run).write_settings(settings)


def _refused(run, match, data=None):
    """Resume and evaluate refuse the folder; neither changes it, and each can be insisted on."""
    data = data or recording(rates=True)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=match):
        resume(run, recording=data, overrides=LONGER)
    with pytest.raises(RunError, match=match) as caught:
        evaluate(run, recording=data)
    assert "accept_changes=True" in caught.value.hint
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    with pytest.warns(RunWarning, match=match):
        evaluate(run, recording=data, accept_changes=True)
    with pytest.warns(RunWarning, match=match):
        resume(run, recording=data, overrides=LONGER, accept_changes=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__learning_rate", 0.5),
        ("train__seed", 3),
        ("train__batch_size", 2),
        ("mask__ratio", 0.5),
        ("inference__passes", 3),
    ],
)
def test_settings_edited_by_hand_are_named(run, key, value):
    _edit(run, **{key: value})
    name = key.replace("__", r"\.")
    _refused(run, f"{name} was .*, and is {value} in settings.toml")


def test_what_a_run_does_not_compute_with_may_be_edited(run, recwarn):
    _edit(run, train__max_epochs=5, train__device="auto", train__save_interval_minutes=1.0)
    evaluate(run, recording=recording(rates=True))
    resume(run, recording=recording(rates=True))
    assert [w for w in recwarn if w.category is RunWarning] == []


@pytest.mark.parametrize("name", ["last", "best-unmasked-loss"])
@pytest.mark.parametrize(
    ("settings", "data", "what"),
    [
        (changed(SETTINGS, "train", seed=1), recording(rates=True), r"train\.seed was 1"),
        (SETTINGS, recording(rates=True, mean_count=2.0), "other training counts"),
        (SETTINGS, recording(rates=True), "another run of the same settings and data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(run, tmp_path, settings, data, what, name):
    train(settings, out=tmp_path / "other", recording=data)
    shutil.copy(RunFolder(tmp_path / "other").checkpoint(name), RunFolder(run).checkpoint(name))
    with pytest.raises(RunError, match=what):
        load_trained(run, name)
    with pytest.raises(RunError, match=what):
        resume(run, recording=recording(rates=True), overrides=LONGER)
    with pytest.warns(RunWarning, match=what):
        load_trained(run, name, accept_changes=True)


def test_other_true_rates_are_other_data(run):
    data = recording(rates=True)
    off = replace(data.valid, rates_BTN=data.valid.rates_BTN * 1.01)
    _refused(run, "valid trials .* other true rates", replace(data, valid=off))
    without = replace(data, valid=replace(data.valid, rates_BTN=None))
    with pytest.raises(RunError, match="other true rates"):
        evaluate(run, recording=without)


def test_the_last_digits_of_rates_that_another_machine_computes_are_the_same_data(run):
    data = recording(rates=True)
    near = np.nextafter(data.valid.rates_BTN, 1)
    evaluate(run, recording=replace(data, valid=replace(data.valid, rates_BTN=near)))


def test_scores_of_another_run_are_refused(run):
    folder = RunFolder(run)
    folder.write_json("summary.json", {"run": folder.facts().id, "epochs": 2})
    assert folder.read_json("summary.json")["epochs"] == 2
    folder.write_json("summary.json", {"run": "0" * 16, "epochs": 2})
    with pytest.raises(RunError, match=r"summary\.json: these are the scores of another run"):
        folder.read_json("summary.json")


def test_evaluate_checks_a_recording_in_memory_too(run):
    with pytest.raises(RunError, match="other counts"):
        evaluate(run, recording=recording(rates=True, mean_count=2.0))


@pytest.mark.parametrize(("lines", "found"), [([0, 2], 0), ([0, 1, 1, 2], 2)])
def test_a_log_without_an_epoch_or_with_one_twice_is_refused(run, lines, found):
    log = run / "metrics.jsonl"
    whole = log.read_text().splitlines(keepends=True)
    log.write_text("".join(whole[i] for i in lines))
    _refused(run, rf"metrics\.jsonl: found {found} lines of epoch 2; expected one")


def test_runs_of_versions_that_noted_less_still_work(run, recwarn):
    for path in (run / "checkpoints").iterdir():
        with safe_open(path, framework="pt") as file:
            header = {key: text for key, text in file.metadata().items() if key != "origin"}
        save_file(load_file(path), path, header)
    facts = json.loads((run / "run.json").read_text())
    for split in ("train", "valid"):
        del facts["data"][split]["rates_fingerprint"]
    del facts["id"], facts["cpu_capability"]
    (run / "run.json").write_text(json.dumps(facts))
    evaluate(run, recording=recording(rates=True))
    resume(run, recording=recording(rates=True), overrides=LONGER)
    assert [w for w in recwarn if w.category is RunWarning] == []


def test_other_instructions_of_the_processor_are_a_warning(run):
    facts = json.loads((run / "run.json").read_text())
    facts["cpu_capability"] = "VSX"
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.warns(RunWarning, match="started with VSX instructions"):
        resume(run, recording=recording(rates=True), overrides=LONGER)
