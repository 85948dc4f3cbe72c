import json
import os
import subprocess
import sys

import pytest

import ndt_cli
from ndt_cli.app import COMMANDS

HEAVY = ["torch", "ray", "matplotlib", "scipy", "h5py", "pydantic", "numpy"]


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


def test_every_name_of_the_package_is_there():
    assert set(ndt_cli.__all__) <= set(dir(ndt_cli))
    for name in ndt_cli.__all__:
        value = getattr(ndt_cli, name)
        # Another object of the same name would pass for it.
        assert getattr(value, "__name__", name).rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="trian"):
        ndt_cli.trian  # noqa: B018


def test_data_are_read_and_converted_without_torch():
    loaded = loaded_by("from ndt_cli import convert, load_recording, load_settings")
    assert loaded.isdisjoint({"torch", "ray", "matplotlib"})


def test_the_probe_sees_what_is_loaded():
    assert loaded_by("import pydantic") == {"pydantic"}
