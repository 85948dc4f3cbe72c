"""Members of a sweep, and what trains them."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ndt_cli.data.spike_data import Recording
from ndt_cli.engine.events import Watcher
from ndt_cli.engine.trainer import Stopped
from ndt_cli.settings.tree import Settings

Status = Stopped | Literal["stopped", "diverged"]
"""How a member ended; stopped: by a scheduler."""

StopRequest = Callable[[], bool]


@dataclass(frozen=True)
class Member:
    """One model of a sweep, to be trained.

    Parameters
    ----------
    index : int
        Its number, from 0.
    settings : Settings
        All of its settings, those that were drawn included.
    folder : Path
        Its run folder. It is there already when its training was interrupted, with a last
        checkpoint to go on from.
    until_epoch : int, optional
        Train for so many epochs now, and let it be interrupted then.
    """

    index: int
    settings: Settings
    folder: Path
    until_epoch: int | None = None

    @property
    def has_begun(self) -> bool:
        """True where there is a checkpoint to go on from."""
        return (self.folder / "checkpoints" / "last.safetensors").is_file()

    def drop_false_start(self) -> None:
        """Remove what a kill before the first checkpoint left: there is nothing to go on from.

        Training takes no folder that is there. It trains anew to the same numbers.
        """
        if self.folder.exists() and not self.has_begun:
            shutil.rmtree(self.folder)


@dataclass(frozen=True)
class Outcome:
    """How the training of a member ended.

    Parameters
    ----------
    index : int
        Number of the member.
    status : {"finished", "early", "stopped", "diverged", "interrupted"}
        ``"early"``: no improvement for ``train.patience_epochs``. ``"stopped"``: worse than other
        members after as many epochs. ``"diverged"``: loss or gradient not finite.
        ``"interrupted"``: asked to stop; it can go on.
    best : dict of str to (float, int)
        By checkpoint name: best value while training, and the epochs done when it came.
    epochs : int
        Epochs that are complete.
    seconds : float
        Time spent training, over all resumptions.
    message : str
        Why, for a member that diverged or was stopped.
    """

    index: int
    status: Status
    best: dict[str, tuple[float, int]]
    epochs: int
    seconds: float
    message: str = ""


class MemberTrainer(Protocol):
    """Trains members, here or elsewhere.

    It yields the outcome of each as it ends, in any order; each member leaves an ordinary run
    folder. Asked to stop, it saves what is under way and ends.
    """

    def __call__(
        self,
        members: Sequence[Member],
        recording: Recording,
        watch: Watcher,
        should_stop: StopRequest,
    ) -> Iterator[Outcome]: ...
