"""``ndt sweep``: a search for good settings."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ndt_cli.commands.console import note, run_warnings_shown, stop_request
from ndt_cli.commands.flags import (
    ConfigOption,
    DataOption,
    FromOption,
    JsonOption,
    SetOption,
    chosen_settings,
    settings_from,
    with_data,
    with_flag,
)
from ndt_cli.commands.sweep_show import show, show_results, spaces
from ndt_cli.errors import SettingsError, typed

if TYPE_CHECKING:
    from ndt_cli.engine.executors import Executor
    from ndt_cli.search.loop import Watching

sweep_app = typer.Typer(invoke_without_command=True)
sweep_app.command("show")(show)
sweep_app.command("spaces")(spaces)

# As many as the paper drew.
_N_MEMBERS = 20
_WHERE = "Where members train"
_HOW = "How settings are chosen"
# Options that may be given together with --resume.
_WITH_RESUME = (
    "resume", "n_members", "time_budget", "jobs", "backend", "ray_address", "cpus_per_worker",
    "gpus_per_worker", "logger", "as_json",
)  # fmt: skip
# Of these, those that say where members train: they are repeated in the command that resumes.
_PLACE = ("jobs", "backend", "ray_address", "cpus_per_worker", "gpus_per_worker")


@sweep_app.callback()
def sweep(
    context: typer.Context,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data: DataOption = None,
    start: FromOption = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="FILE|NAME",
            help="What is drawn: a TOML file, or the name of a space (see: ndt sweep spaces).",
            show_default="that of the preset",
        ),
    ] = None,
    n_members: Annotated[
        int,
        typer.Option("--members", min=1, help="Settings to draw; a model is trained with each."),
    ] = _N_MEMBERS,
    n_seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Models per drawn settings, which are ranked by the mean."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
    choose_by: Annotated[
        str | None,
        typer.Option(
            "--choose-by",
            help="Measure that ranks: masked-loss, unmasked-loss, rate-r2 or co-bps.",
            show_default="train.choose_by",
        ),
    ] = None,
    default_run: Annotated[
        bool,
        typer.Option(
            help="Also train with the default settings, to compare the best with.",
            rich_help_panel="The default settings",  # its two names would narrow another panel
        ),
    ] = True,
    time_budget: Annotated[
        float | None,
        typer.Option(
            "--time-budget",
            metavar="MINUTES",
            help="Save and end after this time; --resume continues.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="New folder.", show_default="runs/sweep-<data>-<time>"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Resume this sweep where it stopped; --members may be more."),
    ] = None,
    logger: Annotated[
        Literal["wandb", "mlflow"] | None,
        typer.Option("--logger", help="Send every member to this experiment tracker."),
    ] = None,
    sampler: Annotated[
        Literal["random", "tpe"],
        typer.Option(
            "--sampler",
            help="tpe: after ten random members, choose values by what earlier ones scored.",
            rich_help_panel=_HOW,
        ),
    ] = "random",
    pruner: Annotated[
        Literal["none", "halving", "hyperband"],
        typer.Option(
            "--pruner",
            help="Stop members that are worse than others after as many epochs.",
            rich_help_panel=_HOW,
        ),
    ] = "none",
    grace_epochs: Annotated[
        int | None,
        typer.Option(
            "--grace-epochs",
            min=1,
            help="Epochs before a member can be stopped; compared again after 3, 9, ... times as "
            "many.",
            show_default="max_epochs / 27, or the warm-up",
            rich_help_panel=_HOW,
        ),
    ] = None,
    pbt_interval: Annotated[
        int | None,
        typer.Option(
            "--pbt-interval",
            min=1,
            help="Population-based training: every N epochs, replace the worst quarter by "
            "perturbed copies of the best. At least 4 members.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=0,
            help="Members that train at the same time on this machine. 0: one per CPU core or, on "
            "GPUs, as many as their memory holds.",
            rich_help_panel=_WHERE,
        ),
    ] = 1,
    backend: Annotated[
        Literal["local", "ray"],
        typer.Option(
            "--backend",
            help="ray: on a Ray cluster whose machines share the folder of the sweep under the "
            "same path.",
            rich_help_panel=_WHERE,
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="HOST:PORT|auto",
            help="A running cluster; auto: that of this machine.",
            show_default="RAY_ADDRESS, otherwise started for the sweep",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(
            "--cpus-per-worker",
            min=1,
            help="CPUs of a member on Ray, and its threads.",
            show_default="train.n_threads, or 1",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-worker",
            min=0,
            help="GPUs of a member on Ray; 0.25: four share one.",
            show_default="1 if there are any",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for good settings.

    Trains models with settings drawn from a space, and ranks them by
    validation. Of several sessions, by the mean over them.

    Each is an ordinary run in SWEEP/members. Then: ndt ensemble SWEEP
    """
    given = _given(context)
    if context.invoked_subcommand is not None:
        if given:
            command = context.invoked_subcommand
            raise SettingsError(
                f"options before `{command}` are those of a search, and it makes none",
                f"write its own options after it: ndt sweep {command} --help",
            )
        return
    if resume is not None and given - set(_WITH_RESUME):
        raise SettingsError(
            "--resume continues in the sweep's own folder with its own settings",
            "leave out everything but --members, --time-budget and where members train",
        )
    for option in ("ray_address", "cpus_per_worker", "gpus_per_worker"):
        if option in given and backend != "ray":
            raise SettingsError(f"`{option}` is for sweeps on Ray", "add --backend ray")
    if backend == "ray" and "jobs" in given:
        raise SettingsError("--jobs is for this machine alone", "leave out --jobs, or --backend")
    if resume is None:
        changes = with_data(overrides, data)
        changes = with_flag(changes, "--choose-by", "train.choose_by", choose_by)
        if start is not None:
            name, settings = "", settings_from(start, config, changes)
        else:
            name, settings = chosen_settings(config, changes)

    from ndt_cli.engine.run_folder import default_path
    from ndt_cli.search.folder import SweepFolder
    from ndt_cli.search.loop import resume_sweep
    from ndt_cli.search.loop import sweep as run_sweep
    from ndt_cli.search.space import default_space, find_space

    if resume is not None:
        settings = SweepFolder.open(resume).settings
    else:
        found = find_space(space or default_space(settings, name))
        note(f"space: {found.name}, {len(found.draws)} settings drawn")
        drawn = [key for key in found.draws if any(c.startswith(f"{key}=") for c in changes)]
        if drawn:
            note(
                f"drawn for every member, whatever is set: {', '.join(drawn)}; to keep what is set,"
            )
            own = f"ndt sweep spaces {typed(found.name)} > mine.toml"
            note(f"leave it out of a space of your own: {own}")
        out = out or default_path(f"sweep-{_data_name(settings)}")
    executor = _executor(jobs, backend, ray_address, cpus_per_worker, gpus_per_worker)
    with ExitStack() as open_:
        open_.enter_context(run_warnings_shown())
        stop = open_.enter_context(stop_request())
        sweep_name = Path(resume or out or "sweep").absolute().name
        watching = open_.enter_context(_watching(executor, logger, sweep_name))
        how: dict[str, Any] = {
            "time_budget": time_budget,
            "executor": executor,
            "watching": watching,
            "should_stop": stop,
        }
        if resume is not None:
            more = n_members if "n_members" in given else None
            done = resume_sweep(resume, n_members=more, **how)
        else:
            done = run_sweep(
                settings,
                found,
                n_members=n_members,
                seed=seed,
                n_seeds=n_seeds,
                sampler=sampler,
                pruner=pruner,
                grace_epochs=grace_epochs,
                pbt_interval=pbt_interval,
                default_run=default_run,
                out=out,
                **how,
            )
    if done.interrupted or done.out_of_time:
        words = "Stopped and saved" if done.interrupted else "The time is up; all is saved"
        place = _as_typed(context, given & set(_PLACE))
        again = f"ndt sweep --resume {typed(done.results.path)}{place}"
        note(f"{words}. Resume with: {again}")
    if done.interrupted:
        raise typer.Exit(130)
    show_results(done.results, as_json)


