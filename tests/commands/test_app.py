import errno
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

import ndt_cli
from ndt_cli import app
from ndt_cli.errors import DataError, SettingsError


@pytest.fixture
def failing_train(monkeypatch):
    """Make ``ndt train`` raise the error given."""

    def fail_with(error: BaseException) -> None:
        def train() -> None:
            """Train a model."""
            raise error

        module = ModuleType("failing_train")
        module.train = train
        monkeypatch.setitem(sys.modules, "failing_train", module)
        command = app.COMMANDS["train"]._replace(target="failing_train:train")
        monkeypatch.setitem(app.COMMANDS, "train", command)

    return fail_with


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_the_help_line_of_a_command_is_its_own_and_lines_fit_80_columns(name):
    command = app.load_command(name)
    assert command.name == name
    assert command.help.strip().splitlines()[0] == app.COMMANDS[name].help
    for each in (command, *getattr(command, "commands", {}).values()):
        assert [line for line in each.help.splitlines() if len(line) > 78] == []


def test_only_the_command_that_runs_is_imported(ndt, monkeypatch):
    monkeypatch.setitem(
        app.COMMANDS, "train", app.COMMANDS["train"]._replace(target="no_such_module:train")
    )
    assert ndt("presets")[0] == 0
    assert ndt("--help")[0] == 0
    code, _, err = ndt("train")
    assert code == 1
    assert "no_such_module" in err


def test_version(ndt):
    assert ndt("--version") == (0, f"ndt {ndt_cli.__version__}\n", "")


# Wrong usage


@pytest.mark.parametrize(("typed", "said"), [("trian", "train"), ("preset", "presets")])
def test_an_unknown_command_gets_the_nearest(ndt, typed, said):
    code, out, err = ndt(typed)
    assert (code, out) == (2, "")
    assert f"did you mean {said}?" in err


def test_an_unknown_command_gets_the_list(ndt):
    code, _, err = ndt("qqqq")
    assert code == 2
    assert "gen-data" in err


def test_an_unknown_option_gets_the_nearest(ndt):
    code, out, err = ndt("presets", "--field")
    assert (code, out) == (2, "")
    assert "--fields" in err


# Errors


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("a.h5: no spikes", "Look at it."), 1), (SettingsError("bad"), 2)]
)
def test_an_expected_error_is_a_message_and_its_exit_code(ndt, failing_train, error, code):
    failing_train(error)
    hint = "" if error.hint is None else f"{error.hint}\n"
    assert ndt("train") == (code, "", f"Error: {error.message}\n{hint}")


def test_a_message_is_printed_as_it_is(ndt, failing_train):
    message = "data[0] of [bold]a.h5[/bold] " + "is long " * 40 + "end\nsecond :smile: line"
    failing_train(DataError(message))
    assert ndt("train")[2] == f"Error: {message}\n"


def test_a_full_disk_is_a_message(ndt, failing_train):
    failing_train(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/last.pt"))
    code, _, err = ndt("train")
    assert code == 1
    assert f"Error: runs/a/last.pt: {os.strerror(errno.ENOSPC)}\nFree some space" in err


_LESS, _SMALLER = "Use less data or a smaller model", "Use smaller batches"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (MemoryError("Unable to allocate 7.28 TiB for an array"), _LESS),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to take 7.28 TiB"),
            _LESS,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 7.28 TiB"), _SMALLER),
    ],
)
def test_running_out_of_memory_is_a_message(ndt, failing_train, error, hint):
    failing_train(error)
    code, out, err = ndt("train")
    assert (code, out) == (1, "")
    assert err.startswith("Error: out of memory: ")
    assert "7.28 TiB" in err
    assert hint in err


def test_an_unexpected_error_is_called_a_bug(ndt, failing_train):
    failing_train(ZeroDivisionError("division by zero"))
    code, _, err = ndt("train")
    assert code == 1
    assert "This is a bug in ndt: ZeroDivisionError: division by zero" in err
    assert "with --debug" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(failing_train):
    failing_train(DataError("a.h5: no spikes"))
    with pytest.raises(DataError):
        app.main(["--debug", "train"])
    with pytest.raises(DataError):
        app.main(["train", "--debug"])


