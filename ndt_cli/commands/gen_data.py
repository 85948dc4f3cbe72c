"""``ndt gen-data``: write a synthetic set in the own layout."""

import hashlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

from ndt_cli.commands.console import next_step, out, plain_table, print_json
from ndt_cli.commands.flags import JsonOption, OverwriteOption
from ndt_cli.data.spike_data import Recording
from ndt_cli.data.synthetic import make_chaotic_rnn, make_lorenz
from ndt_cli.data.write import check_target, write_recording
from ndt_cli.errors import typed

gen_data_app = typer.Typer(no_args_is_help=True, help="Make a synthetic set.")


_OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="File to write; the ending, .h5 or .npz, decides which.")
]


def _add_command(name: str, make: Callable[..., Recording]) -> None:
    """Add a command with an option for each argument of a generator, from its signature and doc."""

    def command(
        *,
        path: _OutOption,
        overwrite: OverwriteOption = False,
        as_json: JsonOption = False,
        **arguments: Any,
    ) -> None:
        check_target(path, overwrite=overwrite)
        recording = make(**arguments)
        write_recording(recording, path, overwrite=overwrite)
        _show(recording, path, as_json)
        next_step(f"ndt train --data {typed(path)}")

    summary, _, rest = (inspect.getdoc(make) or "").partition("\n\nParameters\n----------\n")
    texts = {
        argument: " ".join(text.split())
        for names, text in re.findall(r"^(\w.*) : .*\n((?:    .*\n?)+)", rest, re.MULTILINE)
        for argument in names.split(", ")
    }
    options = [
        parameter.replace(
            annotation=Annotated[parameter.annotation, typer.Option(help=texts[argument])]
        )
        for argument, parameter in inspect.signature(make).parameters.items()
    ]
    out_option, *others, _ = inspect.signature(command).parameters.values()
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [out_option, *options, *others]
    )
    paragraphs = [fill(" ".join(p.split()), 78) for p in summary.replace("``", "").split("\n\n")]
    gen_data_app.command(name, help="\n\n".join(paragraphs))(command)


def _show(recording: Recording, path: Path, as_json: bool) -> None:
    train, valid = recording.train, recording.valid
    facts: dict[str, Any] = {
        "file": str(path),
        "train_trials": train.n_trials,
        "valid_trials": valid.n_trials,
        "bins": train.n_bins,
        "bin_ms": train.bin_ms,
        "neurons": train.n_neurons,
        "mean_rate_hz": float(train.spikes_BTN.mean()) * 1000 / train.bin_ms,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    if as_json:
        print_json("gen-data/1", facts)
        return
    table = plain_table(show_header=False)
    for key, value in facts.items():
        name = key.replace("_", " ").replace(" hz", ", Hz").replace("bin ms", "bin width, ms")
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    out.print(table)


_add_command("chaotic-rnn", make_chaotic_rnn)
_add_command("lorenz", make_lorenz)