def _given(context: typer.Context) -> set[str]:
    """Return the names of the options that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {n for n, source in sources.items() if source and source.name == "COMMANDLINE"}


def _as_typed(context: typer.Context, names: set[str]) -> str:
    """Return options as they were given, each after a space."""
    words = []
    for name in _PLACE:
        if name in names:
            words.append(f" --{name.replace('_', '-')} {context.params[name]}")
    return "".join(words)


def _data_name(settings: Any) -> str:
    files = settings.data.files or [settings.data.file]
    return "+".join(Path(file).stem if file else settings.data.synthetic for file in files)


def _executor(
    jobs: int,
    backend: str,
    ray_address: str | None,
    cpus_per_worker: int | None,
    gpus_per_worker: float | None,
) -> "Executor":
    from ndt_cli.engine.executors import InTurn, Processes, RayTasks

    if backend == "local":
        return InTurn() if jobs == 1 else Processes(jobs)
    return RayTasks(ray_address, cpus_per_worker, gpus_per_worker)


@contextmanager
def _watching(executor: "Executor", logger: str | None, sweep_name: str) -> "Iterator[Watching]":
    """Show the progress of a sweep, of one member at a time or of several."""
    from ndt_cli.commands.progress import (
        MembersProgress,
        TrainingProgress,
        tell_member,
        tell_moves,
    )
    from ndt_cli.engine.executors import InTurn
    from ndt_cli.engine.trackers import find_logger
    from ndt_cli.search.loop import Watching

    loggers = [find_logger(logger, sweep_name)] if logger else []
    common: dict[str, Any] = {"ended": tell_member, "moves": tell_moves, "loggers": loggers}
    if isinstance(executor, InTurn):
        with TrainingProgress(notes_once=True) as training:
            yield Watching(training=training, **common)
    else:
        # Ray prints what it has to say of a dead worker.
        with redirect_stdout(sys.stderr), MembersProgress() as epochs:
            yield Watching(epochs=epochs, **common)
