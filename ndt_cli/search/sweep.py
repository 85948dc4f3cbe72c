"""A sweep: members drawn from a space, trained, measured and ranked."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ndt_cli.data.loading import load_recording
from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.device import choose_compute, cpu_threads
from ndt_cli.engine.distributed import Ranks
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.preflight import check_same_data, check_trainable
from ndt_cli.engine.run_folder import RunFolder, default_path, hold_run
from ndt_cli.engine.tensorboard import require_tensorboard
from ndt_cli.engine.trainer import ignore
from ndt_cli.engine.training import for_trials
from ndt_cli.errors import SettingsError
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.in_turn import train_in_turn
from ndt_cli.search.member import Member, MemberTrainer, Outcome, StopRequest
from ndt_cli.search.results import MemberResult, SweepResults
from ndt_cli.search.scoring import Scores, mean_rate_scores, run_scores
from ndt_cli.search.space import Space
from ndt_cli.settings.tree import Settings

# Told of each member that has ended, and of all results so far.
MemberWatcher = Callable[[MemberResult, SweepResults], None]


@dataclass(frozen=True)
class SweepRun:
    """What `sweep` returns.

    Attributes
    ----------
    results : SweepResults
        Every member, ranked.
    interrupted : bool
        True when it was asked to stop before the last member had ended.
    """

    results: SweepResults
    interrupted: bool


def sweep(
    settings: Settings,
    space: Space,
    *,
    n_members: int = 20,
    seed: int = 0,
    out: Path | str | None = None,
    recording: Recording | None = None,
    trainer: MemberTrainer = train_in_turn,
    watch: Watcher = ignore,
    tell: MemberWatcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> SweepRun:
    """Search at random: train models whose settings are drawn from a space, and rank them.

    Parameters
    ----------
    settings : Settings
        What the members share. ``train.choose_by`` ranks them; ``train.seed`` is the seed of
        member 0, and each further member takes the next.
    space : Space
        What is drawn (`ndt_cli.search.find_space.find_space`).
    n_members : int
        How many.
    seed : int
        Seed of the draws.
    out : Path or str, optional
        A new folder. Default: ``runs/sweep-<data>-<time>``.
    recording : Recording, optional
        Data in memory; otherwise what ``settings.data`` names is loaded, once.
    trainer : callable
        What trains the members (`ndt_cli.search.member.MemberTrainer`).
    watch, tell : callable, optional
        Told of the training, and of each member that has ended.
    should_stop : callable
        Once it is true, what is under way is saved and the sweep returns.

    Returns
    -------
    SweepRun

    Raises
    ------
    SettingsError
        When the settings refuse a value drawn for some member; nothing is trained then.
    DataError, DeviceError, MissingExtraError, RunError
        Before anything is written, when the data, the device, what is installed or the folder
        will not do.

    Examples
    --------
    >>> from ndt_cli import find_space, load_settings
    >>> settings = load_settings("lorenz-quick", ["data.file=spikes.npz", "train.max_epochs=5"])
    >>> results = sweep(settings, find_space("generic"), n_members=2, out="runs/new").results
    >>> [member.status for member in results.ranked]
    ['finished', 'finished']
    >>> list(results.ranked[0].scores)
    ['masked-loss', 'unmasked-loss']
    """
    _refuse_several_processes()
    # Wherever members train, they are measured here.
    choose_compute(settings.train)
    if settings.train.tensorboard:
        require_tensorboard()
    recording = recording or load_recording(settings.data)
    settings = for_trials(settings, recording.train)
    name = f"sweep-{Path(recording.source).stem}"
    path = Path(out) if out is not None else default_path(name)
    folder = SweepFolder(path, settings, space, n_members, seed)
    folder.members()
    check_trainable(recording, settings)
    folder.create()
    with hold_run(folder.path):
        return _go_on(folder, recording, trainer, watch, tell, should_stop)


def resume_sweep(
    path: Path | str,
    *,
    n_members: int | None = None,
    recording: Recording | None = None,
    trainer: MemberTrainer = train_in_turn,
    watch: Watcher = ignore,
    tell: MemberWatcher | None = None,
    should_stop: StopRequest = lambda: False,
) -> SweepRun:
    """Go on with a sweep that was stopped, as if it had never been.

    Members that have ended are kept. One that was being trained goes on exactly from its last
    checkpoint, or is trained anew where it has none.

    Parameters
    ----------
    path : Path or str
        The sweep's folder.
    n_members : int, optional
        More members than before.
    recording, trainer, watch, tell, should_stop
        As in `sweep`.

    Raises
    ------
    SettingsError
        When fewer members are asked for than there are.
    RunError
        When it is no sweep, or the data have changed.

    Examples
    --------
    >>> results = resume_sweep("runs/sweep", n_members=3).results
    >>> len(results.members), results.to_do
    (3, [])
    """
    _refuse_several_processes()
    folder = SweepFolder.open(Path(path))
    if n_members is not None and n_members < folder.n_members:
        raise SettingsError(
            f"--members {n_members}: {path} has {folder.n_members} members, and none is dropped",
            "leave out --members, or ask for more",
        )
    if n_members is not None and n_members > folder.n_members:
        folder = replace(folder, n_members=n_members)
        folder.members()
        folder.write_plan()
    recording = recording or load_recording(folder.settings.data)
    with hold_run(folder.path):
        return _go_on(folder, recording, trainer, watch, tell, should_stop)


def _go_on(
    folder: SweepFolder,
    recording: Recording,
    trainer: MemberTrainer,
    watch: Watcher,
    tell: MemberWatcher | None,
    should_stop: StopRequest,
) -> SweepRun:
    members = folder.members()
    results = replace(folder.results(), mean_rate=mean_rate_scores(recording))
    for member in members:
        if (member.folder / "run.json").is_file():  # members of one sweep share their data
            check_same_data(RunFolder(member.folder), recording)
    pending = [members[i] for i in results.to_do]
    for member in pending:
        member.drop_false_start()
    for outcome in trainer(pending, recording, watch, should_stop):
        if outcome.status == "interrupted":
            continue
        ended = _measured(folder, members[outcome.index], outcome, recording)
        row = tuple(ended if m.index == ended.index else m for m in results.members)
        results = replace(results, members=row)
        folder.write_results(results)
        if tell is not None:
            tell(ended, results)
    folder.write_results(results)
    return SweepRun(folder.results(), bool(results.to_do))


def _measured(
    folder: SweepFolder, member: Member, outcome: Outcome, recording: Recording
) -> MemberResult:
    chosen = f"best-{member.settings.train.choose_by}"
    best_epoch = outcome.best[chosen][1] if chosen in outcome.best else None
    scores: Scores = {}
    if RunFolder(member.folder).checkpoint(chosen).is_file():
        with cpu_threads(folder.settings.train.n_threads):
            scores = run_scores(member.folder, recording.valid, folder.settings)
    return MemberResult(
        index=member.index,
        folder=member.folder,
        drawn=folder.drawn(member.index),
        status=outcome.status,
        scores=scores,
        best_epoch=best_epoch,
        epochs=outcome.epochs,
        seconds=outcome.seconds,
        message=outcome.message,
    )


def _refuse_several_processes() -> None:
    n_processes = Ranks.from_environment().world_size
    if n_processes > 1:
        raise SettingsError(
            f"a sweep runs in one process, and torchrun started {n_processes}",
            "start it without torchrun: ndt sweep ...",
        )
