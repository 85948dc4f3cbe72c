"""Stopping members that do worse than others after as many epochs, with Ray Tune's ASHA."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from ndt_cli.search.folder import SweepFolder
from ndt_cli.search.member import Member
from ndt_cli.search.ray_options import REDUCTION
from ndt_cli.search.ray_rungs import Rung, read_rungs
from ndt_cli.search.ray_worker import EPOCH, SCORE
from ndt_cli.search.scoring import lower_is_better


def asha(folder: SweepFolder, pending: Sequence[Member], rungs: Sequence[int]) -> Any:
    """Return an ASHA scheduler that knows what the members that have ended scored at each rung.

    Parameters
    ----------
    folder : SweepFolder
        The sweep.
    pending : sequence of Member
        Members that are still to be trained; they report for themselves.
    rungs : sequence of int
        Epochs after which members are compared, from `ndt_cli.search.ray_options.rung_epochs`.
    """
    train = folder.settings.train
    scheduler: Any = ASHAScheduler(
        time_attr=EPOCH,
        metric=SCORE,
        mode="min" if lower_is_better(train.choose_by) else "max",
        max_t=train.max_epochs,
        grace_period=rungs[0],
        reduction_factor=REDUCTION,
    )
    indices = {member.index for member in pending}
    for member in folder.members():
        if member.index not in indices:
            # A scheduler asks no more of a trial than its name.
            trial = SimpleNamespace(trial_id=f"ended-{member.index}")
            scheduler.on_trial_add(None, trial)
            for rung in read_rungs(member.folder):
                scheduler.on_trial_result(None, trial, {EPOCH: rung.epoch, SCORE: rung.score})
    return scheduler


def reason(rung: Rung, choose_by: str) -> str:
    """Say why a member was stopped at a rung."""
    return (
        f"{choose_by} {rung.score:.4f} after {rung.epoch} epochs, not among the best 1 in "
        f"{REDUCTION} of those that came there"
    )
