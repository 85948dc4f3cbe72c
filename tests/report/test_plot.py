"""``ndt plot`` and ``ndt report`` as a user sees them."""

import json
import shutil
from html.parser import HTMLParser

import pytest
from builders import recording, tiny_settings
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.data.write import write_recording
from ndt_cli.engine.training import train
from ndt_cli.report.registry import FIGURES, SWEEP_FIGURES
from ndt_cli.search.loop import sweep as run_sweep
from ndt_cli.search.space import Draw, Space


def ndt(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "spikes.h5"
    write_recording(recording(12, 6, rates=True, n_bins=8, n_neurons=4), file)
    return file


@pytest.fixture(scope="module")
def settings(data):
    settings = tiny_settings(train={"max_epochs": 2})
    return settings.model_copy(update={"data": settings.data.model_copy(update={"file": data})})


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    return train(settings, out=tmp_path_factory.mktemp("runs") / "run").run


@pytest.fixture(scope="module")
def sweep(settings, tmp_path_factory):
    space = Space("two", {"train.learning_rate": Draw("log-uniform", (1e-4, 1e-2))})
    out = tmp_path_factory.mktemp("runs") / "sweep"
    return run_sweep(settings, space, n_members=3, out=out).results.path


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_figure_is_written_in_the_format_of_the_file(run, tmp_path, ending):
    file = tmp_path / f"curves.{ending}"
    result = ndt("plot", run, "training", "--out", file)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"figure: {file}\n"
    assert "2 epochs of 12 trials" in result.stderr
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert file.read_bytes().startswith(start)


def test_all_figures_are_written_to_a_folder(run, sweep, tmp_path):
    result = ndt("plot", run, "all", "--out", tmp_path / "figures", "--trial", 1)
    assert result.exit_code == 0, result.output
    written = {file.stem for file in (tmp_path / "figures").iterdir()}
    lacking = {"conditions", "psth", "neurons-heldout", "behavior"}  # these data have no such
    assert written == set(FIGURES) - lacking
    assert result.stdout.count("figure: ") == len(written)
    assert "already exists" in ndt("plot", run, "all", "--out", tmp_path / "figures").stderr
    assert "folder, not to one file" in ndt("plot", run, "all", "--out", tmp_path / "a.png").stderr
    printed = ndt("plot", sweep, "all", "--out", tmp_path / "sweep", "--json")
    found = json.loads(printed.stdout)
    assert found["schema"] == "ndt/plot/1"
    assert len(found["figures"]) == len(list((tmp_path / "sweep").iterdir())) > 0


def test_learning_curves_need_neither_weights_nor_data(run, data, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("settings.toml", "run.json", "metrics.jsonl"):
        shutil.copy(run / name, bare)
    assert ndt("plot", bare, "training", "--out", tmp_path / "a.svg").exit_code == 0
    result = ndt("plot", bare, "rates", "--out", tmp_path / "b.svg")
    assert result.exit_code == 1
    assert "no such checkpoint" in result.stderr


def test_trial_and_neurons_can_be_chosen(run, tmp_path):
    file = tmp_path / "rates.svg"
    words = ("plot", run, "rates", "--out", file, "--trial", 2, "--neuron", 3, "--split", "train")
    result = ndt(*words)
    assert result.exit_code == 0, result.output
    caption = " ".join(result.stderr.split())
    assert "Trial 2 (place 2, from 0, of 12 training trials of 8 bins" in caption
    text = file.read_text(encoding="utf-8")
    assert "neuron 3" in text
    assert "neuron 1" not in text
    assert "trial 50 does not exist" in ndt(*words[:5], "--trial", 50, "--overwrite").stderr


def test_a_choice_that_a_figure_does_not_have_is_refused(run, tmp_path):
    result = ndt("plot", run, "training", "--out", tmp_path / "a.png", "--trial", 2)
    assert result.exit_code == 2
    assert "--trial does not apply to the figure training" in result.stderr
    assert "rates, heatmaps" in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"), [("trajectory-2d", "trajectories-2d"), ("trainin", "training")]
)
def test_a_wrong_name_gets_the_nearest(run, tmp_path, typed, said):
    result = ndt("plot", run, typed, "--out", tmp_path / "a.png")
    assert result.exit_code == 2
    assert f"did you mean {said}?" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_needs_missing_data_is_refused_with_the_reason(run, tmp_path):
    result = ndt("plot", run, "conditions", "--out", tmp_path / "a.png")
    assert result.exit_code == 1
    assert "have no conditions" in result.stderr


def test_the_help_names_every_figure():
    text = ndt("plot", "--help").stdout
    assert all(name in text for name in (*FIGURES, *SWEEP_FIGURES))


def test_an_existing_file_is_kept_unless_overwritten(run, tmp_path):
    file = tmp_path / "curves.svg"
    file.write_text("mine")
    result = ndt("plot", run, "training", "--out", file)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert file.read_text() == "mine"
    assert ndt("plot", run, "training", "--out", file, "--overwrite").exit_code == 0
    assert file.read_text() != "mine"


def test_a_wrong_suffix_is_reported_before_anything_is_computed(tmp_path):
    result = ndt("plot", tmp_path / "no-run", "rates", "--out", tmp_path / "a.jpeg")
    assert result.exit_code == 2
    assert ".png, .svg, .pdf" in result.stderr


# ndt report


class _Ids(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_of_a_run_goes_into_its_folder_and_replaces_itself(run, monkeypatch):
    monkeypatch.setattr("ndt_cli.report.page.data_uri", lambda figure: "data:,")
    first = ndt("report", run)
    assert first.exit_code == 0, first.output
    assert first.stdout == f"page: {run / 'report.html'}\n"
    page_text = (run / "report.html").read_text(encoding="utf-8")
    page = _Ids(page_text)
    assert {"figure-training", "figure-attention-maps", "scores", "reproduce"} <= set(page.ids)
    (run / "report.html").write_text(page_text.replace("scores", "other"), encoding="utf-8")
    assert ndt("report", run).exit_code == 0
    assert (run / "report.html").read_text(encoding="utf-8") == page_text
    (run / "report.html").write_text("a page of someone else", encoding="utf-8")
    again = ndt("report", run)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert f"ndt report {run}" in " ".join("".join(page.words).split())


def test_data_that_were_moved_can_be_named(run, settings, data, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(run, gone)
    text = (gone / "settings.toml").read_text().replace(str(data), str(tmp_path / "old.h5"))
    (gone / "settings.toml").write_text(text)
    lost = ndt("plot", gone, "rates", "--out", tmp_path / "a.svg")
    assert lost.exit_code == 1
    assert "old.h5" in lost.stderr
    found = ndt("plot", gone, "rates", "--out", tmp_path / "a.svg", "--data", data)
    assert found.exit_code == 0, found.output


def test_the_page_of_a_sweep_shows_every_member_best_first(sweep, tmp_path):
    file = tmp_path / "sweep.html"
    result = ndt("report", sweep, "--out", file)
    assert result.exit_code == 0, result.output
    page = _Ids(file.read_text(encoding="utf-8"))
    assert {f"figure-{name}" for name in SWEEP_FIGURES} <= set(page.ids)
    text = " ".join(" ".join(page.words).split())
    members = json.loads((sweep / "results.json").read_text())["members"]
    best = next(row for row in members if row["rank"] == 1)
    assert f"Best of 3 ranked members: member {best['member']}" in text
    assert "log-uniform: 0.0001 to 0.01" in text
    for row in members:
        assert f"{row['scores']['masked-loss']:.4f}" in text
    assert f"ndt report {sweep}/members/{best['member']:03d}" in text


def test_a_sweep_has_figures_of_its_own(sweep, tmp_path):
    file = tmp_path / "settings.svg"
    assert ndt("plot", sweep, "settings", "--out", file).exit_code == 0
    assert "train.learning_rate" in file.read_text(encoding="utf-8")
    wrong = ndt("plot", sweep, "rates", "--out", tmp_path / "b.svg")
    assert wrong.exit_code == 2
    assert "Figures of a sweep: settings, measures, importance, parallel, curves" in wrong.stderr
    chosen = ndt("plot", sweep, "curves", "--out", tmp_path / "c.svg", "--split", "train")
    assert chosen.exit_code == 2
    assert "--split" in chosen.stderr
