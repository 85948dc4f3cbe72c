import os
import secrets
from collections import Counter
from pathlib import Path

import pytest

# Before torch is loaded, here and in what the tests start. The models of the tests are too small
# for more threads, which on a busy machine would wait for each other spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Clusters of Ray that tests start let nobody else in. Ray reads this once, when it is imported.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
# Tables are as wide as in a log file, whatever the terminal that the tests run in.
os.environ.pop("COLUMNS", None)
# Test modules that start themselves as processes import the builders beside this file.
_TESTS = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join([_TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        _skip(items, "slow", "takes more than a few seconds; run with --slow")
    # torch takes a second to import, so it is asked only where a test needs the answer.
    if any("gpu" in item.keywords for item in items) and not _has_cuda():
        _skip(items, "gpu", "needs a CUDA GPU, and torch sees none")


def _skip(items, mark, reason):
    for item in items:
        if item.get_closest_marker(mark):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def ndt(capsys):
    """Run a command in this process; return its exit code, standard output and standard error."""
    from ndt_cli import app

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            app.main([str(arg) for arg in args])
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run


@pytest.fixture
def graphs(monkeypatch):
    """How many CUDA graphs were captured and replayed, so that kernels do not pass for them."""
    from ndt_cli.engine.cuda_graphs import CudaGraphs

    done = Counter()
    capture = CudaGraphs.__call__

    def counted(self, function, generators):
        replay = capture(self, function, generators)
        done["captured"] += 1

        def counted_replay():
            done["replayed"] += 1
            replay()

        return counted_replay

    monkeypatch.setattr(CudaGraphs, "__call__", counted)
    return done


def _has_cuda():
    import torch

    return torch.cuda.is_available()
