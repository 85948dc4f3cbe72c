"""The documentation is true: commands, files and tests that it names exist."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from ndt_cli.app import COMMANDS, load_command
from ndt_cli.settings.load import preset_names

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(
        page
        for folder in ("ndt_cli", "tests", "examples")
        for page in ROOT.glob(f"{folder}/**/*.md")
    ),
]


def _name(page):
    return page.relative_to(ROOT).as_posix()


def _shell_lines(text):
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    whole = [re.sub(r"\\\n\s*", "", block) for block in blocks]  # a backslash continues a line
    lines = [line.split("  #")[0].strip() for block in whole for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def _ndt_lines():
    """Return every ndt command of the documentation, with its page."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        inline = [re.sub(r"\s+", " ", line) for line in re.findall(r"`(ndt [^`]+)`", text)]
        lines = [line for line in _shell_lines(text) if re.match(r"(\S*/)?ndt ", line)]
        found |= {(_name(page), line) for line in inline}
        found |= {(_name(page), re.sub(r"^\S*/", "", line)) for line in lines}
    return sorted(found)


@pytest.mark.parametrize(("page", "line"), _ndt_lines())
def test_commands_and_their_options_exist(page, line):
    words = shlex.split(line.split(" > ")[0])
    if words[1] in ("COMMAND", "--help"):
        return
    command = load_command(words[1])
    if hasattr(command, "commands") and len(words) > 2 and not words[2].startswith("--"):
        assert words[2] in command.commands
        command = command.commands[words[2]]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_command_is_in_the_readme():
    assert all(f"`ndt {name}" in README for name in COMMANDS)


def test_presets_that_are_named_exist():
    named = re.findall(
        r"`((?:lorenz|chaotic-rnn)(?:-quick)?)`", _text("ndt_cli/commands/README.md")
    )
    assert set(named) <= set(preset_names())
    assert named


def test_both_commands_to_paste_set_everything_up():
    run, test = re.findall(r"```sh\n(python3 -m venv .*?)\n```", README)
    assert run.endswith(".venv/bin/ndt train")
    assert test.endswith(".venv/bin/pytest -n 2 --dist loadfile")
    first_screen = README[: README.index("## ")]
    assert run in first_screen
    assert f"<!-- test command -->\n```sh\n{test}" in first_screen  # where .ci/run finds it


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    own, estimator, python = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert python.count("train.max_epochs=100") == 1
    monkeypatch.chdir(tmp_path)
    names = {"spikes": np.random.default_rng(0).poisson(0.5, (20, 10, 4))}
    exec(own, names)
    assert estimator.count('"train.max_steps": 200') == 1
    exec(estimator.replace("200", "2"), names)
    assert names["rates_hz"].shape == names["spikes"].shape
    exec(python.replace("train.max_epochs=100", "train.max_epochs=3"), names)
    assert names["rates_hz"].shape == names["valid"].spikes_BTN.shape
    assert names["rates_hz"].min() >= 0


def test_the_readme_stays_short():
    assert len(README.encode()) <= 12_000


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("https://"):
            file, _, heading = link.partition("#")
            target = page.parent / file
            assert target.exists(), link
            assert not heading or heading in _headings(target), link


def test_files_that_the_architecture_names_exist():
    text = _text("ndt_cli/README.md")
    paths = re.findall(r"`([\w/]+(?:/|\.py))`", text)
    assert len(paths) >= 20
    assert [path for path in paths if not (ROOT / "ndt_cli" / path).exists()] == []


def test_every_package_is_in_the_architecture():
    packages = {path.parent.name for path in ROOT.glob("ndt_cli/*/__init__.py")}
    text = _text("ndt_cli/README.md")
    assert [name for name in sorted(packages) if f"`{name}/" not in text] == []


def test_every_example_is_described():
    scripts = {path.name for path in ROOT.glob("examples/*.py")}
    assert scripts == set(re.findall(r"`(\w+\.py)`", _text("examples/README.md")))


def test_tests_named_in_the_documentation_exist():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = re.findall(r"`(test_\w+)`", _text("tests/README.md"))
    assert len(named) >= 50
    assert [name for name in named if f"def {name}(" not in source] == []
    files = {
        file for page in PAGES for file in re.findall(r"`(tests/[\w/]+\.py)`", _text(_name(page)))
    }
    assert [file for file in sorted(files) if not (ROOT / file).exists()] == []


def _text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def _headings(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
