import json
import os
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize("name", ["gen-data", "check-data", "train", "evaluate"])
def test_the_help_of_a_command_loads_neither_torch_nor_matplotlib(name):
    loaded = loaded_by(f"from ndt_cli.app import main; main(['{name}', '--help'])")
    assert loaded.isdisjoint({"torch", "ray", "matplotlib"})


def test_the_probe_sees_what_is_loaded():
    assert loaded_by("import pydantic") == {"pydantic"}
