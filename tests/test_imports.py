"""What importing the package loads, and which names it exports."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ndt_cli
from ndt_cli.app import COMMANDS

HEAVY = ["torch", "ray", "matplotlib", "scipy", "h5py", "pydantic", "numpy"]
# Parts that take a second or more, of what a command needs otherwise.
HEAVY += ["torch._dynamo", "sympy", "fontTools.subset", "scipy.optimize"]


def loaded_by(code: str) -> set[str]:
    """Run the code in a fresh Python and return the heavy packages it has loaded."""
    probe = f"""
import json, sys
try:
    {code}
except SystemExit as stop:
    assert not stop.code, stop.code
print()
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import ndt_cli",
        "from ndt_cli.app import main; main(['--help'])",
        "from ndt_cli.app import main; main(['--version'])",
    ],
)
def test_import_and_help_load_nothing_heavy(code):
    assert loaded_by(code) == set()


def test_presets_load_the_settings_tree_and_nothing_more():
    assert loaded_by("from ndt_cli.app import main; main(['presets'])") == {"pydantic"}


# The commands inside a group have pages of their own.
PAGES = [*COMMANDS, "gen-data lorenz", "gen-data chaotic-rnn", "sweep show", "sweep spaces"]


@pytest.mark.parametrize("page", PAGES)
def test_the_help_of_a_command_loads_neither_torch_nor_matplotlib(page):
    loaded = loaded_by(f"from ndt_cli.app import main; main({[*page.split(), '--help']})")
    assert loaded.isdisjoint({"torch", "ray", "matplotlib"})


PACKAGE = Path(ndt_cli.__file__).parent


def names_for_type_checkers() -> dict[str, str]:
    """Return the module of each name in the block that only type checkers read."""
    module = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (line for line in module.body if isinstance(line, ast.If))
    return {
        alias.asname: line.module
        for line in block.body
        for alias in line.names
        if alias.asname == alias.name  # which exports it
    }


def test_type_checkers_see_the_public_names():
    assert set(names_for_type_checkers()) == set(ndt_cli.__all__) - {"__version__"}
    assert set(ndt_cli.__all__) <= set(dir(ndt_cli))
    with pytest.raises(AttributeError, match="trian"):
        ndt_cli.trian  # noqa: B018


@pytest.mark.parametrize(("name", "module"), sorted(names_for_type_checkers().items()))
def test_a_public_name_is_what_type_checkers_take_it_for(name, module):
    value = getattr(ndt_cli, name)
    assert value is getattr(importlib.import_module(module), name)
    # Importing a module of that name would replace the value.
    assert (module == "ndt_cli") == (PACKAGE / name).is_dir()
    assert not (PACKAGE / f"{name}.py").exists()


def test_fit_is_a_function_after_any_import():
    code = (
        "import ndt_cli.fitting, ndt_cli.evaluation; from ndt_cli import fit; assert callable(fit)"
    )
    assert "torch" in loaded_by(code)


def test_data_are_read_and_converted_without_torch():
    loaded = loaded_by("from ndt_cli import convert, load_recording, load_settings")
    assert loaded.isdisjoint({"torch", "ray", "matplotlib"})


def test_figures_and_networks_load_no_parts_that_they_do_not_use():
    code = (
        "import ndt_cli.report.registry; import torch; torch.set_default_device('meta'); "
        "from ndt_cli.model.network import ModelShape, NeuralDataTransformer as Network; "
        "from ndt_cli import load_settings; model = load_settings('lorenz-quick').model; "
        "assert (model.embedding, model.positions) == ('count-table', 'learned'); "
        "Network(model, ModelShape(4, 10, 3))"
    )
    assert loaded_by(code) == {"torch", "matplotlib", "scipy", "h5py", "pydantic", "numpy"}


def test_the_probe_sees_what_is_loaded():
    assert loaded_by("import pydantic") == {"pydantic"}
