"""Training the members of a sweep on a Ray cluster, several at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.events import Watcher
from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.member import Member, MemberTrainer, Outcome, StopRequest
from ndt_cli.search.ray_asha import asha
from ndt_cli.search.ray_cluster import Share, connected
from ndt_cli.search.ray_options import RayOptions, require_ray, rung_epochs
from ndt_cli.search.ray_searchers import ChosenMembers, MembersInOrder
from ndt_cli.search.ray_tuning import StandingWatcher, Tuning
from ndt_cli.search.ray_worker import Job
from ndt_cli.search.space import Space
from ndt_cli.settings.tree import Settings


@contextmanager
def ray_trainer(
    options: RayOptions,
    settings: Settings,
    space: Space,
    tell: StandingWatcher = lambda standing: None,
) -> Iterator[tuple[MemberTrainer, Share]]:
    """Connect to Ray, and give what trains members there and what each worker gets of it.

    The recording goes to each machine once. The machines must share the sweep's folder, under the
    same path.

    Parameters
    ----------
    options : RayOptions
        Where and how.
    settings : Settings
        The sweep's.
    space : Space
        The sweep's.
    tell : callable, optional
        Told about twice a second how far the members are; what `MemberTrainer` calls a watcher is
        told nothing.

    Raises
    ------
    MissingExtraError
        When Ray is not installed.
    SettingsError, DeviceError, RunError
        When the options do not go together, the cluster cannot be reached, or no machine of it
        has what a worker needs.

    Examples
    --------
    >>> with ray_trainer(RayOptions(), settings, space) as (trainer, share):  # doctest: +SKIP
    ...     sweep(settings, space, trainer=trainer)
    """
    require_ray()
    rungs = rung_epochs(options, settings, space)
    with connected(options, settings) as share:

        def train(
            members: Sequence[Member],
            recording: Recording,
            watch: Watcher,
            should_stop: StopRequest,
        ) -> Iterator[Outcome]:
            del watch
            if not members:
                return
            folder = SweepFolder.open(members[0].folder.parents[1])
            job = Job(settings, share.cpus, rungs, scored=options.searcher == "optuna")
            scheduler = asha(folder, members, rungs) if rungs else None
            tuning = Tuning(folder, job, share, tell)
            if options.searcher == "optuna":
                searcher: MembersInOrder = ChosenMembers(folder, members, tuning.is_stopping)
            else:
                searcher = MembersInOrder(members, tuning.is_stopping)
            yield from tuning.outcomes(searcher, scheduler, recording, should_stop)

        yield train, share
