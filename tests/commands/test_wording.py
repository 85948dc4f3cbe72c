"""Python names in messages of the library, as they are typed on the command line."""

import inspect
from pathlib import Path

import pytest

import ndt_cli
from ndt_cli.app import COMMANDS, load_command
from ndt_cli.commands.wording import COMMAND_OF, as_typed, flags_of
from ndt_cli.errors import ExistingFileError, SettingsError, called
from ndt_cli.evaluation import evaluate

FLAGS = {
    "bin_ms": "--bin-ms", "lags_ms": "--lag-ms", "overwrite": "--overwrite", "smooth": "--smooth",
    "file": "FILE",
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "typed"),
    [
        ("bin_ms", "--bin-ms"),
        ("bin_ms=20", "--bin-ms 20"),
        ("bin_ms=nan", "--bin-ms nan"),
        ("file", "FILE"),
        ("bin_ms='a b; rm c'", "--bin-ms 'a b; rm c'"),
        ("overwrite=True", "--overwrite"),
        ("smooth=False", "--no-smooth"),
        ("lags_ms=[0, 80]", "--lag-ms 0 --lag-ms 80"),
        ("lags_ms=[nan]", "--lag-ms nan"),
        ("train.batch_size", "train.batch_size"),
        ("train.batch_size=32", "--set train.batch_size=32"),
        ("data.file=my file.h5", "--set 'data.file=my file.h5'"),
        ("resume('runs/a')", "ndt train --resume runs/a"),
        ("resume('my runs/a', until_epoch=5)", "ndt train --resume 'my runs/a' --until-epoch 5"),
        ("describe_file(FILE)", "ndt check-data FILE"),
        ("accept_changes=True", "ndt evaluate RUN --accept-changes"),
        ("other_window=True", "ndt evaluate RUN --other-window"),
    ],
)
def test_python_in_backticks_is_shown_as_it_is_typed(code, typed):
    assert as_typed(f"Use `{code}`.", FLAGS) == f"Use {typed}."


@pytest.mark.parametrize(
    "text",
    ["`spikes`", "`rates_BTN[0]`", "`no_such_function(1)`", "`a b c`", "`=1`", "no code", "`a\nb`"],
)
def test_other_text_stays_as_it_is(text):
    assert as_typed(text, FLAGS) == text


def test_a_path_in_a_hint_is_quoted_for_the_shell():
    hint = f"Resume it: {called('resume', Path('my runs/a'))}"
    assert as_typed(hint, {}) == "Resume it: ndt train --resume 'my runs/a'"


def test_an_existing_file_names_the_flag_that_replaces_it():
    error = ExistingFileError(Path("a.h5"))
    assert "`overwrite=True`" in str(error)
    flags = flags_of(load_command("evaluate"))
    assert as_typed(error.hint, flags) == "Choose another name, or replace it with --overwrite."


def test_flags_of_a_command_include_those_of_its_subcommands():
    flags = flags_of(load_command("gen-data"))
    assert flags["n_neurons"] == "--n-neurons"


@pytest.mark.parametrize("name", list(COMMAND_OF))
def test_a_function_with_a_command_exists_and_so_does_the_command(name):
    assert COMMAND_OF[name].split()[1] in COMMANDS
    sources = Path(ndt_cli.__file__).parent.rglob("*.py")
    assert any(f"def {name}(" in path.read_text(encoding="utf-8") for path in sources)


def test_arguments_that_evaluate_names_have_a_flag_of_the_same_name():
    """Otherwise a message about them would show Python on the command line."""
    flags = flags_of(load_command("evaluate"))
    arguments = set(inspect.signature(evaluate).parameters) - {"recording"}
    assert arguments <= set(flags)
    with pytest.raises(SettingsError) as caught:
        evaluate("no-such-run", overrides=["data.bin_ms=20"])
    assert as_typed(str(caught.value), flags) == (
        "--set can only change how another file is read, and no file is given\n"
        "add --data FILE, or train a run with those settings"
    )


def test_the_keys_of_a_spike_file_are_not_taken_for_options_of_evaluate():
    flags = flags_of(load_command("evaluate"))
    text = "`rates`: found shape (10, 6, 2); `spikes` has (10, 6, 3)"
    assert as_typed(text, flags) == text
