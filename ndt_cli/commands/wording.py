"""Show the Python names in messages of the library as they are typed on the command line."""

import ast
import re
import shlex
from collections.abc import Mapping
from typing import Any

from ndt_cli.errors import typed

# The commands that do the same as the Python functions that messages name.
COMMAND_OF = {
    "check_dataset": "ndt nlb-data --check",
    "check_submission": "ndt nlb-check",
    "choose_members": "ndt ensemble",
    "compare_runs": "ndt compare",
    "convert": "ndt convert",
    "describe_file": "ndt check-data",
    "evaluate": "ndt evaluate",
    "field_table": "ndt presets --fields",
    "fetch_dataset": "ndt nlb-data",
    "fit_seeds": "ndt train",
    "find_space": "ndt sweep spaces",
    "import_ndt1": "ndt import-ndt1",
    "list_contents": "ndt convert --list",
    "infer_rates": "ndt rates",
    "load_settings": "ndt presets",
    "preset_names": "ndt presets",
    "plot": "ndt plot",
    "resume": "ndt train --resume",
    "resume_seeds": "ndt train --resume",
    "resume_sweep": "ndt sweep --resume",
    "save_ensemble": "ndt ensemble",
    "sweep": "ndt sweep",
    "train": "ndt train",
    "write_report": "ndt report",
    "write_spike_file": "ndt nlb-data",
}
# Calls that are arguments or parts of others, and keywords, where commands have other names.
_FLAG_OF_CALL = {"find_space": "--space", "load_settings": "--config"}
_FLAGS_OF_EVALUATE = ("accept_changes", "other_neurons", "other_window")
_FLAG_OF_KEYWORD = {"n_members": "--members", "n_seeds": "--seeds", "overrides": "--set"}

# Flags of the command that this process runs, by parameter name.
_flags: dict[str, str] = {}


def speak_as(command: Any) -> None:
    """Make the flags of a click command the default of `as_typed`."""
    _flags.clear()
    _flags.update(flags_of(command))


def as_typed(text: str, flags: Mapping[str, str] = _flags) -> str:
    """Replace Python code in backticks by what is typed on the command line.

    Parameters
    ----------
    text : str
        A message or hint of an `NdtError` or a warning.
    flags : mapping of str to str, optional
        Flag of each parameter, or the placeholder of an argument. Default: those of the command
        that runs.

    Examples
    --------
    >>> flags = {"bin_ms": "--bin-ms", "overwrite": "--overwrite", "set": "--set"}
    >>> as_typed("Give `bin_ms=20`, or `overwrite=True`.", flags)
    'Give --bin-ms 20, or --overwrite.'
    >>> as_typed("Use `train.batch_size=32`, then `resume('my runs/a')`.", flags)
    "Use --set train.batch_size=32, then ndt train --resume 'my runs/a'."
    >>> as_typed("`train(load_settings('a.toml'), out='b')`, `evaluate('b')`")
    'ndt train --config a.toml --out b, ndt evaluate b'
    >>> as_typed("`train(load_settings('a.toml', ['model.dropout=0', 'mask.ratio=0.3']))`")
    'ndt train --config a.toml --set model.dropout=0 --set mask.ratio=0.3'
    >>> as_typed("`write_rates('rates.h5', infer_rates('b'))`")
    'ndt rates b --out rates.h5'
    >>> as_typed("a.h5: `bin_ms`: found 0; give it: `bin_ms=20`", flags)
    'a.h5: `bin_ms`: found 0; give it: --bin-ms 20'
    """

    def typed_form(found: re.Match[str]) -> str:
        # A key of a file that is named like a parameter: "FILE: `bin_ms`: found".
        between_colons = text[: found.start()].endswith(": ") and text[found.end() :].startswith(
            ":"
        )
        is_key = between_colons and found[1].isidentifier()
        return found[0] if is_key else _typed(found[1], flags) or found[0]

    return re.sub(r"`([^`\n]+)`", typed_form, text)


def flags_of(command: Any) -> dict[str, str]:
    """Return the flag of each parameter of a click command, its subcommands included."""
    flags = {}
    for subcommand in getattr(command, "commands", {}).values():
        flags.update(flags_of(subcommand))
    for parameter in getattr(command, "params", ()):
        is_option = getattr(parameter, "param_type_name", "") == "option"
        longest = max(parameter.opts, key=len)
        flags[parameter.name] = (
            longest if is_option else parameter.metavar or parameter.name.upper()
        )
    return flags


def _typed(code: str, flags: Mapping[str, str]) -> str | None:
    """Return what is typed for a piece of Python, or None when it is something else."""
    if re.fullmatch(r"[a-z]+\.\w+", code):  # a setting
        return code
    if re.fullmatch(r"[a-z]+\.\w+=.*", code):
        return f"--set {shlex.quote(code)}"
    name, equals, value = code.partition("=")
    if name in _FLAGS_OF_EVALUATE and name not in flags:  # no option of this command
        return f"ndt evaluate RUN --{name.replace('_', '-')}"
    if name in flags:
        return flags[name] if not equals else _option(flags[name], value)
    try:
        call = ast.parse(code, mode="eval").body
    except SyntaxError:
        return None
    part = ""
    if isinstance(call, ast.Call) and ast.unparse(call.func) == "write_rates":
        part, call = f" --out {_word(call.args[0])}", call.args[1]
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    command = COMMAND_OF.get(call.func.id)
    if command is None:
        return None
    words = [_word(argument) for argument in call.args]
    for keyword in call.keywords:
        name = str(keyword.arg)
        flag = _FLAG_OF_KEYWORD.get(name, "--" + name.replace("_", "-"))
        words.append(_option(flag, ast.unparse(keyword.value)))
    return " ".join([command, *words]) + part


def _option(flag: str, value: str) -> str:
    if value in ("True", "False"):
        return flag if value == "True" else flag.replace("--", "--no-", 1)
    try:
        literal = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # nan, or a placeholder, such as FILE
        return f"{flag} {value.strip('[]')}"
    if isinstance(literal, list):  # an option that may be repeated
        return " ".join(f"{flag} {shlex.quote(str(item))}" for item in literal)
    values = literal if isinstance(literal, tuple) else (literal,)
    return " ".join([flag, *(shlex.quote(str(item)) for item in values)])


def _word(argument: ast.expr) -> str:
    if isinstance(argument, ast.Constant):
        return typed(str(argument.value))
    if isinstance(argument, ast.Call) and ast.unparse(argument.func) in _FLAG_OF_CALL:
        value = " ".join(map(_word, argument.args))
        return f"{_FLAG_OF_CALL[ast.unparse(argument.func)]} {value}".rstrip()
    if isinstance(argument, ast.List):  # changes of settings
        return _option("--set", ast.unparse(argument))
    return ast.unparse(argument)  # a placeholder, such as FILE
