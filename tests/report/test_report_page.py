"""The page of a run: whole in one file, safe with any name, and true to the run."""

import base64
import dataclasses
import hashlib
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from builders import recording, spike_data, tiny_settings

from ndt_cli import app
from ndt_cli.commands.wording import as_typed
from ndt_cli.data.spike_data import Recording
from ndt_cli.data.write import write_recording
from ndt_cli.engine.ensembles import save_ensemble
from ndt_cli.engine.events import EpochDone
from ndt_cli.engine.training import train
from ndt_cli.errors import ExistingFileError, NdtError, RunError, SettingsError
from ndt_cli.evaluation import evaluate
from ndt_cli.fitting import fit
from ndt_cli.report.figures import new_figure
from ndt_cli.report.page import (
    GENERATOR,
    changed_settings,
    data_uri,
    render,
    run_html,
    training_rows,
    write_report,
)
from ndt_cli.report.registry import RunContents
from ndt_cli.report.trial import spread_trials
from ndt_cli.score_text import final_scores
from ndt_cli.settings.tree import Settings

HOSTILE = """<img src=x onerror=alert(1)>&"'$\\frac{.npz"""


class Page(HTMLParser):
    """What a browser would find in a page."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.images, self.links, self.open = [], [], [], [], []
        self.words, self.headings, self.rows, self.attributes = [], [], [], []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "img":
            self.images.append(attrs)
        if "href" in attrs:
            self.links.append(attrs["href"])
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "h2" in self.open:
            self.headings.append(data)
        if {"td", "th"} & set(self.open) and self.rows:
            self.rows[-1].append(data)

    @property
    def text(self):
        return "".join(self.words)

    def figure_names(self):
        return [name.removeprefix("figure-") for name in self.ids if name.startswith("figure-")]


def with_conditions(spikes):
    return Recording(
        *(
            dataclasses.replace(split, conditions_B=np.arange(split.n_trials) % 2)
            for split in (spikes.train, spikes.valid)
        ),
        spikes.source,
        "synthetic",
        notes=("Something was assumed.",),
    )


SETTINGS = tiny_settings(model={"n_layers": 2, "n_heads": 2}, train={"max_epochs": 2})


@pytest.fixture(scope="module")
def spikes():
    return with_conditions(recording(12, 6, rates=True, n_bins=8, n_neurons=4))


@pytest.fixture(scope="module")
def run(spikes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    return fit(SETTINGS, out=out, recording=spikes).training.run


@pytest.fixture(scope="module")
def text(run, spikes):
    return run_html(RunContents(run, recording=spikes))


@pytest.fixture
def unpainted(monkeypatch):
    """Leave the pictures out of pages, where a test is about their words."""
    monkeypatch.setattr("ndt_cli.report.page.data_uri", lambda figure: "data:,")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_each_section_has_its_heading_and_its_figures(page):
    assert page.headings == [
        "Data and training",
        "Scores of NDT and baselines",
        "Learning curves",
        "Spikes and inferred rates",
        "Single neurons",
        "Population trajectories",
        "Attention",
        "Settings",
        "Versions",
        "How to reproduce",
    ]
    assert page.figure_names() == [
        "training",
        "rates",
        "heatmaps",
        "conditions",
        "psth",
        "neurons-r2",
        "neurons-bits",
        "trajectories-2d",
        "trajectories-3d",
        "attention-maps",
        "attention-lags",
    ]
    assert len(page.images) == 11
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert all(int(image["width"]) > 300 for image in page.images)


def test_nothing_is_loaded_from_elsewhere(page, text):
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert not {"iframe", "object", "embed", "form"} & set(page.tags)
    assert "fetch(" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(text) < 3_000_000


def test_every_link_leads_to_a_section_and_no_id_comes_twice(page):
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links if link != "data:,"} <= set(page.ids)


def test_the_scores_are_those_of_the_evaluation(page, run, spikes):
    scores = final_scores(evaluate(run, recording=spikes))
    model = [cell for row in page.rows if row and row[0] == "NDT" for cell in row[1:]]
    assert model == [f"{value:.4f}" for value in scores.values()]
    assert {"smoothed spikes", "mean rate", "true rates"} <= {
        word.partition(" (")[0] for row in page.rows for word in row[:1]
    }


def test_the_page_names_the_model_and_its_data(page, run):
    facts = {row[0]: "".join(row[1:]) for row in page.rows if len(row) >= 2}
    assert facts["trials"] == "12 training, 6 validation"
    assert facts["neurons"] == "4"
    assert facts["conditions"] == "2"
    assert facts["training"].startswith("2 of at most 2 epochs (all epochs completed) in ")
    assert facts["device"] == "cpu, float32, 1 CPU thread"
    assert "Something was assumed." in page.text
    about = json.loads((run / "run.json").read_text())
    assert about["data"]["train"]["fingerprint"] in page.text
    assert about["packages"]["torch"] in page.text


def test_settings_that_differ_come_first_and_all_follow(page, run):
    changed = changed_settings(SETTINGS)
    assert {"model.n_layers", "train.max_epochs"} <= {row["key"] for row in changed}
    assert "model.n_heads" not in {row["key"] for row in changed}  # two is the default
    first = page.text.index("All settings")
    assert all(page.text.index(row["key"]) < first for row in changed)
    assert (run / "settings.toml").read_text().strip() in page.text
    assert changed_settings(Settings()) == []


def test_calls_to_repeat_the_run_are_given(page, run):
    assert f"train(load_settings('{run}/settings.toml'), out='{run}-again')" in page.text
    assert f"evaluate('{run}')" in page.text
    assert f"write_rates('rates.h5', infer_rates('{run}'))" in page.text
    assert f"plot('{run}', 'rates', out='rates.pdf')" in page.text
    assert f"write_report('{run}')" in page.text


def test_on_the_command_line_the_page_gives_commands(run, spikes, unpainted):
    text = Page(run_html(RunContents(run, recording=spikes), as_typed)).text
    assert f"ndt train --config {run}/settings.toml --out {run}-again\n" in text
    assert f"ndt evaluate {run}\n" in text
    assert f"ndt rates {run} --out rates.h5\n" in text
    assert f"ndt plot {run} rates --out rates.pdf\n" in text
    assert f"ndt report {run}\n" in text


def test_a_session_of_several_is_repeated_in_the_run_of_all(run, spikes, unpainted):
    session = RunContents(run, recording=spikes)
    session.about["trained_in"] = "/runs/days"
    text = Page(run_html(session)).text
    assert "train(load_settings('/runs/days/settings.toml'), out='/runs/days-again')" in text


def test_no_name_from_a_file_is_taken_for_html(tmp_path, unpainted):
    wide = np.random.default_rng(0).normal(size=(18, 8, 2))
    hostile = "</td><script>alert(2)</script>"
    splits = [
        dataclasses.replace(
            spike_data(n, 8, 3, seed=n),
            behavior_BTV=wide[:n],
            behavior_names=(hostile, "$\\frac{"),
        )
        for n in (12, 6)
    ]
    file = tmp_path / HOSTILE
    write_recording(Recording(*splits, "tiny", "synthetic"), file)
    settings = SETTINGS.model_copy(update={"data": SETTINGS.data.model_copy(update={"file": file})})
    run = train(settings, out=tmp_path / '<b onclick="x">run').run
    made = write_report(run)
    page = Page(made.read_text(encoding="utf-8"))
    assert made.name == "report.html"
    assert HOSTILE in page.text
    assert hostile in page.text
    assert '<b onclick="x">run' in page.text
    assert page.tags.count("script") == 2  # the picker and its data
    policy = re.search(r"script-src '(sha256-[^']+)'", made.read_text(encoding="utf-8"))[1]
    script = re.search(r"<script>(.*?)</script>", made.read_text(encoding="utf-8"), re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"sha256-{digest}"  # so that no other script can run
    assert not {"onerror", "onclick"} & set(page.attributes)
    assert all(image["src"].startswith("data:") for image in page.images)


def test_a_template_with_a_missing_value_is_an_error():
    with pytest.raises(Exception, match="undefined"):
        render("run.html", SETTINGS, {})


# What a run may lack


def page_of(spikes, tmp_path, settings=SETTINGS):
    run = train(settings, out=tmp_path / "run", recording=spikes).run
    return Page(run_html(RunContents(run, recording=spikes)))


def test_one_neuron_without_conditions_has_a_page_that_names_what_is_missing(tmp_path, unpainted):
    short = [6, 1, 3, 6, 5]
    splits = [
        spike_data(len(b), 6, 1, seed=s, lengths_B=b) for s, b in ((1, short * 2), (2, short))
    ]
    page = page_of(Recording(*splits, "tiny", "synthetic"), tmp_path)
    assert "trajectories in 2 dimensions need at least 2 neurons; found 1" in page.text
    assert "these trials have no conditions to average over" in page.text
    # A quiet, a typical and a busy trial stand for the conditions.
    names = page.figure_names()
    assert sum(name.startswith("rates-") for name in names) == 3
    assert "neurons-r2" not in names
    assert len(page.images) == 8
    assert "1 to 6 per trial" in page.text
    assert "2 of at most 2 epochs (all epochs completed)" in page.text


def test_held_out_neurons_have_their_own_figure(tmp_path, unpainted):
    spikes = recording(12, 6, n_bins=8, n_neurons=6, n_heldout=2)
    page = page_of(spikes, tmp_path)
    assert "neurons-heldout" in page.figure_names()
    assert "6, of which 2 are held out" in page.text
    assert any("bits/spike\nheld-out" in row for row in page.rows)


def test_silent_validation_trials_have_a_page(tmp_path, unpainted):
    spikes = recording(12, 6, n_bins=8)
    silent = dataclasses.replace(spikes.valid, spikes_BTN=np.zeros_like(spikes.valid.spikes_BTN))
    page = page_of(dataclasses.replace(spikes, valid=silent), tmp_path)
    assert "no neuron has a spike in these trials" in page.text
    assert "training" in page.figure_names()


def test_an_ensemble_has_a_page_of_its_members(run, spikes, tmp_path, unpainted):
    other = train(
        SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"seed": 1})}),
        out=tmp_path / "other",
        recording=spikes,
    ).run
    ensemble = save_ensemble([run, other], tmp_path / "both")
    page = Page(run_html(RunContents(ensemble, recording=spikes)))
    assert "the mean of 2 models" in page.text
    assert str(other) in page.text
    assert "is an ensemble: each of its members was trained" in page.text
    assert "of the ensemble's member 0" in page.text
    assert {"rates", "trajectories-2d", "attention-maps"} <= set(page.figure_names())


def test_other_data_than_the_run_s_own_are_refused(run, tmp_path):
    file = tmp_path / "other.npz"
    write_recording(recording(12, 6, n_bins=8, n_neurons=4, mean_count=3.0), file)
    with pytest.raises(RunError, match="not those that"):
        run_html(RunContents(run, data=file))


def test_an_interrupted_run_reports_its_last_epoch(spikes, tmp_path):
    ended = []

    def watch(event):
        if isinstance(event, EpochDone):
            ended.append(event)

    run = train(
        SETTINGS,
        out=tmp_path / "run",
        recording=spikes,
        watch=watch,
        should_stop=lambda: bool(ended),
    ).run
    rows = dict(training_rows(RunContents(run, recording=spikes)))
    assert rows["training"].startswith("1 of at most 2 epochs (interrupted)")


def test_a_page_is_never_overwritten_unless_asked(run, spikes, tmp_path, monkeypatch):
    monkeypatch.setattr("ndt_cli.report.page.run_html", lambda *given: "<!DOCTYPE html>")
    file = tmp_path / "new" / "page.html"
    assert write_report(run, file, recording=spikes) == file
    file.write_text("mine")
    with pytest.raises(ExistingFileError, match="already exists"):
        write_report(run, file, recording=spikes)
    assert file.read_text() == "mine"
    write_report(run, file, recording=spikes, overwrite=True)
    assert "<!DOCTYPE html>" in file.read_text(encoding="utf-8")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(NdtError, match="a folder"):
        write_report(run, tmp_path / "folder.html", recording=spikes, overwrite=True)
    with pytest.raises(SettingsError, match=r"\.txt; expected \.html"):
        write_report(run, tmp_path / "page.txt", recording=spikes)


def test_the_page_in_the_folder_is_replaced_if_it_is_one(run, spikes, monkeypatch):
    page = f'<meta name="generator" content="{GENERATOR}">'
    monkeypatch.setattr("ndt_cli.report.page.run_html", lambda *given: page)
    file = write_report(run, recording=spikes)
    assert write_report(run, recording=spikes) == file == run / "report.html"
    file.write_text("mine")
    with pytest.raises(ExistingFileError):
        write_report(run, recording=spikes)
    file.unlink()


def test_the_picker_holds_the_rates_of_the_evaluation(text, run, spikes):
    found = re.search(r'<script type="application/json" id="picker-data">(.*?)</script>', text)
    data = json.loads(found[1])
    evaluation = evaluate(run, recording=spikes)
    n_trials, n_bins, n_neurons = evaluation.rates_BTN.shape
    assert data["units"] == [f"neuron {n}" for n in range(n_neurons)]
    assert len(data["trials"]) == n_trials
    (model,) = (source for source in data["sources"] if source["name"] == "NDT")
    stored_BNT = np.frombuffer(base64.b64decode(model["rates"]), np.uint8)
    stored_BNT = stored_BNT.reshape(n_trials, n_neurons, n_bins)
    peak_N = np.array(data["peak_hz"])
    rates_hz_BNT = evaluation.rates_BTN.transpose(0, 2, 1) * 1000 / spikes.train.bin_ms
    assert np.abs(stored_BNT / 255 * peak_N[:, None] - rates_hz_BNT).max() <= peak_N.max() / 500
    spikes_BNT = np.frombuffer(base64.b64decode(data["spikes"]), np.uint8)
    assert np.array_equal(
        spikes_BNT.reshape(stored_BNT.shape), spikes.valid.spikes_BTN.transpose(0, 2, 1)
    )


def test_a_run_that_cannot_be_written_to_is_named_before_the_page_is_made(run, monkeypatch, capsys):
    monkeypatch.setattr("ndt_cli.atomic.os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(SystemExit) as caught:
        app.main(["report", str(run)])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert f"no permission to write to the folder {run}" in said


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError):
        write_report(tmp_path / "nothing")


def test_trials_are_spread_from_quiet_to_busy(run, spikes):
    evaluation = evaluate(run, recording=spikes)
    counts = evaluation.data.spikes_BTN.sum(axis=(1, 2))
    quiet, typical, busy = spread_trials(evaluation.data)
    assert counts[quiet] <= counts[typical] <= counts[busy]
    assert counts[quiet] < counts[busy]


def test_a_figure_of_very_many_lines_becomes_pixels():
    few, many = new_figure("two", 2.0), new_figure("two", 2.0)
    few.subplots().plot([0, 1], [0, 1])
    axes = many.subplots()
    for i in range(800):
        axes.plot([0, 1], [0, i])
    assert data_uri(few).startswith("data:image/svg+xml;base64,")
    assert data_uri(many).startswith("data:image/png;base64,")