def test_an_interrupt_is_one_line_and_130(ndt, failing_train):
    failing_train(KeyboardInterrupt())
    assert ndt("train") == (130, "", "Interrupted.\n")


# The process


def run_python(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    # The colors that the person running the tests prefers do not matter.
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**plain, "PYTHONIOENCODING": "utf-8", **env},
    )


def test_an_interrupt_while_an_object_is_deleted_is_not_lost(monkeypatch):
    class Deleted:
        def __del__(self):
            raise KeyboardInterrupt

    def interrupted():
        Deleted()
        for _ in range(1000):
            time.sleep(0.01)

    monkeypatch.setattr(sys, "unraisablehook", app.interrupt_again)
    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_python_m_is_the_same_program():
    done = run_python("-m", "ndt_cli", "--version")
    assert (done.returncode, done.stdout) == (0, f"ndt {ndt_cli.__version__}\n")


def test_an_error_s_traceback_reaches_the_user_with_debug():
    done = run_python("-m", "ndt_cli", "--debug", "presets", "lorens")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "SettingsError" in done.stderr


def test_color_stays_out_of_pipes_and_no_color_is_honored():
    piped = run_python("-m", "ndt_cli", "presets")
    assert "\x1b" not in piped.stdout
    show = "from ndt_cli.commands.console import out; out.print('a', style='red')"
    color = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert "\x1b[31m" in run_python("-c", show, **color).stdout
    assert "\x1b[31m" not in run_python("-c", show, **color, NO_COLOR="1").stdout
    # Numbers and paths have no color of their own.
    line = "from ndt_cli.commands.console import say; say('12 epochs: runs/a.h5')"
    assert run_python("-c", line, **color).stdout == "12 epochs: runs/a.h5\n"


