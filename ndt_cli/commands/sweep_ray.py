"""The options of ``ndt sweep`` for training on a Ray cluster."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndt_cli.commands.console import log
from ndt_cli.errors import SettingsError

if TYPE_CHECKING:
    from ndt_cli.search.ray_options import RayOptions
    from ndt_cli.search.space import Space
    from ndt_cli.settings.tree import Settings

_PANEL = "On a Ray cluster (--backend ray)"
_CHOICES = {
    "--backend": ("local", "ray"),
    "--scheduler": ("none", "asha"),
    "--searcher": ("random", "optuna"),
}

BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="local|ray",
        help="local: one member after another, here. ray: several at a time, here or on a cluster "
        "whose machines share the sweep's folder under the same path.",
        show_default="local",
        rich_help_panel=_PANEL,
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="HOST:PORT|auto",
        help="A running cluster; auto: this machine's.",
        show_default="RAY_ADDRESS, else started here for the sweep",
        rich_help_panel=_PANEL,
    ),
]
CpusOption = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-worker",
        min=1,
        help="CPUs of a worker process, and its threads.",
        show_default="train.n_threads, or 1",
        rich_help_panel=_PANEL,
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0,
        help="GPUs of a worker; 0.25: four share one.",
        show_default="1 where there are any",
        rich_help_panel=_PANEL,
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="none|asha",
        help="asha: stop members that do worse than others after as many epochs.",
        show_default="none",
        rich_help_panel=_PANEL,
    ),
]
GraceOption = Annotated[
    int | None,
    typer.Option(
        "--grace-epochs",
        min=1,
        help="Epochs before asha first compares; it does again after 3, 9, ... times as many.",
        show_default="max_epochs / 27, or the warm-up",
        rich_help_panel=_PANEL,
    ),
]
SearcherOption = Annotated[
    str | None,
    typer.Option(
        "--searcher",
        metavar="random|optuna",
        help="optuna: ten members at random, then values by what the earlier ones scored (TPE).",
        show_default="random",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class RayFlags:
    """What was given on the command line, None where nothing was."""

    backend: str | None
    ray_address: str | None
    cpus_per_worker: int | None
    gpus_per_worker: float | None
    scheduler: str | None
    grace_epochs: int | None
    searcher: str | None

    def options(self) -> "RayOptions | None":
        """Return how to use Ray; None without ``--backend ray``.

        Raises
        ------
        MissingExtraError
            When Ray is asked for and not installed.
        SettingsError
            When an option has a value that it does not take, or goes without Ray.
        """
        from ndt_cli.search.ray_options import RayOptions, require_ray

        self._check()
        if self.backend != "ray":
            return None
        require_ray()
        return RayOptions(
            address=self.ray_address,
            cpus_per_worker=self.cpus_per_worker,
            gpus_per_worker=self.gpus_per_worker,
            scheduler="asha" if self.scheduler == "asha" else "none",
            searcher="optuna" if self.searcher == "optuna" else "random",
            grace_epochs=self.grace_epochs,
        )

    def as_words(self) -> str:
        """Return the options as they are written on the command line, each with a space before."""
        return "".join(f" {flag} {value}" for flag, value in self._given().items())

    def _given(self) -> dict[str, Any]:
        return {
            f"--{name.replace('_', '-')}": value
            for name, value in vars(self).items()
            if value is not None
        }

    def _check(self) -> None:
        given = self._given()
        for flag, known in _CHOICES.items():
            if given.get(flag, known[0]) not in known:
                also = (
                    "; population-based training is asked for by --pbt-interval"
                    if given[flag] == "pbt"
                    else ""
                )
                raise SettingsError(f"{flag} {given[flag]}: it takes {' or '.join(known)}{also}")
        if self.backend != "ray" and given.keys() - {"--backend"}:
            flag = next(iter(given.keys() - {"--backend"}))
            raise SettingsError(f"{flag} is for sweeps on Ray", "add --backend ray")
        if self.grace_epochs is not None and self.scheduler != "asha":
            raise SettingsError("--grace-epochs is for --scheduler asha", "add it, or leave both")


@contextmanager
def training_on_ray(
    options: "RayOptions",
    settings: "Settings",
    space: "Space",
    should_stop: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """Connect to Ray; give what `ndt_cli.search.sweep.sweep` takes to train there, and show it."""
    from ndt_cli.commands.ray_progress import RayProgress
    from ndt_cli.search.ray_trainer import ray_trainer

    progress = RayProgress()
    with (
        redirect_stdout(sys.stderr),  # Ray prints what it has to say of a dead worker
        ray_trainer(options, settings, space, progress) as (trainer, share),
        progress,
    ):
        gpus = f" and {share.gpus:g} GPUs" if share.gpus else ""
        log.print(
            f"Ray: up to {share.n_workers} workers at a time on {share.n_machines} machine(s), "
            f"each with {share.cpus} CPU(s){gpus}",
            highlight=False,
        )
        yield {"trainer": trainer, "tell": progress.member_ended, "should_stop": should_stop}
