"""The examples in docstrings run, and what a notebook uses has one."""

import doctest
import inspect
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import ndt_cli
from ndt_cli import baselines, convert, fit, load_settings, metrics, sweep, train
from ndt_cli.search.space import Space

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Public names that stand for themselves: settings of a call, or what a call returns.
PLAIN = {
    "ConvertReport", "Converted", "DecodingScores", "KernelChoice", "Listing", "MeanPrior",
    "PSTH_SMOOTHING_MS", "PsthScores", "RateScores", "SpikeScores", "__version__",
}  # fmt: skip


def _examples():
    """Find the examples, importing no module without one: some need an extra."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    package = Path(ndt_cli.__file__).parent
    for file in sorted(package.rglob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            parts = file.relative_to(package.parent).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            for test in finder.find(import_module(".".join(parts))):
                if any(doctest.SKIP not in line.options for line in test.examples):
                    yield test


EXAMPLES = list(_examples())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the examples find in their folder: two spike files, a run and a sweep."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "spikes.npz",
        spikes=rng.poisson(0.5, (20, 10, 4)),
        bin_ms=20,
        conditions=np.arange(20) % 2,
        trial_ids=np.arange(20),
    )
    np.savez(
        folder / "session.npz",
        spike_times=np.sort(rng.uniform(0, 50, 2000)),
        spike_units=rng.integers(0, 5, 2000),
        start_time=np.arange(1.0, 49.0, 2),
        stop_time=np.arange(2.5, 50.0, 2),
        go_cue=np.arange(1.5, 49.0, 2),
        target=np.arange(24) % 4,
    )
    settings = load_settings(
        "lorenz-quick",
        [f"data.file={folder / 'spikes.npz'}", "model.n_layers=1", "train.max_epochs=5"],
    )
    train(settings, out=folder / "runs" / "first")
    space = Space.from_tables("mine", {"mask": {"ratio": {"uniform": [0.1, 0.4]}}})
    sweep(settings, space, n_members=2, out=folder / "runs" / "sweep")
    return folder


@pytest.fixture
def here(files, tmp_path, monkeypatch):
    """A folder with a copy of these, to work in with one thread."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("example", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_an_example_gives_what_it_says(example, here):
    said = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert result.attempted
    assert not result.failed, "".join(said)


def _public():
    """Yield what a notebook calls, by its name as it is imported there."""
    for home in (ndt_cli, baselines, convert, metrics, fit):
        for name in getattr(home, "__all__", ("fit", "resume_fit")):
            value = getattr(home, name)
            if not inspect.ismodule(value) and name not in PLAIN:
                yield f"{home.__name__}.{name}", value


@pytest.mark.parametrize(("name", "value"), list(_public()))
def test_what_a_notebook_calls_has_an_example(name, value):
    documented = [test.name for test in EXAMPLES]
    inside = f"{value.__module__}.{value.__qualname__}"
    # A class may have it at the method that makes one.
    assert any(test == inside or test.startswith(f"{inside}.") for test in documented), name


def test_a_wrong_example_is_found():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(wrong, out=lambda text: None).failed == 1
