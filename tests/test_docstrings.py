"""Examples in docstrings run, and every public name has one."""

import ast
import doctest
import inspect
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import ndt_cli
from ndt_cli import baselines, convert, load_settings, metrics, sweep, train
from ndt_cli.search.space import Space

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SCRIPTS = Path(__file__).resolve().parents[1] / "examples"

# Public names without an example of their own: settings of a call, or what a call returns.
PLAIN = {
    "ConvertReport", "Converted", "DecodingScores", "Evaluation", "Fit", "KernelChoice", "Listing",
    "MeanPrior", "PSTH_SMOOTHING_MS", "PsthScores", "RateScores", "Rates", "Settings",
    "SpikeScores", "__version__",
}  # fmt: skip
EXTRAS = {"nlb_tools", "optuna", "pandas", "pynwb", "ray", "requests", "tensorboard"}
# Their examples need the network, minutes, or a file of another program.
SHOWN_ONLY = {
    "ndt_cli.ndt1.importing.import_ndt1",
    "ndt_cli.nlb.download.fetch",
    "ndt_cli.nlb.submit.submit",
}


def _module(name):
    """Import a module; None if an extra that it needs is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if str(missing.name).partition(".")[0] not in EXTRAS:
            raise
        return None


def _files_with_examples():
    package = Path(ndt_cli.__file__).parent
    for file in sorted(package.rglob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            parts = file.relative_to(package.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _examples():
    """Yield the examples to run, and skip modules whose extra is not installed."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in _files_with_examples():
        module = _module(name)
        if module is None:
            skip = pytest.mark.skip(reason=f"{name} needs an extra that is not installed")
            yield pytest.param(None, id=name, marks=skip)
            continue
        for test in finder.find(module):
            if any(doctest.SKIP not in line.options for line in test.examples):
                yield pytest.param(test, id=test.name)


EXAMPLES = list(_examples())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that the examples use: two spike files, a run and a sweep."""
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
    """A copy of these files as the current folder, and one thread."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_it_documents(example, here):
    said = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert result.attempted
    assert not result.failed, "".join(said)


def _public():
    """Yield public names, and those that the example scripts import, with their modules."""
    for home in (ndt_cli, baselines, convert, metrics):
        for name in home.__all__:
            yield home.__name__, name
    for script in sorted(SCRIPTS.glob("*.py")):
        for line in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("ndt_cli"):
                yield from ((line.module, alias.name) for alias in line.names)


@pytest.mark.parametrize(
    ("home", "name"), sorted(set(_public()) - {("ndt_cli.errors", "DataError")})
)
def test_what_a_notebook_calls_has_an_example(home, name):
    module = _module(home)
    if module is None:
        pytest.skip(f"{home} needs an extra that is not installed")
    value = getattr(module, name)
    if inspect.ismodule(value) or name in PLAIN:
        return
    inside = f"{value.__module__}.{value.__qualname__}"
    if inside in SHOWN_ONLY:
        assert ">>> " in value.__doc__
        return
    documented = [example.id for example in EXAMPLES]
    # A class may have its example at a method.
    assert any(test == inside or test.startswith(f"{inside}.") for test in documented)


def test_a_wrong_example_is_found():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(wrong, out=lambda text: None).failed == 1
