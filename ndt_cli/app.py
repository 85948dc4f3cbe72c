"""The ``ndt`` program: import commands when used, turn errors into messages and exit codes."""

import _thread
import atexit
import errno
import gc
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

import ndt_cli
from ndt_cli.commands.wording import as_typed, speak_as
from ndt_cli.errors import NdtError, nearest
from ndt_cli.memory import ran_out_of_memory


class _Command(NamedTuple):
    help: str
    example: str  # at the end of its own help, after its name
    target: str = ""  # default: the function of its name, in the module of its name
    panel: str = ""  # of `ndt --help`


# By panel, in the order of use. The help lines are repeated here so that `ndt --help` imports no
# command; a test compares each with the command's own.
_PANELS = {
    "Data": {
        "gen-data": _Command(
            "Make a synthetic set.",
            "lorenz --out lorenz.h5",
            "ndt_cli.commands.gen_data:gen_data_app",
        ),
        "convert": _Command(
            "Convert a recording to trials of spike counts.",
            "session.nwb --out reach.h5 --bin-ms 20 --align go_cue_time --window -250 450",
        ),
        "check-data": _Command("Check a spike file.", "reach.h5"),
    },
    "Models": {
        "presets": _Command(
            "List the presets, show one, or explain every setting.", "recordings > mine.toml"
        ),
        "train": _Command("Train a model.", "--data reach.h5 --set model.dropout=0.3"),
        "sweep": _Command(
            "Search for good settings.",
            "--data reach.h5 --members 20 --jobs 2",
            "ndt_cli.commands.sweep:sweep_app",
        ),
        "import-ndt1": _Command(
            "Import a model or a config of NDT1, the research code.",
            "lorenz.pth --out runs/imported",
        ),
        "ensemble": _Command(
            "Make an ensemble: the mean of several models' rates.",
            "runs/sweep-reach --out runs/mean",
        ),
    },
    "Results": {
        "evaluate": _Command("Evaluate a run.", "runs/reach --split train"),
        "rates": _Command(
            "Write the rates of a run's neurons to a file.", "runs/reach --out rates.h5"
        ),
        "compare": _Command("Compare runs.", "runs/first runs/second"),
        "report": _Command("Write a report of a run as a web page.", "runs/reach"),
        "plot": _Command(
            "Draw one figure of a run or a sweep, or all.",
            "runs/reach rates --neuron 3 --out rates.pdf",
            "ndt_cli.commands.report:plot",
        ),
        "stream": _Command("Infer rates bin by bin, in real time.", "runs/reach < counts.txt"),
    },
    "Speed": {
        "bench": _Command("Measure the speed of training and inference.", "--preset chaotic-rnn"),
    },
    "Neural Latents Benchmark": {
        "nlb-data": _Command(
            "Download or check the public files of the Neural Latents Benchmark.", "mc_maze_small"
        ),
        "nlb-submit": _Command(
            "Make, check and score a submission to the Neural Latents Benchmark.",
            "mc_maze_small --out runs/submission",
        ),
        "nlb-check": _Command(
            "Check a submission file of the Neural Latents Benchmark.", "submission.h5"
        ),
    },
}
COMMANDS = {
    name: command._replace(panel=panel)
    for panel, commands in _PANELS.items()
    for name, command in commands.items()
}

_OS_HINTS = {
    errno.ENOSPC: "Free some space on that disk.",
    errno.EACCES: "Check who may read or write there.",
}

_MEMORY_HINT = "Use less data or a smaller model, close other programs, or use a larger machine."
_GPU_MEMORY_HINT = (
    "Use smaller batches (--set train.batch_size=32), or turn off CUDA graphs, which keep their "
    "memory (--set train.cuda_graph=false)."
)


def load_command(name: str) -> Any:
    """Import a command's module and return it as a click command."""
    own = name.replace("-", "_")
    module, _, attribute = (COMMANDS[name].target or f"ndt_cli.commands.{own}:{own}").partition(":")
    target = getattr(import_module(module), attribute)
    if isinstance(target, typer.Typer):
        command: Any = typer.main.get_group(target)
    else:
        single = typer.Typer(add_completion=False)
        single.command(name)(target)
        command = typer.main.get_command(single)
    command.name = name
    command.epilog = f"Example:  ndt {name} {COMMANDS[name].example}"
    for each in (command, *getattr(command, "commands", {}).values()):
        each.params += _habits()
        for parameter in each.params:
            if parameter.param_type_name == "option":
                _keep_words_whole(parameter)
    return command


def _keep_words_whole(parameter: Any) -> None:
    """Keep the columns of a help page narrow, so that no word of the help text is broken.

    Choices stand in the text, which is wrapped at spaces, and not in the column of the types.
    """
    if getattr(parameter, "is_flag", False) or getattr(parameter, "count", False):
        parameter.metavar = ""  # instead of a type
    # Where the type is depends on the version of Typer.
    kind = getattr(parameter, "type_descriptor", None) or parameter.type
    kind = getattr(kind, "annotation", kind)
    choices = get_args(kind) if get_origin(kind) is Literal else getattr(kind, "choices", ())
    kind = next(iter(get_args(kind)), kind)  # of a list
    if parameter.metavar is None and choices:
        parameter.metavar = "NAME"
        parameter.help = f"{parameter.help} One of {', '.join(choices)}."
    elif parameter.metavar is None:
        parameter.metavar = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}.get(kind)


