"""``ndt nlb-check``: check a submission file of the benchmark."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import labeled, next_step, out, plain_table, print_json, say
from ndt_cli.commands.flags import JsonOption
from ndt_cli.commands.wording import as_typed
from ndt_cli.errors import typed

if TYPE_CHECKING:
    from ndt_cli.nlb.check import Finding
    from ndt_cli.nlb.check_arrays import Shape

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def nlb_check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Submission file (HDF5).", show_default=False)
    ],
    targets: Annotated[
        Path | None,
        typer.Option(
            "--targets",
            metavar="FILE",
            help="Target file written by nlb_tools' save_to_h5: checks exact sizes and, with its "
            "spikes, the unit of the rates and the order of the trials.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a submission file of the Neural Latents Benchmark.

    The file may come from any program. Checks groups, keys, types, shapes, the
    order of axes, NaN and negative values, rates in Hz or as logarithms,
    constant rates, the order of trials. Exit code 1 if the file is invalid.
    """
    from ndt_cli.nlb.check import Expected, check_submission, submission_shapes
    from ndt_cli.nlb.submission import read_groups

    expected = None
    if targets is not None:
        expected = {name: Expected.of(arrays) for name, arrays in read_groups(targets).items()}
    findings = [
        replace(f, message=as_typed(f.message), hint=f.hint and as_typed(f.hint))
        for f in check_submission(file, expected)
    ]
    shapes = submission_shapes(file)
    wrong = any(finding.severity == "error" for finding in findings)
    if as_json:
        print_json(
            "nlb-check/1",
            {
                "file": str(file),
                "ok": not wrong,
                "groups": {name: dict(arrays) for name, arrays in shapes.items()},
                "findings": [asdict(finding) for finding in findings],
            },
        )
    else:
        _show(file, shapes, findings)
    if wrong:
        raise typer.Exit(1)
    if targets is None:
        next_step(f"ndt nlb-check {typed(file)} --targets TARGETS.h5")


def _show(file: Path, shapes: "dict[str, dict[str, Shape]]", findings: "Sequence[Finding]") -> None:
    say(str(file), style="bold")
    table = plain_table("Group", "Array", "Trials x bins x neurons")
    for name, arrays in shapes.items():
        for i, (key, shape) in enumerate(arrays.items()):
            table.add_row(name if i == 0 else "", key, " x ".join(map(str, shape)))
    if shapes:
        out.print(table)
    for finding in findings:
        style = _STYLES[finding.severity]
        label = finding.severity.capitalize()
        say(labeled(label, style, str(finding)))
        if finding.hint is not None:
            say(f"  {finding.hint}")
    counts = Counter(finding.severity for finding in findings)
    if counts["error"]:
        say(f"Invalid: {_number(counts['error'], 'error')}.", style="bold red")
    elif counts["warning"]:
        say(f"Valid submission, {_number(counts['warning'], 'warning')}.")
    else:
        say("Valid submission.", style="green")


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
