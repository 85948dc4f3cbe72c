"""``ndt sweep``: a search."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndt_cli.commands.console import log, run_warnings_shown
from ndt_cli.commands.flags import ConfigOption, JsonOption, SetOption, with_flag
from ndt_cli.commands.stopping import StopFlag, stop_request
from ndt_cli.commands.sweep_ray import (
    BackendOption,
    CpusOption,
    GpusOption,
    GraceOption,
    RayAddressOption,
    RayFlags,
    SchedulerOption,
    SearcherOption,
    training_on_ray,
)
from ndt_cli.commands.sweep_show import show, show_results, spaces
from ndt_cli.errors import SettingsError, typed
from ndt_cli.settings.load import find_config, load_settings

if TYPE_CHECKING:
    from ndt_cli.search.lineage import Move
    from ndt_cli.search.space import Space

sweep_app = typer.Typer(invoke_without_command=True)
sweep_app.command("show")(show)
sweep_app.command("spaces")(spaces)

# As many as the paper drew.
_N_MEMBERS = 20


@sweep_app.callback()
def sweep(
    context: typer.Context,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Spike file; short for --set data.file=FILE."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="FILE|NAME",
            help="What is drawn: a TOML file, or a space's name (see: ndt sweep spaces).",
            show_default="the preset's own",
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option("--members", min=1, help="Models to train.", show_default=str(_N_MEMBERS)),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of the draws.", show_default="0")
    ] = None,
    choose_by: Annotated[
        str | None,
        typer.Option(
            "--choose-by",
            help="Measure that ranks: masked-loss, unmasked-loss, rate-r2 or co-bps.",
            show_default="train.choose_by",
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder.", show_default="runs/sweep-<data>-<time>"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", help="Go on with this sweep where it stopped; --members may be more."
        ),
    ] = None,
    pbt_interval: Annotated[
        int | None,
        typer.Option(
            "--pbt-interval",
            min=1,
            help="Population-based training, here or on Ray: every so many epochs the worst "
            "quarter goes on from the best, with settings changed a little. At least 4 members.",
            show_default="none",
        ),
    ] = None,
    backend: BackendOption = None,
    ray_address: RayAddressOption = None,
    cpus_per_worker: CpusOption = None,
    gpus_per_worker: GpusOption = None,
    scheduler: SchedulerOption = None,
    grace_epochs: GraceOption = None,
    searcher: SearcherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for good settings at random.

    Trains models with settings drawn from a space, and ranks them by
    validation. Or by generations, with --pbt-interval; on several machines,
    with --backend ray.

    Each is an ordinary run in SWEEP/members. Then: ndt ensemble SWEEP
    """
    if context.invoked_subcommand is not None:
        _check_none_given(context)
        return
    if resume is not None:
        given = (config, overrides, data, space, seed, choose_by, out_folder, pbt_interval)
        if any(option is not None for option in given):
            raise SettingsError(
                "--resume goes on in the sweep's own folder with its own settings",
                "leave out everything but --members and the options of Ray",
            )
    flags = RayFlags(
        backend=backend,
        ray_address=ray_address,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        scheduler=scheduler,
        grace_epochs=grace_epochs,
        searcher=searcher,
    )
    interval = pbt_interval if resume is None else _interval_of(resume)
    if interval is not None and (flags.scheduler == "asha" or flags.searcher == "optuna"):
        raise SettingsError(
            "population-based training (--pbt-interval) replaces the worse members and chooses "
            "their settings itself",
            "leave out --scheduler asha and --searcher optuna, or --pbt-interval",
        )
    on_ray = flags.options()
    if resume is None:
        source = find_config(config)
        changes = with_flag(overrides, "--data", "data.file", data)
        changes = with_flag(changes, "--choose-by", "train.choose_by", choose_by)
        settings = load_settings(config, changes)
        log.print(f"settings: {source.label}", highlight=False, soft_wrap=True)

    from ndt_cli.search.find_space import default_space, find_space
    from ndt_cli.search.folder import SweepFolder
    from ndt_cli.search.pbt import TrainByGenerations, check_generations
    from ndt_cli.search.sweep import resume_sweep
    from ndt_cli.search.sweep import sweep as run_sweep

    if resume is not None:
        earlier = SweepFolder.open(resume)
        settings, found = earlier.settings, earlier.space
    else:
        if interval is not None:
            check_generations(interval, members or _N_MEMBERS, settings)
        found = find_space(space or default_space(Path(source.name).stem))
        _tell_space(found)
    with ExitStack() as open_:
        open_.enter_context(run_warnings_shown())
        stop = open_.enter_context(stop_request())
        training = (
            _training_here(stop)
            if on_ray is None
            else training_on_ray(on_ray, settings, found, stop)
        )
        how = open_.enter_context(training)
        if interval is not None:
            how["trainer"] = TrainByGenerations(interval, how["trainer"], _tell_moves)
        if resume is not None:
            done = resume_sweep(resume, n_members=members, **how)
        else:
            done = run_sweep(
                settings,
                found,
                n_members=members or _N_MEMBERS,
                seed=seed or 0,
                out=out_folder,
                **how,
            )
    path = done.results.path
    if done.interrupted:
        words = f"Stopped and saved. Go on with: ndt sweep --resume {typed(path)}"
        log.print(f"{words}{flags.as_words()}", highlight=False, soft_wrap=True)
        raise typer.Exit(130)
    show_results(done.results, as_json)


def _check_none_given(context: typer.Context) -> None:
    sources = (context.get_parameter_source(name) for name in context.params)
    if any(source is not None and source.name == "COMMANDLINE" for source in sources):
        command = context.invoked_subcommand
        raise SettingsError(
            f"options before `{command}` are those of a search, and it makes none",
            f"write its own options after it: ndt sweep {command} --help",
        )


def _interval_of(sweep: Path) -> int | None:
    from ndt_cli.search.lineage import Lineage

    lineage = Lineage.read(sweep)
    return lineage.interval_epochs if lineage else None


@contextmanager
def _training_here(should_stop: StopFlag) -> Iterator[dict[str, Any]]:
    """Give what `ndt_cli.search.sweep.sweep` takes to train in this process, and show it."""
    from ndt_cli.commands.sweep_progress import SweepProgress
    from ndt_cli.search.in_turn import train_in_turn

    with SweepProgress() as progress:
        yield {
            "trainer": train_in_turn,
            "watch": progress,
            "tell": progress.member_ended,
            "should_stop": should_stop,
        }


def _tell_space(space: "Space") -> None:
    log.print(f"space: {space.name}, {len(space.draws)} settings drawn", soft_wrap=True)


def _tell_moves(epoch: int, moves: "Sequence[Move]") -> None:
    who = ", ".join(f"{move.member} goes on from {move.source}" for move in moves)
    log.print(f"ranked after {epoch} epochs: {who or 'none is replaced'}", highlight=False)