def test_a_closed_pipe_is_not_an_error():
    with subprocess.Popen(
        [sys.executable, "-m", "ndt_cli", "presets", "--fields", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_threads_sleep_unless_the_user_wants_otherwise(ndt, monkeypatch, before, after):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    ndt("--version")
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_the_checkpoints_to_choose_from_are_those_of_the_measures():
    from ndt_cli.commands.flags import CheckpointChoice
    from ndt_cli.engine.measures import CHECKPOINTS

    assert get_args(CheckpointChoice) == CHECKPOINTS


def test_a_tilde_that_the_shell_left_is_the_home_folder(ndt, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (["~/none.npz"], ["~nosuchuser/none.npz"]):
        code, printed, _ = ndt("check-data", *given)
        assert code == 1
        expected = tmp_path / "none.npz" if given[0][1] == "/" else given[0]
        assert f"{expected}: there is no such file" in printed
    assert ndt("gen-data", "lorenz", "--out=~/x.csv")[2].startswith(f"Error: {tmp_path}/x.csv")


def test_a_preset_in_a_file_has_no_colors(tmp_path):
    with (tmp_path / "lab.toml").open("w") as file:
        subprocess.run(
            [sys.executable, "-m", "ndt_cli", "presets", "lorenz-quick"],
            stdout=file,
            env={**os.environ, "FORCE_COLOR": "1"},
            check=True,
        )
    assert "\x1b" not in (tmp_path / "lab.toml").read_text()


# Habits of a shell


PAGES = [
    *((name,) for name in app.COMMANDS),
    *(("gen-data", name) for name in ("lorenz", "chaotic-rnn")),
    *(("sweep", name) for name in ("show", "spaces")),
]


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_help_at_80_columns_breaks_no_name_of_an_option_or_a_choice(ndt, monkeypatch, page):
    monkeypatch.setenv("COLUMNS", "80")
    code, text, _ = ndt(*page, "--help")
    assert code == 0
    assert " ".join(["ndt", *page]) in text
    if len(page) == 1:
        assert f"Example:  ndt {page[0]} " in text
    assert "\u2026" not in text  # what Rich puts where it cuts
    command = app.load_command(page[0])
    command = command.commands[page[1]] if len(page) > 1 else command
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    words = [name for parameter in shown for name in parameter.opts if "--" in name]
    for parameter in shown:
        if " One of " in (getattr(parameter, "help", None) or ""):
            words += parameter.help.rpartition(" One of ")[2].rstrip(".").split(", ")
    assert [word for word in words if word not in text] == []


def test_help_is_grouped_by_task_in_the_order_of_use(ndt):
    code, text, _ = ndt("--help")
    assert code == 0
    panels = [text.index(command.panel) for command in app.COMMANDS.values()]
    assert len(set(panels)) == 5
    names = ("gen-data", "check-data", "presets", "train", "evaluate")
    for places in (panels, [text.index(name) for name in names]):
        assert places == sorted(places)


def test_quiet_leaves_results_warnings_and_errors(ndt):
    loud, quiet = ndt("presets"), ndt("presets", "-q")
    assert "Next:  ndt presets recordings" in loud[2]
    assert quiet == (0, loud[1], "")
    assert ndt("--quiet", "presets")[2] == ""
    assert "did you mean" in ndt("presets", "lorens", "-q")[2]
    assert "Next:" in ndt("presets")[2]  # the next command begins anew


def test_verbose_shows_what_the_package_logs(ndt, failing_train, monkeypatch):
    def train() -> None:
        """Train a model."""
        logging.getLogger("ndt_cli.engine").info("on %s", "cpu")
        logging.getLogger("ndt_cli.engine").debug("details")

    failing_train(None)
    monkeypatch.setattr(sys.modules["failing_train"], "train", train)
    assert ndt("train")[2] == ""
    assert ndt("train", "-v")[2] == "ndt_cli.engine: on cpu\n"
    assert ndt("-vv", "train")[2] == "ndt_cli.engine: on cpu\nndt_cli.engine: details\n"
    assert ndt("train")[2] == ""


def test_an_import_logs_nothing_by_itself():
    shown = run_python("-c", "import ndt_cli, logging; logging.getLogger('ndt_cli').warning('hm')")
    assert shown.stderr == ""


def test_json_errors_are_json_too(ndt, failing_train):
    code, out, err = ndt("presets", "lorens", "--json")
    found = json.loads(out)
    assert found["schema"] == "ndt/error/1"
    assert found["error"]["type"] == "SettingsError"
    assert "did you mean the preset lorenz?" in found["error"]["message"]
    assert found["error"]["hint"] == "List the presets with: ndt presets"
    assert found["error"]["exit_code"] == code == 2
    assert "did you mean" in err
    code, out, _ = ndt("presets", "--fields", "lorenz", "--json")
    assert json.loads(out)["error"] == {
        "type": "UsageError",
        "message": "Invalid value: give a preset's name or --fields, not both",
        "hint": None,
        "exit_code": code,
    }


def test_every_json_output_names_its_schema_and_the_guide_lists_all(ndt):
    for arguments, schema in (([], "presets"), (["lorenz"], "preset"), (["--fields"], "settings")):
        printed = json.loads(ndt("presets", *arguments, "--json")[1])
        assert printed["schema"] == f"ndt/{schema}/1"
    folder = Path(app.__file__).parent
    files = [folder / "app.py", *folder.glob("commands/*.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    schemas = re.findall(r'print_json\(\s*"([\w-]+/\d+)"', source)
    guide = (folder / "commands" / "README.md").read_text(encoding="utf-8")
    assert len(schemas) == source.count("print_json(") - 1  # its definition
    assert [schema for schema in schemas if f"`ndt/{schema}`" not in guide] == []


def test_a_config_is_read_from_standard_input(ndt, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("[train]\nmax_epochs = 0\n"))
    code, _, err = ndt("train", "--config", "-")
    assert code == 2
    assert "train.max_epochs = 0 (standard input): must be" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("[train]\nmax_epochs\n"))
    assert "standard input, line 2" in ndt("train", "--config", "-")[2]
