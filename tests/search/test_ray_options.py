"""How a sweep would use Ray: what goes together, what is refused, what is said without Ray."""

import pytest
from builders import changed, tiny_settings
from test_imports import loaded_by
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.errors import MissingExtraError, RunError, SettingsError
from ndt_cli.search import ray_options
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.ray_options import RayOptions, cpus_per_worker, require_ray, rung_epochs
from ndt_cli.search.ray_rungs import Rung, read_rungs, write_rungs
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.space import Space

SPACE = Space.from_tables("test", {"mask": {"ratio": {"uniform": [0.1, 0.4]}}})
ASHA = RayOptions(scheduler="asha")


def settings(**train):
    return tiny_settings(train={"max_epochs": 270, "val_interval_epochs": 1, **train})


# Epochs after which members are compared


def test_members_are_compared_after_a_27th_of_the_epochs_and_each_time_three_times_as_many():
    assert rung_epochs(ASHA, settings(), SPACE) == [10, 30, 90]
    assert rung_epochs(RayOptions(scheduler="asha", grace_epochs=50), settings(), SPACE) == [
        50,
        150,
    ]
    assert rung_epochs(RayOptions(), settings(), SPACE) == []


def test_members_are_compared_at_epochs_that_validate():
    rungs = rung_epochs(ASHA, settings(val_interval_epochs=4), SPACE)
    assert rungs == [12, 36, 108]
    assert all(rung % 4 == 0 for rung in rungs)


def test_no_member_is_judged_while_the_learning_rate_of_some_still_rises():
    assert rung_epochs(ASHA, settings(warmup_epochs=40), SPACE)[0] == 40
    drawn = Space.from_tables("test", {"train": {"warmup_epochs": {"integer": [0, 60]}}})
    assert rung_epochs(ASHA, settings(), drawn)[0] == 60


def test_a_comparison_that_would_come_after_the_last_epoch_is_refused():
    late = RayOptions(scheduler="asha", grace_epochs=270)
    with pytest.raises(SettingsError, match="after 270 epochs") as caught:
        rung_epochs(late, settings(), SPACE)
    assert "--grace-epochs" in caught.value.hint


def test_what_a_member_scored_at_each_rung_is_in_its_run_folder(tmp_path):
    rungs = [Rung(10, 0.5), Rung(30, float("nan"))]
    assert read_rungs(tmp_path) == []
    write_rungs(tmp_path, rungs)
    found = read_rungs(tmp_path)
    assert found[0] == rungs[0]
    assert found[1].epoch == 30
    assert found[1].score != found[1].score


@pytest.mark.parametrize("content", ["{}", '{"rungs": [{"epoch": 1}]}', '{"rungs": 3}'])
def test_damaged_rungs_are_named(content, tmp_path):
    (tmp_path / "rungs.json").write_text(content)
    with pytest.raises(RunError, match=r"rungs\.json: not whole"):
        read_rungs(tmp_path)


# Threads, shares


def test_a_worker_has_as_many_cpus_as_threads():
    assert cpus_per_worker(RayOptions(), settings(n_threads=0)) == 1
    assert cpus_per_worker(RayOptions(), settings(n_threads=3)) == 3
    assert cpus_per_worker(RayOptions(cpus_per_worker=4), settings(n_threads=0)) == 4
    with pytest.raises(SettingsError, match=r"n_threads = 3, but --cpus-per-worker 2"):
        cpus_per_worker(RayOptions(cpus_per_worker=2), settings(n_threads=3))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpus_per_worker": 1.5}, "whole number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(wrong, said):
    with pytest.raises(SettingsError, match=said):
        RayOptions(**wrong)
    RayOptions(gpus_per_worker=0.5)


# Draws that are kept


def test_what_a_searcher_chose_is_kept_and_the_rest_is_as_drawn(tmp_path):
    folder = SweepFolder(tmp_path / "sweep", settings(), SPACE, 3, seed=5)
    folder.create()
    member = folder.choose(1, {"mask.ratio": 0.25})
    again = SweepFolder.open(folder.path)
    assert again.members()[1] == member
    assert member.settings.mask.ratio == 0.25
    assert member.settings.train.seed == 1
    assert again.drawn(1) == {"mask.ratio": 0.25}
    assert again.drawn(2) == SPACE.draw(5, 2)
    assert [again.is_chosen(i) for i in range(3)] == [False, True, False]


def test_a_choice_that_the_settings_refuse_is_not_kept(tmp_path):
    base = changed(settings(), "train", schedule="cosine", max_epochs=8)
    its = Space.from_tables("test", {"train": {"warmup_epochs": {"integer": [0, 9]}}})
    folder = SweepFolder(tmp_path / "sweep", base, its, 3, seed=5)
    folder.create()
    with pytest.raises(SettingsError, match="warmup_epochs"):
        folder.choose(1, {"train.warmup_epochs": 9})
    assert not folder.is_chosen(1)


def test_a_member_that_was_stopped_is_ranked_by_what_it_had_reached(tmp_path):
    members = tuple(
        MemberResult(i, tmp_path, {}, status, {"masked-loss": loss})
        for i, (status, loss) in enumerate(
            [("finished", 0.5), ("stopped", 0.4), ("diverged", 0.3), ("unfinished", 0.2)]
        )
    )
    results = SweepResults(tmp_path, "masked-loss", members, {})
    assert [member.index for member in results.ranked] == [1, 0]
    assert results.to_do == [3]


# Without Ray


def test_help_and_options_load_no_ray():
    heavy = {"torch", "ray", "matplotlib"}
    assert loaded_by("from ndt_cli.app import main; main(['sweep', '--help'])").isdisjoint(heavy)
    loaded = loaded_by("import ndt_cli.search.ray_options as r; r.RayOptions()")
    assert loaded.isdisjoint({"ray", "matplotlib"})


def test_where_ray_is_missing_one_line_says_what_to_install(monkeypatch, tmp_path):
    there = ray_options.find_spec
    monkeypatch.setattr(
        ray_options, "find_spec", lambda name: None if name == "ray" else there(name)
    )
    with pytest.raises(MissingExtraError):
        require_ray()
    result = CliRunner().invoke(app, ["sweep", "--backend", "ray", "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert 'pip install "ndt-cli[ray]"' in result.stderr.splitlines()[-1]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--scheduler", "asha"], "--backend ray"),
        (["--backend", "local", "--ray-address", "auto"], "--backend ray"),
        (["--backend", "slurm"], "local or ray"),
        (["--backend", "ray", "--scheduler", "hyperband"], "none or asha"),
        (["--backend", "ray", "--grace-epochs", "5"], "--scheduler asha"),
        (["--backend", "ray", "--cpus-per-worker", "0"], "--cpus-per-worker"),
        (["--backend", "ray", "--pbt-interval", "5", "--scheduler", "asha"], "--scheduler asha"),
        (["--backend", "ray", "--pbt-interval", "5", "--searcher", "optuna"], "--searcher optuna"),
    ],
)
def test_a_wrong_use_of_ray_is_said_in_words(args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["sweep", *args])
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []
