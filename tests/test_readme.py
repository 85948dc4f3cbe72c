"""What the README says can be typed, can be typed."""

import re
import shlex
from pathlib import Path

import pytest

from ndt_cli.app import COMMANDS, load_command
from ndt_cli.settings.load import preset_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _shell_lines():
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    whole = [re.sub(r"\\\n\s*", "", block) for block in blocks]  # lines that go on in the next
    lines = [line.split("  #")[0].strip() for block in whole for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def _ndt_lines():
    inline = re.findall(r"`(ndt [^`]+)`", README)
    lines = [line for line in _shell_lines() if re.match(r"(\S*/)?ndt ", line)]
    return sorted({*(re.sub(r"^\S*/", "", line) for line in lines), *inline})


@pytest.mark.parametrize("line", _ndt_lines())
def test_commands_and_their_options_exist(line):
    words = shlex.split(line.split(" > ")[0])
    command = load_command(words[1])
    alone = getattr(command, "invoke_without_command", False)
    named = len(words) > 2 and not words[2].startswith("--")
    if hasattr(command, "commands") and (named or not alone):
        assert words[2] in command.commands
        command = command.commands[words[2]]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_command_is_named():
    assert all(f"`ndt {name}" in README for name in COMMANDS)


def test_presets_that_are_named_exist():
    named = re.findall(r"`((?:lorenz|chaotic-rnn)(?:-quick)?)`", README)
    assert set(named) <= set(preset_names())
    assert named


def test_both_commands_to_paste_set_everything_up():
    run, test = re.findall(r"```sh\n(python3 -m venv .*?)\n```", README)
    assert run.endswith(".venv/bin/ndt train")
    assert test.endswith(".venv/bin/pytest")


def test_tests_named_in_the_table_of_differences_exist():
    table = README.partition("## What differs from NDT1")[2].partition("\n## ")[0]
    named = re.findall(r"`(test_\w+)`", table)
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert len(named) >= 10
    assert [name for name in named if f"def {name}(" not in source] == []
