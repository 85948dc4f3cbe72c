"""``ndt sweep`` and ``ndt ensemble`` as a user sees them."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from builders import recording
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.commands.console import make_console
from ndt_cli.commands.sweep_show import sweep_tables
from ndt_cli.data.write import write_recording
from ndt_cli.report import page
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.pbt import Lineage
from ndt_cli.search.space import space_names

SMALL = (
    "model.n_layers=1", "model.feedforward_size=8", "train.max_epochs=2",
    "train.val_interval_epochs=1", "train.n_threads=1", "train.device=cpu", "train.warmup_epochs=0",
)  # fmt: skip


def ndt(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def settings(*changes):
    return [word for change in (*SMALL, *changes) for word in ("--set", change)]


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "spikes.h5"
    write_recording(recording(12, 6, rates=True, n_bins=8), path)
    return path


@pytest.fixture(scope="module")
def made(spikes, tmp_path_factory):
    """A sweep of three, and what its making printed."""
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    made = ndt(
        "sweep", "--out", out, "--members", 3, "--choose-by", "rate-r2",
        *settings(f"data.file={spikes}"),
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    return out, made


def test_a_sweep_prints_its_members_best_first_and_its_folder(made):
    out, said = made
    assert "settings: preset recordings" in said.stderr
    assert "space: recordings, 9 settings drawn" in said.stderr
    assert said.stderr.count("to go") == 3
    lines = said.stdout.splitlines()
    ranks = [line.split()[0] for line in lines if "finished" in line]
    assert ranks == ["1", "2", "3"]
    for name in ("settings", "measures", "curves"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
    assert f"sweep: {out}" in said.stdout.replace("\n", "")


def test_show_prints_the_same_table_csv_or_json(made):
    out, said = made
    shown = ndt("sweep", "show", out)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == said.stdout
    as_json = json.loads(ndt("sweep", "show", out, "--json").stdout)
    assert [row["rank"] for row in as_json["members"]] == [1, 2, 3]
    rows = list(csv.DictReader(io.StringIO(ndt("sweep", "show", out, "--csv").stdout)))
    assert [int(row["member"]) for row in rows] == [row["member"] for row in as_json["members"]]
    assert ndt("sweep", "show", out, "--csv", "--json").exit_code == 2


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_tables_fit_the_terminal_and_drop_nothing(made, width):
    results = SweepFolder.open(made[0]).results()
    console = make_console(width=width, file=io.StringIO())
    tables = sweep_tables(results, console)
    for table in tables:
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    for word in ("learning", "neuron", "embedding", "forward", "finished"):
        assert word in text
    headings = [str(column.header).split("\n")[0] for column in tables[-1].columns]
    assert headings[:2] == ["rank", "member"]
    assert len(tables) == {80: 2, 120: 1, 200: 1}[width]


def test_brackets_in_a_path_are_no_markup(spikes, tmp_path):
    out = tmp_path / "a[" / "b] [red]c"
    made = ndt("sweep", "--out", out, "--members", 1, *settings(f"data.file={spikes}"))
    assert made.exit_code == 0, made.output
    assert f"sweep: {out}" in made.stdout.replace("\n", "")
    assert f"run folder: {out}" in made.stderr.replace("\n", "")


def test_the_first_ctrl_c_saves_and_prints_the_resume_command(spikes, tmp_path):
    out = tmp_path / "my sweep"
    options = ("--members", "2", "--jobs", "2", "--out", str(out))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ndt_cli",
            "sweep",
            *options,
            *settings(f"data.file={spikes}", "train.max_epochs=100000"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    while not (out / "members/000/metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert f"ndt sweep --resume '{out}' --jobs 2" in said
    shown = ndt("sweep", "show", out)
    assert "unfinished" in shown.stdout
    assert "unfinished" in shown.stderr
    assert f"ndt sweep --resume '{out}'" in shown.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--resume", "x", "--seed", "3"], "leave out everything but --members"),
        (["--resume", "nothing"], "not a sweep"),
        (["--space", "generik"], "did you mean the space generic"),
        (["--choose-by", "r2"], "rate-r2"),
        (["--set", "data.file=nothing.h5"], "no such file"),
        (["--data", "nothing.h5"], "nothing.h5: there is no such file"),
        (["--resume", "x", "--data", "y.h5"], "leave out everything but --members"),
        (["--data", "x.h5", "--set", "data.file=y.h5"], "--data and --set data.file are the same"),
        (["--choose-by", "co-bps", "--set", "train.choose_by=rate-r2"], "are the same setting"),
        (["--json", "spaces"], "options before `spaces` are those of a search"),
        (["--members", "2", "show", "x"], "ndt sweep show --help"),
        (["--set", "train.device=cuda:99"], 'train.device = "cuda:99"'),
        (["--ray-address", "auto"], "--ray-address is for sweeps on Ray"),
        (["--backend", "ray", "--jobs", "2"], "--jobs is for this machine alone"),
        (["--backend", "slurm"], "is not one of"),
        (["--sampler", "grid"], "is not one of"),
        (["--grace-epochs", "3"], "--grace-epochs needs a --pruner"),
        (["--pbt-interval", "5", "--sampler", "tpe"], "Leave out --sampler"),
        (["--pruner", "halving", "--seeds", "2"], "--seeds 2 averages members"),
        (["--pruner", "halving", "--grace-epochs", "50"], "Use a smaller --grace-epochs"),
        (["--time-budget", "0"], "--time-budget 0"),
        (["--resume", "x", "--sampler", "tpe"], "leave out everything but --members"),
        (["--members", "3", "--pbt-interval", "5"], "Use --members 4 or more"),
        (["--pbt-interval", "50"], "members train for 30 epochs"),
        (
            ["--pbt-interval", "1", "--set", "train.val_interval_epochs=2"],
            "every 2 epochs",
        ),
    ],
)
def test_impossible_requests_are_error_messages(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ndt("sweep", *args)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "bug" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_tensorboard_is_missing_nothing_is_written(spikes, tmp_path, monkeypatch):
    monkeypatch.setattr("ndt_cli.engine.trackers.find_spec", lambda name: None)
    result = ndt(
        "sweep", "--data", spikes, "--out", tmp_path / "sweep",
        *settings("train.tensorboard=true"),
    )  # fmt: skip
    assert result.exit_code == 1
    assert 'pip install "ndt-cli[tensorboard]"' in result.stderr
    assert not (tmp_path / "sweep").exists()


def test_the_end_names_the_best_settings_and_how_to_use_them(made):
    out, said = made
    text = said.stdout.replace("\n", "")
    best = json.loads(ndt("sweep", "show", out, "--json").stdout)
    file = best["best_settings"]
    assert file == str(out / best["members"][0]["folder"] / "settings.toml")
    assert f"best settings: {file}" in text
    assert f"ndt train --config {file}" in text
    for name in ("default run", "smoothing", "mean rate"):
        score = best["references"][name]["rate-r2"]
        assert f"{name} {score:.4f}" in text


def test_the_page_of_a_sweep_lists_as_shared_only_what_the_members_share(made, monkeypatch):
    absent = {"caption": "", "source": ""}
    monkeypatch.setattr(
        page, "_figure", lambda name, title, *_: absent | {"name": name, "title": title}
    )
    sweep = SweepFolder.open(made[0])
    text = page.sweep_html(sweep)
    shared = text[text.index('<table class="settings">') : text.index("<h3>All settings")]
    assert "train.max_epochs" in shared
    assert not any(f"<code>{key}<" in shared for key in sweep.space.draws)


@pytest.mark.parametrize(
    ("package", "args"),
    [("ray", ("--backend", "ray")), ("wandb", ("--logger", "wandb"))],
)
def test_a_missing_package_is_one_line_with_the_command_to_install_it(
    package, args, spikes, tmp_path, monkeypatch
):
    module = {"ray": "executors", "wandb": "trackers"}[package]
    monkeypatch.setattr(f"ndt_cli.engine.{module}.find_spec", lambda name: None)
    result = ndt("sweep", "--data", spikes, "--out", tmp_path / "x", *args, *settings())
    assert result.exit_code == 1
    assert f'pip install "ndt-cli[{package}]"' in result.stderr.splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_members_are_reported_one_by_one_and_ranked_over_seeds(spikes, tmp_path):
    out = tmp_path / "sweep"
    made = ndt(
        "sweep", "--data", spikes, "--out", out, "--members", 2, "--seeds", 2, "--jobs", 2,
        "--no-default-run", *settings(),
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert made.stderr.count("to go") == 4
    assert "(mean of 2 seeds)" in made.stdout


def test_generations_show_who_copied_whom(spikes, tmp_path):
    out = tmp_path / "sweep"
    made = ndt(
        "sweep", "--data", spikes, "--out", out, "--members", 4, "--pbt-interval", 1, *settings()
    )
    assert made.exit_code == 0, made.output
    (move,) = Lineage.read(out).moves
    assert (
        f"ranked after 1 epoch: {move.member} is replaced by a copy of {move.source}" in made.stderr
    )
    shown = ndt("sweep", "show", out).stderr.replace("\n", "")
    assert "ranked every 1 epochs, 1 times a member was replaced by a copy" in shown
    assert str(out / "pbt.json") in shown


def test_spaces_are_listed_and_a_shown_one_is_a_file_to_change(tmp_path, monkeypatch):
    listed = json.loads(ndt("sweep", "spaces", "--json").stdout)["spaces"]
    assert [row["name"] for row in listed] == space_names()
    for name in space_names():
        shown = ndt("sweep", "spaces", name)
        (tmp_path / "mine.toml").write_text(shown.stdout)
        one, two = (
            json.loads(ndt("sweep", "spaces", its, "--json").stdout)["draws"]
            for its in (name, tmp_path / "mine.toml")
        )
        assert one == two
    assert "maze-rtt" in ndt("sweep", "spaces").stdout
    # A file that has the name of a shipped space is meant, not that one.
    (tmp_path / "generic").write_text("[train]\nlearning_rate = { uniform = [0.1, 0.2] }\n")
    monkeypatch.chdir(tmp_path)
    assert ndt("sweep", "spaces", "generic").stdout.count("uniform") == 1
    (tmp_path / "mine.toml").write_text("[train]\nlr = { uniform = [0.1, 0.2] }\n")
    wrong = ndt("sweep", "spaces", tmp_path / "mine.toml")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "train.lr" in wrong.stderr


# ndt ensemble


def test_an_ensemble_of_a_sweep_is_evaluated_after_the_sweep_is_gone(made, tmp_path):
    sweep = shutil.copytree(made[0], tmp_path / "sweep")
    out = tmp_path / "ensemble"
    result = ndt("ensemble", sweep, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"ndt evaluate {out}" in result.stderr.replace("\n", "")
    about = json.loads((out / "ensemble.json").read_text())
    assert about["number_chosen"] == "on validation"
    assert len(about["validation_curve"]) == 3
    assert f"ensemble of {len(about['members'])}: {out}" in result.stdout.replace("\n", "")
    shutil.rmtree(sweep)
    scores = json.loads(ndt("evaluate", out, "--json").stdout)["scores"]["NDT"]
    best = max(about["validation_curve"])
    assert scores["rates"]["r2_mean"] == pytest.approx(best, abs=1e-5)


def test_an_ensemble_has_a_number_of_members_or_named_runs(made, tmp_path):
    runs = sorted((made[0] / "members").iterdir())
    result = ndt("ensemble", made[0], "--members", 2, "--out", tmp_path / "two", "--json")
    content = json.loads(result.stdout)
    assert (content["n_members"], content["validation_curve"]) == (2, [])
    assert ndt("ensemble", *runs, "--out", tmp_path / "runs").exit_code == 0
    about = json.loads((tmp_path / "runs" / "ensemble.json").read_text())
    assert [row["from"] for row in about["members"]] == [str(run) for run in runs]


def test_ensembles_made_in_the_same_second_have_folders_of_their_own(made, tmp_path, monkeypatch):
    names = [tmp_path / name for name in ("taken", "taken", "free")]
    monkeypatch.setattr("ndt_cli.engine.run_folder.default_path", lambda name: names.pop(0))
    run = made[0] / "members" / "000"
    for free in ("taken", "free"):
        result = ndt("ensemble", run)
        assert result.exit_code == 0, result.output
        assert (tmp_path / free / "ensemble.json").is_file()


def test_an_invalid_ensemble_is_an_error_message(made, tmp_path):
    run = made[0] / "members" / "000"
    wrong = {
        ("--members", "2"): (run,),
        (): (made[0], run),
    }
    for options, paths in wrong.items():
        result = ndt("ensemble", *paths, *options, "--out", tmp_path / "x")
        assert result.exit_code == 2
        assert "Error" in result.stderr
        assert not (tmp_path / "x").exists()
