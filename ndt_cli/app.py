"""The ``ndt`` program: import commands when used, turn errors into messages and exit codes."""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

import ndt_cli
from ndt_cli.commands.wording import as_typed, speak_as
from ndt_cli.errors import NdtError, nearest
from ndt_cli.memory import ran_out_of_memory


class _Command(NamedTuple):
    target: str
    help: str


# In the order of use. The help lines are repeated here so that `ndt --help` imports no command;
# a test compares each with the command's own.
COMMANDS = {
    "gen-data": _Command("ndt_cli.commands.gen_data:gen_data_app", "Make a synthetic set."),
    "convert": _Command(
        "ndt_cli.commands.convert:convert", "Convert a recording to trials of spike counts."
    ),
    "check-data": _Command("ndt_cli.commands.check_data:check_data", "Check a spike file."),
    "presets": _Command(
        "ndt_cli.commands.presets:presets", "List the presets, show one, or explain every setting."
    ),
    "train": _Command("ndt_cli.commands.train:train", "Train a model."),
    "sweep": _Command("ndt_cli.commands.sweep:sweep_app", "Search for good settings."),
    "import-ndt1": _Command(
        "ndt_cli.commands.import_ndt1:import_ndt1",
        "Import a model or a config of NDT1, the research code.",
    ),
    "ensemble": _Command(
        "ndt_cli.commands.ensemble:ensemble",
        "Make an ensemble: the mean of several models' rates.",
    ),
    "evaluate": _Command("ndt_cli.commands.evaluate:evaluate", "Evaluate a run."),
    "rates": _Command(
        "ndt_cli.commands.rates:rates", "Write the rates of a run's neurons to a file."
    ),
    "compare": _Command("ndt_cli.commands.compare:compare", "Compare runs."),
    "report": _Command("ndt_cli.commands.report:report", "Write a report of a run as a web page."),
    "plot": _Command("ndt_cli.commands.report:plot", "Draw one figure of a run or a sweep."),
    "stream": _Command("ndt_cli.commands.stream:stream", "Infer rates bin by bin, in real time."),
    "bench": _Command(
        "ndt_cli.commands.bench:bench", "Measure the speed of training and inference."
    ),
    "nlb-data": _Command(
        "ndt_cli.commands.nlb_data:nlb_data",
        "Download or check the public files of the Neural Latents Benchmark.",
    ),
    "nlb-submit": _Command(
        "ndt_cli.commands.nlb_submit:nlb_submit",
        "Make, check and score a submission to the Neural Latents Benchmark.",
    ),
    "nlb-check": _Command(
        "ndt_cli.commands.nlb_check:nlb_check",
        "Check a submission file of the Neural Latents Benchmark.",
    ),
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
    module, _, attribute = COMMANDS[name].target.partition(":")
    target = getattr(import_module(module), attribute)
    if isinstance(target, typer.Typer):
        command: Any = typer.main.get_group(target)
    else:
        single = typer.Typer(add_completion=False)
        single.command(name)(target)
        command = typer.main.get_command(single)
    command.name = name
    return command


# Click's types are Any, because recent versions of Typer contain a copy of click and older ones
# import the package.
class NdtGroup(TyperGroup):
    """All commands by name and help line, of which only the one that runs is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, command in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=command.help)
        self.debug = False

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
        self.debug = ctx.params["debug"]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(130) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn errors into a message and an exit code.

        The parent's ``main`` has handled wrong usage and exits by then.
        """
        try:
            return super().main(*args, **kwargs)
        except Exception as error:
            if self.debug:
                raise
            _explain(error)
            sys.exit(error.exit_code if isinstance(error, NdtError) else 1)


def _explain(error: Exception) -> None:
    if isinstance(error, NdtError):
        hint = None if error.hint is None else as_typed(error.hint)
        _print_error(as_typed(error.message), hint)
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        _print_error(f"{where}{error.strerror}", _OS_HINTS.get(error.errno or 0))
    elif ran_out_of_memory(error):
        cause = str(error).strip() or "the system has no more"
        hint = _GPU_MEMORY_HINT if "CUDA" in cause else _MEMORY_HINT
        _print_error(f"out of memory: {cause}", hint)
    else:
        kind = type(error).__name__
        _print_error(
            f"This is a bug in ndt: {kind}: {error}",
            "Run it again as  ndt --debug ...  and report the traceback.",
        )


def _print_error(message: str, hint: str | None = None) -> None:
    from ndt_cli.commands.console import labeled, note

    note(labeled("Error", "bold red", message))
    if hint is not None:
        note(hint)


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
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the full traceback of an error.")
    ] = False,
) -> None:
    """Neural Data Transformer: single-trial firing rates from spike counts."""


def main(args: Sequence[str] | None = None) -> None:
    """Run ``ndt`` with these arguments, by default those of the process; raises SystemExit."""
    # OpenMP threads spin while they wait: if another process takes a core, they starve the thread
    # that works, and training slows down tenfold. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = sys.argv[1:] if args is None else args
    app([_at_home(word) for word in given], prog_name="ndt")


def _at_home(word: str) -> str:
    """Expand a ``~`` that the shell left, as in ``--out=~/x`` and between quotes."""
    flag, sign, value = word.partition("=")
    if flag.startswith("--") and sign and value.startswith("~"):
        return f"{flag}={os.path.expanduser(value)}"  # noqa: PTH111
    return os.path.expanduser(word) if word.startswith("~") else word  # noqa: PTH111
