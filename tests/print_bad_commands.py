"""Print what each bad command of the tests says, as a Markdown table; run it as a script."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from bad_inputs import limit_memory
from bad_lab import SETS, build_lab
from test_bad_commands import CASES as COMMANDS
from test_bad_folders import CASES as FOLDERS

from ndt_cli.app import main

_LONGEST = 120


def _printed(words):
    """Return the exit code, and the line that says what is wrong."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main(list(words))
        except SystemExit as stop:
            code = stop.code
    lines = [line.strip(" │") for line in output.getvalue().splitlines()]
    frame = ("Usage", "Try", "╭", "╰")
    told = [line for line in lines if line and not line.startswith(frame)]
    return code, next((line for line in told if line.startswith("Error:")), told[0])


def _row(case, lab, work):
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(lab, work)
    os.chdir(work)
    command = " ".join(case.words).replace(SETS, "(small)")
    try:
        case.make(work)
    except pytest.skip.Exception as reason:
        code, said = "-", f"skipped: {reason}"
    else:
        code, said = _printed(case.words)
    said = said.replace(f"{work}/", "").replace(f"{lab}/", "")
    cells = (case.what, f"`{command[:_LONGEST]}`", code, said[: 2 * _LONGEST])
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    os.environ["COLUMNS"] = "250"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lab").mkdir()
        lab = build_lab(Path(folder) / "lab")
        limit_memory()
        sys.stdout.write("| what | ndt ... | exit | what it says |\n|---|---|---|---|\n")
        for case in [*COMMANDS, *FOLDERS]:
            sys.stdout.write(_row(case, lab, Path(folder) / "work") + "\n")
        os.chdir("/")