# What the options of every command asked for; `main` begins with none.
_wanted = {"debug": 0, "verbose": 0, "quiet": 0}


def _habits() -> list[Any]:
    """Return the options that every command takes, before its name and after."""

    def want(parameter: typer.CallbackParam, value: int) -> None:
        if value:
            _wanted[str(parameter.name)] = int(value)
            from ndt_cli.commands.console import set_verbosity

            set_verbosity(-1 if _wanted["quiet"] else _wanted["verbose"])

    def option(*names: str, help: str, count: bool = False) -> Any:
        return typer.Option(
            *names,
            help=help,
            count=count,
            callback=want,
            is_eager=True,
            expose_value=False,
            show_default=False,
            rich_help_panel="Any command",
        )

    def command(
        quiet: Annotated[bool, option("-q", "--quiet", help="Only results and errors.")] = False,
        verbose: Annotated[
            int, option("-v", "--verbose", help="Tell more; -vv even more.", count=True)
        ] = 0,
        debug: Annotated[bool, option("--debug", help="Show the traceback of an error.")] = False,
    ) -> None:
        pass

    single = typer.Typer(add_completion=False)
    single.command()(command)
    return [p for p in typer.main.get_command(single).params if p.name in _wanted]


def interrupt_again(lost: Any) -> None:
    """Repeat a Ctrl-C that came while an object was deleted, where Python drops exceptions."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


# Click's types are Any, because recent versions of Typer contain a copy of click and older ones
# import the package.
class NdtGroup(TyperGroup):
    """All commands by name and help line, of which only the one that runs is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, command in COMMANDS.items():
            self.commands[name] = TyperCommand(
                name, help=command.help, rich_help_panel=command.panel
            )
        self.params += _habits()
        self.as_json = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in COMMANDS:
            self.commands[name] = load_command(name)
            speak_as(self.commands[name])
        elif not name.startswith("-") and not ctx.resilient_parsing:
            close = nearest(name, COMMANDS)
            known = f"did you mean {close}?" if close else f"there are {', '.join(COMMANDS)}."
            ctx.fail(f"There is no command {name!r}; {known}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if self.as_json and hasattr(error, "format_message"):  # wrong usage
                _print_json_error("UsageError", error.format_message(), None, 2)
            raise

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn errors into a message and an exit code.

        The parent's ``main`` has handled wrong usage and exits by then.
        """
        from ndt_cli.commands.console import (
            labeled,
            note,
            plain_warning,
            set_verbosity,
            want_next_steps,
        )

        warnings.formatwarning = plain_warning
        if sys.unraisablehook is sys.__unraisablehook__:
            sys.unraisablehook = interrupt_again
        _wanted.update(dict.fromkeys(_wanted, 0))
        set_verbosity(0)
        given = kwargs.get("args") or (args[0] if args else None)
        self.as_json = "--json" in (sys.argv[1:] if given is None else given)
        want_next_steps(not self.as_json)
        try:
            return super().main(*args, **kwargs)
        except Exception as error:
            message, hint = _explained(error)
            code = error.exit_code if isinstance(error, NdtError) else 1
            if self.as_json:
                _print_json_error(type(error).__name__, message, hint, code)
            if _wanted["debug"]:
                raise
            note(labeled("Error", "bold red", message), always=True)
            if hint is not None:
                note(hint, always=True)
            sys.exit(code)


def _explained(error: Exception) -> tuple[str, str | None]:
    """Return what went wrong, and what to try."""
    if isinstance(error, NdtError):
        return as_typed(error.message), None if error.hint is None else as_typed(error.hint)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}", _OS_HINTS.get(error.errno or 0)
    if ran_out_of_memory(error):
        cause = str(error).strip() or "the system has no more"
        return f"out of memory: {cause}", _GPU_MEMORY_HINT if "CUDA" in cause else _MEMORY_HINT
    return (
        f"This is a bug in ndt: {type(error).__name__}: {error}",
        "Run it again with --debug, and report the traceback.",
    )


def _print_json_error(kind: str, message: str, hint: str | None, code: int) -> None:
    from ndt_cli.commands.console import OutputError, print_json

    error = {"type": kind, "message": message, "hint": hint, "exit_code": code}
    with suppress(OutputError):  # standard output may be what is wrong
        print_json("error/1", {"error": error})


app = typer.Typer(
    cls=NdtGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # --debug shows Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ndt {ndt_cli.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Neural Data Transformer: single-trial firing rates from spike counts."""


def main(args: Sequence[str] | None = None) -> None:
    """Run ``ndt`` with these arguments, by default those of the process; raises SystemExit."""
    # OpenMP threads spin while they wait: if another process takes a core, they starve the thread
    # that works, and training slows down tenfold. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imports make a million objects that stay. To look through the new ones after each 700 takes a
    # tenth of the start of a command.
    gc.set_threshold(100_000)
    # Nor are they looked through at the end, which takes a second.
    atexit.register(gc.freeze)
    given = sys.argv[1:] if args is None else args
    app([_at_home(word) for word in given], prog_name="ndt")


def _at_home(word: str) -> str:
    """Expand a ``~`` that the shell left, as in ``--out=~/x`` and between quotes."""
    flag, sign, value = word.partition("=")
    if flag.startswith("--") and sign and value.startswith("~"):
        return f"{flag}={os.path.expanduser(value)}"  # noqa: PTH111
    return os.path.expanduser(word) if word.startswith("~") else word  # noqa: PTH111
