"""``ndt ensemble``: several trained models as one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndt_cli.commands.console import next_step, note, plain_table, print_json, say, warn
from ndt_cli.commands.console import out as stdout
from ndt_cli.commands.flags import JsonOption
from ndt_cli.errors import DataError, ExistingFileError, RunError, SettingsError, typed

if TYPE_CHECKING:
    from ndt_cli.search.folder import EnsembleChoice


def ensemble(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="SWEEP|RUN...", help="A sweep's folder, or run folders."),
    ],
    members: Annotated[
        int | None,
        typer.Option(
            "--members",
            min=1,
            help="Number of members of a sweep to average, best first.",
            show_default="the number that validates best",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder.", show_default="runs/ensemble-<time>"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an ensemble: the mean of several models' rates.

    The best members of a sweep are averaged: as many as validate best together.
    Of several sessions in one run, there is an ensemble for each.

    The new folder is complete without the runs, and is used like one:
    ndt evaluate ENSEMBLE
    """
    from ndt_cli.engine.ensembles import save_ensembles
    from ndt_cli.search.folder import SweepFolder, choose_members

    choice = None
    if not any(SweepFolder.is_at(path) for path in paths):
        if members is not None:
            raise SettingsError(
                "--members is for a sweep, but runs are given",
                "Leave it out: all runs that are named are averaged.",
            )
        folder, saved = _in_new_folder(out, lambda new: save_ensembles(paths, new))
    elif len(paths) > 1:
        raise SettingsError(
            "expected one sweep, or runs, not both",
            "The members of a sweep are runs: SWEEP/members/000",
        )
    else:
        choice = choose_members(paths[0], members)
        folder, saved = _in_new_folder(out, choice.save)
    for one in saved:
        _complete(one)
    _print(folder, len(choice.runs if choice else paths), choice, as_json)
    next_step(*(f"ndt evaluate {typed(one)}" for one in saved))


def _in_new_folder(out: Path | None, save: Callable[[Path], list[Path]]) -> tuple[Path, list[Path]]:
    """Save in the folder that is named, or in a new one that no other command took meanwhile."""
    from ndt_cli.engine.run_folder import default_path

    while True:
        folder = out or default_path("ensemble")
        try:
            return folder, save(folder)
        except ExistingFileError:
            if out is not None:
                raise


def _complete(folder: Path) -> None:
    from ndt_cli.fitting import complete_ensemble

    try:
        complete_ensemble(folder)
    except (DataError, RunError) as error:  # the ensemble is whole without
        warn(f"no decoders of behavior are stored with the ensemble: {error.message}")


def _print(folder: Path, n_members: int, choice: "EnsembleChoice | None", as_json: bool) -> None:
    curve = choice.curve if choice else []
    if as_json:
        print_json(
            "ensemble/1",
            {"ensemble": str(folder), "n_members": n_members, "validation_curve": curve},
        )
        return
    if choice is not None and curve:
        from ndt_cli.engine.measures import MEASURES

        label = MEASURES[choice.choose_by].label
        table = plain_table("best", "member\nadded", f"validation\n{label}")
        for n, (score, run) in enumerate(zip(curve, choice.ranked, strict=True), start=1):
            table.add_row(str(n), run.name, f"{score:.4f}", style="bold" if n == n_members else "")
        stdout.print(table)
        if n_members == 1 < len(curve):
            note("the best member alone validates best; --members N averages more of them")
    say(f"ensemble of {n_members}: {folder}")
