"""The scripts and guides in ``examples/`` run, in small form."""

import csv
import io
import re
import runpy
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from builders import recording
from convert_files import flat, session, write_mat5
from typer.testing import CliRunner

from ndt_cli.app import app
from ndt_cli.data.write import write_recording
from ndt_cli.engine.inference import load_trained

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = (
    "model.n_layers=1", "model.feedforward_size=8", "train.max_epochs=3", "train.n_threads=1",
    "train.device=cpu", "train.precision=float32",
)  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """Run a script as Python does, with its folder on the path, and return its names."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MPLBACKEND", "agg")  # a window system may be missing
    return lambda name: runpy.run_path(str(EXAMPLES / name))


@pytest.fixture(scope="module")
def own_spikes(tmp_path_factory):
    """The folder that the first example writes, and what it prints."""
    folder = tmp_path_factory.mktemp("own") / "new"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.syspath_prepend(EXAMPLES)
        runpy.run_path(str(EXAMPLES / "own_spikes.py"))["main"](str(folder), *SMALL)
    return folder, printed.getvalue()


def test_own_spikes_gives_rates_for_every_trial_that_was_kept(own_spikes):
    folder, _ = own_spikes
    with np.load(folder / "session.npz") as session, h5py.File(folder / "rates.h5") as file:
        kept = np.flatnonzero(session["success"] == 1)
        assert file["trial_ids"][:].tolist() == kept.tolist()
        assert file["rates_hz"].shape == (len(kept), 45, 30)
        assert np.isfinite(file["rates_hz"][:]).all()


def test_the_own_spikes_example_describes_the_file_and_scores_the_fit(own_spikes):
    _, printed = own_spikes
    assert "go_cue " in printed
    assert "left out: 6 of 200 trials" in printed
    assert "NDT: " in printed
    assert "smoothed spikes: " in printed


def test_an_example_replaces_nothing(run, own_spikes):
    with pytest.raises(FileExistsError, match="new"):
        run("own_spikes.py")["main"](str(own_spikes[0]), *SMALL)


def test_a_sweep_is_interrupted_resumed_and_becomes_an_ensemble(run, tmp_path, capsys):
    run("sweep_and_ensemble.py")["main"](str(tmp_path / "new"), *SMALL)
    before, stopped, after = capsys.readouterr().out.partition("stopped; resuming\n")
    assert [f"member {i}: loss" in before for i in range(6)] == [True] * 3 + [False] * 3
    assert stopped
    assert [f"member {i}: loss" in after for i in range(6)] == [False] * 3 + [True] * 3
    with (tmp_path / "new" / "sweep" / "results.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["finished"] * 6
    n_chosen = len(load_trained(tmp_path / "new" / "ensemble").members)
    assert 1 <= n_chosen <= 6
    assert "ensemble: " in after


def test_rates_are_decoded_beside_smoothed_spikes(run, tmp_path, capsys):
    pytest.importorskip("sklearn", reason='needs scikit-learn: pip install "ndt-cli[nlb]"')
    run("rates_to_sklearn.py")["main"](str(tmp_path / "new"), *SMALL)
    printed = capsys.readouterr().out
    assert "NDT: hand velocity, R2 " in printed
    # The smoothed spikes need no training: they decode the hand even in this small form.
    (r2,) = [
        float(line.split()[-1])
        for line in printed.splitlines()
        if line.startswith("smoothed (80 ms): hand velocity")
    ]
    assert r2 == pytest.approx(0.80, abs=0.03)
    assert (tmp_path / "new" / "trajectories.png").stat().st_size > 10_000


def test_a_replayed_recording_is_decoded_bin_by_bin(run, tmp_path, capsys):
    run("closed_loop.py")["main"](
        str(tmp_path / "new"), *SMALL, "train.max_steps=60", "train.warmup_steps=5",
        seconds=8.0, speed=40.0, through_lsl=False,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "the model's delay: 0 ms" in printed
    assert "399 bins at 40 x, through a queue of this program" in printed
    assert "ndt alone: " in printed
    (r,) = (float(x.split()[-1]) for x in printed.splitlines() if x.startswith("decoded hand"))
    assert r > 0.3


def test_a_run_is_drawn(run, own_spikes, tmp_path):
    run("figures.py")["main"](str(own_spikes[0] / "run"), str(tmp_path / "new"))
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert written == {"report.html", "rates.pdf", "conditions.pdf", "one-neuron.png"}


def test_the_benchmark_from_files_to_scores(run, tmp_path, capsys):
    pytest.importorskip("nlb_tools", reason="nlb-tools is not installed: see README, Installing")
    pytest.importorskip("pynwb", reason='pynwb is not installed: pip install "ndt-cli[nlb]"')
    from nlb_nwb import write_maze

    write_maze(tmp_path / "files", n_train=12, n_val=8, n_test=5)
    run("nlb_from_scratch.py")["main"](
        str(tmp_path / "new"), *SMALL, "train.warmup_epochs=1", data_dir=str(tmp_path / "files")
    )
    printed = capsys.readouterr().out
    assert "NDT: co-bps " in printed
    assert "spike smoothing: co-bps " in printed
    assert printed.count("best after 3 epochs") == 2
    assert (tmp_path / "new" / "submission.h5").is_file()


def test_the_cells_of_a_notebook_run(capsys):
    cells = (EXAMPLES / "notebook.py").read_text(encoding="utf-8")
    small = '"train.max_steps": 4, "train.n_threads": 1, "train.device": "cpu", "model.n_layers": 1'
    for whole, reduced in (('"train.max_steps": 400', small), ("n_repeats=20", "n_repeats=2")):
        assert cells.count(whole) == 1
        cells = cells.replace(whole, reduced)
    names = {}
    exec(cells, names)
    assert names["rates_hz"].shape == names["new_spikes"].shape
    assert [len(trial) for trial in names["short"]] == [50, 20]
    assert "bits/spike" in capsys.readouterr().out
    names["plt"].close(names["figure"])


def follow(guide):
    """Run the ndt commands of a guide in the current folder, trainings in small form."""
    text = (EXAMPLES / guide).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line.strip().removeprefix("srun "), comments=True)
        if words[:1] != ["ndt"] or "--resume" in words:  # nothing to resume here
            continue
        if words[1] == "train":
            words += [word for change in SMALL for word in ("--set", change)]
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (line, result.output)
    return text


def test_the_guide_to_matlab_ends_with_what_its_matlab_code_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mat5(tmp_path / "session.mat", session())
    text = follow("matlab.md")
    rates = scipy.io.loadmat("rates.mat", simplify_cells=True)
    taken = set(re.findall(r"\br\.(\w+)", text))
    assert taken >= {"rates_hz", "time_ms", "condition_labels", "trial_table"}
    assert taken <= rates.keys()
    assert rates["rates_hz"].shape == (8, 25, 3)
    assert list(rates["condition_labels"]) == session().side
    assert (rates["event"], rates["time_ms"][0]) == ("go", -190)
    np.testing.assert_allclose(rates["trial_table"]["start_time"], session().start)


def test_the_guide_to_phy_ends_with_rates_of_the_good_clusters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, folder = session(), tmp_path / "sorted"
    folder.mkdir()
    times, units = flat(made)
    np.save(folder / "spike_times.npy", np.rint(times * 30_000).astype(np.uint64))
    np.save(folder / "spike_clusters.npy", np.array([3, 17, 8], np.int32)[units])
    (folder / "params").with_suffix(".py").write_text("sample_rate = 30000.\n")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n3\tgood\n17\tgood\n8\tnoise\n")
    rows = zip(made.start, made.stop, made.go, made.side, strict=True)
    lines = ["start_time,stop_time,go_cue,side", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "trials.csv").write_text("\n".join(lines))
    text = follow("phy.md")
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1], names)
    assert names["clusters"].tolist() == ["3", "17"]
    assert names["side"].tolist() == made.side
    assert names["mean_hz"].shape == (30, 2)
    assert names["time_ms"][0] == -190


def test_the_guide_to_a_cluster_infers_without_the_training_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, n_train in (("reach.h5", 8), ("today.h5", 5)):
        write_recording(recording(n_train, 3), tmp_path / name)
    follow("cluster.md")
    with h5py.File("rates.h5") as file:
        assert file["rates_hz"].shape == (8, 6, 3)


def test_the_guide_to_several_days_ends_with_rates_of_the_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n_neurons, day in enumerate(("monday", "tuesday", "wednesday", "thursday"), 3):
        write_recording(recording(21, 3, n_neurons=n_neurons), tmp_path / f"{day}.h5")
    follow("sessions.md")
    with h5py.File("thursday-rates.h5") as file:
        assert file["rates_hz"].shape == (24, 6, 6)
    assert Path("trials.png").stat().st_size > 5000


def test_every_script_is_run_here():
    run_here = set(re.findall(r'"(\w+)\.py"', Path(__file__).read_text(encoding="utf-8")))
    beside = {"made_up_session"}  # the data of three of them
    assert run_here == {path.stem for path in EXAMPLES.glob("*.py")} - beside
    followed = set(re.findall(r'follow\("(\w+\.md)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert followed == {path.name for path in EXAMPLES.glob("*.md")} - {"README.md"}
